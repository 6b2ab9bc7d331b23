"""Behind a balancer: the client's address is the one that the PROXY header tells, everywhere; and who may not tell."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from e2e_proxy import COMMAND, HEADER, PATIENCE_SECONDS, Command, Raw, command, connect, nodes_file, running
from e2e_websocket import request
from waiting import until

from cxfr_proxy.cluster.nodes import ProxyProtocol
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.proxy_header import ProxyHeader
from cxfr_proxy.net.proxy_protocol import ProxiedConnection, Tlv, header
from cxfr_proxy.xmpp import names

CLIENT, BALANCER = ("192.0.2.7", 40000), ("198.51.100.1", 5222)
TOLD = ProxiedConnection(CLIENT, BALANCER, unique_id="b-17")
TRUSTING = ("--trusted-proxies", "127.0.0.0/8")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@dataclass
class World:
    proxy: Command
    node: DemoNode

    async def passed_on(self, told: ProxiedConnection | bytes = TOLD, version: ProxyProtocol = ProxyProtocol.V2) -> Raw:
        """A connection that begins with a header."""
        raw = await connect(self.proxy.address)
        await raw.send(told if isinstance(told, bytes) else header(version, told))
        return raw

    def _headers(self) -> list[ProxyHeader]:
        return [found for stream in self.node.streams if (found := stream.proxy_header) is not None]

    async def node_was_told(self) -> ProxyHeader:
        """Return the header of the one connection that the node has: those before it take a moment to go."""
        await until(lambda: len(self._headers()) == 1, "one connection to the node")
        return self._headers()[0]


@asynccontextmanager
async def world(directory: Path, certificate: DemoCertificate, *options: str) -> AsyncIterator[World]:
    node = DemoNode("node1", proxy_protocol=True)
    given = ("--domain", "localhost", "--starttls", "optional", "--workers", "1", "--log-level", "debug")
    keys = ("--certificate", str(certificate.certificate), "--key", str(certificate.key))
    async with running(node) as nursery:
        file = nodes_file(directory, [node], node1="send-proxy=v2")
        async with command(nursery, directory, file, *given, *keys, *options) as proxy:
            yield World(proxy, node)


async def test_the_client_has_its_address_everywhere(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, *TRUSTING) as it:
        for number, version in enumerate(ProxyProtocol):
            raw = await it.passed_on(version=version)
            await raw.log_in()
            bound = (await it.proxy.event("bound", number + 1))[number]
            [row] = await it.proxy.show("sessions")
            told = await it.node_was_told()
            await raw.close()
            ended = (await it.proxy.event("session-end", number + 1))[number]
            passed_on = (await it.proxy.event("passed-on", number + 1))[number]
            for fields in (bound, ended, passed_on):
                assert (fields["client"], fields["port"], fields["via"]) == (*CLIENT, "127.0.0.1")
                assert fields["unique_id"] == ("b-17" if version is ProxyProtocol.V2 else None)
            assert row["client_address"] == CLIENT[0]
            assert (told.source, told.destination) == (CLIENT, BALANCER)
            assert told.tlvs[Tlv.UNIQUE_ID] == str(bound["session"]).encode()
        raw = await it.passed_on()
        await raw.open()
        await raw.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>=</auth>")
        assert "failure" in await raw.xml()
        await raw.close()
        [failed] = await it.proxy.event("login-failed")
        assert (failed["client"], failed["port"], failed["via"], failed["unique_id"]) == (*CLIENT, "127.0.0.1", "b-17")


async def test_tls(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Passed through, the header comes before it, and the node is told of what ends here; else of what the balancer has
    told."""
    async with world(tmp_path, certificate, *TRUSTING) as it:
        stream = await trio.open_tcp_stream(*it.proxy.address)
        await stream.send_all(header(ProxyProtocol.V2, TOLD))
        raw = Raw(trio.SSLStream(stream, certificate.client_context(), server_hostname="localhost"))
        await raw.log_in()
        told = await it.node_was_told()
        assert told.tlvs[Tlv.AUTHORITY] == b"localhost"
        assert told.tlvs[Tlv.SSL].endswith(b"TLSv1.3")
        await raw.close()
        await it.proxy.event("session-end")
        raw = await it.passed_on(ProxiedConnection(CLIENT, BALANCER, "TLSv1.2", "a.example"))
        await raw.log_in()
        told = await it.node_was_told()
        assert told.tlvs[Tlv.AUTHORITY] == b"a.example"
        assert told.tlvs[Tlv.SSL].endswith(b"TLSv1.2")
        await raw.close()


ON_TLS = ProxiedConnection(CLIENT, BALANCER, "TLSv1.3", "localhost")


async def test_tls_that_ends_at_the_balancer(tmp_path: Path, certificate: DemoCertificate) -> None:
    """It is the client's: no STARTTLS is on offer inside it, wherever it is required, and a WebSocket needs none."""
    async with world(tmp_path, certificate, *TRUSTING, "--starttls", "required") as it:
        raw = await it.passed_on(ON_TLS)
        assert "starttls" not in await raw.open()
        await raw.authenticate()
        raw.connection.restart()
        assert "starttls" not in await raw.open()
        await raw.send(f"<iq type='set' id='b'><bind xmlns='{names.BIND}'><resource>r</resource></bind></iq>")
        assert "romeo@localhost/r" in await raw.xml()
        [row] = await it.proxy.show("sessions")
        [bound] = await it.proxy.event("bound")
        assert (row["tls"], bound["tls"]) == ("TLSv1.3", "TLSv1.3")
        page = await it.passed_on(header(ProxyProtocol.V2, ON_TLS) + request())
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await page.connection.transport.receive_some(65536)).startswith(b"HTTP/1.1 101 ")
        await raw.close()
        await page.close()


@pytest.mark.parametrize("version", ProxyProtocol)
async def test_a_header_without_a_word_of_tls_vouches_for_none(
    tmp_path: Path, certificate: DemoCertificate, version: ProxyProtocol
) -> None:
    """Version 1 has no room for one."""
    told = ON_TLS if version is ProxyProtocol.V1 else TOLD
    async with world(tmp_path, certificate, *TRUSTING, "--starttls", "required") as it:
        raw = await it.passed_on(told, version)
        assert "<required" in await raw.open()
        await raw.start_tls(certificate.client_context())
        await raw.log_in()
        assert [row["tls"] for row in await it.proxy.show("sessions")] == ["TLSv1.3"]
        await raw.close()


async def test_limits_go_by_the_clients_address(tmp_path: Path, certificate: DemoCertificate) -> None:
    """One client uses up its own share, and the balancer has none: what has not said yet whose it is counts for
    nobody."""
    async with world(tmp_path, certificate, *TRUSTING, "--connections-per-address", "1") as it:
        silent = [await connect(it.proxy.address) for _ in range(3)]
        raw = await it.passed_on()
        await raw.open()
        refused = await it.passed_on()
        [told] = await it.proxy.event("client-refused")
        assert (told["client"], told["via"], told["reason"]) == (CLIENT[0], "127.0.0.1", "connections-per-address")
        other = await it.passed_on(ProxiedConnection(("192.0.2.8", 40000), BALANCER))
        await other.open()
        for each in (*silent, raw, refused, other):
            await each.close()


async def test_a_check_is_served_and_not_written_down(tmp_path: Path, certificate: DemoCertificate) -> None:
    checks = b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    async with world(tmp_path, certificate, *TRUSTING) as it:
        for check in checks:
            for said in (b"", check):
                raw = await it.passed_on(said)
                await raw.close()
            raw = await it.passed_on(check)
            await raw.log_in()
            await raw.close()
        for bound in await it.proxy.event("bound", len(checks)):
            assert (bound["client"], bound["via"]) == ("127.0.0.1", None)
        it.proxy.process.terminate()
        await it.proxy.ended()
        assert it.proxy.silent_about("proxy-header-refused", "client-refused")


BAD = {
    "none": (HEADER, "there is none, and proxy-header is required"),
    "TLS": (b"\x16\x03\x01\0\xa5", "there is none, and proxy-header is required"),
    "malformed": (b"PROXY TCP4 192.0.2.7\r\n", "it is malformed: a line that is not as version 1 has it"),
    "10 MB": (b"PROXY TCP4 " + b"1" * 10_000_000, "it is malformed: a line of more than 107 bytes"),
    "long": (
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + bytes(65_535),
        "it is malformed: 65535 bytes long, where 4096 are the most",
    ),
    "a zone": (
        b"PROXY TCP6 fe80::7%eth0 fe80::1 40000 5222\r\n",
        "it is malformed: a line that is not as version 1 has it",
    ),
    "a wrong checksum": (
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13" + bytes(12) + b"\x03\0\x04" + bytes(4),
        "it is malformed: a checksum that is wrong",
    ),
    "cut": (b"PROXY TC", "it is malformed: the connection ends within it"),
}


async def test_a_trusted_proxy_has_to_say_it_right(tmp_path: Path, certificate: DemoCertificate) -> None:
    """It is told nothing, since it would not understand that; the operator is, by the balancer's address."""
    async with world(tmp_path, certificate, *TRUSTING) as it:
        for number, (sent, reason) in enumerate(BAD.values()):
            raw = await connect(it.proxy.address)
            with contextlib.suppress(trio.BrokenResourceError):
                await raw.send(sent)
                if reason.endswith("within it"):
                    await raw.close()
            refused = await it.proxy.event("proxy-header-refused", number + 1)
            assert refused[number] == {"peer": "127.0.0.1", "reason": reason}
            await is_closed_without_a_word(raw)
            good = await it.passed_on()
            await good.log_in()
            await good.close()
            await it.proxy.event("session-end", number + 1)
            assert len(it.proxy.so_far("proxy-header-refused")) == number + 1


async def all_of(raw: Raw) -> bytes:
    """What is sent until the connection ends."""
    data = b""
    with trio.fail_after(PATIENCE_SECONDS), contextlib.suppress(trio.BrokenResourceError):
        while more := await raw.connection.transport.receive_some(65536):
            data += more
    return data


async def is_closed_without_a_word(raw: Raw) -> None:
    with trio.fail_after(PATIENCE_SECONDS), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        assert await raw.connection.transport.receive_some(1) == b""


async def test_silence_ends(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, *TRUSTING, "--tls-handshake-timeout", "1s") as it:
        raw = await it.passed_on(b"PROXY TC")
        assert await it.proxy.event("proxy-header-refused") == [{"peer": "127.0.0.1", "reason": "it took too long"}]
        await is_closed_without_a_word(raw)


@pytest.mark.parametrize("options", [(), ("--trusted-proxies", "192.0.2.0/24", "--trusted-proxies", "unix")])
async def test_nobody_else_may_tell(tmp_path: Path, certificate: DemoCertificate, options: Sequence[str]) -> None:
    async with world(tmp_path, certificate, *options) as it:
        for number, version in enumerate(ProxyProtocol):
            raw = await it.passed_on(version=version)
            refused = (await it.proxy.event("client-refused", number + 1))[number]
            assert refused["client"] == "127.0.0.1"
            assert refused["reason"] == "a PROXY header from an address that is none of trusted-proxies"
            await is_closed_without_a_word(raw)
        direct = await connect(it.proxy.address)
        await direct.log_in()
        assert (await it.proxy.event("bound"))[0]["client"] == "127.0.0.1"
        await direct.close()


async def test_a_client_adds_no_second_header(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, *TRUSTING) as it:
        raw = await it.passed_on(header(ProxyProtocol.V2, TOLD) * 2)
        [refused] = await it.proxy.event("client-refused")
        assert (refused["client"], refused["via"]) == (CLIENT[0], "127.0.0.1")
        await is_closed_without_a_word(raw)


async def test_a_header_is_optional(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, *TRUSTING, "--proxy-header", "optional") as it:
        direct = await connect(it.proxy.address, certificate.client_context())
        await direct.log_in("juliet")
        passed_on = await it.passed_on()
        await passed_on.log_in()
        bound = await it.proxy.event("bound", 2)
        await direct.close()
        await passed_on.close()
    assert [(each["client"], each["via"]) for each in bound] == [("127.0.0.1", None), (CLIENT[0], "127.0.0.1")]


async def test_a_client_of_a_balancer_vouches_for_nothing(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The bytes behind the header are its own: whom it names in them, and what it says of TLS, is not believed. That
    holds too where the header names nobody."""
    asking = request(X_Forwarded_For="192.0.2.8", X_Forwarded_Proto="https")
    heads = (header(ProxyProtocol.V2, TOLD), b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0")
    async with world(tmp_path, certificate, *TRUSTING, "--starttls", "required") as it:
        for head in heads:
            raw = await it.passed_on(head + asking)
            assert (await all_of(raw)).startswith(b"HTTP/1.1 403 ")
        refused = await it.proxy.event("client-refused", len(heads))
        found = [(each["client"], each["via"]) for each in refused]
        assert found == [(CLIENT[0], "127.0.0.1"), ("127.0.0.1", None), ("127.0.0.1", None)]


async def test_nobody_uses_up_a_proxys_room(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Requests that are not whole are the proxy's own, however many there are."""
    options = (*TRUSTING, "--proxy-header", "optional", "--connections-per-address", "1")
    async with world(tmp_path, certificate, *options) as it:
        unfinished = [await it.passed_on(request()[:-4]) for _ in range(3)]
        raw = await it.passed_on(request(X_Forwarded_For="192.0.2.9"))
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await raw.connection.transport.receive_some(65536)).startswith(b"HTTP/1.1 101 ")
        more = await it.passed_on(request(X_Forwarded_For="192.0.2.9"))
        assert (await all_of(more)).startswith(b"HTTP/1.1 503 ")
        assert [each["client"] for each in await it.proxy.event("client-refused")] == ["192.0.2.9"]
        for each in (raw, *unfinished):
            await each.close()


async def test_unix_sockets(tmp_path: Path, certificate: DemoCertificate) -> None:
    """A balancer on this machine; all workers accept from the one socket. A program without a header has no address."""
    place = tmp_path / "clients"
    unix = ("--listen-unix", f"{place},mode=640", "--workers", "2")
    async with world(tmp_path, certificate, *unix, "--trusted-proxies", "unix", "--proxy-header", "optional") as it:
        assert (await it.proxy.event("listening", 2))[1]["address"] == f"unix:{place}"
        assert stat.S_IMODE(place.lstat().st_mode) == 0o640
        for number, (said, client) in enumerate(((header(ProxyProtocol.V2, TOLD), CLIENT[0]), (b"", "local"))):
            raw = Raw(await trio.open_unix_socket(place))
            await raw.send(said)
            await raw.log_in()
            bound = (await it.proxy.event("bound", number + 1))[number]
            assert (bound["client"], bound["via"]) == (client, "local" if said else None)
            await raw.close()
        stranger = await it.passed_on()
        assert (await it.proxy.event("client-refused"))[0]["client"] == "127.0.0.1"
        await is_closed_without_a_word(stranger)
        it.proxy.process.terminate()
        assert await it.proxy.ended() == 0
    assert not place.exists()


@pytest.mark.parametrize(
    ("value", "why"),
    [("nonexistent/clients", "No such file"), ("clients,group=no-such-group", "no such group: 'no-such-group'")],
)
async def test_a_unix_socket_that_cannot_be_had(tmp_path: Path, value: str, why: str) -> None:
    nodes = tmp_path / "nodes.txt"
    nodes.write_text("node1 127.0.0.1:1\n")
    words = ["--backends", str(nodes), "--listen", "127.0.0.1:0", "--control", str(tmp_path / "c.sock")]
    done = await trio.run_process(
        [*COMMAND, *words, "--listen-unix", f"{tmp_path}/{value}"],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 2
    assert why in (done.stdout + done.stderr).decode()
    assert "clients" not in os.listdir(tmp_path)


async def test_a_stop_waits_for_no_header(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, *TRUSTING, "--tls-handshake-timeout", "1h") as it:
        raw = await it.passed_on(b"PROXY TC")
        good = await it.passed_on()
        await good.log_in()  # so the other one has been accepted
        await good.close()
        it.proxy.process.terminate()
        assert await it.proxy.ended() == 0
        await is_closed_without_a_word(raw)
        assert it.proxy.silent_about("proxy-header-refused")
