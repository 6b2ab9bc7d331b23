"""A WebSocket connection as a transport: over sockets, plain and TLS, and over one that takes what a test lets it."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from relay_tools import client_context, server_context, tcp_pair, write_pem
from relay_twins import secured
from websocket_client import CLOSE, OPEN, PING, Browser, closing, masked, text

from cxfr_proxy.net.transport import Bytes, PlainTransport, Transport, TransportFault, Verdict
from cxfr_proxy.relay.websocket_transport import WebSocketTransport

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' id='1'>"
)
END = b"</stream:stream>"
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError)
IQ = b"<iq xmlns='jabber:client'/>"


def wrapped(inner: Transport, received: bytes = b"") -> WebSocketTransport:
    return WebSocketTransport(inner, received=received, max_message_bytes=262_144, max_depth=64)


@dataclass
class Ends:
    """The far end is a browser's."""

    far: socket.socket
    near: WebSocketTransport
    browser: Browser = field(default_factory=Browser)

    def read(self) -> bytes:
        """Return the next bytes; empty at the end."""
        while True:
            try:
                return self.near.read_now(65_536)
            except TransportFault:
                raise
            except OSError as exc:
                verdict = self.near.judge(exc, Verdict.WAIT_READABLE)
            assert verdict is Verdict.WAIT_READABLE
            assert self.near.pending() or select.select([self.near], [], [], 10)[0], "nothing came"

    def hear(self, count: int) -> list[str]:
        """So many messages."""
        while len(self.browser.heard.messages) < count:
            self.browser.receive(self.far.recv(65_536))
        return self.browser.heard.messages

    def hear_close(self) -> int | None:
        while self.browser.heard.close_code is None:
            data = self.far.recv(65_536)
            assert data, "it has ended without a close frame"
            self.browser.receive(data)
        return self.browser.heard.close_code


@pytest.fixture(params=["plain", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    pair = tcp_pair()
    far: socket.socket
    inner: Transport
    if request.param == "plain":
        far, inner = pair[0], PlainTransport.adopt(pair[1])
    else:
        certificate = write_pem(tmp_path, "example.org")
        context = client_context(certificate)
        context.maximum_version = request.param
        far, inner = secured(pair, context, server_context(certificate))
    far.settimeout(10)
    near = wrapped(inner)
    with far:
        yield Ends(far, near)
    near.close()


def test_a_conversation(ends: Ends) -> None:
    ends.far.sendall(text(OPEN) + text(IQ))
    assert ends.read().endswith(b">" + IQ)
    assert ends.near.write_now(HEADER + b"<stream:features/>" + IQ) == len(HEADER) + 18 + len(IQ)
    assert ends.hear(3)[2] == IQ.decode()
    ends.far.sendall(text(CLOSE) + closing())
    assert ends.read() == END
    assert ends.read() == b""
    assert ends.near.close_code == 1000
    assert ends.near.is_encrypted is (ends.near.version() is not None)
    assert ends.near.getsockname() == ends.far.getpeername()


def test_what_came_with_the_handshake(ends: Ends) -> None:
    near = wrapped(ends.near._inner, received=text(OPEN)[:-3])
    assert near.pending() == 1
    ends.far.sendall(text(OPEN)[-3:])
    assert Ends(ends.far, near).read().startswith(b"<?xml")
    assert near.pending() == 0


def test_a_read_takes_no_more_than_it_may(ends: Ends) -> None:
    ends.far.sendall(text(OPEN))
    assert ends.read()
    ends.far.sendall(text(b"<a>" + b"x" * 1000 + b"</a>"))
    select.select([ends.near], [], [], 10)
    data, near = b"", ends.near
    while len(data) < 1007:
        try:
            piece = near.read_now(100)
        except OSError as exc:
            near.judge(exc, Verdict.WAIT_READABLE)
            continue
        assert 0 < len(piece) <= 100
        data += piece
    assert data == b"<a>" + b"x" * 1000 + b"</a>"


def test_frames_without_text_are_no_end(ends: Ends) -> None:
    ends.far.sendall(text(OPEN) + masked(PING, b"x") * 3)
    assert ends.read().startswith(b"<?xml")
    ends.far.sendall(masked(PING, b"y") + text(IQ)[:5])
    while len(ends.browser.heard.pongs) < 4:
        with pytest.raises(NOT_NOW) as caught:
            ends.near.read_now(4096)
        assert ends.near.judge(caught.value, Verdict.WAIT_READABLE) is Verdict.WAIT_READABLE
        ends.far.settimeout(0.01)
        with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
            ends.browser.receive(ends.far.recv(4096))
    assert ends.browser.heard.pongs == [b"x"] * 3 + [b"y"]


def test_a_fault_is_raised_once_behind_what_came_before(ends: Ends) -> None:
    ends.far.sendall(text(OPEN) + text(IQ) + text(b"no element") + text(IQ))
    data = ends.read()
    while not data.endswith(IQ):
        data += ends.read()
    assert ends.near.pending()
    with pytest.raises(TransportFault) as caught:
        ends.read()
    assert caught.value.condition == "bad-format"
    assert ends.near.judge(caught.value, Verdict.WAIT_READABLE) is Verdict.OVER
    assert ends.near.pending() == 0
    ends.near.write_now(HEADER + b"<stream:error/>" + END)
    ends.near.end_output()
    assert len(ends.hear(3)) == 3
    assert ends.hear_close() == 1000
    ends.far.sendall(closing())
    assert ends.read() == b""


def test_a_broken_frame_closes_by_itself(ends: Ends) -> None:
    ends.far.sendall(text(OPEN) + masked(3))
    ends.read()
    with pytest.raises(TransportFault) as caught:
        ends.read()
    assert caught.value.condition == "bad-format"
    assert ends.hear_close() == 1002
    stream = HEADER + b"<stream:error/>" + END
    assert ends.near.write_now(stream) == len(stream), "it is dropped"
    ends.near.end_output()
    assert ends.far.recv(100) == b""


def test_the_client_closes(ends: Ends) -> None:
    ends.far.sendall(text(OPEN) + closing(1001, b"going"))
    assert ends.read()
    assert ends.read() == b""
    assert (ends.near.close_code, ends.near.close_reason) == (1001, "going")
    assert ends.hear_close() == 1001


def test_an_end_without_a_close_frame(ends: Ends) -> None:
    ends.far.sendall(text(OPEN) + text(IQ)[:9])
    assert ends.read()
    socket.socket.shutdown(ends.far, socket.SHUT_WR)
    assert ends.read() == b"", "TLS that is cut reads so as well"
    assert ends.near.close_code is None


def test_end_output_silently(ends: Ends) -> None:
    ends.near.write_now(HEADER)
    ends.near.end_output(silently=True)
    ends.hear(1)
    try:
        rest = ends.far.recv(100)
    except ssl.SSLEOFError:
        rest = b""
    assert rest == b""
    assert ends.browser.heard.close_code is None


def test_see_other_uri(ends: Ends) -> None:
    ends.near.see_other_uri = "wss://b.example.org/ws"
    assert ends.near.see_other_uri == "wss://b.example.org/ws"
    ends.near.write_now(HEADER + END)
    assert 'see-other-uri="wss://b.example.org/ws" />' in ends.hear(2)[1]


def test_pings(ends: Ends) -> None:
    ends.near.ping()
    assert ends.near.awaits_pong
    while not ends.browser.heard.pings:
        ends.browser.receive(ends.far.recv(100))
    ends.far.sendall(masked(0xA, b""))
    select.select([ends.near], [], [], 10)
    while ends.near.awaits_pong:
        with pytest.raises(NOT_NOW) as caught:
            ends.near.read_now(100)
        ends.near.judge(caught.value, Verdict.WAIT_READABLE)


# --- a socket that takes what it is let


class Narrow:
    """A transport beneath whose room is ``room`` bytes. ``incoming`` comes in."""

    is_encrypted = False
    native_read = None
    native_write = None

    def __init__(self, room: int) -> None:
        self.room = room
        self.out = bytearray()
        self.incoming = b""
        self.wants_write = False
        self.ended: list[bool] = []
        self.broken = False

    def read_now(self, most: int, /) -> bytes:
        if not self.incoming:
            raise BlockingIOError
        data, self.incoming = self.incoming[:most], self.incoming[most:]
        return data

    def write_now(self, data: Bytes, /) -> int:
        if self.broken:
            raise BrokenPipeError
        taken = min(self.room, len(data))
        if not taken:
            raise BlockingIOError
        self.out += bytes(data[:taken])
        self.room -= taken
        return taken

    def pending(self) -> int:
        return 0

    def judge(self, exc: OSError, doing: Verdict) -> Verdict:
        return doing if isinstance(exc, BlockingIOError) else Verdict.OVER

    def write_own(self) -> None:
        raise AssertionError("it has nothing of its own")

    def end_output(self, *, silently: bool = False) -> None:
        self.ended.append(silently)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass

    def version(self) -> None:
        return None

    def getsockname(self) -> object:
        return ""


def owes(near: WebSocketTransport) -> bool:
    return near.wants_write


def narrow(room: int) -> tuple[Narrow, WebSocketTransport]:
    inner = Narrow(room)
    inner.incoming = text(OPEN)
    near = wrapped(inner)
    assert near.read_now(4096)
    return inner, near


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
def test_nothing_is_lost_or_doubled_where_the_socket_takes_little(steps: int) -> None:
    """As the pump does it: what was not taken comes again, with more behind it."""
    inner, near = narrow(0)
    whole = HEADER + b"".join(b"<message id='%d'>stream:</message>" % index for index in range(40)) + END
    said, unsent, verdicts = whole, bytearray(), set[object]()
    while said or unsent:
        inner.room += steps
        unsent += said[:17]
        said = said[17:]
        try:
            sent = near.write_now(bytes(unsent))
        except OSError as exc:
            verdicts.add(near.judge(exc, Verdict.WAIT_WRITABLE))
            verdicts.add(near.wants_write)  # no: the caller waits already
            continue
        assert 0 <= sent <= len(unsent)
        del unsent[:sent]
        assert bool(unsent) >= bool(near._rest), "what waits inside is owed"
    browser = Browser()
    browser.receive(bytes(inner.out))
    reference = Browser()
    calm, far = narrow(1 << 20)
    far.write_now(whole)
    reference.receive(bytes(calm.out))
    plain = [
        message.replace(' xmlns:stream="http://etherx.jabber.org/streams"', "") for message in browser.heard.messages
    ]
    assert plain == [
        message.replace(' xmlns:stream="http://etherx.jabber.org/streams"', "") for message in reference.heard.messages
    ]
    assert near._owed == 0
    assert verdicts <= {Verdict.WAIT_WRITABLE, False}


def test_a_pong_waits_behind_a_frame_that_has_begun() -> None:
    inner, near = narrow(10)
    sent = near.write_now(HEADER)
    assert sent < len(HEADER)
    inner.incoming = masked(PING, b"x") * 50
    with pytest.raises(BlockingIOError):
        near.read_now(4096)
    inner.room = 1000
    assert near.write_now(HEADER[sent:]) == len(HEADER) - sent
    browser = Browser()
    browser.receive(bytes(inner.out))
    assert len(browser.heard.messages) == 1
    assert browser.heard.pongs == [b"x"] * 16


def test_a_pong_that_finds_no_room_is_to_be_waited_for() -> None:
    inner, near = narrow(0)
    inner.incoming = masked(PING, b"x") + text(IQ)
    assert near.read_now(4096) == IQ
    assert owes(near)
    assert near.pending(), "so that the caller comes again and finds it out"
    with pytest.raises(BlockingIOError) as caught:
        near.read_now(4096)
    assert near.judge(caught.value, Verdict.WAIT_READABLE) is Verdict.WAIT_READABLE
    inner.room = 2
    near.write_own()
    assert owes(near)
    inner.room = 100
    near.write_own()
    assert not owes(near)
    browser = Browser()
    assert browser.receive(bytes(inner.out)).pongs == [b"x"]


def test_the_end_waits_for_its_close_frame() -> None:
    inner, near = narrow(1)
    near.end_output()
    assert owes(near)
    assert not inner.ended
    inner.room = 3
    near.write_own()
    assert not owes(near)
    assert inner.ended == [False]
    assert Browser().receive(bytes(inner.out)).close_code == 1001
    near.write_own()
    assert inner.ended == [False]


def test_a_broken_connection() -> None:
    inner, near = narrow(0)
    inner.broken = True
    with pytest.raises(BrokenPipeError):
        near.write_now(HEADER)
    near.ping()
    near.end_output()
    assert not owes(near)


# --- what the switchboard hands over


def test_what_was_read_and_is_not_plain_is_what_the_next_read_gives() -> None:
    inner, near = narrow(100)
    near.take_on(IQ, text(b"<a/>") + text(b"<a>") + text(IQ), None, 0, 0)
    assert near.pending() == len(IQ) + 4
    assert near.read_now(100) == IQ + b"<a/>"
    with pytest.raises(TransportFault) as caught:
        near.read_now(100)
    assert caught.value.condition == "bad-format"
    near.take_on(b"", closing(), None, 0, 0)
    assert near.read_now(100) == b""
    assert Browser().receive(bytes(inner.out)).close_code == 1000


def test_a_message_that_was_read_and_is_no_element_is_a_fault() -> None:
    _, near = narrow(100)
    near.take_on(IQ, b"", b"<a/><b/>", 4, 1)
    assert near.read_now(100) == IQ
    with pytest.raises(TransportFault, match="one element"):
        near.read_now(100)


def test_a_ping_is_answered_when_it_was_handed_over() -> None:
    inner, near = narrow(100)
    near.ping()
    near.take_on(b"", masked(PING, b"x"), None, 0, 0)
    assert not near.awaits_pong
    assert Browser().receive(bytes(inner.out)).pongs == [b"x"]
    assert near.pending() == 0


def test_what_is_left_to_send_is_answered_for_as_by_a_write() -> None:
    inner, near = narrow(1000)
    near.write_now(HEADER)
    before = len(inner.out)
    assert near.put_on(b"\x81\x04<a/>", b"<a/>" + HEADER[:3], 4, 0) == 7, "the beginning of a header waits"
    assert near.put_on(b"", HEADER[3:] + IQ, 0, 0) == len(HEADER) - 3 + len(IQ)
    browser = Browser()
    browser.receive(bytes(inner.out[before:]))
    assert browser.heard.messages[0] == "<a/>"
    assert browser.heard.messages[2] == IQ.decode()
    inner.room = 10
    assert near.put_on(b"\x81\x1b" + IQ, IQ, len(IQ), 0) == len(IQ) - 19
    assert near.put_on(b"", IQ[-19:], 0, 0) is None
    inner.room = 100
    assert near.put_on(b"", IQ[-19:], 0, 0) == 19
    inner.broken = True
    assert near.put_on(b"", IQ, 0, 0) == 0
