"""Attempts at a resync: ask a claimed repo's own host, bring in what differs, release it.

Each attempt resolves the DID document anew and talks only to the PDS that it names. Whatever goes
wrong ends in a state of the repo row, never in an exception of the caller: only faults of our own
store or code stop it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

import structlog

from indexer.claims import (
    GIVE_BACK_S,
    ROLLBACK_S,
    Claim,
    Ending,
    HostDenied,
    Identity,
    StaleClaim,
    ended,
    failed,
    given_back,
    hidden,
    missing,
    retry_delay_s,
    rolled_back,
)
from indexer.clock import Clock
from indexer.errors import (
    Check,
    ChiveIndexerError,
    DidGone,
    InvalidUpstream,
    LocalBusy,
    LocalFault,
    NotAsked,
    RepoLimited,
    RepoTooLarge,
    RepoWithdrawn,
    Unavailable,
    bug,
)
from indexer.freshness import STREAM_GRACE_S, may_yet_come
from indexer.ingest.attempts import TOO_MANY, RepoHosts, Result, Resync, Route, is_lasting
from indexer.ingest.merging import RepoMerge
from indexer.ingest.places import Admission, Seat
from indexer.ingest.reading import RepoReader
from indexer.ingest.verification import Verifier
from indexer.lanes import kept_waiting, left_alone
from indexer.metrics import Metrics
from indexer.model import AccountStatus, DeadLetterDraft, FetchMethod, RepoState, Wanted
from indexer.ports import Compared, RepoRows, WorkQueue, insist_on
from indexer.protocol.keys import VerifyingKey

log = structlog.get_logger(__name__)

LOOKS_MAX = 3
"""Answers about a repo that must be wrong in a row before it counts as invalid: a directory that
lags behind a key rotation looks the same at first. Looks that get no answer say nothing."""


def _wait(error: LocalBusy) -> None:
    log.warning("resync.store_busy", reason=str(error))


class Resyncer:
    """Runs attempts, for the workers and for operations."""

    def __init__(
        self,
        queue: WorkQueue,
        rows: RepoRows,
        hosts: RepoHosts,
        verifier: Verifier,
        *,
        clock: Clock,
        rng: random.Random,
        metrics: Metrics,
        stream_at: Callable[[], float | None],
        admission: Admission,
        turn: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._queue = queue
        self._admission = admission  # of repos that an operation finds
        self._rows = rows
        self._hosts = hosts
        self._verifier = verifier
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._stream_at = stream_at  # time of the newest applied live event, unix seconds
        self._bells: list[asyncio.Event] = []
        self._unreturned: set[Claim] = set()  # of attempts that were cancelled
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by DID
        self._merge = RepoMerge(
            rows,
            verifier,
            metrics=metrics,
            on_work=self.wake,
            turn=turn,
        )
        self._reader = RepoReader(hosts, rows, verifier.scope, clock=clock, metrics=metrics)
        for result in Result:
            for method in FetchMethod:
                metrics.resyncs.labels(result, method)

    def bell(self) -> asyncio.Event:
        """An event that is set whenever there may be something to claim."""
        bell = asyncio.Event()
        self._bells.append(bell)
        return bell

    def wake(self) -> None:
        """Something has been added to the queue."""
        for bell in self._bells:
            bell.set()

    async def sync_now(
        self,
        did: str,
        *,
        is_scheduled: bool = False,
        accepts_rollback: bool = False,
        on_compared: Compared | None = None,
    ) -> Resync:
        """One attempt for an operator, whatever state the repo is in.

        With `accepts_rollback` the host's state counts even where ours is newer. Where
        `is_scheduled`, nobody has asked: a repo that its host does not know is purged only when
        the answer is the same at a second look.
        """
        async with self._turn_at(did):
            claim = await self._queue.claim_repo(did)
            return await self.attempt(
                claim,
                is_operator=True,
                is_once_enough=not is_scheduled,
                accepts_rollback=accepts_rollback,
                on_compared=on_compared,
            )

    async def sync_listed(self, did: str, *, on_compared: Compared | None = None) -> Resync:
        """One attempt at a repo that a listing has made worth a look, tracked from now on.

        A new one is subject to the limits, whoever listed it.
        """
        async with self._turn_at(did):
            try:
                claim = await self._queue.claim_repo(did, is_operator=False)
            except RepoLimited as error:
                return Resync(result=Result.LIMITED, reason=error.detail)
            is_new = claim.repo.data is None
            admission = self._admission if is_new else None
            return await self.attempt(claim, admission=admission, on_compared=on_compared)

    def _turn_at(self, did: str) -> asyncio.Lock:
        """What an operation's attempt holds: those at one repo come one after the other.

        Each claims the repo whoever holds it. Two at once would void each other's claims in turn,
        with a fetch from the beginning each time, until one of them gives up.
        """
        return self._turns.setdefault(did, asyncio.Lock())

    async def attempt(
        self,
        claim: Claim,
        *,
        is_operator: bool = False,
        is_once_enough: bool = False,
        accepts_rollback: bool = False,
        seat: Seat | None = None,
        admission: Admission | None = None,
        on_compared: Compared | None = None,
    ) -> Resync:
        """Do what the claim asks for; the repo row says afterwards how it went.

        With a `seat` it goes no further than there is a place for it, with an `admission` only if
        that is granted.
        """
        if not claim.repo.claimed:
            return Resync(result=Result.DENIED, reason="denied: it must be allowed first")
        started = self._clock.monotonic()
        route = Route(
            accepts_older=accepts_rollback,
            is_once_enough=is_once_enough,
            seat=seat,
            admission=admission,
            on_compared=on_compared,
        )
        try:
            outcome = await self._outcome(claim, route, is_operator=is_operator)
        except asyncio.CancelledError:
            # An operation was cancelled, or the process stops: somebody else will do the work.
            # Where the store is busy for longer, the workers or the next start give the claim back.
            self._unreturned.add(claim)
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVE_BACK_S):
                    await self.give_back()
            raise
        self._metrics.resyncs.labels(outcome.result, route.method).inc()
        self._metrics.resync_duration_seconds.observe(self._clock.monotonic() - started)
        log.info(
            "repo.resynced" if outcome.reason is None else "repo.resync_ended",
            did=claim.did,
            result=outcome.result,
            method=route.method,
            records=outcome.records,
            reason=outcome.reason,
        )
        return replace(outcome, changes=route.changes)

    async def give_back(self) -> None:
        """Release what cancelled attempts could not, the store being busy then."""
        for claim in tuple(self._unreturned):
            await self._settle(claim, Result.STALE, "cancelled", given_back, None)
            self._unreturned.discard(claim)

    async def _outcome(  # noqa: PLR0911 - a table of cases, first match wins
        self, claim: Claim, route: Route, *, is_operator: bool
    ) -> Resync:
        """What comes of it: for each kind of failure its own way on."""
        try:
            try:
                return await self._attempt(claim, route, is_operator=is_operator)
            except RepoWithdrawn:  # the account has changed meanwhile
                return await self._attempt(claim, route, is_operator=is_operator)
        except HostDenied as error:
            return Resync(result=Result.DENIED, reason=str(error))
        except StaleClaim as error:
            return Resync(result=Result.STALE, reason=str(error))
        except (RepoTooLarge, RepoLimited) as error:
            return await self._end_beyond(claim, route, error)
        except InvalidUpstream as error:
            self._metrics.verify_failures.labels(error.check).inc()
            if is_lasting(error) and claim.repo.refusals + 1 >= LOOKS_MAX:
                return await self._end(claim, route, RepoState.INVALID, Result.INVALID, error)
            return await self._retry(claim, error)
        except (Unavailable, LocalBusy) as error:
            return await self._retry(claim, error)
        except LocalFault:
            raise
        except Exception as error:
            log.exception("repo.resync_broken", did=claim.did)
            self._metrics.verify_failures.labels(Check.BUG).inc()
            return await self._retry(claim, bug(error))

    async def _attempt(self, claim: Claim, route: Route, *, is_operator: bool) -> Resync:
        asked_at = self._clock.monotonic()
        try:
            document = await self._hosts.resolve(claim.did)
        except DidGone as gone:
            # A directory that has lost an account says nothing of the account's own will.
            return await self._gone(
                claim,
                route,
                "the DID has a tombstone" if gone.is_tombstone else "DID not found",
                is_final=gone.is_tombstone,
                is_hiding=False,
            )
        identity = Identity(handle=None, signing_key=document.signing_key, pds_url=document.pds_url)
        is_about_host = bool(claim.repo.claimed & (Wanted.ACCOUNT | Wanted.CONTENT))
        seat = route.seat
        is_seated = is_about_host and (seat is None or seat.move(document.pds_url))
        if is_seated and await route.is_refused(claim, identity):
            return Resync(result=Result.LIMITED, reason=TOO_MANY)
        former_url = claim.pds_url
        handle, is_unasked = None, False
        if is_seated or not is_about_host or claim.repo.rev is not None:
            try:
                handle = await self._hosts.verify_handle(document)
            except Unavailable:
                handle, is_unasked = document.handle, True
        # A handle may take long to verify: what changed meanwhile is news to this document.
        age_s = self._clock.monotonic() - asked_at
        found = replace(identity, handle=handle, age_s=age_s, is_handle_unasked=is_unasked)
        claim = await self._rows.save_identity(claim, found)
        if document.signing_key is None or document.pds_url is None:
            raise InvalidUpstream(Check.KEY, f"{claim.did} has no signing key or no PDS")
        key = VerifyingKey.parse(document.signing_key)
        # Not as it was claimed: of an account that has left a denied host all is wanted now.
        if not claim.repo.claimed & (Wanted.ACCOUNT | Wanted.CONTENT):
            return await self._merge.finish(claim, route, None, key, is_confirmed=False)
        claim = await self._merge.catch_up(claim, route, key)
        try:
            if is_seated:
                return await self._ask(claim, route, identity, key, is_operator=is_operator)
        except NotAsked:
            if seat is None or seat.closed_s(document.pds_url) == 0.0:
                raise
        closed_s = 0.0 if seat is None else seat.closed_s(document.pds_url)
        ending = partial(
            kept_waiting,
            closed_s=closed_s,
            has_moved=former_url not in {None, document.pds_url},
            now=self._clock.now(),
        )
        return await self._settle(claim, Result.QUEUED, "waits for its host", ending, None)

    async def _ask(
        self,
        claim: Claim,
        route: Route,
        identity: Identity,
        key: VerifyingKey,
        *,
        is_operator: bool,
    ) -> Resync:
        """Ask the repo's own host how the account is, and for the repo where it differs."""
        pds_url = identity.pds_url or ""
        is_hurried = route.seat is not None and route.seat.is_awaited
        status = await self._hosts.fetch_status(pds_url, claim.did, is_hurried=is_hurried)
        if await route.is_refused(claim, identity):
            return Resync(result=Result.LIMITED, reason=TOO_MANY)
        route.host_rev = None if status is None else status.rev
        if status is None or status.status is AccountStatus.DELETED:
            is_known = claim.repo.account_status is AccountStatus.DELETED
            was_held = claim.repo.rev is not None
            return await self._gone(
                claim,
                route,
                "repo not found at its host",
                is_final=is_known or status is not None or (route.is_once_enough and was_held),
                is_hiding=True,
            )
        if status.status is not AccountStatus.ACTIVE:
            await self._queue.settle(
                claim, partial(hidden, status=status.status, now=self._clock.now())
            )
            return Resync(result=Result.HIDDEN, reason=None if is_operator else status.status)
        if self._is_current(claim, status.rev):
            return await self._merge.finish(claim, route, None, key, is_confirmed=True)
        later = None if is_operator else await self._worth_waiting_until(claim, status.rev)
        if later is not None:
            return await self._merge.finish(
                claim, route, None, key, is_confirmed=True, look_again_at=later
            )
        async with route.transfer():
            return await self._fetch(claim, route, pds_url, key, status.rev)

    async def _worth_waiting_until(self, claim: Claim, host_rev: str | None) -> float | None:
        """Unix seconds at which to compare again, where a fetch may be spared; None: fetch now."""
        now = self._clock.now()
        if claim.repo.state is RepoState.ACTIVE:
            if await self._rows.load_pending(claim, 0):
                return now  # the host's commit may be a buffered one: replay them first
            # Of what was left out under another scope the stream brings nothing.
            is_in_scope = claim.repo.scope_id == self._verifier.scope.scope_id
            if is_in_scope and may_yet_come(host_rev, stream_at=self._stream_at(), now=now):
                return now + STREAM_GRACE_S
        return claim.repo.fetch_at if now < claim.repo.fetch_at else None

    def _is_current(self, claim: Claim, host_rev: str | None) -> bool:
        """Whether equal revs prove that nothing needs to be fetched."""
        repo = claim.repo
        if repo.scope_id != self._verifier.scope.scope_id or repo.data is None:
            return False
        # The host's own word outlives the commit it was about only until the next commit.
        known = repo.rev if repo.host_rev is None else max(repo.rev or "", repo.host_rev)
        return host_rev is not None and host_rev == known

    async def _fetch(
        self, claim: Claim, route: Route, pds_url: str, key: VerifyingKey, host_rev: str | None
    ) -> Resync:
        claim = await self._rows.begin_fetch(claim)
        if self._is_current(claim, host_rev):  # the stream was faster
            return await self._merge.finish(claim, route, None, key, is_confirmed=True)
        async with self._reader.open(claim, route, pds_url, key) as snapshot:
            rev = snapshot.commit.rev
            is_older = claim.repo.rev is not None and rev < claim.repo.rev
            if is_older and not route.accepts_older:
                return await self._refuse_older(claim, pds_url, rev)
            return await self._merge.merge(claim, route, snapshot, key, host_rev)

    async def _refuse_older(self, claim: Claim, pds_url: str, rev: str) -> Resync:
        """What the host shows is from before what we hold: it lags, or was set back for good."""
        reason = f"the host serves {rev}, older than our {claim.repo.rev}"
        since = await self._queue.note_older(claim, pds_url, rev)
        if self._clock.now() - since < ROLLBACK_S:
            raise Unavailable(reason)
        log.error("repo.rolled_back", did=claim.did, host=pds_url, reason=reason)
        ending = partial(rolled_back, now=self._clock.now())
        return await self._settle(claim, Result.ROLLED_BACK, reason, ending, None)

    async def _gone(
        self, claim: Claim, route: Route, reason: str, *, is_final: bool, is_hiding: bool
    ) -> Resync:
        """Nobody knows the repo: purge what was confirmed, look again later otherwise."""
        if is_final:
            changes = await self._queue.purge(claim, reason)
            route.changes.update(changes)
            self._metrics.count_records(changes, "backfill")
            return Resync(result=Result.DELETED, reason=reason)
        ending = partial(missing, reason=reason, is_hiding=is_hiding, now=self._clock.now())
        return await self._settle(claim, Result.NOT_FOUND, reason, ending, None)

    async def _end_beyond(
        self, claim: Claim, route: Route, error: RepoTooLarge | RepoLimited
    ) -> Resync:
        """More than is fetched of one repo, or held."""
        if isinstance(error, RepoTooLarge):
            return await self._end(claim, route, RepoState.TOO_LARGE, Result.TOO_LARGE, error)
        self._metrics.limits_refused.labels(error.limit).inc()
        return await self._end(claim, route, RepoState.LIMITED, Result.LIMITED, error)

    async def _end(
        self, claim: Claim, route: Route, state: RepoState, result: Result, error: InvalidUpstream
    ) -> Resync:
        letter = DeadLetterDraft(error.check, error.detail, did=claim.did)
        ending = partial(
            ended, state=state, reason=error.detail, host_rev=route.host_rev, now=self._clock.now()
        )
        return await self._settle(claim, result, error.detail, ending, letter)

    async def _retry(self, claim: Claim, error: ChiveIndexerError) -> Resync:
        """The same again, later; what nobody was asked for is no failure of the repo."""
        reason, now = str(error), self._clock.now()
        if isinstance(error, NotAsked):
            waiting = partial(left_alone, until=now + error.wait_s)
            return await self._settle(claim, Result.QUEUED, reason, waiting, None)
        retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
        delay_s = retry_delay_s(claim.repo.attempts, self._rng.random(), retry_after_s)
        is_refusal = is_lasting(error)
        ending = partial(failed, reason=reason, delay_s=delay_s, now=now, is_refusal=is_refusal)
        return await self._settle(claim, Result.FAILED, reason, ending, None)

    async def _settle(
        self,
        claim: Claim,
        result: Result,
        reason: str,
        ending: Ending,
        letter: DeadLetterDraft | None,
    ) -> Resync:
        try:
            await insist_on(partial(self._queue.settle, claim, ending, letter=letter), _wait)
        except StaleClaim:
            return Resync(result=Result.STALE, reason=reason)
        return Resync(result=result, reason=reason)
