"""Signing keys of both curves, derived from the devnet's seed.

Owns low-S compact signatures and the three texts of a public key: multibase, did:key and the
uncompressed legacy form. Signatures are deterministic (RFC 6979), so a seed always gives the same
frames, byte for byte.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from coincurve import PrivateKey
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_K256_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def base58(raw: bytes) -> str:
    """Bitcoin's base 58."""
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, rest = divmod(number, 58)
        digits = _ALPHABET[rest] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


class SigningKey(Protocol):
    """A private key. `K256Key` and `P256Key` are the two curves of the protocol."""

    curve: str
    legacy_type: str
    compressed: bytes
    uncompressed: bytes

    def sign(self, message: bytes) -> bytes:
        """64 bytes r and s over SHA-256 of `message`, s in the lower half."""
        ...


class K256Key:
    """secp256k1."""

    curve = "k256"
    legacy_type = "EcdsaSecp256k1VerificationKey2019"

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.compressed = self._key.public_key.format(compressed=True)
        self.uncompressed = self._key.public_key.format(compressed=False)

    def sign(self, message: bytes) -> bytes:
        """libsecp256k1 gives the low S by itself."""
        return self._key.sign_recoverable(message)[:64]


class P256Key:
    """NIST P-256."""

    curve = "p256"
    legacy_type = "EcdsaSecp256r1VerificationKey2019"

    def __init__(self, secret: bytes) -> None:
        self._key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
        encoding, forms = serialization.Encoding.X962, serialization.PublicFormat
        public = self._key.public_key()
        self.compressed = public.public_bytes(encoding, forms.CompressedPoint)
        self.uncompressed = public.public_bytes(encoding, forms.UncompressedPoint)

    def sign(self, message: bytes) -> bytes:
        """OpenSSL gives either S; the lower one is ours."""
        scheme = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = utils.decode_dss_signature(self._key.sign(message, scheme))
        return r.to_bytes(32, "big") + min(s, _P256_ORDER - s).to_bytes(32, "big")


def derive_key(curve: str, *label: object) -> SigningKey:
    """The key that `label` (the devnet's seed and a name) stands for. `curve`: k256 or p256."""
    text = "\0".join(str(part) for part in label)
    order = _K256_ORDER if curve == "k256" else _P256_ORDER
    number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % (order - 1) + 1
    secret = number.to_bytes(32, "big")
    return K256Key(secret) if curve == "k256" else P256Key(secret)


def multibase(key: SigningKey) -> str:
    """The Multikey text of the public half: `z`, base 58, multicodec prefix."""
    prefix = b"\xe7\x01" if key.curve == "k256" else b"\x80\x24"
    return "z" + base58(prefix + key.compressed)


def did_key(key: SigningKey) -> str:
    """The did:key of the public half."""
    return "did:key:" + multibase(key)


def high_s(signature: bytes, curve: str) -> bytes:
    """The other valid S of the same signature, which ATProto forbids."""
    order = _K256_ORDER if curve == "k256" else _P256_ORDER
    return signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
