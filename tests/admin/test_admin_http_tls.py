"""HTTPS: TLS of Python's own client against the server, over sockets."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from fake_site import SECRETS, FakeSite, json_of
from relay_tools import client_context, no_leak, pem, until, write_pem
from trio.testing import MockClock

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.http import connection
from cxfr_proxy.admin.http import server as http_server
from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.http.connection import HttpConnection
from cxfr_proxy.admin.http.server import HttpServer
from cxfr_proxy.admin.http.tls_stream import TlsStream
from cxfr_proxy.admin.http.tokens import TokenList
from cxfr_proxy.config.table import Config
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.errors import ConfigError

NAME = "proxy.example.net"
HELLO = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
AUTHORIZED = f"Host: {NAME}\r\nAuthorization: Bearer {SECRETS[Role.OPERATE]}\r\n"


class TlsWorld:
    def __init__(self, fake: FakeSite, server: HttpServer, port: int, trusted: Path) -> None:
        self.fake = fake
        self.server = server
        self.port = port
        self.trusted = trusted

    async def plain(self, source: str = "127.0.0.1") -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port, local_address=source)

    async def connect(self, *, trusted: Path | None = None) -> trio.SSLStream[trio.SocketStream]:
        """As a client that insists on every rule, the end of TLS included."""
        context = client_context(trusted or self.trusted)
        context.set_alpn_protocols(["h2", "http/1.1"])
        stream = trio.SSLStream(await self.plain(), context, server_hostname=NAME)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    def connect_as_blocking_clients_do(self, trusted: Path) -> None:
        """They say why they hang up; trio's does not."""
        with socket.create_connection(("127.0.0.1", self.port)) as sock:
            client_context(trusted).wrap_socket(sock, server_hostname=NAME).close()


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while data := await stream.receive_some(65_536):
        received += data
    return received


@asynccontextmanager
async def world(folder: Path, *, names: tuple[str, ...] = (NAME,)) -> AsyncIterator[TlsWorld]:
    path = write_pem(folder, *names)
    fake = FakeSite(config=Config(http_certificate=path))
    server = HttpServer(fake.site, fake.certificate)
    with no_leak(), trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, server.serve, [listener])
            yield TlsWorld(fake, server, listener.socket.getsockname()[1], path)
            nursery.cancel_scope.cancel()


async def test_requests_over_tls(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        async with await it.connect() as stream:
            assert stream.selected_alpn_protocol() == "http/1.1", "and none of XMPP's"
            await stream.send_all(HELLO)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
            body = b'{"node": "node1"}'
            order = f"POST /api/v1/undrain HTTP/1.1\r\n{AUTHORIZED}Content-Type: application/json\r\nContent-Length: 17"
            await stream.send_all(f"{order}\r\n\r\n".encode())
            await stream.send_all(body)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
            await stream.send_all(LAST)
            assert (await rest(stream)).startswith(b"HTTP/1.1 200 OK\r\n"), "it ends in good order"
        assert len(it.fake.fake.calls) == 1


async def test_a_long_answer_is_whole(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.fake.source.body = bytes(range(256)) * 3000
        async with await it.connect() as stream:
            await stream.send_all(LAST.replace(b"/livez", b"/metrics"))
            assert (await rest(stream)).endswith(b"\r\n\r\n" + it.fake.source.body)


@pytest.mark.parametrize("sent", [LAST, HELLO, LAST.replace(b"GET", b"HEAD"), b"\x80\x2e\x01\x03\x01\r\n\r\n"])
async def test_what_is_no_tls_is_told_so(sent: bytes, tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.plain() as stream:
        await stream.send_all(sent)
        answer = await rest(stream)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"\r\nconnection: close\r\n" in answer.lower()
        if sent in (LAST, HELLO):
            assert answer.endswith(b"TLS is spoken here: ask by https://\n")


async def test_no_order_is_taken_without_tls(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.plain() as stream:
        await stream.send_all(f"POST /api/v1/reload HTTP/1.1\r\n{AUTHORIZED}Content-Length: 0\r\n\r\n".encode())
        assert (await rest(stream)).startswith(b"HTTP/1.1 400 ")
        assert it.fake.fake.calls == []


async def test_another_certificate_counts_from_the_next_connection_on(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        async with await it.connect() as before:
            other = write_pem(tmp_path, "other.example", NAME)
            certificate = it.fake.certificate
            certificate.use(certificate.prepare(Config(http_certificate=other), again=True))
            with pytest.raises(trio.BrokenResourceError):
                await it.connect()
            async with await it.connect(trusted=other) as after:
                for stream in (before, after):
                    await stream.send_all(LAST)
                    assert b"200 OK" in await rest(stream)
        certificate.use(certificate.prepare(Config(), again=True))
        async with await it.plain() as plain:
            await plain.send_all(LAST)
            assert b"200 OK" in await rest(plain), "without a certificate there is no TLS"


async def test_events_end_in_good_order(tmp_path: Path) -> None:
    """Where a client that sees no end of TLS would have to think of an attack."""
    async with world(tmp_path) as it, await it.connect() as stream:
        await stream.send_all(f"GET /api/v1/events HTTP/1.1\r\n{AUTHORIZED}\r\n".encode())
        received = b""
        while b"event: source" not in received:
            received += await stream.receive_some()
        it.fake.access.use(it.fake.config, TokenList())
        it.fake.feed.changed()
        assert (await rest(stream)).endswith(b"0\r\n\r\n")


async def test_a_watcher_that_hangs_up_is_noticed(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        stream = await it.connect()
        await stream.send_all(f"GET /api/v1/events HTTP/1.1\r\n{AUTHORIZED}\r\n".encode())
        assert b"200 OK" in await stream.receive_some()
        await stream.aclose()
        await until(lambda: it.server.connections == 0)


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_a_handshake_has_its_time(sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.05)
    async with world(tmp_path) as it, await it.plain() as stream:
        with suppress(trio.BrokenResourceError):  # the time may be over before anything was sent
            if sent:
                await stream.send_all(sent)
            assert b"HTTP" not in await rest(stream)
        await until(lambda: it.server.connections == 0)


async def test_who_hangs_up_at_once_is_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world(tmp_path) as it:
        await (await it.plain()).aclose()
        async with await it.connect() as stream:
            await stream.send_all(LAST)
            await rest(stream)
        await until(lambda: it.server.connections == 0)
    assert not caplog.records


@pytest.mark.parametrize(
    "sent",
    [
        HELLO[:-2],
        f"POST /api/v1/undrain HTTP/1.1\r\n{AUTHORIZED}Content-Length: 17\r\n\r\n{{".encode(),
    ],
)
@pytest.mark.parametrize("in_good_order", [True, False])
async def test_who_ends_in_the_middle_of_a_request_is_no_defect(
    sent: bytes, in_good_order: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def ask(port: int, trusted: Path) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        with client_context(trusted).wrap_socket(sock, server_hostname=NAME) as stream:
            stream.sendall(sent)
            with suppress(ssl.SSLError):  # an answer behind the end of TLS, which Python can't read; or an alert
                if in_good_order:
                    stream.unwrap()
                socket.socket.shutdown(stream, socket.SHUT_WR)
                stream.recv(1)

    async with world(tmp_path) as it:
        await trio.to_thread.run_sync(ask, it.port, it.trusted)
        await until(lambda: it.server.connections == 0)
    assert not caplog.records


async def test_who_has_gone_without_a_word_is_noticed(tmp_path: Path) -> None:
    """By the system, which asks the other one."""
    (listener,) = http_server.http_listeners(ListenAddress("127.0.0.1", 0))
    async with world(tmp_path) as it, await it.plain() as plain, await it.connect():
        await until(lambda: it.server.connections == 2)
        over_tls = list(it.server._open)[-1]._stream
        assert isinstance(over_tls, TlsStream)
        for sock in (listener.socket, over_tls._endpoint.transport):
            assert isinstance(sock, socket.socket | trio.socket.SocketType)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        await plain.aclose()
    await listener.aclose()


async def test_who_refuses_the_certificate_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world(tmp_path) as it:
        stranger = tmp_path / "stranger.pem"
        stranger.write_bytes(pem("stranger.example"))
        with pytest.raises(ssl.SSLCertVerificationError):
            await trio.to_thread.run_sync(it.connect_as_blocking_clients_do, stranger)
        await until(lambda: caplog.records)
    (record,) = caplog.records
    fields: dict[str, Any] = getattr(record, "cxfr_proxy_fields")  # noqa: B009 - mypy knows no such attribute
    assert (record.message, fields["client"]) == ("http-denied", "127.0.0.1")
    assert fields["reason"] == "TLS handshake failed: certificate-refused"


async def test_a_handshake_without_end_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    fake = FakeSite(config=Config(http_certificate=write_pem(tmp_path, NAME)))
    theirs, ours = socket.socketpair()
    with theirs:
        theirs.send(b"\x16\x03\x01")
        async with HttpConnection(trio.SocketStream(trio.socket.from_stdlib_socket(ours))) as it:
            assert not await it.begin(fake.certificate.context)
    (record,) = caplog.records
    assert getattr(record, "cxfr_proxy_fields")["reason"] == "TLS handshake failed: timeout"  # noqa: B009


async def test_handshakes_that_go_no_further_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 600)  # however slow this machine is
    async with world(tmp_path) as it:
        hogs = []
        for number in range(2 * http_server.MAX_CONNECTIONS):
            hogs.append(await it.plain(f"127.0.0.{10 + number % 4}"))
            await hogs[-1].send_all(b"\x16\x03\x01")
        await until(lambda: it.server.connections == http_server.MAX_CONNECTIONS)
        async with await it.connect() as stream:
            await stream.send_all(LAST)
            assert b"200 OK" in await rest(stream)
        for hog in hogs:
            await hog.aclose()


# --- the certificate


async def test_its_names_are_the_proxy_s(tmp_path: Path) -> None:
    config = Config(http_certificate=write_pem(tmp_path, NAME, "*.example.org"), http_host=("web.example",))
    site = FakeSite(config=config)
    for host, status in (
        (NAME, 200),
        (f"{NAME.upper()}.:9222", 200),
        ("web.example", 200),
        ("any.example.org", 421),  # somebody else's, it may be
        ("*.example.org", 200),  # as it is in the certificate: no browser asks so
        ("example.net", 421),
    ):
        answer = await site.answer("/api/v1/show/nodes", role_="view", host=host)
        assert answer.status == status, (host, json_of(answer))
    assert (await FakeSite().answer("/api/v1/show/nodes", role_="view", host=NAME)).status == 421


def test_what_is_no_good_is_refused_and_what_is_in_use_stays(tmp_path: Path) -> None:
    path = write_pem(tmp_path, NAME)
    config = Config(http_certificate=path)
    certificate = HttpCertificate(config)
    shown = certificate.shown
    assert certificate.prepare(config, again=True) is shown, "so that TLS sessions are resumed"
    assert [*certificate.expiries] == [str(path)]
    assert certificate.problems == ()
    assert certificate.context is not None
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2, "as for clients"
    path.write_text("nothing")
    assert certificate.prepare(config, again=False) is shown, "nobody has asked to read it"
    with pytest.raises(ConfigError, match=f"{path}: expected a certificate in PEM form"):
        certificate.prepare(config, again=True)
    key = write_pem(tmp_path, "other.example")
    path.write_bytes(pem(NAME))
    with pytest.raises(ConfigError, match="the key does not belong to the certificate"):
        certificate.prepare(Config(http_certificate=path, http_key=key), again=False)
    with pytest.raises(ConfigError, match="cannot be read"):
        HttpCertificate(Config(http_certificate=tmp_path / "none.pem"))
    assert certificate.shown is shown


@pytest.mark.parametrize(
    ("host", "tokens", "certificate", "warned"),
    [
        ("192.0.2.1", "tokens.txt", None, True),
        (None, "tokens.txt", None, True),
        ("proxy.example.net", "tokens.txt", None, True),
        ("192.0.2.1", None, None, False),
        ("192.0.2.1", "tokens.txt", "http.pem", False),
        ("127.0.0.1", "tokens.txt", None, False),
        ("::1", "tokens.txt", None, False),
        ("localhost", "tokens.txt", None, False),
    ],
)
def test_tokens_in_the_clear_are_warned_of_once(
    host: str | None, tokens: str | None, certificate: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config(
        http=ListenAddress(host, 9222),
        http_tokens=Path(tokens) if tokens is not None else None,
        http_certificate=Path(certificate) if certificate is not None else None,
    )
    access = FakeSite().access
    for _ in range(2):
        access.use(config, TokenList())
    assert caplog.messages == ["http-in-the-clear"] * warned
