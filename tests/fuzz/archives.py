"""Archives of whole repos, by the way that getRepo takes: piece by piece, spooled, walked."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

from indexer.errors import Check, InvalidUpstream
from indexer.ingest import snapshot
from indexer.ingest.snapshot import open_snapshot
from indexer.network import spool
from indexer.network.spool import CarSpool, SpoolFolder
from indexer.protocol import car, cbor, commit, mst
from indexer.protocol.car import parse_car
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.mst import Frontier, MissingBlock, walk
from indexer.protocol.syntax import is_record_path
from tests.devnet.car import write_car
from tests.devnet.cbor import Link, Value, cid_of, decode, encode
from tests.devnet.mst import build
from tests.devnet.repo import Repo
from tests.fuzz.frames import SCOPE, check_value, mangled_archive, sound_archive
from tests.fuzz.mutation import havoc, loosely_encoded, mangled, rehashed
from tests.fuzz.repos import NOW, build_world, is_node, mangled_node, resigned
from tests.fuzz.strict_cbor import NotCanonical, decode_strict

Pairs = list[tuple[bytes, bytes]]
RANGES = [(each.start, each.end) for each in SCOPE.ranges]
NODES_MAX = 2000
JUDGED_MAX = 5000


class Archives:
    """Repos of up to some forty records; what is accepted is read again without the product's help."""

    name = "archives"
    modules = (car, spool, snapshot, commit, mst, cbor)

    def __init__(self, seed: int) -> None:
        self.world = build_world(seed, commits=2, sizes=(0, 1, 2, 4, 7, 11, 20))
        self._dids = {repo.did.encode(): repo.did for repo in self.world.repos}
        self._keys = {
            did: VerifyingKey.parse(text) for did, text in self.world.verifying.items() if text
        }
        self._judged: set[tuple[str, bytes]] = set()
        self._folder = SpoolFolder(
            Path(tempfile.mkdtemp(prefix="fuzz-spool-")),
            bytes_max=1 << 24,
            archive_bytes_max=1 << 22,
        )

    def make(self, rng: Random) -> bytes:
        """The repo's DID, a line end, and its archive."""
        repo = rng.choice(self.world.repos)
        pairs, way = repo.snapshot(), rng.random()
        if way < 0.04:
            data = write_car([repo.commit_cid], pairs)
        elif way < 0.24:
            data = havoc(rng, write_car([repo.commit_cid], pairs), repo.commit_block)
        elif way < 0.44:
            data = mangled_archive(rng, repo.commit_cid, pairs)
        elif way < 0.58:
            data = self._recommitted(rng, repo, pairs)
        elif way < 0.85:
            data = self._retreed(rng, repo, pairs)
        else:
            data = self._rewritten(rng, repo, pairs)
        did = repo.did if way > 0.02 else rng.choice(self.world.repos).did
        return did.encode() + b"\n" + data

    def check(self, data: bytes) -> str:
        """Spool it as the client does, open and walk it as a resync does."""
        name, _, archive = data.partition(b"\n")
        did = self._dids.get(name, self.world.repos[0].did)
        whole = self._whole(archive)
        with CarSpool(self._folder) as spooled:
            try:
                for piece in _pieces(archive):
                    spooled.feed(piece)
                spooled.finish()
                root = spooled.root
            except InvalidUpstream as error:
                return self._refused(error, whole)
            assert whole is not None, "read piece by piece it is sound, and as a whole it is not"
            try:
                return self._opened(did, root, spooled, archive)
            except MissingBlock:
                return "refused: a block is missing"
            except InvalidUpstream as error:
                return f"refused {error.check}"

    def _refused(self, error: InvalidUpstream, whole: car.Car | None) -> str:
        is_strange = whole is not None and whole.roots and error.check is not Check.LIMITS
        assert not is_strange, "read as a whole it is sound, and piece by piece it is not"
        return f"refused {error.check}"

    def _whole(self, archive: bytes) -> car.Car | None:
        try:
            return parse_car(archive)
        except InvalidUpstream:
            return None

    def _opened(self, did: str, root: bytes, spooled: CarSpool, archive: bytes) -> str:
        opened = open_snapshot(
            root, spooled.load, did=did, key=self._keys[did], scope=SCOPE, known=(None, None), now_s=NOW
        )  # fmt: skip
        frontier = Frontier(opened.commit.data, RANGES)
        leaves: list[tuple[str, bytes]] = []
        while True:
            chunk = opened.next_leaves()
            leaves += chunk.items
            for path, cid in chunk.items:
                self._judge(did, path, opened.block(cid))
            if chunk.upto is None:
                break
        assert not frontier.advance(spooled.load), "the walk ended and nodes of it are missing"
        assert frontier.expected_leaves == len(leaves)
        self._hold_against(did, archive, opened.commit.data, leaves)
        return "accepted"

    def _judge(self, did: str, path: str, block: bytes) -> None:
        """A record as the resync prepares it; most have been looked at in an earlier archive."""
        if (path, block) in self._judged:
            return
        if len(self._judged) >= JUDGED_MAX:
            self._judged.clear()
        self._judged.add((path, block))
        prepared = self.world.prepare(did, path, "", block)
        if prepared.value is not None:
            check_value(prepared.value, block)

    def _hold_against(
        self, did: str, archive: bytes, tree: bytes, leaves: list[tuple[str, bytes]]
    ) -> None:
        """The same repo, read by the devnet's decoder."""
        root, blocks = sound_archive(archive)
        assert self.world.is_signed(did, blocks[root]), "a forged repo was accepted"
        signed = decode_strict(blocks[root])
        assert isinstance(signed, dict)
        assert signed["data"] == Link(tree)
        found = naive_leaves(tree, blocks)
        scoped = [(key.decode(), cid) for key, cid in found or () if key.decode("latin-1") in SCOPE]
        if found is not None and is_canonical(tree, found):
            assert leaves == scoped, "the walk's records are not those of the repo"
        assert [path for path, _ in leaves] == sorted({path for path, _ in leaves})
        assert all(cid in blocks for _, cid in leaves if is_plain(cid))

    def _recommitted(self, rng: Random, repo: Repo, pairs: Pairs) -> bytes:
        key = self.world.keys[repo.did]
        way = rng.randrange(4)
        if way == 0:
            block = havoc(rng, repo.commit_block)
        elif way == 1:
            block = resigned(rng.choice(list(self.world.keys.values())), repo.commit_block, None)
        elif way == 2:
            value = decode(repo.commit_block)
            assert isinstance(value, dict)
            block = encode(mangled(rng, value))
        else:
            block = resigned(key, repo.commit_block, None, lambda value: mangled(rng, value))
        return _archive(repo, dict(pairs), block)

    def _retreed(self, rng: Random, repo: Repo, pairs: Pairs) -> bytes:
        """One or two nodes changed, all above them made anew, and signed by the account itself."""
        blocks, data = dict(pairs), repo.data
        for _ in range(rng.choice((1, 1, 2))):
            old = rng.choice([cid for cid, block in blocks.items() if is_node(block)] or [data])
            if old not in blocks:
                break
            fresh = mangled_node(rng, blocks[old])
            blocks, moved = rehashed(blocks, old, fresh, keep=[repo.commit_cid])
            data = moved.get(data, data)
        return _archive(repo, blocks, resigned(self.world.keys[repo.did], repo.commit_block, data))

    def _rewritten(self, rng: Random, repo: Repo, pairs: Pairs) -> bytes:
        if not repo.records:
            return self._retreed(rng, repo, pairs)
        old = repo.records[rng.choice(repo.paths)]
        value = mangled(rng, decode(repo.blocks[old].data))
        fresh = loosely_encoded(rng, value, rng.choice((0.0, 0.03)))
        blocks, moved = rehashed(dict(pairs), old, fresh, keep=[repo.commit_cid])
        data = moved.get(repo.data, repo.data)
        return _archive(repo, blocks, resigned(self.world.keys[repo.did], repo.commit_block, data))


class Trees:
    """Trees that nobody signs: the walk over all of one accepts exactly the canonical ones."""

    name = "trees"
    modules = (mst, car, cbor)

    def __init__(self, seed: int) -> None:
        self.world = build_world(seed, commits=6, sizes=(0, 1, 2, 5, 16, 36, 80))
        self._states = list(self.world.trees.values())

    def make(self, rng: Random) -> bytes:
        """An archive whose root is a tree's."""
        tree = rng.choice(self._states)
        blocks, data = {node.cid: node.block for node in tree.nodes() if node.cid}, tree.root.cid
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            if not blocks:
                break
            old = rng.choice(list(blocks))
            way = rng.random()
            if way < 0.7:
                fresh = mangled_node(rng, blocks[old])
            elif way < 0.85:
                fresh = loosely_encoded(rng, decode_or_empty(blocks[old]), 0.03)
            else:
                fresh = havoc(rng, blocks[old], rng.choice(list(blocks.values())))
            blocks, moved = rehashed(blocks, old, fresh)
            data = moved.get(data, data)
        return write_car([data], blocks.items())

    def check(self, data: bytes) -> str:
        """Both ways to the same verdict."""
        try:
            archive = parse_car(data)
        except InvalidUpstream as error:
            return f"refused {error.check}"
        if not archive.roots:
            return "refused: no root"
        found = naive_leaves(archive.root, archive.blocks)
        is_right = found is not None and is_canonical(archive.root, found) and all(map(_is_path, (key for key, _ in found)))  # fmt: skip
        try:
            walked = list(walk(archive.root, _load(archive.blocks)))
        except MissingBlock:
            verdict = "refused: a node is missing"
        except InvalidUpstream as error:
            verdict = f"refused {error.check}"
        else:
            assert is_right, "a tree that is not canonical was accepted"
            assert [(path.encode(), cid) for path, cid in walked] == found
            return "accepted"
        assert not is_right, "a canonical tree was refused"
        return verdict


def naive_leaves(root: bytes, blocks: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]] | None:
    """Every (key, record CID) that can be read from the root; None where the tree cannot be read."""
    found: list[tuple[bytes, bytes]] = []
    left = [NODES_MAX]
    try:
        _read_node(root, blocks, found, left)
    except (NotCanonical, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    return found


@lru_cache(maxsize=4000)
def _node(block: bytes) -> Any:
    return decode_strict(block)


def _read_node(cid: bytes, blocks: Mapping[bytes, bytes], found: list[tuple[bytes, bytes]], left: list[int]) -> None:  # fmt: skip
    left[0] -= 1
    if left[0] < 0:
        raise NotCanonical("more nodes than a tree of this size has")
    node = _node(blocks[cid])
    assert_keys(node, {"e", "l"})
    if node["l"] is not None:
        _read_node(node["l"].cid, blocks, found, left)
    before = b""
    for entry in node["e"]:
        assert_keys(entry, {"k", "p", "t", "v"})
        if type(entry["p"]) is not int or not 0 <= entry["p"] <= len(before):
            raise NotCanonical("a prefix that is none")
        key = before[: entry["p"]] + entry["k"]
        if not is_link(entry["v"].cid):
            raise NotCanonical("a record's link that is no CID")
        found.append((key, entry["v"].cid))
        if entry["t"] is not None:
            _read_node(entry["t"].cid, blocks, found, left)
        before = key


def is_plain(cid: bytes) -> bool:
    """Whether it is of DAG-CBOR and SHA-256, as records that can be read are."""
    return cid.startswith(b"\x01\x71\x12\x20") and len(cid) == 36


def is_link(cid: bytes) -> bool:
    """Version 0, or version 1 with a codec and hash function in shortest varints and a whole digest."""
    if re.fullmatch(rb"\x12\x20.{32}", cid, re.DOTALL):
        return True
    varint = rb"(?:[\x00-\x7f]|[\x80-\xff]+[\x01-\x7f])"
    found = re.fullmatch(rb"\x01" + varint + varint + rb"(.)(.*)", cid, re.DOTALL)
    return found is not None and found[1][0] == len(found[2]) and len(cid) <= 100


def assert_keys(value: Value, keys: set[str]) -> None:
    """Raises `NotCanonical` for anything but a map with just these keys."""
    if not isinstance(value, dict) or value.keys() != keys:
        raise NotCanonical("a map with other keys")


def is_canonical(root: bytes, leaves: list[tuple[bytes, bytes]]) -> bool:
    """Whether these leaves, as a tree made from nothing, have that very root."""
    tree = build(leaves)
    tree.seal()
    return tree.root.cid == root and len(dict(leaves)) == len(leaves)


def decode_or_empty(block: bytes) -> Value:
    """The node, or an empty one where the block was spoilt before."""
    try:
        return decode_strict(block)
    except NotCanonical:
        return {"e": [], "l": None}


def _is_path(key: bytes) -> bool:
    return key.isascii() and is_record_path(key.decode())


def _load(blocks: Mapping[bytes, bytes]):
    def load(cid: bytes) -> bytes:
        if cid not in blocks:
            raise MissingBlock(cid)
        return blocks[cid]

    return load


def _pieces(archive: bytes) -> list[bytes]:
    """The same cuts for the same bytes: few large ones, or many small."""
    pieces = (1, 1, 2, 3, 5, 9, 40)[crc32(archive) % 7]
    step = len(archive) // pieces + 1
    return [archive[at : at + step] for at in range(0, len(archive), step)]


def _archive(repo: Repo, blocks: dict[bytes, bytes], block: bytes) -> bytes:
    blocks.pop(repo.commit_cid, None)
    cid = cid_of(block)
    return write_car([cid], [*blocks.items(), (cid, block)])
