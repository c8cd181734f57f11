"""Signed repos to start from, and what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from indexer.records.prepare import prepare_record
from indexer.records.registry import Registry, load_registry
from tests.devnet.cbor import Link, Value, decode, encode, from_json
from tests.devnet.clock import ManualClock, TidClock
from tests.devnet.frames import commit_event
from tests.devnet.keys import SigningKey, derive_key, multibase
from tests.devnet.mst import Tree
from tests.devnet.records import COLLECTIONS, FOREIGN, realistic_record
from tests.devnet.repo import Commit, Repo, Write
from tests.fuzz.mutation import havoc, mangled
from tests.fuzz.strict_cbor import NotCanonical, decode_strict

NOW = 1_790_000_100.0
SIGNATURES_MAX = 5000
_TID_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"


class StandingClock:
    """Time does not pass while an input is judged."""

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return NOW


@dataclass(frozen=True, slots=True)
class Case:
    """One commit of a repo with the state before it."""

    did: str
    before: Tree
    after: Tree
    commit: Commit
    body: dict[str, Value]  # of its frame, with a seq


@dataclass(slots=True)
class World:
    """Repos of both curves. `trees` holds every state that a commit may claim to follow."""

    registry: Registry
    keys: dict[str, SigningKey] = field(default_factory=dict)
    trees: dict[bytes, Tree] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    repos: list[Repo] = field(default_factory=list)
    _signatures: dict[tuple[str, bytes], bytes] = field(default_factory=dict)

    @property
    def verifying(self) -> dict[str, str | None]:
        """DID -> multibase, as the product holds keys."""
        return {did: multibase(key) for did, key in self.keys.items()}

    def prepare(self, did: str, path: str, cid: str, block: bytes):
        """As the daemon prepares records."""
        return prepare_record(did, path, cid, block, self.registry)

    def is_signed(self, did: str, block: bytes) -> bool:
        """Whether this commit block is one that the DID's key has signed: signatures are deterministic."""
        try:
            value = decode_strict(block)
        except NotCanonical:
            return False
        if not isinstance(value, dict) or value.get("did") != did:
            return False
        signature = value.pop("sig", None)
        return signature == self._signature(did, encode(value))

    def _signature(self, did: str, message: bytes) -> bytes:
        """Most that is accepted was signed before."""
        if len(self._signatures) > SIGNATURES_MAX:
            self._signatures.clear()
        if (did, message) not in self._signatures:
            self._signatures[did, message] = self.keys[did].sign(message)
        return self._signatures[did, message]


def build_world(seed: int, *, commits: int = 30, sizes: tuple[int, ...] = (0, 1, 3, 12, 40)) -> World:  # fmt: skip
    """The same world for a seed, on every machine."""
    rng = Random(f"world {seed}")
    world = World(load_registry())
    for number, size in enumerate(sizes):
        for curve in ("k256", "p256") if number % 2 else ("k256",):
            did = f"did:plc:{curve}{number:02}".ljust(32, "a").replace("0", "b").replace("1", "c").replace("5", "d").replace("6", "e")  # fmt: skip
            key = derive_key(curve, "fuzz", did)
            repo = Repo(did, key, TidClock(ManualClock(), number))
            world.keys[did] = key
            repo.commit()
            if size:
                repo.bulk_put(_record(rng, did) for _ in range(size))
            for _ in range(commits if number else commits // 3):
                _step(rng, world, repo)
            world.repos.append(repo)
    return world


def _step(rng: Random, world: World, repo: Repo) -> None:
    before = repo.tree
    world.trees[repo.data] = before
    writes: dict[str, Write] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path, block = _record(rng, repo.did)
        odd = rng.random()
        if repo.records and odd < 0.35:
            path = rng.choice(repo.paths)
            is_update = odd < 0.18
            block = _record(rng, repo.did, path.partition("/")[0])[1]
            writes[path] = Write("update", path, block) if is_update else Write("delete", path)
        elif path not in repo.records:
            writes[path] = Write("create", path, block)
    commit = repo.commit(writes.values())
    event = commit_event(repo.did, commit, NOW)
    body = {**event.body, "seq": 1000 + len(world.cases)}
    world.cases.append(Case(repo.did, before, repo.tree, commit, body))


def _record(rng: Random, did: str, collection: str | None = None) -> tuple[str, bytes]:
    if collection is None:
        collection = rng.choice(COLLECTIONS) if rng.random() < 0.6 else FOREIGN
    value = realistic_record(rng, collection, did=did)
    rkey = "3k" + "".join(rng.choices(_TID_DIGITS, k=11))
    return f"{collection}/{rkey}", encode(from_json(value))


def resigned(key: SigningKey, block: bytes, data: bytes | None, edit: Callable[[Value], Value] | None = None) -> bytes:  # fmt: skip
    """A commit block over another root, or edited, signed with the account's own key."""
    value = decode(block)
    assert isinstance(value, dict)
    value.pop("sig")
    if data is not None:
        value["data"] = Link(data)
    changed = value if edit is None else edit(value)
    if not isinstance(changed, dict):
        return encode(changed)
    if "sig" not in changed:
        changed = {**changed, "sig": key.sign(encode(changed))}
    return encode(changed)


def is_node(block: bytes) -> bool:
    """Whether a block of ours is a node of a tree: records and commits begin otherwise."""
    return block.startswith(b"\xa2ae")


def mangled_node(rng: Random, block: bytes) -> bytes:
    """A node with one thing wrong, or merely different. One that was spoilt before is spoilt more."""
    try:
        value = decode_strict(block)
    except NotCanonical:
        return havoc(rng, block)
    way = rng.randrange(8)
    entries = value.get("e") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(entries, list) or not entries or way >= 6:
        return encode(mangled(rng, value))
    at = rng.randrange(len(entries))
    entry, other = entries[at], rng.choice(entries)
    if not is_entry(entry) or not is_entry(other):
        return encode(mangled(rng, value))
    changed = dict(entry)
    if way == 0:
        changed["p"] = min(entry["p"] + rng.choice((-1, 1)), 2**64 - 1)
    elif way == 1:
        changed["k"] = entry["k"][:-1] + bytes((rng.choice(b"abcxyz234567/"),))
    elif way == 2:
        changed["t"], value["l"] = value.get("l"), entry["t"]
    elif way == 3:
        changed["v"] = other["v"]
    elif way == 5:
        changed["t"] = rng.choice((other["t"], value.get("l"), None))
    entries[at : at + 1] = [] if way == 4 else [changed]
    return encode(value)


def is_entry(value: object) -> bool:
    """Whether it has the fields of a node's entry with a key and prefix that can be changed."""
    return (
        isinstance(value, dict)
        and value.keys() == {"k", "p", "t", "v"}
        and isinstance(value["k"], bytes)
        and isinstance(value["p"], int)
    )
