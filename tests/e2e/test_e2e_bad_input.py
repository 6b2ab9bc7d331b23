"""The proxy answers anything that is sent to it with the right stream error, and goes on serving others.

The proxy runs in this process, behind real sockets; the demo's node is behind it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from e2e_proxy import HEADER, PATIENCE_SECONDS, ProxyHere, Raw, connect, in_process, nodes_file, running, until

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, Limits, StartTls, Timeouts
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import IQ_TAG, EndOfFile, HostPort, Malformed, StreamClosed
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element

pytestmark = pytest.mark.usefixtures("engines")


@dataclass
class World:
    proxy: ProxyHere
    address: HostPort
    node: DemoNode
    certificate: DemoCertificate

    async def raw(self, *, tls: bool = False) -> Raw:
        return await connect(self.address, self.certificate.client_context() if tls else None)

    async def lets_in_a_good_client(self) -> bool:
        """Log in; False where the proxy has ended that for the time it took."""
        try:
            good = await self.raw(tls=True)
        except OSError:
            return False
        try:
            return await good.log_in("juliet") == "juliet@localhost/r"
        except (AssertionError, trio.BrokenResourceError):
            return False
        finally:
            await good.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@asynccontextmanager
async def world(
    directory: Path,
    certificate: DemoCertificate,
    starttls: StartTls = StartTls.OFF,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> AsyncIterator[World]:
    """A proxy and its node; when the test is done, a well-behaved client must still get through.

    The test's limits bind it too, and on a busy machine a login may take longer: so it tries until it is in.
    """
    node = DemoNode("node1")
    async with running(node):
        config = Config(
            backends=FileBackends(str(nodes_file(directory, [node]))),
            domain=("localhost",),
            certificate=(certificate.certificate,),
            key=(certificate.key,),
            starttls=starttls,
            control=directory / "c.sock",
            timeouts=timeouts or Timeouts(see_other_host_timeout=0.5, node_close_timeout=1.0),
            limits=limits or Limits(),
        )
        async with in_process(config) as (proxy, address):
            it = World(proxy, address, node, certificate)
            yield it
            with trio.fail_after(PATIENCE_SECONDS):
                while not await it.lets_in_a_good_client():
                    pass


STREAM = "xmlns:stream='http://etherx.jabber.org/streams'"
OPENING_FAULTS = {
    "wrong stream namespace": (
        b"<stream:stream xmlns='jabber:client' xmlns:stream='urn:x' version='1.0' to='localhost'>",
        "invalid-namespace",
    ),
    "wrong default namespace": (
        f"<stream:stream xmlns='jabber:server' {STREAM} version='1.0' to='localhost'>".encode(),
        "invalid-namespace",
    ),
    "no namespace": (b"<stream:stream to='localhost'>", "bad-namespace-prefix"),
    "not a stream": (f"<stream:strem xmlns='jabber:client' {STREAM} to='localhost'>".encode(), "bad-format"),
    "no to": (HEADER.replace(b" to='localhost'", b""), "improper-addressing"),
    "empty to": (HEADER.replace(b"to='localhost'", b"to=''"), "improper-addressing"),
    "another domain": (HEADER.replace(b"to='localhost'", b"to='example.org'"), "host-unknown"),
    "no version": (HEADER.replace(b" version='1.0' to", b" to"), "unsupported-version"),
    "old version": (HEADER.replace(b"version='1.0' to", b"version='0.9' to"), "unsupported-version"),
    "SMTP": (b"helo localhost\r\n", "not-well-formed"),
    "binary": (bytes(range(128, 256)), "not-well-formed"),
    "null bytes": (b"\0" * 100, "unsupported-encoding"),
    "UTF-16": (HEADER.decode().encode("utf-16"), "unsupported-encoding"),
    "UTF-16 without a mark": (HEADER.decode().encode("utf-16-be"), "unsupported-encoding"),
    "latin-1": (b"<?xml version='1.0' encoding='ISO-8859-1'?>" + HEADER, "unsupported-encoding"),
    "DTD": (b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + HEADER, "restricted-xml"),
    "billion laughs": (
        b"<!DOCTYPE a [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><stream:stream to='&b;'>",
        "restricted-xml",
    ),
    "comment": (b"<!-- hello -->" + HEADER, "restricted-xml"),
    "processing instruction": (b"<?php echo 1 ?>" + HEADER, "restricted-xml"),
    "endless start tag": (b"<stream:stream a='" + b"x" * 100_000, "policy-violation"),
    "endless white space": (b" " * 100_000, "policy-violation"),
    "two declarations": (b"<?xml version='1.0'?><?xml version='1.0'?>" + HEADER, "restricted-xml"),
    "end first": (b"</stream:stream>", "not-well-formed"),
}


@pytest.mark.parametrize("case", OPENING_FAULTS)
@pytest.mark.parametrize("starttls", [StartTls.REQUIRED, StartTls.OFF])
async def test_a_stream_that_opens_badly(
    tmp_path: Path, certificate: DemoCertificate, starttls: StartTls, case: str
) -> None:
    data, condition = OPENING_FAULTS[case]
    async with world(tmp_path, certificate, starttls) as it:
        raw = await it.raw()
        await raw.send(data)
        assert await raw.error() == condition


BEFORE_BIND = {
    "endless white space": (b"\n" * 100_000, "policy-violation"),
    "unknown entity": (b"<auth>&nbsp;</auth>", "restricted-xml"),
    "comment": (b"<auth><!-- x --></auth>", "restricted-xml"),
    "DTD": (b"<!DOCTYPE a>", "not-well-formed"),
    "10,000 deep": (b"<a>" * 10_000, "policy-violation"),
    "endless element": (b"<a>" + b"x" * 1_000_000, "policy-violation"),
    "endless start tag": (b"<a b='" + b"x" * 1_000_000, "policy-violation"),
    "text between elements": (b"hello<a/>", "bad-format"),
    "wrong end tag": (b"<a></b>", "not-well-formed"),
    "bad UTF-8": (b"<a>\xff\xfe</a>", "not-well-formed"),
    "undeclared prefix": (b"<a:b/>", "bad-namespace-prefix"),
}


@pytest.mark.parametrize("case", BEFORE_BIND)
async def test_before_bind(tmp_path: Path, certificate: DemoCertificate, case: str) -> None:
    data, condition = BEFORE_BIND[case]
    async with world(tmp_path, certificate) as it:
        raw = await it.raw()
        await raw.open()
        with contextlib.suppress(trio.BrokenResourceError):
            await raw.send(data)
        assert await raw.error() == condition


BOUND = {
    "unknown entity": (b"<message>&nbsp;</message>", "restricted-xml"),
    "comment": (b"<message><!-- x --></message>", "restricted-xml"),
    "10,000 deep": (b"<a>" * 10_000, "policy-violation"),
    "endless element": (b"<message><body>" + b"x" * 1_000_000, "policy-violation"),
    "text between elements": (b"hello<message/>", "bad-format"),
    "wrong end tag": (b"<message></iq>", "not-well-formed"),
    "bad UTF-8": (b"<message>\xc0\x80</message>", "not-well-formed"),
}


@pytest.mark.parametrize("case", BOUND)
@pytest.mark.parametrize("tls", [False, True])
async def test_once_bound(tmp_path: Path, certificate: DemoCertificate, tls: bool, case: str) -> None:
    """The node gets what was whole, and a clean end; the other client's session does not notice."""
    data, condition = BOUND[case]
    async with world(tmp_path, certificate) as it:
        other = await it.raw()
        await other.log_in("juliet", resource="other")
        raw = await it.raw(tls=tls)
        full_jid = await raw.log_in()
        with contextlib.suppress(trio.BrokenResourceError):
            await raw.send(b"<message to='echo.localhost' id='1'><body>x #1</body></message>" + data)
        # Whoever breaks its stream may miss the answer to what came before.
        assert await raw.error() == condition
        await until(lambda: full_jid not in it.node.cluster.sessions)
        record = next(record for record in it.node.records if record.full_jid == full_jid)
        assert [str(each) for each in record.received] == ["x #1"], "what was whole has reached the node"
        await other.send(b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        assert (await other.element()).get("id") == "p"
        await other.close()


@pytest.mark.parametrize("data", [b"\x16", b"\x16" * 500, b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\xff\xff"])
async def test_garbage_after_the_first_byte_of_tls(tmp_path: Path, certificate: DemoCertificate, data: bytes) -> None:
    """No stream error: whoever speaks TLS could not read it."""
    timeouts = Timeouts(tls_handshake_timeout=1.0)
    async with world(tmp_path, certificate, timeouts=timeouts) as it:
        stream = await trio.open_tcp_stream(*it.address)
        await stream.send_all(data)
        with trio.fail_after(60), contextlib.suppress(trio.BrokenResourceError):
            assert b"<" not in await stream.receive_some()
        await stream.aclose()


async def test_a_client_that_never_sends_anything(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, timeouts=Timeouts(tls_handshake_timeout=1.0)) as it:
        raw = await it.raw()
        await raw.closed()


@pytest.mark.parametrize("starttls", [StartTls.REQUIRED, StartTls.OFF])
@pytest.mark.parametrize("data", [b"<", b" " * 1000, HEADER[:60], HEADER], ids=["<", "space", "half", "whole"])
async def test_a_client_that_never_finishes(
    tmp_path: Path, certificate: DemoCertificate, data: bytes, starttls: StartTls
) -> None:
    timeouts = Timeouts(negotiation_timeout=1.0, see_other_host_timeout=0.5)
    async with world(tmp_path, certificate, starttls, timeouts=timeouts) as it:
        raw = await it.raw()
        if data == HEADER:
            await raw.open()
        else:
            await raw.send(data)
        assert await raw.error() == "connection-timeout"


class SlowRaw(Raw):
    async def send(self, data: str | bytes) -> None:
        data = data.encode() if isinstance(data, str) else data
        for number in range(len(data)):
            await super().send(data[number : number + 1])


async def test_slow_login_byte_by_byte(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, StartTls.REQUIRED) as it:
        raw = SlowRaw(await trio.open_tcp_stream(*it.address))
        await raw.open()
        await raw.start_tls(it.certificate.client_context())
        assert await raw.log_in() == "romeo@localhost/r"
        await raw.close()


@pytest.mark.parametrize("starttls", [StartTls.REQUIRED, StartTls.OPTIONAL])
@pytest.mark.parametrize("later", [False, True])
async def test_junk_behind_starttls_never_crosses_into_tls(
    tmp_path: Path, certificate: DemoCertificate, starttls: StartTls, later: bool
) -> None:
    """RFC 6120 section 5.4.3.3; what an attacker put there would be taken for what the client said under TLS."""
    injected = b"<message to='echo.localhost' id='injected'><body>x</body></message>"
    async with world(tmp_path, certificate, starttls) as it:
        raw = await it.raw()
        await raw.open()
        request = f"<starttls xmlns='{names.TLS}'/>".encode()
        if later:
            await raw.send(request[:-2])
            await trio.sleep(0.02)
        await raw.send((request[-2:] if later else request) + HEADER + injected)
        assert "proceed" in await raw.xml()
        tls = trio.SSLStream(raw.connection.transport, it.certificate.client_context(), server_hostname="localhost")
        await tls.do_handshake()
        raw.connection.upgrade(tls)
        assert await raw.log_in() == "romeo@localhost/r"
        await raw.send(b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        assert (await raw.element()).get("id") == "p", "the first stanza is the client's own"
        await raw.close()


async def test_too_much_behind_starttls(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, StartTls.REQUIRED) as it:
        raw = await it.raw()
        await raw.open()
        with contextlib.suppress(trio.BrokenResourceError):
            await raw.send(f"<starttls xmlns='{names.TLS}'/>".encode() + bytes(200_000))
        assert await raw.error() == "policy-violation"


async def test_a_client_that_stops_reading(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Its node is not read on, and when the time is up its session ends; others do not notice."""
    timeouts = Timeouts(write_stall_timeout=1.0, node_close_timeout=0.5, see_other_host_timeout=0.5)
    async with world(tmp_path, certificate, timeouts=timeouts) as it:
        raw = await it.raw()
        full_jid = await raw.log_in()
        message = b"<message><body>" + b"x" * 60_000 + b"</body></message>"
        for _ in range(200):
            it.node.push(full_jid, message)
        await until(lambda: full_jid not in it.node.cluster.sessions)
        await until(lambda: len(it.proxy.registry) == 0)
        await raw.close()


async def test_a_node_that_dies_in_the_middle_of_a_stanza(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The client's stream stays well-formed: half of it is never passed on."""
    async with world(tmp_path, certificate) as it:
        raw = await it.raw()
        full_jid = await raw.log_in()
        it.node.push(full_jid, b"<message id='whole'/><message id='half'><body>hel")
        assert (await raw.element()).get("id") == "whole"
        await it.node.cut(full_jid)
        received = []
        while not isinstance(incoming := await raw.read(), EndOfFile):
            received.append(incoming)
            if isinstance(incoming, Element) and incoming.tag == IQ_TAG:
                await raw.send(f"<iq type='error' id='{incoming.get('id')}'/>")
        await raw.close()
        assert not [each for each in received if isinstance(each, Malformed)]
        assert isinstance(received[-1], StreamClosed)
        assert "half" not in str([each.get("id") for each in received if isinstance(each, Element)])


async def tls_end(raw: Raw) -> str:
    """How TLS ends: by close_notify, or cut."""
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            while await raw.connection.transport.receive_some():
                pass
        except trio.BrokenResourceError:
            return "cut"
    return "closed"


@pytest.mark.parametrize(
    ("logged_in", "last"),
    [
        (False, HEADER + b"</stream:stream>"),
        (False, HEADER.replace(b"version='1.0' to", b"version='0.9' to")),
        (False, HEADER.replace(b"to='localhost'", b"to='elsewhere.example'")),
        (False, b"GET / HTTP/1.1\r\n\r\n"),
        (True, b"</stream:stream>"),
        (True, b"<iq></presence>"),
    ],
)
async def test_tls_ends_as_a_stream_does(
    tmp_path: Path, certificate: DemoCertificate, logged_in: bool, last: bytes
) -> None:
    """RFC 6120 section 4.4: by close_notify, before anybody has a session and after."""
    async with world(tmp_path, certificate) as it:
        raw = await it.raw(tls=True)
        if logged_in:
            await raw.log_in()
        await raw.send(last)
        assert await tls_end(raw) == "closed"
        await raw.close()


async def test_a_client_that_resets(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        for step in range(4):
            raw = await it.raw()
            if step == 1:
                await raw.send(HEADER[:50])
            elif step == 2:
                await raw.open()
            elif step == 3:
                await raw.log_in()
            transport = raw.connection.transport
            assert isinstance(transport, trio.SocketStream)
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await raw.close()
        await until(lambda: not it.proxy.registry)
        await until(lambda: not it.node.streams)


async def test_too_many_connections_from_one_address(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, limits=Limits(connections_per_address=3)) as it:
        allowed = [await it.raw() for _ in range(3)]
        for raw in allowed:
            await raw.open()
        refused = await it.raw()
        await refused.closed()
        for raw in allowed:
            await raw.close()
        await until(lambda: not it.proxy.registry)
        # counted until they are gone: the well-behaved client at the end gets through
