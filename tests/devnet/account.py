"""Accounts of the devnet and what they write: the values that `Devnet` takes and gives.

Owns no behaviour beyond naming and encoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.devnet.cbor import JsonValue, encode, from_json
from tests.devnet.clock import TidClock
from tests.devnet.keys import SigningKey
from tests.devnet.repo import Commit


@dataclass(eq=False, slots=True)
class Account:
    """An account of the devnet. `pds` is the index of the host that its DID document names."""

    did: str
    handle: str
    pds: int
    key: SigningKey
    tids: TidClock
    number: int
    keys_made: int = 1
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A record that was created or updated, and the commit that brought it."""

    uri: str
    collection: str
    rkey: str
    cid: str
    commit: Commit


@dataclass(frozen=True, slots=True)
class Change:
    """One item of `apply_writes`. `value` is ATProto JSON; `block` replaces it with raw bytes."""

    action: str  # create | update | delete
    collection: str
    rkey: str
    value: JsonValue = None
    block: bytes | None = None
    is_readable: bool = True  # False: `block` breaks the data model, so no value is expected

    @property
    def path(self) -> str:
        """Key in the tree."""
        return f"{self.collection}/{self.rkey}"

    def encoded(self) -> bytes | None:
        """The record block; None for a delete. A missing `$type` is filled in, as a PDS does."""
        if self.action == "delete":
            return None
        if self.block is not None:
            return self.block
        value = self.value
        if isinstance(value, dict) and "$type" not in value:
            value = {"$type": self.collection, **value}
        return encode(from_json(value))
