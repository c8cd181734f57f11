"""Events made false: what a broken host or a hostile relay would send in place of the truth.

Owns one function per kind of lie. Each takes the true event and gives what is sent instead; the
repo behind it stays true, so an indexer that refuses the lie and resyncs ends up right. Lies that
need a signature are signed with the account's own key: they fail for the reason they are named
for, and for no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from random import Random
from typing import TypeAlias

from tests.devnet.car import read_car, write_car
from tests.devnet.cbor import RAW, Link, Value, cid_of, decode, encode
from tests.devnet.clock import tid, time_text
from tests.devnet.faults import Fault, FaultKind
from tests.devnet.frames import Event, account_event
from tests.devnet.keys import SigningKey, derive_key, high_s

Body: TypeAlias = dict[str, Value]
Blocks: TypeAlias = dict[bytes, bytes]
_REV_EPOCH_US = 1_000_000


def tell(fault: Fault, event: Event, key: SigningKey, rng: Random) -> list[Event]:
    """The events to send instead of `event`."""
    match fault.kind:
        case FaultKind.SWALLOW_FRAME:
            return []
        case FaultKind.REPLAYED_EVENT:
            return [event, event]
        case FaultKind.POISON_FRAME:
            data = fault.raw("data")
            return [dataclasses.replace(event, raw=rng.randbytes(64) if data is None else data)]
        case FaultKind.STALE_ACCOUNT:
            old = account_event(event.did, 0, "deactivated")
            body = {**old.body, "time": fault.text("time", time_text(0))}
            return [event, dataclasses.replace(old, body=body)]
        case _:
            body = dict(event.body)
            _COMMIT_LIES[fault.kind](body, fault, key, rng)
            return [dataclasses.replace(event, body=body)]


def _blocks(body: Body) -> tuple[bytes, Blocks]:
    """CID of the commit, and the blocks of a #commit or #sync in their order."""
    car = body["blocks"]
    assert isinstance(car, bytes)
    head, blocks = read_car(car)
    header = decode(head)
    assert isinstance(header, dict)
    roots = header["roots"]
    assert isinstance(roots, list)
    assert isinstance(roots[0], Link)
    return roots[0].cid, dict(blocks)


def _recommit(body: Body, sign: Callable[[bytes], bytes], **fields: Value) -> None:
    """Put a commit with some fields changed, freshly signed, in place of the true one."""
    cid, blocks = _blocks(body)
    commit = decode(blocks.pop(cid))
    assert isinstance(commit, dict)
    commit.update(fields)
    del commit["sig"]
    commit["sig"] = sign(encode(commit))
    block = encode(commit)
    blocks[cid_of(block)] = block
    if "commit" in body:
        body["commit"] = Link(cid_of(block))
    body["blocks"] = write_car([cid_of(block)], blocks.items())


def _bad_signature(body: Body, _fault: Fault, key: SigningKey, _rng: Random) -> None:
    def sign(message: bytes) -> bytes:
        good = key.sign(message)
        return good[:-1] + bytes((good[-1] ^ 1,))

    _recommit(body, sign)


def _high_s(body: Body, _fault: Fault, key: SigningKey, _rng: Random) -> None:
    _recommit(body, lambda message: high_s(key.sign(message), key.curve))


def _wrong_key(body: Body, _fault: Fault, key: SigningKey, rng: Random) -> None:
    _recommit(body, derive_key(key.curve, "stranger", rng.random()).sign)


def _wrong_prev_data(body: Body, _fault: Fault, _key: SigningKey, rng: Random) -> None:
    body["prevData"] = Link(cid_of(rng.randbytes(8)))


def _missing_prev_data(body: Body, _fault: Fault, _key: SigningKey, _rng: Random) -> None:
    body.pop("prevData", None)


def _wrong_since(body: Body, _fault: Fault, _key: SigningKey, rng: Random) -> None:
    body["since"] = tid(rng.randrange(_REV_EPOCH_US))


def _ops(body: Body) -> list[Value]:
    ops = body["ops"]
    assert isinstance(ops, list)
    return list(ops)


def _omitted_op(body: Body, fault: Fault, _key: SigningKey, _rng: Random) -> None:
    action = fault.params.get("action", "delete")
    ops = _ops(body)
    for op in ops:
        if action is None or (isinstance(op, dict) and op["action"] == action):
            ops.remove(op)
            break
    body["ops"] = ops


def _phantom_op(body: Body, fault: Fault, _key: SigningKey, rng: Random) -> None:
    collection = fault.text("op_collection", "pub.chive.review.comment")
    path = f"{collection}/{tid(rng.randrange(_REV_EPOCH_US))}"
    block = encode({"$type": collection, "salt": rng.randbytes(8)})
    op: Body = {"cid": Link(cid_of(block)), "path": path, "action": "create"}
    body["ops"] = [*_ops(body), op]
    root, blocks = _blocks(body)
    blocks[cid_of(block)] = block
    body["blocks"] = write_car([root], blocks.items())


def _missing_prev(body: Body, _fault: Fault, _key: SigningKey, _rng: Random) -> None:
    body["ops"] = [
        {name: value for name, value in op.items() if name != "prev"}
        for op in _ops(body)
        if isinstance(op, dict)
    ]


def _future_rev(body: Body, fault: Fault, key: SigningKey, _rng: Random) -> None:
    rev = body["rev"]
    assert isinstance(rev, str)
    ahead = later_rev(rev, fault.number("seconds", 3600))
    body["rev"] = ahead
    _recommit(body, key.sign, rev=ahead)


def _wrong_rev(body: Body, _fault: Fault, _key: SigningKey, _rng: Random) -> None:
    rev = body["rev"]
    assert isinstance(rev, str)
    body["rev"] = later_rev(rev, 0.001)


def _wrong_root(body: Body, _fault: Fault, _key: SigningKey, rng: Random) -> None:
    body["commit"] = Link(cid_of(rng.randbytes(8)))


def _wrong_block_hash(body: Body, _fault: Fault, _key: SigningKey, _rng: Random) -> None:
    root, blocks = _blocks(body)
    victim = next((cid for cid in blocks if cid != root), root)
    block = blocks[victim]
    blocks[victim] = block[:-1] + bytes((block[-1] ^ 1,))
    body["blocks"] = write_car([root], blocks.items())


def _missing_block(body: Body, fault: Fault, _key: SigningKey, _rng: Random) -> None:
    root, blocks = _blocks(body)
    wanted = fault.text("block", "record")
    commit = decode(blocks[root])
    assert isinstance(commit, dict)
    data = commit["data"]
    assert isinstance(data, Link)
    records = {op["cid"] for op in _ops(body) if isinstance(op, dict)}
    victim = {
        "commit": root,
        "node": data.cid,
        "record": next((cid for cid in blocks if Link(cid) in records), data.cid),
    }[wanted]
    blocks.pop(victim, None)
    body["blocks"] = write_car([root], blocks.items())


def _garbage_block(body: Body, _fault: Fault, _key: SigningKey, rng: Random) -> None:
    root, blocks = _blocks(body)
    junk = rng.randbytes(100)
    blocks[cid_of(junk, RAW)] = junk
    body["blocks"] = write_car([root], blocks.items())


def _too_big(body: Body, _fault: Fault, _key: SigningKey, _rng: Random) -> None:
    body.update(tooBig=True, ops=[], blocks=b"")


def _other_repo(body: Body, fault: Fault, _key: SigningKey, _rng: Random) -> None:
    name = "repo" if "repo" in body else "did"
    body[name] = fault.text("other", "did:plc:" + "o" * 24)


def later_rev(rev: str, seconds: float) -> str:
    """A TID `seconds` after `rev`."""
    digits = "234567abcdefghijklmnopqrstuvwxyz"
    number = 0
    for char in rev:
        number = number << 5 | digits.index(char)
    return tid((number >> 10) + int(seconds * 1_000_000), number & 1023)


_COMMIT_LIES: dict[FaultKind, Callable[[Body, Fault, SigningKey, Random], None]] = {
    FaultKind.BAD_SIGNATURE: _bad_signature,
    FaultKind.HIGH_S: _high_s,
    FaultKind.WRONG_KEY: _wrong_key,
    FaultKind.WRONG_PREV_DATA: _wrong_prev_data,
    FaultKind.MISSING_PREV_DATA: _missing_prev_data,
    FaultKind.WRONG_SINCE: _wrong_since,
    FaultKind.OMITTED_OP: _omitted_op,
    FaultKind.PHANTOM_OP: _phantom_op,
    FaultKind.MISSING_PREV: _missing_prev,
    FaultKind.FUTURE_REV: _future_rev,
    FaultKind.WRONG_REV: _wrong_rev,
    FaultKind.WRONG_ROOT: _wrong_root,
    FaultKind.WRONG_BLOCK_HASH: _wrong_block_hash,
    FaultKind.MISSING_BLOCK: _missing_block,
    FaultKind.GARBAGE_BLOCK: _garbage_block,
    FaultKind.TOO_BIG: _too_big,
    FaultKind.OTHER_REPO: _other_repo,
}
