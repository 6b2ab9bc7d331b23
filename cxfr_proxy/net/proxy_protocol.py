"""Write the PROXY protocol's header, versions 1 and 2 of the HAProxy project's specification (proxy-protocol.txt).

It tells a node the client's address. Version 2 has room for more, and tells it: the version of TLS, the name that the
client has asked for, and an id."""

from __future__ import annotations

import ipaddress
import socket
from enum import IntEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from cxfr_proxy.cluster.nodes import ProxyProtocol

V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY_COMMAND: Final = b"\x21"  # version 2, command PROXY

Peer = tuple[str, int]
"""IP address and port."""

_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxiedConnection(Struct, frozen=True):
    """A connection that is passed on, as a PROXY header tells of it. ``source`` and ``target`` are ``None`` where there
    is no IP address, and all else where nothing is told."""

    source: Peer | None
    """The client of the connection."""
    target: Peer | None
    """Where they have connected to."""
    tls_version: str | None = None
    """As OpenSSL has it, ``TLSv1.3``; :data:`UNTOLD_TLS`: there is TLS, and nobody has told which."""
    server_name: str | None = None
    """Asked for by SNI."""
    unique_id: str | None = None
    alpn: str | None = None
    """The protocol that client and balancer have agreed upon in TLS; only read, and never told to a node."""

    def or_between(self, source: Peer, target: Peer) -> ProxiedConnection:
        """Return it with these ends where it has no IP addresses."""
        has_both = self.source is not None and self.target is not None
        return self if has_both else replace(self, source=source, target=target)


class Tlv(IntEnum):
    """The fields behind the addresses in version 2, each with its type and length (section 2.2)."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20


class SslTlv(IntEnum):
    """The fields in an :attr:`Tlv.SSL`, behind its five bytes (section 2.2.6)."""

    VERSION = 0x21


UNTOLD_TLS: Final = "TLS"
"""Stands for a version of TLS that nobody has told."""
CLIENT_SSL: Final = 0x01
"""The flag in :attr:`Tlv.SSL` that says: the client has connected over TLS."""
_NOT_VERIFIED: Final = (1).to_bytes(4, "big")
"""It has shown no certificate that was verified: zero would say that it has."""


def header(version: ProxyProtocol, connection: ProxiedConnection) -> bytes:
    """Return the bytes to send before anything else, of a connection that has IP addresses.

    The header always names two addresses. The specification has a word for connections without a client (``UNKNOWN`` in
    version 1, ``LOCAL`` in version 2), and no XMPP server reads it: ejabberd waits for ever after ``LOCAL``, Prosody's
    mod_net_proxy takes it for XML, and both refuse ``UNKNOWN``.
    """
    source, target = connection.source, connection.target
    assert source is not None, "see or_between()"
    assert target is not None, "see or_between()"
    (source_ip, target_ip), ports = _one_family(_ip(source), _ip(target)), (source[1], target[1])
    if version is ProxyProtocol.V1:
        # Prosody's mod_net_proxy refuses port 0, which stands for a port that nobody has told.
        source_port, target_port = (max(port, 1) for port in ports)
        return f"PROXY TCP{source_ip.version} {source_ip} {target_ip} {source_port} {target_port}\r\n".encode()
    family = b"\x11" if source_ip.version == 4 else b"\x21"  # TCP over IPv4, over IPv6
    body = source_ip.packed + target_ip.packed + b"".join(port.to_bytes(2, "big") for port in ports) + _tlvs(connection)
    return V2_SIGNATURE + _PROXY_COMMAND + family + len(body).to_bytes(2, "big") + body


def _tlvs(connection: ProxiedConnection) -> bytes:
    tlvs = b""
    if connection.server_name is not None:
        tlvs += _tlv(Tlv.AUTHORITY, connection.server_name.encode())
    if connection.unique_id is not None:
        tlvs += _tlv(Tlv.UNIQUE_ID, connection.unique_id.encode())
    if connection.tls_version is not None:
        version = _tlv(SslTlv.VERSION, connection.tls_version.encode())
        tlvs += _tlv(Tlv.SSL, bytes((CLIENT_SSL,)) + _NOT_VERIFIED + version)
    return tlvs


def _tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def own_ends(sock: socket.socket) -> tuple[Peer, Peer]:
    """Return source and target of a connection without a client: its own two ends.

    A unix socket has none that a header could name; for a program on this machine the loopback address stands in.
    """
    if sock.family == socket.AF_UNIX:
        return _LOOPBACK, _LOOPBACK
    return sock.getsockname()[:2], sock.getpeername()[:2]


_LOOPBACK: Final[Peer] = ("127.0.0.1", 0)


def _ip(peer: Peer) -> _IpAddress:
    """Return the address as the header names it: an IPv4 client on an IPv6 socket is an IPv4 client, and a zone is left
    out, since it means nothing on another machine."""
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _one_family(source: _IpAddress, target: _IpAddress) -> tuple[_IpAddress, _IpAddress]:
    """Return both as IPv6 addresses if only one of them is: the header has one family."""
    if source.version == target.version:
        return source, target
    return _as_v6(source), _as_v6(target)


def _as_v6(address: _IpAddress) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(f"::ffff:{address}") if address.version == 4 else ipaddress.IPv6Address(address)


def peer_of(address: object) -> Peer | None:
    """Return the peer at a socket's address; ``None`` at a unix socket's, which is no IP address.

    An IPv4 client on a socket for both families is an IPv4 client, for limits and the log as well.
    """
    return (str(address[0]).removeprefix("::ffff:"), int(address[1])) if isinstance(address, tuple) else None


LOCAL: Final = "local"
"""The name of a program on this machine that has no address: it has come by a unix socket."""


def address_of(peer: Peer | None) -> str:
    """Return what a peer is called in limits and in the log."""
    return peer[0] if peer is not None else LOCAL
