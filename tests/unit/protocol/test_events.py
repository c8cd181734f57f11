from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from signed_repos import DID, assert_refused, value_or_refusal

from indexer.errors import Check
from indexer.protocol.events import (
    COMMIT_BLOCKS_BYTES_MAX,
    OPS_MAX,
    STATUS_CHARS_MAX,
    SYNC_BLOCKS_BYTES_MAX,
    RepoOp,
    parse_account,
    parse_commit,
    parse_sync,
)
from indexer.protocol.frame import Frame, decode_frame
from tests.devnet.cbor import Link, Value, cid_of, encode
from tests.devnet.frames import message

CID, OTHER = cid_of(b"one"), cid_of(b"two")
REV, SINCE = "3kznmn7xqxl22", "3kznmn7xqxk22"
TIME = "2026-01-01T00:00:00.000Z"
CREATE: Value = {"action": "create", "path": "pub.chive.eprint.tag/a", "cid": Link(CID)}
COMMIT: dict[str, Value] = {
    "seq": 5, "repo": DID, "rev": REV, "since": SINCE, "commit": Link(CID), "prevData": Link(OTHER),
    "blocks": b"\x01", "ops": [CREATE], "time": TIME, "blobs": [], "rebase": False, "tooBig": False,
}  # fmt: skip
SYNC: dict[str, Value] = {"seq": 5, "did": DID, "rev": REV, "blocks": b"\x01", "time": TIME}
ACCOUNT: dict[str, Value] = {
    "seq": 5,
    "did": DID,
    "active": False,
    "status": "deleted",
    "time": TIME,
}


def commit(**change: Value):
    return parse_commit(decode_frame(message("#commit", {**COMMIT, **change})))


def sync(**change: Value):
    return parse_sync(decode_frame(message("#sync", {**SYNC, **change})))


def account(**change: Value):
    return parse_account(decode_frame(message("#account", {**ACCOUNT, **change})))


def without(kind: str, body, name: str) -> Frame:
    return decode_frame(message(kind, {key: value for key, value in body.items() if key != name}))


def test_a_commit_is_read_whole():
    event = commit()
    assert (event.seq, event.did, event.rev, event.since) == (5, DID, REV, SINCE)
    assert (event.commit, event.prev_data, event.blocks, event.time) == (CID, OTHER, b"\x01", TIME)
    assert event.ops == (RepoOp("create", "pub.chive.eprint.tag/a", CID, None),)


def test_what_a_first_commit_lacks_and_what_is_deprecated_is_no_error():
    body = {**COMMIT, "since": None, "tooBig": True, "rebase": True, "future": {"x": 1}}
    event = parse_commit(without("#commit", body, "prevData"))
    assert (event.since, event.prev_data) == (None, None)
    assert commit(prevData=None).prev_data is None
    parse_commit(without("#commit", COMMIT, "tooBig"))


@pytest.mark.parametrize(
    "change",
    [
        {"repo": "did:plc"},
        {"repo": "x" * 5000},
        {"rev": "now"},
        {"rev": 5},
        {"rev": None},
        {"since": "now"},
        {"since": 5},
        {"commit": None},
        {"commit": "bafy"},
        {"commit": b"short"},
        {"commit": Link(cid_of(b"", 0x55))},
        {"prevData": "bafy"},
        {"prevData": b"short"},
        {"prevData": Link(cid_of(b"", 0x55))},
        {"blocks": b""},
        {"blocks": "text"},
        {"blocks": None},
        {"ops": None},
        {"ops": {}},
        {"time": None},
        {"time": 5},
    ],
)
def test_a_field_of_the_wrong_type_is_refused(change):
    assert_refused(Check.FIELDS, commit, **change)


@pytest.mark.parametrize("name", ["rev", "since", "commit", "blocks", "ops", "time"])
def test_an_absent_field_is_refused(name):
    assert_refused(Check.FIELDS, parse_commit, without("#commit", COMMIT, name))


def test_sizes_are_limited():
    assert commit(blocks=bytes(COMMIT_BLOCKS_BYTES_MAX)).blocks
    assert_refused(Check.LIMITS, commit, blocks=bytes(COMMIT_BLOCKS_BYTES_MAX + 1))
    many: list[Value] = [{**CREATE, "path": f"a.b.c/{n}"} for n in range(OPS_MAX + 1)]
    assert len(commit(ops=many[:-1]).ops) == OPS_MAX
    assert_refused(Check.LIMITS, commit, ops=many)
    assert sync(blocks=bytes(SYNC_BLOCKS_BYTES_MAX)).blocks
    assert_refused(Check.LIMITS, sync, blocks=bytes(SYNC_BLOCKS_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"action": "upsert"},
        {"action": None},
        {"action": ["create"]},
        {"action": {"create": 1}},
        {"cid": None},
        {"cid": "bafy"},
        {"cid": b"short"},
        {"action": "delete"},
        {"action": "update", "prev": "bafy"},
        {"action": "update", "prev": b"short"},
        {"path": None},
        {"path": 5},
        {"path": ["a.b.c/x"]},
        {"path": ""},
        {"path": "a/b"},
        {"path": "../x"},
        {"path": "a.b.c/"},
        {"path": "/x"},
        {"path": "a.b.c/x/y"},
        {"path": "a.b.c/."},
        {"path": "a.b.c/x y"},
        {"path": "a.b.c/\0"},
        {"path": "did:plc:ABC/x"},
        {"path": "a.b.c/" + "x" * 513},
        {"path": "x" * 1025},
    ],
)
def test_an_op_that_is_not_well_formed_is_refused(change):
    assert_refused(Check.OPS, commit, ops=[{**CREATE, **change}])


def test_an_op_that_is_no_object_is_refused():
    for op in (None, [], "create", 5):
        assert_refused(Check.OPS, commit, ops=[op])


def test_each_action_and_the_oddest_legal_path_are_read():
    path = "pub.chive.eprint.tag/" + "~:_-." + "x" * 507
    ops = [
        {**CREATE, "path": path},
        {**CREATE, "action": "update", "prev": Link(OTHER)},
        {**CREATE, "action": "update"},
        {**CREATE, "action": "delete", "cid": None, "prev": Link(OTHER)},
    ]
    assert [(op.action, op.cid, op.prev) for op in commit(ops=ops).ops] == [
        ("create", CID, None),
        ("update", CID, OTHER),
        ("update", CID, None),
        ("delete", None, OTHER),
    ]
    absent_cid = {"action": "delete", "path": path, "prev": Link(OTHER)}
    assert commit(ops=[absent_cid]).ops[0].cid is None


def test_a_sync_and_an_account_are_read_and_checked():
    assert (sync().did, sync().rev, sync().blocks) == (DID, REV, b"\x01")
    assert (account().active, account().status) == (False, "deleted")
    assert account(active=True, status=None).status is None
    assert account(status="x" * 5000).status == "x" * STATUS_CHARS_MAX
    assert parse_account(without("#account", ACCOUNT, "status")).status is None
    for change in ({"did": "x"}, {"rev": "x"}, {"blocks": b""}, {"time": 5}):
        assert_refused(Check.FIELDS, sync, **change)
    for change in ({"did": "x"}, {"active": None}, {"active": 1}, {"status": 5}, {"time": None}):
        assert_refused(Check.FIELDS, account, **change)
    assert_refused(Check.FIELDS, parse_account, without("#account", ACCOUNT, "active"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["action", "path", "cid", "prev", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(
    st.sampled_from([("#commit", COMMIT), ("#sync", SYNC), ("#account", ACCOUNT)]),
    st.dictionaries(
        st.sampled_from(sorted({*COMMIT, *SYNC, *ACCOUNT} - {"seq", "repo", "did"})),
        json_values | st.lists(json_values, max_size=3),
        max_size=4,
    ),
)
def test_any_body_is_an_event_or_refused(kind_and_body, change):
    kind, body = kind_and_body
    frame = decode_frame(encode({"op": 1, "t": kind}) + encode({**body, **change}))
    for parse in (parse_commit, parse_sync, parse_account):
        value_or_refusal(parse, frame)
