"""Web clients through the proxy, by WebSocket (RFC 7395): login, relay, moves, silence, and whatever a stranger sends.

The proxy runs in this process, behind real sockets; the demo's nodes are behind it. The client is trio-websocket's, or
bytes where no library would send them.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from e2e_proxy import DOMAIN, PATIENCE_SECONDS, ProxyHere, command, connect, in_process, nodes_file, running, until
from e2e_websocket import CLOSE, OPEN, Page, page, raw_page, request
from websocket_client import BINARY, CONTINUATION, FRAMING, PONG, TEXT, masked, text

from cxfr_proxy.cluster.addresses import WebSocketUrl
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.choices import ProxyHeaderUse
from cxfr_proxy.config.table import Config, Limits, StartTls, Timeouts
from cxfr_proxy.config.values import PEER_NETWORK
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.names import StreamCondition

pytestmark = pytest.mark.usefixtures("engines")

PATIENT = Timeouts(
    cxfr_timeout=PATIENCE_SECONDS, see_other_host_timeout=PATIENCE_SECONDS, node_close_timeout=PATIENCE_SECONDS
)
"""Pages and nodes do as they are told, on a busy machine too."""
URL = "wss://node2.example.org:5443/ws?a=1&b=2"


@dataclass
class World:
    proxy: ProxyHere
    address: HostPort
    nodes: Sequence[DemoNode]
    certificate: DemoCertificate

    @property
    def refused(self) -> dict[str, int]:
        """Connections without a session, by condition."""
        return dict(self.proxy.registry.counts.totals.refused)

    @property
    def ended(self) -> dict[str, int]:
        """Sessions, by reason."""
        return {reason: count for reason, count in self.proxy.registry.counts.totals.ended.items() if count}

    @property
    def unwanted(self) -> int:
        """All of these together."""
        return sum(self.refused.values()) + sum(self.ended.values())

    async def has_counted(self, unwanted: int) -> None:
        await until(lambda: self.unwanted >= unwanted, "it is counted")
        assert self.unwanted == unwanted


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@asynccontextmanager
async def world(
    directory: Path,
    certificate: DemoCertificate,
    *,
    nodes: int = 1,
    starttls: StartTls = StartTls.OFF,
    timeouts: Timeouts = PATIENT,
    limits: Limits | None = None,
    origins: tuple[str, ...] = (),
    lines: dict[str, str] | None = None,
    trusted: tuple[str, ...] = (),
) -> AsyncIterator[World]:
    """A proxy and its nodes; when the test is done, a well-behaved web client must still get through."""
    running_nodes = [DemoNode(f"node{number + 1}") for number in range(nodes)]
    async with running(*running_nodes):
        config = Config(
            backends=FileBackends(str(nodes_file(directory, running_nodes, **(lines or {})))),
            domain=("localhost",),
            certificate=(certificate.certificate,),
            key=(certificate.key,),
            starttls=starttls,
            control=directory / "c.sock",
            timeouts=timeouts,
            limits=limits or Limits(),
            websocket_origin=origins,
            trusted_proxies=tuple(map(PEER_NETWORK.parse, trusted)),
            proxy_header=ProxyHeaderUse.OPTIONAL,
            host_meta=(WebSocketUrl("wss://localhost/xmpp-websocket", "localhost", 443),),
        )
        async with in_process(config) as (proxy, address):
            it = World(proxy, address, running_nodes, certificate)
            yield it
            async with page(address, certificate.client_context()) as good:
                await good.log_in("juliet")


# --- serving


async def test_a_page_logs_in_and_talks(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it, page(it.address) as romeo:
        features = await romeo.log_in()
        assert "starttls" not in features
        await romeo.echo("one")
        await romeo.echo("ä€😀" * 1000)
        (live,) = it.proxy.live
        assert (live.is_websocket, live.tls_version, live.session.full_jid) == (True, None, "romeo@localhost/r")
        await romeo.send(CLOSE)
        assert await romeo.read() == CLOSE
        assert await romeo.closed() == 1000
        await until(lambda: it.ended == {"client-closed": 1}, "its session ends")


async def test_over_tls_a_browser_chooses_http_and_an_xmpp_client_does_not(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1", "xmpp-client"], "xmpp-client")):
        context = certificate.client_context()
        context.set_alpn_protocols(offered)
        async with world(tmp_path, certificate, starttls=StartTls.REQUIRED) as it, page(it.address, context) as romeo:
            stream = romeo.socket._stream
            assert isinstance(stream, trio.SSLStream)
            assert stream.selected_alpn_protocol() == chosen
            assert "starttls" not in await romeo.log_in()
            await romeo.echo("over TLS")
            (live,) = it.proxy.live
            assert (live.is_websocket, live.tls_version) == (True, "TLSv1.3")


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("websocket", [False, True])
async def test_tcp_finds_out_whose_other_end_is_gone(
    tmp_path: Path, certificate: DemoCertificate, websocket: bool, tls: bool
) -> None:
    context = certificate.client_context() if tls else None
    async with world(tmp_path, certificate, timeouts=Timeouts(keepalive_timeout=77.0)) as it, AsyncExitStack() as stack:
        if websocket:
            await (await stack.enter_async_context(page(it.address, context))).log_in()
        else:
            raw = await connect(it.address, context)
            stack.callback(raw.abandon)
            await raw.log_in()
        (live,) = it.proxy.live
        assert (live.is_websocket, live.tls_version is not None) == (websocket, tls)
        for leg in live.legs:
            with socket.socket(fileno=os.dup(leg.fd)) as sock:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), leg.side
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 77_000, leg.side


async def test_bytes_behind_the_request_are_the_websockets(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it, raw_page(it.address) as romeo:
        await romeo.upgrade(behind=text(OPEN.encode()))
        assert (await romeo.message()).startswith("<open ")
        assert "mechanisms" in await romeo.message()


async def test_pages_of_other_origins_are_kept_out(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, origins=("https://chat.example.org",)) as it:
        async with page(it.address, origin="https://chat.example.org") as romeo:
            await romeo.log_in()
        async with raw_page(it.address) as other:
            await other.send(request(Origin="https://evil.example"))
            assert (await other.everything()).startswith(b"HTTP/1.1 403 ")
        assert it.refused == {"http-403": 1}


async def test_a_stream_is_refused_in_messages(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it, page(it.address) as romeo:
        await romeo.send(OPEN.replace("localhost", "example.org"))
        assert (await romeo.read()).startswith("<open ")
        assert "<host-unknown " in await romeo.read()
        assert await romeo.read() == CLOSE
        assert await romeo.closed() == 1000
        assert it.refused == {"host-unknown": 1}


async def test_what_operators_see(tmp_path: Path, certificate: DemoCertificate) -> None:
    node = DemoNode("node1")
    async with running(node) as nursery:
        options = ("--certificate", str(certificate.certificate), "--key", str(certificate.key))
        async with command(nursery, tmp_path, nodes_file(tmp_path, [node]), *options) as proxy:
            tcp = await connect(proxy.address, certificate.client_context())
            await tcp.log_in("juliet")
            async with page(proxy.address, certificate.client_context()) as romeo:
                await romeo.log_in()
                rows = {row["jid"]: row for row in await proxy.show("sessions")}
                shown = {jid: (row["transport"], row["tls"]) for jid, row in rows.items()}
                assert shown == {
                    "juliet@localhost/r": ("tcp", "TLSv1.3"),
                    "romeo@localhost/r": ("websocket", "TLSv1.3"),
                }
                bound = {row["jid"]: row["transport"] for row in await proxy.event("bound", 2)}
                assert bound == {"juliet@localhost/r": "tcp", "romeo@localhost/r": "websocket"}
            await tcp.close()


# --- moves


async def drained(it: World, romeo: Page, *, resumable: bool = False) -> str:
    """Have the page's node drained. Return the request to move; ``resumable``: there is none."""
    await romeo.log_in()
    if resumable:
        await romeo.send(f"<enable xmlns='{names.SM}' resume='true'/>")
        assert "<enabled " in await romeo.read()
    (live,) = it.proxy.live
    it.proxy.console.drains.begin(live.session.node)
    return await romeo.read() if not resumable else ""


def public_ws(*numbers: int) -> dict[str, str]:
    return {f"node{number}": f"public-ws={URL}" for number in numbers}


async def test_a_page_is_asked_to_move(tmp_path: Path, certificate: DemoCertificate) -> None:
    """It hears of the other node's WebSocket, not of its address for others."""
    lines = {name: f"{line} public=tcp.example.org" for name, line in public_ws(1, 2).items()}
    async with (
        world(tmp_path, certificate, nodes=2, lines=lines) as it,
        page(it.address, certificate.client_context()) as romeo,
    ):
        asked = await drained(it, romeo)
        assert "<server>node2.example.org:5443</server>" in asked
        (iq_id,) = re.findall(r" id=['\"]([^'\"]+)", asked)
        await romeo.send(f"<iq xmlns='{names.CLIENT}' type='result' id='{iq_id}'/>")
        await romeo.send(CLOSE)
        assert await romeo.read() == CLOSE
        assert await romeo.closed() == 1000
        await until(lambda: it.ended == {"transferred": 1}, "it was moved")


async def refuse(romeo: Page, asked: str) -> None:
    (iq_id,) = re.findall(r" id=['\"]([^'\"]+)", asked)
    await romeo.send(
        f"<iq xmlns='{names.CLIENT}' type='error' id='{iq_id}'><error type='cancel'>"
        f"<service-unavailable xmlns='{names.STANZA_ERRORS}'/></error></iq>"
    )


async def test_a_page_that_refuses_is_sent_to_the_other_nodes_websocket(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with (
        world(tmp_path, certificate, nodes=2, lines=public_ws(1, 2)) as it,
        page(it.address, certificate.client_context()) as romeo,
    ):
        await refuse(romeo, await drained(it, romeo))
        escaped = URL.replace("&", "&amp;")
        assert await romeo.read() == f'<close xmlns="{FRAMING}" see-other-uri="{escaped}" />'
        assert await romeo.closed() == 1000


@pytest.mark.parametrize("tls", [True, False])
async def test_a_page_that_refuses_is_told_to_come_back(
    tmp_path: Path, certificate: DemoCertificate, tls: bool
) -> None:
    """Without TLS wherever the node's clients could be sent: anybody on the way could have written the address."""
    async with (
        world(tmp_path, certificate, nodes=2, lines={} if tls else public_ws(1, 2)) as it,
        page(it.address, certificate.client_context() if tls else None) as romeo,
    ):
        asked = await drained(it, romeo)
        assert "<server>localhost</server>" in asked
        await refuse(romeo, asked)
        assert "<reset " in await romeo.read()
        assert await romeo.read() == CLOSE
        assert await romeo.closed() == 1000


async def test_a_page_that_can_resume_is_cut(tmp_path: Path, certificate: DemoCertificate) -> None:
    """With not even a close frame: that would end what is to be resumed."""
    shared = {"node1": "resume=shared", "node2": "resume=shared"}
    async with world(tmp_path, certificate, nodes=2, lines=shared) as it:
        async with page(it.address) as romeo:
            await drained(it, romeo, resumable=True)
            assert await romeo.closed() is None
        await until(lambda: it.ended == {"transferred": 1}, "it was moved")


async def test_a_page_that_vanishes_can_resume(tmp_path: Path, certificate: DemoCertificate) -> None:
    """A closed tab sends a close frame at most, and no end of its stream."""
    async with world(tmp_path, certificate) as it:
        for code in (1001, None):
            async with raw_page(it.address) as romeo:
                await romeo.upgrade()
                await romeo.log_in()
                await romeo.say(f"<enable xmlns='{names.SM}' resume='true'/>")
                assert "<enabled " in await romeo.message()
                if code is not None:
                    await romeo.send(masked(8, code.to_bytes(2, "big")))
        await until(lambda: it.ended == {"client-lost": 2}, "their sessions end")
        await until(lambda: [each.leg for each in it.nodes[0].sessions] == [None, None], "they wait to be resumed")


# --- silence


async def test_a_page_that_answers_no_ping_is_gone(tmp_path: Path, certificate: DemoCertificate) -> None:
    timeouts = replace(PATIENT, websocket_ping=1.0)
    async with world(tmp_path, certificate, timeouts=timeouts) as it, raw_page(it.address) as romeo:
        await romeo.upgrade()
        await romeo.log_in()
        heard = await romeo.hear_all()
        assert len(heard.pings) == 1
        await until(lambda: it.ended == {"client-lost": 1}, "its session ends")


async def test_a_page_that_answers_is_not(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it, raw_page(it.address) as romeo:
        await romeo.upgrade()
        await romeo.log_in()
        (live,) = it.proxy.live
        live.ping()
        while not (await romeo.hear()).pings:
            pass
        assert live.websocket is not None
        assert live.websocket.awaits_pong
        await romeo.send(masked(PONG, romeo.heard.pings[0]))
        await until(lambda: live.websocket is not None and not live.websocket.awaits_pong, "the pong arrives")


# --- strangers


REQUESTS = [
    (200, request("/", Upgrade=None)),
    (200, request("/.well-known/host-meta", Upgrade=None)),
    (200, request("/", Upgrade=None) * 50),
    (404, request("/favicon.ico", Upgrade=None)),
    (404, request("/favicon.ico", Upgrade=None) * 50),
    (405, b"POST /xmpp-websocket HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)),
    (426, request(Upgrade=None)),
    (400, request(Sec_WebSocket_Protocol=None)),
    (400, b"HELO localhost\r\n\r\n"),
    (431, request(**{f"X_{number}": "y" for number in range(100)})),
    (431, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000),
]


@pytest.mark.parametrize("tls", [False, True])
async def test_requests_for_no_websocket(
    tmp_path: Path, certificate: DemoCertificate, caplog: pytest.LogCaptureFixture, tls: bool
) -> None:
    """Each gets one answer, and the connection ends."""
    caplog.set_level(logging.INFO)
    counted: Counter[str] = Counter()
    async with world(tmp_path, certificate) as it:
        for status, asked in REQUESTS:
            raw = await connect(it.address, certificate.client_context() if tls else None)
            await raw.send(asked)
            received = b""
            while data := bytes(await raw.connection.transport.receive_some()):
                received += data
            assert received.startswith(b"HTTP/1.1 %d " % status)
            assert received.count(b"HTTP/1.1 ") == 1
            assert b"\r\nConnection: close\r\n" in received
            counted[f"http-{status}"] += status != 200
            assert it.refused == dict(+counted)
            assert unwanted(caplog) == ["client-refused"] * counted.total()
            await raw.close()


async def test_a_request_that_never_ends(tmp_path: Path, certificate: DemoCertificate) -> None:
    timeouts = replace(PATIENT, tls_handshake_timeout=2.0)
    async with world(tmp_path, certificate, timeouts=timeouts) as it, raw_page(it.address) as slow:
        await slow.send(b"GET / HT")
        assert (await slow.everything()).startswith(b"HTTP/1.1 408 ")
        assert it.refused == {"connection-timeout": 1}


async def test_no_page_may_connect_in_the_clear_where_all_have_to_encrypt(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with world(tmp_path, certificate, starttls=StartTls.REQUIRED) as it, raw_page(it.address) as romeo:
        await romeo.send(request())
        received = await romeo.everything()
        assert received.startswith(b"HTTP/1.1 403 ")
        assert b"wss://" in received
        assert it.refused == {"http-403": 1}


FRAMES = [
    (1002, b"\x81\x02hi"),  # not masked
    (1002, masked(CONTINUATION, b"x")),
    (1003, masked(BINARY, b"x")),
    (1007, text(b"<a>\xff</a>")),
    (1007, masked(TEXT, b"<a>\xe2\x82", final=False) + masked(CONTINUATION, b"</a>")),  # half of a character
    (1008, masked(TEXT, b"<a", final=False) + masked(CONTINUATION, final=False) * 100),
    (1009, b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4)),
]
MESSAGES = [
    "<presence/><presence/>",
    "<presence>",
    "</presence>",
    "hello",
    "<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>",
    "</stream:stream>",
    "<!-- -->",
]
UNOPENED = [f"<close xmlns='{FRAMING}'/>", "<presence/>", "hello", f"<open xmlns='{FRAMING}'/>"]


def unwanted(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has of connections and sessions that were ended."""
    return [each.msg for each in caplog.records if each.msg in ("client-refused", "session-end")]


async def test_a_trusted_proxy_names_the_client(tmp_path: Path, certificate: DemoCertificate) -> None:
    """It has ended TLS, so its plain connections are served where others' are refused. Each address has its limit."""
    named = request(X_Forwarded_For="198.51.100.7, 203.0.113.9", X_Forwarded_Proto="https")
    limits = Limits(connections_per_address=1)
    async with world(tmp_path, certificate, starttls=StartTls.REQUIRED, limits=limits, trusted=("127.0.0.1",)) as it:
        async with raw_page(it.address) as romeo:
            await romeo.upgrade(asking=named)
            await romeo.log_in()
            (live,) = it.proxy.live
            assert (live.client_address, live.arrival.via) == ("203.0.113.9", "127.0.0.1")
            async with raw_page(it.address) as second:
                await second.send(named)
                assert (await second.everything()).startswith(b"HTTP/1.1 503 ")
            async with raw_page(it.address) as other:
                await other.upgrade(asking=request(X_Forwarded_For="203.0.113.10"))
                await other.log_in("benvolio")
        async with raw_page(it.address) as plain:
            await plain.send(request(X_Forwarded_For="203.0.113.11", X_Forwarded_Proto="http"))
            assert (await plain.everything()).startswith(b"HTTP/1.1 403 ")
        await until(lambda: not it.proxy.registry.connections, "everybody has left")
        assert it.refused == {"http-503": 1, "http-403": 1}


@pytest.mark.parametrize(
    ("scheme", "tls", "server"),
    [("https", "TLS", "node2.example.org:5443"), ("http", None, DOMAIN), (None, None, DOMAIN)],
)
async def test_a_page_behind_a_proxy_is_sent_elsewhere_if_it_has_tls_there(
    tmp_path: Path, certificate: DemoCertificate, scheme: str | None, tls: str | None, server: str
) -> None:
    async with (
        world(tmp_path, certificate, nodes=2, lines=public_ws(1, 2), trusted=("127.0.0.1",)) as it,
        raw_page(it.address) as romeo,
    ):
        await romeo.upgrade(asking=request(X_Forwarded_For="203.0.113.9", X_Forwarded_Proto=scheme))
        await romeo.log_in()
        (live,) = it.proxy.live
        assert live.tls_version == tls
        it.proxy.console.drains.begin(live.session.node)
        assert f"<server>{server}</server>" in await romeo.message()


async def test_tls_of_the_proxys_own_is_not_the_pages(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, starttls=StartTls.REQUIRED, trusted=("127.0.0.1",)) as it:
        raw = await connect(it.address, certificate.client_context())
        await raw.send(request(X_Forwarded_For="203.0.113.9", X_Forwarded_Proto="http"))
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await raw.connection.transport.receive_some()).startswith(b"HTTP/1.1 403 ")
        await raw.close()


async def test_nobody_else_names_a_client(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, trusted=("192.0.2.0/24",)) as it, raw_page(it.address) as romeo:
        await romeo.upgrade(asking=request(X_Forwarded_For="203.0.113.9", Forwarded="for=203.0.113.9"))
        await romeo.log_in()
        assert [(live.client_address, live.arrival.via) for live in it.proxy.live] == [("127.0.0.1", None)]


async def test_a_strangers_deep_element_ends_nobodys_session(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The node has let it pass, so it is no fault of the client's: over TCP it passes as well."""
    deep = "<a>" * 2 * Limits().max_depth + "</a>" * 2 * Limits().max_depth
    async with world(tmp_path, certificate) as it, page(it.address) as romeo:
        await romeo.log_in()
        (live,) = it.proxy.live
        it.nodes[0].push(live.session.full_jid or "", f"<message from='s@x'>{deep}</message>".encode())
        assert deep in await romeo.read()
        await romeo.echo("and on")


@pytest.mark.parametrize("late", [False, True], ids=["before a login", "in a session"])
async def test_frames_that_are_none(
    tmp_path: Path, certificate: DemoCertificate, caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    """They are told by the code of the close frame, and harm nobody else."""
    caplog.set_level(logging.INFO)
    async with world(tmp_path, certificate) as it, page(it.address) as good:
        await good.log_in()
        for number, (code, data) in enumerate(FRAMES, start=1):
            async with raw_page(it.address) as bad:
                await bad.upgrade()
                if late:
                    await bad.log_in("mallory")
                await bad.send(data)
                assert (await bad.hear_all()).close_code == code
            await it.has_counted(number)
            assert unwanted(caplog) == ["session-end" if late else "client-refused"] * number
            await good.echo(str(number))
        assert set(it.refused) | set(it.ended) <= {"client-fault", *StreamCondition}


@pytest.mark.parametrize("late", [False, True], ids=["before a login", "in a session"])
async def test_messages_that_are_no_element(
    tmp_path: Path, certificate: DemoCertificate, caplog: pytest.LogCaptureFixture, late: bool
) -> None:
    """They are told by a stream error and the stream's end."""
    caplog.set_level(logging.INFO)
    async with world(tmp_path, certificate) as it, page(it.address) as good:
        await good.log_in()
        for number, message in enumerate(MESSAGES, start=1):
            async with raw_page(it.address) as bad:
                await bad.upgrade()
                if late:
                    await bad.log_in("mallory")
                await bad.say(message)
                heard = await bad.hear_all()
            assert "<stream:error" in heard.messages[-2]
            assert heard.messages[-1] == CLOSE
            assert heard.close_code == 1000
            await it.has_counted(number)
            assert unwanted(caplog) == ["session-end" if late else "client-refused"] * number
            await good.echo(str(number))


async def test_a_stream_that_does_not_begin_with_open(
    tmp_path: Path, certificate: DemoCertificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with world(tmp_path, certificate) as it:
        for number, message in enumerate(UNOPENED, start=1):
            async with raw_page(it.address) as bad:
                await bad.upgrade()
                await bad.say(message)
                heard = await bad.hear_all()
            assert [each.split()[0] for each in heard.messages[:2]] == ["<open", "<stream:error"]
            assert heard.messages[2:] == [CLOSE]
            assert heard.close_code == 1000
            await it.has_counted(number)
            assert unwanted(caplog) == ["client-refused"] * number


async def test_a_message_without_an_end(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Before a login it is the element that is too long, long before the message is."""
    fragments = masked(TEXT, b"<a>", final=False) + masked(CONTINUATION, b"x" * 4096, final=False) * 80
    async with world(tmp_path, certificate) as it:
        async with raw_page(it.address) as stranger:
            await stranger.upgrade()
            await stranger.say(OPEN)
            await stranger.send(fragments[: 10 * 4104])
            heard = await stranger.hear_all()
            assert "<policy-violation " in heard.messages[-2]
            assert heard.close_code == 1000
        async with raw_page(it.address) as user:
            await user.upgrade()
            await user.log_in()
            await user.send(fragments)
            assert (await user.hear_all()).close_code == 1009
        await it.has_counted(2)


async def test_a_proxy_that_stops_says_so(tmp_path: Path) -> None:
    node = DemoNode("node1")
    async with running(node) as nursery, command(nursery, tmp_path, nodes_file(tmp_path, [node])) as proxy:
        async with raw_page(proxy.address) as half:
            await half.send(request()[:-2])
            await until_seen(proxy.address)
            proxy.process.send_signal(signal.SIGTERM)
            assert (await half.everything()).startswith(b"HTTP/1.1 503 ")
        assert await proxy.ended() == 0
        assert (await proxy.event("client-refused"))[0]["condition"] == "system-shutdown"


async def until_seen(address: HostPort) -> None:
    """Until what was sent to the proxy before has been read: it has answered somebody who came later."""
    async with raw_page(address) as later:
        await later.send(request("/", Upgrade=None))
        assert await later.everything()
