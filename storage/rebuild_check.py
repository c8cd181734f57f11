"""The last step of a rebuild before its swap: the new tables held against the records.

Spans of records are compared by whoever does the work of the rebuild, several at once where there
are several.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing

from storage.database import Database
from storage.parity import Span, share_of_sample
from storage.rebuild_parts import Tell
from storage.rebuild_work import Compare
from storage.rebuild_workers import Parts

SPAN_IDS = 5000
"""Of records, some of which may be gone: some tenths of a second."""

ID_MAX = 2**63 - 1

_FIRST = "SELECT min(id) FROM record WHERE id > ?"


async def find_difference(
    database: Database, parts: Parts, number: int, records: int, tell: Tell
) -> str | None:
    """What differs first in generation `number` from what its records demand, if anything does.

    All ids are compared, and the content of many. There are some so many records; `tell` is told
    of those that are done. A difference ends the trust in old verdicts.
    """
    works = _comparisons(database, number, share_of_sample(records))
    async with aclosing(parts.do_all(works, tell)) as outcomes:
        async for outcome in outcomes:
            if outcome.difference is not None:
                await database.write(_distrust)
                return outcome.difference
    return None


def _distrust(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE generation SET judged_by = '' WHERE state = 'current'")


async def _comparisons(database: Database, number: int, share: float) -> AsyncIterator[Compare]:
    after_id = 0
    while (first := (await database.read(_FIRST, (after_id,)))[0][0]) is not None:
        upto_id = first + SPAN_IDS - 1
        yield Compare(number, Span(after_id, upto_id, share))
        after_id = upto_id
    # Rows of no record may lie beyond the last.
    yield Compare(number, Span(after_id, ID_MAX, share))
