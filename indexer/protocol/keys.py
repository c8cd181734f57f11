"""Signing keys of accounts: reading them from DID documents, and checking signatures with them.

Two curves: secp256k1 (k256) and NIST P-256. A signature is 64 bytes, r and s, over the SHA-256 of
the message, and must have the low one of the two possible values of s.
Source: the cryptography specification; multicodec codes 0xe7 and 0x1200.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import coincurve
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from indexer.errors import Check, InvalidUpstream

SIGNATURE_BYTES = 64
COMPRESSED_BYTES = 33
UNCOMPRESSED_BYTES = 65
MULTIBASE_CHARS_MAX = 128
KEYS_CACHED = 20_000

_K256_CODE = b"\xe7\x01"
_P256_CODE = b"\x80\x24"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES = {char: value for value, char in enumerate(_BASE58)}
_SHA256_ECDSA = ec.ECDSA(SHA256())


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key that signatures of one account are checked with."""

    multibase: str  # canonical text: `z`, base58 of the multicodec code and the compressed point
    jwt_alg: str  # ES256K or ES256
    _check: Callable[[bytes, bytes], bool]

    @staticmethod
    def parse(text: str) -> VerifyingKey:
        """Read a Multikey (`z...`) or a `did:key:z...`.

        Raises `InvalidUpstream` (`Check.KEY`) for other codes, other lengths, or a point that is
        not on its curve.
        """
        return _parse(text.removeprefix("did:key:"))

    @staticmethod
    def legacy(type_name: str, text: str) -> VerifyingKey:
        """Read the pre-2023 form: base58 of a point without code, curve named by the type.

        The point may be compressed or not. Raises as `parse` does.
        """
        point = _decode_base58(text)
        if len(point) != COMPRESSED_BYTES and not (
            len(point) == UNCOMPRESSED_BYTES and point.startswith(b"\x04")
        ):
            raise InvalidUpstream(Check.KEY, f"a point of {len(point)} bytes")
        if type_name == "EcdsaSecp256k1VerificationKey2019":
            return _k256(point)
        if type_name == "EcdsaSecp256r1VerificationKey2019":
            return _p256(point)
        raise InvalidUpstream(Check.KEY, f"unknown key type {type_name[:80]!r}")

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes, low S) is this key's over the SHA-256 of `message`."""
        return len(signature) == SIGNATURE_BYTES and self._check(message, signature)


@lru_cache(maxsize=KEYS_CACHED)
def _parse(text: str) -> VerifyingKey:
    raw = _decode_base58(text)
    code, point = raw[:2], raw[2:]
    if len(point) != COMPRESSED_BYTES:
        raise InvalidUpstream(Check.KEY, f"a point of {len(point)} bytes")
    if code == _K256_CODE:
        return _k256(point)
    if code == _P256_CODE:
        return _p256(point)
    raise InvalidUpstream(Check.KEY, f"unknown key code {code.hex()}")


def _k256(point: bytes) -> VerifyingKey:
    try:
        key = coincurve.PublicKey(point)
    except ValueError as error:
        raise InvalidUpstream(Check.KEY, "not a point on secp256k1") from error

    def check(message: bytes, signature: bytes) -> bool:
        try:
            # The library refuses a high S by itself, and an r or s beyond the order. Its own
            # conversion from 64 bytes gives up the GIL twice more, which costs a wait each time.
            return key.verify(encode_dss_signature(*_r_and_s(signature)), message)
        except ValueError:
            return False

    return VerifyingKey(_encode_multibase(_K256_CODE + key.format()), "ES256K", check)


def _r_and_s(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32]), int.from_bytes(signature[32:])


def _p256(point: bytes) -> VerifyingKey:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise InvalidUpstream(Check.KEY, "not a point on P-256") from error

    def check(message: bytes, signature: bytes) -> bool:
        r, s = _r_and_s(signature)
        if not 0 < r < _P256_ORDER or not 0 < s <= _P256_ORDER // 2:
            return False
        try:
            key.verify(encode_dss_signature(r, s), message, _SHA256_ECDSA)
        except InvalidSignature:
            return False
        return True

    numbers = key.public_numbers()
    compressed = bytes([2 + (numbers.y & 1)]) + numbers.x.to_bytes(32)
    return VerifyingKey(_encode_multibase(_P256_CODE + compressed), "ES256", check)


def _decode_base58(text: str) -> bytes:
    if not text.startswith("z") or len(text) > MULTIBASE_CHARS_MAX:
        raise InvalidUpstream(Check.KEY, f"not base58 multibase: {text[:80]!r}")
    value = 0
    for char in text[1:]:
        digit = _BASE58_VALUES.get(char)
        if digit is None:
            raise InvalidUpstream(Check.KEY, f"not base58 multibase: {text[:80]!r}")
        value = value * 58 + digit
    zeros = len(text) - 1 - len(text[1:].lstrip("1"))
    return bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8)


def _encode_multibase(raw: bytes) -> str:
    value, digits = int.from_bytes(raw), ""
    while value:
        value, digit = divmod(value, 58)
        digits = _BASE58[digit] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "z" + "1" * zeros + digits
