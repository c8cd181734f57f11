"""Pages of rows, newest first: the cursor is the id of the last row of the page before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from admin_api.xrpc import Call
from indexer.errors import RequestRefused

LISTED_DEFAULT = 50
ID_DIGITS_MAX = 18


class Row(Protocol):
    """Whatever is listed."""

    @property
    def id(self) -> int:
        """Its place: newer rows have greater ones."""


def asked_page(call: Call) -> tuple[int | None, int]:
    """The id that the page ends before (None: the first page) and the most rows it has."""
    limit = msgspec.convert(call.params.get("limit", LISTED_DEFAULT), int)
    cursor = call.params.get("cursor")
    return None if cursor is None else _row_id(str(cursor)), limit


def next_cursor(found: Sequence[Row], limit: int) -> dict[str, str]:
    """The cursor of the page behind this one, for the answer; nothing behind a short page."""
    return {"cursor": str(found[-1].id)} if len(found) == limit else {}


def _row_id(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= ID_DIGITS_MAX):
        raise RequestRefused("InvalidRequest", "parameter cursor: is not one of ours")
    return int(cursor)
