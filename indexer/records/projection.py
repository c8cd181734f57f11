"""What a record type declares, so that storage can keep its tables without knowing any of them.

Owns the declarations (`RecordType`, `Column`, `SideTable`, `Mark`, `Count`, `Labels`) and the pure
step from a valid, upgraded value to rows. Refuses nothing: a value that reaches it is valid, and
what a lexicon leaves open is read tolerantly. No SQL here, and no rows of other records: whatever
depends on them is expressed by marks, so that no order of arrival matters.

The contract with storage, for each type of the registry:

* A table `<table><suffix>` with `record_id INTEGER PRIMARY KEY` (the `id` of its `record` row) and
  `columns` in this order; an index over each column that is `is_indexed`. `Projection.row` holds
  the values of `columns`. A deleted or no longer valid record leaves no row anywhere.
* For each of `side_tables` a table `<name><suffix>` with `record_id, position` (primary key) and
  its columns; `Projection.side_rows[name]` are its rows, `position` counts from 0.
* One table `mark(record_id, name, subject, text)` for all types, unique in the first three, with
  an index over `(name, subject)`. A mark says: this record counts towards the URI `subject` under
  `name`. Subjects need not exist. The marks of a record are replaced whenever its row is.
* A view named `table`: `rowid` (the record id), `uri, did, rkey, cid, created_at, indexed_at`, the
  other columns, `did` again as `did_column` if that is set, and then
    - each of `counts`: the number of marks of visible records named `mark` whose subject is this
      row's URI; with `is_per_account` the number of accounts that have one;
    - each of `labels`: a JSON list of `{"uri", "label", "id"}` over the subjects of this record's
      own marks named `mark`, in order of `text`: label is the text of the subject's mark `label`
      upon itself (null until it arrives), id the last part of the URI.
* Where `Projection.search` is set and the account is visible, one row of the FTS5 table
  `SEARCH.table` with rowid = record id
  and `SEARCH.columns`, each cut by `searchable`: `SEARCH.own` from the projection;
  `SEARCH.labels` maps a column to a mark of this record, whose subjects' labels it holds;
  `SEARCH.received` maps a column to a mark that other records set on this URI, whose texts it
  holds; both of visible accounts. When a mark named in `received` or `label` changes, the rows
  that it reaches are written again in the same transaction, and those beyond what one transaction
  may take soon after.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

import msgspec

from indexer.derived import Mark, Projection, SqlValue
from indexer.protocol.cbor import encode_json

Value: TypeAlias = Mapping[str, object]
"""A record value, or an object inside one, as ATProto JSON."""


class SqlType(StrEnum):
    """Column types of STRICT tables; flags are integers 0 and 1, lists and objects JSON text."""

    TEXT = "TEXT"
    INTEGER = "INTEGER"


class RecordContext(msgspec.Struct, frozen=True):
    """What a projection may know besides the value."""

    did: str  # of the repo that holds the record
    uri: str  # at://did/collection/rkey
    rkey: str
    governance_did: str  # the account whose graph records are the authority
    signed: Value  # the value before upgrades

    @property
    def is_authority(self) -> bool:
        """Whether the record is the governance account's."""
        return self.did == self.governance_did


Extract: TypeAlias = Callable[[Value, RecordContext], SqlValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a typed table and how its value is found."""

    name: str
    type: SqlType
    extract: Extract
    fields: tuple[str, ...]  # top-level fields of the record that it is made from
    is_indexed: bool = False
    indexed_with: tuple[str, ...] = ()  # further columns of the same index
    is_ordering: bool = False  # rows are ordered or grouped by it, so NULL is indexed too
    is_caseless: bool = False  # letters of ASCII are equal in both cases


@dataclass(frozen=True, slots=True)
class SideColumn:
    """One column of a side table."""

    name: str
    type: SqlType = SqlType.TEXT
    is_indexed: bool = False
    is_caseless: bool = False


@dataclass(frozen=True, slots=True)
class SideTable:
    """Rows that a record has several of."""

    name: str
    columns: tuple[SideColumn, ...]
    rows: Callable[[Value, RecordContext], Iterable[tuple[SqlValue, ...]]]


Marks: TypeAlias = Callable[[Value, RecordContext], Iterable[Mark]]


@dataclass(frozen=True, slots=True)
class Count:
    """A view column: how many visible marks named `mark` there are on the row's URI."""

    column: str
    mark: str
    is_per_account: bool = False


@dataclass(frozen=True, slots=True)
class Labels:
    """A view column: the labels of the subjects of the row's own marks named `mark`."""

    column: str
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchIndex:
    """The one full-text index; see the module docstring for the three kinds of columns."""

    table: str
    columns: tuple[str, ...]
    own: tuple[str, ...]
    labels: Mapping[str, str]  # column -> mark of this record
    received: Mapping[str, str]  # column -> mark of other records on this URI


PROJECTION_REVISION = 5
"""Raised whenever a record would give other rows in the same columns: then all are made again."""

LABEL_MARK = "label"
"""A record's mark upon its own URI: what to call it."""

SEARCH = SearchIndex(
    table="eprint_search",
    columns=("title", "abstract", "keywords", "authors", "fields", "tags"),
    own=("title", "abstract", "keywords", "authors"),
    labels={"fields": "field"},
    received={"tags": "tag"},
)

SEARCH_TEXT_CHARS_MAX = 20_000
"""Of one text of a search row, ten times a long abstract: any change of a row, such as a new tag,
tokenises all of it again, which takes about 1 ms for each 1,000 characters."""

Upgrade: TypeAlias = Callable[[Value, RecordContext], dict[str, object]]
"""A value of one revision as the next one has it; the given value stays as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordType:
    """Everything that the index does with one collection."""

    nsid: str
    own_columns: tuple[Column, ...]
    did_column: str | None = None  # what the view calls the author's DID besides `did`
    side_tables: tuple[SideTable, ...] = ()
    marks: tuple[Marks, ...] = ()
    counts: tuple[Count, ...] = ()
    labels: tuple[Labels, ...] = ()
    search: Callable[[Value, RecordContext], tuple[str, ...]] | None = None
    feeds_search: bool = False  # whether search rows of others hold texts of its marks
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)  # from revision -> step
    columns: tuple[Column, ...] = field(init=False)
    table: str = field(init=False)
    """Snake case of the last two NSID segments: `eprint_user_tag`."""

    def __post_init__(self) -> None:
        words = "_".join(self.nsid.split(".")[-2:])
        table = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower()
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "columns", (CREATED_AT, *self.own_columns))

    def upgrade(self, value: Value, context: RecordContext) -> Value:
        """The value in the current revision; of an unknown revision as it is."""
        revision = value.get("schemaRevision", 1)
        while type(revision) is int and (step := self.upgrades.get(revision)) is not None:
            revision += 1
            value = step(value, context) | {"schemaRevision": revision}
        return value

    def project(self, value: Value, context: RecordContext) -> Projection:
        """The rows of a valid, upgraded value."""
        marks = {
            (mark.name, mark.subject): mark for find in self.marks for mark in find(value, context)
        }
        return Projection(
            row=tuple([column.extract(value, context) for column in self.columns]),
            side_rows={side.name: tuple(side.rows(value, context)) for side in self.side_tables},
            marks=tuple(marks.values()),
            search=None
            if self.search is None
            else tuple(map(searchable, self.search(value, context))),
        )


def searchable(text: str) -> str:
    """What search holds of a text: its beginning, without NUL."""
    return without_nul(text[:SEARCH_TEXT_CHARS_MAX])


def without_nul(text: str) -> str:
    """NUL as a space: it ends texts for FTS5, and no function of SQLite's replaces it."""
    return text.replace("\0", " ")


def pick(value: object, *path: str) -> object:
    """What is found along `path` through nested objects; None where there is none."""
    for name in path:
        if not isinstance(value, dict):  # a test against Mapping costs five times as much
            return None
        value = value.get(name)
    return value


def _finder(path: tuple[str, ...]) -> Callable[[Value], object]:
    """`pick` along a path: at once where that is one name, as in most columns."""
    if len(path) == 1:
        return operator.methodcaller("get", path[0])
    return lambda value: pick(value, *path)


def objects(value: object) -> list[Value]:
    """The objects of a list; anything else counts as an empty one."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """The strings of a list; anything else counts as an empty one."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def text(
    name: str,
    *path: str,
    default: str | None = None,
    is_indexed: bool = False,
    indexed_with: tuple[str, ...] = (),
) -> Column:
    """A column with the string at `path`."""
    find = _finder(path)

    def extract(value: Value, _: RecordContext) -> SqlValue:
        found = find(value)
        return found if type(found) is str else default

    return Column(
        name=name,
        type=SqlType.TEXT,
        extract=extract,
        fields=path[:1],
        is_indexed=is_indexed,
        indexed_with=indexed_with,
    )


def integer(name: str, *path: str, default: int | None = None) -> Column:
    """A column with the integer at `path`."""
    find = _finder(path)

    def extract(value: Value, _: RecordContext) -> SqlValue:
        found = find(value)
        return found if type(found) is int else default

    return Column(name=name, type=SqlType.INTEGER, extract=extract, fields=path[:1])


def flag(name: str, *path: str, default: bool | None = None) -> Column:
    """A column with the boolean at `path`, as 0 or 1."""
    find = _finder(path)

    def extract(value: Value, _: RecordContext) -> SqlValue:
        found = find(value)
        chosen = found if type(found) is bool else default
        return None if chosen is None else int(chosen)

    return Column(name=name, type=SqlType.INTEGER, extract=extract, fields=path[:1])


def json_text(name: str, *path: str) -> Column:
    """A column with the list or object at `path`, as JSON text."""
    find = _finder(path)

    def extract(value: Value, _: RecordContext) -> SqlValue:
        found = find(value)
        return encode_json(found) if isinstance(found, list | dict) else None

    return Column(name=name, type=SqlType.TEXT, extract=extract, fields=path[:1])


def computed(
    name: str,
    sql_type: SqlType,
    extract: Extract,
    *fields: str,
    is_indexed: bool = False,
    is_ordering: bool = False,
) -> Column:
    """A column with a rule of its own over the named fields."""
    return Column(
        name=name,
        type=sql_type,
        extract=extract,
        fields=fields,
        is_indexed=is_indexed,
        is_ordering=is_ordering,
    )


def blob(prefix: str, name: str) -> tuple[Column, ...]:
    """Three columns for a blob of either form: its CID, MIME type and size in bytes."""

    def cid(value: Value, _: RecordContext) -> SqlValue:
        found = pick(value, name, "ref", "$link") or pick(value, name, "cid")
        return found if type(found) is str else None

    return (
        computed(f"{prefix}_cid", SqlType.TEXT, cid, name),
        text(f"{prefix}_mime_type", name, "mimeType"),
        integer(f"{prefix}_size", name, "size"),
    )


def mark(name: str, *path: str, text: str | None = None) -> Marks:
    """A mark on the URI at `path`, if there is one; `text` names the field with its text."""

    def find(value: Value, _: RecordContext) -> Iterable[Mark]:
        subject = pick(value, *path)
        if type(subject) is str:
            said = value.get(text) if text is not None else None
            yield Mark(name, subject, without_nul(said) if type(said) is str else None)

    return find


CREATED_AT = replace(text("created_at", "createdAt", is_indexed=True), is_ordering=True)
"""First column of every type: what the author wrote, unparsed; NULL where the type has none."""
