"""One look at a node: over which of its settings, what it may answer, and what is made of that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from relay_tools import no_leak, peer, server_context, until, write_pem
from trio.testing import MockClock
from waiting import PATIENCE_SECONDS

from cxfr_proxy.cluster.addresses import Address, UnixAddress
from cxfr_proxy.cluster.health import Finding
from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls, ProxyProtocol
from cxfr_proxy.config.table import Limits, Timeouts
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.proxy_header import read_proxy_header
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.probe import probe
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.opening import usual_header

HEADER = (
    b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='localhost' id='1'>"
)
FEATURES = b"<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
ERROR = b"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
TLS_WANTED = (  # as Prosody 13 says it
    b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
    b"<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits></stream:features>"
)
Handler = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_pem(tmp_path, "localhost")


@pytest.fixture
def dialer() -> Dialer:
    return Dialer(Timeouts(node_connect_timeout=50.0, tls_handshake_timeout=100.0), Limits(max_element_down=1000))


def node(port: int, tls: NodeTls = NodeTls.NONE, **options: object) -> NodeSpec:
    return NodeSpec("n", Address("127.0.0.1", port), tls=tls, **options)  # type: ignore[arg-type]


async def swallow(stream: trio.SocketStream) -> None:
    async with stream:
        async for _ in stream:
            pass


def says(reply: bytes, heard: list[bytes] | None = None) -> Handler:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            data = await stream.receive_some()
            await stream.send_all(reply)
            async for more in stream:
                data += more
            if heard is not None:
                heard.append(bytes(data))

    return serve


@pytest.mark.parametrize("tls", [NodeTls.STARTTLS, NodeTls.DIRECT])
async def test_features_are_those_that_a_session_gets(dialer: Dialer, certificate: Path, tls: NodeTls) -> None:
    """Behind TLS a node offers no STARTTLS any more."""
    demo = DemoNode(
        "n", offers=NodeOffers(starttls=server_context(certificate)), public_tls=server_context(certificate)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.serve)
        address = demo.public_address if tls is NodeTls.DIRECT else demo.address
        assert address is not None
        with no_leak():
            seen = await probe(
                dialer, node(address.port, tls, ca=str(certificate)), "localhost", seconds=PATIENCE_SECONDS
            )
            await until(lambda: not demo.streams)
        nursery.cancel_scope.cancel()
    assert (seen.finding, seen.reason) == (Finding.OK, None)
    assert seen.features is not None
    features = stanza.parse(seen.features, usual_header.CONTEXT)
    assert features.tag == "{http://etherx.jabber.org/streams}features"
    assert b"starttls" not in seen.features


async def test_the_stream_is_ended_as_it_should_be(dialer: Dialer) -> None:
    heard: list[bytes] = []
    async with peer(says(HEADER + FEATURES + b"</stream:stream>", heard)) as port:
        seen = await probe(dialer, node(port, send_proxy=ProxyProtocol.V1), "example.org", seconds=PATIENCE_SECONDS)
        assert seen.features == FEATURES
        await until(lambda: heard)
    assert heard[0].startswith(b"PROXY ")
    assert b'to="example.org"' in heard[0]
    assert heard[0].endswith(b"</stream:stream>")


@pytest.mark.parametrize("version", list(ProxyProtocol))
async def test_a_check_names_its_own_two_ends(dialer: Dialer, version: ProxyProtocol) -> None:
    """No real server reads a header that names nobody."""
    seen: list[tuple[object, ...]] = []

    async def serve(stream: trio.SocketStream) -> None:
        header = await read_proxy_header(stream)
        seen.append((header.source, header.destination, stream.socket.getpeername(), stream.socket.getsockname()))
        await stream.send_all(HEADER + FEATURES)

    async with peer(serve) as port:
        looked = await probe(dialer, node(port, send_proxy=version), "example.org", seconds=PATIENCE_SECONDS)
    assert looked.finding is Finding.OK
    [(source, destination, client, listener)] = seen
    assert (source, destination) == (client, listener)


@pytest.mark.parametrize(
    ("reply", "finding", "reason"),
    [
        (b"", Finding.SILENT, "the node did not answer in time"),
        (HEADER, Finding.SILENT, "the node did not answer in time"),
        (HEADER + ERROR, Finding.FAILED, "the node answered example.org by the stream error host-unknown"),
        (HEADER + b"</stream:stream>", Finding.FAILED, "the node ended the stream at once"),
        (HEADER + TLS_WANTED, Finding.FAILED, "it wants TLS before anything else: say tls=starttls on its line"),
        (HEADER + b"<stream:features/>", Finding.FAILED, "it offers no way to log in: "),
        (HEADER + b"<x/>", Finding.FAILED, "the node sent no stream features"),
        (HEADER + b"<a:b/>", Finding.FAILED, "the node used a prefix that its stream does not declare"),
        (b" " * 2000, Finding.FAILED, "the node's stream can't be read: more than 1000 bytes of white space"),
        (HEADER + b"\n" * 2000, Finding.FAILED, "the node's stream can't be read: more than 1000 bytes of white space"),
        (b"SSH-2.0-OpenSSH\r\n", Finding.FAILED, "the node's stream can't be read: "),
        (HEADER.decode().encode("utf-16"), Finding.FAILED, "the node's stream can't be read: only UTF-8 is supported"),
        (b"<stream xmlns='x'>", Finding.FAILED, "the stream's namespace is "),
    ],
)
async def test_what_is_found(
    dialer: Dialer, autojump_clock: MockClock, reply: bytes, finding: Finding, reason: str
) -> None:
    autojump_clock.autojump_threshold = 0.05  # sockets need real time
    with no_leak():
        async with peer(says(reply)) as port:
            began = trio.current_time()
            seen = await probe(dialer, node(port), "example.org", seconds=3.0)
            assert trio.current_time() - began <= 3.0
    assert seen.finding is finding
    assert (seen.reason or "").startswith(reason)
    assert seen.features is None


async def test_a_node_that_never_ends_its_side_is_well(dialer: Dialer, autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with peer(says(HEADER + FEATURES)) as port:
        seen = await probe(dialer, node(port), "example.org", seconds=0.5)
    assert (seen.finding, seen.features) == (Finding.OK, FEATURES)


async def test_nobody_listens(dialer: Dialer, tmp_path: Path) -> None:
    async with peer(swallow) as port:
        pass
    for address in (Address("127.0.0.1", port), Address("localhost", port), UnixAddress(str(tmp_path / "none"))):
        seen = await probe(dialer, NodeSpec("n", address), "localhost", seconds=PATIENCE_SECONDS)
        assert seen.finding is Finding.REFUSED, address


@pytest.mark.parametrize(
    ("header", "features", "portable"),
    [
        (HEADER, FEATURES, True),
        (b"<?xml version='1.0'?>\n" + HEADER.replace(b">", b" xmlns:db='jabber:server:dialback'>"), FEATURES, True),
        (HEADER.replace(b">", b" xmlns:x='urn:x'>"), FEATURES.replace(b"<bind", b"<x:y/><bind"), False),
        (HEADER.replace(b"stream:", b"s:").replace(b":stream=", b":s="), FEATURES.replace(b"stream:", b"s:"), False),
        (HEADER.replace(b"stream:", b"s:").replace(b":stream=", b":s="), b"<features/>", False),
        (
            HEADER.replace(b"stream:", b"s:").replace(b":stream=", b":s=").replace(b">", b" xmlns:stream='urn:x'>"),
            b"<s:features xmlns:s='http://etherx.jabber.org/streams'><stream:y/></s:features>",
            False,
        ),
    ],
)
async def test_features_that_mean_something_else_elsewhere_are_not_kept(
    dialer: Dialer, header: bytes, features: bytes, portable: bool
) -> None:
    async with peer(says(header + features + b"</stream:stream>")) as port:
        seen = await probe(dialer, node(port), "localhost", seconds=PATIENCE_SECONDS)
    assert seen.features == (features if portable else None)


@pytest.mark.parametrize(("domain", "stream"), [("localhost", False), (None, True), (None, False)])
async def test_only_connecting(dialer: Dialer, certificate: Path, domain: str | None, stream: bool) -> None:
    """STARTTLS would need a stream; a certificate, a name to check."""
    heard: list[bytes] = []

    async def serve(raw: trio.SocketStream) -> None:
        async with raw:
            heard.append(bytes(await raw.receive_some()))

    async with peer(serve) as port:
        for tls in (NodeTls.NONE, NodeTls.STARTTLS, NodeTls.DIRECT):
            ca = str(certificate) if tls is not NodeTls.NONE else None
            seen = await probe(dialer, node(port, tls, ca=ca), domain, seconds=PATIENCE_SECONDS, stream=stream)
            await until(lambda: heard)
            shook_hands = bool(heard.pop())
            assert shook_hands is (tls is NodeTls.DIRECT and domain is not None)
            assert (seen.finding is Finding.OK) is not shook_hands
