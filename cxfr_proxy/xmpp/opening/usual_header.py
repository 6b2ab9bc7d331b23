"""A stream's header as nearly every program writes it, read at a glance.

A login has four or five headers, and setting up a parser for each costs more than all its elements together. A header
of the usual form, with nothing in it that would need a parser, is read here by one regular expression; everything else,
odd or wrong, goes to expat and lxml, which know and judge all of XML.

The usual form: perhaps a declaration of UTF-8, then ``<stream:stream>`` with its two namespaces and the attributes of
RFC 6120 section 4.7, each once, with values in printable ASCII without any of ``< > & ' "``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Final

from cxfr_proxy.xmpp import names

_SPACE: Final = rb"[ \t\r\n]"
_VALUE: Final = rb"[ !#-%(-;=?-~]*"
_ATTRIBUTE: Final = (
    rb"(xmlns(?::stream)?|to|from|id|version|xml:lang)" + _SPACE + rb"*=" + _SPACE + rb"*"
    rb"(?:'(" + _VALUE + rb")'|\"(" + _VALUE + rb")\")"
)
_DECLARATION: Final = (
    rb"<\?xml" + _SPACE + rb"+version=(?:'1\.0'|\"1\.0\")"
    rb"(?:" + _SPACE + rb"+encoding=(?:'[Uu][Tt][Ff]-8'|\"[Uu][Tt][Ff]-8\"))?" + _SPACE + rb"*\?>" + _SPACE + rb"*"
)
_HEADER: Final = re.compile(
    rb"(?:" + _DECLARATION + rb")?<stream:stream((?:" + _SPACE + rb"+" + _ATTRIBUTE + rb")*)" + _SPACE + rb"*>"
)
_ATTRIBUTES: Final = re.compile(_ATTRIBUTE)

TAG: Final = b"stream:stream"
MAX_BYTES: Final = 1024
"""Most bytes of a usual header. Longer ones are not worth remembering."""

CONTEXT: Final = f'<stream:stream xmlns="{names.CLIENT}" xmlns:stream="{names.STREAM}">'.encode()
"""A usual header's namespaces and nothing else: one object for all streams that have no others."""


def glance(data: bytes) -> bytes:
    """Return the usual header that ``data`` begins with; empty where it begins with none, or with part of one."""
    # No value holds a ">", and neither does what may come before the tag, but for the declaration's end. Without a tag
    # this finds an end or none, and attributes() finds no header.
    header = data[: data.find(b">", data.find(b"<stream:stream"), MAX_BYTES) + 1]
    return header if attributes(header) is not None else b""


@functools.lru_cache(maxsize=256)
def attributes(header: bytes) -> Mapping[str, str] | None:
    """Return the attributes of a header of the usual form, by names as written; ``None`` where it has another.

    Remembered: a header is asked about twice, and the clients of a site send the same few.
    """
    usual = _HEADER.fullmatch(header)
    if usual is None:
        return None
    found = _ATTRIBUTES.findall(usual[1])
    values = {name.decode(): (single or double).decode() for name, single, double in found}
    if len(values) < len(found) or values.get("xmlns") != names.CLIENT or values.get("xmlns:stream") != names.STREAM:
        return None
    return values
