"""Extracted citations: which eprints lack them, and all of one eprint's rows replaced at once.

A thousand citations are some six thousand rows, more than the writer may be held for. They are
written beside the old ones, a part at a time, as an extraction of no eprint, which no reader sees;
the transaction with the last part gives it the eprint and settles the unit. What it took the place
of is cleared away by the upkeep, as is what a crash left half written.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from indexer.citations.eprint import EprintDocument, submission_keys
from indexer.citations.identifiers import normal_doi
from indexer.citations.merging import Citation
from indexer.citations.reference import CitationSource, KeyKind, Reference
from indexer.citations.result import Extraction
from indexer.clock import Clock
from indexer.model import Operation, SettledUnit, utc_text
from storage.database import Database, Row
from storage.operation_units import settle_units
from storage.operations import load_operation
from storage.rows import insert_rows

ATTEMPTS_MAX = 3
"""After so many an extraction counts as made, though a source could never be asked."""

STEP_ROWS = 250
"""Rows that are cleared away in one transaction."""

PART_CITATIONS = 100
"""Citations, each with up to five keys, that are written in one transaction."""

_COLUMNS = """
eprint.rowid, eprint.uri, eprint.did, eprint.document_blob_cid, eprint.document_format,
eprint.document_blob_size, eprint.arxiv_id, eprint.title, eprint.external_ids,
eprint.published_version
"""

_LACKING = f"""
FROM eprint_submission AS eprint
LEFT JOIN citation_extraction AS done ON done.record_id = eprint.rowid
WHERE eprint.rowid > ?1 AND eprint.document_blob_cid IS NOT NULL
  AND (done.id IS NULL OR done.document_cid <> eprint.document_blob_cid OR done.version <> ?2
       OR (done.is_complete = 0 AND done.attempts < {ATTEMPTS_MAX}))
"""

_PAGE = f"""
SELECT {_COLUMNS} {_LACKING}
  AND NOT EXISTS (SELECT 1 FROM operation_unit
                  WHERE operation_id = ?3 AND unit = eprint.uri)
ORDER BY eprint.rowid LIMIT ?4
"""  # noqa: S608 - constants

_ONE = f"""
SELECT {_COLUMNS} FROM repo
JOIN record ON record.repo_id = repo.id
JOIN eprint_submission AS eprint ON eprint.rowid = record.id
WHERE repo.did = ? AND record.path = ? AND eprint.document_blob_cid IS NOT NULL
"""  # noqa: S608 - constants

_IS_CURRENT = """
SELECT 1 FROM eprint_submission WHERE rowid = ? AND uri = ? AND document_blob_cid = ?
"""

_STAGE = """
INSERT INTO citation_extraction
    (record_id, document_cid, version, is_complete, attempts, outcome, extracted_at)
VALUES (NULL, ?, ?, ?, 1, ?, ?)
RETURNING id
"""

_ATTEMPTS = """
UPDATE citation_extraction
SET attempts = 1 + coalesce((
    SELECT attempts FROM citation_extraction
    WHERE record_id = ?1 AND document_cid = ?2 AND version = ?3), 0)
WHERE id = ?4
"""
_LET_GO = "UPDATE citation_extraction SET record_id = NULL WHERE record_id = ?"
_TAKE = "UPDATE citation_extraction SET record_id = ? WHERE id = ?"

_KNOWN = """
SELECT found.source, found.sources, found.raw, found.title, found.authors, found.year, found.venue,
       found.doi, found.arxiv_id, found.pmid, found.pmcid
FROM citation_extraction AS extraction
JOIN extracted_citation AS found ON found.extraction_id = extraction.id
WHERE extraction.record_id = ? AND extraction.document_cid = ? ORDER BY found.position
"""

_ORPHAN = """
SELECT id FROM citation_extraction
WHERE record_id IS NULL AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT 1
"""
_CLEAR_SOME_KEYS = """
DELETE FROM citation_key WHERE (extraction_id, position, rank) IN (
    SELECT extraction_id, position, rank FROM citation_key WHERE extraction_id = ?1 LIMIT ?2)
"""
_CLEAR_SOME = """
DELETE FROM extracted_citation WHERE (extraction_id, position) IN (
    SELECT extraction_id, position FROM extracted_citation WHERE extraction_id = ?1 LIMIT ?2)
"""

_RANKS = {kind.value: rank for rank, kind in enumerate(KeyKind)}


class CitationStore:
    """Satisfies `indexer.operations.citation_extraction.Extractions`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._staged: set[_Staged] = set()  # what is being written

    async def begin(self, operation_id: str, version: str) -> Operation:
        """Count the eprints that lack a current extraction, once; the operation's row then."""
        # Not by the writer: it looks at every eprint.
        rows = await self._database.read(f"SELECT count(*) {_LACKING}", (0, version))

        def change(connection: sqlite3.Connection) -> Operation:
            connection.execute(
                "UPDATE operation SET total_units = ?1, total_records = ?1"
                " WHERE id = ?2 AND total_units IS NULL",
                (rows[0][0], operation_id),
            )
            return load_operation(connection, operation_id)

        return await self._database.write(change)

    async def load(self, did: str, path: str) -> EprintDocument | None:
        """One eprint with its document; None where there is no such visible, valid record."""
        rows = await self._database.read(_ONE, (did, path))
        return _eprint(rows[0]) if rows else None

    async def lacking(
        self, operation_id: str, version: str, after_id: int, limit: int
    ) -> list[EprintDocument]:
        """Eprints after a record id that lack a current extraction, in order.

        Those that the operation has settled already are left out.
        """
        rows = await self._database.read(_PAGE, (after_id, version, operation_id, limit))
        return [_eprint(row) for row in rows]

    async def known(self, eprint: EprintDocument) -> tuple[Citation, ...]:
        """What the last extraction from this document came to; nothing where there was none."""
        rows = await self._database.read(_KNOWN, (eprint.record_id, eprint.cid))
        return tuple(_citation(row) for row in rows)

    async def replace(
        self, operation_id: str, extraction: Extraction, unit: SettledUnit, changed: SettledUnit
    ) -> Operation | None:
        """Let readers see an eprint's new rows in place of the old, and settle its unit, at once.

        Where the eprint is no longer the one that was read nothing is replaced, and the unit is
        settled as `changed`. None when the unit had been settled, or the operation has ended.
        """
        citations = extraction.citations
        last = max(len(citations) - 1, 0) // PART_CITATIONS * PART_CITATIONS
        staged, now = _Staged(), utc_text(self._clock.now())

        def change(connection: sqlite3.Connection) -> Operation | None:
            of_eprint = (extraction.record_id, extraction.uri, extraction.document_cid)
            if connection.execute(_IS_CURRENT, of_eprint).fetchone() is None:
                return settle_units(connection, operation_id, [changed])
            row = settle_units(connection, operation_id, [unit])
            if row is not None:
                _write_part(connection, staged, citations, last)
                _put_in_place(connection, staged, extraction)
            return row

        self._staged.add(staged)
        try:
            await self._database.write(partial(_stage, staged, extraction, now))
            for at in range(0, last, PART_CITATIONS):
                part = partial(_write_part, staged=staged, citations=citations, at=at)
                await self._database.write(part)
            return await self._database.write(change)
        finally:
            self._staged.discard(staged)

    async def step(self) -> int:
        """Clear away some rows that belong to no eprint; how many, 0 when there is none."""
        return await self._database.write(self._step)

    def _step(self, connection: sqlite3.Connection) -> int:
        staged = [each.extraction_id for each in tuple(self._staged)]
        orphan = connection.execute(_ORPHAN, (json.dumps(staged),)).fetchone()
        if orphan is None:
            return 0
        for statement in (_CLEAR_SOME_KEYS, _CLEAR_SOME):
            removed = connection.execute(statement, (orphan[0], STEP_ROWS)).rowcount
            if removed:
                return removed
        return connection.execute("DELETE FROM citation_extraction WHERE id = ?", orphan).rowcount


@dataclass(eq=False, slots=True)
class _Staged:
    """An extraction in the making, which the upkeep must leave alone."""

    extraction_id: int = 0  # once it has a row


def _stage(
    staged: _Staged, extraction: Extraction, now: str, connection: sqlite3.Connection
) -> None:
    made_of = (extraction.document_cid, extraction.version, extraction.is_complete)
    saved = connection.execute(_STAGE, (*made_of, extraction.outcome, now)).fetchone()
    staged.extraction_id = saved[0]


def _put_in_place(connection: sqlite3.Connection, staged: _Staged, extraction: Extraction) -> None:
    record_id = extraction.record_id
    made_of = (extraction.document_cid, extraction.version)
    connection.execute(_ATTEMPTS, (record_id, *made_of, staged.extraction_id))
    connection.execute(_LET_GO, (record_id,))
    connection.execute(_TAKE, (record_id, staged.extraction_id))


def _write_part(
    connection: sqlite3.Connection, staged: _Staged, citations: Sequence[Citation], at: int
) -> None:
    extraction_id = staged.extraction_id
    rows: list[Sequence[object]] = []
    keys: list[Sequence[object]] = []
    for position, citation in enumerate(citations[at : at + PART_CITATIONS], at):
        work = citation.reference
        rows.append(
            (
                extraction_id, position, work.source, json.dumps(citation.sources), work.raw,
                work.title, json.dumps(work.authors, ensure_ascii=False), work.year, work.venue,
                work.doi, work.arxiv_id, work.pmid, work.pmcid,
            )
        )  # fmt: skip
        keys += ((extraction_id, position, _rank(key), key) for key in work.match_keys())
    insert_rows(connection, "extracted_citation", rows)
    insert_rows(connection, "citation_key", keys)


def _citation(row: Row) -> Citation:
    source, sources, raw, title, authors, year, venue, doi, arxiv_id, pmid, pmcid = row
    reference = Reference(
        source=CitationSource(source), raw=raw, title=title, authors=tuple(json.loads(authors)),
        year=year, venue=venue, doi=doi, arxiv_id=arxiv_id, pmid=pmid, pmcid=pmcid,
    )  # fmt: skip
    return Citation(reference, tuple(CitationSource(each) for each in json.loads(sources)))


def _rank(key: str) -> int:
    return _RANKS[key[: key.index(":")]]


def _eprint(row: Row) -> EprintDocument:
    record_id, uri, did, cid, form, size, arxiv_id, title, external, published = row
    external_ids = json.loads(external) if external else {}
    published_version = json.loads(published) if published else {}
    doi = published_version.get("doi")
    semantic_scholar_id = external_ids.get("semanticScholarId")
    return EprintDocument(
        record_id=record_id,
        uri=uri,
        did=did,
        cid=cid,
        form=form,
        size=size,
        # Not the column: until a rebuild has ended it is as the version before has made it.
        doi=normal_doi(doi) if isinstance(doi, str) else None,
        arxiv_id=arxiv_id,
        semantic_scholar_id=semantic_scholar_id if isinstance(semantic_scholar_id, str) else None,
        keys=frozenset(
            submission_keys(
                {
                    "title": title,
                    "externalIds": external_ids,
                    "publishedVersion": published_version,
                }
            )
        ),
    )
