"""The published interop vectors, and the recording of the real PDS, against the protocol ring.

Reads `../shared/interop` and `../shared/corpus/real-pds` where they lie beside the checkout, and
skips by name where they do not. Two collections of the same vectors are not in that folder: commit
proofs and record data. Their equivalents are made here, in the same form: a tree before, keys
added and deleted, the proof's blocks; a record and whether it satisfies the catalog.
"""

from __future__ import annotations

import base64
import itertools
import json
import struct
from pathlib import Path

import pytest

from indexer.errors import Check, InvalidUpstream
from indexer.protocol import syntax
from indexer.protocol.car import parse_car
from indexer.protocol.cbor import decode_object, encode_json, json_to_dag_cbor
from indexer.protocol.cid import cid_text, dag_cbor_cid, parse_cid
from indexer.protocol.commit import (
    EMPTY_TREE,
    decode_commit,
    verify_commit,
    verify_commit_block,
    verify_sync,
)
from indexer.protocol.did_document import parse_did_document
from indexer.protocol.events import parse_account, parse_commit, parse_sync
from indexer.protocol.frame import decode_frame
from indexer.protocol.keys import VerifyingKey
from indexer.protocol.lexicon import InvalidLexicon, LexiconCatalog
from indexer.protocol.mst import MissingBlock, key_height, walk
from indexer.protocol.mst_inversion import NetOp, _shared, invert
from tests.devnet import mst
from tests.devnet.cbor import cid_of
from tests.devnet.keys import K256Key, P256Key, did_key

SHARED = Path(__file__).parents[3] / "shared"
INTEROP, RECORDING = SHARED / "interop", SHARED / "corpus" / "real-pds"
NOW = 2_000_000_000.0

needs_interop = pytest.mark.skipif(not INTEROP.is_dir(), reason="no ../shared/interop here")
needs_recording = pytest.mark.skipif(not RECORDING.is_dir(), reason="no ../shared/corpus here")

SYNTAX = {
    "atidentifier": syntax.is_at_identifier,
    "aturi": syntax.is_at_uri,
    "cid": syntax.is_cid,
    "datetime": syntax.is_datetime,
    "did": syntax.is_did,
    "handle": syntax.is_handle,
    "language": syntax.is_language,
    "nsid": syntax.is_nsid,
    "recordkey": syntax.is_rkey,
    "tid": syntax.is_tid,
    "uri": syntax.is_uri,
}
OTHER_FILES = {
    "README.md",
    "LICENSE-CC0",
    "crypto/signature-fixtures.json",
    "crypto/w3c_didkey_K256.json",
    "crypto/w3c_didkey_P256.json",
    "data-model/data-model-fixtures.json",
    "data-model/data-model-invalid.json",
    "data-model/data-model-valid.json",
    "lexicon/lexicon-invalid.json",
    "lexicon/lexicon-valid.json",
    "mst/common_prefix.json",
    "mst/example_keys.txt",
    "mst/key_heights.json",
}


def load(name: str):
    return json.loads((INTEROP / name).read_text())


def base64_bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


@needs_interop
def test_every_file_of_the_vectors_is_run():
    found = {str(path.relative_to(INTEROP)) for path in INTEROP.rglob("*") if path.is_file()}
    run = {name for name in found if name.startswith(("syntax/", "lexicon/catalog/"))}
    assert {Path(name).name.partition("_")[0] for name in run if name.startswith("syntax/")} <= set(
        SYNTAX
    )
    assert found - run == OTHER_FILES


@needs_interop
@pytest.mark.parametrize("name", SYNTAX)
def test_syntax(name):
    counts = {True: 0, False: 0}
    for path in sorted((INTEROP / "syntax").glob(f"{name}_*.txt")):
        is_valid = path.stem.endswith("_valid")
        for line in path.read_text().split("\n"):
            if line.strip() and not line.startswith("#"):
                assert SYNTAX[name](line) == is_valid, (path.name, line)
                counts[is_valid] += 1
    assert counts[True] > 3
    assert counts[False] > 3


@needs_interop
def test_signatures():
    vectors = load("crypto/signature-fixtures.json")
    assert len(vectors) == 6
    for vector in vectors:
        message = base64_bytes(vector["messageBase64"])
        signature = base64_bytes(vector["signatureBase64"])
        key = VerifyingKey.parse(vector["publicKeyDid"])
        legacy = VerifyingKey.legacy(vector["didDocSuite"], vector["publicKeyMultibase"])
        assert legacy.multibase == key.multibase
        assert key.jwt_alg == vector["algorithm"]
        assert key.verify(message, signature) == vector["validSignature"], vector["comment"]


@needs_interop
def test_did_keys():
    k256 = [
        (K256Key(bytes.fromhex(vector["privateKeyBytesHex"])), vector["publicDidKey"])
        for vector in load("crypto/w3c_didkey_K256.json")
    ]
    p256 = [
        (P256Key(base58_bytes(vector["privateKeyBytesBase58"])), vector["publicDidKey"])
        for vector in load("crypto/w3c_didkey_P256.json")
    ]
    assert len(k256) == 5
    assert len(p256) == 1
    for key, text in (*k256, *p256):
        parsed = VerifyingKey.parse(text)
        assert did_key(key) == text == "did:key:" + parsed.multibase
        assert parsed.verify(b"message", key.sign(b"message"))


def base58_bytes(text: str) -> bytes:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number = 0
    for char in text:
        number = number * 58 + alphabet.index(char)
    return number.to_bytes(32)


@needs_interop
def test_data_model_fixtures():
    vectors = load("data-model/data-model-fixtures.json")
    assert len(vectors) == 3
    for vector in vectors:
        block = base64_bytes(vector["cbor_base64"])
        assert json_to_dag_cbor(json.dumps(vector["json"])) == block
        assert cid_text(dag_cbor_cid(block)) == vector["cid"]
        assert parse_cid(vector["cid"]) == dag_cbor_cid(block)
        assert decode_object(block) == (vector["json"], None)
        assert json_to_dag_cbor(encode_json(vector["json"])) == block


@needs_interop
def test_valid_data():
    for vector in load("data-model/data-model-valid.json"):
        assert decode_object(json_to_dag_cbor(json.dumps(vector["json"])))[1] is None, vector


@needs_interop
def test_invalid_data():
    vectors = load("data-model/data-model-invalid.json")
    assert len(vectors) == 12
    for vector in vectors:
        try:
            block = json_to_dag_cbor(json.dumps(vector["json"]))
        except ValueError:
            continue
        value, problem = decode_object(block)
        assert value is None, vector["note"]
        assert problem


@needs_interop
def test_key_heights():
    vectors = load("mst/key_heights.json")
    assert len(vectors) == 9
    for vector in vectors:
        assert key_height(vector["key"].encode()) == vector["height"]
    names = (INTEROP / "mst/example_keys.txt").read_text().split()
    assert len(names) > 100
    for name in names:
        assert key_height(name.encode()) == int(name[1])


@needs_interop
def test_common_prefixes():
    vectors = load("mst/common_prefix.json")
    assert len(vectors) == 13
    for vector in vectors:
        assert _shared(vector["left"].encode(), vector["right"].encode()) == vector["len"]


@needs_interop
def test_lexicon_documents():
    catalog = [json.loads(path.read_text()) for path in (INTEROP / "lexicon/catalog").iterdir()]
    assert len(LexiconCatalog.from_documents(catalog).methods) >= 3
    for vector in load("lexicon/lexicon-valid.json"):
        LexiconCatalog.from_documents([vector["lexicon"]])
    for vector in load("lexicon/lexicon-invalid.json"):
        with pytest.raises(InvalidLexicon):
            LexiconCatalog.from_documents([vector["lexicon"]])


# --- record data against the catalog's record lexicon

RECORD = "example.lexicon.record"
LINK = {"$link": "bafyreiclp443lavogvhj3d2ob2cxbfuscni2k5jk7bebjzg7khl3esabwq"}
BLOB = {"$type": "blob", "mimeType": "text/plain", "size": 12, "ref": LINK}
FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f466\u200d\U0001f466"
FLAG = "\U0001f3f3\ufe0f\u200d\U0001f308"

GOOD_FIELDS = [
    {},
    {"boolean": True, "integer": 0, "string": "blah", "nullableString": None},
    {"nullableString": "x", "bytes": {"$bytes": "MTIz"}, "cid-link": LINK, "blob": BLOB},
    {"bytes": {"$bytes": ""}, "array": [], "object": {}, "unknown": {}},
    {"unknown": {"$type": "example.lexicon.record#demoObject", "a": 1}, "array": [1, 2]},
    {"object": {"a": 1, "b": 2, "more": "than described"}, "ref": {"a": 1}},
    {"union": {"$type": f"{RECORD}#demoObject", "a": 1}},
    {"union": {"$type": f"{RECORD}#demoObjectTwo", "c": 1}},
    {"union": {"$type": "example.other.lexicon#thing", "anything": [1]}},
    {"closedUnion": {"$type": f"{RECORD}#demoObject", "a": 1}},
    {"constInteger": 42, "defaultInteger": 7, "enumInteger": 25, "rangeInteger": 10},
    {"rangeInteger": 20, "lenString": "0123456789", "enumString": "rock", "knownString": "other"},
    {"lenString": "ä" * 10, "graphemeString": (FAMILY + FLAG + "🇩🇪") * 4},
    {"sizeBytes": {"$bytes": "MTIzNDU2Nzg5MA"}, "lenArray": [1, 2, 3, 4, 5]},
    {"sizeBlob": {**BLOB, "size": 20}, "acceptBlob": {**BLOB, "mimeType": "image/png"}},
    {"formats": {}},
    {
        "formats": {
            "did": "did:web:example.com",
            "handle": "handle.example.com",
            "atidentifier": "did:web:example.com",
            "nsid": "com.example.nsid",
            "aturi": "at://handle.example.com/com.example.nsid/asdf123",
            "cid": LINK["$link"],
            "datetime": "2023-10-30T22:25:23Z",
            "language": "en",
            "uri": "https://example.com/file",
            "tid": "3kznmn7xqxl22",
            "recordkey": "simple",
        }
    },
]
BAD_FIELDS = [
    {"integer": None},
    {"integer": "green"},
    {"integer": True},
    {"boolean": "green"},
    {"boolean": 1},
    {"string": 2},
    {"string": None},
    {"nullableString": 5},
    {"bytes": "green"},
    {"bytes": {}},
    {"bytes": {"bytes": "asdf"}},
    {"bytes": {"$bytes": 5}},
    {"bytes": {"$bytes": "MTIz", "more": 1}},
    {"cid-link": "green"},
    {"cid-link": {"$link": "."}},
    {"cid-link": {**LINK, "more": 1}},
    {"blob": "green"},
    {"blob": {**BLOB, "$type": "other"}},
    {"blob": {**BLOB, "mimeType": False}},
    {"blob": {**BLOB, "size": "12"}},
    {"blob": {"$type": "blob", "mimeType": "text/plain", "size": 12}},
    {"array": 123},
    {"array": [True, False]},
    {"array": [1, "2"]},
    {"object": 123},
    {"object": [1]},
    {"object": {"a": "not a number"}},
    {"ref": 123},
    {"ref": {"a": "not a number"}},
    {"union": 123},
    {"union": {"a": 1, "b": 2}},
    {"union": {"$type": 5}},
    {"union": {"$type": f"{RECORD}#demoObject", "a": "not a number"}},
    {"closedUnion": {"$type": "example.unknown-lexicon.blah", "a": 1}},
    {"closedUnion": {"$type": f"{RECORD}#demoObjectTwo", "c": 1}},
    {"closedUnion": {"$type": f"{RECORD}#demoObject", "a": "not a number"}},
    {"constInteger": 41},
    {"enumInteger": 7},
    {"rangeInteger": 9},
    {"rangeInteger": 9000},
    {"lenString": "."},
    {"lenString": "abcdefg-abcdefg-abcdefg"},
    {"lenString": "ä" * 11},
    {"graphemeString": FAMILY * 2},
    {"graphemeString": "abcdefg-abcdefg-abcdefg"},
    {"enumString": "unexpected"},
    {"sizeBytes": {"$bytes": "b25l"}},
    {"sizeBytes": {"$bytes": "b25l" * 11}},
    {"lenArray": [0]},
    {"lenArray": [0] * 10},
    {"sizeBlob": {**BLOB, "size": 12345}},
    {"acceptBlob": BLOB},
    {"unknown": False},
    {"unknown": [1]},
    {"unknown": {"$bytes": "MTIz"}},
    {"unknown": LINK},
    {"unknown": BLOB},
    *(
        {"formats": {name: bad}}
        for name, bad in {
            "handle": "123",
            "did": "123",
            "atidentifier": "123",
            "nsid": "123",
            "aturi": "123",
            "cid": "123",
            "datetime": "123",
            "language": "123",
            "uri": "123",
            "tid": "000",
            "recordkey": ".",
        }.items()
    ),
]


@needs_interop
def test_record_data_against_the_catalog():
    documents = [json.loads(path.read_text()) for path in (INTEROP / "lexicon/catalog").iterdir()]
    catalog = LexiconCatalog.from_documents(documents)

    assert catalog.record_key(RECORD) == "literal:demo"
    for fields in GOOD_FIELDS:
        record = {"$type": RECORD, "integer": 1, **fields}
        assert catalog.validate_record(RECORD, record) is None, fields
        assert decode_object(json_to_dag_cbor(json.dumps(record))) == (record, None)
    for fields in BAD_FIELDS:
        assert catalog.validate_record(RECORD, {"$type": RECORD, "integer": 1, **fields}), fields
    assert catalog.validate_record(RECORD, {"$type": RECORD})
    assert catalog.validate_record(RECORD, {"$type": "example.other.record", "integer": 1})


def test_a_token_is_its_own_name():
    schema = {"type": "object", "properties": {"x": {"type": "ref", "ref": "#blue"}}}
    document = {
        "lexicon": 1,
        "id": RECORD,
        "defs": {
            "main": {"type": "record", "key": "any", "record": schema},
            "blue": {"type": "token"},
        },
    }
    catalog = LexiconCatalog.from_documents([document])
    assert catalog.validate_record(RECORD, {"$type": RECORD, "x": f"{RECORD}#blue"}) is None
    for bad in (f"{RECORD}#red", "blue", "#blue", 5, {}):
        assert catalog.validate_record(RECORD, {"$type": RECORD, "x": bad})


# --- commit proofs: the new tree's blocks around each changed key are enough to go back

LEAF = cid_of(b"\xa0")


def key(name: str) -> str:
    """A key such as `C2/000031`: C for its place in the order, 2 for its height."""
    return next(
        text
        for number in itertools.count()
        if mst.key_height((text := f"{name}/{number:06}").encode()) == int(name[1])
    )


COMMIT_PROOFS = {
    "a split two levels deep": ("A0 B1 C0 E0 F1 G0", "D2", ""),
    "a split two levels deep without a leaf": ("A0 B0 D0 E0", "C2", ""),
    "a key on the edge, its neighbour two levels down": ("A0 B2 C0", "D2", ""),
    "a merge and a split at once": ("A0 B2 D2 E0", "C2", "B2 D2"),
    "two keys above, one gone": ("B0 C2 D0 E2 F0 H0", "A2 G2", "C2"),
    "a split beside keys of the same level": ("A0 B0 C0 E0 F1 G0", "D1", ""),
    "the first key": ("", "C1", ""),
    "the last key": ("C1", "", "C1"),
    "a new top": ("A0 B0 C0", "D5", ""),
    "the top gone": ("A0 B0 C0 D5", "", "D5"),
    "all keys changed for others": ("A0 B1 C2", "D0 E1 F2", "A0 B1 C2"),
}


@pytest.mark.parametrize("name", COMMIT_PROOFS)
def test_commit_proofs(name):
    names, adds, dels = (list(map(key, part.split())) for part in COMMIT_PROOFS[name])
    before = mst.build((each.encode(), LEAF) for each in names)
    before.seal()
    after = before
    for each in adds:
        after = after.put(each.encode(), LEAF)
    for each in dels:
        after = after.remove(each.encode())
    after.seal()
    proof = {node.cid: node.block for each in (*adds, *dels) for node in after.proof(each.encode())}
    ops = [NetOp(each, LEAF, None) for each in adds] + [NetOp(each, None, LEAF) for each in dels]

    for order in itertools.islice(itertools.permutations(ops), 24):
        assert invert(after.root.cid, proof, order) == before.root.cid
    for gone in proof:
        rest = {cid: block for cid, block in proof.items() if cid != gone}
        assert inverted(after.root.cid, rest, ops) in {before.root.cid, gone}
    for left_out in ops:
        others = [op for op in ops if op is not left_out]
        assert inverted(after.root.cid, proof, others) != before.root.cid


def inverted(root, blocks, ops):
    """The root before; the CID of the missing block; None for any other refusal."""
    try:
        return invert(root, blocks, ops)
    except MissingBlock as missing:
        return missing.cid
    except InvalidUpstream:
        return None


# --- the recording of the real PDS


def frames_of(name: str) -> list[bytes]:
    raw, found, offset = (RECORDING / name).read_bytes(), [], 0
    while offset < len(raw):
        (size,) = struct.unpack_from(">I", raw, offset)
        found.append(raw[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return found


def keys_of_accounts() -> dict[str, list[VerifyingKey]]:
    """DID -> its signing keys by its own PLC log, newest first."""
    keys: dict[str, list[VerifyingKey]] = {}
    for path in sorted((RECORDING / "plc-logs").iterdir()):
        for entry in json.loads(path.read_text()):
            operation = entry["operation"]
            if operation["type"] == "plc_operation":
                key = VerifyingKey.parse(operation["verificationMethods"]["atproto"])
                keys.setdefault(entry["did"], []).insert(0, key)
    return keys


@needs_recording
@pytest.mark.parametrize(
    ("name", "commits"),
    [
        ("pds1.live.frames", 418),
        ("pds1.replay.frames", 355),
        ("pds2.live.frames", 69),
        ("pds2.replay.frames", 69),
    ],
)
def test_every_recorded_frame_is_proved(name, commits):
    keys = keys_of_accounts()
    data: dict[str, tuple[bytes, str]] = {}  # DID -> root and rev of the last proved commit
    proved = first = not_first = folded = 0
    for raw in frames_of(name):
        frame = decode_frame(raw)
        if frame.type == "#account":
            parse_account(frame)
        elif frame.type == "#sync":
            event = parse_sync(frame)
            commit = proved_by_one(
                keys[event.did], lambda key, e=event: verify_sync(e, key, now_s=NOW)
            )
            assert data.get(event.did, (commit.data,))[0] == commit.data
        elif frame.type == "#commit":
            event = parse_commit(frame)
            commit = proved_by_one(
                keys[event.did],
                lambda key, e=event: verify_commit(e, key, now_s=NOW, in_scope=lambda _: True),
            )
            if event.did in data:
                assert (commit.prev_data, commit.since) == data[event.did]
            elif commit.since is None:
                assert (commit.prev_data, commit.data, event.ops) == (None, EMPTY_TREE, ())
                first += 1
            data[event.did] = (commit.data, commit.rev)
            proved += 1
            folded += len(event.ops) != len({op.path for op in event.ops})
            not_first += next(iter(parse_car(event.blocks).blocks)) != event.commit
        else:
            assert frame.type == "#identity"
            assert frame.did in keys
    assert proved == commits
    assert first
    assert not_first > 0.9 * proved
    assert folded == (3 if name.startswith("pds1") else 0)


def proved_by_one(keys, prove):
    """The proof by the first key that gives one: the newest, or one before a migration."""
    for key in keys[:-1]:
        try:
            return prove(key)
        except InvalidUpstream as refusal:
            if refusal.check is not Check.SIGNATURE:
                raise
    return prove(keys[-1])


@needs_recording
def test_every_recorded_car_holds_what_its_account_lists():
    accounts = json.loads((RECORDING / "expected-state.json").read_text())["accounts"]
    keys = keys_of_accounts()
    paths = sorted((RECORDING / "cars").iterdir())
    assert len(paths) == 13
    for path in paths:
        account = accounts[path.stem]
        car = parse_car(path.read_bytes())
        commit = proved_by_one(
            keys[account["did"]],
            lambda key, a=account, c=car: verify_commit_block(
                c.blocks[c.root], c.root, a["did"], key
            ),
        )
        leaves = dict(walk(commit.data, car.blocks.__getitem__))
        hidden = {uri.split("/", 3)[3] for uri in account.get("takendownRecords", [])}
        listed = account["records"] or account.get("recordsBeforeStatusChange") or {}
        assert {p: cid_text(cid) for p, cid in leaves.items() if p not in hidden} == {
            p: entry["cid"] for p, entry in listed.items()
        }
        for record_path, cid in leaves.items():
            value, problem = decode_object(car.blocks[cid])
            assert problem is None, record_path
            assert json_to_dag_cbor(encode_json(value)) == car.blocks[cid]
            expected = listed.get(record_path, {}).get("value")
            if expected is not None and "$omitted" not in expected:
                assert value == expected


@needs_recording
def test_every_recorded_proof_shows_its_path():
    keys = keys_of_accounts()
    index = json.loads((RECORDING / "proofs" / "index.json").read_text())
    shown = {}
    for proof in index:
        car = parse_car((RECORDING / "proofs" / proof["file"]).read_bytes())
        params = proof["params"]
        if proof["method"] == "getBlocks":
            assert (car.roots, [cid_text(cid) for cid in car.blocks]) == ((), [params["cids"]])
            continue
        if not car.blocks:
            assert proof["file"] == "getRepo-since-current.car"
            continue
        commit = decode_commit(car.blocks[car.root], car.root)
        assert proved_by_one(
            keys[params["did"]],
            lambda key, c=car, d=params["did"]: verify_commit_block(
                c.blocks[c.root], c.root, d, key
            ),
        )
        if proof["method"] == "getRecord":
            path = f"{params['collection']}/{params['rkey']}".encode()
            found = list(walk(commit.data, car.blocks.__getitem__, [(path, path + b"\0")]))
            shown[proof["file"]] = bool(found)
            assert all(cid in car.blocks for _, cid in found)
    assert shown == {
        "getRecord-existing.car": True,
        "getRecord-nonexistent.car": False,
        "getRecord-nonexistent-collection.car": False,
        "getRecord-empty-repo.car": False,
        "getRecord-takendown-record.car": True,
        "getRecord-in-big-repo.car": True,
    }


@needs_recording
def test_both_forms_of_a_did_document_give_the_same_account():
    keys = keys_of_accounts()
    for path in sorted((RECORDING / "did-docs").iterdir()):
        today = json.loads(path.read_text())
        legacy = json.loads((RECORDING / "did-docs-legacy" / path.name).read_text())
        found = parse_did_document(today, today["id"])
        assert found == parse_did_document(legacy, today["id"])
        assert found.signing_key == keys[found.did][0].multibase
        assert found.pds_url is not None
