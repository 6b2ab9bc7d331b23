"""The client's half of SCRAM (RFC 5802) without channel binding, sans-IO."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import unicodedata
from collections.abc import Mapping
from typing import Final

MECHANISMS: Final[Mapping[str, str]] = {
    "SCRAM-SHA-512": "sha512",
    "SCRAM-SHA-256": "sha256",
    "SCRAM-SHA-1": "sha1",
}
"""Names and hashes, the best first."""
_MOST_ROUNDS: Final = 1_000_000
"""Most rounds of hashing that a node may ask for: half a second of this machine. RFC 7677 has 4096."""
_HEADER: Final = "n,,"
"""GS2: the client binds to no channel, and could not."""


class ScramFault(Exception):
    """The node's message is none of SCRAM's, or it does not know the password itself. The text has nothing of the
    exchange in it."""


class ScramClient:
    """One exchange. ``attributes`` holds what the node's challenge said, by its letters; empty before that."""

    def __init__(self, mechanism: str, user: str, password: str, nonce: str) -> None:
        self._hash = MECHANISMS[mechanism]
        self._password = unicodedata.normalize("NFKC", password).encode()
        name = user.replace("=", "=3D").replace(",", "=2C")
        self._nonce = nonce
        self._bare = f"n={name},r={nonce}"
        self._signature = b""
        self.attributes: dict[str, str] = {}

    def first(self) -> bytes:
        """Return the first message."""
        return (_HEADER + self._bare).encode()

    def read(self, challenge: bytes) -> None:
        """Take in the node's challenge. Raises :class:`ScramFault`."""
        try:
            parts = [part.partition("=") for part in challenge.decode().split(",")]
        except UnicodeDecodeError:
            raise ScramFault("its challenge is no text") from None
        self.attributes = {name: value for name, _, value in parts if len(name) == 1}
        self._challenge = challenge.decode()
        self._rounds = _number(self.attributes.get("i", ""))
        if not self.attributes.get("r", "").startswith(self._nonce) or not 0 < self._rounds <= _MOST_ROUNDS:
            raise ScramFault("its challenge is none of SCRAM's")
        self._salt = _decoded(self.attributes.get("s", ""))

    def answer(self) -> bytes:
        """Return the answer to the challenge. It takes as long as the node's rounds of hashing do."""
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, self._salt, self._rounds)
        key = self._hmac(salted, b"Client Key")
        bare = f"c={base64.b64encode(_HEADER.encode()).decode()},r={self.attributes['r']}"
        said = f"{self._bare},{self._challenge},{bare}".encode()
        signature = self._hmac(hashlib.new(self._hash, key).digest(), said)
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), said)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def check(self, last: bytes) -> None:
        """Check that the node knows the password too. Raises :class:`ScramFault`."""
        if not hmac.compare_digest(last.strip(), b"v=" + base64.b64encode(self._signature)):
            raise ScramFault("it has not proved that it knows the password itself")

    def _hmac(self, key: bytes, text: bytes) -> bytes:
        return hmac.new(key, text, self._hash).digest()


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramFault("its challenge is none of SCRAM's") from None
