"""How much one client may ask, and that remembering it takes a bounded place."""

from __future__ import annotations

import pytest

from admin_api.limits import CLIENTS_MAX, FAILURES_MAX, FailureLimit, Limited, RequestLimit
from tests.unit.admin.tokens import SteppedClock


def taken(limit: RequestLimit, client: str, most: int = 100) -> int:
    """How many requests of a client pass at once."""
    for number in range(most):
        try:
            limit.take(client)
        except Limited:
            return number
    return most


def test_a_client_that_was_quiet_may_ask_for_the_burst_and_then_at_the_rate():
    clock = SteppedClock()
    limit = RequestLimit(0.5, clock=clock, burst=4.0)
    assert (taken(limit, "a"), taken(limit, "a"), taken(limit, "b")) == (4, 0, 4)
    clock.at += 1.0
    with pytest.raises(Limited) as refused:
        limit.take("a")
    assert refused.value.retry_after_s == 1
    clock.at += 1.0
    assert taken(limit, "a") == 1
    clock.at += 1000.0
    assert taken(limit, "a") == 4


def test_of_the_clients_the_one_seen_longest_ago_is_forgotten():
    clock = SteppedClock()
    requests, failures = RequestLimit(1.0, clock=clock, burst=1.0), FailureLimit(clock=clock)
    for number in range(CLIENTS_MAX):
        requests.take(f"client {number}")
        failures.note(f"client {number}")
    for _ in range(FAILURES_MAX):
        failures.note("client 0")
    assert failures.note("client 0") is not None and taken(requests, "client 0") == 0
    for number in range(CLIENTS_MAX - 1):
        requests.take(f"other {number}")
        failures.note(f"other {number}")
    assert failures.note("client 0") is not None and taken(requests, "client 0") == 0
    assert taken(requests, "client 1") == 1, "it was remembered beyond the bound"
    assert len(requests._buckets) == len(failures._failures) == CLIENTS_MAX
