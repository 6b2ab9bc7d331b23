"""Who logs in as whom: the authorization identity in the SASL messages of a client.

SASL tells *authentication* identity (authcid: whose password this is) from *authorization* identity (authzid: who to
act as). XMPP knows one case where they differ, an administrator who acts for somebody else, and hardly anybody has it.
But a server that forgets to compare them lets everybody in as anybody with his own password: ejabberd did, for PLAIN
and X-OAUTH2, until 26.07. So the proxy, which reads these messages anyway, compares them itself.

Which mechanisms: those whose first message holds both names, PLAIN and X-OAUTH2 (RFC 4616 section 2), and SCRAM (RFC
5802 section 5.1). Not OAUTHBEARER, where the other name is inside a token that only the server can read; nor EXTERNAL,
which is not offered at all; the rest know no authzid.

What passes: no authzid, or the authcid's own name, each with or without the domain of the stream. RFC 6120 section
6.3.8 has it a bare JID. Case is folded, as the profiles for user names do (RFC 8265 section 3.3).

A check is worth nothing if the node reads another message than the proxy. So in these mechanisms what could be read in
two ways is refused: base64 that isn't canonical, more or less NULs than two, elements inside the text, two initial
responses. And every response is read until the node has ended the exchange, whether an initial one came or not.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from lxml import etree

from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element


class SaslFault(StrEnum):
    """The conditions of RFC 6120 section 6.5 that a client may get here."""

    INCORRECT_ENCODING = "incorrect-encoding"
    INVALID_AUTHZID = "invalid-authzid"
    MALFORMED_REQUEST = "malformed-request"

    def failure(self, namespace: str) -> bytes:
        """The answer to the client. ``namespace``: of its own element, SASL's or SASL2's."""
        return f"<failure xmlns='{namespace}'><{self} xmlns='{names.SASL}'/></failure>".encode()


def abort(namespace: str) -> bytes:
    """Ends an exchange with the node, which answers with a failure (RFC 6120 section 6.4.4, XEP-0388 section 2.7)."""
    return f"<abort xmlns='{namespace}'/>".encode()


class _Fault(Exception):
    def __init__(self, fault: SaslFault) -> None:
        super().__init__(fault)
        self.fault = fault


class AuthzidWatch:
    """One client's SASL exchanges, as far as they name an authzid."""

    __slots__ = ("_readers",)

    def __init__(self) -> None:
        self._readers: tuple[_Reader, ...] = ()  # of the mechanisms that were begun and not ended

    def begun(self, element: Element, domain: str) -> SaslFault | None:
        """``<auth/>`` or ``<authenticate/>``: what is wrong with it, if anything is; what is wrong has not begun."""
        mechanism = element.get("mechanism", "").strip().upper()
        reader = next((reader for pattern, reader in _READERS if pattern.fullmatch(mechanism)), None)
        if reader is None:
            return None
        try:
            if etree.QName(element).namespace == names.SASL2:
                _check(_initial_response(element), (reader,), domain)
            else:
                _check(element, (reader,), domain)
        except _Fault as found:
            return found.fault
        if reader not in self._readers:
            self._readers += (reader,)
        return None

    def answered(self, response: Element, domain: str) -> SaslFault | None:
        """``<response/>``: what is wrong with it, if anything is."""
        try:
            _check(response, self._readers, domain)
        except _Fault as found:
            return found.fault
        return None

    def ended(self) -> None:
        """The node has said that it failed. After a success there is nothing more to watch."""
        self._readers = ()


def _initial_response(authenticate: Element) -> Element | None:
    found = list(authenticate.iterchildren("{*}initial-response"))
    if len(found) > 1:
        raise _Fault(SaslFault.MALFORMED_REQUEST)
    return found[0] if found else None


def _check(holder: Element | None, readers: tuple[_Reader, ...], domain: str) -> None:
    if holder is None or not readers:
        return
    if len(holder):
        raise _Fault(SaslFault.MALFORMED_REQUEST)
    # Long ones are broken into lines by some encoders, and servers that take that read the same.
    text = "".join((holder.text or "").split())
    if text in ("", "="):
        return  # nothing was said yet
    message = _decode(text)
    for reader in readers:
        named = reader(message)
        if named is not None and named[0] and _bare(named[0], domain) != _bare(named[1], domain):
            raise _Fault(SaslFault.INVALID_AUTHZID)


def _decode(text: str) -> str:
    try:
        message = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _Fault(SaslFault.INCORRECT_ENCODING) from exc
    if base64.b64encode(message).decode() != text:
        raise _Fault(SaslFault.INCORRECT_ENCODING)
    try:
        return message.decode()
    except UnicodeDecodeError as exc:
        raise _Fault(SaslFault.MALFORMED_REQUEST) from exc


def _bare(name: str, domain: str) -> str:
    return (name if "@" in name else f"{name}@{domain}").lower()


_Reader = Callable[[str], tuple[str, str] | None]
"""From a message to its authzid, empty where there is none, and authcid; ``None``: it is not the one that names them.
Raises :class:`_Fault`."""


def _read_plain(message: str) -> tuple[str, str]:
    parts = message.split("\0")
    if len(parts) != 3:
        raise _Fault(SaslFault.MALFORMED_REQUEST)
    return parts[0], parts[1]


_SCRAM_FIRST: Final = re.compile(r"(?:n|y|p=[A-Za-z0-9.-]+),(?:a=([^,]*))?,(?:m=[^,]*,)?n=([^,]*),r=.*", re.DOTALL)


def _read_scram(message: str) -> tuple[str, str] | None:
    if message.startswith("c="):
        return None  # the last one
    found = _SCRAM_FIRST.fullmatch(message)
    if found is None:
        raise _Fault(SaslFault.MALFORMED_REQUEST)
    authzid, authcid = ((name or "").replace("=2C", ",").replace("=3D", "=") for name in found.groups())
    return authzid, authcid


_READERS: Final[tuple[tuple[re.Pattern[str], _Reader], ...]] = (
    (re.compile(r"PLAIN|X-OAUTH2"), _read_plain),
    (re.compile(r"SCRAM-.+"), _read_scram),
)
