"""SQL text of the typed tables and views, made from what the record types declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from indexer.records.projection import (
    LABEL_MARK,
    Column,
    Count,
    Labels,
    RecordType,
    SearchIndex,
    SideColumn,
)
from storage.citation_views import EXTRACTED_COUNTS
from storage.generations import GENERATION, Generation

MARK_TABLE = f"""
CREATE TABLE mark{GENERATION} (
    record_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    subject TEXT NOT NULL,
    text TEXT,
    PRIMARY KEY (record_id, name, subject)
) STRICT, WITHOUT ROWID
"""

SEARCH_QUEUE = f"""
CREATE TABLE search_queue{GENERATION} (
    kind TEXT NOT NULL,                     -- repo | received | name of a mark
    subject TEXT NOT NULL,                  -- id of the repo | URI: received other texts | labelled
    after TEXT NOT NULL,                    -- last path or record id that is done
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID
"""

SEARCH_TRIGGER = f"""
CREATE TRIGGER search_queue{GENERATION}_repo AFTER UPDATE OF account_status ON repo
WHEN (old.account_status = 'active') <> (new.account_status = 'active') BEGIN
    INSERT OR REPLACE INTO search_queue{GENERATION} VALUES ('repo', new.id, '');
END
"""  # noqa: S608 - constants
"""An account that is hidden or shown again takes its search rows with it, in short transactions."""

SEARCH_TUNING = {"pgsz": 1000, "automerge": 16, "crisismerge": 64}
"""Of the full-text index, for a longest transaction that is half as long as without.

It merges 64 pages at a time, so smaller pages make smaller pieces; and with 16 parts of a size
instead of 4 before a merge, there are fewer merges, and searches take an eighth (one prefix) to a
half (two words, 0.15 to 0.22 ms) longer.
"""

MARK_INDEX = f"CREATE INDEX mark{GENERATION}_subject ON mark{GENERATION} (name, subject)"


def create_tables(
    types: Iterable[RecordType], search: SearchIndex, generation: Generation
) -> Iterator[str]:
    """Statements for all derived tables of one generation."""
    for kind in types:
        table = generation.table(kind.table)
        columns = _declared(kind.columns)
        yield f'CREATE TABLE "{table}" (record_id INTEGER PRIMARY KEY{columns}) STRICT'
        for column in kind.columns:
            if column.is_indexed:
                indexed = (column.name, *column.indexed_with)
                yield _create_index(table, indexed, is_whole=column.is_ordering)
        for side in kind.side_tables:
            name = generation.table(side.name)
            columns = _declared(side.columns)
            yield (
                f'CREATE TABLE "{name}" (record_id INTEGER NOT NULL, position INTEGER NOT NULL'
                f"{columns}, PRIMARY KEY (record_id, position)) STRICT, WITHOUT ROWID"
            )
            for side_column in side.columns:
                if side_column.is_indexed:
                    yield _create_index(name, (side_column.name,))
    for text in (MARK_TABLE, MARK_INDEX, SEARCH_QUEUE, SEARCH_TRIGGER):
        yield generation.sql(text)
    yield create_search_table(generation.search_table(search), search)


def _create_index(table: str, columns: Sequence[str], *, is_whole: bool = False) -> str:
    """Over what can be looked up; `is_whole` where NULL counts too."""
    names = ", ".join(f'"{name}"' for name in columns)
    condition = "" if is_whole else f' WHERE "{columns[0]}" IS NOT NULL'
    return f'CREATE INDEX "{table}_{columns[0]}" ON "{table}" ({names}){condition}'


def create_search_table(table: str, search: SearchIndex) -> str:
    """The statement for a full-text table.

    Of the beginnings of words only those of two letters have an index of their own. Longer ones are
    found in the index of the words in less than twice the time, and each further index would cost
    almost as much as all the rest of a row.
    """
    return (
        f'CREATE VIRTUAL TABLE "{table}" USING fts5({", ".join(search.columns)},'
        " tokenize = 'unicode61 remove_diacritics 2', prefix = '2')"
    )


def _declared(columns: Iterable[Column | SideColumn]) -> str:
    return "".join(
        f', "{column.name}" {column.type}{" COLLATE NOCASE" if column.is_caseless else ""}'
        for column in columns
    )


def create_views(types: Iterable[RecordType], generation: Generation) -> Iterator[str]:
    """Statements for the typed views, which show valid records of visible accounts."""
    for kind in types:
        yield f'DROP VIEW IF EXISTS "{kind.table}"'
        yield generation.sql(_view(kind))
        for side in kind.side_tables:
            names = "".join(f', side."{column.name}"' for column in side.columns)
            yield f'DROP VIEW IF EXISTS "{side.name}"'
            yield (
                f'CREATE VIEW "{side.name}" AS SELECT {_URI} AS uri, side.position{names},'  # noqa: S608 - declared names
                f' side.record_id AS rowid FROM "{generation.table(side.name)}" AS side'
                " JOIN record ON record.id = side.record_id"
                " JOIN repo ON repo.id = record.repo_id WHERE repo.account_status = 'active'"
            )


_URI = "'at://' || repo.did || '/' || record.path"


def _view(kind: RecordType) -> str:
    own = [f'typed."{column.name}"' for column in kind.columns]
    selected = [
        "typed.record_id AS rowid",
        f"{_URI} AS uri",
        "repo.did AS did",
        "record.rkey AS rkey",
        "record.cid AS cid",
        own[0],
        "record.indexed_at AS indexed_at",
        *own[1:],
    ]
    if kind.did_column is not None:
        selected.append(f'repo.did AS "{kind.did_column}"')
    selected += [_count(count) for count in kind.counts]
    selected += [_labels(labels) for labels in kind.labels]
    selected.append("repo.pds_url AS pds_url")
    return (
        f'CREATE VIEW "{kind.table}" AS SELECT {", ".join(selected)}'  # noqa: S608 - declared names
        f' FROM "{kind.table}{GENERATION}" AS typed'
        " JOIN record ON record.id = typed.record_id"
        " JOIN repo ON repo.id = record.repo_id WHERE repo.account_status = 'active'"
    )


def _count(count: Count) -> str:
    also = EXTRACTED_COUNTS.get(count.mark)
    extracted = "" if also is None else f" + {also}"
    counted = "count(DISTINCT marker.repo_id)" if count.is_per_account else "count(*)"
    return (
        f"(SELECT {counted} FROM mark{GENERATION} AS mark"  # noqa: S608 - declared names
        " JOIN record AS marker ON marker.id = mark.record_id"
        " JOIN repo AS author ON author.id = marker.repo_id"
        f" WHERE mark.name = '{count.mark}' AND mark.subject = {_URI}"
        f" AND author.account_status = 'active'){extracted} AS \"{count.column}\""
    )


def _labels(labels: Labels) -> str:
    last_part = "replace(own.subject, rtrim(own.subject, replace(own.subject, '/', '')), '')"
    escaped = (
        f"SELECT own.subject AS subject, {last_part} AS id,"  # noqa: S608 - declared names
        f" (SELECT named.text FROM mark{GENERATION} AS named"
        " JOIN record AS node ON node.id = named.record_id"
        " JOIN repo AS holder ON holder.id = node.repo_id AND holder.account_status = 'active'"
        f" WHERE named.name = '{LABEL_MARK}' AND named.subject = own.subject LIMIT 1) AS label"
        f" FROM mark{GENERATION} AS own WHERE own.record_id = typed.record_id"
        f" AND own.name = '{labels.mark}' ORDER BY own.text"
    )
    for escapes in _JSON_ESCAPES:
        texts = ", ".join(f"{_replaced(name, escapes)} AS {name}" for name in _LABEL_KEYS)
        escaped = f"SELECT {texts} FROM ({escaped})"  # noqa: S608 - declared names
    pairs = " || ',' || ".join(
        f"""'"{key}":' || coalesce('"' || {name} || '"', 'null')"""
        for name, key in _LABEL_KEYS.items()
    )
    items = f"coalesce(group_concat('{{' || {pairs} || '}}', ','), '')"
    return f"(SELECT '[' || {items} || ']' FROM ({escaped})) AS \"{labels.column}\""  # noqa: S608 - declared names


_LABEL_KEYS = {"subject": "uri", "label": "label", "id": "id"}

_JSON_ESCAPES = (
    (("'\\'", "'\\\\'"), ("'\"'", "'\\\"'")),
    *(
        tuple((f"char({code})", f"'\\u{code:04x}'") for code in codes)
        for codes in (range(1, 11), range(11, 22), range(22, 32))
    ),
)
"""What JSON strings escape, in steps that SQLite's parser can nest; texts of marks hold no NUL.

SQLite has functions for JSON, but in 3.40 no view may use them where `trusted_schema` is off, as
careful readers have it.
"""


def _replaced(text: str, escapes: Iterable[tuple[str, str]]) -> str:
    for character, escape in escapes:
        text = f"replace({text}, {character}, {escape})"
    return text
