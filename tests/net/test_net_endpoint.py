"""One connection before the pump has it, over real sockets."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
from relay_tools import client_context, endpoint_on, no_leak, peer, server_context, tcp_pair, transport_pair, write_pem

from cxfr_proxy.net.endpoint import MAX_DISCARDED, Endpoint
from cxfr_proxy.net.transport import PlainTransport


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_pem(tmp_path, "example.org")


async def stream_pair() -> tuple[Endpoint, socket.socket]:
    there, here = transport_pair()
    return Endpoint(here), there


async def test_takes_the_socket_over() -> None:
    with no_leak():
        endpoint, there = await stream_pair()
        sock = endpoint.transport
        assert isinstance(sock, PlainTransport)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getblocking() is False
        assert not sock.is_encrypted
        endpoint.close()
        there.close()


async def test_a_silent_machine_is_given_up_in_time() -> None:
    here, there = tcp_pair()
    with there:
        sock = PlainTransport.adopt(here, 150.0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, milliseconds = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
        )
        assert (idle, interval, milliseconds) == (90, 15, 150_000)
        assert milliseconds == 1000 * (idle + 4 * interval), "it ends where the fourth probe is not answered"
        sock.close()


async def test_keepalive_may_be_left_to_the_system() -> None:
    here, there = tcp_pair()
    with there:
        transport = PlainTransport.adopt(here, 0.0)
        assert not transport.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        transport.close()


async def test_a_unix_socket_has_no_tcp_options() -> None:
    here, there = socket.socketpair()
    endpoint = Endpoint(PlainTransport.adopt(here, 150.0))
    await endpoint.send_all(b"x")
    assert there.recv(1) == b"x"
    endpoint.close()
    there.close()


async def test_peek_leaves_the_byte_and_waits_for_it() -> None:
    endpoint, there = await stream_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def late() -> None:
            await trio.testing.wait_all_tasks_blocked()
            there.send(b"<s")

        assert await endpoint.peek() == b"<"
    assert await endpoint.receive_some() == b"<s"
    there.close()
    assert await endpoint.peek() == b""
    assert await endpoint.receive_some() == b""
    endpoint.close()


async def test_send_all_waits_for_a_slow_reader() -> None:
    endpoint, there = await stream_pair()
    data = bytes(range(256)) * 40_000
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.send_all, data)
        await trio.testing.wait_all_tasks_blocked(0.01)
        while len(received) < len(data):
            await trio.lowlevel.wait_readable(there)
            received += there.recv(1 << 20)
    assert received == data
    endpoint.close()
    there.close()


async def test_discard_received() -> None:
    endpoint, there = await stream_pair()
    there.send(b"injected" * 1000)
    await trio.lowlevel.wait_readable(endpoint.transport)
    assert endpoint.discard_received()
    there.send(b"after")
    assert await endpoint.receive_some() == b"after"
    there.close()
    await trio.lowlevel.wait_readable(endpoint.transport)
    assert endpoint.discard_received()  # at the end of the stream it returns
    endpoint.close()


async def test_no_more_is_discarded_than_may_be() -> None:
    """Else who sends faster than we throw away keeps us from all others, for ever."""
    endpoint, there = await stream_pair()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_DISCARDED)
    assert there.send(bytes(MAX_DISCARDED) + b"rest") == MAX_DISCARDED + 4
    while len(await endpoint.peek(2 * MAX_DISCARDED)) < MAX_DISCARDED + 4:
        await trio.lowlevel.checkpoint()
    assert not endpoint.discard_received()
    assert await endpoint.receive_some() == b"rest"
    endpoint.close()
    there.close()


async def test_a_peer_that_is_faster_than_we_are_keeps_us_from_nobody() -> None:
    """Neither a read nor a write that need not wait goes by without a checkpoint."""
    endpoint, there = await stream_pair()
    there.send(b"a lot")
    await trio.lowlevel.wait_readable(endpoint.transport)
    with trio.testing.assert_checkpoints():
        assert await endpoint.receive_some() == b"a lot"
    with trio.testing.assert_checkpoints():
        await endpoint.send_all(b"x")
    endpoint.close()
    there.close()


async def test_a_reset_is_an_oserror() -> None:
    endpoint, there = await stream_pair()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    there.close()
    with pytest.raises(ConnectionResetError):
        await endpoint.receive_some()
    with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's choice
        await endpoint.send_all(b"x" * 1_000_000)
    endpoint.close()


async def test_tls_both_ways(certificate: Path) -> None:
    data = bytes(range(256)) * 4000

    async def serve(stream: trio.SocketStream) -> None:
        endpoint = endpoint_on(stream)
        await endpoint.start_tls(server_context(certificate), server_side=True)
        assert endpoint.transport.is_encrypted
        try:
            while received := await endpoint.receive_some():
                await endpoint.send_all(received)
        finally:
            endpoint.close()

    async with peer(serve) as port:
        endpoint = endpoint_on(await trio.open_tcp_stream("127.0.0.1", port))
        await endpoint.start_tls(client_context(certificate), server_side=False, server_hostname="example.org")
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(endpoint.send_all, data)
            while len(received) < len(data):
                received += await endpoint.receive_some()
        assert received == data
        endpoint.close()


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n", b"\x16" * 3000])
async def test_garbage_instead_of_a_handshake(certificate: Path, garbage: bytes) -> None:
    with no_leak():
        endpoint, there = await stream_pair()
        there.send(garbage)
        with pytest.raises(ssl.SSLError):
            await endpoint.start_tls(server_context(certificate), server_side=True)
        endpoint.close()
        there.close()


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
async def test_a_peer_that_leaves_before_the_handshake(certificate: Path, data: bytes) -> None:
    with no_leak():
        endpoint, there = await stream_pair()
        there.send(data)
        there.close()
        with pytest.raises(OSError):  # noqa: PT011 - SSLError or ConnectionError, both mean that it is broken
            await endpoint.start_tls(server_context(certificate), server_side=True)
        endpoint.close()


@pytest.mark.parametrize("what", ["peek", "receive", "send", "handshake"])
async def test_cancelled_while_waiting(certificate: Path, what: str) -> None:
    with no_leak():
        endpoint, there = await stream_pair()
        async with trio.open_nursery() as nursery:
            match what:
                case "peek":
                    nursery.start_soon(endpoint.peek)
                case "receive":
                    nursery.start_soon(endpoint.receive_some)
                case "send":
                    nursery.start_soon(endpoint.send_all, b"x" * 50_000_000)
                case _:
                    context = server_context(certificate)
                    nursery.start_soon(lambda: endpoint.start_tls(context, server_side=True))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert nursery.child_tasks, "it did not wait"
            nursery.cancel_scope.cancel()
        endpoint.close()
        there.close()


async def test_a_cancelled_scope_does_nothing() -> None:
    endpoint, there = await stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await endpoint.send_all(b"never")
    assert scope.cancelled_caught
    endpoint.close()
    assert there.recv(10) == b""
    there.close()
