"""What rows of the full-text index hold of other records: labels of nodes, and tags of others."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from indexer.records.projection import LABEL_MARK, SearchIndex, searchable
from storage.generations import GENERATION, Generation

RECEIVED_MAX = 2000
"""Records of others, the first known, whose texts a row holds: each new one reads all of them."""

RECEIVED_SLICE = 4
"""Records whose received texts are read at once, of up to `RECEIVED_MAX` each: some 40 ms."""

RECEIVED_CHARS = 50_000
"""Received texts read in one transaction, about: some 40 ms with the rows that hold them."""

TEXT_CHARS = 2
"""What it takes to find a text, in characters: one of a hidden account too, which says nothing."""

# From the nodes that a record names to their labels: left to itself, SQLite reads the labels of all
# nodes that there are, for each record, and looks which of them it names.
_LABELS = f"""
SELECT named.text
FROM mark{GENERATION} AS own
CROSS JOIN mark{GENERATION} AS named ON named.name = ? AND named.subject = own.subject
JOIN record ON record.id = named.record_id
JOIN repo ON repo.id = record.repo_id
WHERE own.record_id = ? AND own.name = ? AND repo.account_status = 'active'
ORDER BY own.text
"""  # noqa: S608 - constants

_RECEIVED = f"""
SELECT json_group_array(json_array(wanted.value, json((
    SELECT json_group_array(iif(repo.account_status = 'active', mark.text, NULL))
    FROM (SELECT record_id, text FROM mark{GENERATION} WHERE name = ?1 AND subject = wanted.value
          ORDER BY record_id LIMIT {RECEIVED_MAX}) AS mark
    JOIN record ON record.id = mark.record_id
    JOIN repo ON repo.id = record.repo_id))))
FROM json_each(?2) AS wanted
WHERE EXISTS (SELECT 1 FROM mark{GENERATION} WHERE name = ?1 AND subject = wanted.value)
"""  # noqa: S608 - constants
"""All in one row: each that SQLite hands over costs the interpreter lock twice. The texts of hidden
accounts are NULL and not left out, because they have been read, and count as such."""

Received = dict[str, dict[str, str]]
"""Mark -> URI -> the texts of others, joined."""


class TextsOfOthers:
    """Reads them for one generation. All methods run inside the caller's transaction."""

    def __init__(self, search: SearchIndex, generation: Generation) -> None:
        self._search = search
        self._sql = generation.sql

    def labels(self, connection: sqlite3.Connection, record_id: int, name: str) -> str:
        """The labels of all nodes that a record names by a mark `name`, joined."""
        rows = connection.execute(self._sql(_LABELS), (LABEL_MARK, record_id, name))
        return _joined(row[0] for row in rows)

    def received(self, connection: sqlite3.Connection, uris: Sequence[str]) -> tuple[Received, int]:
        """What others say of these records, those left out of which nobody says anything.

        With it, the length of all that was read, in characters.
        """
        wanted = json.dumps(uris)
        received: Received = {}
        chars = 0
        for name in self._search.received.values():
            found = one_list(connection, self._sql(_RECEIVED), (name, wanted))
            received[name] = {uri: _joined(sorted(set(texts) - {None})) for uri, texts in found}
            chars += sum(TEXT_CHARS + len(text or "") for _, texts in found for text in texts)
        return received, chars

    def received_within(
        self, connection: sqlite3.Connection, uris: Sequence[str]
    ) -> tuple[Received, Sequence[str]]:
        """The same up to `RECEIVED_CHARS`, and the records that were not looked at."""
        received: Received = {name: {} for name in self._search.received.values()}
        left = RECEIVED_CHARS
        for at in range(0, len(uris), RECEIVED_SLICE):
            if left <= 0:
                return received, uris[at:]
            of_slice, chars = self.received(connection, uris[at : at + RECEIVED_SLICE])
            left -= chars
            for name, texts in of_slice.items():
                received[name] |= texts
        return received, ()


def one_list(connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...]) -> list[Any]:
    """What a query gives as one JSON array."""
    found: list[Any] = json.loads(connection.execute(sql, parameters).fetchone()[0])
    return found


def _joined(texts: Iterable[str | None]) -> str:
    return searchable(" ".join(text for text in texts if text))
