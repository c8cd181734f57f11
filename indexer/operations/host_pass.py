"""One pass over one host: its list read to the end, then what is unknown on it asked about.

A host only nominates. A known repo at the rev that we hold costs nothing; one that differs is
brought up to date from the host that its own DID document names. Of the unknown ones those are
asked about that changed last; one that has records in scope is tracked if its DID document names
this host, and is dismissed as foreign otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial

import structlog

from indexer.clock import Clock
from indexer.denials import HOST_DENIED
from indexer.errors import Check, DidGone, InvalidUpstream, Unavailable
from indexer.freshness import VERIFIED, Circumstances, heard
from indexer.hosts import HostOutcome, HostPass, PageTaken, StrangerOutcome
from indexer.listings import Listed, ListingPage
from indexer.model import AccountStatus, Operation, Scope, SettledUnit
from indexer.operations.operation import Context, insist
from indexer.operations.scan_rows import (
    CandidateRows,
    DidDocuments,
    HostLists,
    HostRegistry,
    ListedRepos,
    PageRows,
    ScanRows,
)
from indexer.operations.scanning import patiently, synced, work_through

log = structlog.get_logger(__name__)

PAGE_REPOS = 1000
"""As many as a host may be asked for at once."""

PAGES_MAX = 5000
REPEATS_MAX = 2
"""Pages that bring nothing new, after which a list is left where it is."""

ASKED_AT_ONCE = 64
ASKERS = 2
"""Requests at one host at the same time, which is what the HTTP client allows."""

FAILED = "failed"
"""Outcome of a repo that could not be brought up to date for a passing reason."""

REFUSALS_MAX = 10
"""Answers in a row that make no sense, after which a host is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanParts:
    """What a scan works with."""

    registry: HostRegistry
    rows: ScanRows
    pages: PageRows
    candidates: CandidateRows
    lists: HostLists
    documents: DidDocuments
    repos: ListedRepos
    scope: Scope
    is_denied: Callable[[str], bool]  # whether nothing is to be asked of the host of a URL
    stream_at: Callable[[], float | None]
    clock: Clock


class HostScan:
    """The pass. `are_collections_listed` says whether the relay tells which repos are in scope."""

    def __init__(
        self,
        parts: ScanParts,
        context: Context,
        held: HostPass,
        *,
        are_collections_listed: Callable[[], Awaitable[bool]],
    ) -> None:
        self._parts = parts
        self._context = context
        self._held = held
        self._are_collections_listed = are_collections_listed
        self._refusals = 0  # in a row
        self._gap: str | None = None  # why the list was not read to its end
        self._is_retaken = bool(held.pages or held.outcomes)  # until its first page is taken
        self._lost = held.outcomes.get(FAILED, 0)  # repos that could not be brought up to date
        self._others = sum(held.outcomes.values()) - self._lost
        self._reason = ""  # of the last that was lost

    async def run(self) -> None:
        """From where the pass stands to its end, which the registry is told."""
        held = self._held
        error: str | None = None
        try:
            if not held.is_listed:
                await self._read_list()
            await self._ask()
            error = self._gap or self._loss()
        except (Unavailable, InvalidUpstream) as failure:
            error = failure.detail
            self._take(await insist(partial(self._parts.candidates.leave, held)))
        log.info("host.scanned" if error is None else "host.scan_failed", host=held.url,
                 reason=error)  # fmt: skip
        outcome = HostOutcome.SCANNED if error is None else HostOutcome.UNREACHABLE
        await self._end(outcome, error)

    def _loss(self) -> str | None:
        """What to say of a pass in which no repo was as it should be; None of any other."""
        if self._others or not self._lost:
            return None
        return f"none of its {self._lost} repos could be brought up to date: {self._reason}"

    async def cover(self) -> None:
        """End the pass without a request, and without a scan: the relay has told all there is."""
        await self._end(HostOutcome.COVERED, None)

    async def pass_over(self) -> None:
        """End the pass without a request, and without a scan: an operator has denied the host."""
        await self._end(HostOutcome.DENIED, HOST_DENIED)

    async def _end(self, outcome: HostOutcome, error: str | None) -> None:
        held = self._held
        unit = SettledUnit(
            unit=held.url,
            outcome=outcome,
            records=0,
            is_failed=outcome is HostOutcome.UNREACHABLE,
            message=error,
        )
        self._take(await insist(partial(self._parts.registry.end_pass, held, unit, error=error)))

    async def _read_list(self) -> None:
        held, cursor, pages, repeats = self._held, self._held.cursor, self._held.pages, 0
        seen: set[int] = set()
        while True:
            step = partial(self._parts.lists.of_host, held.url, cursor, repos_max=PAGE_REPOS)
            asked_at = self._parts.clock.now()
            page = await patiently(step)
            if page is None:
                raise InvalidUpstream(Check.RESPONSE, f"{held.url}: listRepos is not served")
            mark = hash(tuple(each.did for each in page.repos))
            has_more = page.cursor is not None
            # Also where nothing on its pages makes sense; a list may end with one that is empty.
            is_repeated = (has_more and page.cursor == cursor) or (
                mark in seen and (has_more or bool(page.repos))
            )
            seen.add(mark)
            repeats += is_repeated
            pages += 1
            if repeats >= REPEATS_MAX or pages > PAGES_MAX:
                self._gap = f"the list of {held.url} has no end"
                return
            if not is_repeated:
                await self._take_page(page, asked_at)
            if page.cursor is None:
                return
            cursor = page.cursor

    async def _take_page(self, page: ListingPage, asked_at: float) -> None:
        parts, held = self._parts, self._held
        words = {each.did: each for each in page.repos}
        known = await insist(partial(parts.rows.known, list(words)))
        settled = await insist(partial(parts.rows.settled, held.operation_id, list(words)))
        at = Circumstances(
            scope_id=parts.scope.scope_id,
            stream_at=parts.stream_at(),
            is_held=False,  # what the stream may yet bring is left to the resync in both modes
            is_page=True,
            now=parts.clock.now(),
        )
        outcomes: Counter[str] = Counter()
        before: Counter[str] = Counter()
        current, differing, records, records_before = [], [], 0, 0
        for did, ours in known.items():
            is_foreign = ours.pds_url not in {None, held.url}
            outcome = None if is_foreign else heard(ours.repo, words[did], at).outcome
            label = StrangerOutcome.FOREIGN if is_foreign else outcome
            if label is None:
                if did not in settled:
                    differing.append(did)
                continue
            (before if did in settled else outcomes)[label] += 1
            if outcome in VERIFIED:
                current.append(did)
                records += 0 if did in settled else ours.records
                records_before += ours.records if did in settled else 0
        await work_through(differing, self._sync, width=ASKERS)
        strangers = [word for did, word in words.items() if did not in known and did not in settled]
        candidates = await self._sorted_out(strangers, outcomes)
        added = [(word.did, word.rev or "") for word in candidates]
        await insist(partial(parts.pages.add_candidates, held, added))
        # Not as of now: a repo may have changed unheard while others of the page were fetched.
        await insist(partial(parts.pages.verified, current, at=asked_at))
        taken = PageTaken(
            outcomes=outcomes,
            records=records,
            cursor=page.cursor,
            is_last=page.cursor is None,
            # Those of a page that was begun before a restart have been counted at the host too.
            outcomes_before={} if self._is_retaken else before,
            records_before=0 if self._is_retaken else records_before,
        )
        self._is_retaken = False
        self._others += outcomes.total() + before.total()
        self._take(await insist(partial(parts.pages.advance, held, taken)))

    async def _sorted_out(
        self, strangers: Iterable[Listed], outcomes: Counter[str]
    ) -> list[Listed]:
        """Those that have to be asked about; the others are counted."""
        parts, held = self._parts, self._held
        words = {}
        for word in strangers:
            if word.status is AccountStatus.ACTIVE:
                words[word.did] = word
            else:
                outcomes[StrangerOutcome.INACTIVE] += 1
        if not words:
            return []
        dids = list(words)
        if await self._are_collections_listed():
            chosen = await insist(partial(parts.rows.nominated, held.operation_id, dids))
            outcome = StrangerOutcome.OUT_OF_SCOPE
        else:
            before = await insist(partial(parts.pages.asked_before, held.url, dids))
            chosen = words.keys() - before
            outcome = StrangerOutcome.ASKED_BEFORE
        if len(chosen) < len(words):
            outcomes[outcome] += len(words) - len(chosen)
        return [word for did, word in words.items() if did in chosen]

    async def _ask(self) -> None:
        while dids := await insist(
            partial(self._parts.candidates.candidates, self._held, ASKED_AT_ONCE)
        ):
            # The relay is asked by one alone, before it can be asked by several.
            await self._are_collections_listed()
            await work_through(dids, self._examine, width=ASKERS)

    async def _examine(self, did: str) -> None:
        """Find out whether an unknown repo concerns us."""
        try:
            dismissal = await self._dismissal(did)
        except InvalidUpstream as error:
            self._refusals += 1
            if self._refusals > REFUSALS_MAX:
                raise
            log.debug("host.answer_refused", host=self._held.url, did=did, reason=error.detail)
            await self._dismiss(did, StrangerOutcome.REFUSED, is_answer=False)
            return
        self._refusals = 0
        if dismissal is not None:
            await self._dismiss(did, dismissal, is_answer=True)
            return
        try:
            document = await patiently(partial(self._parts.documents.resolve, did))
        except DidGone:
            await self._dismiss(did, StrangerOutcome.NOT_FOUND, is_answer=True)
        except (Unavailable, InvalidUpstream) as error:
            # Of the directory or the document: the host has said its part.
            await self._fail(did, error.detail)
        else:
            if document.pds_url == self._held.url:
                await self._sync(did)
            else:
                await self._dismiss(did, StrangerOutcome.FOREIGN, is_answer=True)

    async def _dismissal(self, did: str) -> StrangerOutcome | None:
        """Why the repo does not concern us by its host's or the relay's word; None when it may."""
        if await self._are_collections_listed():
            return None
        step = partial(self._parts.lists.collections_of, self._held.url, did)
        names = await patiently(step)
        if names is None:
            return StrangerOutcome.NOT_FOUND
        is_in_scope = any(f"{name}/" in self._parts.scope for name in names)
        return None if is_in_scope else StrangerOutcome.OUT_OF_SCOPE

    async def _dismiss(self, did: str, outcome: StrangerOutcome, *, is_answer: bool) -> None:
        self._others += 1
        step = partial(
            self._parts.candidates.dismiss, self._held, did, outcome, is_answer=is_answer
        )
        self._take(await insist(step))

    async def _sync(self, did: str) -> None:
        await self._settle(await synced(self._parts.repos, self._context, did))

    async def _fail(self, did: str, reason: str) -> None:
        await self._settle(
            SettledUnit(unit=did, outcome=FAILED, records=0, is_failed=True, message=reason)
        )

    async def _settle(self, unit: SettledUnit) -> None:
        if unit.is_failed:
            self._lost += 1
            self._reason = unit.message or unit.outcome
        else:
            self._others += 1
        self._take(await insist(partial(self._parts.candidates.settle, self._held, unit)))

    def _take(self, row: Operation | None) -> None:
        if row is not None:
            self._context.take(row)
