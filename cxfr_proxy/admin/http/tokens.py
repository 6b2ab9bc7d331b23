"""The file of tokens: who may use the API, and what for.

A line is a role, a name, and the SHA-256 of a token: the file lets nobody in who reads it. Tokens are made by this
program and have 256 random bits, so there is nothing that a slow hash, or a salt, would make harder to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.cluster.words import Word, did_you_mean, not_utf8, words_of
from cxfr_proxy.errors import ConfigError, FaultList
from cxfr_proxy.files import read_secret
from cxfr_proxy.units import counted

MAX_FILE_BYTES: Final = 1 << 20
"""Some 10,000 tokens; each is compared with each request's."""
_PREFIX: Final = "cxfr_"
"""The beginning of each token that is made here, by which programs find tokens that were published by mistake."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token, of which only the SHA-256 is known."""

    name: str
    role: Role
    digest: bytes

    def __str__(self) -> str:
        """Return its line in the file."""
        return f"{self.role} {self.name} sha256:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class TokenList:
    """All tokens that let somebody in."""

    tokens: tuple[ApiToken, ...] = ()

    def find(self, secret: str) -> ApiToken | None:
        """Return the token that was presented; ``None``: there is no such one.

        How long it takes says nothing of how much of a digest was right.
        """
        digest, found = _digest(secret), None
        for each in self.tokens:
            if hmac.compare_digest(each.digest, digest):
                found = each
        return found


def make_token(role: Role, name: str) -> tuple[str, ApiToken]:
    """Return a new token: the secret, and what is to be known of it. Raises :class:`ConfigError` for a name that can't
    stand in the file."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: expected {_EXPECTED_NAME}, found {name!r:.80}")
    secret = _PREFIX + secrets.token_urlsafe(32)
    return secret, ApiToken(name, role, _digest(secret))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def read_token_file(path: str | os.PathLike[str]) -> TokenList:
    """Read the file. Raises :class:`ConfigError`, with all faults that are in it, or since others may read it."""
    shown = os.fspath(path)
    content = read_secret(path, max_bytes=MAX_FILE_BYTES)
    try:
        return parse_tokens(content.decode(), shown)
    except UnicodeDecodeError as exc:
        raise not_utf8(exc, shown) from exc


def parse_tokens(text: str, file: str) -> TokenList:
    """Read the text of the file: the pure part of :func:`read_token_file`. Raises :class:`ConfigError`."""
    found: list[ApiToken] = []
    faults = FaultList()
    for number, line in enumerate(text.splitlines(), start=1):
        words = words_of(line, file, number)
        if not words:
            continue
        with faults:
            found.append(_parse_line(words, found))
    faults.check()
    return TokenList(tuple(found))


_EXPECTED_NAME: Final = "a name of at most 64 letters, digits and _.@-"


def _parse_line(words: Sequence[Word], before: Sequence[ApiToken]) -> ApiToken:
    if len(words) != 3:
        raise words[-1].fault(f"expected a role, a name and a digest, found {counted(len(words), 'word')}")
    role, name, digest = words
    if role.text not in list(Role):
        raise role.expected(f"{' or '.join(Role)}{did_you_mean(role.text, Role)}")
    if not _NAME.fullmatch(name.text):
        raise name.expected(_EXPECTED_NAME)
    match = _DIGEST.fullmatch(digest.text)
    if match is None:
        # It may be a token: it is not repeated.
        raise digest.fault("expected sha256: and 64 hexadecimal digits (see: cxfr-proxy token)")
    token = ApiToken(name.text, Role(role.text), bytes.fromhex(match[1]))
    if any(each.name == token.name for each in before):
        raise name.fault(f"there is a token of the name '{token.name}' already")
    if any(each.digest == token.digest for each in before):
        raise digest.fault("this token has another name already")
    return token
