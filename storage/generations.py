"""Generations of derived tables: which there are, and how the tables of one are called.

Typed tables and search exist once for readers, in the generation that is `current`. A rebuild
fills another one, `building`, which takes its place in one transaction; what is `retired` is
cleared away in short steps. Every transaction that changes records writes to both that are in use,
and learns from the file which those are.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from indexer.errors import LocalFault
from indexer.records.projection import SearchIndex
from storage.database import Row

GENERATION = "__generation"
"""Stands in SQL texts for the suffix of the tables of one generation; see `Generation.sql`."""

IN_USE = """
SELECT number, state, fingerprint, judged_by, has_search, operation_id, upto_id, collection,
       after_id
FROM generation WHERE state <> 'retired' ORDER BY number
"""
"""Those that changes of records are written to: the current one and one in the making."""


class GenerationState(StrEnum):
    """What a generation is for."""

    CURRENT = "current"
    """Readers see it."""
    BUILDING = "building"
    """A rebuild fills it, and changes of records are written to it."""
    RETIRED = "retired"
    """Nobody reads or writes it any more."""


class SearchState(IntEnum):
    """What a change of a record does to the search rows of a generation."""

    ABSENT = 0
    """Nothing: they are still to be made."""
    KEPT = 1
    """They follow it in the same transaction."""
    OWED = 2
    """It is put down in `search_queue`, because they are being made elsewhere."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One set of derived tables."""

    number: int
    state: GenerationState
    fingerprint: str  # of the declarations that its tables were made from
    judged_by: str  # lexicons that all records were held against; "" where that were several
    search: SearchState
    operation_id: str | None  # that builds or has built it
    upto_id: int  # last record that has to be copied
    collection: str  # how far the copy has come: the collection it is at, "" before the first
    after_id: int  # and the last record of it that is done

    def table(self, name: str) -> str:
        """The table of this generation for a declared name."""
        return f"{name}__{self.number}"

    def search_table(self, search: SearchIndex) -> str:
        """Its full-text table: of the current one the name that readers know."""
        is_current = self.state is GenerationState.CURRENT
        return search.table if is_current else self.table(search.table)

    def sql(self, text: str) -> str:
        """An SQL text with the names of this generation's tables."""
        return text.replace(GENERATION, f"__{self.number}")


def generations_in_use(connection: sqlite3.Connection) -> list[Generation]:
    """Those that changes of records are written to."""
    return [generation_from_row(row) for row in connection.execute(IN_USE)]


def generation_from_row(row: Row) -> Generation:
    """The generation in a row of `IN_USE`."""
    state, search = GenerationState(row[1]), SearchState(row[4])
    return Generation(row[0], state, row[2], row[3], search, *row[5:])


def find_generation(connection: sqlite3.Connection, state: GenerationState) -> Generation | None:
    """The generation that is current, or in the making, if there is one."""
    return next((each for each in generations_in_use(connection) if each.state is state), None)


def current_generation(connection: sqlite3.Connection) -> Generation:
    """What readers see. Raises `LocalFault` for a file in which nothing was ever derived."""
    found = find_generation(connection, GenerationState.CURRENT)
    if found is None:
        raise LocalFault("the file has no derived tables")
    return found


def add_generation(connection: sqlite3.Connection, generation: Generation) -> None:
    """Put down a new one; its tables are the caller's to make."""
    connection.execute(
        "INSERT INTO generation (number, state, fingerprint, judged_by, has_search, operation_id,"
        " upto_id, collection, after_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            generation.number, generation.state, generation.fingerprint, generation.judged_by,
            generation.search, generation.operation_id, generation.upto_id,
            generation.collection, generation.after_id,
        ),
    )  # fmt: skip


def next_number(connection: sqlite3.Connection) -> int:
    """A number that no generation in the file has."""
    found = connection.execute("SELECT max(number) FROM generation").fetchone()[0]
    return (found or 0) + 1
