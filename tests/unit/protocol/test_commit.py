from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from signed_repos import (
    DID,
    NOW,
    assert_refused,
    event_of,
    new_repo,
    path_of,
    random_writes,
    record,
    signing_key,
    value_or_refusal,
    verifying_key,
    with_blocks,
)

from indexer.errors import Check, InvalidUpstream
from indexer.protocol.commit import (
    COMMIT_BLOCK_BYTES_MAX,
    EMPTY_TREE,
    RECORDS_BYTES_MAX,
    REV_AHEAD_S_MAX,
    UNREADABLE,
    VerifiedCommit,
    check_rev,
    decode_commit,
    fold_ops,
    record_block,
    verify_commit,
    verify_commit_block,
    verify_sync,
)
from indexer.protocol.events import COMMIT_BLOCKS_BYTES_MAX, CommitEvent, RepoOp, parse_sync
from indexer.protocol.frame import decode_frame
from indexer.protocol.mst import MissingBlock
from indexer.protocol.mst_inversion import NetOp
from tests.devnet.car import write_car
from tests.devnet.cbor import Link, cid_of, decode, encode
from tests.devnet.clock import tid
from tests.devnet.frames import sync_event
from tests.devnet.keys import high_s
from tests.devnet.mst import EMPTY
from tests.devnet.repo import Repo, Write, signed_commit

KEY = signing_key()
OTHER_KEY = signing_key(name="somebody else")


def prove(event: CommitEvent, key=KEY, *, now_s=NOW, in_scope=lambda _: True) -> VerifiedCommit:
    return verify_commit(event, verifying_key(key), now_s=now_s, in_scope=in_scope)


def refuse(check: Check, event: CommitEvent, key=KEY, **options) -> None:
    assert_refused(check, prove, event, key, **options)


@pytest.mark.parametrize("curve", ["k256", "p256"])
def test_a_commit_of_either_curve_is_proved(curve):
    key = signing_key(curve)
    repo = new_repo(50, key=key)
    before = repo.data
    commit = repo.commit(
        [
            Write("create", path_of(60), record("new")),
            Write("update", path_of(7), record("changed")),
            Write("delete", path_of(8)),
        ]
    )

    proved = prove(event_of(commit), key)

    assert (proved.did, proved.rev, proved.since) == (DID, commit.rev, commit.since)
    assert (proved.data, proved.prev_data) == (repo.data, before)
    assert proved.commit_cid == commit.cid
    assert {change.path: change.block for change in proved.changes} == {
        path_of(60): record("new"),
        path_of(7): record("changed"),
        path_of(8): None,
    }


def test_only_changes_in_scope_are_kept_and_needed():
    repo = new_repo()
    ours, theirs = path_of(1), "app.bsky.feed.post/a"
    foreign = record("post", "app.bsky.feed.post")
    commit = repo.commit([Write("create", ours, record()), Write("create", theirs, foreign)])
    event = event_of(commit)

    proved = prove(event, in_scope=lambda path: path.startswith("pub.chive."))
    assert [change.path for change in proved.changes] == [ours]

    without = {cid: block for cid, block in commit.blocks.items() if block != foreign}
    thin = with_blocks(event, commit, without)
    assert prove(thin, in_scope=lambda path: path.startswith("pub.chive.")).changes
    refuse(Check.NOT_INVERTIBLE, thin)


def test_the_first_commit_has_no_prev_data():
    empty = Repo(DID, KEY, new_repo().tids)
    proved = prove(event_of(empty.commit()))
    assert (proved.prev_data, proved.since, proved.data) == (None, None, EMPTY_TREE)
    assert EMPTY.cid == EMPTY_TREE

    full = Repo(DID, KEY, new_repo().tids)
    first = event_of(full.commit([Write("create", path_of(1), record())]))
    assert first.prev_data is None
    assert [change.path for change in prove(first).changes] == [path_of(1)]
    refuse(Check.INVERSION, replace(first, ops=()))


def test_an_empty_commit_is_proved_without_the_tree():
    repo = new_repo(20)
    commit = repo.commit()
    event = event_of(commit)
    event = with_blocks(event, commit, {commit.cid: commit.block})

    proved = prove(event)

    assert (proved.data, proved.prev_data, proved.changes) == (repo.data, repo.data, ())
    refuse(Check.INVERSION, replace(event, prev_data=EMPTY_TREE))


def test_the_commit_block_may_stand_anywhere():
    repo = new_repo(30)
    commit = repo.commit([Write("create", path_of(100), record())])
    event = event_of(commit)
    pairs = list(commit.blocks.items())
    for turn in range(len(pairs)):
        turned = dict(pairs[turn:] + pairs[:turn])
        assert prove(with_blocks(event, commit, turned)).rev == commit.rev


def test_blocks_that_nobody_needs_do_no_harm():
    repo = new_repo(30)
    commit = repo.commit([Write("create", path_of(100), record())])
    extra = {cid_of(b"\xff garbage"): b"\xff garbage"} | commit.blocks
    assert prove(with_blocks(event_of(commit), commit, extra)).rev == commit.rev


def test_ten_thousand_blocks_that_nobody_needs_do_no_harm():
    repo = new_repo(30)
    commit = repo.commit([Write("create", path_of(100), record())])
    extra = {cid_of(b"%d" % number): b"%d" % number for number in range(10_000)} | commit.blocks
    event = with_blocks(event_of(commit), commit, extra)
    assert len(event.blocks) < COMMIT_BLOCKS_BYTES_MAX
    assert prove(event).rev == commit.rev


def test_writes_to_one_path_in_a_batch_are_folded():
    repo = new_repo(10)
    one, two = record("one"), record("two")
    new, old, gone = path_of(50), path_of(3), path_of(51)
    commit = repo.commit(
        [
            Write("create", new, one),
            Write("update", new, two),
            Write("create", gone, one),
            Write("delete", gone),
            Write("delete", old),
            Write("create", old, two),
        ]
    )
    event = event_of(commit)
    assert len(event.ops) == 6

    assert {change.path: change.block for change in prove(event).changes} == {new: two, old: two}


def test_the_real_servers_ops_for_one_path_are_folded():
    """As recorded: `prev` is from before the batch, and only the last op of a recreation has it."""
    a, b, c = (cid_of(name) for name in (b"a", b"b", b"c"))
    cases = {
        "create, update": ([("create", b, None), ("update", c, None)], (c, None)),
        "create, delete": ([("create", b, None), ("delete", None, None)], None),
        "delete, create": ([("delete", None, None), ("create", b, a)], (b, a)),
        "delete with prev, create": ([("delete", None, a), ("create", b, None)], (b, a)),
        "update, update": ([("update", b, a), ("update", c, b)], (c, a)),
        "update, delete": ([("update", b, a), ("delete", None, a)], (None, a)),
        "update to the same": ([("update", a, a)], (a, a)),
    }
    for name, (listed, net) in cases.items():
        ops = [RepoOp(action, "a.b.c/x", cid, prev) for action, cid, prev in listed]
        expected = [] if net is None else [NetOp("a.b.c/x", *net)]
        assert fold_ops(ops) == expected, name


def test_a_missing_prev_is_not_invertible_and_a_superfluous_one_is_wrong():
    cid = cid_of(b"a")
    for action, new in (("update", cid), ("delete", None)):
        assert_refused(Check.NOT_INVERTIBLE, fold_ops, [RepoOp(action, "a.b.c/x", new, None)])
    assert_refused(Check.OPS, fold_ops, [RepoOp("create", "a.b.c/x", cid, cid)])


def test_an_update_to_the_same_content_is_proved():
    repo = new_repo(10)
    commit = repo.commit([Write("update", path_of(3), repo.block_of(path_of(3)))])
    event = event_of(commit)
    assert event.ops[0].prev == event.ops[0].cid
    assert prove(event).data == prove(event).prev_data


def some_event(writes: int = 1) -> tuple[CommitEvent, object]:
    repo = new_repo(60)
    new = [Write("create", path_of(100 + number), record("new")) for number in range(writes - 1)]
    commit = repo.commit([*new, Write("update", path_of(7), record("changed"))])
    return event_of(commit), commit


def test_each_false_field_of_an_event_has_its_check():
    event, commit = some_event()
    op = event.ops[0]
    other = cid_of(b"other")
    later = tid(int(NOW * 1e6), 1)

    prove(event)
    refuse(Check.COMMIT, replace(event, rev=later))
    refuse(Check.COMMIT, replace(event, did="did:plc:zzzzzzzzzzzzzzzzzzzzzzzz"))
    refuse(Check.CAR, replace(event, commit=other))
    refuse(Check.INVERSION, replace(event, prev_data=other))
    refuse(Check.INVERSION, replace(event, prev_data=commit.data))
    refuse(Check.NOT_INVERTIBLE, replace(event, prev_data=None))
    refuse(Check.INVERSION, replace(event, prev_data=None, since=None))
    refuse(Check.INVERSION, replace(event, ops=()))
    refuse(Check.INVERSION, replace(event, ops=(replace(op, prev=other),)))
    refuse(Check.OPS, replace(event, ops=(replace(op, cid=other),)))
    refuse(Check.OPS, replace(event, ops=(replace(op, path=path_of(999)),)))
    refuse(Check.INVERSION, replace(event, ops=(replace(op, action="create", prev=None),)))
    refuse(Check.OPS, replace(event, ops=(RepoOp("delete", op.path, None, op.prev),)))
    refuse(Check.OPS, replace(event, ops=(op, RepoOp("create", path_of(9), other, None))))
    refuse(Check.NOT_INVERTIBLE, replace(event, ops=(replace(op, prev=None),)))


def test_a_changed_byte_of_any_block_is_seen():
    event, commit = some_event(writes=3)
    for cid, block in commit.blocks.items():
        for position in (0, len(block) // 2, len(block) - 1):
            changed = bytearray(block)
            changed[position] ^= 1
            refuse(
                Check.BLOCK_HASH, with_blocks(event, commit, {**commit.blocks, cid: bytes(changed)})
            )


def test_an_absent_block_is_seen():
    event, commit = some_event(writes=3)
    for cid in commit.blocks:
        rest = {each: block for each, block in commit.blocks.items() if each != cid}
        refused = with_blocks(event, commit, rest)
        with pytest.raises(MissingBlock) as refusal:
            prove(refused)
        assert refusal.value.cid == cid


def test_an_op_left_out_of_a_batch_is_seen():
    event, _ = some_event(writes=4)
    for gone in range(4):
        ops = event.ops[:gone] + event.ops[gone + 1 :]
        refuse(Check.INVERSION, replace(event, ops=ops))


def resigned(event: CommitEvent, commit, change) -> CommitEvent:
    """The event with a commit block that `change` has made of the decoded one, signed or not."""
    body = decode(commit.block)
    block = change(body)
    cid = cid_of(block)
    blocks = {each: data for each, data in commit.blocks.items() if each != commit.cid}
    return replace(event, commit=cid, blocks=write_car([cid], [*blocks.items(), (cid, block)]))


def signed(body) -> bytes:
    unsigned = {key: value for key, value in body.items() if key != "sig"}
    return encode({**unsigned, "sig": KEY.sign(encode(unsigned))})


BAD_BODIES = {
    "another did": ({"did": "did:plc:zzzzzzzzzzzzzzzzzzzzzzzz"}, Check.COMMIT),
    "did is a number": ({"did": 5}, Check.COMMIT),
    "another rev": ({"rev": "3kznmn7xqxl22"}, Check.COMMIT),
    "rev is no tid": ({"rev": "now"}, Check.COMMIT),
    "rev is a number": ({"rev": 5}, Check.COMMIT),
    "version 2": ({"version": 2}, Check.COMMIT),
    "version 4": ({"version": 4}, Check.COMMIT),
    "version is true": ({"version": True}, Check.COMMIT),
    "version is text": ({"version": "3"}, Check.COMMIT),
    "data is null": ({"data": None}, Check.COMMIT),
    "data is bytes": ({"data": cid_of(b"")}, Check.COMMIT),
    "data is raw": ({"data": Link(cid_of(b"", 0x55))}, Check.COMMIT),
    "prev is text": ({"prev": "x"}, Check.COMMIT),
    "a huge extra field": ({"extra": "x" * COMMIT_BLOCK_BYTES_MAX}, Check.COMMIT),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_each_false_field_of_a_commit_block_has_its_check(name):
    event, commit = some_event()
    change, check = BAD_BODIES[name]
    refuse(check, resigned(event, commit, lambda body: signed({**body, **change})))


def test_a_commit_block_must_be_a_map_with_every_field():
    event, commit = some_event()
    refuse(Check.COMMIT, resigned(event, commit, lambda body: encode([body])))
    for name in ("did", "rev", "version", "data", "prev"):
        without = resigned(
            event,
            commit,
            lambda body, name=name: signed({k: v for k, v in body.items() if k != name}),
        )
        refuse(Check.COMMIT, without)


def test_extra_fields_and_a_linked_prev_are_allowed_and_signed():
    event, commit = some_event()
    more = {"prev": Link(cid_of(b"older")), "future": {"x": [1, None]}}
    prove(resigned(event, commit, lambda body: signed({**body, **more})))
    refuse(Check.SIGNATURE, resigned(event, commit, lambda body: encode({**body, **more})))


def test_a_commit_block_that_is_not_canonical_or_holds_a_float_is_refused():
    event, commit = some_event()
    double = b"\xfb\x40\x08\x00\x00\x00\x00\x00\x00"
    refuse(Check.CBOR, resigned(event, commit, lambda body: encode(body) + b"\0"))
    refuse(
        Check.CBOR, resigned(event, commit, lambda body: encode(body).replace(b"\x03", b"\x18\x03"))
    )
    refuse(
        Check.CBOR,
        resigned(event, commit, lambda body: encode({**body, "version": 10**9}).replace(
            b"\x1a\x3b\x9a\xca\x00", double)),
    )  # fmt: skip


@pytest.mark.parametrize("curve", ["k256", "p256"])
def test_each_bad_signature_is_refused(curve):
    key = signing_key(curve)
    repo = new_repo(20, key=key)
    commit = repo.commit([Write("create", path_of(100), record())])
    event = event_of(commit)
    good = decode(commit.block)["sig"]
    prove(event, key)
    refuse(Check.SIGNATURE, event, OTHER_KEY)
    refuse(Check.SIGNATURE, event, signing_key("p256" if curve == "k256" else "k256"))
    for bad in (
        high_s(good, curve),
        good[:-1],
        good + b"\0",
        b"",
        bytes(64),
        good[:32] + bytes(32),
        bytes(32) + good[32:],
        b"\xff" * 64,
        good[32:] + good[:32],
        None,
        "text",
    ):
        forged = resigned(event, commit, lambda body, bad=bad: encode({**body, "sig": bad}))
        refuse(Check.SIGNATURE, forged, key)
    unsigned = resigned(
        event, commit, lambda body: encode({k: v for k, v in body.items() if k != "sig"})
    )
    refuse(Check.SIGNATURE, unsigned, key)


def test_a_commit_of_another_repo_is_refused_though_it_is_valid():
    mine, theirs = new_repo(10), new_repo(10, did="did:plc:zzzzzzzzzzzzzzzzzzzzzzzz")
    commit = theirs.commit([Write("create", path_of(100), record())])
    mine.commit()
    refuse(Check.COMMIT, event_of(commit, DID))


def test_a_rev_may_be_ahead_by_five_minutes():
    at = tid(int((NOW + REV_AHEAD_S_MAX) * 1e6))
    check_rev(at, NOW + 0.001)
    assert_refused(Check.FUTURE_REV, check_rev, at, NOW - 1)
    event, _ = some_event()
    refuse(Check.FUTURE_REV, event, now_s=NOW - 10_000)


def test_a_broken_archive_is_refused():
    event, _ = some_event()
    refuse(Check.CAR, replace(event, blocks=event.blocks[:-1]))
    refuse(Check.CAR, replace(event, blocks=b"\x00"))
    refuse(Check.CAR, replace(event, blocks=write_car([], [])))


def test_a_record_under_an_uncheckable_cid_is_kept_without_its_content():
    """The commit proves the link, nobody can check the content: a bad record, not a bad commit."""
    repo = new_repo(10)
    path, raw = path_of(100), cid_of(record(), 0x55)
    before = repo.data
    tree = repo.tree.put(path.encode(), raw)
    nodes = {node.cid: node.block for node in tree.seal()}
    block = signed_commit(DID, repo.tids.next(), tree.root.cid, KEY.sign)
    event = CommitEvent(
        seq=1,
        did=DID,
        rev=decode(block)["rev"],
        since=repo.rev,
        commit=cid_of(block),
        prev_data=before,
        blocks=write_car(
            [cid_of(block)], [(cid_of(block), block), *nodes.items(), (raw, record())]
        ),
        ops=(RepoOp("create", path, raw, None),),
        time="",
    )

    (change,) = prove(event).changes
    assert (change.cid, change.block) == (raw, UNREADABLE)


def test_a_record_block_is_loaded_only_under_a_cid_that_was_checked():
    blocks = {cid_of(b"x"): b"x"}
    assert record_block(cid_of(b"x"), blocks.get) == b"x"
    assert record_block(cid_of(b"x", 0x55), blocks.get) == UNREADABLE
    with pytest.raises(MissingBlock):
        record_block(cid_of(b"y"), blocks.get)


def test_one_large_block_under_many_paths_is_over_the_limit():
    repo = new_repo()
    block = record("x" * 500_000)
    count = RECORDS_BYTES_MAX // len(block) + 1
    commit = repo.commit([Write("create", path_of(n), block) for n in range(count)])
    event = event_of(commit)

    refuse(Check.LIMITS, event)
    assert len(event.blocks) < 600_000
    assert prove(event, in_scope=lambda path: path == path_of(0)).changes


def test_a_sync_shows_a_commit_that_may_be_older_than_it_says():
    repo = new_repo(5)
    repo.commit([Write("create", path_of(100), record())])
    moved = repo.moved_to(signing_key(name="new"))
    event = parse_sync(decode_frame(sync_event(moved, NOW).frame(1)))

    commit = verify_sync(event, verifying_key(KEY), now_s=NOW)

    assert event.rev > commit.rev == repo.rev
    assert commit.data == repo.data
    assert_refused(Check.SIGNATURE, verify_sync, event, verifying_key(OTHER_KEY), now_s=NOW)
    assert_refused(Check.FUTURE_REV, verify_sync, event, verifying_key(KEY), now_s=NOW - 10_000)
    empty = replace(event, blocks=write_car([repo.commit_cid], []))
    assert_refused(Check.NOT_INVERTIBLE, verify_sync, empty, verifying_key(KEY), now_s=NOW)
    rootless = replace(event, blocks=write_car([], []))
    assert_refused(Check.CAR, verify_sync, rootless, verifying_key(KEY), now_s=NOW)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_a_life_of_commits_is_proved_step_by_step_and_equals_the_repo(seed):
    rng = random.Random(seed)
    repo = new_repo(rng.randrange(80))
    rows = {path: repo.block_of(path) for path in repo.paths}
    data = repo.data
    for _ in range(6):
        commit = repo.commit(random_writes(repo, rng, rng.randrange(8)))
        proved = prove(event_of(commit))
        assert (proved.prev_data, proved.since) == (data, commit.since)
        data = proved.data
        for change in proved.changes:
            if change.block is None:
                del rows[change.path]
            else:
                rows[change.path] = change.block
    assert rows == {path: repo.block_of(path) for path in repo.paths}


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 7))
def test_a_changed_bit_anywhere_in_the_archive_is_refused_or_changes_nothing_proved(at, bit):
    event, _ = FIXED
    blocks = bytearray(event.blocks)
    blocks[at % len(blocks)] ^= 1 << bit
    proved = value_or_refusal(prove, replace(event, blocks=bytes(blocks)))
    assert proved is None or proved == prove(event)


FIXED = some_event(writes=2)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_commit_block_or_refused(block):
    value_or_refusal(decode_commit, block, cid_of(block))
    value_or_refusal(prove, replace(FIXED[0], blocks=block or b"\0"))


def test_the_block_of_a_fetched_commit_is_checked_alike():
    repo = new_repo(3)
    args = (repo.commit_block, repo.commit_cid)
    assert verify_commit_block(*args, DID, verifying_key(KEY)).rev == repo.rev
    assert_refused(Check.COMMIT, verify_commit_block, *args, "did:web:x.org", verifying_key(KEY))
    with pytest.raises(InvalidUpstream):
        verify_commit_block(*args, DID, verifying_key(OTHER_KEY))
