"""pdsScan: one host, or every host that is due, looked through for repos that concern us.

Before the hosts of a whole scan, the relay is asked which repos have records of our collections and
which hosts it knows. Where it lists the former, no host is asked repo by repo. How far all that has
come is the operation's checkpoint; how far a pass over a host has come is the registry's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from indexer.denials import HOST_DENIED
from indexer.errors import Check, InvalidUpstream, LocalBusy, RequestRefused, Unavailable
from indexer.hosts import HostOutcome, HostPass, HostSource
from indexer.model import TERMINAL_STATES, Json, OperationType, SettledUnit
from indexer.operations.host_pass import HostScan, ScanParts
from indexer.operations.operation import (
    Context,
    OperationFailed,
    Request,
    insist,
    refuse_foreign_params,
)
from indexer.operations.scanning import patiently, synced, work_through
from indexer.protocol.did_document import parse_origin

log = structlog.get_logger(__name__)

EVERY = "*"
"""Key of a scan of all hosts."""

HOSTS_AT_ONCE = 8
"""So that one which hangs does not hold up the others."""

NAMED_AT_ONCE = 4
"""Repos named by the relay that are brought up to date at the same time."""

COLLECTION_PAGE = 2000
PAGES_MAX = 10_000
BROKEN_OFF = "a list of the relay broke off in the middle"
LOOK_S = 1.0
RELEASE_S = 1.0


class Progress(msgspec.Struct):
    """The checkpoint: what the relay has been asked."""

    scope_id: str = ""  # of the scope that repos are looked for under
    relay_url: str = ""
    collections: tuple[str, ...] = ()  # that the relay is asked for
    collection: int = 0  # index of the one whose list is being read
    cursor: str | None = None  # of its next page
    is_listed: bool | None = None  # whether the relay lists collections; None: not known yet
    are_hosts_read: bool = False
    hosts_cursor: str | None = None
    are_lists_whole: bool = True  # whether the relay's lists were read as far as it offers them


class PdsScan:
    """The type of operation."""

    type = OperationType.PDS_SCAN
    unit = "repo"

    def __init__(
        self,
        parts: ScanParts,
        *,
        collections: Sequence[str],
        relay_url: str,
        check_url: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self._collections = collections  # NSIDs that a relay may be asked for
        self._relay_url = relay_url
        self._check_url = check_url  # raises `InvalidUpstream` for what we do not contact

    def parse(self, params: Mapping[str, Json]) -> Request:
        """`pdsUrl` names one host; without it every one that is due is scanned."""
        refuse_foreign_params(params, frozenset({"pdsUrl"}), self.type)
        if "pdsUrl" not in params:
            return Request(key=EVERY, params={})
        given = params["pdsUrl"]
        origin = parse_origin(given) if isinstance(given, str) else None
        if origin is None:
            raise RequestRefused(
                "InvalidRequest",
                "parameter pdsUrl: is no origin of a host, such as https://pds.example.com",
            )
        try:
            self._check_url(origin)
        except InvalidUpstream as error:
            raise RequestRefused("InvalidRequest", f"parameter pdsUrl: {error.detail}") from error
        if self._parts.is_denied(origin):
            raise RequestRefused("InvalidRequest", f"parameter pdsUrl: {HOST_DENIED}")
        return Request(key=origin, params={"pdsUrl": origin})

    async def run(self, context: Context) -> None:
        """From the checkpoint, over all hosts that were due when the operation was started."""
        registry = self._parts.registry
        try:
            await insist(self._parts.rows.tidy)
            scan = _Scan(self._parts, context, self._collections, self._relay_url, self._check_url)
            if context.operation.key == EVERY:
                await scan.run()
            else:
                await scan.run_one(context.operation.key)
        finally:
            with suppress(TimeoutError, LocalBusy):
                async with asyncio.timeout(RELEASE_S):
                    await registry.release(context.operation.id)


class _Scan:
    """One run."""

    def __init__(
        self,
        parts: ScanParts,
        context: Context,
        collections: Sequence[str],
        relay_url: str,
        check_url: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self._context = context
        self._collections = collections
        self._relay_url = relay_url
        self._check_url = check_url
        self._in_hand: set[int] = set()
        self._claiming = asyncio.Lock()
        self._reading = asyncio.Lock()
        self._progress = self._resumed(context.operation.checkpoint)

    def _resumed(self, checkpoint: Json) -> Progress:
        """From where to go on; other lists than those that were read are read from the start.

        Raises `OperationFailed` where the scope is another: what was left out is to be seen anew.
        """
        progress = Progress(
            scope_id=self._parts.scope.scope_id,
            relay_url=self._relay_url,
            collections=tuple(self._collections),
        )
        if checkpoint is None:
            return progress
        saved = msgspec.convert(checkpoint, Progress)
        if saved.scope_id not in {"", progress.scope_id}:
            raise OperationFailed("scope.collections is another now: start the scan again")
        lists = (progress.relay_url, progress.collections)
        return saved if (saved.relay_url, saved.collections) == lists else progress

    @property
    def _is_whole(self) -> bool:
        return self._context.operation.key == EVERY

    async def run(self) -> None:
        """All hosts."""
        await self._read_collections()
        if not self._progress.are_hosts_read:
            await self._read_hosts()
        await work_through(
            (str(number) for number in range(HOSTS_AT_ONCE)), self._scan_due, width=HOSTS_AT_ONCE
        )

    async def run_one(self, url: str) -> None:
        """One host, once nobody else is at it."""
        registry = self._parts.registry
        if await self._settled([url]):
            return  # the process ended between the end of the pass and that of the operation
        await insist(partial(registry.register, [url], HostSource.OPERATOR))
        while (held := await self._claim(url)) is None:  # noqa: ASYNC110 - a lease is a row
            await asyncio.sleep(LOOK_S)
        await self._host_scan(held).run()

    async def _scan_due(self, _: str) -> None:
        while (held := await self._claim(None)) is not None:
            try:
                scan = self._host_scan(held)
                if self._parts.is_denied(held.url):
                    await scan.pass_over()
                elif await self._is_covered(held):
                    await scan.cover()
                else:
                    await scan.run()
            finally:
                self._in_hand.discard(held.host_id)

    async def _is_covered(self, held: HostPass) -> bool:
        """Whether the relay, which speaks for the hosts that it lists, has named all its repos."""
        if held.pages or held.has_repos or not held.is_relayed:
            return False
        return await self._read_collections()

    async def _claim(self, url: str | None) -> HostPass | None:
        operation = self._context.operation
        async with self._claiming:
            step = partial(
                self._parts.registry.claim, operation.id, url,
                due_at=operation.started_at, in_hand=frozenset(self._in_hand),
            )  # fmt: skip
            held = await insist(step)
            if held is not None:
                self._in_hand.add(held.host_id)
        return held

    def _host_scan(self, held: HostPass) -> HostScan:
        return HostScan(
            self._parts, self._context, held, are_collections_listed=self._read_collections
        )

    async def _read_collections(self) -> bool:
        """Read the relay's lists by collection, once; whether it has them.

        A whole scan brings what they name up to date; the scan of one host only keeps the names.
        """
        async with self._reading:
            progress = self._progress
            while progress.is_listed is None and progress.collection < len(self._collections):
                try:
                    await self._read_collection(self._collections[progress.collection])
                except (Unavailable, InvalidUpstream) as error:
                    progress.is_listed = False
                    await self._note_unlisted("listReposByCollection", error.detail)
            if progress.is_listed is None:
                progress.is_listed = bool(self._collections)
                await self._keep()
            return progress.is_listed

    async def _read_collection(self, collection: str) -> None:
        progress, lists, seen = self._progress, self._parts.lists, set[str]()
        while True:
            page = await patiently(
                partial(lists.of_collection, collection, progress.cursor, repos_max=COLLECTION_PAGE)
            )
            if page is None and progress.cursor is not None:
                raise InvalidUpstream(Check.RESPONSE, BROKEN_OFF)
            if page is None:
                progress.is_listed = False
                break
            dids = await self._to_fetch([each.did for each in page.repos])
            if self._is_whole:
                await work_through(dids, self._sync, width=NAMED_AT_ONCE)
            else:
                step = partial(self._parts.rows.nominate, self._context.operation.id, dids)
                await insist(step)
            if page.cursor is None:
                break
            progress.cursor = _next(page.cursor, seen)
            await self._keep()
        progress.cursor = None
        progress.collection += 1
        await self._keep()

    async def _to_fetch(self, dids: list[str]) -> list[str]:
        """Those that are not tracked, or that an interrupted run tracked and did not fetch.

        What has been settled is left alone: a repo is on the list of each of its collections.
        """
        known = await insist(partial(self._parts.rows.known, dids))
        settled = await self._settled(dids)
        return [
            did
            for did in dict.fromkeys(dids)
            if did not in settled
            and (
                did not in known
                or (known[did].repo.data is None and known[did].repo.state not in TERMINAL_STATES)
            )
        ]

    async def _sync(self, did: str) -> None:
        await self._context.settle(await synced(self._parts.repos, self._context, did))

    async def _read_hosts(self) -> None:
        """Register what the relay lists; a relay without such a list may be a host itself."""
        progress, lists, seen = self._progress, self._parts.lists, set[str]()
        try:
            while True:
                page = await patiently(partial(lists.of_relay, progress.hosts_cursor))
                if page is None and progress.hosts_cursor is not None:
                    await self._note_unlisted("listHosts", BROKEN_OFF)
                    break
                urls = self._relay_itself() if page is None else page.urls
                await insist(partial(self._parts.registry.register, urls, HostSource.RELAY))
                if page is None or page.cursor is None:
                    break
                progress.hosts_cursor = _next(page.cursor, seen)
                await self._keep()
        except (Unavailable, InvalidUpstream) as error:
            await self._note_unlisted("listHosts", error.detail)
        progress.are_hosts_read = True
        await self._keep()

    async def _note_unlisted(self, method: str, reason: str) -> None:
        """A list of the relay's could not be read to its end: a failure, and no complete scan."""
        log.warning("relay.not_listed", method=method, reason=reason)
        self._progress.are_lists_whole = False
        await self._keep()
        if self._is_whole:
            await self._context.settle(
                SettledUnit(
                    unit=f"{self._relay_url} {method}",
                    outcome=HostOutcome.UNLISTED,
                    records=0,
                    is_failed=True,
                    message=reason,
                )
            )

    async def _settled(self, units: Sequence[str]) -> set[str]:
        return await insist(partial(self._parts.rows.settled, self._context.operation.id, units))

    def _relay_itself(self) -> Sequence[str]:
        origin = parse_origin(self._relay_url)
        try:
            self._check_url(origin or "")
        except InvalidUpstream:
            return ()
        return () if origin is None else (origin,)

    async def _keep(self) -> None:
        checkpoint: Json = msgspec.to_builtins(self._progress)
        await insist(partial(self._parts.rows.keep, self._context.operation.id, checkpoint))


def _next(cursor: str, seen: set[str]) -> str:
    """The cursor, if the list goes on: one that comes again or never ends is no list."""
    if cursor in seen or len(seen) >= PAGES_MAX:
        raise InvalidUpstream(Check.RESPONSE, "a list of the relay has no end")
    seen.add(cursor)
    return cursor
