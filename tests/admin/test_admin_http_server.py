"""The HTTP server, with h11 as its client, over memory streams and mock time; and over sockets."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import h11
import pytest
import trio
from fake_site import SECRETS, FakeSite
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.http import connection, site
from cxfr_proxy.admin.http import server as http_server
from cxfr_proxy.admin.http.server import HttpServer, http_listeners, serve_http
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError

HELLO = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
PLAIN = "POST /api/v1/undrain HTTP/1.1\r\nHost: 127.0.0.1\r\n"
ORDER = f"{PLAIN}Authorization: Bearer {SECRETS[Role.OPERATE]}\r\nContent-Type: application/json\r\n"
BODY = b'{"node": "node1"}'
WATCH = f"GET /api/v1/events HTTP/1.1\r\nHost: [::1]:1\r\nAuthorization: Bearer {SECRETS[Role.VIEW]}\r\n\r\n".encode()


def server_of(fake: FakeSite) -> HttpServer:
    return HttpServer(fake.site, fake.certificate)


class Client:
    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def ask(self, target: str, method: str = "GET") -> tuple[int, bytes]:
        request = h11.Request(method=method, target=target, headers=[("Host", "x")])
        await self.stream.send_all((self.http.send(request) or b"") + (self.http.send(h11.EndOfMessage()) or b""))
        response = await self._event()
        assert isinstance(response, h11.Response), response
        body = b""
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return response.status_code, body

    async def _event(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(bytes(await self.stream.receive_some(1)))  # byte by byte
        return event

    async def rest(self) -> bytes:
        """Until the other end has closed."""
        received = b""
        while data := await self.stream.receive_some(65_536):
            received += data
        return received


class World:
    def __init__(self, nursery: trio.Nursery) -> None:
        fake = FakeSite()
        self.fake = fake.fake
        self.source = fake.source
        self.server = server_of(fake)
        self._nursery = nursery

    def connect(self) -> Client:
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self.server.serve, theirs)
        return Client(ours)

    async def say(self, data: bytes) -> bytes:
        """All that is answered to these bytes, and nothing behind them."""
        client = self.connect()
        await client.stream.send_all(data)
        await client.stream.send_eof()
        return await client.rest()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()


async def test_requests_on_one_connection(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        assert await client.ask("/livez") == (200, b"OK\n")
        assert await client.ask("/readyz") == (503, b"it is night\n")
        assert await client.ask("/metrics", "HEAD") == (200, b"")
        assert await client.ask("/metrics") == (200, b"figures")
        assert (await client.ask("/other"))[0] == 404
        assert (await client.ask("/livez", "POST"))[0] == 405
        assert it.server.connections == 1
        await client.stream.aclose()
        await wait_all_tasks_blocked()
        assert it.server.connections == 0


async def test_what_stands_around_an_answer(autojump_clock: MockClock) -> None:
    async with world() as it:
        answer = await it.say(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        head = answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
        assert head[0] == b"http/1.1 405 method not allowed"
        assert b"allow: get, head" in head
        assert b"cache-control: no-store" in head
        assert (await it.say(HELLO + HELLO)).count(b"200 OK") == 1, "who doesn't wait for an answer gets one"
        closing = await it.say(b"GET /livez HTTP/1.0\r\n\r\n")
        assert closing.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in closing.lower()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\n\n", 400),
        (b"<?xml version='1.0'?><stream:stream to='x'>\n\n", 400),
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),  # without a host
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /liv\x00ez HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + HELLO, 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello" + HELLO, 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\rContent-Length: 5\r\n\r\nhello" + HELLO, 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20_000, 431),
        (b"a" * 20_000, 431),
        # What is no mistake, but the end all the same: what it asks for is not to be had.
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + HELLO, 200),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n" + HELLO, 200),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + HELLO, 200),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" + HELLO, 200),
        (b"CONNECT /livez HTTP/1.1\r\nHost: x\r\n\r\n" + HELLO, 405),
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 200),
    ],
)
async def test_one_answer_and_the_end(
    request_: bytes, status: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(request_)  # it does not say that this is all
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"Traceback" not in answer
        await trio.sleep(2)  # it lingers, lest a reset destroys the answer
        assert it.server.connections == 0
    assert not caplog.records


async def test_an_answer_is_not_destroyed_by_what_is_not_read(autojump_clock: MockClock) -> None:
    """A socket that is closed with something unread sends a reset, which takes along what is on its way."""
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(HELLO[:-2] + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
        await client.stream.send_all(b"x" * 500)  # which would not be possible


async def test_who_goes_on_sending_is_not_listened_to_without_end(autojump_clock: MockClock) -> None:
    """As long as somebody sends, no time goes by here: it is not that which ends it."""
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(HELLO[:-2] + b"Content-Length: 100000000\r\n\r\n")
        await client.rest()
        sent = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while sent < 1 << 20:
                await client.stream.send_all(b"x" * 4096)
                sent += 4096
        assert sent < 1 << 20


async def test_an_error_behind_a_request_without_body(autojump_clock: MockClock) -> None:
    """Nothing is known of the next request from the one before."""
    async with world() as it:
        client = it.connect()
        assert await client.ask("/livez", "HEAD") == (200, b"")
        await client.stream.send_all(b"nonsense\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\nBad Request\n")


def test_hostile_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """Each gets HTTP or nothing, and a closed connection; nothing is raised or logged."""

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=30),
                st.sampled_from([HELLO, b"GET ", b"/metrics", b" HTTP/1.1", b"\r\n", b"Host: x\r\n", b"\r\n\r\n"]),
                st.sampled_from([PLAIN.encode(), ORDER.encode(), WATCH, BODY, b"Content-Length: 17\r\n\r\n", b"%ff"]),
                st.sampled_from([b"GET /api/v1/show/sessions?limit=", b"Origin: null\r\n", b"Last-Event-ID: 1\r\n"]),
                st.sampled_from([b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue"]),
            ),
            max_size=12,
        )
    )
    def examples(pieces: list[bytes]) -> None:
        async def one() -> None:
            async with world() as it:
                answer = await it.say(b"".join(pieces))
                assert not answer or answer.startswith(b"HTTP/1.1 ")
                await wait_all_tasks_blocked()
                assert it.server.connections == 0

        trio.run(one, clock=MockClock(autojump_threshold=0))

    examples()
    assert not caplog.records


async def test_a_defect_is_logged_and_said_to_nobody(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as it:
        it.source.fails = True
        client = it.connect()
        assert await client.ask("/metrics") == (500, b"Internal Server Error\n")
        assert await client.ask("/livez") == (200, b"OK\n")
        assert [record.message for record in caplog.records] == ["fault"]


# --- time


@pytest.mark.parametrize(("data", "answered"), [(b"", b""), (b"GET /livez HT", b"HTTP/1.1 408 ")])
async def test_who_says_too_little(data: bytes, answered: bytes, autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        began = trio.current_time()
        if data:
            await client.stream.send_all(data)
        received = await client.rest()
        assert received.startswith(answered)
        assert bool(received) == bool(answered)
        assert trio.current_time() - began == pytest.approx(connection.REQUEST_SECONDS, abs=1.1)


async def test_byte_by_byte_is_not_for_ever(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        began = trio.current_time()
        with suppress(trio.BrokenResourceError):
            for _ in range(100):
                await client.stream.send_all(b"G")
                await trio.sleep(1)
        assert trio.current_time() - began < connection.REQUEST_SECONDS + 3


async def test_a_connection_may_rest_between_two_scrapes(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        for _ in range(3):
            assert (await client.ask("/metrics"))[0] == 200
            await trio.sleep(60)
        began = trio.current_time()
        assert await client.rest() == b""
        assert trio.current_time() - began == pytest.approx(http_server.IDLE_SECONDS - 60, abs=1.1)


async def test_the_time_for_a_request_begins_with_it(autojump_clock: MockClock) -> None:
    """Not that which an idle connection has."""
    async with world() as it:
        client = it.connect()
        await client.ask("/livez")
        await trio.sleep(5)
        began = trio.current_time()
        await client.stream.send_all(HELLO[:-1])
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(connection.REQUEST_SECONDS)


async def test_figures_that_do_not_come(autojump_clock: MockClock) -> None:
    async with world() as it:
        it.source.go = trio.Event()
        client = it.connect()
        began = trio.current_time()
        assert (await client.ask("/metrics"))[0] == 503
        assert trio.current_time() - began == site.PAGE_SECONDS
        assert (await client.ask("/livez"))[0] == 200


async def test_who_does_not_read_his_answer(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.1)  # sockets know no mock time
    fake = FakeSite()
    fake.source.body = b"x" * 50_000_000
    server = HttpServer(fake.site, fake.certificate)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(60):
                while not server.connections:  # noqa: ASYNC110 - it begins beyond a socket
                    await trio.sleep(0.01)
                while server.connections:  # noqa: ASYNC110
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert not caplog.records


async def test_a_long_answer_may_take_its_time(autojump_clock: MockClock) -> None:
    """As long as it is taken at all: there are megabytes to be told, and slow networks."""
    fake, pieces = FakeSite(), 10
    fake.source.body = b"x" * connection.PIECE_BYTES * pieces
    async with trio.open_nursery() as nursery:
        ours, theirs = lockstep_stream_pair()
        nursery.start_soon(server_of(fake).serve, theirs)
        await ours.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while data := await ours.receive_some(connection.PIECE_BYTES):
            received += data
            await trio.sleep(connection.ANSWER_SECONDS - 1)
    assert received.endswith(fake.source.body)
    assert trio.current_time() > (pieces - 1) * (connection.ANSWER_SECONDS - 1)


# --- too many


async def test_whoever_comes_finds_a_place(autojump_clock: MockClock) -> None:
    """Though somebody holds all there are: first by silence, then by half requests."""
    async with world() as it:
        for begun in (b"", b"GET /"):
            for _ in range(http_server.MAX_CONNECTIONS):
                hog = it.connect()
                if begun:
                    await hog.stream.send_all(begun)
                await wait_all_tasks_blocked()
            assert it.server.connections == http_server.MAX_CONNECTIONS
            for _ in range(2 * http_server.MAX_CONNECTIONS):
                client = it.connect()
                assert await client.ask("/livez") == (200, b"OK\n")
                assert it.server.connections <= http_server.MAX_CONNECTIONS
                await client.stream.aclose()
                await wait_all_tasks_blocked()
                it.connect()
                await wait_all_tasks_blocked()


async def test_who_waits_for_an_answer_goes_last(autojump_clock: MockClock) -> None:
    """A connection that asks for nothing goes first; if all ask, the oldest makes room for a health check."""
    async with world() as it:
        it.source.go = trio.Event()
        asking = [it.connect() for _ in range(http_server.MAX_CONNECTIONS - 1)]
        for client in asking:
            await client.stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        idle = it.connect()
        await wait_all_tasks_blocked()
        for _ in range(3):
            assert await it.connect().ask("/livez") == (200, b"OK\n")
        assert await idle.rest() == b""
        assert it.server.connections == http_server.MAX_CONNECTIONS
        busy = it.connect()
        await busy.stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_all_tasks_blocked()
        assert await it.connect().ask("/livez") == (200, b"OK\n")
        it.source.go.set()
        assert (await busy.stream.receive_some()).startswith(b"HTTP/1.1 200 OK")


async def test_no_stranger_ends_a_stream_or_an_order(autojump_clock: MockClock) -> None:
    """Though they are the oldest, and all others ask as well."""
    async with world() as it:
        it.source.go = trio.Event()
        watcher, orderer = it.connect(), it.connect()
        await watcher.stream.send_all(WATCH)
        await orderer.stream.send_all(f"{ORDER}Content-Length: 17\r\n\r\n".encode())
        await wait_all_tasks_blocked()
        for _ in range(2 * http_server.MAX_CONNECTIONS):
            await it.connect().stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_all_tasks_blocked()
        assert it.server.connections == http_server.MAX_CONNECTIONS
        await orderer.stream.send_all(BODY)
        assert (await orderer.stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        answered = b""
        while b"event: source" not in answered:
            answered += await watcher.stream.receive_some()
        assert b"event: summary" in answered


async def test_one_address_leaves_room_for_others() -> None:
    """Over sockets, of which each has an address."""
    server = server_of(FakeSite())
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        other = Client(await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2"))
        assert await other.ask("/livez") == (200, b"OK\n")
        hogs = []
        for _ in range(2 * http_server.MAX_CONNECTIONS):
            hogs.append(Client(await trio.open_tcp_stream("127.0.0.1", port)))
            assert await hogs[-1].ask("/livez") == (200, b"OK\n"), "the newest always has a place"
        assert server.connections == http_server.MAX_OF_ONE_ADDRESS + 1
        assert await other.ask("/livez") == (200, b"OK\n")
        for client in (other, *hogs):
            await client.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_one_network_of_ipv6_is_one_address(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has one has 2^64 addresses."""
    addresses = iter(["2001:db8:0:1::1", *(f"2001:db8::{number:x}" for number in range(1000))])
    monkeypatch.setattr(connection, "_address", lambda stream: next(addresses))
    async with world() as it:
        other = it.connect()
        assert await other.ask("/livez") == (200, b"OK\n")
        for _ in range(2 * http_server.MAX_OF_ONE_ADDRESS):
            assert await it.connect().ask("/livez") == (200, b"OK\n")
        assert it.server.connections == http_server.MAX_OF_ONE_ADDRESS + 1
        assert await other.ask("/livez") == (200, b"OK\n")


# --- bodies


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("Content-Length: 17", BODY, 200),
        ("Transfer-Encoding: chunked", b'8\r\n{"node":\r\n9\r\n "node1"}\r\n0\r\n\r\n', 200),
        ("Transfer-Encoding: chunked", b"8\r\nnonsense", 400),
        ("Content-Length: 18", BODY, 400),
        ("Content-Length: 70000", b"x" * 70_000, 413),
        ("Transfer-Encoding: chunked", b"11170\r\n" + b"x" * 70_000, 413),
    ],
)
async def test_a_body(head: str, body: bytes, status: int, autojump_clock: MockClock) -> None:
    async with world() as it:
        answer = await it.say(f"{ORDER}{head}\r\n\r\n".encode() + body)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert bool(it.fake.calls) == (status == 200)


async def test_bodies_on_one_connection(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        for _ in range(3):
            await client.stream.send_all(f"{ORDER}Content-Length: 17\r\n\r\n".encode())
            await wait_all_tasks_blocked()
            await client.stream.send_all(BODY)
            answer = b""
            while not answer.endswith(b"}\n"):
                answer += await client.stream.receive_some(1)
            assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(it.fake.calls) == 3


async def test_a_client_that_waits_to_be_asked_for_its_body(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(f"{ORDER}Content-Length: 17\r\nExpect: 100-continue\r\n\r\n".encode())
        assert (await client.stream.receive_some(100)).startswith(b"HTTP/1.1 100 ")
        await client.stream.send_all(BODY)
        await client.stream.send_eof()
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")


async def test_a_body_has_its_time(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        began = trio.current_time()
        await client.stream.send_all(f"{ORDER}Content-Length: 17\r\n\r\n".encode())
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(connection.REQUEST_SECONDS)
        assert it.fake.calls == []


async def test_no_body_is_read_for_a_stranger(autojump_clock: MockClock) -> None:
    """The answer does not wait for it."""
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(f"{PLAIN}Content-Length: 60000\r\n\r\n".encode())
        assert (await client.rest()).startswith(b"HTTP/1.1 401 ")
        assert trio.current_time() < 1.5


# --- answers that go on


async def test_events(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(WATCH)
        received = b""
        while b"event: source" not in received:
            received += await client.stream.receive_some(65_536)
        head = received.partition(b"\r\n\r\n")[0].lower()
        assert head.startswith(b"http/1.1 200 ok\r\ncontent-type: text/event-stream\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"cache-control: no-store" in head
        assert it.server.connections == 1
        await client.stream.aclose()
        await wait_all_tasks_blocked()
        assert it.server.connections == 0, "at once, though nothing is to be sent"


async def test_a_reader_that_does_not_read_is_cut_off(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Over memory streams that hold nothing."""
    async with trio.open_nursery() as nursery:
        server = server_of(FakeSite())
        ours, theirs = lockstep_stream_pair()
        nursery.start_soon(server.serve, theirs)
        await ours.send_all(WATCH)
        assert await ours.receive_some(10) == b"HTTP/1.1 2"
        await trio.sleep(connection.ANSWER_SECONDS - 0.1)
        assert server.connections == 1
        await trio.sleep(0.2)
        assert server.connections == 0
    assert not caplog.records


async def test_behind_events_comes_nothing(autojump_clock: MockClock) -> None:
    async with world() as it:
        client = it.connect()
        await client.stream.send_all(WATCH)
        await wait_all_tasks_blocked()
        await client.stream.send_all(HELLO)
        with trio.fail_after(60):
            assert (await client.rest()).count(b"HTTP/1.1 ") == 1


# --- sockets


async def test_on_a_socket(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fake = FakeSite()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, http_listeners(ListenAddress("127.0.0.1", 0)), fake.site, fake.certificate)
        fields = getattr(caplog.records[0], "cxfr_proxy_fields")  # noqa: B009 - mypy knows no such attribute
        assert (caplog.messages[0], fields["address"]) == ("http-listening", "127.0.0.1")
        client = Client(await trio.open_tcp_stream("127.0.0.1", fields["port"]))
        assert await client.ask("/livez") == (200, b"OK\n")
        with pytest.raises(ConfigError, match="cannot listen on"):
            await serve_http(http_listeners(ListenAddress("127.0.0.1", fields["port"])), fake.site, fake.certificate)
        await client.stream.aclose()
        nursery.cancel_scope.cancel()
