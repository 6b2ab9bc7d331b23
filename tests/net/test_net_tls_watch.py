"""Connections that are found to hold the loop's thread inside of a TLS call, and others. The calls are fakes."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import trio
from relay_tools import PATIENCE_SECONDS, tcp_pair, until

from cxfr_proxy.net import tls_watch
from cxfr_proxy.net.tls_watch import TlsWatch, watching_tls

computing = partial(hashlib.pbkdf2_hmac, "sha256", b"", b"")
"""So many rounds, in C and without the interpreter's lock, as OpenSSL."""


def tls_socket(sock: socket.socket, read: Callable[[int], object]) -> ssl.SSLSocket:
    it = ssl.SSLSocket.__new__(ssl.SSLSocket)
    socket.socket.__init__(it, fileno=sock.detach())
    it._sslobj = SimpleNamespace(read=read)  # type: ignore[attr-defined]
    return it


class Loop:
    """A thread that reads, again and again, with a watch of its own."""

    def __init__(self, read: Callable[[int], object], size: int, cpu_seconds: float) -> None:
        here, self.there = tcp_pair()
        self.sock = tls_socket(here, read)
        self.ended: list[str] = []
        self.reads = 0
        self.over = False
        self._size = size
        self._cpu_seconds = cpu_seconds
        self._made = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self._made.wait()

    def _run(self) -> None:
        self.watch = TlsWatch(self.ended.append, cpu_seconds=self._cpu_seconds)
        self._made.set()
        while not self.over:
            self.sock.read(self._size)
            self.reads += 1

    def wait_for_another(self) -> None:
        """The read that is under way is over, and so is the next."""
        before = self.reads
        wait_for(lambda: self.reads > before + 1)


@contextmanager
def loop(read: Callable[[int], object], size: int, cpu_seconds: float) -> Iterator[Loop]:
    it = Loop(read, size, cpu_seconds)
    try:
        yield it
    finally:
        it.over = True
        it.thread.join()
        it.sock.close()
        it.there.close()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0)


def test_a_call_that_computes_for_long_is_ended() -> None:
    with loop(computing, 2_000_000, 0.0) as it:

        def look() -> bool:
            it.watch.look()
            return bool(it.ended)

        wait_for(look)
        it.over = True
        assert it.ended == ["127.0.0.1"]
        it.watch.look()
        assert it.ended == ["127.0.0.1"], "once is enough"
        with pytest.raises(ConnectionResetError):
            it.there.recv(1)
        with pytest.raises(OSError, match="not connected"):
            it.sock.getpeername()
        assert it.sock.fileno() >= 0, "to close it is its owner's part"


def test_a_call_that_waits_computes_nothing() -> None:
    waiting, other = socket.socketpair()
    with waiting, other, loop(waiting.recv, 1, 0.001) as it:
        for _ in range(1000):
            it.watch.look()
        it.over = True
        other.send(b"x")
        assert not it.ended


def test_one_call_after_the_other_is_no_long_one() -> None:
    with loop(computing, 1, 0.0) as it:
        for _ in range(200):
            it.watch.look()
            it.wait_for_another()
        assert not it.ended


def test_what_is_no_tls_is_left_alone() -> None:
    with loop(computing, 1, 0.0) as it:
        vars(it.sock)["read"] = computing
        it.wait_for_another()
        for _ in range(100):
            it.watch.look()
        assert not it.ended


async def test_it_looks_for_as_long_as_it_is_asked_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: list[str] = []

    def look(self: TlsWatch) -> None:
        looks.append(threading.current_thread().name)
        self._ended("10.0.0.1")

    monkeypatch.setattr(TlsWatch, "look", look)
    monkeypatch.setattr(tls_watch, "LOOK_SECONDS", 0.001)
    with watching_tls():
        await until(lambda: len(looks) > 3 and caplog.records)
        assert set(looks) == {"tls-watch"}
    seen = len(looks)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    assert len(looks) == seen
    assert {record.msg for record in caplog.records} == {"tls-flood"}
    assert not [thread for thread in threading.enumerate() if thread.name == "tls-watch"]
