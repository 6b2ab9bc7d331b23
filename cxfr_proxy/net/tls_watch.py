"""End a TLS read that goes on and on.

One call of OpenSSL's ``SSL_read()`` reads record after record until one holds data, and TLS 1.3 has records that hold
none: a peer may change its keys (``KeyUpdate``, RFC 8446 section 4.6.3) as often as it likes. Python asks OpenSSL not
to come back in between (``SSL_MODE_AUTO_RETRY``), and has no way to ask for the opposite. So a peer that sends faster
than keys are made keeps the loop's thread inside one call, where no budget and no deadline is checked; a worker was
held so until its supervisor killed it. A small receive buffer does not help, because the kernel goes on filling it. TLS
over memory would, at the price of another copy, and of buffers that stay as large as they once were.

So a thread looks every :data:`LOOK_SECONDS` at which call the loop's thread is in. If that is a TLS socket's, the same
as the last time, and has computed for :data:`CPU_SECONDS` meanwhile (a record of an honest peer takes a thousandth of
it), its connection is cut. The call ends then, and everything that depends on it in the usual way. Nobody is cut
because the machine is busy, or the process stood still: that computes nothing.

An attacker who connects again each time costs some 40 ms of computing each time (measured: 29 to 41).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

from cxfr_proxy.events import emit

LOOK_SECONDS: Final = 0.05
"""Seconds between two looks. A call is ended after one or two, so others wait for a tenth of a second at most. An idle
process hardly notices the looks."""
CPU_SECONDS: Final = 0.02
"""Seconds of computing in one call after which its connection is cut: a thousand times what an honest record takes."""

_CALLS: Final = frozenset(
    method.__code__ for method in (ssl.SSLSocket.read, ssl.SSLSocket.write, ssl.SSLSocket.do_handshake)
)
"""The functions that lead into OpenSSL."""

_libc: Final = ctypes.CDLL(None)
_NOWHERE: Final = struct.pack("H14x", socket.AF_UNSPEC)

_log = logging.getLogger(__name__)


class TlsWatch:
    """Watches the thread that makes it. ``ended`` is called, in the watching thread, with the address of each peer
    whose connection was shut down."""

    def __init__(self, ended: Callable[[str], object], *, cpu_seconds: float = CPU_SECONDS) -> None:
        self._ended = ended
        self._cpu_seconds = cpu_seconds
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._call: FrameType | None = None
        self._began = 0.0

    def look(self) -> None:
        """Look once. Two looks in one call can end it."""
        call = sys._current_frames().get(self._thread)
        if call is None or call.f_code not in _CALLS:
            self._call = None
            return
        now = time.clock_gettime(self._clock)
        if call is not self._call:
            self._call, self._began = call, now
        elif now - self._began >= self._cpu_seconds:
            self._end(call)
            self._began = math.inf  # once is enough: what is left of the call takes care of itself

    def _end(self, call: FrameType) -> None:
        # A duplicate: the loop's thread may close the connection at any time, and another may get its number.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(call.f_locals["self"].fileno())) as connection:
            if sys._current_frames().get(self._thread) is call:  # else the number may be another's by now
                peer = getattr(call.f_locals["self"], "client_address", None) or _address(connection)
                _disconnect(connection)
                self._ended(peer)


def _address(connection: socket.socket) -> str:
    name = connection.getpeername()
    return str(name[0]) if isinstance(name, tuple) else "local"


def _disconnect(connection: socket.socket) -> None:
    """Cut the connection, and throw away what has arrived: a receive buffer may hold a second's worth of key
    changes."""
    # POSIX disconnects a socket by connecting it to AF_UNSPEC, which Python's sockets cannot say. shutdown() would
    # leave the buffer, and SSL_read() would go on with it.
    if _libc.connect(connection.fileno(), _NOWHERE, len(_NOWHERE)) != 0:
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def watching_tls() -> Iterator[None]:
    """Watch the thread of the running trio loop within the block."""
    token, over = trio.lowlevel.current_trio_token(), threading.Event()
    watch = TlsWatch(lambda peer: token.run_sync_soon(_report, peer))

    def look_on() -> None:
        while not over.wait(LOOK_SECONDS):
            watch.look()

    thread = threading.Thread(target=look_on, name="tls-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _report(peer: str) -> None:
    emit(_log, "tls-flood", level=logging.WARNING, peer=peer)
