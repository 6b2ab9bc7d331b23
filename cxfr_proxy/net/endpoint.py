"""One connection before the pump has it: a non-blocking socket, plain or TLS, read and written by a trio task.

TLS runs directly on the socket (``ssl.SSLSocket``), not through memory buffers: the socket is later handed to the pump,
which drives it without trio, and a second copy of every byte is what would make TLS slow.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import trio

from cxfr_proxy.net.client_hello import server_name
from cxfr_proxy.net.close_notify import close_notify
from cxfr_proxy.net.tls_errors import is_over
from cxfr_proxy.spellings import dns_name

T = TypeVar("T")

RECEIVE_BYTES: Final = 16_384
"""As much as one TLS record holds (RFC 8446 section 5.1)."""
MAX_DISCARDED: Final = 65_536
"""Behind ``<starttls/>`` nothing should come. Some clients send a few bytes there, none so many."""


class Endpoint:
    """Owns ``sock``, which must be non-blocking, until :meth:`give_away`.

    Every method that waits may be cancelled; after a cancelled :meth:`send_all` or :meth:`start_tls` the connection is
    in an unknown state and is good for closing only. ``OSError`` (``ssl.SSLError`` is one) means it is broken.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.owned = True
        """Closing it is this object's task, and not the pump's."""

    @classmethod
    def from_stream(cls, stream: trio.SocketStream, keepalive_timeout: float = 0.0) -> Endpoint:
        """Take the socket over from trio, for raw use."""
        return cls.from_socket(socket.socket(fileno=stream.socket.detach()), keepalive_timeout)

    @classmethod
    def from_socket(cls, sock: socket.socket, keepalive_timeout: float = 0.0) -> Endpoint:
        """``keepalive_timeout``: :func:`keep_alive`'s seconds; 0 leaves that to the system."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Without it each restart of a stream waits for a delayed acknowledgement: 40 ms a step.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if keepalive_timeout:
                keep_alive(sock, keepalive_timeout)
        return cls(sock)

    @property
    def is_tls(self) -> bool:
        return isinstance(self.sock, ssl.SSLSocket)

    async def peek(self) -> bytes:
        """The first byte, left unread; empty at the end of the stream. Plain sockets only."""
        while True:
            try:
                return self.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)

    async def server_name(self) -> bytes | None:
        """What the ClientHello asks for, left unread; ``None`` where it says nothing, or came in several pieces. Plain
        sockets only."""
        while True:
            try:
                return server_name(self.sock.recv(RECEIVE_BYTES, socket.MSG_PEEK))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)

    def has_hung_up(self) -> bool:
        """Whether the peer will send nothing more than what has arrived."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    async def receive_some(self) -> bytes:
        """At most :data:`RECEIVE_BYTES`; empty at the end of the stream. Always a checkpoint."""
        return await _retry(self._receive, self.sock, trio.lowlevel.wait_readable)

    def _receive(self) -> bytes:
        try:
            return self.sock.recv(RECEIVE_BYTES)
        except ssl.SSLZeroReturnError:
            return b""  # the peer has closed TLS, and so have we

    async def send_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            sent = await _retry(partial(self.sock.send, view), self.sock, trio.lowlevel.wait_writable)
            view = view[sent:]

    def discard_received(self) -> bool:
        """Throw away what has arrived and was not read, :data:`MAX_DISCARDED` bytes at most. Plain sockets only.

        False if there may be more. What a client sends behind ``<starttls/>`` may have been written by anybody on the
        way (RFC 6120 section 5.4.3.3).
        """
        left = MAX_DISCARDED
        with contextlib.suppress(BlockingIOError):
            while left > 0:
                received = len(self.sock.recv(min(left, RECEIVE_BYTES)))
                if not received:
                    return True
                left -= received
            return False
        return True

    async def start_tls(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        """Shake hands; :attr:`sock` is a TLS socket afterwards.

        Raises ``ssl.SSLError`` and other ``OSError``, and ``ValueError`` for a ``server_hostname`` that can't be one.
        """
        if server_hostname is not None:
            # Judged here, because SSLSocket judges it when the connection is its own already, and would leave it open.
            server_hostname = dns_name(server_hostname)
        wrapped = context.wrap_socket(
            self.sock, server_side=server_side, server_hostname=server_hostname, do_handshake_on_connect=False
        )
        self.sock = wrapped
        await _retry(wrapped.do_handshake, wrapped, trio.lowlevel.wait_readable)

    def give_away(self) -> socket.socket:
        """The socket, for somebody else to close."""
        self.owned = False
        return self.sock

    def take_back(self) -> None:
        """The other one has no use for it any more."""
        self.owned = True

    def end_output(self) -> None:
        """Half-close it, TLS first; nothing can be sent any more, and what comes in can be read to its end."""
        self._close_tls()
        socket.socket.shutdown(self.sock, socket.SHUT_WR)  # not an SSLSocket's own, which would end the reading as well

    def _close_tls(self) -> None:
        """Where TLS has not failed before. What it has decrypted is thrown away."""
        if isinstance(self.sock, ssl.SSLSocket):
            while self.sock.pending():
                self.sock.recv(RECEIVE_BYTES)
            # A socket that has no room for so little has not been read for long.
            with contextlib.suppress(BlockingIOError):
                socket.socket.send(self.sock, close_notify(self.sock))

    def close(self) -> None:
        if self.owned:
            with contextlib.suppress(OSError):
                self._close_tls()
            self.sock.close()


def keep_alive(sock: socket.socket, seconds: float) -> None:
    """Let TCP give a connection up whose other end has answered nothing for so long, idle or not (tcp(7)).

    An idle one is asked after three fifths of the time, and then every tenth: four questions may get lost. What was
    sent and is not acknowledged waits for no longer (``TCP_USER_TIMEOUT``; by default Linux repeats it for 15 minutes).
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(seconds * 0.6)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(seconds * 0.1)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


async def _retry(
    operation: Callable[[], T], sock: socket.socket, wait: Callable[[socket.socket], Awaitable[None]]
) -> T:
    """Try until it does not block. ``wait`` is for a plain socket; TLS says itself what it waits for.

    A checkpoint even if it never blocks: a peer that is faster than we are would keep us from everybody else, and our
    own deadlines from us.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    waited = False
    while True:
        try:
            result = operation()
            break
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        except OSError as exc:
            if is_over(exc, tls=isinstance(sock, ssl.SSLSocket)):
                raise
            await wait(sock)
        waited = True
    if not waited:
        await trio.lowlevel.cancel_shielded_checkpoint()
    return result
