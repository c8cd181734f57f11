"""What a host's word on a repo means for a scan: a table of cases, and when to stop with lists."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.freshness import (
    SENT_DUE_S,
    STREAM_GRACE_S,
    VERIFIED,
    WAIT_S_MAX,
    Circumstances,
    Outcome,
    as_compared,
    heard,
    is_list_worthwhile,
    may_yet_come,
    sent,
    waited,
)
from indexer.listings import OUT_OF_BOUNDS, Listed
from indexer.model import AccountStatus, RepoState, Wanted
from indexer.planning import Repo
from indexer.protocol.commit import REV_AHEAD_S_MAX
from tests.devnet.clock import tid

NOW = 1_800_000_000.0
DID = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
SCOPE = "scope"


def rev(age_s: float) -> str:
    """A rev made so long ago."""
    return tid(int((NOW - age_s) * 1e6), 0)


OURS = Repo(
    id=1, did=DID, state=RepoState.ACTIVE, rev=rev(500.0), data="root", scope_id=SCOPE, claim=4
)
AT = Circumstances(scope_id=SCOPE, stream_at=NOW - 1.0, is_held=False, is_page=False, now=NOW)


def word(rev: str | None, status: AccountStatus | None = AccountStatus.ACTIVE) -> Listed:
    return Listed(DID, status, rev)


def test_an_equal_rev_is_all_that_is_asked_for():
    made = heard(OURS, word(OURS.rev), AT)
    assert (made.outcome, made.repo, made.wait) == (Outcome.CURRENT, OURS, None)
    # After an import the host's own rev differs from that of the commit.
    kept = replace(OURS, host_rev=rev(400.0))
    assert heard(kept, word(rev(400.0)), AT).outcome is Outcome.CURRENT


@pytest.mark.parametrize(
    "changed",
    [
        {"scope_id": "narrower"},
        {"scope_id": None},
        {"data": None},
        {"state": RepoState.DESYNCHRONIZED},
        {"account_status": AccountStatus.DEACTIVATED},
    ],
)
def test_an_equal_rev_proves_nothing_of_rows_that_are_incomplete_or_hidden(changed):
    made = heard(replace(OURS, **changed), word(OURS.rev), AT)
    assert made.outcome is None and made.wait is not None
    assert made.repo.wanted & Wanted.CONTENT


def test_what_the_stream_may_yet_bring_is_waited_for_and_then_fetched():
    made = heard(OURS, word(rev(2.0)), AT)
    assert (made.outcome, made.repo) == (None, OURS) and made.wait is not None
    come = replace(OURS, rev=rev(2.0))
    assert waited(come, made.wait, AT).outcome is Outcome.CURRENT
    assert waited(OURS, made.wait, AT).wait == made.wait
    passed = replace(AT, now=NOW + 60.0, stream_at=NOW + 59.0)
    lost = waited(OURS, made.wait, passed)
    assert lost.wait is not None and lost.wait.claim == OURS.claim
    assert lost.repo.wanted & Wanted.CONTENT


def test_a_lagging_stream_makes_no_storm_of_fetches():
    lagging = replace(AT, stream_at=NOW - 300.0)
    made = heard(OURS, word(rev(100.0)), lagging)
    assert (made.outcome, made.repo) == (Outcome.PUT_OFF, OURS)
    assert heard(OURS, word(rev(400.0)), lagging).wait is not None  # the stream has passed that
    assert Outcome.PUT_OFF not in VERIFIED


def test_while_the_scan_holds_the_stream_what_is_new_waits_for_its_end():
    held = replace(AT, is_held=True)
    made = heard(OURS, word(rev(2.0)), held)
    assert made.outcome is Outcome.PUT_OFF
    assert (made.repo.wanted & Wanted.CONTENT, made.repo.retry_at) == (
        Wanted.CONTENT, NOW + STREAM_GRACE_S
    )  # fmt: skip


def test_an_older_word_from_a_list_is_asked_for_again_and_believed_only_then():
    older = word(rev(900.0))
    on_page = heard(OURS, older, replace(AT, is_page=True))
    assert (on_page.outcome, on_page.wait, on_page.repo) == (None, None, OURS)
    assert heard(OURS, older, AT).wait is not None


def test_a_status_that_is_known_costs_nothing_and_another_is_looked_into():
    hidden = replace(OURS, account_status=AccountStatus.TAKENDOWN)
    assert heard(hidden, word(None, AccountStatus.TAKENDOWN), AT).outcome is Outcome.HIDDEN
    for status in (AccountStatus.DEACTIVATED, None):
        assert heard(OURS, word(None, status), AT).wait is not None
        gone = replace(OURS, state=RepoState.NOT_FOUND)
        assert heard(gone, word(None, status), AT).outcome is Outcome.NOT_FOUND


def test_a_refused_repo_is_tried_again_only_at_another_rev():
    refused = replace(OURS, state=RepoState.INVALID, host_rev=rev(50.0), scope_id=None)
    assert heard(refused, word(rev(50.0)), AT).outcome is Outcome.INVALID
    assert heard(refused, word(rev(40.0)), AT).wait is not None


@pytest.mark.parametrize("state", sorted(OUT_OF_BOUNDS))
def test_what_only_an_operator_ends_is_left_alone(state: RepoState):
    repo = replace(OURS, state=state)
    for made in (heard(repo, word(rev(1.0)), AT), sent(repo, NOW)):
        assert (made.outcome, made.repo, made.is_failed) == (Outcome(state), repo, False)


def test_an_attempt_is_waited_for_until_it_has_ended_and_its_row_says_how():
    made = sent(OURS, NOW)
    assert made.wait is not None and made.repo.retry_at == NOW + SENT_DUE_S
    claimed = replace(made.repo, claim=5, claimed=Wanted.CONTENT, wanted=Wanted.NOTHING)
    assert waited(claimed, made.wait, replace(AT, now=NOW + 1e4)).wait == made.wait
    fetched = replace(OURS, claim=5, rev=rev(0.0), synced_at=NOW + 1.0)
    assert waited(fetched, made.wait, AT).outcome is Outcome.FETCHED
    assert waited(replace(OURS, claim=5), made.wait, AT).outcome is Outcome.CURRENT
    later = replace(OURS, claim=5, wanted=Wanted.CONTENT, retry_at=NOW + 60.0)
    for state in (RepoState.ACTIVE, RepoState.DESYNCHRONIZED):
        waiting = waited(replace(later, state=state), made.wait, AT)
        assert (waiting.outcome, waiting.is_failed) == (Outcome.PUT_OFF, False)
    failed = waited(replace(later, attempts=1, reason="no answer"), made.wait, AT)
    assert (failed.outcome, failed.is_failed) == (Outcome.FAILED, True)
    # The attempt of somebody else that was under way counts.
    busy = sent(replace(OURS, claimed=Wanted.CONTENT), NOW)
    assert busy.wait is not None
    assert waited(OURS, busy.wait, AT).outcome is Outcome.CURRENT


def test_no_attempt_is_waited_for_for_ever():
    made = sent(OURS, NOW)
    assert made.wait is not None
    assert waited(made.repo, made.wait, AT).wait == made.wait
    late = replace(AT, now=NOW + WAIT_S_MAX)
    assert waited(made.repo, made.wait, late).outcome is Outcome.PUT_OFF


@pytest.mark.parametrize("state", list(RepoState))
@pytest.mark.parametrize("status", list(AccountStatus))
def test_every_row_ends_somehow(state: RepoState, status: AccountStatus):
    made = as_compared(replace(OURS, state=state, account_status=status), since=NOW)
    assert isinstance(made.outcome, Outcome)


@given(st.integers(0, 20_000), st.lists(st.integers(0, 1000), max_size=60))
def test_lists_cost_little_more_than_the_cheaper_way(tracked: int, on_pages: list[int]):
    """`on_pages`: how many of ours each page tells of."""
    pages = covered = 0
    while pages < len(on_pages) and is_list_worthwhile(
        tracked=tracked, pages=pages, covered=covered
    ):
        covered = min(covered + on_pages[pages], tracked)
        pages += 1
    requests = pages + tracked - covered
    assert requests <= tracked + tracked // 8 + 1


def test_a_list_of_ten_thousand_known_repos_is_read_to_its_end_and_no_further():
    pages = 0
    while is_list_worthwhile(tracked=10_000, pages=pages, covered=1000 * pages):
        pages += 1
    assert pages == 10


@pytest.mark.parametrize(
    ("host_rev", "stream_at", "may_come"),
    [
        (rev(10.0), NOW - 20.0, True),
        (rev(10.0), NOW - 10.0 + STREAM_GRACE_S - 1.0, True),
        (rev(10.0), NOW - 10.0 + STREAM_GRACE_S, False),
        (rev(-REV_AHEAD_S_MAX + 1.0), NOW, True),
        (rev(-REV_AHEAD_S_MAX), NOW, False),
        (rev(-86_400.0 * 365), NOW, False),  # else a host keeps its repos from being compared
        (rev(10.0), None, False),
        (None, NOW - 20.0, False),
        ("3zzzzzzzzzzzzzzz", NOW - 20.0, False),
    ],
)
def test_the_stream_is_waited_for_only_for_what_it_may_yet_bring(
    host_rev: str | None, stream_at: float | None, may_come: bool
):
    assert may_yet_come(host_rev, stream_at=stream_at, now=NOW) is may_come
