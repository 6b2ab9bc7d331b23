"""A connection's bytes, in and out, plain or over TLS, without waiting for anything.

Everything above this module, the opening as well as the pump, uses a connection by :class:`Transport` alone. The choice
between plain and TLS is made where a transport is made (by a client's first byte, by a node's ``tls=``):
:meth:`PlainTransport.adopt` for a socket that was accepted or connected, :meth:`TlsTransport.over` where TLS begins on
one.

A transport *is* a socket, of a subclass that gives its methods other names. A transport that held a socket would cost a
Python call for each read and write, or two more bound methods for each connection; this way ``read_now`` of a plain
connection is ``recv`` itself.

TLS runs on the socket, too (``ssl.SSLSocket``), not through buffers in memory (``ssl.MemoryBIO``), which would copy
every byte once more, and would leave each connection with the largest buffers that it ever needed.

*Ownership.* The maker of a transport closes it, until it is passed to :meth:`~cxfr_proxy.relay.pump.Pump.relay`, which
closes it from then on. A session that gives its client's transport back (``Upgrade``, ``Reroute``) gives that duty with
it.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol

from trio.socket import SocketType

from cxfr_proxy.net.close_notify import close_notify
from cxfr_proxy.net.tls_errors import WANTS, forget_errors

RECORD_BYTES: Final = 16_384
"""Bytes that one TLS record holds at most (RFC 8446 section 5.1)."""

Bytes = bytes | bytearray | memoryview


class Verdict(Enum):
    """The meaning of a transport's ``OSError`` for its connection."""

    WAIT_READABLE = auto()
    WAIT_WRITABLE = auto()
    """The connection is fine: repeat the same call when the socket can be read, or written."""
    OVER = auto()
    """The connection has ended or is broken; there is nothing to wait for."""


_WAIT_READABLE: Final = Verdict.WAIT_READABLE


class TransportFault(OSError):
    """The peer has broken a rule of what lies between the socket and the stream (WebSocket).

    ``condition``: the stream condition that says it (RFC 6120 section 4.9.3). ``text`` quotes nothing of the peer's.
    """

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(f"{condition}: {text}")
        self.condition = condition
        self.text = text


class Transport(Protocol):
    """A connection that never blocks.

    A call that moves nothing raises ``OSError``. The caller passes the exception to :meth:`judge` before it calls any
    other transport: OpenSSL keeps errors in one place for all connections of a thread (:mod:`.tls_errors`).
    """

    @property
    def is_encrypted(self) -> bool: ...

    @property
    def wants_write(self) -> bool:
        """The transport has to write something of its own before it can be read on, an answer to new keys or a
        closing alert, and the socket has no room. The caller waits until the socket is writable, and calls
        :meth:`write_own`."""
        ...

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        ...

    def read_now(self, most: int, /) -> bytes:
        """Read at most so many bytes of the stream; empty at its end.

        Raises :class:`TransportFault`, once, behind what came before the fault. The caller ends the stream, and may
        read on: what else the peer has sent is dropped, and the end is found.
        """
        ...

    def write_now(self, data: Bytes, /) -> int:
        """Write, and return how many bytes were taken: all, or as many as there was room for."""
        ...

    def pending(self) -> int:
        """Return how many bytes have arrived that can be read although epoll does not see them."""
        ...

    def judge(self, exc: OSError, doing: Verdict) -> Verdict:
        """Return what the call that raised this has to wait for, if anything.

        ``doing`` is what such a call usually waits for: ``WAIT_READABLE`` for a read, ``WAIT_WRITABLE`` for a write.
        """
        ...

    def write_own(self) -> None:
        """Continue the write that :attr:`wants_write` announces. Raises nothing: the next read finds a broken
        connection."""
        ...

    def end_output(self, *, silently: bool = False) -> None:
        """Half-close the connection: nothing can be sent any more, and what comes in can be read to its end.

        ``silently``: without a TLS alert, as if the connection had been cut. Otherwise what was decrypted and not read
        is lost, and :attr:`wants_write` is set if there was no room for the alert. Raises nothing, like
        :meth:`write_own`.
        """
        ...

    def close(self) -> None:
        """Close the connection without ending the stream; :meth:`end_output` does that."""
        ...

    @property
    def native_read(self) -> ReadInto | None:
        """The call by which the switchboard reads; ``None``: the socket's own ``recv``."""
        ...

    @property
    def native_write(self) -> Write | None:
        """The call by which the switchboard writes; ``None``: the socket's own ``send``."""
        ...

    def version(self) -> str | None:
        """Return the version of TLS, as ``TLSv1.3``; ``None`` for a plain connection, and before the handshake."""
        ...

    def getsockname(self) -> object:
        """Return the address of this end, in the form of its family."""
        ...


ReadInto = Callable[[int, memoryview], object]
"""Takes the most bytes to read and the buffer to put them in; how many there were. (typeshed has another result.)"""
Write = Callable[[bytes], int | None]
"""Takes at most :data:`RECORD_BYTES` bytes; how many were taken.

Either may return ``None`` where it can't now, and 0 where the connection is over, instead of raising ``OSError``."""


class PlainTransport(socket.socket):
    """A connection without TLS: the socket's own methods, by the names of :class:`Transport`."""

    __slots__ = ()

    is_encrypted = False
    wants_write = False
    # As numbers: to find the members of the enumerations, each time anew, takes as long as a system call.
    family = socket.SocketType.family  # type: ignore[assignment]
    type = socket.SocketType.type  # type: ignore[assignment]
    read_now = socket.socket.recv
    write_now = socket.socket.send
    native_read = None
    native_write = None

    @classmethod
    def unconnected(cls, family: int, keepalive_timeout: float) -> PlainTransport:
        """Return one that is to be connected. ``keepalive_timeout`` as for :meth:`adopt`. Raises ``OSError``."""
        transport = cls(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if family != socket.AF_UNIX:
            try:
                tune(transport, keepalive_timeout)
            except OSError:
                transport.close()
                raise
        return transport

    @classmethod
    def adopt(cls, sock: socket.socket, keepalive_timeout: float = 0.0) -> PlainTransport:
        """Make a connected socket a transport, and return it: it is the same object.

        ``keepalive_timeout``: the seconds of :func:`tune`; 0 leaves that to the system. Raises ``OSError``; the socket
        is closed then.
        """
        # A second object for the descriptor would ask the kernel for what the first one knows, and take twice the time
        # of accept() itself. The classes differ in the names of methods alone, so Python allows this.
        sock.__class__ = cls
        assert isinstance(sock, cls)
        try:
            sock.setblocking(False)
            # A listening socket that is tuned hands its options on, so there is nothing left to do, as a rule.
            if sock.family != socket.AF_UNIX and not _is_tuned(sock, keepalive_timeout):
                tune(sock, keepalive_timeout)
        except OSError:
            sock.close()
            raise
        return sock

    def peek_now(self, most: int) -> bytes:
        """Read as :meth:`read_now` does, but leave the bytes unread."""
        return self.recv(most, socket.MSG_PEEK)

    # int() returns 0: nothing waits inside a plain socket. A method written in Python would cost a call for each read.
    pending = staticmethod(int)

    def judge(self, exc: OSError, doing: Verdict) -> Verdict:
        return doing if isinstance(exc, BlockingIOError) else Verdict.OVER

    def write_own(self) -> None:
        """Do nothing: a plain socket has nothing of its own to write."""

    def end_output(self, *, silently: bool = False) -> None:
        with contextlib.suppress(OSError):  # it was reset, or never connected: there is nothing to end
            self.shutdown(socket.SHUT_WR)

    def version(self) -> None:
        return None


class TlsTransport(ssl.SSLSocket):
    """A connection over TLS, made by :meth:`over`."""

    is_encrypted = True
    wants_write = False
    client_address: str | None = None
    """The client's name, if it is not the address of the connection's other end."""
    _alert = b""
    """The part of the closing alert that the socket has not taken yet."""
    # SSLSocket's recv() and send() do the same a microsecond later.
    read_now = ssl.SSLSocket.read
    native_read = ssl.SSLSocket.read
    native_write = ssl.SSLSocket.write

    @classmethod
    def over(
        cls, plain: PlainTransport, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> TlsTransport:
        """Begin TLS on a connection; ``plain`` is empty afterwards. The caller calls ``do_handshake()``.

        Raises ``OSError``, and ``ValueError`` for a ``server_hostname`` that can't be one.
        """
        context.sslsocket_class = cls  # the class that wrap_socket() makes an object of
        wrapped = context.wrap_socket(
            plain, server_side=server_side, server_hostname=server_hostname, do_handshake_on_connect=False
        )
        assert isinstance(wrapped, cls)
        return wrapped

    def write_now(self, data: Bytes, /) -> int:
        return self.write(data) if len(data) <= RECORD_BYTES else self._write_records(data)

    def _write_records(self, data: Bytes) -> int:
        """Write record by record: OpenSSL takes all of a write or nothing (no partial writes), so a long one would stay
        unsent as a whole until the socket had room for its last record."""
        taken = 0
        with memoryview(data) as view:
            try:
                while taken < len(data):
                    taken += self.write(view[taken : taken + RECORD_BYTES])
            except WANTS:
                if not taken:
                    raise
        return taken

    def judge(self, exc: OSError, doing: Verdict) -> Verdict:
        if isinstance(exc, ssl.SSLWantReadError):
            return _WAIT_READABLE
        if isinstance(exc, ssl.SSLWantWriteError):
            if doing is _WAIT_READABLE:
                self.wants_write = True
            return Verdict.WAIT_WRITABLE
        # Nothing else means "not now", not even BlockingIOError: Python may report a broken connection by an errno that
        # another call has left (:mod:`.tls_errors`).
        forget_errors()
        return Verdict.OVER

    def write_own(self) -> None:
        self.wants_write = False  # if a read wanted to write, the caller repeats that read, which writes
        if self._alert:
            self._send_alert()

    def end_output(self, *, silently: bool = False) -> None:
        if silently:
            self._end_tcp()
            return
        with contextlib.suppress(OSError):  # a broken connection has no end to announce
            while self.pending():
                self.read_now(RECORD_BYTES)  # or close_notify() would break the reading of what is behind it
            self._alert = self._alert or close_notify(self)
        self._send_alert()

    def _send_alert(self) -> None:
        """Send the alert by the plain socket beneath: it is an encrypted record already."""
        try:
            socket.socket.send(self, self._alert)
        except BlockingIOError:
            self.wants_write = True
            return
        except OSError:
            pass  # it was reset
        self._alert = b""
        self._end_tcp()

    def _end_tcp(self) -> None:
        with contextlib.suppress(OSError):  # it was reset, or never connected
            socket.socket.shutdown(self, socket.SHUT_WR)  # SSLSocket.shutdown() would drop the TLS state


def tune(sock: socket.socket | SocketType, keepalive_timeout: float) -> None:
    """Set the options of a TCP connection, or of a listening socket for those that it accepts (Linux hands them on).

    ``keepalive_timeout`` as for :meth:`PlainTransport.adopt`. Raises ``OSError``.
    """
    # With Nagle's algorithm each restart of a stream waits for a delayed acknowledgement: 40 ms a step.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # 0 takes back only what was set here: a service manager may have set SO_KEEPALIVE on the socket that it hands over.
    if keepalive_timeout or sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
        for option in _keepalive(keepalive_timeout):
            sock.setsockopt(*option)


def _is_tuned(sock: socket.socket, keepalive_timeout: float) -> bool:
    """Return whether :func:`tune` has set these options, by the one that it sets last."""
    milliseconds = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    if milliseconds != _milliseconds(keepalive_timeout):
        return False
    return milliseconds > 0 or bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@functools.lru_cache(maxsize=8)
def _keepalive(seconds: float) -> tuple[tuple[int, int, int], ...]:
    """Return the options by which TCP gives up a connection whose other end has answered nothing for so many seconds,
    idle or not (tcp(7)).

    An idle connection is probed after three fifths of the time, and then every tenth: four probes may get lost. Data
    that was sent and is not acknowledged waits no longer than that either (``TCP_USER_TIMEOUT``; by default Linux
    repeats it for 15 minutes). That option ends unanswered probes as well, in the place of ``TCP_KEEPCNT``.
    """
    given_up = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _milliseconds(seconds))
    if not seconds:
        return (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0), given_up
    return (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _whole_seconds(seconds * 0.6)),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _whole_seconds(seconds * 0.1)),
        given_up,
    )


def _whole_seconds(seconds: float) -> int:
    """Return them within what Linux takes between probes, from a second to nine hours."""
    return round(min(max(1.0, seconds), 32_767))


def _milliseconds(seconds: float) -> int:
    return round(min(seconds * 1000, 2**31 - 1))
