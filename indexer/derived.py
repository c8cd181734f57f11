"""Rows that are derived of one record: plain data, from whoever projects it to whoever stores it.

What each part is for, and the tables that hold it, say `indexer.records.projection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

SqlValue: TypeAlias = str | int | None


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """This record counts towards `subject` under `name`, with a text where that is of use.

    Views and search put texts together in SQL, so they hold no NUL.
    """

    name: str
    subject: str
    text: str | None = None


class Projection(msgspec.Struct, frozen=True, array_like=True):
    """The derived rows of one record."""

    row: tuple[SqlValue, ...]  # as RecordType.columns
    side_rows: Mapping[str, tuple[tuple[SqlValue, ...], ...]]  # as RecordType.side_tables
    marks: tuple[Mark, ...]
    search: tuple[str, ...] | None  # as SEARCH.own; None: not searchable

    @property
    def side_row_count(self) -> int:
        """Of all side tables together."""
        return sum(map(len, self.side_rows.values()))
