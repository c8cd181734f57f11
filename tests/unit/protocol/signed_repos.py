"""Signed repos and the events of their commits, made by the devnet's encoders for these tests.

Owns nothing of the format: everything is built with `tests.devnet`, which shares no code with
what is under test.
"""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.events import CommitEvent, parse_commit
from indexer.protocol.frame import decode_frame
from indexer.protocol.keys import VerifyingKey
from tests.devnet.car import write_car
from tests.devnet.cbor import encode
from tests.devnet.clock import ManualClock, TidClock
from tests.devnet.frames import commit_event
from tests.devnet.keys import SigningKey, derive_key, multibase
from tests.devnet.repo import Commit, Repo, Write

DID = "did:plc:abcdefghijklmnopqrstuvwx"
NOW = 1_790_000_100.0
COLLECTION = "pub.chive.eprint.submission"


def signing_key(curve: str = "k256", name: str = "account") -> SigningKey:
    return derive_key(curve, "protocol tests", name)


def verifying_key(key: SigningKey) -> VerifyingKey:
    return VerifyingKey.parse(multibase(key))


def record(text: str = "", collection: str = COLLECTION) -> bytes:
    return encode({"$type": collection, "text": text})


def path_of(number: int, collection: str = COLLECTION) -> str:
    return f"{collection}/r{number:05}"


def new_repo(size: int = 0, *, key: SigningKey | None = None, did: str = DID) -> Repo:
    """A repo that holds `size` records, at `path_of(0)` and so on."""
    repo = Repo(did, key or signing_key(), TidClock(ManualClock(), 7))
    repo.commit()
    if size:
        repo.bulk_put((path_of(number), record(str(number))) for number in range(size))
    return repo


def random_writes(repo: Repo, rng: random.Random, count: int) -> list[Write]:
    """Writes to distinct paths, of all three actions."""
    writes: dict[str, Write] = {}
    for _ in range(count):
        path = path_of(rng.randrange(400))
        block = record(f"{rng.random()}")
        if path not in repo.records:
            writes[path] = Write("create", path, block)
        elif rng.random() < 0.5:
            writes[path] = Write("update", path, block)
        else:
            writes[path] = Write("delete", path)
    return list(writes.values())


def event_of(commit: Commit, did: str = DID) -> CommitEvent:
    """The parsed event of a commit, over the wire format."""
    return parse_commit(decode_frame(commit_event(did, commit, NOW).frame(1)))


def with_blocks(event: CommitEvent, commit: Commit, blocks: dict[bytes, bytes]) -> CommitEvent:
    """The event with other blocks in its archive."""
    return replace(event, blocks=write_car([commit.cid], blocks.items()))


def assert_refused(check: Check, act, *args, **kwargs) -> None:
    """That `act` refuses, by exactly this check."""
    with pytest.raises(InvalidUpstream) as refusal:
        act(*args, **kwargs)
    assert refusal.value.check is check, refusal.value


def value_or_refusal(act, *args, **kwargs) -> object | None:
    """What a parser makes of hostile input: a value, or None for `InvalidUpstream`."""
    try:
        return act(*args, **kwargs)
    except InvalidUpstream:
        return None
