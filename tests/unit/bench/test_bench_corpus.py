"""The generated frames are what a PDS would have signed and sent."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from coincurve import PublicKey
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from indexer.protocol.lexicon import LexiconCatalog
from indexer.records.registry import bundled_documents
from tests.bench.corpus import Corpus
from tests.bench.signing import BASE58, K256_PREFIX, P256_ORDER
from tests.bench.stream import MIXES, SEQ_BASE, plan_stream
from tests.devnet.car import read_car
from tests.devnet.cbor import Link, cid_of, cid_text, decode, decode_at, encode, to_json
from tests.devnet.mst import Node, Tree, build, key_height

K256_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class Unread:
    """A subtree whose block the frame does not bring: to look into it is an error."""

    __slots__ = ("block", "cid")

    def __init__(self, cid: bytes) -> None:
        self.cid = cid
        self.block = b"elsewhere"

    @property
    def keys(self) -> tuple[bytes, ...]:
        raise LookupError(cid_text(self.cid))


@dataclass
class Commit:
    did: str
    rev: str
    since: str
    prev_data: bytes
    ops: list[dict[str, Any]]
    blocks: dict[bytes, bytes]
    block: dict[str, Any]

    @property
    def data(self) -> bytes:
        return self.block["data"].cid


def frames_of(corpus: Corpus, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    frames = corpus.frames(name)
    for number in range(len(frames)):
        offset, length, _ = frames[number]
        data = bytes(frames.data[offset : offset + length])
        header, at = decode_at(data, 0)
        body, end = decode_at(data, at)
        assert end == length
        assert encode(header) + encode(body) == data, "canonical"
        yield header["t"], body


def commits_of(corpus: Corpus, name: str) -> Iterator[Commit]:
    for kind, body in frames_of(corpus, name):
        if kind == "#commit":
            _, pairs = read_car(body["blocks"])
            blocks = dict(pairs)
            assert len(blocks) == len(pairs), "each block once"
            assert all(cid_of(block) == cid for cid, block in pairs)
            yield Commit(
                body["repo"],
                body["rev"],
                body["since"],
                body["prevData"].cid,
                body["ops"],
                blocks,
                decode(blocks[body["commit"].cid]),
            )


def read_node(cid: bytes, blocks: dict[bytes, bytes]) -> Node | Unread:
    if cid not in blocks:
        return Unread(cid)
    value = decode(blocks[cid])
    keys, values, kids, last = [], [], [value["l"]], b""
    for entry in value["e"]:
        last = last[: entry["p"]] + entry["k"]
        keys.append(last)
        values.append(entry["v"].cid)
        kids.append(entry["t"])
    node = Node(
        tuple(keys),
        tuple(values),
        tuple(None if kid is None else read_node(kid.cid, blocks) for kid in kids),
    )
    node.cid, node.block = cid, blocks[cid]
    return node


def height_of(node: Node) -> int:
    if node.keys:
        return key_height(node.keys[0])
    return 1 + height_of(next(kid for kid in node.kids if kid is not None))


def verifies(multibase: str, message: bytes, signature: bytes) -> bool:
    number = 0
    for letter in multibase[1:]:
        number = number * 58 + BASE58.index(letter)
    raw = number.to_bytes(35, "big")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    der = encode_dss_signature(r, s)
    if raw.startswith(K256_PREFIX):
        return s <= K256_ORDER // 2 and PublicKey(raw[2:]).verify(der, message)
    ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw[2:]).verify(
        der, message, ec.ECDSA(hashes.SHA256())
    )
    return s <= P256_ORDER // 2


@pytest.mark.parametrize("name", ["mixed", "scoped"])
def test_commits_chain_from_the_start_state_and_are_signed(bench_corpus: Corpus, name: str):
    repos = {repo.did: repo for repo in bench_corpus.repos}
    tips = {repo.did: (repo.rev, repo.data) for repo in bench_corpus.repos}
    count = 0
    for commit in commits_of(bench_corpus, name):
        assert (commit.since, cid_text(commit.prev_data)) == tips[commit.did]
        assert commit.rev > commit.since
        assert (commit.block["rev"], commit.block["did"]) == (commit.rev, commit.did)
        unsigned = {key: value for key, value in commit.block.items() if key != "sig"}
        key = repos[commit.did].signing_key
        assert verifies(key, encode(unsigned), commit.block["sig"])
        tips[commit.did] = (commit.rev, cid_text(commit.data))
        count += 1
    assert count > 140


@pytest.mark.parametrize("name", ["mixed", "scoped", "foreign"])
def test_each_commit_inverts_to_its_prev_data_with_its_own_blocks(bench_corpus: Corpus, name: str):
    actions = set()
    for commit in commits_of(bench_corpus, name):
        root = read_node(commit.data, commit.blocks)
        tree = Tree(root, height_of(root))
        for op in reversed(commit.ops):
            actions.add(op["action"])
            if op["cid"] is not None:
                assert op["cid"].cid in commit.blocks
            key, prev = op["path"].encode(), op.get("prev")
            tree = tree.remove(key) if prev is None else tree.put(key, prev.cid)
        tree.seal()
        assert tree.root.cid == commit.prev_data
    assert actions == {"create", "update", "delete"}


@pytest.mark.parametrize("mix", ["mix1", "mix10", "mix100"])
def test_expected_state_is_the_start_state_with_all_ops_applied(bench_corpus: Corpus, mix: str):
    stream = bench_corpus.stream(MIXES[mix], 400)
    assert stream.tracked_count > 0
    leaves: dict[str, dict[bytes, bytes]] = {}
    for repo in bench_corpus.repos:
        header, pairs = read_car((bench_corpus.directory / repo.car).read_bytes())
        blocks = dict(pairs)
        commit = decode(blocks[decode(header)["roots"][0].cid])
        assert cid_text(commit["data"].cid) == repo.data
        root = read_node(commit["data"].cid, blocks)
        leaves[repo.did] = dict(Tree(root, height_of(root)).leaves())
        assert all(cid in blocks for cid in leaves[repo.did].values())
    revs, rows = bench_corpus.expected(stream)
    datas = {}
    for (kind, body), _ in zip(
        frames_of(bench_corpus, stream.mix.sequence), range(stream.tracked_count), strict=False
    ):
        if kind != "#commit":
            continue
        records = leaves[body["repo"]]
        for op in body["ops"]:
            if op["action"] == "delete":
                assert records.pop(op["path"].encode()) == op["prev"].cid
            else:
                records[op["path"].encode()] = op["cid"].cid
        datas[body["repo"]] = (
            body["rev"],
            decode(dict(read_car(body["blocks"])[1])[body["commit"].cid])["data"],
        )
    for did, (rev, data) in datas.items():
        assert revs[did] == rev
        tree = build(leaves[did].items())
        tree.seal()
        assert Link(tree.root.cid) == data
    in_scope = sum(key.startswith(b"pub.chive.") for each in leaves.values() for key in each)
    assert in_scope == rows


def test_foreign_frames_bring_nothing_in_scope(bench_corpus: Corpus):
    tracked = {repo.did for repo in bench_corpus.repos}
    for commit in commits_of(bench_corpus, "foreign"):
        assert commit.did not in tracked
        assert not any(op["path"].startswith("pub.chive.") for op in commit.ops)


def test_same_seed_makes_the_same_bytes(bench_corpus: Corpus, second_bench_corpus: Corpus):
    names = sorted(path.name for path in bench_corpus.directory.iterdir())
    assert names == sorted(path.name for path in second_bench_corpus.directory.iterdir())
    for name in names:
        first = (bench_corpus.directory / name).read_bytes()
        assert first == (second_bench_corpus.directory / name).read_bytes(), name


def test_both_curves_and_all_event_kinds_occur(bench_corpus: Corpus):
    manifest = json.loads((bench_corpus.directory / "manifest.json").read_text())
    assert {repo["signing_key"][:2] for repo in manifest["repos"]} == {"zQ", "zD"}
    kinds = {kind for kind, _ in frames_of(bench_corpus, "foreign")}
    assert kinds == {"#commit", "#identity", "#account", "#sync"}


@pytest.mark.parametrize(
    ("name", "percent"), [("mix1", 1), ("mix10", 10), ("mix30", 30), ("mix100", 100)]
)
def test_a_stream_has_its_share_of_tracked_events_and_ends_with_one(name: str, percent: int):
    stream = plan_stream(MIXES[name], events=20_000, tracked_max=50_000, foreign=100, seed=3)
    assert len(stream.frames) / stream.tracked_count == pytest.approx(100 / percent, rel=0.2)
    assert stream.frames[-1] == stream.tracked_count - 1
    numbers = [number for _, number in stream.tracked()]
    assert numbers == list(range(stream.tracked_count))
    assert stream.seq_last == SEQ_BASE + len(stream.frames) - 1


def test_a_stream_stops_when_the_tracked_frames_are_used_up():
    stream = plan_stream(MIXES["mix30"], events=20_000, tracked_max=50, foreign=100, seed=3)
    assert stream.tracked_count == 50
    assert len(stream.frames) < 300


def test_records_in_scope_satisfy_their_lexicons(bench_corpus: Corpus):
    catalog = LexiconCatalog.from_documents(bundled_documents())
    collections = set()
    for commit in commits_of(bench_corpus, "scoped"):
        for op in commit.ops:
            if op["cid"] is not None:
                value = to_json(decode(commit.blocks[op["cid"].cid]))
                collection = op["path"].partition("/")[0]
                assert catalog.validate_record(collection, value) is None
                collections.add(collection)
    assert len(collections) == 6
