"""The audit log: a row before an admin call is carried out, its outcome afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from indexer.audit import AuditDraft, AuditEntry
from indexer.clock import Clock
from storage.database import Database

ENTRIES_MAX = 200_000
"""Rows kept; the oldest give way."""

ANY_ID = 2**63 - 1


class AuditStore:
    """Satisfies `admin_api.ports.AuditLog`."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def end_interrupted(self) -> None:
        """At start: no call is in progress, so what was begun and not ended was cut off."""
        await self._database.write(
            lambda connection: (
                connection.execute(
                    "UPDATE audit_entry SET outcome = 'interrupted' WHERE outcome = 'started'"
                ).rowcount
            )
        )

    async def begin(self, draft: AuditDraft) -> int:
        """Write the row before anything is done; its id."""
        now = self._clock.now()

        def change(connection: sqlite3.Connection) -> int:
            cursor = connection.execute(
                "INSERT INTO audit_entry (at, actor, action, target, details, outcome)"
                " VALUES (?, ?, ?, ?, ?, 'started')",
                (now, draft.actor, draft.action, draft.target, draft.details),
            )
            entry_id = cursor.lastrowid
            if entry_id is None:
                raise AssertionError("an insert has a rowid")
            connection.execute("DELETE FROM audit_entry WHERE id <= ?", (entry_id - ENTRIES_MAX,))
            return entry_id

        return await self._database.write(change)

    async def end(self, entry_id: int, outcome: str) -> None:
        """Say how the call ended."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE audit_entry SET outcome = ? WHERE id = ?", (outcome, entry_id)
            )

        await self._database.write(change)

    async def entries(
        self, *, actor: str | None, before: int | None, limit: int
    ) -> tuple[Sequence[AuditEntry], int]:
        """Rows with an id below `before`, newest first, and the number of all of this actor."""
        upto = ANY_ID if before is None else before
        if actor is None:
            rows = await self._database.read(
                "SELECT id, at, actor, action, target, details, outcome FROM audit_entry"
                " WHERE id < ? ORDER BY id DESC LIMIT ?",
                (upto, limit),
            )
            total = await self._database.read("SELECT count(*) FROM audit_entry")
        else:
            rows = await self._database.read(
                "SELECT id, at, actor, action, target, details, outcome FROM audit_entry"
                " WHERE actor = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (actor, upto, limit),
            )
            total = await self._database.read(
                "SELECT count(*) FROM audit_entry WHERE actor = ?", (actor,)
            )
        entries = [
            AuditEntry(
                id=row[0],
                at=row[1],
                actor=row[2],
                action=row[3],
                target=row[4],
                details=row[5],
                outcome=row[6],
            )
            for row in rows
        ]
        return entries, total[0][0]
