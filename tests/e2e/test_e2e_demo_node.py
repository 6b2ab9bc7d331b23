"""The demo's node and clients, face to face: what the other end-to-end tests lean on has to stand by itself.

``Raw`` is a client that says exactly what a test tells it to; the ``DemoClient`` tests let the node play the proxy's
part with :meth:`DemoNode.push` and :meth:`DemoNode.end`.
"""

from __future__ import annotations

import base64
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from ports import free_port

from cxfr_proxy.demo.account import ClientAccount, MessageCounts, Numbered, SessionRecord, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Life, Security, SeenRung, Traffic
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.stream import ACK_EVERY, NodeOffers
from cxfr_proxy.demo.wire import (
    Connection,
    EndOfFile,
    HostPort,
    Malformed,
    StreamClosed,
    StreamEvent,
    StreamOpened,
    StreamParser,
)
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.stanza import Element, serialize, stream_condition

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='localhost'>"
)
PATIENCE_SECONDS = 60  # only a test that fails waits for so long


def plain(user: str, password: str = "secret") -> str:
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    directory: Path = tmp_path_factory.mktemp("certificate")
    return make_certificate(directory, "localhost")


async def until(condition: Callable[[], bool]) -> None:
    """Let the sockets work until it holds. Fails, with the condition's source line, after ``PATIENCE_SECONDS``."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens beyond sockets, in no task of ours
            await trio.sleep(0.002)


@asynccontextmanager
async def running(*nodes: DemoNode) -> AsyncIterator[trio.Nursery]:
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.serve)
            yield nursery
            nursery.cancel_scope.cancel()


class Raw:
    """A connection on which a test writes bytes and reads events."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.connection = Connection(transport)

    async def send(self, text: str | bytes) -> None:
        await self.connection.transport.send_all(text.encode() if isinstance(text, str) else text)

    async def read(self) -> StreamEvent:
        return await self.connection.read()

    async def element(self) -> Element:
        incoming = await self.read()
        assert isinstance(incoming, Element), incoming
        return incoming

    async def xml(self) -> str:
        return serialize(await self.element()).decode()

    async def open(self) -> str:
        """A stream header, its answer and the features."""
        await self.send(HEADER)
        assert isinstance(await self.read(), StreamOpened)
        return await self.xml()

    async def log_in(self, user: str = "romeo", resource: str = "r") -> str:
        await self.open()
        await self.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{plain(user)}</auth>")
        assert "success" in await self.xml()
        self.connection.restart()
        await self.open()
        if not resource:
            return ""
        await self.send(f"<iq type='set' id='b'><bind xmlns='{names.BIND}'><resource>{resource}</resource></bind></iq>")
        assert f"{user}@localhost/{resource}" in await self.xml()
        return f"{user}@localhost/{resource}"

    async def enable(self) -> str:
        await self.send(f"<enable xmlns='{names.SM}' resume='true'/>")
        sm_id = (await self.element()).get("id")
        assert sm_id
        return sm_id

    async def close(self) -> None:
        await self.connection.close()


async def connect(address: HostPort | None, tls: ssl.SSLContext | None = None) -> Raw:
    assert address is not None
    stream: trio.abc.Stream = await trio.open_tcp_stream(*address)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="localhost")
    return Raw(stream)


@asynccontextmanager
async def connected(node: DemoNode) -> AsyncIterator[Raw]:
    raw = await connect(node.address)
    try:
        yield raw
    finally:
        await raw.close()


# ---- the parser ----


def test_parser_gives_the_same_events_for_every_cut() -> None:
    stream = HEADER + b" <message to='a'><body>&lt;x>\xc3\xa9</body></message> <iq type='get'/>\n</stream:stream>"

    def shown(items: list[StreamEvent]) -> list[str]:
        return [serialize(item).decode() if isinstance(item, Element) else repr(item) for item in items]

    whole = shown(StreamParser().feed(stream))
    assert len(whole) == 4
    for cut in range(1, len(stream)):
        parser = StreamParser()
        assert shown([*parser.feed(stream[:cut]), *parser.feed(stream[cut:])]) == whole
    parser = StreamParser()
    assert shown([item for byte in stream for item in parser.feed(bytes([byte]))]) == whole


@pytest.mark.parametrize(
    "bad",
    [
        HEADER + b"<!-- hidden --><iq/>",
        HEADER + b"<?php ?>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + HEADER.partition(b"?>")[2],
        HEADER + b"<a></b>",
        HEADER + b"</stream:stream>junk",
        b"<html>",
    ],
)
def test_parser_reports_what_no_stream_may_hold(bad: bytes) -> None:
    assert [item for item in StreamParser().feed(bad) if isinstance(item, Malformed)]


def test_parser_never_reports_an_element_with_an_undeclared_entity() -> None:
    parser = StreamParser()
    seen = [
        item
        for piece in (HEADER, b"<a>&undefined;</a>", b"<b/>", b"<c/><d/>")
        for item in parser.feed(piece)
        if not isinstance(item, StreamOpened)
    ]
    assert len(seen) == 1
    assert isinstance(seen[0], Malformed)


def test_parser_forgets_old_elements() -> None:
    parser = StreamParser()
    parser.feed(HEADER)
    for _ in range(50):
        (element,) = parser.feed(b"<message/> ")
        assert isinstance(element, Element)
        parent = element.getparent()
        assert parent is not None
        assert len(parent) == 1


def test_an_element_that_is_read_one_by_one_is_written_as_it_was() -> None:
    """A web client writes what it reads here: with a prefix it would be a stanza like nobody's."""
    stanzas = [f"<message id='{number}'><body>x</body></message>" for number in range(3)]
    _, *written = [
        serialize(item).decode() if isinstance(item, Element) else ""
        for item in StreamParser().read(HEADER + "".join(stanzas).encode())
    ]
    assert [each.partition(" ")[0] for each in written] == ["<message"] * 3


def test_parser_gives_what_stood_before_the_fault() -> None:
    header, message, fault = StreamParser().feed(HEADER + b"<message/><a></b>")
    assert isinstance(header, StreamOpened)
    assert isinstance(message, Element)
    assert isinstance(fault, Malformed)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a.example", ("a.example", 5222)),
        ("a.example:1", ("a.example", 1)),
        ("[2001:db8::1]:2", ("2001:db8::1", 2)),
        ("[::1]", ("::1", 5222)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    assert HostPort.parse(text) == address
    assert HostPort.parse(str(HostPort.parse(text))) == address


# ---- the books ----


def test_account_sends_again_what_was_not_answered() -> None:
    account = ClientAccount("a@b")
    first, second, third = (account.number() for _ in range(3))
    account.saw(first)
    account.bounced(second.number, wait=True)
    account.stream_lost()
    assert account.again() == [second, third]
    assert (account.resent, account.in_flight, account.due_again) == (2, {2, 3}, set())


def test_judge() -> None:
    account = ClientAccount("a@b")
    for _ in range(5):
        account.number()
    account.saw(Numbered("a@b", 1))
    account.saw(Numbered("a@b", 2))
    account.saw(Numbered("a@b", 2))
    account.saw(Numbered("a@b", 3))
    account.bounced(4, wait=False)
    account.saw(Numbered("n:1", 1))
    record = SessionRecord("a@b/r", "n:1", ["n"], [Numbered("a@b", 3)], {1, 2})
    other = SessionRecord("a@b/r", "m:1", ["m"], [Numbered("a@b", 3)])
    stranger = SessionRecord("x@b/r", "n:2", ["n"], [Numbered("a@b", 1)] * 2, {1})
    # up: 5 is lost, 2 was echoed twice, 3 taken in by two nodes, 4 refused; down: 2 is lost
    assert judge(account, [record, other, stranger]) == MessageCounts(
        sent=7, received=4, resent=0, refused=1, lost=2, twice=2
    )


# ---- the node: logging in ----


async def test_sasl_bind_session_ping_disco_and_unknown_iqs() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        assert await raw.log_in() == "romeo@localhost/r"
        for payload, answer in (
            (f"<session xmlns='{names.SESSION}'/>", 'type="result"'),
            (f"<ping xmlns='{names.PING}'/>", 'type="result"'),
            (f"<query xmlns='{names.DISCO_INFO}'/>", 'category="server"'),
            ("<query xmlns='urn:nothing'/>", "service-unavailable"),
        ):
            await raw.send(f"<iq type='get' id='i' to='localhost'>{payload}</iq>")
            reply = await raw.xml()
            assert answer in reply
            assert 'id="i"' in reply
        await raw.send("<iq type='result' id='proxy-1'/><iq type='error' id='proxy-2'/></stream:stream>")
        assert await raw.read() == StreamClosed()
        assert await raw.read() == EndOfFile()
        assert node.records[0].replies == {"proxy-1": "result", "proxy-2": "error"}
        await until(lambda: not node.sessions)


async def test_a_restart_pipelined_behind_the_password() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        await raw.send(
            HEADER + f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{plain('a')}</auth>".encode() + HEADER
            + f"<iq type='set' id='b'><bind xmlns='{names.BIND}'/></iq>".encode()
        )  # fmt: skip
        await raw.read()
        await raw.element()
        assert "success" in await raw.xml()
        raw.connection.restart()
        await raw.read()
        await raw.element()
        assert "a@localhost/" in await raw.xml()  # with a resource of the node's making


async def test_wrong_password_and_no_password() -> None:
    node = DemoNode("n1", offers=NodeOffers(check_password=lambda user, password: password == f"{user}!"))
    async with running(node), connected(node) as raw:
        await raw.open()
        for secret in (plain("a", "b"), "***", plain("")):
            await raw.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{secret}</auth>")
            assert "not-authorized" in await raw.xml()
        await raw.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{plain('a', 'a!')}</auth>")
        assert "success" in await raw.xml()


@pytest.mark.parametrize(
    ("sent", "condition"),
    [
        (HEADER + b"<message to='echo.localhost'/>", "not-authorized"),
        (HEADER + b"<blah xmlns='urn:x'/>", "unsupported-stanza-type"),
        (HEADER + b"<a></b>", "not-well-formed"),
        (HEADER.replace(b"localhost", b"elsewhere"), "host-unknown"),
    ],
)
async def test_stream_errors(sent: bytes, condition: str) -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        await raw.send(sent)
        while not isinstance(error := await raw.read(), Element) or not str(error.tag).endswith("}error"):
            assert error != EndOfFile()
        assert stream_condition(error) == condition
        assert await raw.read() == StreamClosed()
        assert await raw.read() == EndOfFile()


async def test_sasl2_with_bind2_and_inline_stream_management() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        assert names.SASL2 in await raw.open()
        await raw.send(
            f"<authenticate xmlns='{names.SASL2}' mechanism='PLAIN'><initial-response>{plain('romeo')}"
            f"</initial-response><bind xmlns='{names.BIND2}'><tag>t</tag><enable xmlns='{names.SM}' resume='true'/>"
            "</bind></authenticate>"
        )
        success = await raw.element()
        jid = success.findtext(f"{{{names.SASL2}}}authorization-identifier")
        enabled = success.find(f".//{{{names.SM}}}enabled")
        assert jid is not None
        assert jid.startswith("romeo@localhost/t~")
        assert enabled is not None
        assert "features" in await raw.xml()
        node.deliver(jid, b"<message id='m'/>")
        assert "message" in await raw.xml()
        await raw.close()
        again = await connect(node.address)
        await again.open()
        await again.send(
            f"<authenticate xmlns='{names.SASL2}' mechanism='PLAIN'><initial-response>{plain('romeo')}"
            f"</initial-response><resume xmlns='{names.SM}' h='0' previd='{enabled.get('id')}'/></authenticate>"
        )
        assert "resumed" in await again.xml()
        assert (await again.element()).get("id") == "m"  # not acknowledged, so again; and no features before it
        await again.close()


# ---- the node: TLS and PROXY ----


async def test_starttls_on_the_plain_address_drops_what_came_before(certificate: DemoCertificate) -> None:
    node = DemoNode("n1", offers=NodeOffers(starttls=certificate.server_context()))
    async with running(node), connected(node) as raw:
        features = await raw.open()
        assert "required" in features
        assert "PLAIN" not in features
        await raw.send(f"<starttls xmlns='{names.TLS}'/><message/>")
        assert "proceed" in await raw.xml()
        tls = trio.SSLStream(raw.connection.transport, certificate.client_context(), server_hostname="localhost")
        await tls.do_handshake()
        raw.connection.upgrade(tls)
        await raw.log_in()
        assert node.stream_of("romeo@localhost/r").tls


async def test_public_address_takes_direct_tls_and_starttls(certificate: DemoCertificate) -> None:
    node = DemoNode("n1", public_tls=certificate.server_context())
    async with running(node):
        raw = await connect(node.public_address, certificate.client_context())
        await raw.log_in()
        await raw.close()
        clear = await connect(node.public_address)
        assert "starttls" in await clear.open()
        await clear.close()


V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.mark.parametrize(
    ("header", "source", "tlvs"),
    [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", ("192.0.2.1", 1), {}),
        (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", ("2001:db8::1", 1), {}),
        (V2 + b"\x21\x11\0\x11\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02\x02\0\x02hi", ("192.0.2.1", 1), {2: b"hi"}),
        (V2 + b"\x21\x21\0\x24" + b"\0" * 15 + b"\x01" + b"\0" * 16 + b"\0\x01\0\x02", ("::1", 1), {}),
    ],
)
async def test_proxy_headers(header: bytes, source: tuple[str, int], tlvs: dict[int, bytes]) -> None:
    node = DemoNode("n1", proxy_protocol=True)
    async with running(node), connected(node) as raw:
        for byte in header:
            await raw.send(bytes([byte]))
        await raw.log_in()
        seen = node.stream_of("romeo@localhost/r").proxy_header
        assert seen is not None
        assert (seen.source, seen.tlvs) == (source, tlvs)


@pytest.mark.parametrize(
    "start",
    [
        HEADER,
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        V2 + b"\x31\0\0\0",
        b"PROXY UNKNOWN\r\n",
        V2 + b"\x20\0\0\0",
    ],
)
async def test_a_connection_without_proxy_header_is_reset(start: bytes) -> None:
    node = DemoNode("n1", proxy_protocol=True)
    async with running(node), connected(node) as raw:
        await raw.send(start)
        with pytest.raises(trio.BrokenResourceError):
            await raw.connection.transport.receive_some()


# ---- the node: stanzas ----


async def test_everything_that_came_is_echoed_before_the_stream_ends() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        await raw.log_in()
        await raw.send(
            "".join(
                f"<message to='echo.localhost' id='{n}'><body>romeo@localhost #{n}</body></message>" for n in range(500)
            )
            + "</stream:stream>"
        )
        seen = [(await raw.element()).get("id") for _ in range(500)]
        assert seen == [str(n) for n in range(500)]
        assert await raw.read() == StreamClosed()
        assert node.records[0].received == [Numbered("romeo@localhost", n) for n in range(500)]


async def test_messages_reach_a_peer_on_another_node_or_bounce() -> None:
    cluster = DemoCluster()
    one, two = DemoNode("n1", cluster=cluster), DemoNode("n2", cluster=cluster)
    async with running(one, two), connected(one) as romeo, connected(two) as juliet:
        await romeo.log_in("romeo")
        await juliet.log_in("juliet")
        for to in ("juliet@localhost/r", "juliet@localhost"):
            await romeo.send(f"<message to='{to}'><body>hi</body></message>")
            assert (await juliet.element()).get("from") == "romeo@localhost/r"
        await romeo.send("<message to='nobody@localhost' id='x'><body>hi</body></message>")
        bounced = await romeo.xml()
        assert "service-unavailable" in bounced
        assert 'from="nobody@localhost"' in bounced


async def test_a_second_bind_of_the_same_resource_ends_the_first() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as first, connected(node) as second:
        await first.log_in()
        await second.log_in()
        assert "conflict" in await first.xml()
        await second.send("<message to='echo.localhost' id='e'/>")
        assert (await second.element()).get("id") == "e"


# ---- the node: stream management ----


@pytest.mark.parametrize("shared", [True, False])
async def test_resumption_on_another_node_needs_a_shared_cluster(shared: bool) -> None:
    cluster = DemoCluster(shared=shared)
    one, two = DemoNode("n1", cluster=cluster), DemoNode("n2", cluster=cluster)
    async with running(one, two), connected(one) as first, connected(two) as second:
        jid = await first.log_in()
        sm_id = await first.enable()
        for n in range(3):
            await first.send(f"<message to='echo.localhost' id='{n}'/>")
            await first.element()
        await first.send(f"<r xmlns='{names.SM}'/>")
        assert 'h="3"' in await first.xml()
        await one.cut(jid)
        await until(lambda: cluster.sessions[jid].leg is None)
        await second.log_in(resource="")
        await second.send(f"<resume xmlns='{names.SM}' h='1' previd='{sm_id}'/>")
        answer = await second.xml()
        if not shared:
            assert "item-not-found" in answer
            return
        assert "resumed" in answer
        assert 'h="3"' in answer
        assert [(await second.element()).get("id") for _ in range(2)] == ["1", "2"]
        assert [session.full_jid for session in two.sessions] == [jid]
        assert not one.sessions


async def test_an_h_too_high_ends_the_stream() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        jid = await raw.log_in()
        await raw.enable()
        node.deliver(jid, b"<message id='1'/>")
        await raw.element()
        await raw.send(f"<a xmlns='{names.SM}' h='1'/>")
        node.deliver(jid, b"<message id='2'/>")
        assert (await raw.element()).get("id") == "2"
        await raw.send(f"<a xmlns='{names.SM}' h='3'/>")
        error = await raw.xml()
        assert "handled-count-too-high" in error
        assert 'send-count="2"' in error
        assert await raw.read() == StreamClosed()


async def test_closing_the_stream_ends_resumability() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw, connected(node) as again:
        await raw.log_in()
        sm_id = await raw.enable()
        await raw.send("</stream:stream>")
        assert await raw.read() == StreamClosed()
        await again.log_in(resource="")
        await again.send(f"<resume xmlns='{names.SM}' h='0' previd='{sm_id}'/>")
        assert "item-not-found" in await again.xml()


# ---- the node: stopping ----


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (StopStyle.SYSTEM_SHUTDOWN, ["system-shutdown", "end", "eof"]),
        (StopStyle.RESET, ["reset", "eof"]),
        (StopStyle.KILL, ["eof"]),
    ],
)
async def test_ways_to_stop(how: StopStyle, expected: list[str]) -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        await raw.log_in()
        await node.stop(how)
        seen: list[str] = []
        while not seen or seen[-1] != "eof":
            incoming = await raw.read()
            if isinstance(incoming, Element):
                seen.append(stream_condition(incoming))
            else:
                seen.append("end" if incoming == StreamClosed() else "eof")
        assert seen == expected
        assert not node.sessions
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(*node.address)


async def test_serve_ends_when_the_node_has_stopped() -> None:
    node = DemoNode("n1")
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(node.serve)
            raw = await connect(node.address)
            await raw.log_in()
            await node.stop(StopStyle.SYSTEM_SHUTDOWN)
            await raw.close()
    assert not node.streams


async def test_refuse_leaves_the_sessions_alive() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        await raw.log_in()
        await node.stop(StopStyle.REFUSE)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(*node.address)
        await raw.send("<message to='echo.localhost' id='e'/>")
        assert (await raw.element()).get("id") == "e"


async def test_push_sends_any_bytes() -> None:
    node = DemoNode("n1")
    async with running(node), connected(node) as raw:
        jid = await raw.log_in()
        node.push(jid, b"<message id='half'><bo")
        with trio.move_on_after(0.02) as scope:
            await raw.read()
        assert scope.cancelled_caught
        node.push(jid, b"dy/></message>")
        assert (await raw.element()).get("id") == "half"


# ---- clients ----


def client_of(node: DemoNode, kind: ClientKind, user: str = "romeo", **more: float) -> DemoClient:
    return DemoClient(
        f"{user}@localhost",
        kind,
        node.address,
        rng=random.Random(7),
        traffic=Traffic(more.get("interval", 0.004)),
        back_off_seconds=0.02,
    )


CXFR_IQ = (
    "<iq xmlns='jabber:client' type='set' id='go' from='{sender}' to='{to}'>"
    "<query xmlns='urn:xmpp:cxfr'><domain>localhost</domain><server>{server}</server></query></iq>"
)


def tell(node: DemoNode, client: DemoClient, server: str, sender: str = "localhost") -> None:
    assert client.full_jid is not None
    node.deliver(client.full_jid, CXFR_IQ.format(sender=sender, to=client.full_jid, server=server).encode())


async def wind_up(client: DemoClient, *nodes: DemoNode, twice: int = 0) -> MessageCounts:
    """Let the traffic settle, log out, and judge. So many may have come twice."""
    client.quiet()
    await until(lambda: client.account.settled)
    nodes[0].cluster.push_intervals.clear()
    client.leave()
    await until(lambda: client.life is Life.GONE)
    assert client.faults == []
    tally = judge(client.account, [record for node in nodes for record in node.records])
    assert tally.sent > 20
    assert tally.lost == 0, client.account
    assert tally.twice <= twice, client.account
    return tally


@asynccontextmanager
async def pair(kind: ClientKind, *, shared: bool = True) -> AsyncIterator[tuple[DemoNode, DemoNode, DemoClient]]:
    """Two nodes and a client on the first, with traffic both ways."""
    cluster = DemoCluster(shared=shared)
    one, two = DemoNode("n1", cluster=cluster), DemoNode("n2", cluster=cluster)
    async with running(one, two) as nursery:
        client = client_of(one, kind)
        one.start_pushing(client.bare_jid, 0.004)
        await nursery.start(client.run)
        await until(lambda: client.account.echoes.total() > 10 and client.account.pushed.total() > 10)
        yield one, two, client


async def here(client: DemoClient, node: DemoNode) -> None:
    """The client is back, on that node, and its traffic flows there."""
    await until(lambda: client.life is Life.BOUND and len(client.moves) == 1)
    assert [session.node for session in node.cluster.find(client.bare_jid)] == [node.name]
    seen = client.account.echoes.total()
    await until(lambda: client.account.echoes.total() > seen + 5)


@pytest.mark.parametrize("kind", [ClientKind.CXFR, ClientKind.CXFR_SILENT])
async def test_cxfr_clients_close_and_go_where_they_are_told(kind: ClientKind) -> None:
    async with pair(kind) as (one, two, client):
        tell(one, client, str(two.address))
        await here(client, two)
        assert [move.rung for move in client.moves] == [SeenRung.CXFR]
        assert one.records[0].replies == ({"go": "result"} if kind is ClientKind.CXFR else {})
        await wind_up(client, one, two)


async def test_cxfr_to_the_domain_leads_back_home() -> None:
    async with pair(ClientKind.CXFR) as (one, _, client):
        tell(one, client, "localhost")
        await here(client, one)
        assert client.moves[0].where == one.address
        await wind_up(client, one)


async def test_cxfr_from_a_stranger_is_not_followed() -> None:
    async with pair(ClientKind.CXFR) as (one, two, client):
        tell(one, client, str(two.address), sender="mallory@localhost/x")
        await until(lambda: client.faults != [])
        assert client.faults.pop().startswith("cxfr from mallory")
        seen = client.account.echoes.total()
        await until(lambda: client.account.echoes.total() > seen + 5)
        assert one.sessions
        await wind_up(client, one)


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        (ClientKind.SEE_OTHER_HOST, {"go": "error"}),
        (ClientKind.PLAIN, {"go": "error"}),
        (ClientKind.STREAM_MANAGEMENT, {"go": "error"}),
        (ClientKind.MUTE, {}),
    ],
)
async def test_what_the_others_answer_to_the_iq(kind: ClientKind, reply: dict[str, str]) -> None:
    async with pair(kind) as (one, two, client):
        tell(one, client, str(two.address))
        seen = client.account.echoes.total()
        await until(lambda: client.account.echoes.total() > seen + 5)
        assert one.records[0].replies == reply
        assert one.sessions
        await wind_up(client, one)


@pytest.mark.parametrize(
    "kind", [ClientKind.SEE_OTHER_HOST, ClientKind.PLAIN, ClientKind.MUTE, ClientKind.STREAM_MANAGEMENT]
)
async def test_see_other_host_is_followed_by_some(kind: ClientKind) -> None:
    async with pair(kind) as (one, two, client):
        assert client.full_jid is not None
        one.end(client.full_jid, StreamCondition.SEE_OTHER_HOST, str(two.address))
        await here(client, two if kind is ClientKind.SEE_OTHER_HOST else one)
        assert [move.rung for move in client.moves] == [SeenRung.SEE_OTHER_HOST]
        # What the client had not acknowledged its next session gets, though it may have come.
        await wind_up(client, one, two, twice=2 * ACK_EVERY if kind is ClientKind.STREAM_MANAGEMENT else 0)


async def test_stream_management_resumes_after_a_cut_and_loses_nothing() -> None:
    async with pair(ClientKind.STREAM_MANAGEMENT) as (one, _, client):
        assert client.full_jid is not None
        await one.cut(client.full_jid)
        await here(client, one)
        assert (client.moves[0].rung, client.moves[0].resumed) == (SeenRung.CUT, True)
        assert len(one.records) == 1
        await wind_up(client, one)


async def test_what_waited_for_a_user_comes_when_the_new_session_is_available() -> None:
    """Behind ``<enable/>``, so that it is counted: a connection that is lost now loses nothing of it."""
    node = DemoNode("node1", "localhost")
    async with running(node):
        async with connected(node) as former:
            await former.log_in()
            await former.enable()
            await former.send("<message to='echo.localhost' id='m1'><body>news</body></message>")
            assert "news" in await former.xml()
            await former.send("</stream:stream>")
            assert isinstance(await former.read(), StreamClosed)
        async with connected(node) as lost:
            await lost.log_in()
        async with connected(node) as there:
            await there.log_in()
            await there.enable()
            await there.send("<presence/>")
            assert "news" in await there.xml()


async def test_stream_management_binds_anew_where_the_session_is_unknown() -> None:
    async with pair(ClientKind.STREAM_MANAGEMENT, shared=False) as (one, two, client):
        assert client.full_jid is not None
        client.home = type(client.home)(two.address, Security.NONE)
        await one.cut(client.full_jid)
        await here(client, two)
        assert (client.moves[0].rung, client.moves[0].resumed) == (SeenRung.CUT, False)


async def test_a_node_that_shuts_down_resends_what_was_under_way() -> None:
    async with pair(ClientKind.PLAIN) as (one, two, client):
        client.home = type(client.home)(two.address, Security.NONE)
        await one.stop(StopStyle.SYSTEM_SHUTDOWN)
        await here(client, two)
        assert client.moves[0].rung is SeenRung.RESET
        await wind_up(client, one, two)


async def test_an_error_of_type_wait_is_sent_again() -> None:
    node = DemoNode("n1")
    async with running(node) as nursery:
        client = client_of(node, ClientKind.PLAIN, interval=60)
        await nursery.start(client.run)
        first = client.account.number()
        assert client.full_jid is not None
        node.deliver(
            client.full_jid,
            f"<message type='error' id='n{first.number}' from='echo.localhost'><error type='wait'/></message>".encode(),
        )
        await until(lambda: client.account.due_again == {1})
        node.end(client.full_jid, StreamCondition.RESET)
        await until(lambda: client.account.echoes == {1: 1})
        assert client.account.resent == 1


async def test_peers_echo_to_each_other() -> None:
    node = DemoNode("n1")
    async with running(node) as nursery:
        romeo, juliet = client_of(node, ClientKind.PLAIN), client_of(node, ClientKind.PLAIN, "juliet", interval=60)
        romeo.traffic = Traffic(0.004, peer="juliet@localhost/demo")
        await nursery.start(juliet.run)
        await nursery.start(romeo.run)
        await until(lambda: romeo.account.echoes.total() > 5)


@pytest.mark.parametrize("security", [Security.STARTTLS, Security.DIRECT_TLS])
async def test_clients_over_tls(certificate: DemoCertificate, security: Security) -> None:
    node = DemoNode("n1", public_tls=certificate.server_context())
    async with running(node) as nursery:
        assert node.public_address is not None
        client = DemoClient(
            "romeo@localhost", ClientKind.CXFR, node.public_address,
            rng=random.Random(1), login=ClientLogin(security, certificate.client_context()), traffic=Traffic(0.004),
        )  # fmt: skip
        await nursery.start(client.run)
        assert node.stream_of("romeo@localhost/demo").tls
        await until(lambda: client.account.echoes.total() > 5)
        client.leave()
        await until(lambda: client.life is Life.GONE)
        assert client.faults == []


async def test_a_client_checks_the_certificate_against_the_domain(certificate: DemoCertificate) -> None:
    node = DemoNode("n1", "example.org", public_tls=certificate.server_context())
    async with running(node) as nursery:
        assert node.public_address is not None
        client = DemoClient(
            "romeo@example.org", ClientKind.CXFR, node.public_address, rng=random.Random(1),
            login=ClientLogin(security=Security.DIRECT_TLS, tls=certificate.client_context()), back_off_seconds=0.01,
        )  # fmt: skip
        nursery.start_soon(client.run)
        await until(lambda: len(client.faults) >= 2)
        assert "BrokenResource" in client.faults[0]
        assert not node.sessions


async def test_capabilities_are_asked_and_told() -> None:
    node = DemoNode("n1", offers=NodeOffers(asks_capabilities=True))
    async with running(node) as nursery:
        await nursery.start(client_of(node, ClientKind.CXFR).run)
        await until(lambda: list(node.records[0].replies.values()) == ["result"])


async def test_features_and_location_for_a_proxy_to_strip() -> None:
    node = DemoNode(
        "n1", offers=NodeOffers(extra_features="<compression xmlns='urn:c'/>", sm_location="elsewhere.example:5222")
    )
    async with running(node), connected(node) as idle, connected(node) as raw:
        assert "compression" in await idle.open()
        await raw.log_in()
        await raw.send(f"<enable xmlns='{names.SM}' resume='true'/>")
        assert 'location="elsewhere.example:5222"' in await raw.xml()


async def test_bound_waits_for_a_node_that_comes_late() -> None:
    late = DemoNode("n1", port=free_port())
    client = client_of(late, ClientKind.PLAIN)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await until(lambda: len(client.faults) >= 2)
            await nursery.start(late.serve)
            await client.bound()
            assert client.logins == 1
            nursery.cancel_scope.cancel()


async def test_a_refused_login_is_the_end() -> None:
    node = DemoNode("n1", offers=NodeOffers(check_password=lambda user, password: False))
    async with running(node) as nursery:
        client = client_of(node, ClientKind.PLAIN)
        nursery.start_soon(client.run)
        await until(lambda: client.life is Life.GONE)
        assert client.logins == 0
