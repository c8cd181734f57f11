"""Frames of the stream, on their whole way from bytes to a proved event."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from indexer.errors import Check, InvalidUpstream
from indexer.ingest import decoded, verification
from indexer.ingest.verification import EARLIEST_AT, RawFrame, Verifier, is_relevant
from indexer.model import Scope
from indexer.planning import AccountSeen, CommitSeen, IdentitySeen, SyncSeen
from indexer.protocol import car, cbor, commit, events, frame, mst, mst_inversion
from tests.devnet.car import car_header, car_section, read_car, write_car
from tests.devnet.cbor import RAW, Link, Value, cid_of, cid_text, decode, encode, to_json
from tests.devnet.frames import (
    account_event,
    error_message,
    identity_event,
    info_message,
    sync_event,
)
from tests.devnet.mst import EMPTY, Tree
from tests.e2e.recorded import load_frames
from tests.fuzz.mutation import TEXTS, havoc, junk, loosely_encoded, mangled, rehashed
from tests.fuzz.repos import (
    NOW,
    Case,
    StandingClock,
    World,
    build_world,
    is_node,
    mangled_node,
    resigned,
)
from tests.fuzz.strict_cbor import ARCHIVE_HEADER, decode_envelope, decode_strict, decode_strict_at

SCOPE = Scope(("pub.chive.*",))
HEADER = encode({"t": "#commit", "op": 1})


class Frames:
    """Commits, syncs and the rest; a commit that is accepted is made again on the tree before it."""

    name = "frames"
    modules = (frame, events, commit, car, mst, mst_inversion, verification, cbor)

    def __init__(self, seed: int) -> None:
        self.world: World = build_world(seed)
        self._verifier = Verifier(scope=SCOPE, prepare=self.world.prepare, clock=StandingClock())
        self._keys = self.world.verifying
        self._recorded = [data for host in ("pds1", "pds2") for data in load_frames(host)[:400]]
        self._recorded = [data for data in self._recorded if len(data) < 20_000]
        self._others = self._other_frames()
        self._ways: list[Callable[[Random, Case], bytes]] = [
            _unchanged, _bytes, _bytes, _bytes, _fields, _fields, _loose, _ops, _ops, _blocks, _blocks,
            _header, self._forged, self._forged, self._tree, self._tree, self._tree, self._record,
            self._record, self._foreign,
        ]  # fmt: skip

    def make(self, rng: Random) -> bytes:
        """One frame in ten is of a real PDS or no commit."""
        if rng.random() < 0.1:
            pool = self._recorded if rng.random() < 0.4 else self._others
            data = rng.choice(pool)
            if rng.random() < 0.5:
                header, at = _split(data)
                return header + loosely_encoded(rng, mangled(rng, decode(data[at:])))
            return havoc(rng, data, rng.choice(pool))
        return rng.choice(self._ways)(rng, rng.choice(self.world.cases))

    def check(self, data: bytes) -> str:
        """Decode as the live path does, and hold what is accepted against what is known."""
        try:
            raw = RawFrame.decoded(data)
        except InvalidUpstream as error:
            return f"refused {error.check}"
        if raw.frame.did is None:
            decode_envelope(data)
            return f"accepted as {raw.frame.type if raw.frame.type in _PLAIN else 'another type'}"
        assert raw.frame.seq is not None
        is_relevant(raw.frame, SCOPE, lambda did: did in self._keys)
        at = decoded.event_at(raw.frame.body.get("time"), now=NOW)
        assert at is None or EARLIEST_AT <= at <= NOW
        # What is not of a tracked repo is looked at without a key, as when it is discovered.
        [event] = self._verifier.events([raw], self._keys)
        error = None if isinstance(event, IdentitySeen) else event.error
        if error is not None:
            assert isinstance(error, InvalidUpstream)
            assert error.check is not Check.BUG, error.detail
            return f"refused {error.check}"
        return self._accepted(data, event)

    def _accepted(self, data: bytes, event: object) -> str:
        if isinstance(event, IdentitySeen | AccountSeen):
            return f"accepted {type(event).__name__}"
        assert isinstance(event, CommitSeen | SyncSeen)
        if event.did not in self._keys:
            return f"accepted {type(event).__name__} without a key"
        header, body = decode_envelope(data)
        assert isinstance(header, dict)
        assert isinstance(body, dict)
        root, blocks = sound_archive(body["blocks"])
        if isinstance(event, CommitSeen):
            assert cid_in(body["commit"]) == root
        assert self.world.is_signed(event.did, blocks[root]), "a forged commit was accepted"
        signed = decode_strict(blocks[root])
        assert isinstance(signed, dict)
        if isinstance(event, SyncSeen):
            return "accepted SyncSeen"
        assert signed["rev"] == event.rev == body["rev"]
        self._check_step(body, signed, blocks)
        self._check_writes(event, body, blocks)
        return "accepted CommitSeen"

    def _check_step(self, body: dict, signed: dict, blocks: dict[bytes, bytes]) -> None:
        """The listed ops, done to the tree before, give the tree that was signed: no more, no less."""
        prev = cid_in(body.get("prevData"))
        tree = Tree() if prev is None else self.world.trees.get(prev)
        if not body["ops"]:
            assert cid_in(signed["data"]) == (EMPTY.cid if prev is None else prev)
            return
        assert tree is not None, "a commit was accepted upon a state that never was"
        for path, cid, before in net_ops(body["ops"]):
            key = path.encode()
            assert tree.get(key) == before, "an op speaks of a record that was not there"
            if cid is not None:
                tree = tree.put(key, cid)
            elif before is not None:
                tree = tree.remove(key)
        tree.seal()
        assert tree.root.cid == signed["data"].cid, "the ops do not lead to what was signed"

    def _check_writes(self, event: CommitSeen, body: dict, blocks: dict[bytes, bytes]) -> None:
        expected = {path: cid for path, cid, _ in net_ops(body["ops"]) if path in SCOPE}
        assert {write.path for write in event.writes} == set(expected)
        for write in event.writes:
            cid, record = expected[write.path], write.record
            assert (record is None) == (cid is None)
            if record is None or cid is None:
                continue
            assert record.cid == ("b" + cid_text(cid)[1:])
            if record.value is not None:
                check_value(record.value, blocks[cid])

    def _forged(self, rng: Random, case: Case) -> bytes:
        """A commit block that is changed, signed again or not."""
        block, key = case.commit.block, self.world.keys[case.did]
        way = rng.randrange(5)
        if way == 0:
            block = havoc(rng, block, rng.choice(self.world.cases).commit.block)
        elif way == 1:
            value = decode(block)
            assert isinstance(value, dict)
            name = rng.choice(("did", "rev", "data", "version", "prev", "sig"))
            block = encode({**value, name: mangled(rng, value[name])})
        elif way == 2:
            other = rng.choice(list(self.world.keys.values()))
            block = resigned(other, block, None)
        elif way == 3:
            block = resigned(key, block, rng.choice(list(self.world.trees)))
        else:
            block = resigned(key, block, None, lambda value: mangled(rng, value))
        return _recommitted(case, case.commit.blocks, block)

    def _tree(self, rng: Random, case: Case) -> bytes:
        """A node that is changed, with all above it made anew and signed."""
        nodes = [cid for cid, block in case.commit.blocks.items() if is_node(block)]
        old = rng.choice(nodes)
        fresh = mangled_node(rng, case.commit.blocks[old])
        return self._resigned(rng, case, old, fresh)

    def _record(self, rng: Random, case: Case) -> bytes:
        """A record that is changed, with the tree and the op made to fit and signed."""
        records = [op.cid for op in case.commit.ops if op.cid is not None]
        if not records:
            return self._tree(rng, case)
        old = rng.choice(records)
        value = mangled(rng, decode(case.commit.blocks[old]))
        fresh = loosely_encoded(rng, value, rng.choice((0.0, 0.0, 0.05)))
        return self._resigned(rng, case, old, fresh)

    def _resigned(self, rng: Random, case: Case, old: bytes, fresh: bytes) -> bytes:
        kept = dict(case.commit.blocks)
        del kept[case.commit.cid]
        blocks, moved = rehashed(kept, old, fresh)
        data = moved.get(case.commit.data, case.commit.data)
        block = resigned(self.world.keys[case.did], case.commit.block, data)
        body = dict(case.body)
        if rng.random() < 0.8:
            body["ops"] = [_moved_op(op, moved) for op in body["ops"]]
        return _recommitted(case, blocks, block, body)

    def _foreign(self, rng: Random, case: Case) -> bytes:
        """Fields of another commit, perhaps of another repo, which were true there."""
        other = rng.choice(self.world.cases)
        names = rng.sample(sorted(case.body.keys() & other.body.keys()), rng.randrange(1, 6))
        return HEADER + encode({**case.body, **{name: other.body[name] for name in names}})

    def _other_frames(self) -> list[bytes]:
        made = [info_message("OutdatedCursor", "x"), error_message("FutureCursor", "x"), encode({"op": 1, "t": "#labels"}) + encode({"seq": 7})]  # fmt: skip
        for number, repo in enumerate(self.world.repos):
            made += [
                sync_event(repo, NOW).frame(number + 1),
                identity_event(repo.did, NOW, "a.example").frame(number + 1),
                account_event(repo.did, NOW, "takendown" if number % 2 else None).frame(number + 1),
            ]
        return made


_PLAIN = {"#info", "#error"}


def sound_archive(data: object) -> tuple[bytes, dict[bytes, bytes]]:
    """Root and blocks of an archive that was accepted, each of which must match its CID."""
    assert isinstance(data, bytes)
    header, pairs = read_car(data)
    value = decode_strict(header, ARCHIVE_HEADER)
    assert isinstance(value, dict)
    roots = value["roots"]
    assert isinstance(roots, list)
    assert isinstance(roots[0], Link)
    blocks = {cid: block for cid, block in pairs if cid == cid_of(block, cid[1] if len(cid) > 1 else 0)}  # fmt: skip
    return roots[0].cid, blocks


def check_value(text: str, block: bytes) -> None:
    """A record that was taken as a value is the one encoding of that value."""
    import json

    assert to_json(decode_strict(block)) == json.loads(text)


def cid_in(value: Value) -> bytes | None:
    """The CID that a field of the envelope holds, where a byte string does as well as a link."""
    assert value is None or isinstance(value, Link | bytes)
    return value.cid if isinstance(value, Link) else value


def net_ops(ops: list) -> list[tuple[str, bytes | None, bytes | None]]:
    """(path, CID after, CID before) of each path, by the rule for batches."""
    after: dict[str, bytes | None] = {}
    before: dict[str, bytes | None] = {}
    for op in ops:
        path, cid, prev = op["path"], op.get("cid"), op.get("prev")
        after[path] = cid_in(cid)
        if before.get(path) is None:
            before[path] = cid_in(prev)
    return [(path, cid, before[path]) for path, cid in after.items() if cid is not None or before[path] is not None]  # fmt: skip


def _split(data: bytes) -> tuple[bytes, int]:
    _, at = decode_strict_at(data, 0)
    return data[:at], at


def _moved_op(op: Value, moved: dict[bytes, bytes]) -> Value:
    assert isinstance(op, dict)
    cid = op["cid"]
    return {**op, "cid": Link(moved.get(cid.cid, cid.cid)) if isinstance(cid, Link) else cid}


def _recommitted(case: Case, blocks: dict[bytes, bytes], block: bytes, body: dict[str, Value] | None = None) -> bytes:  # fmt: skip
    cid = cid_of(block)
    kept = {each: content for each, content in blocks.items() if each != case.commit.cid}
    kept[cid] = block
    changed: dict[str, Value] = {**(body or case.body), "commit": Link(cid), "blocks": write_car([cid], kept.items())}  # fmt: skip
    return HEADER + encode(changed)


def _unchanged(rng: Random, case: Case) -> bytes:
    return HEADER + encode({**case.body, "seq": rng.randrange(1, 2**40)})


def _bytes(rng: Random, case: Case) -> bytes:
    return havoc(rng, HEADER + encode(case.body), rng.choice((HEADER, case.commit.block)))


def _fields(rng: Random, case: Case) -> bytes:
    return HEADER + encode(mangled(rng, case.body))


def _loose(rng: Random, case: Case) -> bytes:
    return loosely_encoded(rng, {"t": "#commit", "op": 1}, 0.02) + loosely_encoded(rng, case.body, 0.02)  # fmt: skip


def _header(rng: Random, case: Case) -> bytes:
    header = mangled(rng, {"t": rng.choice(("#commit", *TEXTS)), "op": rng.choice((1, 1, -1, 7))})
    end = rng.choice((b"", b"", b"", b"\x00", encode(junk(rng))))
    return loosely_encoded(rng, header, 0.02) + encode(case.body) + end


def _ops(rng: Random, case: Case) -> bytes:
    ops = list(case.body["ops"]) if isinstance(case.body["ops"], list) else []
    way = rng.randrange(6)
    at = rng.randrange(len(ops)) if ops else 0
    if ops and way == 0:
        del ops[at]
    elif ops and way == 1:
        ops.append(ops[at])
    elif ops and way == 2:
        op = dict(ops[at])
        op["cid"], op["prev"] = op.get("prev"), op.get("cid")
        ops[at] = op
    elif ops and way == 3:
        ops[at] = {**ops[at], "action": rng.choice(("create", "update", "delete"))}
    elif ops and way == 4:
        ops.reverse()
        ops = ops * rng.choice((1, 2, 201))
    else:
        ops = mangled(rng, ops)
    return HEADER + encode({**case.body, "ops": ops})


def _blocks(rng: Random, case: Case) -> bytes:
    return HEADER + encode({**case.body, "blocks": mangled_archive(rng, case.commit.cid, list(case.commit.blocks.items()))})  # fmt: skip


def mangled_archive(  # noqa: C901 - a list of faults, one line or two each
    rng: Random, root: bytes, pairs: list[tuple[bytes, bytes]]
) -> bytes:
    """An archive whose sections, header or bytes are not those of `pairs`, or in another order."""
    way = rng.randrange(12)
    at = rng.randrange(len(pairs))
    cid, block = pairs[at]
    roots = [root]
    if way == 0:
        del pairs[at]
    elif way == 1:
        pairs.insert(rng.randrange(len(pairs)), pairs[at])
    elif way == 2:
        rng.shuffle(pairs)
    elif way == 3:
        pairs[at] = (cid, havoc(rng, block))
    elif way == 4:
        pairs[at] = (havoc(rng, cid), block)
    elif way == 5:
        extra = rng.randbytes(rng.randrange(1, 90))
        pairs.insert(at, (cid_of(extra, RAW), extra))
    elif way == 6:
        odd = rng.choice((b"\x12\x20" + cid[4:], b"\x01\x71\x13\x40" + bytes(64), b"\x01\x71\x00\x01a", b"\x02" + cid[1:]))  # fmt: skip
        pairs.insert(at, (odd, block))
    elif way == 7:
        roots = rng.choice(([], [root, root], [cid], [cid, root], [root] * 200))
    elif way == 8:
        header = loosely_encoded(rng, mangled(rng, {"roots": [Link(root)], "version": 1}), 0.02)
        return bytes((len(header) % 128,)) + header + b"".join(car_section(*each) for each in pairs)
    elif way == 9:
        data = write_car(roots, pairs)
        return data[: rng.randrange(len(data))]
    elif way == 10:
        sections = [car_section(*each) for each in pairs]
        length = rng.choice((b"\0", b"\x80\0", b"\xff" * 10 + b"\x01", b"\xff\xff\xff\x7f", b"\x24", b"\x01"))  # fmt: skip
        sections[at] = length + sections[at][rng.randrange(3) :]
        return car_header(roots) + b"".join(sections)
    else:
        return havoc(rng, write_car(roots, pairs), block)
    return write_car(roots, pairs)
