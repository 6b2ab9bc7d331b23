"""Where clients come in."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

import trio

from cxfr_proxy.config import ListenAddress
from cxfr_proxy.errors import ConfigError

BACKLOG: Final = 1024
"""Connections that wait for being accepted: what comes back within a second of a node's death."""


def bind(addresses: Iterable[ListenAddress]) -> list[trio.SocketListener]:
    """Listen on all of them, or on none. Raises :class:`ConfigError`."""
    listeners: list[trio.SocketListener] = []
    try:
        for address in addresses:
            listeners += [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in _bind(address)]
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def _bind(address: ListenAddress) -> list[socket.socket]:
    try:
        if address.host is None:
            if socket.has_dualstack_ipv6():
                return [_server(("", address.port), socket.AF_INET6, dualstack_ipv6=True)]
            return [_server(("", address.port), socket.AF_INET)]
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_server(sockaddr[:2], family) for family, _, _, _, sockaddr in dict.fromkeys(found)]
    except OSError as exc:
        raise ConfigError(f"cannot listen on {address}: {exc.strerror or exc}") from exc


def _server(address: tuple[object, ...], family: int, *, dualstack_ipv6: bool = False) -> socket.socket:
    sock = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack_ipv6)
    sock.setblocking(False)
    return sock
