"""citationExtraction: what the documents of eprints cite, one eprint at a time or all that lack it.

A document comes from the host of the account that holds the eprint, is checked against its CID and
read in a process of its own. Whatever goes wrong with one eprint is that eprint's outcome. What
would come out the same again is remembered, by the document's CID and the version of the extractor
and its sources; everything else is tried again by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import IO, Protocol

from indexer.citations.eprint import EprintDocument
from indexer.citations.extraction import FORMATS
from indexer.citations.merging import Citation, merged
from indexer.citations.reference import Reference
from indexer.citations.result import FAILED, LASTING, Extraction, ExtractionOutcome
from indexer.errors import Check, InvalidUpstream, NotServed, RequestRefused, Unavailable
from indexer.model import Json, Operation, OperationType, SettledUnit
from indexer.operations.citation_sources import Asked, Sources
from indexer.operations.operation import (
    Context,
    OperationFailed,
    Request,
    insist,
    refuse_foreign_params,
)
from indexer.protocol.syntax import is_did, parse_at_uri

COLLECTION = "pub.chive.eprint.submission"
ALL = "*"
"""The key of a run over all eprints."""

PAGE_EPRINTS = 50
MESSAGE_CHARS_MAX = 300


class Reading(Protocol):
    """What the reading of a document gave."""

    @property
    def references(self) -> list[Reference]:
        """The references in it."""

    @property
    def left_out(self) -> int:
        """How many more are in it, at least."""

    @property
    def problem(self) -> str | None:
        """Why it could not be read."""

    @property
    def is_of_machine(self) -> bool:
        """Whether it could be read elsewhere."""


class Documents(Protocol):
    """Reads documents where they can do no harm."""

    async def read(self, document: IO[bytes], form: str) -> Reading:
        """The references in a document of one of `FORMATS`."""


class Blobs(Protocol):
    """Fetches blobs of accounts."""

    def fetch(self, did: str, cid: str, size: int | None) -> AbstractAsyncContextManager[IO[bytes]]:
        """A blob, checked against its CID, as a file at its beginning."""


class Extractions(Protocol):
    """The store as this operation needs it."""

    async def begin(self, operation_id: str, version: str) -> Operation:
        """Count the eprints that lack a current extraction; the operation's row then."""

    async def load(self, did: str, path: str) -> EprintDocument | None:
        """One visible eprint with its document."""

    async def known(self, eprint: EprintDocument) -> tuple[Citation, ...]:
        """What the last extraction from this document came to."""

    async def lacking(
        self, operation_id: str, version: str, after_id: int, limit: int
    ) -> list[EprintDocument]:
        """Eprints after a record id that lack a current extraction and are not settled."""

    async def replace(
        self, operation_id: str, extraction: Extraction, unit: SettledUnit, changed: SettledUnit
    ) -> Operation | None:
        """Replace an eprint's rows and settle its unit, in one transaction."""


class CitationExtraction:
    """Runs a few eprints at a time; the slots for documents' processes are elsewhere."""

    type = OperationType.CITATION_EXTRACTION
    unit = "eprint"

    def __init__(
        self,
        extractions: Extractions,
        blobs: Blobs,
        documents: Documents,
        sources: Sources,
        *,
        workers: int,
    ) -> None:
        self._extractions = extractions
        self._blobs = blobs
        self._documents = documents
        self._sources = sources
        self._workers = workers

    def parse(self, params: Mapping[str, Json]) -> Request:
        """`uri`: an eprint that is indexed; without it, all of them."""
        refuse_foreign_params(params, frozenset({"uri"}), self.type)
        if "uri" not in params:
            return Request(key=ALL, params={})
        did, path = _eprint_uri(params["uri"])
        uri = f"at://{did}/{path}"
        return Request(
            key=uri, params={"uri": uri}, total_units=1, check=partial(self._known, did, path)
        )

    async def run(self, context: Context) -> None:
        """One eprint, or page after page; a resumed run goes on after the last whole page."""
        key = context.operation.key
        if key != ALL:
            eprint = await insist(partial(self._extractions.load, *_eprint_uri(key)))
            if eprint is None:
                raise OperationFailed("the eprint is no longer indexed, or its account is hidden")
            await self._extract(context, eprint, None)
            return
        version = self._sources.version
        context.operation = await insist(
            partial(self._extractions.begin, context.operation.id, version)
        )
        saved = context.operation.checkpoint
        after_id = saved if type(saved) is int else 0
        while True:
            page = await insist(
                partial(
                    self._extractions.lacking, context.operation.id, version, after_id, PAGE_EPRINTS
                )
            )
            if not page:
                return
            await self._extract_page(context, page, after_id)
            after_id = page[-1].record_id

    async def _extract_page(
        self, context: Context, page: list[EprintDocument], after_id: int
    ) -> None:
        """Each settled unit says that everything up to `after_id` is done."""
        slots = asyncio.Semaphore(self._workers)

        async def one(eprint: EprintDocument) -> None:
            async with slots:
                await self._extract(context, eprint, after_id)

        try:
            async with asyncio.TaskGroup() as group:
                for eprint in page:
                    group.create_task(one(eprint), name=f"citations:{eprint.record_id}")
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors

    async def _extract(
        self, context: Context, eprint: EprintDocument, after_id: int | None
    ) -> None:
        if not await context.begin(eprint.uri):
            return
        outcome, asked, message = await self._outcome(eprint)
        if outcome not in LASTING:
            await context.settle(_settled(eprint, outcome, message, after_id))
            return
        # By a thread: a few thousand references take it a second.
        citations, left_out = await asyncio.to_thread(
            merged, asked.references, own_keys=eprint.keys
        )
        if left_out := left_out + asked.left_out:
            cut = f"about {left_out} more references than are kept of one document"
            message = cut if message is None else f"{message}; {cut}"
            if outcome is ExtractionOutcome.EXTRACTED:
                outcome = ExtractionOutcome.SHORTENED
        extraction = Extraction(
            record_id=eprint.record_id,
            uri=eprint.uri,
            document_cid=eprint.cid,
            version=self._sources.version,
            is_complete=not asked.failures,
            outcome=outcome,
            citations=citations,
        )
        unit = _settled(eprint, outcome, message, after_id)
        changed = _settled(eprint, ExtractionOutcome.CHANGED, None, after_id)
        row = await insist(
            partial(self._extractions.replace, context.operation.id, extraction, unit, changed)
        )
        if row is not None:
            context.take(row)

    async def _outcome(self, eprint: EprintDocument) -> tuple[ExtractionOutcome, Asked, str | None]:
        """What became of an eprint, all that its sources said, and what an operator should know."""
        known = await insist(partial(self._extractions.known, eprint))
        ask_services = partial(self._sources.ask, eprint, None, (), known)
        if eprint.form not in FORMATS:
            asked = await insist(ask_services)
            return ExtractionOutcome.UNSUPPORTED, asked, f"format {eprint.form!r}"
        try:
            asked, problem = await insist(partial(self._read, eprint, known))
        except InvalidUpstream as error:
            outcome = _REFUSALS.get(error.check, ExtractionOutcome.UNAVAILABLE)
            asked = Asked()
            if outcome is ExtractionOutcome.TOO_LARGE:
                asked = await insist(ask_services)
            return outcome, asked, error.detail
        except NotServed as error:
            return ExtractionOutcome.NOT_FOUND, Asked(), error.detail
        except Unavailable as error:
            return ExtractionOutcome.UNAVAILABLE, Asked(), error.detail
        if problem is not None:
            return ExtractionOutcome.UNREADABLE, asked, problem
        outcome = ExtractionOutcome.EXTRACTED
        if not asked.references:
            outcome = ExtractionOutcome.NO_REFERENCES
        failed = None
        if asked.failures:
            outcome = ExtractionOutcome.INCOMPLETE
            reasons = (f"{source}: {why}" for source, why in asked.failures.items())
            failed = f"what these gave before was kept: {'; '.join(reasons)}"
        return outcome, asked, failed

    async def _read(
        self, eprint: EprintDocument, known: Sequence[Citation]
    ) -> tuple[Asked, str | None]:
        """Everything about a document that has to be at hand for it, and why it is unreadable."""
        async with self._blobs.fetch(eprint.did, eprint.cid, eprint.size) as document:
            reading = await self._documents.read(document, eprint.form)
            if reading.problem is not None and reading.is_of_machine:
                raise Unavailable(reading.problem)
            document.seek(0)
            asked = await self._sources.ask(eprint, document, reading.references, known)
            asked.left_out = max(asked.left_out, reading.left_out)
        return asked, reading.problem

    async def _known(self, did: str, path: str) -> None:
        if await self._extractions.load(did, path) is None:
            raise RequestRefused(
                "InvalidRequest", f"parameter uri: no eprint at://{did}/{path} is indexed"
            )


PARTIAL = frozenset({ExtractionOutcome.INCOMPLETE, ExtractionOutcome.SHORTENED})

_REFUSALS = {
    Check.LIMITS: ExtractionOutcome.TOO_LARGE,
    Check.BLOCK_HASH: ExtractionOutcome.WRONG_CID,
}


def _eprint_uri(value: Json) -> tuple[str, str]:
    """(DID, collection/rkey) of the URI of an eprint."""
    if not isinstance(value, str):
        raise RequestRefused("InvalidRequest", "parameter uri: must be a text")
    try:
        uri = parse_at_uri(value)
    except InvalidUpstream as error:
        raise RequestRefused("InvalidRequest", f"parameter uri: {error.detail}") from error
    if uri.collection != COLLECTION or uri.rkey is None or not is_did(uri.authority):
        raise RequestRefused(
            "InvalidRequest", f"parameter uri: must be at://DID/{COLLECTION}/RKEY of an eprint"
        )
    return uri.authority, f"{uri.collection}/{uri.rkey}"


def _settled(
    eprint: EprintDocument, outcome: ExtractionOutcome, message: str | None, after_id: int | None
) -> SettledUnit:
    is_partial = outcome in PARTIAL and after_id is None
    return SettledUnit(
        unit=eprint.uri,
        outcome=outcome.value,
        records=1,
        is_failed=outcome in FAILED,
        message=None if message is None else message[:MESSAGE_CHARS_MAX],
        # Who has asked for one eprint sees on the operation itself what was not to be had.
        note=message[:MESSAGE_CHARS_MAX] if is_partial and message is not None else None,
        checkpoint=after_id,
    )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error itself: its class decides what becomes of the operation."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
