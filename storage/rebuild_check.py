"""The last step of a rebuild before its swap: the new tables held against the records.

Spans of records are compared by whoever does the work of the rebuild, several at once where there
are several.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

from indexer.ports import insist_on
from storage.database import Database
from storage.parity import Span, share_of_sample
from storage.rebuild_parts import Tell
from storage.rebuild_work import Compare
from storage.rebuild_workers import Parts, wait
from storage.verification import ID_MAX

SPAN_RECORDS = 5000
"""Some tenths of a second."""

_LAST = "SELECT max(id) FROM (SELECT id FROM record WHERE id > ? ORDER BY id LIMIT ?)"


async def find_difference(
    database: Database,
    parts: Parts,
    number: int,
    records: int,
    tell: Tell,
    *,
    span_records: int = SPAN_RECORDS,
) -> str | None:
    """What differs first in generation `number` from what its records demand, if anything does.

    All ids are compared, and the content of many. There are some so many records; `tell` is told
    of those that are done. A difference ends the trust in old verdicts; whoever is told of it has
    to end the rebuild, since what is compared beside it may still be at work.
    """
    works = _comparisons(database, number, share_of_sample(records), span_records)
    async with aclosing(parts.do_all(works, tell)) as outcomes:
        async for outcome in outcomes:
            if outcome.difference is not None:
                await insist_on(partial(database.write, _distrust), wait)
                return outcome.difference
    return None


def _distrust(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE generation SET judged_by = '' WHERE state = 'current'")


async def _comparisons(
    database: Database, number: int, share: float, span_records: int
) -> AsyncIterator[Compare]:
    """Of all ids that there may be: rows of no record lie between those of others or beyond."""
    after_id = 0
    while after_id < ID_MAX:
        found = await insist_on(partial(database.read, _LAST, (after_id, span_records)), wait)
        upto_id = ID_MAX if found[0][0] is None else found[0][0]
        yield Compare(number, Span(after_id, upto_id, share))
        after_id = upto_id
