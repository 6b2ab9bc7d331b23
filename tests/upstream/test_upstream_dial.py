"""Reaching a node: every way it can be configured, and every step at which it can fail."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
from relay_tools import no_leak, peer, pem, server_context, until, write_pem
from shortages import few_descriptors

from cxfr_proxy.cluster.addresses import Address, UnixAddress
from cxfr_proxy.cluster.health import Finding
from cxfr_proxy.cluster.nodes import Migrate, NodeSpec, NodeTls, ProxyProtocol, Resume
from cxfr_proxy.config.table import KeyPair, Limits, Timeouts
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.proxy_header import read_proxy_header
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.errors import ConfigError, DomainRefused, NodeError, NoRoom
from cxfr_proxy.net.connection_limit import open_descriptors
from cxfr_proxy.net.node_tls import NodeCertificate
from cxfr_proxy.net.proxy_protocol import ProxiedConnection
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.session.commands import Dial
from cxfr_proxy.shortage import of_connecting
from cxfr_proxy.upstream.dial import Dialer, finding, has_broken, read_authorities_of
from cxfr_proxy.xmpp.opening.header import read_header

CLIENT = ProxiedConnection(("192.0.2.7", 40000), ("198.51.100.1", 5222), "TLSv1.3", "example.org", "17")
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
    b" from='localhost' id='1' version='1.0'>"
)
FEATURES = b"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>"
PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return write_pem(tmp_path, "localhost")


@pytest.fixture
def dialer() -> Dialer:
    return Dialer(Timeouts(node_connect_timeout=50.0, tls_handshake_timeout=100.0), Limits())


def node(port: int, tls: NodeTls = NodeTls.NONE, **options: object) -> NodeSpec:
    return NodeSpec("n", Address("127.0.0.1", port), tls=tls, **options)  # type: ignore[arg-type]


def says(*replies: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A node that answers each thing it reads with the next of these, then closes; without any, when it has read."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            for reply in replies or (b"",):
                await stream.receive_some()
                await stream.send_all(reply)

    return serve


async def listen_only(stream: trio.SocketStream) -> None:
    async with stream:
        async for _ in stream:
            pass


async def refused(dialer: Dialer, spec: NodeSpec, domain: str = "localhost") -> str:
    """The text of the fault; nothing may stay open, and the client is not told where nodes are."""
    with no_leak(), pytest.raises(NodeError) as caught:
        await dialer.dial(spec, domain, CLIENT)
    assert caught.value.condition == "remote-connection-failed"
    assert "127.0.0.1" not in caught.value.text
    return caught.value.text


async def test_plain_tcp(dialer: Dialer) -> None:
    async with peer(says(b"hello")) as port:
        endpoint = await dialer.dial(node(port), "localhost", CLIENT)
        await endpoint.send_all(b"x")
        assert await endpoint.receive_some() == b"hello"
        endpoint.close()


async def test_ipv6(dialer: Dialer) -> None:
    async with peer(says(b"hello"), host="::1") as port:
        spec = NodeSpec("n", Address("::1", port))
        endpoint = await dialer.dial(spec, "localhost", CLIENT)
        endpoint.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_node_that_vanished_is_given_up(dialer: Dialer, host: str) -> None:
    async with peer(_wait, host=host) as port:
        spec = NodeSpec("n", Address(host, port))
        endpoint = await dialer.dial(spec, "localhost", CLIENT)
        assert isinstance(endpoint.transport, PlainTransport)
        given = endpoint.transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert given == 1000 * Timeouts().keepalive_timeout
        endpoint.close()


async def _wait(stream: trio.SocketStream) -> None:
    await stream.receive_some()


async def test_unix_socket(dialer: Dialer, tmp_path: Path) -> None:
    path = str(tmp_path / "c2s")
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(path)
    sock.listen()
    spec = NodeSpec("n", UnixAddress(path), send_proxy=ProxyProtocol.V2)
    endpoint = await dialer.dial(spec, "localhost", CLIENT)
    accepted, _ = await sock.accept()
    header = await read_proxy_header(trio.SocketStream(accepted))
    assert header.source == CLIENT.source
    for each in (endpoint, sock, accepted):
        each.close()
    assert await refused(dialer, NodeSpec("n", UnixAddress(path + "-missing"))) == (
        "no connection to the node: No such file or directory"
    )


@pytest.mark.parametrize("version", list(ProxyProtocol))
async def test_proxy_header_comes_first(dialer: Dialer, version: ProxyProtocol, certificate: Path) -> None:
    """Before TLS as well."""
    headers = []

    async def serve(stream: trio.SocketStream) -> None:
        headers.append(await read_proxy_header(stream))
        tls = trio.SSLStream(stream, server_context(certificate), server_side=True)
        await tls.do_handshake()

    async with peer(serve) as port:
        spec = node(port, NodeTls.DIRECT, ca=str(certificate), send_proxy=version)
        (await dialer.dial(spec, "localhost", CLIENT)).close()
    assert (headers[0].source, headers[0].destination) == (CLIENT.source, CLIENT.target)


@pytest.mark.parametrize("tls", [NodeTls.DIRECT, NodeTls.STARTTLS])
async def test_tls(dialer: Dialer, tls: NodeTls, certificate: Path) -> None:
    demo = DemoNode(
        "n", offers=NodeOffers(starttls=server_context(certificate)), public_tls=server_context(certificate)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.serve)
        address = demo.address if tls is NodeTls.STARTTLS else demo.public_address
        assert address is not None
        spec = node(address.port, tls, ca=str(certificate))
        endpoint = await dialer.dial(spec, "localhost", CLIENT)
        assert endpoint.transport.is_encrypted
        await endpoint.send_all(HEADER.replace(b"from=", b"to="))
        assert b"<stream:stream" in await endpoint.receive_some()
        endpoint.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("domain", "verify_name", "good"),
    [
        ("localhost", None, True),
        ("example.org", None, False),
        ("example.org", "localhost", True),
        ("localhost", "n1.example.org", False),
        ("", None, False),
        ("..", None, False),
        ("a" * 64 + ".org", None, False),
        ("exämple.org", None, False),
    ],
)
async def test_the_name_in_the_nodes_certificate(
    dialer: Dialer, certificate: Path, domain: str, verify_name: str | None, good: bool
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server_context(certificate), server_side=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(tls)

    async with peer(serve) as port:
        spec = node(port, NodeTls.DIRECT, ca=str(certificate), verify_name=verify_name)
        if good:
            (await dialer.dial(spec, domain, CLIENT)).close()
        else:
            with pytest.raises(NodeError) as caught:
                await dialer.dial(spec, domain, CLIENT)
            assert caught.value.condition == "remote-connection-failed"
            assert isinstance(caught.value, DomainRefused) == (verify_name is None), "the client's word is no proof"
            if domain == "example.org":
                assert "certificate was not accepted" in caught.value.text


async def test_another_authority(dialer: Dialer, certificate: Path, tmp_path: Path) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, server_context(certificate), server_side=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(tls)

    other = write_pem(tmp_path, "other.example")
    async with peer(serve) as port:
        with pytest.raises(NodeError, match="certificate was not accepted") as caught:
            await dialer.dial(node(port, NodeTls.DIRECT, ca=str(other)), "localhost", CLIENT)
        assert not isinstance(caught.value, DomainRefused), "whatever a client asks for"
        # The file is read once, until the dialer is told that it may have changed.
        other.write_bytes(pem("localhost"))
        with pytest.raises(NodeError, match="certificate was not accepted"):
            await dialer.dial(node(port, NodeTls.DIRECT, ca=str(other)), "localhost", CLIENT)
        spec = node(port, NodeTls.DIRECT, ca=str(other))
        dialer.take(read_authorities_of([spec]))
        (await dialer.dial(spec, "localhost", CLIENT)).close()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_ca_file_that_is_no_good_any_more_changes_nothing(
    dialer: Dialer, tmp_path: Path, content: bytes | None
) -> None:
    """The files that were read last stay in use, here and in a process that is told of it."""
    path = write_pem(tmp_path, "localhost")
    spec = node(0, NodeTls.DIRECT, ca=str(path))
    dialer.take(read_authorities_of([spec]))
    context = dialer._context(spec)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="CA certificates"):
        read_authorities_of([spec])
    assert dialer._context(spec) is context
    other = Dialer(Timeouts(), Limits())
    other.take(dialer.authorities)
    assert other._context(spec).get_ca_certs() == context.get_ca_certs() != []


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_unusable_ca_file(dialer: Dialer, tmp_path: Path, content: bytes | None) -> None:
    """The file may vanish while the proxy runs: that ends an attempt, and the next node is tried."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    async with peer(listen_only) as port:
        with pytest.raises(NodeError, match="CA certificates"):
            await dialer.dial(node(port, NodeTls.DIRECT, ca=str(path)), "localhost", CLIENT)


async def test_nobody_listens(dialer: Dialer) -> None:
    async with peer(listen_only) as port:
        pass
    assert await refused(dialer, node(port)) == "no connection to the node: Connection refused"
    # A name with an IPv4 and an IPv6 address fails in another way.
    spec = NodeSpec("n", Address("localhost", port))
    assert await refused(dialer, spec) == "no connection to the node: Connection refused"


async def test_a_name_that_does_not_exist(dialer: Dialer) -> None:
    text = await refused(dialer, NodeSpec("n", Address("node.invalid", 5222)))
    assert text.startswith("no connection to the node: ")


STEPS: dict[str, list[tuple[bytes, ...]]] = {
    "the node closed the connection": [(), (HEADER,), (b"<stream:stre",)],
    "the node does not offer STARTTLS": [
        (HEADER + b"<stream:features/>",),
    ],
    "the node answered localhost by the stream error host-unknown": [
        (HEADER + b"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",),
    ],
    "the node refused STARTTLS": [
        (HEADER + FEATURES, b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>"),
    ],
    "the node sent plain bytes behind <proceed/>": [
        (HEADER + FEATURES, PROCEED + b"<x/>"),
        (HEADER + FEATURES, PROCEED + b" "),
    ],
    "the node ended the stream at once": [(HEADER + b"</stream:stream>",)],
    "the node's stream can't be read: ": [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (HEADER + b"<!-- no -->",),
        (HEADER + b"<a>" + b"x" * 2_000_000,),
    ],
    "the node sent no stream features": [(HEADER + b"<message/>",)],
}


@pytest.mark.parametrize(("text", "replies"), [(text, replies) for text, each in STEPS.items() for replies in each])
async def test_a_node_that_fails_at_a_step_of_starttls(
    dialer: Dialer, certificate: Path, text: str, replies: tuple[bytes, ...]
) -> None:
    async with peer(says(*replies)) as port:
        with pytest.raises(NodeError) as caught:
            await dialer.dial(node(port, NodeTls.STARTTLS, ca=str(certificate)), "localhost", CLIENT)
    assert caught.value.text.startswith(text)


@pytest.mark.parametrize(
    "replies",
    [
        (b"<a:b>",),
        (HEADER + b"<a:b/>",),
        (HEADER + FEATURES, b"<a:b/>"),
        (HEADER + FEATURES,),
        (HEADER + FEATURES, PROCEED, b"not a handshake"),
        (HEADER + FEATURES, PROCEED),
    ],
)
async def test_a_node_that_sends_nonsense(dialer: Dialer, certificate: Path, replies: tuple[bytes, ...]) -> None:
    async with peer(says(*replies)) as port:
        with pytest.raises(NodeError) as caught:
            await dialer.dial(node(port, NodeTls.STARTTLS, ca=str(certificate)), "localhost", CLIENT)
    assert caught.value.condition == "remote-connection-failed"


@pytest.mark.parametrize("tls", [NodeTls.DIRECT, NodeTls.STARTTLS])
async def test_a_node_that_says_nothing(
    dialer: Dialer, certificate: Path, tls: NodeTls, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # sockets need real time
    async with peer(listen_only) as port:
        began = trio.current_time()
        with pytest.raises(NodeError) as caught:
            await dialer.dial(node(port, tls, ca=str(certificate)), "localhost", CLIENT)
        assert caught.value.text == "the node did not answer in time"
        assert 100.0 <= trio.current_time() - began < 160.0


@pytest.mark.parametrize("tls", list(NodeTls))
async def test_cancelled(dialer: Dialer, certificate: Path, tls: NodeTls) -> None:
    ca = str(certificate) if tls is not NodeTls.NONE else None
    async with peer(listen_only) as port:
        before = open_descriptors()
        with trio.CancelScope() as scope:
            if tls is NodeTls.NONE:
                scope.cancel()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def cancel() -> None:
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    scope.cancel()

                spec = node(port, tls, ca=ca)
                await dialer.dial(spec, "localhost", CLIENT)
        assert scope.cancelled_caught
        await until(lambda: open_descriptors() == before)  # the node's end too, once ours is closed


# --- names


class NameServers(trio.abc.HostnameResolver):
    """``says``: the error of a lookup; ``None``: there is no answer; addresses: they are the answer. By ``clock`` time
    goes on while somebody waits for an answer, and only then."""

    def __init__(self, clock: trio.testing.MockClock | None = None) -> None:
        self.says: str | int | None = "127.0.0.1"
        self.clock = clock
        self.asked: list[object] = []
        trio.socket.set_custom_hostname_resolver(self)  # of this test's own run

    async def getaddrinfo(self, host: object, port: Any, *_: object, **__: object) -> Any:
        self.asked.append(host)
        while self.says is None:
            assert self.clock is not None
            self.clock.jump(26.0)  # a little more than half of the time
            await trio.lowlevel.checkpoint()
        if isinstance(self.says, int):
            raise socket.gaierror(self.says, "as the test wants it")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (each, port)) for each in self.says.split()]

    async def getnameinfo(self, *_: object) -> NoReturn:
        raise NotImplementedError


@pytest.fixture
async def resolved() -> list[object]:
    """The names that were looked up."""
    return NameServers().asked


async def connect(dialer: Dialer, spec: NodeSpec) -> None:
    (await dialer.dial(spec, "localhost", CLIENT)).close()


async def test_a_name_is_looked_up_for_checks_and_for_the_first_session(dialer: Dialer, resolved: list[object]) -> None:
    async with peer(listen_only) as port:
        spec = NodeSpec("n", Address("localhost", port))
        await connect(dialer, spec)
        await connect(dialer, spec)
        assert resolved == [b"localhost"]
        (await dialer.dial(spec, "localhost", None, resolve=True)).close()
        assert resolved == [b"localhost"] * 2
        await connect(dialer, spec)
        assert len(resolved) == 2
        dialer.take({})
        await connect(dialer, spec)
        assert len(resolved) == 3
        await connect(dialer, node(port))
        assert len(resolved) == 3, "an address is no name"


async def test_a_name_is_looked_up_again_where_it_led_nowhere(dialer: Dialer, resolved: list[object]) -> None:
    async with peer(listen_only) as port:
        spec = NodeSpec("n", Address("localhost", port))
        await connect(dialer, spec)
    assert "Connection refused" in await refused(dialer, spec)
    assert len(resolved) == 2
    async with peer(listen_only) as other:  # the name leads elsewhere now
        moved = NodeSpec("n", Address("localhost", other))
        assert isinstance(moved.address, Address)
        dialer._answered[moved.address] = (socket.AF_INET, ("127.0.0.1", port))
        await connect(dialer, moved)
        assert len(resolved) == 3
        await connect(dialer, moved)
        assert len(resolved) == 3


@pytest.mark.parametrize("says", [socket.EAI_AGAIN, socket.EAI_FAIL, None])
async def test_a_node_is_not_down_because_its_name_can_t_be_looked_up(
    dialer: Dialer, mock_clock: trio.testing.MockClock, says: int | None
) -> None:
    servers = NameServers(mock_clock)
    async with peer(listen_only) as port:
        spec = NodeSpec("n", Address("n.example", port))
        (await dialer.dial(spec, "localhost", None, resolve=True)).close()
        servers.says = says
        dialer.take({})
        for _ in range(2):
            (await dialer.dial(spec, "localhost", None, resolve=True)).close()
        looked_up = len(servers.asked)
        await connect(dialer, spec)
        assert len(servers.asked) == looked_up, "a session goes where the check has just been, and waits for no answer"
        await trio.testing.wait_all_tasks_blocked(0.01)  # the peer has accepted it, and seen its end
        stranger = NodeSpec("m", Address("m.example", port))
        assert await refused(dialer, stranger) in (
            "the node did not answer in time",
            "no connection to the node: as the test wants it",
        )
    assert await refused(dialer, spec) == "no connection to the node: Connection refused"


async def test_a_session_does_not_wait_for_the_lookup_of_a_check(dialer: Dialer) -> None:
    class Slow(NameServers):
        async def getaddrinfo(self, host: object, port: Any, *_: object, **__: object) -> Any:
            self.asked.append(host)
            await trio.sleep_forever()

    NameServers()
    async with peer(listen_only) as port:
        spec = NodeSpec("n", Address("n.example", port))
        await connect(dialer, spec)
        servers = Slow()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(dialer.dial, spec, "localhost", None, resolve=True))
            await until(lambda: bool(servers.asked))
            with trio.fail_after(1):
                await connect(dialer, spec)
            nursery.cancel_scope.cancel()
    assert len(servers.asked) == 1


async def test_a_name_of_several_addresses_leads_to_the_one_that_answers(dialer: Dialer) -> None:
    NameServers().says = "127.0.0.2 127.0.0.1"
    async with peer(listen_only) as port:
        for _ in range(2):
            (await dialer.dial(NodeSpec("n", Address("n.example", port)), "localhost", None, resolve=True)).close()


async def test_a_name_that_there_is_not_leads_nowhere(dialer: Dialer) -> None:
    """Name servers have answered."""
    servers = NameServers()
    async with peer(listen_only) as port:
        spec = NodeSpec("n", Address("n.example", port))
        (await dialer.dial(spec, "localhost", None, resolve=True)).close()
        servers.says = socket.EAI_NONAME
        with pytest.raises(NodeError, match="as the test wants it"):
            await dialer.dial(spec, "localhost", None, resolve=True)


async def greet(dialer: Dialer, spec: NodeSpec) -> None:
    """TLS 1.3 tells a client behind its handshake that it is refused."""
    endpoint = await dialer.dial(spec, "localhost", CLIENT)
    try:
        await dialer.probe_stream(endpoint).open("localhost")
    finally:
        endpoint.close()


async def test_the_proxy_s_certificate_is_shown_where_it_logs_in_itself_and_nowhere_else(tmp_path: Path) -> None:
    """On a connection on which it is shown, a client could log in as anybody."""
    nodes, proxys = _certificates(tmp_path)
    migration_tls = nodes.migration_context(proxys)
    certificate = NodeCertificate(KeyPair(proxys.certificate, proxys.key))
    dialer = Dialer(Timeouts(), Limits(), certificate)
    demo = DemoNode("n", cluster=DemoCluster(shared=True), migration_tls=migration_tls)
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.serve)
        assert demo.migration_address is not None
        spec = _taking(nodes, demo.address.port, demo.migration_address.port)
        dial = _kims_dial()
        with pytest.raises(NodeError, match="the proxy may not log in there"):
            await dialer.log_in(spec, dial, CLIENT)
        dialer.use(Timeouts(), Limits(), NodeCertificate(content=certificate.read()))
        with pytest.raises(NodeError, match="the proxy may not log in there"):
            await dialer.log_in(replace(spec, resume=Resume.OWN), dial, CLIENT)
        endpoint, leg = await dialer.log_in(spec, dial, CLIENT)
        assert leg.name == "n"
        assert {stream.user for stream in demo.streams} == {"kim@localhost"}
        endpoint.close()

        greeting = await dialer.probe_stream(plain := await dialer.dial(spec, "localhost", CLIENT)).open("localhost")
        assert b"EXTERNAL" not in greeting.features
        plain.close()
        with pytest.raises((NodeError, OSError)):
            await greet(dialer, spec.for_migration)
        nursery.cancel_scope.cancel()


# --- what this machine lacks


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-name.invalid", "/nowhere"])
async def test_that_there_is_no_descriptor_is_no_fault_of_the_nodes(dialer: Dialer, host: str) -> None:
    """The C library says then that it does not know the name."""
    "x".encode("idna")  # the codec, which has to be loaded
    place = UnixAddress(host) if host.startswith("/") else Address(host, 9)
    with few_descriptors(), pytest.raises(NoRoom, match="Too many open files") as caught:
        await dialer.dial(NodeSpec("n", place), "localhost", CLIENT)
    assert finding(caught.value) is Finding.UNTRIED


@pytest.mark.parametrize(("text", "lacking"), [("can't start new thread", True), ("something else", False)])
async def test_that_there_is_no_thread_is_no_fault_of_the_nodes(dialer: Dialer, text: str, lacking: bool) -> None:
    class NoThreads(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_: object) -> NoReturn:
            raise RuntimeError(text)

        async def getnameinfo(self, *_: object) -> NoReturn:
            raise NotImplementedError

    before = trio.socket.set_custom_hostname_resolver(NoThreads())
    try:
        with pytest.raises(NoRoom if lacking else RuntimeError, match=text):
            await dialer.dial(NodeSpec("n", Address("n.invalid", 9)), "localhost", CLIENT)
    finally:
        trio.socket.set_custom_hostname_resolver(before)


@pytest.mark.parametrize(
    ("number", "lacking"),
    [
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.ENOMEM, True),
        (errno.ENOBUFS, True),
        (errno.EADDRNOTAVAIL, True),
        (errno.ECONNREFUSED, False),
        (errno.ETIMEDOUT, False),
        (errno.EAGAIN, False),  # a unix socket whose listener has too many waiting
        (errno.EACCES, False),
    ],
)
def test_what_this_machine_may_lack(number: int, lacking: bool) -> None:
    assert of_connecting(OSError(number, "")) == (os.strerror(number) if lacking else None)
    assert of_connecting(socket.gaierror(socket.EAI_NONAME, "")) is None, "there are descriptors"


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((errno.EADDRNOTAVAIL, errno.ECONNREFUSED), Finding.REFUSED),
        ((errno.ECONNREFUSED, errno.EADDRNOTAVAIL), Finding.REFUSED),
        ((errno.EADDRNOTAVAIL, errno.EADDRNOTAVAIL), Finding.UNTRIED),
    ],
)
async def test_of_several_addresses_the_one_that_was_tried_counts(
    dialer: Dialer, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], expected: Finding
) -> None:
    """A name has an IPv6 address, and this machine has none."""

    async def fail(*_: object) -> NoReturn:
        raise OSError("all attempts to connect failed") from ExceptionGroup("", [OSError(each, "") for each in numbers])

    monkeypatch.setattr(trio, "open_tcp_stream", fail)
    with pytest.raises(NodeError) as caught:
        await dialer.dial(NodeSpec("n", Address("n.invalid", 9)), "localhost", CLIENT)
    assert finding(caught.value) is expected


# --- a connection that breaks while the proxy logs in


def _certificates(folder: Path) -> tuple[DemoCertificate, DemoCertificate]:
    """The nodes' and the proxy's."""
    return make_certificate(folder, "localhost"), make_certificate(folder, "proxy.example.org", "proxy")


def _taking(nodes: DemoCertificate, port: int, migrate_port: int) -> NodeSpec:
    """A node at which the proxy may log in as any user."""
    at = Address("127.0.0.1", migrate_port)
    ca = str(nodes.certificate)
    return node(port, resume=Resume.SHARED, migrate=Migrate.EXTERNAL, migrate_address=at, ca=ca)


def _kims_dial() -> Dial:
    header = read_header(b"".join((HEADER[:-1], b" to='localhost'>")), NodeError)
    return Dial("n", "kim@localhost", header.addressed(to="localhost", from_="kim@localhost"))


def _reset(stream: trio.SocketStream) -> None:
    """Close it so that the other side gets an RST."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def _close_at_once(stream: trio.SocketStream, _: ssl.SSLContext) -> None:
    await stream.aclose()


async def _reset_at_once(stream: trio.SocketStream, _: ssl.SSLContext) -> None:
    _reset(stream)


async def _close_in_the_handshake(stream: trio.SocketStream, _: ssl.SSLContext) -> None:
    async with stream:
        await stream.receive_some()


async def _reset_in_the_handshake(stream: trio.SocketStream, _: ssl.SSLContext) -> None:
    await stream.receive_some(10)
    _reset(stream)


async def _close_in_the_login(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    async with trio.SSLStream(stream, context, server_side=True) as tls:
        await tls.receive_some()


async def _reset_in_the_login(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    await trio.SSLStream(stream, context, server_side=True).receive_some()
    _reset(stream)


async def _refuse_the_login(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    tls = trio.SSLStream(stream, context, server_side=True)
    await tls.receive_some()
    await tls.send_all(HEADER + b"<stream:features/>")
    await listen_only(stream)


@pytest.mark.parametrize(
    ("serve", "broke"),
    [
        (_close_at_once, True),
        (_reset_at_once, True),
        (_close_in_the_handshake, True),
        (_reset_in_the_handshake, True),
        (_close_in_the_login, True),
        (_reset_in_the_login, True),
        (_refuse_the_login, False),
    ],
)
async def test_a_login_whose_connection_broke_is_told_from_one_that_was_refused(
    serve: Callable[[trio.SocketStream, ssl.SSLContext], Awaitable[None]], broke: bool, tmp_path: Path
) -> None:
    nodes, proxys = _certificates(tmp_path)
    async with peer(partial(_served, serve, nodes.migration_context(proxys))) as port:
        assert await _why_no_login(_taking(nodes, 1, port), proxys) is broke


async def test_a_login_where_nobody_listens_has_not_broken(tmp_path: Path) -> None:
    nodes, proxys = _certificates(tmp_path)
    async with peer(listen_only) as port:
        pass
    assert await _why_no_login(_taking(nodes, 1, port), proxys) is False


async def test_a_login_at_a_stranger_has_not_broken(tmp_path: Path) -> None:
    """The node's certificate is not one of the authority's."""
    (nodes, proxys), other = _certificates(tmp_path), make_certificate(tmp_path, "localhost", "other")
    async with peer(partial(_served, _close_in_the_login, other.migration_context(proxys))) as port:
        assert await _why_no_login(_taking(nodes, 1, port), proxys) is False


async def _served(
    serve: Callable[[trio.SocketStream, ssl.SSLContext], Awaitable[None]],
    context: ssl.SSLContext,
    stream: trio.SocketStream,
) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the proxy has given it up
        await serve(stream, context)


async def _why_no_login(spec: NodeSpec, proxys: DemoCertificate) -> bool:
    """Whether the connection broke, and was not refused."""
    certificate = NodeCertificate(KeyPair(proxys.certificate, proxys.key))
    dialer = Dialer(Timeouts(), Limits(), NodeCertificate(content=certificate.read()))
    with pytest.raises((NodeError, OSError)) as caught:
        await dialer.log_in(spec, _kims_dial(), CLIENT)
    return has_broken(caught.value.__cause__ if isinstance(caught.value, NodeError) else caught.value)
