"""The relay loop where a leg has TLS: bytes that OpenSSL holds already, room that it wants, and how it ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
from pump_world import BOTH_WAYS, DATA, ORDER, Passing, flood, read, tls_pair, world, write
from relay_tools import settled, until, write_pem

from cxfr_proxy.net.transport import TlsTransport
from cxfr_proxy.relay.live_session import NODE_BYTES
from cxfr_proxy.session.commands import Close, EndOutput, Send, SessionCommand, Side


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_pem(tmp_path, "example.org")


@BOTH_WAYS
@pytest.mark.parametrize("record", [1, 100, 16_384, 3_000_000])
async def test_tls_both_ways(certificate: Path, is_fast: bool, record: int) -> None:
    """With records of any size: nothing stays behind in the TLS socket, where epoll does not see it."""
    data = DATA[: max(record, 2000)]
    async with world() as it, tls_pair(certificate) as pair:
        it.session(Passing(is_fast), *pair.inner)

        async def write_records() -> None:
            for start in range(0, len(data), record):
                await write(pair.client, data[start : start + record])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_records)
            nursery.start_soon(write, pair.node, data)
            assert await read(pair.node, len(data)) == data
            assert await read(pair.client, len(data)) == data


async def test_tls_bytes_decrypted_before_the_pump_had_the_socket(certificate: Path) -> None:
    async with world() as it, tls_pair(certificate) as pair:
        await write(pair.client, b"0123456789" * 1000)
        await trio.lowlevel.wait_readable(pair.inner[0])
        assert pair.inner[0].recv(1) == b"0"
        assert pair.inner[0].pending()
        it.session(Passing(), *pair.inner)
        assert await read(pair.node, 9999) == (b"0123456789" * 1000)[1:]


@BOTH_WAYS
async def test_tls_with_a_node_that_does_not_read(certificate: Path, is_fast: bool) -> None:
    """Decrypted bytes wait until the node reads again, although no byte comes from the client to wake anybody."""
    async with world() as it, tls_pair(certificate) as pair:
        live = it.session(Passing(is_fast), *pair.inner, buffer_bytes=4096)
        sent = await flood(pair.client)
        assert 0 < len(live.legs[Side.NODE].unsent) <= NODE_BYTES
        assert await read(pair.node, sent) == b"x" * sent


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tls_is_read_on_after_its_output_has_ended(certificate: Path, when: str) -> None:
    """Bytes that the client had sent when the farewell came are read, and no reset takes the farewell back."""
    data = DATA[:50_000]
    async with world() as it, tls_pair(certificate) as pair:
        session = Passing(on_transfer=[Send(Side.CLIENT, b"farewell"), EndOutput(Side.CLIENT)])
        live = it.session(session, *pair.inner)
        await settled()
        if when == "before":
            # In the proxy's socket, but not read: no task has run since.
            assert pair.client.send(data) == len(data)
        live.transfer(ORDER)
        if when == "after":
            await write(pair.client, data)
        assert await read(pair.client) == b"farewell"
        assert await read(pair.node, len(data)) == data


async def read_to_the_end(client: socket.socket) -> tuple[bytes, str]:
    """All there is, and what TLS says of its end."""
    assert isinstance(client, ssl.SSLSocket)
    received = bytearray()
    while True:
        try:
            data = client.read(65_536)
        except ssl.SSLWantReadError:
            with trio.fail_after(60):
                await trio.lowlevel.wait_readable(client)
            continue
        except ssl.SSLEOFError:
            return bytes(received), "cut"
        except ssl.SSLZeroReturnError:
            data = b""
        if not data:
            return bytes(received), "closed"
        received += data


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("last", [[], [Close()]], ids=["read on", "closed"])
async def test_tls_is_closed_where_its_output_ends_unless_silently(
    certificate: Path, silent: bool, last: list[SessionCommand]
) -> None:
    async with world() as it, tls_pair(certificate) as pair:
        farewell: list[SessionCommand] = [Send(Side.CLIENT, DATA[:50_000]), EndOutput(Side.CLIENT, silent), *last]
        it.session(Passing(on_transfer=farewell), *pair.inner).transfer(ORDER)
        assert await read_to_the_end(pair.client) == (DATA[:50_000], "cut" if silent else "closed")


@BOTH_WAYS
async def test_tls_is_closed_behind_a_backlog(certificate: Path, is_fast: bool) -> None:
    async with world() as it, tls_pair(certificate) as pair:
        farewell: list[SessionCommand] = [Send(Side.CLIENT, b"farewell"), EndOutput(Side.CLIENT), Close()]
        live = it.session(Passing(is_fast, on_transfer=farewell), *pair.inner, buffer_bytes=4096)
        await flood(pair.node)
        live.transfer(ORDER)
        received, end = await read_to_the_end(pair.client)
        assert received.endswith(b"farewell")
        assert end == "closed"
        await until(lambda: not it.running)


async def test_tls_is_closed_once_there_is_room_for_that(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries, send_alert = iter([False, False]), TlsTransport._send_alert

    def find_room(transport: TlsTransport) -> None:
        if next(tries, True):
            send_alert(transport)
        else:
            transport.wants_write = True

    monkeypatch.setattr(TlsTransport, "_send_alert", find_room)
    async with world() as it, tls_pair(certificate) as pair:
        it.session(Passing(on_transfer=[EndOutput(Side.CLIENT)]), *pair.inner).transfer(ORDER)
        assert await read_to_the_end(pair.client) == (b"", "closed")
        await write(pair.client, b"still read")
        assert await read(pair.node, 10) == b"still read"


async def test_tls_is_closed_behind_what_it_has_decrypted(certificate: Path) -> None:
    """A record of 16 KiB, of which the pump has read a part when the output ends."""
    async with world() as it, tls_pair(certificate) as pair:
        client = pair.inner[0]
        assert isinstance(client, TlsTransport)
        await write(pair.client, DATA[:16_384])
        await until(lambda: _reads(client))
        live = it.session(Passing(is_fast=False, on_transfer=[EndOutput(Side.CLIENT)]), *pair.inner)
        live.transfer(ORDER)
        assert await read_to_the_end(pair.client) == (b"", "closed")
        assert await read(pair.node, 16_383) == DATA[1:16_384]


async def test_tls_is_closed_although_it_has_decrypted_what_nobody_wants(certificate: Path) -> None:
    async with world() as it, tls_pair(certificate) as pair:
        client = pair.inner[0]
        assert isinstance(client, TlsTransport)
        await write(pair.client, DATA[:16_384])
        await until(lambda: _reads(client))
        session = Passing(is_fast=False, on_transfer=[EndOutput(Side.CLIENT)])
        session.ended.add(Side.CLIENT)
        it.session(session, *pair.inner).transfer(ORDER)
        assert await read_to_the_end(pair.client) == (b"", "closed")
        assert client.fileno() >= 0, "the session is still there"


def _reads(sock: ssl.SSLSocket) -> bool:
    """One byte, so that the rest of its record lies in the TLS socket."""
    with contextlib.suppress(ssl.SSLWantReadError):
        sock.read(1)
    return bool(sock.pending())
