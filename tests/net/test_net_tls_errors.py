"""A TLS connection that breaks is the end of that one alone; what OpenSSL keeps of it harms no other."""

from __future__ import annotations

import _ssl
import ctypes
import errno
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from engines import using
from relay_tools import client_context, server_context, shake_hands, tcp_pair, transport_pair, write_pem
from relay_twins import STANZAS, Step, Story, Told, scanner

from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.tls_errors import forget_errors
from cxfr_proxy.net.transport import Bytes, PlainTransport, TlsTransport, Verdict
from cxfr_proxy.relay import engine
from cxfr_proxy.session.commands import Side

CLIENT, NODE = Side
MESSAGE = STANZAS[0]
RESET = b"\x01\0\0\0\0\0\0\0"  # struct linger: on, no time
RECORD_BEGINS = b"\x17\x03\x03\x00\x40"
"""The head of a record of 64 bytes: who reads it has to wait."""
ERR_LIB_SYS = 2

openssl = ctypes.CDLL(_ssl.__file__)  # the very library that ``ssl`` calls
openssl.ERR_peek_error.restype = ctypes.c_ulong


def leave_error(number: int = errno.EPIPE) -> None:
    """An error that Python 3.13 with OpenSSL 3.5 does not take out of the queue."""
    openssl.ERR_new()
    openssl.ERR_set_error(ERR_LIB_SYS, number, None)
    assert openssl.ERR_peek_error()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    forget_errors()
    yield
    forget_errors()


class Breaking(TlsTransport):
    """Breaks when it is told to, as a TLS socket of Python 3.13 does."""

    breaks: OSError | None = None

    def _break(self) -> None:
        if self.breaks is not None:
            leave_error()
            raise self.breaks

    def read(self, len: int = 1024, buffer: bytearray | memoryview | None = None) -> bytes:  # type: ignore[override]
        self._break()
        return super().read(len, buffer)

    read_now = native_read = read  # type: ignore[assignment]

    def write(self, data: Bytes) -> int:  # type: ignore[override]
        self._break()
        return super().write(data)

    native_write = write  # type: ignore[assignment]


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    certificate = write_pem(tmp_path, "example.org")
    return client_context(certificate), server_context(certificate)


@pytest.fixture(autouse=True)
def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transport over TLS may break."""
    monkeypatch.setattr(TlsTransport, "over", Breaking.over)


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def test_nothing_is_left() -> None:
    leave_error()
    forget_errors()
    assert openssl.ERR_peek_error() == 0


@pytest.mark.parametrize("doing", [Verdict.WAIT_READABLE, Verdict.WAIT_WRITABLE])
@pytest.mark.parametrize(
    ("exc", "plain", "tls"),
    [
        (BlockingIOError(), None, Verdict.OVER),
        (ConnectionResetError(), Verdict.OVER, Verdict.OVER),
        (BrokenPipeError(), Verdict.OVER, Verdict.OVER),
        (TimeoutError(), Verdict.OVER, Verdict.OVER),
        (ssl.SSLEOFError(), Verdict.OVER, Verdict.OVER),
        (ssl.SSLZeroReturnError(), Verdict.OVER, Verdict.OVER),
        (ssl.SSLWantReadError(), Verdict.OVER, Verdict.WAIT_READABLE),
        (ssl.SSLWantWriteError(), Verdict.OVER, Verdict.WAIT_WRITABLE),
    ],
)
def test_what_an_error_means(
    exc: OSError, doing: Verdict, plain: Verdict | None, tls: Verdict, contexts: Contexts
) -> None:
    """``None``: what such a call usually waits for."""
    for sock in transport_pair():
        with sock:
            if isinstance(sock, PlainTransport):
                assert sock.judge(exc, doing) is (plain or doing)
                with TlsTransport.over(sock, contexts[1], server_side=True) as encrypted:
                    leave_error()
                    assert encrypted.judge(exc, doing) is tls
                    if tls is Verdict.OVER:
                        assert openssl.ERR_peek_error() == 0
                    wants_write = tls is Verdict.WAIT_WRITABLE and doing is Verdict.WAIT_READABLE
                    assert encrypted.wants_write is wants_write, "only a read waits for what TLS itself has to write"


# --- in the pump


@pytest.fixture(params=engine.ENGINE.names)
def which(request: pytest.FixtureRequest) -> Iterator[str]:
    with using(engine.ENGINE, request.param):
        yield request.param


@pytest.mark.parametrize("when", ["read", "written"])
@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError, BlockingIOError])
@pytest.mark.usefixtures("which")
async def test_the_end_of_a_session_is_no_other_s(when: str, error: type[OSError], contexts: Contexts) -> None:
    innocent, other = (Told(Story((), tls=True), contexts) for _ in range(2))
    leg = other.live.legs[CLIENT]
    assert isinstance(leg.transport, Breaking)
    leg.transport.breaks = error()
    other.tell(Step("write", CLIENT if when == "read" else NODE, MESSAGE))
    assert other.seen.told == ([("eof", CLIENT)] if when == "read" else [])
    _tell_record_begins(innocent)
    assert innocent.seen.told == []
    innocent.tell(Step("write", NODE, MESSAGE))
    assert innocent.finish().received[CLIENT] == MESSAGE
    other.finish()


@pytest.mark.usefixtures("which")
async def test_the_end_of_a_session_by_a_reset_is_no_other_s(contexts: Contexts) -> None:
    """By what the kernel and OpenSSL really say."""
    innocent, other = (Told(Story((), tls=True), contexts, client=tcp_pair()) for _ in range(2))
    far = other.far[CLIENT]
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    socket.socket.close(far)
    for data in (MESSAGE, MESSAGE):
        other.live.legs[CLIENT].send(data, trio.current_time())
    _tell_record_begins(innocent)
    assert innocent.seen.told == []
    assert openssl.ERR_peek_error() == 0
    innocent.finish()
    other.finish()


def _tell_record_begins(told: Told) -> None:
    socket.socket.send(told.far[CLIENT], RECORD_BEGINS)
    told.pump._turn()


async def test_what_a_tls_leg_says_to_the_switchboard_is_forgotten() -> None:
    if engine.ENGINE.chosen != "native":
        pytest.skip("the relay loop was not compiled here, or is not to run")
    from cxfr_proxy.relay._turn import Switchboard

    forgotten: list[None] = []
    ended: list[int] = []
    here, there = socket.socketpair()

    def breaks(*_: object) -> int:
        raise BlockingIOError

    def unused(*_: object) -> None:
        raise AssertionError

    with here, there, select.epoll() as epoll:
        board = Switchboard(epoll.fileno(), (ssl.SSLWantReadError,), lambda: forgotten.append(None))
        epoll.register(here, select.EPOLLIN)
        there.send(MESSAGE)
        board.connect(here.fileno(), here.fileno(), 0, scanner(), 10, breaks, None, None, None)
        epoll.modify(here, select.EPOLLIN | select.EPOLLONESHOT)
        board.turn(0.0, 1.0, unused, ended.append, unused, unused)
        assert (len(forgotten), ended) == (1, [here.fileno()])


# --- before the pump


async def _tls_pair(contexts: Contexts) -> tuple[ssl.SSLSocket, Endpoint]:
    there, here = transport_pair()
    client = contexts[0].wrap_socket(there, server_hostname="example.org", do_handshake_on_connect=False)
    server = TlsTransport.over(here, contexts[1], server_side=True)
    await shake_hands(client, server)
    return client, Endpoint(server)


@pytest.mark.parametrize("what", ["receive_some", "send_all"])
@pytest.mark.parametrize("error", [BrokenPipeError, BlockingIOError])
async def test_the_end_of_a_connection_is_no_other_s(what: str, error: type[OSError], contexts: Contexts) -> None:
    client, innocent = await _tls_pair(contexts)
    far, other = await _tls_pair(contexts)
    assert isinstance(other.transport, Breaking)
    other.transport.breaks = error()
    with pytest.raises(error):
        await (other.receive_some() if what == "receive_some" else other.send_all(b"x"))
    socket.socket.send(client, RECORD_BEGINS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(innocent.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks  # it waits for the rest of the record
        nursery.cancel_scope.cancel()
    assert openssl.ERR_peek_error() == 0
    for each in (client, innocent, far, other):
        each.close()
