"""Where clients come in."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
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
            for sock in _bind(address):
                listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(sock)))
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def bind_shared(addresses: Iterable[ListenAddress], processes: int) -> list[list[socket.socket]]:
    """Sockets for so many processes, a list for each, between which the kernel spreads connections (SO_REUSEPORT).

    Raises :class:`ConfigError`. An address that another program has is refused as in :func:`bind`, although the kernel
    would share it with that one too if it is the same user's: so it is bound alone first, for a moment.
    """
    alone = bind(addresses)
    places = [(each.socket.family, each.socket.getsockname(), _is_dualstack(each.socket)) for each in alone]
    for listener in alone:
        listener.socket.close()
    shared: list[list[socket.socket]] = []
    try:
        for _ in range(processes):
            shared.append([])
            for family, place, dualstack in places:
                shared[-1].append(_server(place[:2], family, dualstack_ipv6=dualstack, shared=True))
    except OSError as exc:
        for sock in [each for sockets in shared for each in sockets]:
            sock.close()
        raise ConfigError(f"cannot listen on {place[0]} port {place[1]}: {_why(exc)}") from exc
    return shared


def _is_dualstack(sock: trio.socket.SocketType) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _bind(address: ListenAddress) -> Iterator[socket.socket]:
    """One socket after the other, so that whoever takes them has all there are when one fails."""
    try:
        if address.host is not None:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, sockaddr in dict.fromkeys(found):
                yield _server(sockaddr, family)
        elif socket.has_dualstack_ipv6():
            yield _server(("", address.port), socket.AF_INET6, dualstack_ipv6=True)
        else:
            yield _server(("", address.port), socket.AF_INET)
    except (OSError, UnicodeError) as exc:  # UnicodeError: no name can look like that
        raise ConfigError(f"cannot listen on {address}: {_why(exc)}") from exc


def _why(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, UnicodeError):
        return "not a host's name"
    if isinstance(exc, socket.gaierror) or exc.errno is None:
        return exc.strerror or str(exc)
    return os.strerror(exc.errno)  # its own text repeats the address


def _server(
    address: tuple[object, ...], family: int, *, dualstack_ipv6: bool = False, shared: bool = False
) -> socket.socket:
    sock = socket.create_server(
        address, family=family, backlog=BACKLOG, dualstack_ipv6=dualstack_ipv6, reuse_port=shared
    )
    sock.setblocking(False)
    return sock
