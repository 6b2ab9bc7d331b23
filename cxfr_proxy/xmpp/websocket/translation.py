"""``<open/>`` and ``<close/>`` for the tags of a stream, and what an element leaves to the stream's header to say.

RFC 7395 section 3: over WebSocket a stream has no element around it. Its opening tag is the empty element ``<open/>``,
its closing tag ``<close/>``, and every message is a document of its own. So an element that goes out has to declare for
itself what the header declares for all: the default namespace, and each prefix that it uses.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

from lxml import etree
from msgspec import Struct

from cxfr_proxy.errors import ClientError, NodeError
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing.events import STANZAS
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.header import read_header

CLOSE: Final = f'<close xmlns="{names.FRAMING}" />'.encode()
"""strophe.js knows the end of a stream by these very bytes."""
_XML_LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"
_ATTRIBUTES: Final = (("to", "to"), ("from", "from"), ("id", "id"), ("version", "version"), ("xml:lang", _XML_LANG))
"""Of ``<open/>``: as written, and as lxml spells them."""
_NAME: Final = re.compile(rb"<([^\s/>]+)")
_ATTRIBUTE: Final = re.compile(rb"[ \t\r\n]+([^\s=/>]+)[ \t\r\n]*=[ \t\r\n]*(?:\"[^\"]*\"|'[^']*')")
_STANZAS: Final = frozenset(name.encode() for name in STANZAS)


def close(see_other_uri: str | None = None) -> bytes:
    """Return ``<close/>``, with another place for the client to go to (RFC 7395 section 3.6.1) if there is one."""
    if see_other_uri is None:
        return CLOSE
    return f'<close xmlns="{names.FRAMING}" see-other-uri={stanza.quoted(see_other_uri)} />'.encode()


@functools.lru_cache(maxsize=256)  # clients of a site send the same few
def stream_tag(message: bytes) -> bytes | None:
    """Return the tag of an RFC 6120 stream that ``<open/>`` or ``<close/>`` stands for.

    ``None``: it is neither, but an element of another namespace. Raises :class:`ClientError`.
    """
    try:
        root = stanza.parse(message)
    except stanza.MalformedElement as exc:
        raise ClientError(StreamCondition.NOT_WELL_FORMED, "expected <open/> or <close/>, well-formed") from exc
    namespace, name = stanza.name_of(root)
    if namespace != names.FRAMING:
        return None
    if len(root) or (root.text or "").strip():
        raise ClientError(StreamCondition.BAD_FORMAT, f"<{name}/> is empty")
    if name == "close":
        return stanza.STREAM_END
    attributes = "".join(
        f" {shown}={stanza.quoted(value)}" for shown, key in _ATTRIBUTES if (value := root.get(key)) is not None
    )
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='{names.CLIENT}' xmlns:stream='{names.STREAM}'{attributes}>"
    ).encode()


class StreamContext(NamedTuple):
    """The declarations of a stream's header that hold for all of its elements, as attributes to put into each one.

    ``prefixes``: each with its colon, and the attribute that declares it. ``lang`` is empty where the header has none.
    A tuple, as ``_frames.c`` reads it.
    """

    default: bytes
    prefixes: tuple[tuple[bytes, bytes], ...]
    lang: bytes


class OpenMessage(Struct, frozen=True):
    """A header as ``<open/>``, and what it means for the elements behind it."""

    message: bytes
    context: StreamContext


def opening(header: bytes) -> OpenMessage:
    """Return what a stream's header comes to. Raises :class:`NodeError` where it is none."""
    read = read_header(header, NodeError)
    attributes = "".join(
        f" {name}={stanza.quoted(value)}"
        for name, value in (
            ("from", read.from_),
            ("to", read.to),
            ("id", read.id),
            ("version", read.version),
            ("xml:lang", read.lang),
        )
        if value is not None
    )
    return OpenMessage(
        f'<open xmlns="{names.FRAMING}"{attributes} />'.encode(), _context(read.context, read.prefix, read.lang)
    )


@functools.lru_cache(maxsize=64)  # one object for all streams that say the same
def _context(tag: bytes, prefix: str, lang: str | None) -> StreamContext:
    declared = etree.fromstring(tag + f"</{prefix}:stream>".encode(), stanza.PARSER).nsmap
    return StreamContext(
        f" xmlns={stanza.quoted(names.CLIENT)}".encode(),
        tuple(
            (f"{name}:".encode(), f" xmlns:{name}={stanza.quoted(namespace)}".encode())
            for name, namespace in declared.items()
            if name is not None
        ),
        b"" if lang is None else f" xml:lang={stanza.quoted(lang)}".encode(),
    )


def standing_alone(element: bytes, tag_end: int, context: StreamContext, *, whole: bool) -> tuple[int, bytes]:
    """Return what an element needs said in its start tag, which ends at ``tag_end``, and where to put it.

    Where the element is not ``whole``, each prefix may yet be used, and is declared.
    """
    name = _NAME.match(element)
    assert name is not None, "a framer has read it"
    said = set(_ATTRIBUTE.findall(element, name.end(), tag_end))
    unsaid = b"" if b"xmlns" in said else context.default
    for prefix, declaration in context.prefixes:
        if (not whole or prefix in element) and b"xmlns:" + prefix[:-1] not in said:
            unsaid += declaration
    if name[1] in _STANZAS and b"xml:lang" not in said:
        unsaid += context.lang  # RFC 6120 section 8.1.5: what a stanza does not say, the stream says for it
    return name.end(), unsaid
