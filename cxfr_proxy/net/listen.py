"""Listen for clients: bind, and accept."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import trio
from trio.socket import SocketType

from cxfr_proxy.config.table import ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.transport import PlainTransport, tune
from cxfr_proxy.shortage import SHORTAGES
from cxfr_proxy.tasks import Task, isolated, keep_going, once

BACKLOG: Final = 1024
"""Most connections that may wait to be accepted: as many as come back within a second of a node's death."""
_ACCEPTED_TOGETHER: Final = 16
"""Most connections accepted in a row before those that are open get their turn: where each is answered with the first
half of a TLS handshake at once, that takes some 4 ms, as long as a part of the pump's turn."""
_GONE: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    )
)
"""Errors that concern one connection alone: accept(2) passes on errors that the network already has for it."""
_NO_ROOM_SECONDS: Final = 0.1
"""Seconds before the next attempt: the socket stays readable, so without a pause the loop would spin."""
_NOT_SPOKEN: Final = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL))
"""Errors of an address family that this machine lacks, such as IPv6: ip(7), ipv6(7)."""

_log = logging.getLogger(__name__)

Serve = Callable[[socket.socket, Any], None]
"""Serve an accepted socket from now on; the address is its far end's, in the form of its family."""


def bind(addresses: Iterable[ListenAddress]) -> list[trio.SocketListener]:
    """Listen on all addresses, or on none. Raises :class:`ConfigError`."""
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in _bind_all(addresses)]


def _bind_all(addresses: Iterable[ListenAddress]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            for sock in _bind(address):
                sockets.append(sock)  # one by one: those before the one that fails are to be closed
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_shared(
    addresses: Sequence[ListenAddress], processes: int, *, with_others: bool = False
) -> list[list[socket.socket]]:
    """Return sockets for so many processes, a list for each, between which the kernel spreads connections
    (SO_REUSEPORT). A single process has its sockets to itself. ``with_others``: it shares them with another program of
    the same user that does so too.

    Raises :class:`ConfigError`. Unless ``with_others``, an address that another program has is refused as in
    :func:`bind`, although the kernel would share it. So each address is first bound without SO_REUSEPORT, for a moment;
    it does not listen then, so no client can connect and be cut off.
    """
    # Port 0 goes the long way even for one process: the kernel gives a port that it has chosen to others as soon as the
    # socket stops listening (listen_no_more), unless it was bound by number.
    if processes == 1 and not with_others and all(address.port for address in addresses):
        return [_bind_all(addresses)]
    with contextlib.ExitStack() as closing:
        tried = [
            closing.enter_context(sock)
            for address in addresses
            for sock in _bind(address, listening=False, shared=with_others)
        ]
        places = [(each.family, each.getsockname(), _is_dualstack(each)) for each in tried]
    shared: list[list[socket.socket]] = []
    try:
        for _ in range(processes):
            shared.append([])
            for family, place, dualstack in places:
                shared[-1].append(_server(place, family, dualstack_ipv6=dualstack, shared=True))
    except OSError as exc:
        for sock in [each for sockets in shared for each in sockets]:
            sock.close()
        raise ConfigError(f"cannot listen on {place[0]} port {place[1]}: {_why(exc)}") from exc
    return shared


def tune_accepted(listeners: Iterable[trio.SocketListener], keepalive_timeout: float) -> None:
    """Have connections that are accepted from now on be tuned already (:func:`.transport.tune`): that takes six calls
    for each, and Linux hands the options of a listening socket on. Raises ``OSError``."""
    for listener in listeners:
        if listener.socket.family != socket.AF_UNIX:
            tune(listener.socket, keepalive_timeout)


def listen_no_more(sockets: Iterable[socket.socket]) -> None:
    """Stop listening while nobody accepts: clients that wait in the queue are refused at once, and the kernel gives new
    ones to other sockets of the same address. The sockets stay bound."""
    for sock in sockets:
        with contextlib.suppress(OSError):  # it does not listen, or was closed meanwhile
            sock.shutdown(socket.SHUT_RD)


def listen_again(sockets: Iterable[socket.socket]) -> None:
    """Listen again; nothing happens if they do. Raises ``OSError``."""
    for sock in sockets:
        sock.listen(BACKLOG)


def _is_dualstack(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _bind(address: ListenAddress, *, listening: bool = True, shared: bool = False) -> Iterator[socket.socket]:
    """Yield one socket after the other, so that the caller has all there are when one fails."""
    try:
        if address.host is not None:
            yield from _bind_each(address.host, address.port, listening=listening, shared=shared)
        elif socket.has_dualstack_ipv6():
            yield _server(("", address.port), socket.AF_INET6, dualstack_ipv6=True, listening=listening, shared=shared)
        else:
            yield _server(("", address.port), socket.AF_INET, listening=listening, shared=shared)
    except (OSError, UnicodeError) as exc:  # UnicodeError: no name can look like that
        raise ConfigError(f"cannot listen on {address}: {_why(exc)}") from exc


def _bind_each(host: str, port: int, *, listening: bool, shared: bool) -> Iterator[socket.socket]:
    """Resolve a name: it stands for several addresses, and may have some of a family that this machine does not
    speak, as ``localhost`` has. Raises ``OSError``."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
    missing: OSError | None = None
    bound = 0
    for family, place in places:
        try:
            sock = _server(place, family, listening=listening, shared=shared)
        except OSError as exc:
            if exc.errno not in _NOT_SPOKEN or all(other == family for other, _ in places):
                raise
            missing = exc
            continue
        bound += 1
        yield sock
    if missing is not None and not bound:
        raise missing


def _why(exc: OSError | UnicodeError) -> str:
    if isinstance(exc, UnicodeError):
        return "not a host's name"
    if isinstance(exc, socket.gaierror) or exc.errno is None:
        return exc.strerror or str(exc)
    return os.strerror(exc.errno)  # its own text repeats the address


async def serve_streams(
    task: Task,
    serve: Callable[[trio.SocketStream], Awaitable[object]],
    listeners: Iterable[trio.SocketListener],
    nursery: trio.Nursery | None = None,
) -> NoReturn:
    """Serve each connection in a task of its own, until cancelled; then the listeners are closed. The tasks are in
    ``nursery``, and outlive this call; with ``None`` they end with it.

    This is :func:`trio.serve_listeners`, but it goes on after a failure, and says in the words of this log that there
    is no room for another connection.
    """
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(listener.socket) for listener in listeners]
        while True:
            await keep_going(task, partial(_serve_streams, partial(_serve_stream, task, serve), sockets, nursery))


async def _serve_streams(
    serve: Callable[[trio.SocketStream], Awaitable[None]], sockets: list[SocketType], nursery: trio.Nursery | None
) -> None:
    async with trio.open_nursery() as accepting:
        for sock in sockets:
            accepting.start_soon(_accept_streams, sock, serve, nursery or accepting)


async def _accept_streams(
    sock: SocketType, serve: Callable[[trio.SocketStream], Awaitable[None]], nursery: trio.Nursery
) -> None:
    while True:
        try:
            accepted, _ = await sock.accept()
        except OSError as exc:
            if not _is_about_one(exc):
                await trio.sleep(_NO_ROOM_SECONDS)
            continue
        nursery.start_soon(serve, trio.SocketStream(accepted))


async def _serve_stream(
    task: Task, serve: Callable[[trio.SocketStream], Awaitable[object]], stream: trio.SocketStream
) -> None:
    try:
        await once(task, serve, stream)
    finally:
        await trio.aclose_forcefully(stream)


async def accept(listeners: Iterable[trio.SocketListener], serve: Serve, room: ConnectionLimit) -> None:
    """Call ``serve`` for each connection that fits, until cancelled; then the listeners are closed. Each connection has
    entered the limit; whoever closes it calls :meth:`ConnectionLimit.leave`."""
    async with trio.open_nursery() as accepting:
        for listener in listeners:
            accepting.start_soon(_accept_from, listener, serve, room)


async def _accept_from(listener: trio.SocketListener, serve: Serve, room: ConnectionLimit) -> None:
    async with listener:
        # Not by trio's accept(): that wraps each socket twice, and we would have to unwrap it again.
        with PlainTransport(fileno=os.dup(listener.socket.fileno())) as sock:
            sock.setblocking(False)
            await keep_going(Task.ACCEPT, partial(_accept_all, sock, serve, room))


async def _accept_all(sock: socket.socket, serve: Serve, room: ConnectionLimit) -> None:
    while True:
        await room.wait()
        await trio.lowlevel.wait_readable(sock)
        if not _accept_some(sock, serve, room):
            await trio.sleep(_NO_ROOM_SECONDS)


def _accept_some(sock: socket.socket, serve: Serve, room: ConnectionLimit) -> bool:
    """Accept connections that wait and fit; return false if the system has no descriptor or memory for more."""
    isolation = isolated(Task.CONNECTION)
    for _ in range(min(_ACCEPTED_TOGETHER, room.free)):
        try:
            accepted, address = sock.accept()
        except BlockingIOError:
            break
        except OSError as exc:
            if not _is_about_one(exc):
                return False
            continue
        room.enter()
        with isolation:
            serve(accepted, address)
    return True


def _is_about_one(exc: OSError) -> bool:
    """Return whether accepting has failed for one connection alone; false, and logged: the system has no descriptor or
    memory for more. Raises what is a fault of the listening socket's own."""
    if exc.errno in SHORTAGES:
        emit(_log, "accept-failed", level=logging.ERROR, error=os.strerror(exc.errno))
        return False
    if exc.errno not in _GONE:
        raise exc
    return True


def _server(
    address: tuple[object, ...],
    family: int,
    *,
    dualstack_ipv6: bool = False,
    shared: bool = False,
    listening: bool = True,
) -> socket.socket:
    # As socket.create_server() does it, which always listens.
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dualstack_ipv6)
        sock.bind(address)
        if listening:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
