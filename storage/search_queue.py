"""What the rows of the full-text index still owe: the table `search_queue` of a generation."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from storage.generations import GENERATION, Generation

REPO_TASK, RECEIVED_TASK, RECORD_TASK = "repo", "received", "record"
"""Kinds of the queue, besides the names of marks whose subject has another label."""

QUEUE = f"""
INSERT OR REPLACE INTO search_queue{GENERATION}
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]')
FROM json_each(?)
"""  # noqa: S608 - a constant
_KIND = f"SELECT min(kind) FROM search_queue{GENERATION} WHERE kind > ?"  # noqa: S608 - a constant
_NEXT = f"""
SELECT subject, after FROM search_queue{GENERATION} WHERE kind = ? AND subject > ?
ORDER BY subject LIMIT 1
"""  # noqa: S608 - a constant
SAME = f"""
SELECT subject FROM search_queue{GENERATION} WHERE kind = ? AND subject >= ?
ORDER BY subject LIMIT ?
"""  # noqa: S608 - a constant
AMONG = f"""
SELECT json_group_array(CAST(subject AS INTEGER)) FROM search_queue{GENERATION}
WHERE kind = '{RECORD_TASK}' AND subject IN (SELECT CAST(value AS TEXT) FROM json_each(?))
"""  # noqa: S608 - constants
DONE = f"DELETE FROM search_queue{GENERATION} WHERE kind = ? AND subject = ?"  # noqa: S608 - a constant


@dataclass(slots=True)
class Turns:
    """Where the queue was left: kinds take turns, and so do the subjects of each.

    Else whoever keeps changing a label that many rows hold keeps hidden accounts in the index.
    """

    kind: str = ""
    subjects: dict[str, str] = field(default_factory=dict)  # kind -> the last one


def next_task(
    connection: sqlite3.Connection, generation: Generation, turns: Turns
) -> tuple[str, str, str] | None:
    """The kind, subject and `after` of the task whose turn it is."""
    for before in (turns.kind, ""):
        (kind,) = connection.execute(generation.sql(_KIND), (before,)).fetchone()
        if kind is not None:
            break
    else:
        return None
    for before in (turns.subjects.get(kind, ""), ""):
        found = connection.execute(generation.sql(_NEXT), (kind, before)).fetchone()
        if found is not None:
            break
    else:
        raise AssertionError("there is a task of each kind that is found")
    subject, after = found
    turns.kind = kind
    turns.subjects[kind] = subject
    return kind, subject, after
