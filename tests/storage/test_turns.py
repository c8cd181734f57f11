"""Whose turn it is among hosts and groups of hosts: nobody waits for the many repos of another."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from functools import cache
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.lanes import Lane, Standing, doubt
from indexer.model import Wanted
from storage.schema import migrate
from storage.turns import claim_due, give_back_all, judge

NOW = 1_800_000_000.0
ALL = tuple(Standing)
AT_HOST_ONLY = Wanted.ACCOUNT | Wanted.CONTENT
IN_DOUBT = AT_HOST_ONLY | Wanted.IDENTITY

_INSERT = """
INSERT INTO repo (did, pds_url, host_group, state, account_status, account_at, identity_at, rev,
                  wanted, claimed, claim, priority, retry_at, attempts, desyncs, synced_at,
                  verified_at, tracked_since, updated_at)
VALUES (?, ?, ?, ?, 'active', 0, 0, ?, ?, 0, 0, ?, ?, 0, 0, 0, 0, '2026-11-25T00:00:00Z', '')
"""


@cache
def empty_store() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        return connection.serialize()


class Queue:
    """The queue of a store that holds nothing else."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.deserialize(empty_store())
        self.now = NOW
        self.repos = 0

    def add(
        self, host: str, *, is_new: bool, retry_at: float = 0.0, wanted: Wanted = AT_HOST_ONLY
    ) -> None:
        self.repos += 1
        state, rev, priority = ("pending", None, 2) if is_new else ("desynchronized", "3k", 1)
        self.connection.execute(
            _INSERT,
            (f"did:{self.repos}", f"https://{host}", host, state, rev, wanted, priority, retry_at),
        )

    def claim(self, lane: Lane, *, busy: tuple[str, ...] = ()) -> tuple[int, str] | None:
        """(number, host) of the next one; time goes on a little."""
        self.now += 0.001
        row = claim_due(self.connection, [lane], ALL, busy, now=self.now)
        return None if row is None else (row[0], row[-1].removeprefix("https://"))

    def claim_all(self, lane: Lane) -> list[tuple[int, str]]:
        return list(iter(lambda: self.claim(lane), None))

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


hosts = st.sampled_from("abcdef")
lanes = st.sampled_from([Lane.REPAIR, Lane.DISCOVERY])


@settings(max_examples=40, deadline=None)
@given(st.lists(hosts, min_size=1, max_size=40), lanes)
def test_hosts_take_turns_whatever_the_number_of_their_repos(owners: list[str], lane: Lane):
    """Between two turns of a host every other that still has a repo has one."""
    with Queue() as queue:
        left: dict[str, int] = defaultdict(int)
        for host in owners:
            queue.add(host, is_new=lane is Lane.DISCOVERY)
            left[host] += 1
        served = queue.claim_all(lane)
        assert sorted(host for _, host in served) == sorted(owners)
        turns: dict[str, list[int]] = defaultdict(list)
        for at, (_, host) in enumerate(served):
            turns[host].append(at)
        for host, mine in turns.items():
            for first, second in pairwise(mine):
                between = {other for _, other in served[first + 1 : second]}
                waiting = {o for o, its in turns.items() if o != host and its[-1] > second}
                assert waiting <= between


@settings(max_examples=40, deadline=None)
@given(st.lists(hosts, min_size=1, max_size=30))
def test_of_one_group_the_newest_is_served_first(owners: list[str]):
    with Queue() as queue:
        for host in owners:
            queue.add(host, is_new=True)
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, host in queue.claim_all(Lane.DISCOVERY):
            numbers[host].append(number)
        assert all(each == sorted(each, reverse=True) for each in numbers.values())


@settings(max_examples=40, deadline=None)
@given(st.lists(hosts, min_size=2, max_size=30), st.integers(1, 30))
def test_a_flood_at_one_group_gets_one_turn_in_each_round(owners: list[str], flood: int):
    """However often it adds more while the others wait."""
    with Queue() as queue:
        for host in owners:
            queue.add(host, is_new=True)
        others = set(owners)
        queue.add("flood", is_new=True)
        served = []
        while not others <= set(served):
            for _ in range(flood):
                queue.add("flood", is_new=True)
            found = queue.claim(Lane.DISCOVERY)
            assert found is not None
            served.append(found[1])
            assert served.count("flood") <= 1, served


def test_a_host_that_is_busy_or_left_alone_is_passed_over():
    with Queue() as queue:
        for host in "aab":
            queue.add(host, is_new=False)
        assert queue.claim(Lane.REPAIR, busy=("https://a",)) == (3, "b")
        judge(queue.connection, "https://a", Standing.FAILED, queue.now + 60)
        queue.add("a", is_new=False)  # what comes meanwhile does not hurry it
        assert queue.claim(Lane.REPAIR) is None
        queue.now += 61
        assert queue.claim(Lane.REPAIR) == (1, "a")


def test_a_repo_whose_identity_is_in_doubt_does_not_wait_for_its_host():
    """Nor for a busy one, nor for hosts of its standing, nor after a restart."""
    with Queue() as queue:
        queue.add("a", is_new=False)
        judge(queue.connection, "https://a", Standing.FAILED, queue.now + 3600)
        queue.add("a", is_new=False, wanted=IN_DOUBT)
        give_back_all(queue.connection)
        judge(queue.connection, "https://a", Standing.FAILED, queue.now + 3600)
        queue.add("a", is_new=False, wanted=IN_DOUBT)
        busy = ("https://a",)
        row = claim_due(queue.connection, [Lane.REPAIR], [Standing.IN_DOUBT], busy, now=queue.now)
        assert row is not None and row[0] == 2
        assert queue.claim(Lane.REPAIR, busy=(doubt("https://a"),)) is None
        assert queue.claim(Lane.REPAIR, busy=busy) == (3, "a")
        assert queue.claim(Lane.REPAIR) is None
        queue.now += 3601
        assert queue.claim(Lane.REPAIR) == (1, "a")


@settings(max_examples=40, deadline=None)
@given(st.lists(hosts, min_size=2, max_size=30), st.integers(1, 100))
def test_many_doubts_about_repos_of_one_host_do_not_hold_up_those_about_others(
    owners: list[str], flood: int
):
    with Queue() as queue:
        for _ in range(flood):
            queue.add("flood", is_new=False, wanted=IN_DOUBT)
        for host in owners:
            queue.add(host, is_new=False, wanted=IN_DOUBT)
        others = set(owners)
        first = [queue.claim(Lane.REPAIR) for _ in range(len(others) + 1)]
        assert {claimed[1] for claimed in first if claimed} == others | {"flood"}


def test_a_repo_that_is_not_due_waits_and_its_host_with_it():
    with Queue() as queue:
        queue.add("a", is_new=False, retry_at=NOW + 100)
        queue.add("b", is_new=False, retry_at=NOW + 50)
        assert queue.claim(Lane.REPAIR) is None
        queue.now = NOW + 60
        assert queue.claim(Lane.REPAIR) == (2, "b")
        assert queue.claim(Lane.REPAIR) is None
        queue.now = NOW + 101
        assert queue.claim(Lane.REPAIR) == (1, "a")


def test_what_was_never_fetched_never_stands_among_what_is_held():
    """Whatever priority an event has given it."""
    with Queue() as queue:
        queue.add("a", is_new=True)
        queue.connection.execute("UPDATE repo SET priority = 1")
        assert queue.claim(Lane.REPAIR) is None
        queue.connection.execute("UPDATE repo SET state = 'error'")
        assert queue.claim(Lane.REPAIR) is None
        assert queue.claim(Lane.DISCOVERY) is None
        assert queue.claim(Lane.LATER) == (1, "a")


def test_a_claim_costs_as_much_however_many_hosts_are_due_at_one_moment():
    with Queue() as queue:
        for number in range(3_000):
            queue.add(f"h{number}.example", is_new=False)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        queue.connection.set_progress_handler(count, 100)
        assert queue.claim(Lane.REPAIR) is not None
        assert steps < 20
