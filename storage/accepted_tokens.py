"""Up to when service-auth tokens may have been used: one number that outlives the process."""

from __future__ import annotations

import sqlite3

from storage.database import Database


class AcceptedTokens:
    """Satisfies `admin_api.ports.TokenHorizon`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> int:
        """Issue time of the newest token ever accepted, unix seconds; 0 before the first."""
        rows = await self._database.read("SELECT newest_iat FROM accepted_token")
        return int(rows[0][0]) if rows else 0

    async def raise_to(self, issued_at: int) -> None:
        """Make a later time durable."""

        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO accepted_token (only, newest_iat) VALUES (1, ?)"
                " ON CONFLICT DO UPDATE SET newest_iat = max(newest_iat, excluded.newest_iat)",
                (issued_at,),
            )

        await self._database.write(change)
