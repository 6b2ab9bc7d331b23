"""The demo's node, face to face with a client that says exactly what a test tells it to."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from demo_world import HEADER, PATIENCE_SECONDS, connect, connected, plain, running, until

from cxfr_proxy.demo.account import Numbered
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.demo.wire import (
    EndOfFile,
    StreamClosed,
)
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, stream_condition


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    directory: Path = tmp_path_factory.mktemp("certificate")
    return make_certificate(directory, "localhost")


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
