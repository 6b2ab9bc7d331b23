"""Read the names in the messages of a SASL exchange, mechanism by mechanism: a table.

SASL distinguishes the *authentication* identity (authcid: whose password this is) from the *authorization* identity
(authzid: the user to act as). Only names are read here; a password or token in the same message is passed over and
never returned. Mechanisms that name nobody before the server has spoken (DIGEST-MD5, CRAM-MD5, LOGIN), or not in a
readable way (EXTERNAL, GSSAPI), have no row.

A message that could be read in two ways is not read at all: base64 that isn't canonical, more or fewer NULs than two,
elements inside the text, two initial responses.
"""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from lxml import etree
from msgspec import Struct

from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.opening.usual_elements import UsualAuth
from cxfr_proxy.xmpp.stanza import Element

LONGEST_NAME: Final = 64
"""Most characters of a mechanism's name that are kept; a name has at most 20 (RFC 4422 section 3.1)."""


class SaslFault(StrEnum):
    """The conditions of RFC 6120 section 6.5 that a client may get here."""

    INCORRECT_ENCODING = "incorrect-encoding"
    INVALID_AUTHZID = "invalid-authzid"
    MALFORMED_REQUEST = "malformed-request"

    def failure(self, namespace: str) -> bytes:
        """Return the answer to the client. ``namespace`` is that of its own element, SASL's or SASL2's."""
        return f"<failure xmlns='{namespace}'><{self} xmlns='{names.SASL}'/></failure>".encode()


class Unreadable(Exception):
    """A message that is none of this mechanism's. The exception holds nothing of its content."""

    def __init__(self, fault: SaslFault) -> None:
        super().__init__(fault)
        self.fault = fault


class Names(Struct, frozen=True, gc=False):
    """The names in a message; empty if it names nobody."""

    authzid: str
    authcid: str


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A kind of mechanism: a pattern for its whole name, and how a client's message is read.

    ``read`` answers ``None`` for a message that is not the one that names somebody, and raises :class:`Unreadable`.
    ``both``: its message holds both names, so they can be compared.
    """

    pattern: re.Pattern[str]
    read: Callable[[bytes], Names | None]
    both: bool


class SaslRequest(Struct, frozen=True, gc=False):
    """An ``<auth/>`` or ``<authenticate/>``: the user that logs in, and how. Nothing in it is secret.

    ``namespace`` is the element's, SASL's or SASL2's. ``mechanism`` is in capitals; ``row`` is its row, ``None`` if it
    has none. ``names`` is ``None`` if the first message names nobody or is not there, and ``fault`` says why it can't
    be read. ``previd`` is the session that the client wants to resume at once (XEP-0198 inside SASL2).
    """

    namespace: str
    mechanism: str
    row: Mechanism | None = None
    names: Names | None = None
    fault: SaslFault | None = None
    previd: str | None = None


def read_request(element: Element) -> SaslRequest:
    """Read an ``<auth/>`` or ``<authenticate/>``."""
    namespace = etree.QName(element).namespace or ""
    mechanism = element.get("mechanism", "").strip().upper()
    row = mechanism_named(mechanism)
    previd = _previd(element) if namespace == names.SASL2 else None
    try:
        holder = _initial_response(element, namespace)
        said = message(holder) if holder is not None and row is not None else None
        found = row.read(said) if row is not None and said is not None else None
    except Unreadable as unreadable:
        return SaslRequest(namespace, mechanism, row, fault=unreadable.fault, previd=previd)
    return SaslRequest(namespace, mechanism, row, found, previd=previd)


def request_of(auth: UsualAuth) -> SaslRequest:
    """Return the request in an ``<auth/>`` of the usual form."""
    row = mechanism_named(auth.mechanism)
    try:
        said = _decoded(auth.text) if row is not None else None
        found = row.read(said) if row is not None and said is not None else None
    except Unreadable as unreadable:
        return SaslRequest(names.SASL, auth.mechanism, row, fault=unreadable.fault)
    return SaslRequest(names.SASL, auth.mechanism, row, found)


def _previd(authenticate: Element) -> str | None:
    for namespace in (names.SM, names.SM2):
        resume = authenticate.find(f"{{{namespace}}}resume")
        if resume is not None:
            return resume.get("previd") or None
    return None


def mechanism_named(name: str) -> Mechanism | None:
    """Return the row for a name in capitals; ``None``: such a mechanism names nobody in a way that could be read."""
    return _row_named(name) if len(name) <= LONGEST_NAME else _row_named.__wrapped__(name)


@functools.lru_cache(maxsize=64)
def _row_named(name: str) -> Mechanism | None:
    return next((row for row in MECHANISMS if row.pattern.fullmatch(name)), None)


def _initial_response(element: Element, namespace: str) -> Element | None:
    """Return the element that holds the first message: ``<auth/>`` itself, in SASL2 a child that may not be there.

    Raises :class:`Unreadable`.
    """
    if namespace != names.SASL2:
        return element
    found = list(element.iterchildren("{*}initial-response"))
    if len(found) > 1:
        raise Unreadable(SaslFault.MALFORMED_REQUEST)
    return found[0] if found else None


def message(holder: Element) -> bytes | None:
    """Return the message in the text of that element; ``None`` if it is empty. Raises :class:`Unreadable`."""
    if len(holder):
        raise Unreadable(SaslFault.MALFORMED_REQUEST)
    # Some encoders break long messages into lines, and servers that accept that ignore the line ends.
    return _decoded("".join((holder.text or "").split()))


def _decoded(text: str) -> bytes | None:
    if text in ("", "="):  # "=" is a message of no bytes (RFC 6120 section 6.4.2)
        return None
    try:
        said = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:  # binascii.Error is one
        raise Unreadable(SaslFault.INCORRECT_ENCODING) from exc
    if binascii.b2a_base64(said, newline=False).decode() != text:
        raise Unreadable(SaslFault.INCORRECT_ENCODING)
    return said


def _text(said: bytes) -> str:
    try:
        return said.decode()
    except UnicodeDecodeError:
        # Without the cause, which holds the message, and that may be a password.
        raise Unreadable(SaslFault.MALFORMED_REQUEST) from None


def _read_plain(said: bytes) -> Names:
    """Read a message of PLAIN (RFC 4616 section 2)."""
    parts = _text(said).split("\0")
    if len(parts) != 3:
        raise Unreadable(SaslFault.MALFORMED_REQUEST)
    return Names(parts[0], parts[1])


_GS2: Final = r"(?:n|y|p=[A-Za-z0-9.-]+),(?:a=([^,]*))?,"
"""RFC 5801 section 4."""
_SCRAM_FIRST: Final = re.compile(_GS2 + r"(?:m=[^,]*,)?n=([^,]*),r=.*", re.DOTALL)
_OAUTHBEARER: Final = re.compile(_GS2.encode() + rb"\x01.*", re.DOTALL)


def _read_scram(said: bytes) -> Names | None:
    """Read a message of SCRAM (RFC 5802 section 5.1)."""
    text = _text(said)
    if text.startswith("c="):
        return None  # the last message of the exchange, which names nobody
    found = _SCRAM_FIRST.fullmatch(text)
    if found is None:
        raise Unreadable(SaslFault.MALFORMED_REQUEST)
    authzid, authcid = (_saslname(name or "") for name in found.groups())
    return Names(authzid, authcid)


def _read_oauthbearer(said: bytes) -> Names | None:
    """Read a message of OAUTHBEARER (RFC 7628 section 3.1). Only the server can tell whose token it is."""
    found = _OAUTHBEARER.fullmatch(said)
    return Names(_saslname(_text(found[1] or b"")), "") if found is not None else None


def _saslname(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")


def _read_token(said: bytes) -> Names:
    """Read a message of HT-*: a name, NUL, and a hash, which is no text."""
    authcid, nul, _ = said.partition(b"\0")
    if not nul:
        raise Unreadable(SaslFault.MALFORMED_REQUEST)
    return Names("", _text(authcid))


MECHANISMS: Final = (
    Mechanism(re.compile(r"PLAIN|X-OAUTH2"), _read_plain, both=True),
    Mechanism(re.compile(r"SCRAM-.+"), _read_scram, both=True),
    Mechanism(re.compile(r"HT-.+"), _read_token, both=False),
    Mechanism(re.compile(r"OAUTHBEARER"), _read_oauthbearer, both=False),
)
