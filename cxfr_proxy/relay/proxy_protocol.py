"""The PROXY protocol's header, versions 1 and 2 of the HAProxy project's specification: whose connection this is."""

from __future__ import annotations

import ipaddress
from typing import Final

from cxfr_proxy.cluster.nodes import ProxyHeader

V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY_COMMAND: Final = b"\x21"  # version 2, command PROXY
_LOCAL_COMMAND: Final = b"\x20"  # version 2, command LOCAL: no client behind this connection

Peer = tuple[str, int]
"""IP address and port."""


def header(version: ProxyHeader, client: Peer | None, proxy: Peer | None) -> bytes:
    """The bytes to send before anything else.

    ``client`` and ``proxy`` are the two ends of the client's connection. ``None``, or addresses of different families:
    the connection is said to be of unknown origin.
    """
    addresses = _same_family(client, proxy)
    if version is ProxyHeader.V1:
        return _v1(addresses)
    return _v2(addresses)


_Addresses = tuple[
    ipaddress.IPv4Address | ipaddress.IPv6Address, int, ipaddress.IPv4Address | ipaddress.IPv6Address, int
]


def _same_family(client: Peer | None, proxy: Peer | None) -> _Addresses | None:
    if client is None or proxy is None:
        return None
    source, target = _ip(client[0]), _ip(proxy[0])
    return (source, client[1], target, proxy[1]) if source.version == target.version else None


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 client on an IPv6 socket is an IPv4 client; a zone means nothing on another machine."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _v1(addresses: _Addresses | None) -> bytes:
    if addresses is None:
        return b"PROXY UNKNOWN\r\n"
    source, source_port, target, target_port = addresses
    return f"PROXY TCP{source.version} {source} {target} {source_port} {target_port}\r\n".encode()


def _v2(addresses: _Addresses | None) -> bytes:
    if addresses is None:
        return V2_SIGNATURE + _LOCAL_COMMAND + b"\x00\x00\x00"
    source, source_port, target, target_port = addresses
    family = b"\x11" if source.version == 4 else b"\x21"  # TCP over IPv4, over IPv6
    body = source.packed + target.packed + source_port.to_bytes(2, "big") + target_port.to_bytes(2, "big")
    return V2_SIGNATURE + _PROXY_COMMAND + family + len(body).to_bytes(2, "big") + body
