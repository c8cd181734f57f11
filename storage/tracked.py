"""Which DIDs are tracked, and their signing keys: what the live path must know without a query."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable

from storage.database import Database

KEYS_MAX = 50_000
"""Signing keys held in memory; the others are read when a commit of theirs arrives."""


class TrackedRepos:
    """A set of tracked DIDs and a bounded cache of their keys, both fed by committed changes.

    Membership is kept as hashes: a false positive (1 in 10^19 per DID) costs one look-up.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hashes: set[int] = set()
        self._keys: OrderedDict[str, str | None] = OrderedDict()

    async def load(self) -> None:
        """Read all tracked DIDs at start."""
        last = 0
        while rows := await self._database.read(
            "SELECT id, did FROM repo WHERE id > ? ORDER BY id LIMIT 10000", (last,)
        ):
            self._hashes.update(hash(row[1]) for row in rows)
            last = rows[-1][0]

    def __contains__(self, did: str) -> bool:
        return hash(did) in self._hashes

    def add(self, dids: Iterable[str]) -> None:
        """DIDs that a committed transaction has begun to track."""
        self._hashes.update(map(hash, dids))

    def forget_key(self, did: str) -> None:
        """A committed transaction has changed the DID's key."""
        self._keys.pop(did, None)

    async def keys(self, dids: Iterable[str]) -> dict[str, str | None]:
        """Signing keys (multibase) of tracked DIDs; None where none is known."""
        found: dict[str, str | None] = {}
        missing: list[str] = []
        for did in dids:
            if did in self._keys:
                self._keys.move_to_end(did)
                found[did] = self._keys[did]
            else:
                missing.append(did)
        if missing:
            rows = await self._database.read(
                "SELECT did, signing_key FROM repo WHERE did IN (SELECT value FROM json_each(?))",
                (json.dumps(missing),),
            )
            for did, key in rows:
                found[did] = key
                if key is not None:
                    self._keys[did] = key
            while len(self._keys) > KEYS_MAX:
                self._keys.popitem(last=False)
        return found
