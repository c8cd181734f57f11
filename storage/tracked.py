"""Which DIDs are tracked, and their signing keys: what the live path must know without a query."""

from __future__ import annotations

import json
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from storage.database import Database

KEYS_MAX = 50_000
"""Signing keys held in memory; the others are read when a commit of theirs arrives."""

SLOTS_MIN = 1 << 10
HASH_BITS = (1 << 64) - 1


class HashSet:
    """A set of texts by 8-byte hash alone: 16 to 32 bytes a member, where a `set` takes 90.

    Open addressing, at most half full. Hashes are seeded by the process, so nobody can choose
    texts that collide; a false positive has a chance of about 1 in 10^13 with a million members.
    """

    def __init__(self, expected: int = 0) -> None:
        """`expected` members need no growth."""
        size = SLOTS_MIN
        while 2 * expected >= size:
            size *= 2
        self._slots = array("Q", bytes(8 * size))  # 0: free
        self._mask = size - 1
        self._members = 0

    def __len__(self) -> int:
        return self._members

    def __contains__(self, text: str) -> bool:
        slots, mask = self._slots, self._mask
        value = hash(text) & HASH_BITS or 1
        at = value & mask
        while found := slots[at]:
            if found == value:
                return True
            at = (at + 1) & mask
        return False

    def add(self, text: str) -> None:
        """Make `text` a member."""
        if 2 * self._members >= len(self._slots):
            self._grow()
        self._put(hash(text) & HASH_BITS or 1)

    def update(self, texts: Sequence[str]) -> None:
        """Make all of them members."""
        while 2 * (self._members + len(texts)) >= len(self._slots):
            self._grow()
        slots, mask, members = self._slots, self._mask, self._members
        for text in texts:
            value = hash(text) & HASH_BITS or 1
            at = value & mask
            while (found := slots[at]) and found != value:
                at = (at + 1) & mask
            if not found:
                slots[at] = value
                members += 1
        self._members = members

    def _put(self, value: int) -> None:
        slots, mask = self._slots, self._mask
        at = value & mask
        while (found := slots[at]) and found != value:
            at = (at + 1) & mask
        self._members += not found
        slots[at] = value

    def _grow(self) -> None:
        old, size = self._slots, 2 * len(self._slots)
        self._slots, self._mask, self._members = array("Q", bytes(8 * size)), size - 1, 0
        for value in old:
            if value:
                self._put(value)


class TrackedRepos:
    """A set of tracked DIDs and a bounded cache of their keys, both fed by committed changes.

    A false positive of the set costs one look-up.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dids = HashSet()
        self._loading: HashSet | None = None
        self._keys: OrderedDict[str, str | None] = OrderedDict()
        self._denied: set[str] = set()
        self._changes = 0  # of keys: what was read before one must not be kept after it

    async def load(self) -> None:
        """Read all tracked DIDs: at start, or to be rid of those that are tracked no more.

        Not who is denied: that changes meanwhile, in both directions, and `storage.denials` tells.
        """
        [(count,)] = await self._database.read("SELECT count(*) FROM repo")
        self._loading = loading = HashSet(count)
        last = 0
        while rows := await self._database.read(
            "SELECT id, did FROM repo WHERE id > ? ORDER BY id LIMIT 10000", (last,)
        ):
            loading.update([row[1] for row in rows])
            last = rows[-1][0]
        self._dids, self._loading = loading, None

    def __len__(self) -> int:
        """DIDs remembered, tracked or not any more."""
        return len(self._dids)

    def __contains__(self, did: str) -> bool:
        return did in self._dids

    def add(self, dids: Iterable[str]) -> None:
        """DIDs that a committed transaction has begun to track."""
        for did in dids:
            self._dids.add(did)
            if self._loading is not None:
                self._loading.add(did)

    def is_denied(self, did: str) -> bool:
        """Whether an operator denied the account or its host."""
        return did in self._denied

    def deny(self, dids: Iterable[str]) -> None:
        """DIDs that a committed transaction has denied."""
        self._denied.update(dids)

    def allow(self, dids: Iterable[str]) -> None:
        """DIDs of which a committed transaction says that nothing denies them."""
        self._denied.difference_update(dids)

    def forget_key(self, did: str) -> None:
        """A committed transaction has changed the DID's key."""
        self._changes += 1
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
            changes = self._changes
            rows = await self._database.read(
                "SELECT did, signing_key FROM repo WHERE did IN (SELECT value FROM json_each(?))",
                (json.dumps(missing),),
                urgent=True,
            )
            found.update(rows)
            if changes == self._changes:
                self._keys.update((did, key) for did, key in rows if key is not None)
            while len(self._keys) > KEYS_MAX:
                self._keys.popitem(last=False)
        return found
