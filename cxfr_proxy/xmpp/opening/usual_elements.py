"""The elements of a login as nearly every program writes them, read at a glance.

A login has five or six elements that have to be understood, and lxml takes longer to set itself up for each than to
read it. An element of the usual form, with nothing in it that would need a parser, is read here by a regular
expression. Everything else, odd or wrong, goes to lxml, which knows and judges all of XML.

The usual form has no prefix but ``xml:``, no entity, no character beyond printable ASCII, attributes of a known few,
and no child but those named here. An element without a namespace of its own is in ``jabber:client``, since
:mod:`.header` refuses all streams where it would not be. The framer refuses attributes that are there twice.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from cxfr_proxy.xmpp import names

_VALUE: Final = rb"[ !#-%(-;=?-~]*"
"""The value of an attribute, or a text: printable ASCII without any of ``< > & ' "``."""


def _quoted(value: bytes) -> bytes:
    return rb"(?:'" + value + rb"'|\"" + value + rb"\")"


_SASL: Final = b" xmlns=" + _quoted(names.SASL.encode())
_BASE64: Final = rb"[A-Za-z0-9+/]*={0,2}"
_MECHANISM: Final = rb" mechanism=(?:'([A-Z0-9_-]{1,20})'|\"([A-Z0-9_-]{1,20})\")"
_AUTH: Final = re.compile(
    rb"<auth(?:" + _SASL + _MECHANISM + rb"|" + _MECHANISM + _SASL + rb")>(" + _BASE64 + rb")</auth>"
)
_SUCCESS: Final = re.compile(rb"<success" + _SASL + rb"(?:/>|>" + _BASE64 + rb"</success>)")
_ATTRIBUTE: Final = rb"(?: (?:type|id|to|from|xml:lang)=" + _quoted(_VALUE) + rb")"


def _value_of(name: bytes) -> bytes:
    """Return a pattern for the value of an attribute in the tag ahead, if the tag has it."""
    return rb"(?=(?:" + _ATTRIBUTE + rb"*? " + name + rb"=['\"](?P<" + name + rb">" + _VALUE + rb"))?)"


_BIND: Final = re.compile(
    rb"<iq" + _value_of(b"type") + _value_of(b"id") + _ATTRIBUTE + rb"*>"
    rb"<bind xmlns=" + _quoted(names.BIND.encode()) + rb"(?:/>|>"
    rb"(?:<resource>" + _VALUE + rb"</resource>|<jid>(?P<jid>" + _VALUE + rb")</jid>)?</bind>)</iq>"
)


class UsualAuth(Struct, frozen=True, gc=False):
    """SASL's ``<auth/>``. ``text`` consists of the characters of base64; it may be a password."""

    mechanism: str
    text: str

    def __repr__(self) -> str:
        return f"UsualAuth({self.mechanism!r})"


class UsualBind(Struct, frozen=True, gc=False):
    """An IQ with ``<bind/>`` in it (RFC 6120 section 7), a request or an answer. ``None`` is an attribute that is not
    there; ``jid`` is the address that is bound."""

    type: str | None
    id: str | None
    jid: str | None


def read_auth(data: bytes) -> UsualAuth | None:
    """Return the content of an ``<auth/>`` of the usual form; ``None``: it is none."""
    usual = _AUTH.fullmatch(data)
    if usual is None:
        return None
    *mechanism, text = usual.groups(b"")
    return UsualAuth(b"".join(mechanism).decode(), text.decode())


def is_success(data: bytes) -> bool:
    """Return whether it is SASL's ``<success/>``, in the usual form."""
    return _SUCCESS.fullmatch(data) is not None


def read_bind(data: bytes) -> UsualBind | None:
    """Return the content of a request for a resource, or of the answer to it, in the usual form; ``None``: it is
    none."""
    usual = _BIND.fullmatch(data)
    if usual is None:
        return None
    kind, iq_id, jid = usual.group("type", "id", "jid")
    return UsualBind(
        kind.decode() if kind is not None else None,
        iq_id.decode() if iq_id is not None else None,
        jid.decode() if jid else None,
    )
