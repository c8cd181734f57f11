"""Whatever happens in whatever order, an active repo has the rows of a signed commit."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import Check
from indexer.model import AccountStatus, RepoState
from indexer.planning import CommitSeen, Outcome
from tests.unit.planning.histories import EVIL, Host, Index, is_settled

PATHS = ("c/a", "c/b", "c/x", "c/y")
FORGERIES = (Check.SIGNATURE, Check.INVERSION, Check.NOT_INVERTIBLE)


class History:
    """One account, its host, the live path and a worker, a step at a time.

    A step that makes no sense where it stands does nothing.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.host = Host()
        self.index = Index(self.host)
        self.is_behind = False  # whether something was committed that no later event tells of
        self.index.see(self.host.commit({"c/a": "cid0"}))

    def take(self, step: str) -> None:
        getattr(self, step)()
        self.check()

    def writes(self) -> dict[str, str | None]:
        paths = self.rng.sample(PATHS, self.rng.randrange(4))
        return {path: self.rng.choice((None, "cid1", "cid2", "cid3")) for path in paths}

    # What happens to the account, heard by the index or not.

    def commit(self) -> None:
        if self.host.is_active:
            self.index.see(self.host.commit(self.writes()))
            self.is_behind = False

    def commit_unheard(self) -> None:
        if self.host.is_active:
            self.host.commit(self.writes())
            self.is_behind = True

    def sync(self) -> None:
        if self.host.is_active:
            self.index.see(self.host.sync())
            self.is_behind = False

    def forge(self) -> None:
        self.index.see(self.host.forge(self.rng.choice(FORGERIES)))

    def replay(self) -> None:
        for event in self.host.events[-self.rng.randrange(1, 7) :]:
            self.index.see(event)

    def rotate(self) -> None:
        self.index.see(self.host.rotate())

    def rotate_unheard(self) -> None:
        self.host.rotate()

    def activate(self) -> None:
        if not self.host.is_deleted:
            self.index.see(self.host.turn(active=True))

    def deactivate(self) -> None:
        if not self.host.is_deleted:
            self.index.see(self.host.turn(active=False))

    def lie(self) -> None:
        """An old host calls the account inactive; its own host does not."""
        if self.host.is_active:
            self.index.see(self.host.turn(active=False))
            self.host.is_active = True

    def delete(self) -> None:
        if not self.host.is_deleted:
            self.index.see(self.host.delete())

    def come_back(self) -> None:
        if self.host.is_deleted:
            self.host.is_deleted = False
            self.index.see(self.host.turn(active=True))

    def wait(self) -> None:
        self.host.time += 70.0

    # What a worker does.

    def claim(self) -> None:
        self.index.claim()

    def resolve(self) -> None:
        if self.is_claimed():
            self.index.resolve()

    def fetch(self) -> None:
        if self.is_claimed() and self.index.answer and self.host.is_active:
            self.index.is_merging or self.index.fetch()

    def merge_half(self) -> None:
        if self.is_claimed() and self.index.snapshot:
            self.index.merge_half()

    def end(self) -> None:
        if self.is_claimed() and self.index.answer:
            self.index.end()

    def fail(self) -> None:
        if self.is_claimed():
            self.index.break_off("unavailable")

    def refuse(self) -> None:
        if self.is_claimed():
            self.index.break_off("invalid")

    def work(self) -> None:
        """A whole attempt."""
        self.index.claim()
        self.resolve()
        self.fetch()
        self.end()

    def is_claimed(self) -> bool:
        return self.index.repo is not None and bool(self.index.repo.claimed)

    # What must hold at all times, and in the end.

    def check(self) -> None:
        index, repo = self.index, self.index.repo
        assert EVIL not in index.rows.values(), "something unverified is a row"
        if is_settled(index):
            assert repo is not None and repo.rev is not None
            assert index.rows == self.host.state_at(repo.rev), "rows of another commit"
            assert repo.data == f"root-{sorted(index.rows.items())}"
        if repo is not None:
            assert repo.state is not RepoState.RESYNCING or repo.claimed, "nobody resyncs it"

    def come_to_rest(self) -> None:
        """When it is quiet, and true events have come last, the index equals the host."""
        index, host = self.index, self.host
        self.fail()
        self.come_back()
        index.see(host.turn(active=True))
        index.see(host.rotate())
        index.work_off()
        assert self.is_behind or index.rows == host.rows, "what was announced is not there"
        index.see(host.commit({"c/last": "cid9"}))
        index.work_off()
        assert index.repo is not None
        assert index.repo.state is RepoState.ACTIVE, index.repo
        assert index.repo.account_status is AccountStatus.ACTIVE
        assert (index.repo.rev, index.buffer) == (host.rev, [])
        assert index.rows == host.rows

    def replay_everything(self) -> None:
        before = (self.index.repo, dict(self.index.rows))
        commits = [event for event in self.host.events if isinstance(event, CommitSeen)]
        true = [event for event in commits if event.error is None]
        assert {self.index.see(event).outcome for event in true} == {Outcome.REPLAYED}
        assert (self.index.repo, self.index.rows) == before


WEIGHTS = {
    "commit": 8, "commit_unheard": 1, "sync": 2, "forge": 1, "replay": 2, "rotate": 1,
    "rotate_unheard": 1, "activate": 2, "deactivate": 1, "lie": 1, "delete": 1, "come_back": 1,
    "wait": 3, "claim": 3, "resolve": 3, "fetch": 3, "merge_half": 2, "end": 3, "fail": 1,
    "refuse": 1, "work": 5,
}  # fmt: skip
STEPS = [name for name, weight in WEIGHTS.items() for _ in range(weight)]


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=60), seed=st.integers(0, 2**32))
def test_an_active_repo_has_the_rows_of_its_commit_and_all_repos_come_to_rest(
    steps: list[str], seed: int
):
    history = History(seed)
    for step in steps:
        history.take(step)
    history.come_to_rest()
    history.replay_everything()


def test_hundreds_of_seeded_histories_hold_what_hypothesis_found_true():
    for seed in range(500):
        rng = Random(seed)
        history = History(seed)
        taken: list[str] = []
        try:
            for _ in range(80):
                taken.append(rng.choice(STEPS))
                history.take(taken[-1])
            history.come_to_rest()
            history.replay_everything()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, after {taken}") from error
