"""Read the PROXY header by which a balancer says whose connection it passes on: versions 1 and 2 of the HAProxy
project's specification (proxy-protocol.txt), as strictly as that says, and within bounds.

:func:`parse` is pure: it is given what has arrived, from the first byte on, and says how long the header is. The bytes
behind it are the client's, and are not looked at. :func:`receive` takes the header off a connection, and nothing
else.

Bytes are refused as soon as no header can begin with them. The length of one is known from its first 16 bytes, so the
rest of a header that claims to be too long is never waited for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.proxy_protocol import CLIENT_SSL, UNTOLD_TLS, V2_SIGNATURE, Peer, ProxiedConnection, SslTlv, Tlv
from cxfr_proxy.net.trusted_proxies import read_ip

MAX_LINE_BYTES: Final = 107
"""Of version 1, the line's end included (section 2.1)."""
MAX_BODY_BYTES: Final = 4096
"""Of version 2, behind its first 16 bytes. Addresses and what is told of TLS take some hundreds, the certificate of a
client, which some balancers pass on, one or two thousand."""


class MalformedProxyHeader(ValueError):
    """The bytes are no PROXY header. The text says why, and repeats nothing of them."""


class IncomingHeader(NamedTuple):
    """A header that has arrived whole.

    ``size`` is its length in bytes; what follows is the client's. ``connection`` is ``None`` where the balancer has not
    said whose it is: it looks whether somebody is here (``LOCAL``), or does not know (``UNKNOWN``).
    """

    size: int
    connection: ProxiedConnection | None


def may_begin(data: bytes) -> bool:
    """Return whether a header may begin with this byte. No XML does, and no request of HTTP that is served here."""
    return data in (_LINE_BEGINS[:1], V2_SIGNATURE[:1])


async def has_arrived(endpoint: Endpoint) -> bool:
    """Return whether the signature of a header stands first in what has arrived, which is left unread."""
    return (await endpoint.peek(_V2_BEGINS)).startswith((_LINE_BEGINS, V2_SIGNATURE))


async def receive(endpoint: Endpoint) -> IncomingHeader | None:
    """Receive one header, and not a byte more; ``None`` where the stream ends before its first byte.

    Raises :class:`MalformedProxyHeader`, and ``OSError`` where the connection is broken. After it was cancelled the
    connection is good for closing only.
    """
    held = b""
    while data := await endpoint.peek(_V2_BEGINS + MAX_BODY_BYTES):
        found = parse(held + data)
        # All that has arrived belongs to a header that is not whole.
        await endpoint.skip(len(data) if found is None else found.size - len(held))
        if found is not None:
            return found
        held += data
    if held:
        raise MalformedProxyHeader("the connection ends within it")
    return None


def parse(data: bytes) -> IncomingHeader | None:
    """Read the header at the beginning of ``data``; ``None``: it is not whole yet.

    Raises :class:`MalformedProxyHeader`.
    """
    if data.startswith(V2_SIGNATURE[:1]):
        return _parse_v2(data)
    return _parse_v1(data)


# --- version 1


_LINE_BEGINS: Final = b"PROXY "
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"  # no zeros before it (section 2.1)
_LINE: Final = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) %b %b" % (_PORT, _PORT))
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)
"""Everything else in the line has to be passed over."""


def _parse_v1(data: bytes) -> IncomingHeader | None:
    if not data.startswith(_LINE_BEGINS[: len(data)]):
        raise MalformedProxyHeader("there is none")
    line, end, _ = data[:MAX_LINE_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_LINE_BYTES:
            raise MalformedProxyHeader(f"a line of more than {MAX_LINE_BYTES} bytes")
        return None
    size = len(line) + len(end)
    if _UNKNOWN.fullmatch(line):
        return IncomingHeader(size, None)
    match = _LINE.fullmatch(line)
    if match is None:
        raise MalformedProxyHeader("a line that is not as version 1 has it")
    version = int(match[1])
    source, target = (_end_of_line(version, match[each], match[each + 2]) for each in (2, 3))
    return IncomingHeader(size, ProxiedConnection(source, target))


def _end_of_line(version: int, address: bytes, port: bytes) -> Peer:
    text = address.decode("ascii")
    # The only kinds of addresses there are, each with a character that the other can't do without.
    if int(port) > 65535 or (":" in text) != (version == 6):
        raise MalformedProxyHeader(f"a line with an end that is none of TCP{version}")
    return _peer(text, int(port))


def _peer(address: str | bytes, port: int) -> Peer:
    try:
        return str(read_ip(address)), port
    except ValueError:
        raise MalformedProxyHeader("an address that is none") from None


# --- version 2

_V2_BEGINS: Final = 16
"""Bytes up to the addresses: signature, version and command, family and transport, length."""
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNSPECIFIED: Final = 0x00
_TCP_OVER_IPV4: Final = 0x11
_TCP_OVER_IPV6: Final = 0x21
_UNIX_STREAM: Final = 0x31
_ADDRESS_BYTES: Final[Mapping[int, int]] = {_TCP_OVER_IPV4: 4, _TCP_OVER_IPV6: 16, _UNIX_STREAM: 108}
"""Bytes of one address, by family and transport. Datagrams are none of ours."""


def _parse_v2(data: bytes) -> IncomingHeader | None:
    if not V2_SIGNATURE.startswith(data[: len(V2_SIGNATURE)]):
        raise MalformedProxyHeader("there is none")
    if len(data) < _V2_BEGINS:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:_V2_BEGINS], "big")
    if command not in (_LOCAL, _PROXY):
        raise MalformedProxyHeader("a version or command that there is not")
    if length > MAX_BODY_BYTES:
        raise MalformedProxyHeader(f"{length} bytes long, where {MAX_BODY_BYTES} are the most")
    size = _V2_BEGINS + length
    # Of a LOCAL one all that follows, family included, has to be passed over (section 2.2).
    names_nobody = command == _LOCAL or family == _UNSPECIFIED
    if not names_nobody and family not in _ADDRESS_BYTES:
        raise MalformedProxyHeader("a family or transport that is not served here")
    if len(data) < size:
        return None
    return IncomingHeader(size, None if names_nobody else _connection(family, data[:size]))


def _connection(family: int, header: bytes) -> ProxiedConnection:
    width, at = _ADDRESS_BYTES[family], _V2_BEGINS
    has_ports = family != _UNIX_STREAM
    ends = at + 2 * width + 4 * has_ports
    if len(header) < ends:
        raise MalformedProxyHeader("too short for its addresses")
    source: Peer | None = None
    target: Peer | None = None
    if has_ports:
        ports = at + 2 * width
        source = _peer(header[at : at + width], int.from_bytes(header[ports : ports + 2], "big"))
        target = _peer(header[at + width : ports], int.from_bytes(header[ports + 2 : ends], "big"))
    places = _tlvs(header, ends, len(header))
    tlvs = {kind: header[place] for kind, place in places.items()}
    if Tlv.CRC32C in places:
        _check(header, places[Tlv.CRC32C])
    return ProxiedConnection(
        source,
        target,
        tls_version=_tls_version(tlvs.get(Tlv.SSL)),
        server_name=_text(tlvs.get(Tlv.AUTHORITY)),
        unique_id=_unique_id(tlvs.get(Tlv.UNIQUE_ID)),
        alpn=_text(tlvs.get(Tlv.ALPN)),
    )


def _tlvs(data: bytes, at: int, end: int) -> dict[int, slice]:
    """Return the places of the values, by their types; of several of one type the first counts."""
    found: dict[int, slice] = {}
    while at < end:
        begin = at + 3
        after = begin + int.from_bytes(data[at + 1 : begin], "big")
        if after > end or begin > end:
            raise MalformedProxyHeader("what it tells behind the addresses is cut")
        found.setdefault(data[at], slice(begin, after))
        at = after
    return found


_SSL_BEGINS: Final = 5
"""Bytes of flags, and of how the client's certificate was judged (section 2.2.6)."""
_MAX_TEXT_BYTES: Final = 255
"""A name in DNS has no more (RFC 1035 section 2.3.4), nor has a protocol's in ALPN (RFC 7301 section 3.1)."""
_MAX_UNIQUE_ID_BYTES: Final = 128
"""Section 2.2.5."""


def _tls_version(value: bytes | None) -> str | None:
    if value is None:
        return None
    if len(value) < _SSL_BEGINS:
        raise MalformedProxyHeader("what it tells of TLS is cut")
    version = _tlvs(value, _SSL_BEGINS, len(value)).get(SslTlv.VERSION)
    if not value[0] & CLIENT_SSL:
        return None
    return (_text(value[version]) if version is not None else None) or UNTOLD_TLS


def _text(value: bytes | None) -> str | None:
    """Return the text; ``None`` if it is none, as if it had not been told: the client may have written it."""
    if not value or len(value) > _MAX_TEXT_BYTES:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _unique_id(value: bytes | None) -> str | None:
    """Return the id, which may be any bytes: in hexadecimal digits if they are no text."""
    if value is not None and len(value) > _MAX_UNIQUE_ID_BYTES:
        raise MalformedProxyHeader(f"a unique id of more than {_MAX_UNIQUE_ID_BYTES} bytes")
    return _text(value) or (value.hex() if value else None)


# --- its checksum


def _crc_table() -> tuple[int, ...]:
    """Return the CRC-32C of each byte (RFC 9260 appendix A), bits reversed."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the checksum of section 2.2.4."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _check(header: bytes, place: slice) -> None:
    """Check the checksum of the whole header, which is computed as if it were four zeros."""
    told = header[place]
    if len(told) != 4 or crc32c(header[: place.start] + bytes(4) + header[place.stop :]) != int.from_bytes(told, "big"):
        raise MalformedProxyHeader("a checksum that is wrong")
