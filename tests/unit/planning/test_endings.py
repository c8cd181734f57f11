"""How a claim ends: nothing that was observed since it was taken is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from indexer.claims import (
    Fetched,
    ended,
    failed,
    given_back,
    hidden,
    missing,
    purged,
    purging,
    released,
    resumed,
    retry_delay_s,
)
from indexer.delays import throttle_s
from indexer.errors import Check, InvalidUpstream
from indexer.model import AccountStatus, Priority, RepoState, Wanted, account_status
from indexer.planning import (
    AccountSeen,
    CommitSeen,
    IdentitySeen,
    Outcome,
    Policy,
    Repo,
    SyncSeen,
    plan,
    plan_buffered,
)

DID = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
NOW = 1_800_000_000.0
POLICY = Policy(identity_refresh_s=60.0)
ALL_WORK = Wanted.IDENTITY | Wanted.ACCOUNT | Wanted.CONTENT


def repo(state: RepoState = RepoState.ACTIVE, **fields: object) -> Repo:
    base = Repo(
        id=1, did=DID, state=state, signing_key="key", rev="r1", data="d1", scope_id="s",
        identity_at=NOW - 600.0, account_at=NOW - 600.0,
    )  # fmt: skip
    return replace(base, **fields)


def claimed(state: RepoState = RepoState.RESYNCING, **fields: object) -> Repo:
    return repo(state, **({"claimed": ALL_WORK, "claim": 1} | fields))


def commit(rev: str, since: str, **fields: object) -> CommitSeen:
    base = {
        "did": DID, "seq": 1, "rev": rev, "since": since, "frame": b"", "data": f"d-{rev}",
        "prev_data": "d1", "signing_key": "key",
    }  # fmt: skip
    return CommitSeen(**(base | fields))


def account(*, active: bool, time: float = NOW, status: str | None = None) -> AccountSeen:
    return AccountSeen(did=DID, seq=1, time=time, active=active, status=status)


def seen(event: object, row: Repo) -> Repo:
    changed = plan(event, row, POLICY, now=NOW).repo
    assert changed is not None
    return changed


def test_a_return_that_is_heard_while_the_host_is_asked_outweighs_its_answer():
    row = claimed(account_status=AccountStatus.DEACTIVATED)
    row = hidden(seen(account(active=True), row), AccountStatus.DEACTIVATED, now=NOW)
    assert row.account_status is AccountStatus.ACTIVE
    assert row.wanted & Wanted.ACCOUNT and not row.claimed


def test_a_deactivation_that_is_heard_while_the_host_is_asked_stays():
    row = seen(account(active=False, status="takendown"), claimed())
    row = released(resumed(row, None, is_confirmed=True, now=NOW), look_again_at=None, now=NOW)
    assert row.account_status is AccountStatus.TAKENDOWN and row.wanted & Wanted.ACCOUNT


def test_a_return_during_the_purge_is_not_swallowed_by_it():
    row = purging(claimed(account_status=AccountStatus.DELETED), "gone")
    assert (row.state, row.rev, row.scope_id) == (RepoState.DELETED, None, None)
    row = purged(seen(account(active=True), row), now=NOW)
    assert row.account_status is AccountStatus.ACTIVE
    assert row.wanted == Wanted.ACCOUNT | Wanted.CONTENT and not row.claimed


def test_the_hosts_word_outranks_the_event_it_was_asked_about():
    event = account(active=False, status="deactivated")
    row = seen(event, claimed(RepoState.ACTIVE, claimed=Wanted.NOTHING))
    row = replace(row, claimed=row.wanted, wanted=Wanted.NOTHING)
    row = resumed(row, None, is_confirmed=True, now=NOW)
    assert row.account_status is AccountStatus.ACTIVE
    assert plan(event, row, POLICY, now=NOW).outcome is Outcome.REPLAYED


def test_a_terminal_state_keeps_what_came_since_the_claim():
    row = ended(claimed(wanted=Wanted.CONTENT), RepoState.INVALID, "broken", host_rev="r9", now=NOW)
    assert (row.wanted, row.claimed, row.attempts) == (Wanted.CONTENT, Wanted.NOTHING, 1)


def test_a_failure_wants_the_same_work_again_and_later():
    row = failed(claimed(), "no answer", delay_s=60.0, now=NOW)
    assert (row.state, row.wanted, row.retry_at) == (RepoState.ERROR, ALL_WORK, NOW + 60.0)


def test_a_failure_is_made_up_for_at_once_when_the_account_has_changed_meanwhile():
    row = seen(IdentitySeen(did=DID, seq=1, time=NOW), claimed())
    assert failed(row, "no answer", delay_s=3600.0, now=NOW).retry_at == NOW


def test_a_claim_that_is_given_back_leaves_its_work():
    row = given_back(claimed())
    assert (row.state, row.wanted, row.claimed) == (
        RepoState.DESYNCHRONIZED, ALL_WORK, Wanted.NOTHING,
    )  # fmt: skip


def test_an_unknown_did_hides_nothing_before_it_is_unknown_again():
    first = missing(claimed(), "DID not found", is_hiding=False, now=NOW)
    assert first.account_status is AccountStatus.ACTIVE and first.retry_at == NOW + 3600.0
    again = replace(first, claimed=first.wanted, wanted=Wanted.NOTHING)
    early = missing(again, "DID not found", is_hiding=False, now=NOW + 3599.0)
    assert (early.wanted, early.claimed) == (first.wanted, Wanted.NOTHING)
    assert (early.account_status, early.retry_at) == (AccountStatus.ACTIVE, first.retry_at)
    second = missing(again, "DID not found", is_hiding=False, now=NOW + 3600.0)
    assert second.account_status is AccountStatus.DELETED


def test_a_did_that_stays_unknown_is_looked_for_at_longer_and_longer_intervals():
    row, now, waits = claimed(), NOW, []
    for _ in range(20):
        row = missing(row, "DID not found", is_hiding=False, now=now)
        waits.append(row.retry_at - now)
        now = row.retry_at
        row = replace(row, claimed=row.wanted, wanted=Wanted.NOTHING)
    assert waits == sorted(waits) and (waits[0], waits[-1]) == (3600.0, 86_400.0)


def test_a_new_did_that_nobody_knows_yet_is_looked_for_once_more():
    first = missing(claimed(rev=None), "DID not found", is_hiding=False, now=NOW)
    assert (first.wanted, first.retry_at) == (ALL_WORK, NOW + 60.0)
    again = replace(first, claimed=first.wanted, wanted=Wanted.NOTHING)
    second = missing(again, "DID not found", is_hiding=False, now=NOW + 60.0)
    assert second.wanted is Wanted.NOTHING


def test_a_missing_repo_is_revived_by_its_next_commit():
    gone = missing(claimed(rev=None), "repo not found", is_hiding=True, now=NOW)
    row = seen(commit("r2", "r1"), gone)
    assert (row.state, row.wanted) == (RepoState.DESYNCHRONIZED, ALL_WORK)


def test_an_invalid_repo_is_asked_for_later_each_time():
    row, waits = claimed(identity_at=0.0), []
    for _ in range(4):
        row = seen(
            commit("r2", "r1"), ended(row, RepoState.INVALID, "broken", host_rev="r1", now=NOW)
        )
        waits.append(row.retry_at - NOW)
        row = replace(row, claimed=row.wanted, wanted=Wanted.NOTHING)
    assert waits == [0.0, 60.0, 120.0, 240.0]


@pytest.mark.parametrize("is_sync", [False, True])
def test_an_invalid_repo_is_not_asked_for_at_the_rev_at_which_it_was_found_so(is_sync: bool):
    row = ended(claimed(rev=None), RepoState.INVALID, "broken", host_rev="r5", now=NOW)
    for rev, is_asked in (("r4", False), ("r5", False), ("r6", True), ("", True)):
        event = SyncSeen(did=DID, seq=1, rev=rev) if is_sync else commit(rev, "r1")
        assert bool(seen(event, row).wanted) is is_asked, rev


def test_a_document_resolved_just_after_an_event_may_be_older_than_what_that_announced():
    """The clocks of host and directory differ, and copies of the directory lag."""
    asked = repo(identity_at=NOW - 100.0)
    for before_s, is_stale in ((4.9, True), (5.1, False)):
        event = IdentitySeen(did=DID, seq=1, time=asked.identity_at - before_s)
        assert seen(event, asked).is_key_stale is is_stale


def test_a_mended_document_gives_an_invalid_repo_another_chance():
    row = seen(IdentitySeen(did=DID, seq=1, time=NOW), repo(RepoState.INVALID))
    assert row.wanted & Wanted.CONTENT


def test_a_hole_in_the_buffer_desynchronizes_once():
    row = repo()
    changes = []
    for n in range(5):
        changes.append(plan_buffered(commit(f"r{n + 5}", f"r{n + 4}"), row, now=NOW))
        row = changes[-1].repo
    assert [c.outcome for c in changes] == [Outcome.DESYNCHRONIZED, *[Outcome.IGNORED] * 4]


def test_no_buffered_commit_is_applied_to_half_merged_rows():
    row = claimed(scope_id=None)
    assert plan_buffered(commit("r2", "r1"), row, now=NOW).outcome is Outcome.IGNORED


def test_a_commit_during_the_fetch_of_a_hidden_account_waits_for_the_answer():
    row = claimed(account_status=AccountStatus.DEACTIVATED)
    assert plan(commit("r2", "r1"), row, POLICY, now=NOW).outcome is Outcome.BUFFERED


def test_a_commit_without_a_readable_rev_is_no_replay():
    event = commit("", "r1", error=InvalidUpstream(Check.FIELDS, "rev is not a TID"))
    assert plan(event, repo(), POLICY, now=NOW).outcome is Outcome.DESYNCHRONIZED


@pytest.mark.parametrize(
    ("since", "prev_data", "outcome"),
    [
        ("r1", "d1", Outcome.APPLIED),
        ("r0", "d1", Outcome.DESYNCHRONIZED),
        ("r1", "d0", Outcome.DESYNCHRONIZED),
        (None, None, Outcome.DESYNCHRONIZED),
    ],
)
def test_a_commit_is_applied_only_upon_the_commit_it_names(since, prev_data, outcome):
    event = commit("r2", since, prev_data=prev_data)
    assert plan(event, repo(), POLICY, now=NOW).outcome is outcome


def test_a_commit_proved_with_a_key_that_has_changed_since_waits():
    """It was verified outside of the transaction, with the key that the row had then."""
    change = plan(commit("r2", "r1", signing_key="former"), repo(), POLICY, now=NOW)
    assert change.outcome is Outcome.BUFFERED and not change.writes
    assert change.repo is not None and change.repo.wanted & Wanted.IDENTITY
    change = plan_buffered(commit("r2", "r1", signing_key="former"), repo(), now=NOW)
    assert change.failed_check is Check.SIGNATURE


def test_a_repo_that_keeps_breaking_its_chain_is_fetched_later_each_time():
    fetched = Fetched(rev="r5", data="d5", host_rev="r5", scope_id="s")
    row, now, waits = claimed(), NOW, []
    for _ in range(5):
        row = resumed(row, fetched, is_confirmed=True, now=now)
        row = released(row, look_again_at=None, now=now)
        broken = plan(commit("r9", "r8"), row, POLICY, now=now).repo
        assert broken is not None and broken.state is RepoState.DESYNCHRONIZED
        waits.append(broken.retry_at - now)
        now = broken.retry_at
        row = replace(
            broken, state=RepoState.RESYNCING, claimed=broken.wanted, wanted=Wanted.NOTHING
        )
    assert waits == [0.0, 60.0, 120.0, 240.0, 480.0]


def test_account_events_ask_without_holding_up_live_commits():
    row = seen(account(active=False, status="deactivated"), repo())
    assert row.wanted == Wanted.ACCOUNT and not row.is_key_stale


def test_a_document_is_asked_for_once_a_minute_whatever_is_heard():
    row = repo(identity_at=NOW - 1.0)
    row = seen(IdentitySeen(did=DID, seq=1, time=NOW), row)
    row = seen(account(active=False, status="deactivated"), row)
    assert row.retry_at == NOW + 59.0


def test_an_event_does_not_hurry_a_throttled_fetch():
    row = repo(RepoState.DESYNCHRONIZED, wanted=Wanted.CONTENT, retry_at=NOW + 86400.0)
    assert seen(IdentitySeen(did=DID, seq=1, time=NOW), row).retry_at == NOW + 86400.0


def test_an_account_event_older_than_the_applied_one_is_ignored():
    row = seen(account(active=False, time=NOW), repo())
    change = plan(account(active=True, time=NOW - 1.0), row, POLICY, now=NOW)
    assert change.outcome is Outcome.REPLAYED


def test_an_account_event_from_the_future_blocks_others_for_five_minutes_at_most():
    row = seen(account(active=False, time=NOW + 1e9), repo())
    assert row.account_at == NOW + 300.0


@pytest.mark.parametrize(
    ("active", "word", "expected"),
    [
        (True, "takendown", AccountStatus.ACTIVE),
        (False, "suspended", AccountStatus.SUSPENDED),
        (False, "active", AccountStatus.INACTIVE),
        (False, "throttled", AccountStatus.INACTIVE),
        (False, None, AccountStatus.INACTIVE),
    ],
)
def test_activity_decides_and_the_word_explains(active, word, expected):
    assert account_status(active=active, status=word) is expected


def test_a_released_repo_gives_up_its_urgency():
    row = released(claimed(priority=Priority.OPERATOR), look_again_at=None, now=NOW)
    assert (row.state, row.priority) == (RepoState.ACTIVE, Priority.DISCOVERY)


def test_a_snapshot_sets_both_revs_and_the_scope():
    fetched = Fetched(rev="r5", data="d5", host_rev="r5", scope_id="s2")
    row = resumed(claimed(), fetched, is_confirmed=True, now=NOW)
    assert (row.rev, row.data, row.host_rev, row.scope_id) == ("r5", "d5", "r5", "s2")


def test_a_hosts_rev_ahead_of_its_commit_counts_when_it_comes_with_it_again():
    """A copy that lagged serves another commit then; an imported repo is what it was."""
    fetched = Fetched(rev="r5", data="d5", host_rev="r7", scope_id="s2")
    row = resumed(claimed(), fetched, is_confirmed=True, now=NOW)
    assert row.host_rev is None
    assert resumed(row, fetched, is_confirmed=True, now=NOW).host_rev == "r7"
    later = replace(fetched, rev="r7", data="d7")
    assert resumed(row, later, is_confirmed=True, now=NOW).host_rev == "r7"


def test_a_hosts_latest_word_replaces_one_that_was_wrong():
    row = claimed(host_rev="z9")
    fetched = Fetched(rev="r5", data="d5", host_rev="r5", scope_id="s")
    assert resumed(row, fetched, is_confirmed=True, now=NOW).host_rev == "r5"


def test_a_commit_from_before_what_the_host_said_shows_it_wrong():
    row = repo(host_rev="z9")
    row = seen(commit("r2", "r1"), row)
    assert (row.state, row.rev, row.host_rev) == (RepoState.ACTIVE, "r2", None)
    row = repo(host_rev="r1x")
    assert seen(commit("r2", "r1"), row).host_rev == "r1x"


def test_waits_grow_and_end():
    assert [throttle_s(n) for n in (0, 1, 2, 3, 100)] == [0, 0, 60, 120, 86400]
    assert retry_delay_s(0, 0.0) == 60.0
    assert retry_delay_s(50, 0.999) < 5400.0
    assert retry_delay_s(0, 0.0, retry_after_s=300.0) == 300.0
    assert retry_delay_s(0, 0.0, retry_after_s=1e9) == 3600.0


@pytest.mark.parametrize("state", [RepoState.DESYNCHRONIZED, RepoState.ERROR])
def test_a_repo_found_current_for_its_account_alone_is_still_brought_back_to_active(
    state: RepoState,
):
    """Hidden while it was to be fetched, then active again at the same rev."""
    row = claimed(
        state,
        claimed=Wanted.IDENTITY | Wanted.ACCOUNT,
        account_status=AccountStatus.DEACTIVATED,
        retry_at=NOW + 60.0,
    )
    row = released(resumed(row, None, is_confirmed=True, now=NOW), look_again_at=None, now=NOW)
    assert row.is_visible
    assert row.wanted == Wanted.CONTENT
    assert row.retry_at == NOW

    row = replace(row, state=RepoState.RESYNCING, claimed=row.wanted, wanted=Wanted.NOTHING)
    row = released(resumed(row, None, is_confirmed=True, now=NOW), look_again_at=None, now=NOW)
    assert row.state is RepoState.ACTIVE


def test_a_hidden_repo_is_not_fetched_because_its_key_was_looked_up():
    row = claimed(
        RepoState.DESYNCHRONIZED,
        claimed=Wanted.IDENTITY,
        account_status=AccountStatus.DEACTIVATED,
    )
    assert released(row, look_again_at=None, now=NOW).wanted is Wanted.NOTHING


def test_a_purged_account_in_whose_name_somebody_goes_on_committing_is_looked_for_ever_more_rarely():
    row, waits = purging(claimed(identity_at=0.0, fetch_at=NOW + 500.0), "gone"), []
    for _ in range(4):
        row = purged(row, now=NOW)
        assert row.fetch_at == NOW + 500.0
        row = seen(commit("r2", "r1"), row)
        waits.append(row.retry_at - NOW)
        row = replace(row, claimed=row.wanted, wanted=Wanted.NOTHING)
    assert waits == [0.0, 60.0, 120.0, 240.0]


def test_a_claim_for_the_account_alone_leaves_a_repo_s_pause_and_failures_as_they_were():
    row = claimed(
        RepoState.ERROR, claimed=Wanted.ACCOUNT, fetch_at=NOW + 500.0, attempts=5, refusals=2
    )
    row = released(resumed(row, None, is_confirmed=True, now=NOW), look_again_at=None, now=NOW)
    assert (row.wanted, row.retry_at) == (Wanted.CONTENT, NOW + 500.0)
    assert (row.attempts, row.refusals) == (5, 2)
