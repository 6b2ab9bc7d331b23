"""Read the PROXY protocol, versions 1 and 2, as a node does.

Headers that name nobody (``UNKNOWN``, ``LOCAL``, ``AF_UNSPEC``) are refused, as real servers do.

A header is read byte by byte from the raw connection, before any XML, because the XML may already be there.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import Final

import trio

from cxfr_proxy.demo.wire import HostPort

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_MAX_BYTES: Final = 107
"""The specification's bound for a whole line, line end included."""


class BadProxyHeader(ValueError):
    """The connection does not begin with a PROXY header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """The client's address, and the address it connected to."""

    version: int
    source: HostPort
    destination: HostPort
    tlvs: dict[int, bytes] = field(default_factory=dict)


async def read_proxy_header(stream: trio.abc.ReceiveStream) -> ProxyHeader:
    """Read one header and not a byte more. Raises :class:`BadProxyHeader`."""
    start = await _exactly(stream, len(_V1))
    if start == _V1:
        return await _read_v1(stream)
    if _V2.startswith(start):
        start += await _exactly(stream, 16 - len(start))
        if start.startswith(_V2):
            return _parse_v2(start, await _exactly(stream, int.from_bytes(start[14:16], "big")))
    raise BadProxyHeader(f"no PROXY header: {start!r}")


async def _exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise BadProxyHeader("the connection ended inside the PROXY header")
        data += piece
    return data


async def _read_v1(stream: trio.abc.ReceiveStream) -> ProxyHeader:
    line = b""
    while not line.endswith(b"\r\n"):
        if len(line) >= _V1_MAX_BYTES - len(_V1):
            raise BadProxyHeader("the PROXY line is too long")
        line += await _exactly(stream, 1)
    words = line.decode("ascii", "replace").split()
    try:
        family, source, destination, source_port, destination_port = words
        version = {"TCP4": 4, "TCP6": 6}[family]
        if {ipaddress.ip_address(ip).version for ip in (source, destination)} != {version}:
            raise BadProxyHeader(f"addresses are not {family}: {words}")
        return ProxyHeader(1, HostPort(source, int(source_port)), HostPort(destination, int(destination_port)))
    except (KeyError, ValueError) as exc:
        raise BadProxyHeader(f"bad PROXY line: {line!r}") from exc


def _parse_v2(head: bytes, body: bytes) -> ProxyHeader:
    version, command, family = head[12] >> 4, head[12] & 0x0F, head[13] >> 4
    size = {1: 4, 2: 16}.get(family, 0)
    if version != 2 or command != 1 or not size or len(body) < 2 * size + 4:
        raise BadProxyHeader(f"bad PROXY v2 header: {head!r}")
    ports = struct.unpack_from("!HH", body, 2 * size)
    hosts = (str(ipaddress.ip_address(body[:size])), str(ipaddress.ip_address(body[size : 2 * size])))
    return ProxyHeader(2, HostPort(hosts[0], ports[0]), HostPort(hosts[1], ports[1]), _tlvs(body[2 * size + 4 :]))


def _tlvs(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 3:
        length = int.from_bytes(data[1:3], "big")
        found[data[0]] = data[3 : 3 + length]
        data = data[3 + length :]
    return found
