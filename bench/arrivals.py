"""Clients that come all the time, so many a second: is each of them accepted, and answered?

Each connects, sends a stream header, waits for the first bytes of the answer, and leaves.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

from bench.programs import HOST

_HEADER: Final = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    b"to='localhost' version='1.0'>"
)
_PATIENCE_SECONDS: Final = 20.0
_SOURCES: Final = 32
"""Loopback addresses, 127.0.9.1 and so on: each has a range of ports of its own."""


@dataclass(slots=True)
class Arrived:
    """``reset``: accepted, and ended without an answer. ``slowest`` in seconds, from connecting to the answer."""

    came: int = 0
    answered: int = 0
    refused: int = 0
    reset: int = 0
    unanswered: int = 0
    slowest: float = 0.0


class Arrivals:
    """``rate`` of them a second at ``port``, within the block."""

    def __init__(self, port: int, rate: float) -> None:
        self.counts = Arrived()
        self._port = port
        self._rate = rate
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._poll = select.epoll()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Arrivals:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        start, begun = time.monotonic(), 0
        while not self._stop.is_set():
            while begun < (time.monotonic() - start) * self._rate:
                self._come(begun)
                begun += 1
            self._look(0.001)
        limit = time.monotonic() + _PATIENCE_SECONDS
        while self._open and time.monotonic() < limit:
            self._look(0.1)
        self.counts.unanswered += len(self._open)
        for sock, _ in self._open.values():
            sock.close()
        self._poll.close()

    def _come(self, number: int) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.bind((f"127.0.9.{1 + number % _SOURCES}", 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect((HOST, self._port))
        self.counts.came += 1
        self._open[sock.fileno()] = sock, time.monotonic()
        self._poll.register(sock, select.EPOLLOUT)

    def _look(self, seconds: float) -> None:
        for descriptor, _ in self._poll.poll(seconds):
            sock, came = self._open[descriptor]
            try:
                if self._go_on(sock):
                    self.counts.answered += 1
                    self.counts.slowest = max(self.counts.slowest, time.monotonic() - came)
                else:
                    continue
            except ConnectionRefusedError:
                self.counts.refused += 1
            except (ConnectionError, EOFError):
                self.counts.reset += 1
            del self._open[descriptor]
            self._poll.unregister(descriptor)
            sock.close()

    def _go_on(self, sock: socket.socket) -> bool:
        """Return whether it is answered. Raises for what went wrong."""
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connecting")
        try:
            data = sock.recv(65_536)
        except BlockingIOError:
            sock.send(_HEADER)  # it is connected now
            self._poll.modify(sock, select.EPOLLIN)
            return False
        if not data:
            raise EOFError
        return True
