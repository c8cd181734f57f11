"""Ways to spoil bytes, values and their encodings, each from a seeded source."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.devnet.cbor import Link, Value, cid_of, encode, head

INTEGERS = (0, 1, 23, 24, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))  # fmt: skip
_DIGEST = bytes(32)
LINKS = (
    Link(b""), Link(b"\x01"), Link(b"\x12\x20" + _DIGEST), Link(b"\x01\x55\x12\x20" + _DIGEST),
    Link(b"\x01\x71\x13\x40" + bytes(64)), Link(b"\x01\x71\x12\x20" + _DIGEST[:-1]),
    Link(b"\x02\x71\x12\x20" + _DIGEST), Link(b"\x01\xff\xff\xff\x12\x20" + _DIGEST),
    Link(cid_of(b"nothing")), Link(b"\x01\x71\x12\x20" + _DIGEST + b"\0"),
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "a", "é" * 40, "x" * 3000, "🎓", "$type", "self", "at://", "did:plc:" + "a" * 24,
    "did:web:localhost%3A1", "../x", "pub.chive.eprint.submission/../x", "3kaaaaaaaaaaa",
    "pub.chive.eprint.submission/x", "2026-11-26T00:00:00Z", "9999-12-31T23:59:59.999Z",
    "0000-01-01T00:00:00Z", "create", "#commit", "http://127.0.0.1", "https://[::1]:99999/x",
)  # fmt: skip
TOKENS = (
    " ", "a", "1", ".", "-", ":", "/", "$", "_{", "^{", "\\", "(", "[", "<", '"', "arxiv", "arxiv ",
    "abs/", "doi", "10.", "10.1234/", "PMID", "did:", "https://", "x.", "é", ",", ";", "&", "#",
)  # fmt: skip
"""What patterns look for: over and over, it shows which of them look at it over and over."""
BYTES_AT_EDGES = (0, 1, 0x17, 0x18, 0x1B, 0x1F, 0x3B, 0x5F, 0x60, 0x7F, 0x80, 0x9F, 0xA0, 0xBF, 0xC1, 0xD8, 0xF6, 0xF7, 0xF9, 0xFB, 0xFF)  # fmt: skip


def havoc(rng: Random, data: bytes, other: bytes = b"") -> bytes:
    """Bytes changed, cut, doubled, moved or spliced, one to four times."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        size = len(out)
        at = rng.randrange(size + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < size:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < size:
            out[at] = rng.choice(BYTES_AT_EDGES)
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 3:
            del out[at : at + rng.choice((1, 1, 2, 8, 40))]
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randrange(1, 60)]
        elif kind == 6 and other:
            start = rng.randrange(len(other))
            out[at : at + rng.randrange(40)] = other[start : start + rng.randrange(80)]
        else:
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = (rng.choice(INTEGERS) % (1 << 8 * width)).to_bytes(width, "big")
    return bytes(out)


def junk(rng: Random) -> Value:
    """A value of any kind that is probably wrong where it is put."""
    kind = rng.randrange(9)
    if kind == 0:
        return rng.choice(INTEGERS)
    if kind == 1:
        return rng.choice(LINKS)
    if kind == 2:
        return rng.choice(TEXTS)
    if kind == 3:
        return rng.randbytes(rng.choice((0, 1, 20, 36, 64)))
    if kind == 4:
        return rng.choice((None, True, False))
    if kind == 5:
        return [] if rng.random() < 0.5 else [junk(rng) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {} if rng.random() < 0.5 else {rng.choice(TEXTS[:12]): junk(rng)}
    if kind == 7:
        nested: Value = None
        for _ in range(rng.choice((2, 31, 33, 60))):
            nested = [nested] if rng.random() < 0.7 else {"a": nested}
        return nested
    return rng.randrange(-1000, 1000)


def mangled(rng: Random, value: Value) -> Value:
    """A copy of `value` with one place of it changed, anywhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        return _mangled_map(rng, value)
    if isinstance(value, list) and value and rng.random() < 0.9:
        return _mangled_list(rng, value)
    return _mangled_leaf(rng, value)


def _mangled_map(rng: Random, value: dict[str, Value]) -> Value:
    changed = dict(value)
    name = rng.choice(list(changed))
    way = rng.randrange(12)
    if way == 0:
        del changed[name]
    elif way == 1:
        changed[rng.choice(TEXTS)] = junk(rng)
    elif way == 2:
        changed[name] = changed[rng.choice(list(changed))]
    elif way == 3:
        changed[name + rng.choice("sX\0é")] = changed.pop(name)
    else:
        changed[name] = mangled(rng, changed[name])
    return changed


def _mangled_list(rng: Random, value: list[Value]) -> Value:
    items = list(value)
    at = rng.randrange(len(items))
    way = rng.randrange(10)
    if way == 0:
        del items[at]
    elif way == 1:
        items.insert(at, items[rng.randrange(len(items))])
    elif way == 2:
        items.append(junk(rng))
    elif way == 3:
        rng.shuffle(items)
    elif way == 4:
        items = items[:at]
    else:
        items[at] = mangled(rng, items[at])
    return items


def repetitive(rng: Random) -> str:
    """Something over and over, behind what may begin a pattern and before what ends none."""
    times = rng.choice((10, 300, 1500, 20_000))
    return rng.choice(TOKENS) + "".join(rng.choices(TOKENS, k=rng.choice((1, 2)))) * times + "?"


def _mangled_leaf(rng: Random, value: Value) -> Value:
    if rng.random() < 0.4:
        return junk(rng)
    if isinstance(value, bool) or value is None:
        return rng.choice((True, False, None))
    if isinstance(value, int):
        changed = value + rng.choice((-1, 1, 2, 256, -256))
        return min(max(changed, -(2**64)), 2**64 - 1)
    if isinstance(value, str):
        if rng.random() < 0.15:
            return value * 30 if rng.random() < 0.3 else repetitive(rng)
        return havoc(rng, value.encode(), rng.choice(TEXTS).encode()).decode(errors="replace")
    if isinstance(value, Link):
        return Link(havoc(rng, value.cid))
    if isinstance(value, bytes):
        return havoc(rng, value)
    return junk(rng)


def loosely_encoded(rng: Random, value: Value, faults: float = 0.04) -> bytes:
    """CBOR of the value that breaks the canonical form at about that share of its places."""
    odd = rng.random() < faults
    if isinstance(value, dict):
        pairs = [(key.encode(), item) for key, item in value.items()]
        pairs.sort(key=lambda pair: (len(pair[0]), pair[0]))
        if odd:
            way = rng.randrange(3)
            if way == 0:
                rng.shuffle(pairs)
            elif way == 1 and pairs:
                pairs.append(rng.choice(pairs))
            else:
                pairs.sort()
        body = b"".join(_key(rng, key, faults) + loosely_encoded(rng, item, faults) for key, item in pairs)  # fmt: skip
        return _counted(rng, 5, len(pairs), body, faults)
    if isinstance(value, list):
        body = b"".join(loosely_encoded(rng, item, faults) for item in value)
        return _counted(rng, 4, len(value), body, faults)
    if odd and rng.random() < 0.5:
        return rng.choice(_ODDITIES)
    if isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        return _head(rng, 3 if isinstance(value, str) else 2, len(raw), faults) + raw
    if isinstance(value, Link) and odd:
        tag = rng.choice((b"\xd8\x2a", b"\xd9\x00\x2a", b"\xc0", b"\xd8\x2b"))
        return tag + encode(rng.choice((b"", b"\0")) + value.cid)
    if isinstance(value, int) and not isinstance(value, bool):
        return _head(rng, 0 if value >= 0 else 1, value if value >= 0 else -1 - value, faults)
    return encode(value)


_ODDITIES = (
    b"\xf7", b"\xf8\x18", b"\xf9\x3c\x00", b"\xf9\x7e\x00", b"\xfa\x3f\xc0\x00\x00", b"\xff",
    b"\xfb\x3f\xf8" + bytes(6), b"\xfb\x7f\xf8" + bytes(6), b"\xfb\xff\xf0" + bytes(6),
    b"\xc1\x00", b"\x5b" + b"\x7f" * 8, b"\x9b" + b"\x7f" * 8, b"\xbb" + b"\x7f" * 8,
    b"\x7f\x61a\xff", b"\x62\xff\xfe", b"\x63\xed\xa0\x80", b"\x81" * 2000 + b"\x80",
    b"\xd8\x2a\x40", b"\x1c", b"\x3f", b"\xa1\x00\x00", b"\xa1\x41a\x00",
)  # fmt: skip


def _key(rng: Random, raw: bytes, faults: float) -> bytes:
    return _head(rng, 3 if rng.random() > faults / 4 else 2, len(raw), faults) + raw


def _counted(rng: Random, major: int, count: int, body: bytes, faults: float) -> bytes:
    if rng.random() < faults / 4:
        return bytes((major << 5 | 31,)) + body + b"\xff"
    if rng.random() < faults / 4:
        count = max(0, count + rng.choice((-1, 1, 1000)))
    return _head(rng, major, count, faults) + body


def _head(rng: Random, major: int, number: int, faults: float) -> bytes:
    if number >= 1 << 64 or (number < 1 << 32 and rng.random() < faults / 3):
        info, size = rng.choice(((25, 2), (26, 4), (27, 8)))
        return bytes((major << 5 | info,)) + (number % (1 << 8 * size)).to_bytes(size, "big")
    return head(major, number)


def rehashed(
    blocks: dict[bytes, bytes], old: bytes, block: bytes, keep: Sequence[bytes] = ()
) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """`blocks` with one block replaced and every link to it, directly or not, followed.

    Returns the blocks and old CID -> new CID. Those of `keep` stay whatever they link to.
    """
    made = dict(blocks)
    moved: dict[bytes, bytes] = {}
    todo = [(old, block)]
    while todo:
        cid, content = todo.pop()
        fresh = cid_of(content)
        made.pop(cid, None)
        made[fresh] = content
        moved[cid] = fresh
        for parent, text in list(made.items()):
            if parent not in keep and cid in text and parent != fresh:
                todo.append((parent, text.replace(cid, fresh)))
                made.pop(parent)
        if len(moved) > 200:
            break
    return made, moved
