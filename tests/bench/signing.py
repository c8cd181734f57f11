"""Signing keys that depend on a seed, and signatures that are the same on every run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from coincurve import PrivateKey
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

K256_PREFIX = b"\xe7\x01"
P256_PREFIX = b"\x80\x24"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Signer:
    """One account's key: `sign` gives 64 bytes, r and low s, over the SHA-256 of a message."""

    multibase: str
    sign: Callable[[bytes], bytes]


def k256_signer(seed: str) -> Signer:
    """A secp256k1 key."""
    key = PrivateKey(hashlib.sha256(seed.encode()).digest())

    def sign(message: bytes) -> bytes:
        return key.sign_recoverable(message)[:64]

    return Signer(multikey(K256_PREFIX + key.public_key.format(compressed=True)), sign)


def p256_signer(seed: str) -> Signer:
    """A P-256 key. Nonces are those of RFC 6979."""
    secret = int.from_bytes(hashlib.sha256(seed.encode()).digest(), "big") % (P256_ORDER - 1) + 1
    key = ec.derive_private_key(secret, ec.SECP256R1())
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    point = key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )

    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(message, algorithm))
        s = min(s, P256_ORDER - s)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return Signer(multikey(P256_PREFIX + point), sign)


def multikey(data: bytes) -> str:
    """Base58btc text with its multibase prefix. The first byte is never zero here."""
    number = int.from_bytes(data, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "z" + digits
