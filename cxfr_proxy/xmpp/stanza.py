"""One element at a time, with lxml: read it, and write the few that the proxy says itself.

Elements are cut out of a stream by :mod:`cxfr_proxy.xmpp.framing` and parsed here only when something about them has
to be known. A piece of a stream may use prefixes that the stream's header declares, so parsing takes that header along.

The parser reads UTF-8 alone, whatever a document says of itself (RFC 6120 section 11.6), resolves no entities, loads no
DTD and touches no network (section 11.1); framing has refused all of these before, so this is a second line of defence.
"""

from __future__ import annotations

import functools
import re
from typing import Final
from xml.sax.saxutils import escape
from xml.sax.saxutils import quoteattr as quote_any

from lxml import etree

from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition

Element = etree._Element

PARSER: Final = etree.XMLParser(
    encoding="UTF-8",
    resolve_entities=False,
    no_network=True,
    load_dtd=False,
    dtd_validation=False,
    huge_tree=False,
)

_RESTRICTED: Final = (etree.Comment, etree.ProcessingInstruction, etree.Entity)

# The declaration is skipped at the start only: an attribute may hold "?>" as well.
_OPENING_TAG: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml\s.*?\?>\s*)?<([^\s<>/?!]+)", re.DOTALL)

_PLAIN: Final = re.compile(r"[^&<>\"'\t\r\n]*")
"""Nearly all attribute values: nothing in them has to be escaped."""

STREAM_END: Final = b"</stream:stream>"


class MalformedElement(ValueError):
    """The bytes are not one element that is namespace-well-formed inside the given stream."""


def parse(element: bytes, header: bytes = b"") -> Element:
    """Parse one complete element.

    ``header`` is the stream's opening tag as received, declaration included, whose namespace declarations the element
    may use; empty where the element stands on its own.

    Raises :class:`MalformedElement`.
    """
    try:
        document = header + element + _closing_tag(header) if header else element
        root = etree.fromstring(document, PARSER)
    except (etree.XMLSyntaxError, ValueError) as exc:
        raise MalformedElement(str(exc)) from exc
    # Restricted XML contains one of these, or an "&" that lxml has not resolved. Without them there is nothing to find.
    if not header or b"<!" in document or b"<?" in document or b"&" in document:
        _refuse_restricted(root)
    if not header:
        return root
    if len(root) != 1:
        raise MalformedElement(f"expected one element, found {len(root)}")
    if (root.text or "").strip(" \t\r\n") or (root[0].tail or "").strip(" \t\r\n"):
        raise MalformedElement("expected one element, found text beside it")
    return root[0]


def start_tag(element: bytes, header: bytes) -> Element | None:
    """Return an element with the name and attributes in its first bytes; ``None`` where the tag does not end there.

    ``header`` as for :func:`parse`.
    """
    parser = etree.XMLPullParser(events=("start",), encoding="UTF-8", resolve_entities=False, no_network=True)
    try:
        parser.feed(header + element)
        begun = [found for _, found in parser.read_events()]
    except etree.XMLSyntaxError:
        return None
    return begun[1] if len(begun) > 1 else None


def _refuse_restricted(root: Element) -> None:
    """Raise :class:`MalformedElement` for XML that RFC 6120 section 11.1 forbids.

    The worst is a DTD: whatever the parser's flags, its entities are expanded in attributes.
    """
    if root.getroottree().docinfo.doctype:
        raise MalformedElement("expected no document type declaration")
    beside = (root.getprevious(), root.getnext())
    if any(node is not None for node in beside) or next(root.iter(*_RESTRICTED), None) is not None:
        raise MalformedElement("expected no comment, processing instruction or entity")


def tag_name(header: bytes) -> bytes:
    """Return the qualified name of a stream's opening tag, which its closing tag has to repeat.

    Raises :class:`ValueError` where there is none.
    """
    found = _OPENING_TAG.match(header)
    if found is None:
        raise ValueError("expected the opening tag of a stream")
    return found[1]


@functools.lru_cache(maxsize=64)
def _closing_tag(header: bytes) -> bytes:
    return b"</" + tag_name(header) + b">"


def name_of(element: Element) -> tuple[str | None, str]:
    """Return its namespace and local name."""
    namespace, _, local = str(element.tag).rpartition("}")
    return namespace[1:] or None, local


def serialize(element: Element) -> bytes:
    """Return the element as bytes, with every namespace declaration it needs to stand alone, without its tail."""
    return etree.tostring(element, encoding="UTF-8", xml_declaration=False, with_tail=False)


def quoted(value: str) -> str:
    """Return the value of an attribute, escaped and in quotes."""
    return f'"{value}"' if _PLAIN.fullmatch(value) else quote_any(value)


def qualified(namespace: str, local: str) -> str:
    """Return lxml's spelling of a qualified name."""
    return f"{{{namespace}}}{local}"


def child(element: Element, namespace: str, local: str) -> Element | None:
    """Return the first child of that name, or ``None``."""
    return element.find(qualified(namespace, local))


_OPENING: Final = f"<?xml version='1.0'?><stream:stream xmlns='{names.CLIENT}' xmlns:stream='{names.STREAM}'"


def stream_header(*, to: str | None, from_: str | None, stream_id: str | None, lang: str | None = None) -> bytes:
    """Return an opening tag of a ``jabber:client`` stream (RFC 6120 section 4.7). ``None`` leaves an attribute out."""
    before, behind = _around_id(from_, to, lang)
    identity = f" id={quoted(stream_id)}" if stream_id is not None else ""
    return f"{before}{identity}{behind}".encode()


@functools.lru_cache(maxsize=64)  # most clients of a domain get the same
def _around_id(from_: str | None, to: str | None, lang: str | None) -> tuple[str, str]:
    """Return an opening tag up to its id, and the rest of it."""
    language = f" xml:lang={quoted(lang)}" if lang is not None else ""
    return f"{_OPENING} version='1.0'{_addresses(from_, to)}", f"{language}>"


def stream_error(
    condition: str, text: str | None = None, *, content: str | None = None, prefix: str = "stream"
) -> bytes:
    """Return a stream error without the closing tag that has to follow it (RFC 6120 section 4.9).

    ``content`` is the condition element's own text: the address in ``see-other-host``. ``prefix`` is the stream
    namespace's in the header that was sent.
    """
    body = f">{escape(content)}</{condition}>" if content else "/>"
    note = f"<text xmlns='{names.STREAM_ERRORS}' xml:lang='en'>{escape(text)}</text>" if text is not None else ""
    return f"<{prefix}:error><{condition} xmlns='{names.STREAM_ERRORS}'{body}{note}</{prefix}:error>".encode()


def stream_condition(error: Element) -> str:
    """Return the defined condition in a parsed ``<stream:error/>``; ``undefined-condition`` where it names none."""
    for part in error.iterchildren(qualified(names.STREAM_ERRORS, "*")):
        local = etree.QName(part).localname
        if local != "text":
            return local
    return StreamCondition.UNDEFINED_CONDITION


def ping(iq_id: str, *, to: str | None, from_: str | None = None) -> bytes:
    """Return a ping (XEP-0199). A client that doesn't know it answers as well, by an error."""
    return (
        f"<iq xmlns='{names.CLIENT}' type='get' id={quoted(iq_id)}{_addresses(from_, to)}>"
        f"<ping xmlns='{names.PING}'/></iq>"
    ).encode()


def _addresses(from_: str | None, to: str | None) -> str:
    sender = f" from={quoted(from_)}" if from_ is not None else ""
    return f"{sender} to={quoted(to)}" if to is not None else sender


def error_reply(stanza: Element, condition: StanzaCondition, error_type: str, text: str) -> bytes | None:
    """Return the stanza error that tells a sender its stanza went nowhere (RFC 6120 section 8.3).

    ``None`` if no answer may be given: to an answer (``result``, ``error``), and to presence, which nobody waits on.
    The reply comes from the stanza's addressee, or from nobody (the server, to the client) if it named none.
    """
    kind = etree.QName(stanza).localname
    stanza_type = stanza.get("type")
    if kind == "iq":
        if stanza_type not in ("get", "set"):
            return None
    elif kind != "message" or stanza_type == "error":
        return None
    attributes = "".join(
        f" {name}={quoted(value)}"
        for name, value in (("id", stanza.get("id")), ("from", stanza.get("to")), ("to", stanza.get("from")))
        if value is not None
    )
    return (
        f"<{kind} xmlns='{names.CLIENT}' type='error'{attributes}><error type='{error_type}'>"
        f"<{condition} xmlns='{names.STANZA_ERRORS}'/>"
        f"<text xmlns='{names.STANZA_ERRORS}' xml:lang='en'>{escape(text)}</text></error></{kind}>"
    ).encode()
