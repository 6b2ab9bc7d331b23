"""The two kinds of transport, by the same tests: whoever calls one need not know which it is."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from relay_tools import client_context, no_leak, server_context, server_transport, tcp_pair, write_pem

from cxfr_proxy.net import transport as transport_module
from cxfr_proxy.net.transport import RECORD_BYTES, PlainTransport, TlsTransport, Transport, Verdict

DATA = bytes(range(256)) * 16


@dataclass
class Ends:
    """``far`` is the peer's socket, which tells a missing close_notify."""

    far: socket.socket
    near: Transport

    def read(self, count: int) -> bytes:
        """So many bytes, once they have arrived."""
        data = b""
        while len(data) < count:
            try:
                more = self.near.read_now(count - len(data))
            except OSError as exc:
                if self.near.judge(exc, Verdict.WAIT_READABLE) is not Verdict.WAIT_READABLE:
                    raise
                assert select.select([self.near], [], [], 10)[0], "nothing came"
                continue
            assert more, "it has ended"
            data += more
        return data

    def far_reads(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            assert select.select([self.far], [], [], 10)[0] or isinstance(self.far, ssl.SSLSocket)
            more = self.far.recv(count - len(data))
            assert more, "it has ended"
            data += more
        return data


@pytest.fixture(params=["plain", ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    far, near = tcp_pair()
    if request.param == "plain":
        far.setblocking(True)
        transport = PlainTransport.adopt(near)
        with far:
            yield Ends(far, transport)
        transport.close()
        return
    certificate = write_pem(tmp_path, "example.org")
    context = client_context(certificate)
    context.maximum_version = request.param
    client = context.wrap_socket(
        far, server_hostname="example.org", do_handshake_on_connect=False, suppress_ragged_eofs=False
    )
    server = server_transport(near, server_context(certificate))
    shaking: list[ssl.SSLSocket] = [client, server]
    while shaking:
        for sock in list(shaking):
            try:
                sock.do_handshake()
                shaking.remove(sock)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
    client.setblocking(True)
    with client:
        yield Ends(client, server)
    server.close()


def write_on(transport: Transport, data: bytes = DATA) -> None:
    """Until it raises."""
    while True:
        assert transport.write_now(data), "nothing moved, and nothing was raised"


def test_bytes_go_both_ways(ends: Ends) -> None:
    assert ends.near.write_now(DATA) == len(DATA)
    assert ends.far_reads(len(DATA)) == DATA
    ends.far.sendall(DATA)
    assert ends.read(len(DATA)) == DATA


@pytest.mark.parametrize("size", [4096, 4 * RECORD_BYTES], ids=["a record", "several"])
def test_what_has_to_wait_says_for_what(ends: Ends, size: int) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - which one is the transport's own business
        ends.near.read_now(100)
    assert ends.near.judge(caught.value, Verdict.WAIT_READABLE) is Verdict.WAIT_READABLE
    with pytest.raises(OSError) as caught:  # noqa: PT011
        write_on(ends.near, b"x" * size)
    assert ends.near.judge(caught.value, Verdict.WAIT_WRITABLE) is Verdict.WAIT_WRITABLE
    assert not ends.near.wants_write, "a write that waits has nothing of its own to write"


def test_a_write_takes_what_there_is_room_for(ends: Ends) -> None:
    """Of more than a record as well: what was taken comes, and no byte twice."""
    much = bytes(range(251)) * 40_000
    taken = ends.near.write_now(much)
    assert RECORD_BYTES < taken < len(much)
    assert ends.far_reads(taken) == much[:taken]


def test_a_part_that_was_not_read_is_pending_or_in_the_socket(ends: Ends) -> None:
    ends.far.sendall(DATA)
    assert ends.read(1) == DATA[:1]
    assert ends.near.pending() in (0, len(DATA) - 1)
    assert ends.read(len(DATA) - 1) == DATA[1:]
    assert ends.near.pending() == 0


@pytest.mark.parametrize("unread", [b"", DATA])
def test_the_output_ends_and_the_input_goes_on(ends: Ends, unread: bytes) -> None:
    ends.near.write_now(b"last words")
    if unread:
        ends.far.sendall(unread)
        ends.read(1)
    ends.near.end_output()
    assert not ends.near.wants_write
    assert ends.far_reads(10) == b"last words"
    assert ends.far.recv(1) == b"", "in good order"
    ends.far.sendall(b"more")
    expected = unread[1:] + b"more" if unread and not ends.near.is_encrypted else b"more"
    assert ends.read(len(expected)) == expected, "over TLS, what was decrypted and not read is lost"


def test_an_output_that_ends_silently(ends: Ends) -> None:
    ends.near.end_output(silently=True)
    if ends.near.is_encrypted:
        with pytest.raises(ssl.SSLEOFError):
            ends.far.recv(1)
    else:
        assert ends.far.recv(1) == b""


def test_the_end_of_what_comes_in(ends: Ends) -> None:
    ends.near.write_now(b"y")
    assert ends.far_reads(1) == b"y", "and session tickets: what is left unread would make a reset of its end"
    ends.far.sendall(b"x")
    ends.far.close()
    assert ends.read(1) == b"x"
    assert select.select([ends.near], [], [], 10)[0]
    assert ends.near.read_now(100) == b""


def test_a_broken_connection_is_over_and_can_be_ended_all_the_same(ends: Ends) -> None:
    ends.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # on, no time: a reset
    socket.socket.close(ends.far)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        write_on(ends.near)
    assert ends.near.judge(caught.value, Verdict.WAIT_WRITABLE) is Verdict.OVER
    ends.near.end_output()
    ends.near.write_own()
    assert not ends.near.wants_write


def test_what_the_switchboard_calls(ends: Ends) -> None:
    receive, send = ends.near.native_read, ends.near.native_write
    assert (receive is None) is (send is None) is not ends.near.is_encrypted
    if receive is not None and send is not None:
        buffer = memoryview(bytearray(100))
        ends.far.sendall(b"down")
        assert select.select([ends.near], [], [], 10)[0]
        assert receive(100, buffer) == 4
        assert bytes(buffer[:4]) == b"down"
        assert send(b"up") == 2
        assert ends.far_reads(2) == b"up"


def test_what_it_is_called(ends: Ends) -> None:
    version = ends.near.version()
    assert (version or "").startswith("TLSv1") is ends.near.is_encrypted
    assert ends.near.getsockname() == ends.far.getpeername()
    assert ends.near.fileno() >= 0
    ends.near.close()
    assert ends.near.fileno() == -1


# --- whose socket it is


def test_an_adopted_socket_is_the_transport() -> None:
    with no_leak():
        here, there = tcp_pair()
        here.setblocking(True)
        with there:
            transport = PlainTransport.adopt(here)
            assert transport is here
            assert not transport.getblocking()
            transport.close()


def test_a_socket_that_could_not_be_adopted_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError

    with no_leak():
        here, there = tcp_pair()
        monkeypatch.setattr(transport_module, "tune", fail)
        with there:
            with pytest.raises(OSError):  # noqa: PT011
                PlainTransport.adopt(here)
            assert here.fileno() == -1
            assert select.select([there], [], [], 10)[0]
            assert there.recv(1) == b""


def test_tls_takes_the_socket_over(tmp_path: Path) -> None:
    with no_leak():
        here, there = tcp_pair()
        with there:
            plain = PlainTransport.adopt(here)
            number = plain.fileno()
            context = server_context(write_pem(tmp_path, "example.org"))
            encrypted = TlsTransport.over(plain, context, server_side=True)
            assert (plain.fileno(), encrypted.fileno()) == (-1, number)
            assert encrypted.version() is None, "it has not shaken hands yet"
            encrypted.close()
