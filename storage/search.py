"""Full-text search of eprints, for readers of the file.

Owns the query language that people type: words, all of which must occur, `"several words"` in
this order, and `begin*`. Everything else is text: what is typed becomes quoted strings of FTS5, so
that no query is a syntax error and none reaches FTS5's own operators.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from storage.generations import GENERATION, current_generation
from storage.reading import snapshot

TERMS_MAX = 32
"""Words and phrases of a query that count; a person types no more."""

TERM_CHARS_MAX = 100
"""Of a longer one, such as a title in quotation marks, the beginning is looked for."""

RANKED_MAX = 1_000
"""Matches that are ranked, those indexed last. Ranking all with a common word takes seconds."""

WEIGHTS = "10.0, 2.0, 5.0, 5.0, 4.0, 4.0"
"""Of a word in title, abstract, keywords, authors, fields, tags."""

SNIPPET_TOKENS = 24
BEGIN_MARK, END_MARK = "\x02", "\x03"
"""Around what matched, in `title` and `snippet`: control characters, which no tag is made of."""

_TERM = re.compile(r'"(?P<phrase>[^"]*)"?(?P<phrase_star>\*?)|(?P<word>[^\s"]+)')
_ORCID = re.compile(r"(?:https?://orcid\.org/)?(\d{4}-\d{4}-\d{4}-\d{3}[\dX])", re.IGNORECASE)

# Matches are marked in one more pass over the index, not one by one: each look-up of a prefix
# would merge the lists of all words that begin so.
_FOUND = f"""
WITH ranked AS MATERIALIZED (
    SELECT id, score FROM (
        SELECT eprint_search.rowid AS id, bm25(eprint_search, {WEIGHTS}) AS score
        FROM eprint_search{{joined}}
        WHERE eprint_search MATCH :match{{filters}}
        ORDER BY eprint_search.rowid DESC LIMIT {RANKED_MAX})
    ORDER BY score, id DESC LIMIT :limit OFFSET :offset
)
SELECT eprint.uri, eprint.did, eprint.created_at, eprint.license, eprint.doi,
       highlight(eprint_search, 0, '{BEGIN_MARK}', '{END_MARK}'),
       snippet(eprint_search, 1, '{BEGIN_MARK}', '{END_MARK}', '...', {SNIPPET_TOKENS}),
       eprint_search.authors, -ranked.score
FROM eprint_search
CROSS JOIN ranked ON ranked.id = eprint_search.rowid
CROSS JOIN eprint_submission AS eprint ON eprint.rowid = ranked.id
WHERE eprint_search MATCH :match
  AND eprint_search.rowid BETWEEN (SELECT min(id) FROM ranked) AND (SELECT max(id) FROM ranked)
ORDER BY ranked.score, ranked.id DESC
"""  # noqa: S608 - constants

# Without words of a query nothing ranks: the whole index is listed, by the date that authors give.
_LISTED = f"""
WITH listed AS MATERIALIZED (
    SELECT eprint.record_id AS id, eprint.created_at AS created_at
    FROM eprint_submission{GENERATION} AS eprint
    JOIN record ON record.id = eprint.record_id
    JOIN repo ON repo.id = record.repo_id
    WHERE repo.account_status = 'active'{{filters}}
    ORDER BY eprint.created_at DESC, id DESC LIMIT :limit OFFSET :offset
)
SELECT eprint.uri, eprint.did, eprint.created_at, eprint.license, eprint.doi, eprint_search.title,
       snippet(eprint_search, 1, '', '', '...', {SNIPPET_TOKENS}), eprint_search.authors, 0.0
FROM listed
CROSS JOIN eprint_search ON eprint_search.rowid = listed.id
CROSS JOIN eprint_submission AS eprint ON eprint.rowid = listed.id
ORDER BY listed.created_at DESC, listed.id DESC
"""  # noqa: S608 - constants

# Only where a filter asks for it: the rows are wide, and most matches are never shown. The index
# holds visible accounts, give or take the second that it lags; what is shown is looked up in views.
_JOINED = f"""
        CROSS JOIN eprint_submission{GENERATION} AS eprint
            ON eprint.record_id = eprint_search.rowid"""
_AUTHOR = f"""
          AND eprint.record_id IN (
              SELECT record_id FROM eprint_submission{GENERATION} WHERE submitted_by = :author
              UNION ALL
              SELECT record_id FROM eprint_author{GENERATION} WHERE author_did = :author
              UNION ALL
              SELECT record_id FROM eprint_author{GENERATION} WHERE handle = :author
              UNION ALL
              SELECT record_id FROM eprint_author{GENERATION} WHERE orcid = :author
              UNION ALL
              SELECT record.id FROM repo JOIN record ON record.repo_id = repo.id
              WHERE repo.did = :author AND record.path BETWEEN 'pub.chive.eprint.submission/'
                                                           AND 'pub.chive.eprint.submission0')
"""  # noqa: S608 - constants
_FIELD = f"""
          AND eprint.record_id IN (
              SELECT record_id FROM mark{GENERATION}
              WHERE name = 'field' AND subject = :field)"""  # noqa: S608 - constants
_YEAR = """
          AND eprint.created_at BETWEEN :year || '-' AND :year || '.'"""
_LICENCE = """
          AND eprint.license = :licence"""
_WORDS = """
          AND eprint.record_id IN (
              SELECT rowid FROM eprint_search WHERE eprint_search MATCH :match)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilter:
    """What the found eprints must have besides the words."""

    author: str | None = None  # a DID, an ORCID iD, @handle, or words of a name
    field: str | None = None  # the AT-URI of a node, or words of its label
    year: int | None = None  # of `createdAt`
    licence: str | None = None  # slug, in either case


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundEprint:
    """One result; matches in `title` and `snippet` stand between BEGIN_MARK and END_MARK."""

    uri: str
    did: str  # of the repo: of a paper with an account of its own it is the paper's
    created_at: str | None
    licence: str | None
    doi: str | None
    title: str
    snippet: str  # of the abstract
    authors: tuple[str, ...]
    score: float  # greater is better; comparable within one search only; 0 without words


def search_eprints(
    connection: sqlite3.Connection,
    query: str,
    wanted: SearchFilter,
    *,
    limit: int,
    offset: int = 0,
) -> list[FoundEprint]:
    """The best of the newest `RANKED_MAX` visible eprints that match; best first.

    Without a word in the query, all that the filters let through, newest `createdAt` first and
    with nothing marked. No query is an error; one that asks for nothing finds nothing.
    """
    terms = list(_terms(query))
    has_words = bool(terms)
    parameters: dict[str, object] = {"limit": limit, "offset": offset}
    filters = ""
    if wanted.author is not None:
        account = _account(wanted.author)
        if account is None:
            terms += (f"authors : {term}" for term in _terms(wanted.author))
        else:
            parameters["author"] = account
            filters += _AUTHOR
    if wanted.field is not None:
        if wanted.field.startswith("at://"):
            parameters["field"] = _storable(wanted.field)
            filters += _FIELD
        else:
            terms += (f"fields : {term}" for term in _terms(wanted.field))
    if wanted.year is not None:
        parameters["year"] = f"{wanted.year:04}"
        filters += _YEAR
    if wanted.licence is not None:
        parameters["licence"] = _storable(wanted.licence)
        filters += _LICENCE
    if terms:
        parameters["match"] = " AND ".join(terms)
    if has_words:
        statement = _FOUND.format(joined=_JOINED if filters else "", filters=filters)
    elif terms or filters:
        statement = _LISTED.format(filters=filters + (_WORDS if terms else ""))
    else:
        return []
    with snapshot(connection):
        generation = current_generation(connection)
        rows = connection.execute(generation.sql(statement), parameters).fetchall()
    return [
        FoundEprint(
            uri=row[0],
            did=row[1],
            created_at=row[2],
            licence=row[3],
            doi=row[4],
            title=row[5],
            snippet=row[6],
            authors=tuple(row[7].split("\n")) if row[7] else (),
            score=row[8],
        )
        for row in rows
    ]


def _terms(query: str) -> Iterator[str]:
    """FTS5 strings of what is typed: `deep "neural nets" lin*` -> `"deep"`, ..., `"lin" *`."""
    for count, found in enumerate(_TERM.finditer(_storable(query))):
        if count == TERMS_MAX:
            return
        text, is_prefix = found["phrase"], bool(found["phrase_star"])
        if text is None:
            text, is_prefix = found["word"].rstrip("*"), found["word"].endswith("*")
        begin = text[:TERM_CHARS_MAX]
        # A string without a letter or digit holds no token, and FTS5 then finds nothing at all.
        if any(character.isalnum() for character in begin):
            is_cut = len(begin) < len(text)  # perhaps within a word
            yield f'"{begin}"' + (" *" if is_prefix or is_cut else "")


def _storable(text: str) -> str:
    """Without what SQLite cannot take: NUL ends its texts, lone surrogates are no UTF-8."""
    return text.replace("\0", " ").encode(errors="replace").decode()


def _account(author: str) -> str | None:
    """What identifies one author, or None for words of a name."""
    text = _storable(author).strip()
    orcid = _ORCID.fullmatch(text)
    if orcid is not None:
        return orcid[1].upper()
    if text.startswith("@"):
        return text[1:]
    return text if text.startswith("did:") else None
