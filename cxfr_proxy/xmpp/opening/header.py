"""A stream's header: its opening tag, read and judged (RFC 6120 sections 4.7 and 4.8)."""

from __future__ import annotations

import functools
from typing import Final
from xml.sax.saxutils import quoteattr

from lxml import etree
from msgspec import Struct

from cxfr_proxy.errors import RemoteError
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening import usual_header
from cxfr_proxy.xmpp.stanza import Element

_MAX_PREFIXES: Final = 16
"""Most prefixes that a stream's header may declare. Two are needed."""


class StreamHeader(Struct, frozen=True, gc=False):
    """An opening tag as received; absent attributes are ``None``.

    ``raw`` holds its bytes, declaration included. ``context`` is an opening tag with its namespace declarations and
    nothing else, to parse the stream's elements in: a header may be long, and they are many.
    """

    raw: bytes
    context: bytes
    to: str | None
    from_: str | None
    id: str | None
    lang: str | None
    version: str | None
    prefix: str

    @property
    def end(self) -> bytes:
        """The closing tag that ends this stream."""
        return f"</{self.prefix}:stream>".encode()

    def addressed(self, *, to: str, from_: str) -> StreamHeader:
        """Return a header of the proxy's own with those addresses, in which the same prefixes mean the same, and texts
        are in the same language."""
        lang = f" xml:lang={quoteattr(self.lang)}" if self.lang is not None else ""
        addresses = f" from={quoteattr(from_)} to={quoteattr(to)} version='1.0'{lang}>".encode()
        raw = b"<?xml version='1.0'?>" + self.context[:-1] + addresses
        return StreamHeader(raw, self.context, to, from_, id=None, lang=self.lang, version="1.0", prefix=self.prefix)

    @property
    def in_use(self) -> StreamHeader:
        """The form of the header, and the language of its texts, which is all that matters once the stream is bound.
        Equal ones are one object."""
        return _form(self.context, self.prefix, self.lang)


@functools.lru_cache(maxsize=64)
def _form(context: bytes, prefix: str, lang: str | None = None) -> StreamHeader:
    return StreamHeader(b"", context, to=None, from_=None, id=None, lang=lang, version=None, prefix=prefix)


def read_header(raw: bytes, fault: type[RemoteError]) -> StreamHeader:
    """Read an opening tag, RFC 6120 sections 4.7 and 4.8. Raises ``fault`` with the stream error that answers it."""
    raw = raw.lstrip()
    usual = _usual_header(raw) if len(raw) <= usual_header.MAX_BYTES else None
    return usual or _read_any_header(raw, fault)


@functools.lru_cache(maxsize=256)  # the clients of a site send the same few headers
def _usual_header(raw: bytes) -> StreamHeader | None:
    attributes = usual_header.attributes(raw)
    if attributes is None:
        return None
    return StreamHeader(
        raw=raw,
        context=usual_header.CONTEXT,
        to=attributes.get("to"),
        from_=attributes.get("from"),
        id=attributes.get("id"),
        lang=attributes.get("xml:lang"),
        version=attributes.get("version"),
        prefix="stream",
    )


def _read_any_header(raw: bytes, fault: type[RemoteError]) -> StreamHeader:
    if raw.endswith(b"/>"):
        raise fault(StreamCondition.BAD_FORMAT, "the stream is over with its header")
    try:
        root = etree.fromstring(raw + b"</" + stanza.tag_name(raw) + b">", stanza.PARSER)
        name = etree.QName(root)  # two colons in a name are none of XML's errors, and not always one of lxml's parser's
    except (etree.XMLSyntaxError, ValueError) as exc:
        raise fault(StreamCondition.BAD_NAMESPACE_PREFIX, "the stream header uses an undeclared prefix") from exc
    if name.namespace != names.STREAM:
        raise fault(StreamCondition.INVALID_NAMESPACE, f"the stream's namespace is {names.STREAM}")
    if name.localname != "stream":
        raise fault(StreamCondition.BAD_FORMAT, "a stream begins with <stream>")
    if root.prefix is None or root.nsmap.get(None) != names.CLIENT:
        raise fault(StreamCondition.INVALID_NAMESPACE, f"the default namespace is {names.CLIENT}")
    return StreamHeader(
        raw=raw,
        context=_context(root, fault),
        to=root.get("to"),
        from_=root.get("from"),
        id=root.get("id"),
        lang=root.get("{http://www.w3.org/XML/1998/namespace}lang"),
        version=root.get("version"),
        prefix=root.prefix,
    )


def _context(root: Element, fault: type[RemoteError]) -> bytes:
    if any(names.CXFR in namespace for namespace in root.nsmap.values()):
        # Elements of that namespace would bear a prefix, and not the bytes that are watched for.
        raise fault(StreamCondition.POLICY_VIOLATION, "no prefix of the stream may stand for connection transfers")
    if len(root.nsmap) > _MAX_PREFIXES:
        raise fault(StreamCondition.POLICY_VIOLATION, f"more than {_MAX_PREFIXES} namespace prefixes")
    declarations = "".join(
        f" xmlns{':' + prefix if prefix else ''}={quoteattr(namespace)}" for prefix, namespace in root.nsmap.items()
    )
    return f"<{root.prefix}:stream{declarations}>".encode()


SHOWN: Final = _form(usual_header.CONTEXT, "stream")
"""The form of a header that the proxy has written itself."""
