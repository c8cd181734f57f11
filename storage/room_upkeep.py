"""How much room there is, looked at again and again: the file's size, the reserve, empty repos."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from indexer.clock import Clock
from indexer.errors import LocalBusy
from storage.database import Database
from storage.room import RESERVE_BYTES, Room, untrack
from storage.tracked import TrackedRepos

log = structlog.get_logger(__name__)

LOOK_S = 1.0
EMPTY_S_MAX = 30 * 86_400.0
"""A repo without rows for so long is not tracked any more."""

WAITED_S = 30 * 86_400.0
ATTEMPTS_MIN = 3
"""A repo that was fetched once, and is wanted without a break for so long since it could have been
forgotten, in vain so often, is at a host that is gone."""

EMPTY_AT_ONCE = 200
UNTRACKED_MIN = 100_000
"""So many DIDs that are tracked no more are worth reading all that are."""

_USED = """
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""

_NOTE_EMPTY = """
UPDATE repo SET empty_since = ? WHERE id IN (
    SELECT id FROM repo INDEXED BY repo_emptied WHERE records = 0 AND empty_since IS NULL LIMIT ?)
"""

# Whoever is not wanted for a moment, once its time has come, is forgotten then.
_IS_FORGOTTEN = f"""
empty_since <= ?1 AND claimed = 0 AND account_status <> 'denied'
AND (wanted = 0 OR rev IS NULL
     OR (empty_since <= ?1 - {WAITED_S} AND attempts >= {ATTEMPTS_MIN}))
"""

# Those that are denied, or wait for a host that is away, are passed over for as long as they are:
# by a reader.
_EMPTY = f"SELECT id FROM repo INDEXED BY repo_empty WHERE {_IS_FORGOTTEN} LIMIT ?2"  # noqa: S608 - a constant

_STILL_EMPTY = f"""
SELECT id FROM repo NOT INDEXED
WHERE id IN (SELECT value FROM json_each(?2)) AND {_IS_FORGOTTEN}
"""  # noqa: S608 - a constant


class Reserve:
    """A file that takes up space until it is needed: so that what frees space can still write."""

    def __init__(self, database: Path, *, size: int = RESERVE_BYTES) -> None:
        self._path = database.with_name(database.name + ".reserve")
        self._size = size

    @property
    def is_held(self) -> bool:
        """Whether the space is taken up: a process that died meanwhile has taken less."""
        try:
            return self._path.stat().st_size >= self._size
        except FileNotFoundError:  # the writer may free it at any moment
            return False

    def free(self) -> None:
        """Let others have the space."""
        self._path.unlink(missing_ok=True)

    def hold(self) -> bool:
        """Take the space up if twice as much is free; whether it is."""
        if self.is_held:
            return True
        if shutil.disk_usage(self._path.parent).free < 2 * self._size:
            return False
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False  # no descriptor, perhaps: there is another look soon
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError:
            self.free()  # unless the writer, which met the full disk too, has done so
            return False
        finally:
            os.close(descriptor)
        return True


class RoomUpkeep:
    """One part of `indexer.upkeep`."""

    def __init__(
        self,
        database: Database,
        tracked: TrackedRepos,
        room: Room,
        reserve: Reserve,
        *,
        clock: Clock,
        on_look: Callable[[Room], None],
    ) -> None:
        self._database = database
        self._tracked = tracked
        self._room = room
        self._reserve = reserve
        self._clock = clock
        self._on_look = on_look
        self._looked_at = float("-inf")
        self._untracked = 0

    async def step(self) -> int:
        """Look at the room there is, if it is time, and untrack some repos; how many."""
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            await self.look()
        oldest = self._clock.now() - EMPTY_S_MAX
        empty = [row[0] for row in await self._database.read(_EMPTY, (oldest, EMPTY_AT_ONCE))]
        try:
            gone = await self._database.write(
                lambda connection: self._untrack(connection, empty, oldest)
            )
        except LocalBusy:
            return 0  # there is no room to note anything, and no haste
        self._untracked += gone
        if self._untracked > max(UNTRACKED_MIN, len(self._tracked) // 2):
            self._untracked = 0
            await self._tracked.load()
        return gone

    async def look(self) -> None:
        """Measure the file, and take up the reserve again where there is space for it."""
        room, was_stopped = self._room, self._room.is_discovery_stopped
        room.db_bytes = int((await self._database.read(_USED))[0][0])
        is_held = await asyncio.to_thread(self._reserve.hold)
        if room.is_disk_full and is_held:
            room.is_disk_full = False
            log.warning("store.space_found")
        if room.is_discovery_stopped != was_stopped:
            log.warning(
                "store.discovery_changed", is_stopped=not was_stopped, db_bytes=room.db_bytes
            )
        self._on_look(room)

    def _untrack(self, connection: sqlite3.Connection, empty: Sequence[int], oldest: float) -> int:
        connection.execute(_NOTE_EMPTY, (self._clock.now(), EMPTY_AT_ONCE))
        rows = connection.execute(_STILL_EMPTY, (oldest, json.dumps(empty))).fetchall()
        untrack(connection, [row[0] for row in rows])
        return len(rows)
