"""The real command, in a process of its own, in front of demo nodes."""

from __future__ import annotations

import base64
import json
import signal
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from cryptography import x509
from e2e_proxy import (
    HEADER,
    PATIENCE_SECONDS,
    Command,
    Raw,
    all_bound,
    all_served,
    command,
    connect,
    log_in,
    nodes_file,
    running,
    until,
)
from ports import free_port

from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.net.proxy_protocol import Tlv
from cxfr_proxy.net.tls import development_certificate
from cxfr_proxy.xmpp.names import StreamCondition

pytestmark = pytest.mark.usefixtures("engines")

FAST = ("--cxfr-timeout", "300ms", "--node-close-timeout", "1s", "--transfer-rate", "1000")
EVERY_KIND = tuple(ClientKind)
PING = b"<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


def given(certificate: DemoCertificate) -> tuple[str, ...]:
    return ("--certificate", str(certificate.certificate), "--key", str(certificate.key))


@dataclass
class World:
    proxy: Command
    nodes: Sequence[DemoNode]
    nursery: trio.Nursery
    certificate: DemoCertificate

    async def clients(self, *kinds: ClientKind) -> list[DemoClient]:
        return await log_in(self.nursery, self.proxy.address, kinds, self.certificate)

    async def raw(self, *, tls: bool = True) -> Raw:
        return await connect(self.proxy.address, self.certificate.client_context() if tls else None)

    def sessions(self) -> dict[str, int]:
        """Connected ones; those that hibernate (XEP-0198) may wait for ever."""
        return {node.name: sum(session.leg is not None for session in node.sessions) for node in self.nodes}


@asynccontextmanager
async def world(
    tmp_path: Path,
    certificate: DemoCertificate,
    *options: str,
    nodes: Sequence[DemoNode] | None = None,
    lines: dict[str, str] | None = None,
) -> AsyncIterator[World]:
    """Two nodes unless told otherwise. ``lines``: options of nodes, by name."""
    nodes = nodes or [DemoNode("node1"), DemoNode("node2")]
    async with running(*nodes) as nursery:
        file = nodes_file(tmp_path, nodes, **(lines or {}))
        async with command(nursery, tmp_path, file, *given(certificate), *FAST, *options) as proxy:
            yield World(proxy, nodes, nursery, certificate)


def rewrite(it: World, **options: str) -> None:
    nodes_file(it.proxy.nodes.parent, it.nodes, **options)


# --- serving


async def test_defaults(tmp_path: Path) -> None:
    """With nothing but a nodes file: a self-signed certificate, of which it warns, and STARTTLS is required."""
    node = DemoNode("node1")
    async with running(node) as nursery, command(nursery, tmp_path, nodes_file(tmp_path, [node])) as proxy:
        warned = await proxy.event("development-certificate")
        assert "self-signed" in warned[0]["reason"]
        raw = await connect(proxy.address)
        assert "<required" in await raw.open()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        await raw.start_tls(context)
        assert await raw.log_in() == "romeo@localhost/r"
        rows = await proxy.show("sessions")
        assert [(row["jid"], row["node"], row["state"]) for row in rows] == [("romeo@localhost/r", "node1", "bound")]
        assert rows[0]["tls"] == "TLSv1.3"
        proxy.process.send_signal(signal.SIGTERM)
        await raw.close()
        assert await proxy.ended() == 0


async def test_every_kind_of_client_on_one_port(tmp_path: Path, certificate: DemoCertificate) -> None:
    """STARTTLS and direct TLS."""
    async with world(tmp_path, certificate) as it:
        clients = await it.clients(*EVERY_KIND)
        assert {client.home.security.value for client in clients} == {"starttls", "direct-tls"}
        assert sum(it.sessions().values()) == len(clients)
        assert not [fault for client in clients for fault in client.faults]
        assert it.proxy.silent_about("development-certificate")


@pytest.mark.parametrize("starttls", ["optional", "off"])
async def test_a_login_under_way_ends_with_the_proxy(
    tmp_path: Path, certificate: DemoCertificate, starttls: str
) -> None:
    """Its session may have either owner then: the connection's task, as long as STARTTLS is on offer, or the pump.

    In one process: workers are killed by the second signal.
    """
    async with world(tmp_path, certificate, "--starttls", starttls, "--workers", "1") as it:
        raw = await it.raw(tls=False)
        await raw.open()
        for _ in range(2):
            it.proxy.process.send_signal(signal.SIGTERM)
            await it.proxy.event("stopping")
        assert await it.proxy.ended() == 0
        assert (await it.proxy.event("session-end"))[0]["reason"] == "stopped"


@pytest.mark.parametrize("starttls", ["optional", "off"])
async def test_without_tls(tmp_path: Path, certificate: DemoCertificate, starttls: str) -> None:
    async with world(tmp_path, certificate, "--starttls", starttls) as it:
        plain = await it.raw(tls=False)
        assert ("starttls" in await plain.open()) == (starttls == "optional")
        await plain.close()
        raw = await it.raw(tls=False)
        await raw.log_in()
        if starttls == "optional":
            upgrading = await it.raw(tls=False)
            await upgrading.open()
            await upgrading.start_tls(it.certificate.client_context())
            await upgrading.log_in("juliet")
        else:
            refused = await it.raw(tls=False)
            await refused.open()
            await refused.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            assert await refused.error() == "policy-violation"


async def test_tls_must_come_first(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        raw = await it.raw(tls=False)
        await raw.open()
        await raw.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AHgAeA==</auth>")
        assert await raw.error() == "policy-violation"
        assert not [node for node in it.nodes if node.sessions]


async def test_domains_and_their_certificates(tmp_path: Path, certificate: DemoCertificate) -> None:
    second = tmp_path / "second.pem"
    second.write_bytes(development_certificate(["second.example"]))
    options = ("--certificate", str(second), "--domain", "localhost", "--domain", "second.example")
    # the first --key goes with the first --certificate, the second certificate holds its own
    async with world(tmp_path, certificate, *options) as it:
        for name, trusted in (("localhost", certificate.certificate), ("second.example", second)):
            context = ssl.create_default_context(cafile=str(trusted))
            tcp = await trio.open_tcp_stream(*it.proxy.address)
            stream = trio.SSLStream(tcp, context, server_hostname=name)
            await stream.do_handshake()
            der = stream.getpeercert(binary_form=True)
            assert name in str(x509.load_der_x509_certificate(der).extensions)
            await trio.aclose_forcefully(stream)
        raw = await it.raw()
        await raw.send(
            "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
            "version='1.0' to='example.org'>"
        )
        assert await raw.error() == "host-unknown"


@pytest.mark.parametrize(
    ("tls", "send_proxy"), [("starttls", None), ("direct", None), ("starttls", "v2"), ("none", "v1")]
)
async def test_nodes_behind_tls_and_proxy_headers(
    tmp_path: Path, certificate: DemoCertificate, tls: str, send_proxy: str | None
) -> None:
    context = certificate.server_context()
    node = DemoNode(
        "node1",
        offers=NodeOffers(starttls=context if tls == "starttls" else None),
        public_tls=context if tls == "direct" else None,
        proxy_protocol=send_proxy is not None,
    )
    async with running(node) as nursery:
        address = node.public_address if tls == "direct" else node.address
        options = f"tls={tls}" + (f" ca={certificate.certificate}" if tls != "none" else "")
        options += f" send-proxy={send_proxy}" if send_proxy else ""
        file = tmp_path / "nodes.txt"
        file.write_text(f"node1 {address} {options}\n")
        async with command(nursery, tmp_path, file, *given(certificate)) as proxy:
            raw = await connect(proxy.address, certificate.client_context())
            await raw.log_in()
            header = next(iter(node.streams)).proxy_header
            assert (header is not None) == (send_proxy is not None)
            if header is not None:
                local = raw.connection.transport.transport_stream.socket.getsockname()  # type: ignore[attr-defined]
                assert (header.source, header.destination) == (local, proxy.address)
            if send_proxy == "v2":
                assert header is not None
                session = (await proxy.event("bound"))[0]["session"]
                assert header.tlvs[Tlv.UNIQUE_ID] == str(session).encode()
                assert header.tlvs[Tlv.AUTHORITY] == b"localhost"
                assert header.tlvs[Tlv.SSL].endswith(b"TLSv1.3")
            await raw.close()


# --- commands


async def test_show_drain_and_undrain(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        clients = await it.clients(*EVERY_KIND)
        first = max(it.sessions(), key=lambda name: it.sessions()[name])
        nodes = {row["name"]: row for row in await it.proxy.show("nodes")}
        assert {name: row["sessions"] for name, row in nodes.items()} == it.sessions()
        assert {row["jid"] for row in await it.proxy.show("sessions")} == {client.full_jid for client in clients}
        table = (await it.proxy.say("show", "nodes")).output
        assert "NODE" in table
        assert first in table

        leaving = it.sessions()[first]
        done = await it.proxy.say("drain", first, "--wait")
        assert (done.code, done.output.splitlines()[-1].split(":")[0]) == (0, f"{first} is empty"), done.output
        await until(lambda: all_served(clients, *[node for node in it.nodes if node.name != first]))
        assert it.sessions()[first] == 0
        rows = await it.proxy.show("transfers")
        assert len(rows) == leaving
        assert {row["outcome"] for row in rows} == {"moved"}
        assert {row["source"] for row in rows} == {first}
        assert "moved" in (await it.proxy.say("show", "transfers")).output

        assert (await it.proxy.say("undrain", first)).code == 0
        admin_states = {row["name"]: row["admin_state"] for row in await it.proxy.show("nodes")}
        assert admin_states[first] == "ready"
        assert not [fault for client in clients for fault in client.faults]


async def test_a_drain_that_cannot_end_says_so(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The only node: nobody is moved, ``--wait`` tells why, and the deadline tells the outcome by the exit code."""
    nodes = [DemoNode("node1")]
    async with world(tmp_path, certificate, nodes=nodes) as it:
        raw = await it.raw()
        await raw.log_in()
        refused = await it.proxy.say("drain", "node1")
        assert refused.code == 2
        assert "every login is refused" in refused.output
        assert (await it.proxy.say("drain", "node1", "--plan")).code == 1
        assert it.proxy.silent_about("drain-begins")
        async with trio.open_nursery() as waiting:
            outcome = []

            @waiting.start_soon
            async def wait() -> None:
                outcome.append(await it.proxy.say("drain", "node1", "--force", "--wait", "--json"))

            await it.proxy.event("drain-begins")
            await raw.send(PING)
            assert (await raw.element()).get("id") == "p", "it is still served"
            assert (await it.proxy.say("undrain", "node1")).code == 0
        assert outcome[0].code == 1
        last = json.loads(outcome[0].output.splitlines()[-1])
        assert (last["left"], last["waiting_reason"]) == (1, "the drain was called off")
        await raw.send(PING)
        assert (await raw.element()).get("id") == "p"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drain", "node3"), "no node 'node3' (did you mean"),
        (("undrain", "x"), "no node 'x'"),
        (("show", "nonsense"), "unknown word 'nonsense'"),
        (("drain",), "required"),
        (("frobnicate",), "unknown command 'frobnicate'"),
    ],
)
async def test_mistakes(tmp_path: Path, certificate: DemoCertificate, words: tuple[str, ...], said: str) -> None:
    async with world(tmp_path, certificate) as it:
        done = await it.proxy.say(*words)
        assert done.code == 2
        assert said in done.output
        assert len(done.output.splitlines()) == 1


async def test_a_second_proxy_with_the_same_control_socket(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        options = ("--backends", str(it.proxy.nodes), "--listen", "127.0.0.1:0")
        done = await it.proxy.say(*options)
        assert done.code == 2
        assert "another proxy runs" in done.output
        assert len(done.output.splitlines()) == 1
        assert (await it.proxy.say("show", "nodes")).code == 0
        done = await it.proxy.say("--backends", str(it.proxy.nodes), "--listen", str(it.proxy.address))
        assert (done.code, done.output) == (
            2,
            f"cxfr-proxy: cannot listen on {it.proxy.address}: Address already in use\n",
        )


# --- reload


async def test_reload(tmp_path: Path, certificate: DemoCertificate) -> None:
    """A node added and one changed by command; a bad file changes nothing, by command, signal and by itself."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with world(tmp_path, certificate, nodes=nodes, lines={"node1": "weight=2"}) as it:
        it.proxy.nodes.write_text(it.proxy.nodes.read_text() + "node3 127.0.0.1:9\n")
        done = await it.proxy.say("reload")
        assert done.code == 0, done.output
        # The file is looked at now and then as well, and may have been just before.
        assert "3 nodes (1 added)" in done.output or "3 nodes (unchanged)" in done.output
        assert (await it.proxy.event("nodes-changed"))[0]["added"] == "node3"
        assert [row["name"] for row in await it.proxy.show("nodes")] == ["node1", "node2", "node3"]

        it.proxy.nodes.write_text("node1 nonsense:port\nnode2 weight=x\n")
        done = await it.proxy.say("reload")
        assert done.code == 1
        assert f"{it.proxy.nodes}:1:" in done.output
        assert f"{it.proxy.nodes}:2:" in done.output
        assert [row["name"] for row in await it.proxy.show("nodes")] == ["node1", "node2", "node3"]
        it.proxy.process.send_signal(signal.SIGHUP)
        failed = await it.proxy.event("reload-failed", 2)
        assert all(str(it.proxy.nodes) in each["error"] for each in failed)
        assert [row["name"] for row in await it.proxy.show("nodes")] == ["node1", "node2", "node3"]

        (source,) = await it.proxy.show("source")
        assert source["state"] == "faulty"
        assert f"{it.proxy.nodes}:1:" in source["reason"]

        rewrite(it)
        it.proxy.process.send_signal(signal.SIGHUP)
        await it.proxy.event("nodes-changed", 2)
        assert [row["name"] for row in await it.proxy.show("nodes")] == ["node1", "node2"]
        (source,) = await it.proxy.show("source")
        assert (source["state"], source["reason"]) == ("well", None)


async def test_reload_takes_the_settings(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Faults change nothing; a client that is connected stays, whatever there is for new ones."""
    settings = tmp_path / "settings.toml"
    settings.write_text('redirect-window = "1m"\n')
    async with world(tmp_path, certificate, "--config", str(settings)) as it:
        raw = await it.raw()
        await raw.log_in()
        assert (await it.proxy.say("reload")).output == "2 nodes (unchanged), certificates read again\n"
        settings.write_text('redirect-window = "soon"\ndomain = "other.example"\n')
        done = await it.proxy.say("reload")
        assert (done.code, f"{settings}:1" in done.output) == (1, True), done.output
        it.proxy.process.send_signal(signal.SIGHUP)
        assert (await it.proxy.event("reload-failed"))[0]["what"] == "settings"
        settings.write_text(
            'redirect-window = "2m"\ncxfr-timeout = "9s"\ndomain = "other.example"\nhttp = "127.0.0.1:9"\n'
        )
        done = await it.proxy.say("reload")
        assert done.code == 0
        assert "; http: changed, which takes a restart of the proxy; " in done.output
        # It may have been taken before the command came: the file is followed. A flag wins over cxfr-timeout.
        for event, names in (("settings-taken", "domain, redirect-window"), ("settings-not-taken", "http")):
            assert (await it.proxy.event(event))[0]["settings"] == names
        other = await it.raw()
        await other.send(HEADER)
        assert await other.error() == "host-unknown"
        await raw.send(PING)
        assert (await raw.element()).get("id") == "p"
        assert (await it.proxy.say("set", "domain", "localhost", "other.example")).code == 0
        (row,) = (row for row in await it.proxy.show("config") if row["name"] == "domain")
        assert (row["value"], row["source"]) == ("localhost other.example", "set")
        await (await it.raw()).log_in("juliet")
        assert (await it.proxy.say("set", "workers", "2")).code == 2


@pytest.mark.parametrize("how", ["drain", "remove"])
async def test_a_changed_file_is_picked_up_and_empties_a_node(
    tmp_path: Path, certificate: DemoCertificate, how: str
) -> None:
    async with world(tmp_path, certificate) as it:
        clients = await it.clients(*EVERY_KIND, *EVERY_KIND)
        assert all(it.sessions().values()), "placement put somebody on each"
        if how == "drain":
            rewrite(it, node1="state=drain")
        else:
            nodes_file(tmp_path, it.nodes[1:])
        await until(lambda: it.sessions()["node1"] == 0)
        await until(lambda: all_served(clients, it.nodes[1]))
        rows = {row["name"]: row["admin_state"] for row in await it.proxy.show("nodes")}
        assert rows == ({"node1": "drain", "node2": "ready"} if how == "drain" else {"node2": "ready"})


async def test_certificates_are_read_again(tmp_path: Path, certificate: DemoCertificate) -> None:
    (tmp_path / "c").mkdir()
    first = make_certificate(tmp_path / "c", "localhost")
    async with world(tmp_path, first) as it:
        raw = await it.raw()
        await raw.log_in()
        before = first.client_context()
        make_certificate(tmp_path / "c", "localhost")
        it.proxy.process.send_signal(signal.SIGHUP)
        done = await it.proxy.say("reload")
        assert done.code == 0
        other = await connect(it.proxy.address, first.client_context())
        await other.log_in("juliet")
        refused = await connect(it.proxy.address, before)
        with pytest.raises(trio.BrokenResourceError):
            await refused.open()
        await refused.close()
        await raw.send(PING)
        assert (await raw.element()).get("id") == "p", "a connection that runs keeps its certificate"

        first.key.write_text("no key")
        done = await it.proxy.say("reload")
        assert done.code == 1
        assert str(first.key) in done.output
        assert await (await connect(it.proxy.address, first.client_context())).log_in("tybalt")


# --- stopping


async def test_sigterm_moves_clients(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        clients = await it.clients(*EVERY_KIND)
        it.proxy.process.send_signal(signal.SIGTERM)
        assert await it.proxy.ended() == 0
        assert (await it.proxy.event("stopped"))[0]["cut"] is False
        moved = await it.proxy.event("transfer", len(clients))
        assert len(moved) == len(clients)
        assert {each["trigger"] for each in moved} == {"proxy-stop"}
        assert not it.proxy.control.exists()


async def test_sigterm_without_clients(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        it.proxy.process.send_signal(signal.SIGINT)
        assert await it.proxy.ended() == 0


async def test_a_second_sigterm_is_at_once(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--hard-stop-after", "1h", "--cxfr-timeout", "1h") as it:
        raws = [await it.raw() for _ in range(5)]
        for number, raw in enumerate(raws):
            await raw.log_in(f"user{number}")
        it.proxy.process.send_signal(signal.SIGTERM)
        await it.proxy.event("stopping")
        it.proxy.process.send_signal(signal.SIGTERM)
        assert await it.proxy.ended() == 0
        assert (await it.proxy.event("stopped"))[0]["cut"] is True


async def test_the_hard_stop(tmp_path: Path, certificate: DemoCertificate) -> None:
    """A client that neither answers nor leaves is cut when the time is up."""
    async with world(tmp_path, certificate, "--hard-stop-after", "500ms", "--cxfr-timeout", "30s") as it:
        raw = await it.raw()
        await raw.log_in()
        it.proxy.process.send_signal(signal.SIGTERM)
        assert await it.proxy.ended() == 0
        assert (await it.proxy.event("stopped"))[0]["cut"] is True


# --- nodes that fail


@pytest.mark.parametrize("how", [StopStyle.SYSTEM_SHUTDOWN, StopStyle.RESET, StopStyle.KILL])
async def test_a_node_that_goes_down(tmp_path: Path, certificate: DemoCertificate, how: StopStyle) -> None:
    """Its clients are moved, with or without its word, and see no stream error of the node's."""
    async with world(tmp_path, certificate) as it:
        clients = await it.clients(*EVERY_KIND, *EVERY_KIND)
        assert all(it.sessions().values())
        leaving = [client for client in clients if client.full_jid in {s.full_jid for s in it.nodes[0].sessions}]
        await it.nodes[0].stop(how)
        await until(lambda: it.sessions()["node2"] == len(clients) and all_bound(clients))
        moved = await it.proxy.event("transfer", len(leaving))
        assert {each["trigger"] for each in moved} == {"node-lost" if how is StopStyle.KILL else "node-shutdown"}
        # Those that can resume, and have not shown what they know, are cut.
        asked = [client for client in leaving if client.habits.knows_cxfr and not client.habits.resumes]
        assert {move.rung.value for client in asked for move in client.moves} <= {"cxfr"}


async def test_a_node_that_redirects_a_client(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The proxy decides where clients go; the node's own address never reaches the client."""
    async with world(tmp_path, certificate) as it:
        (client,) = await it.clients(ClientKind.SEE_OTHER_HOST)
        node = next(node for node in it.nodes if node.sessions)
        node.end(client.full_jid or "", StreamCondition.SEE_OTHER_HOST, "192.0.2.1:5222")
        await until(lambda: client.moves and all_bound([client]))
        assert client.target.address == it.proxy.address
        assert not [fault for fault in client.faults if "192.0.2.1" in fault]


async def test_a_node_that_is_down_is_skipped_and_comes_back(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        file = it.proxy.nodes
        late = DemoNode("node3", port=free_port())
        file.write_text(f"node3 {late.address}\nnode1 {it.nodes[0].address}\n")
        assert (await it.proxy.say("reload")).code == 0
        for number in range(6):
            raw = await it.raw()
            await raw.log_in(f"user{number}")
            await raw.close()
        rows = {row["name"]: row for row in await it.proxy.show("nodes")}
        # A node that is new is not used before it was seen: nobody is sent to a typing error.
        assert (rows["node3"]["health"], rows["node3"]["connect_failures"]) == ("down", 0)
        await it.nursery.start(late.serve)
        await it.proxy.event("node-up")
        rows = {row["name"]: row for row in await it.proxy.show("nodes")}
        assert rows["node3"]["health"] == "up"


async def test_no_node_can_be_reached(tmp_path: Path, certificate: DemoCertificate) -> None:
    file = tmp_path / "nodes.txt"
    file.write_text(f"node1 127.0.0.1:{free_port()}\nnode2 unix:{tmp_path}/nobody\n")
    async with running() as nursery, command(nursery, tmp_path, file, *given(certificate)) as proxy:
        raw = await connect(proxy.address, certificate.client_context())
        await raw.send(
            "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
            "version='1.0' to='localhost'>"
        )
        assert await raw.error() == "remote-connection-failed"


async def test_an_unusable_ca_file_at_reload_changes_nothing(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        before = await it.proxy.show("nodes")
        it.proxy.nodes.write_text(f"node9 127.0.0.1:1 tls=direct ca={tmp_path}/missing.pem\n")
        said = await it.proxy.say("reload")
        assert said.code == 1
        assert "missing.pem: ca= of node 'node9'" in said.output
        assert [row["name"] for row in await it.proxy.show("nodes")] == [row["name"] for row in before]


async def test_a_node_that_dies_is_down_at_once(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        await it.nodes[0].stop(StopStyle.KILL)
        for number in range(6):
            raw = await it.raw()
            await raw.log_in(f"user{number}")
            await raw.close()
        down = await it.proxy.event("node-down")
        assert (down[0]["node"], down[0]["reason"]) == ("node1", "no connection to the node: Connection refused")


async def test_connections_per_address(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, "--connections-per-address", "2") as it:
        raws = [await it.raw() for _ in range(2)]
        for raw in raws:
            await raw.log_in()
        with trio.fail_after(PATIENCE_SECONDS):
            while not await turned_away(it):
                pass  # the other worker hears of them some milliseconds later
        assert (await it.proxy.event("client-refused"))[0]["reason"] == "connections-per-address"
        await raws[0].close()
        await it.proxy.event("session-end")
        with trio.fail_after(PATIENCE_SECONDS):
            while not await let_in(it):
                pass


async def turned_away(it: World) -> bool:
    """Whether one more is refused; it leaves if not."""
    raw = await it.raw(tls=False)
    try:
        await raw.open()
    except (trio.BrokenResourceError, AssertionError):
        return True
    await raw.close()
    return False


async def let_in(it: World) -> bool:
    """Whether one more is served."""
    try:
        await (await it.raw()).log_in()
    except (trio.BrokenResourceError, AssertionError):
        return False
    return True


# --- the log


async def test_no_secret_is_ever_logged(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Not at debug level, not when the login fails, not when the stanza that holds it is broken."""
    password = "correct-horse-battery"
    token = base64.b64encode(f"\0romeo\0{password}".encode()).decode()
    nodes = [
        DemoNode("node1", offers=NodeOffers(check_password=lambda user, given: user == "romeo" and given == password))
    ]
    sasl = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
    async with world(tmp_path, certificate, "--log-level", "debug", nodes=nodes) as it:
        raw = await it.raw()
        await raw.log_in(password=password)
        await raw.send(f"<message><body>{password}</body><!-- {password} --></message>")
        await raw.error()
        for text in (
            f"<auth {sasl} mechanism='PLAIN'>{token}x</auth>",
            f"<auth {sasl} mechanism='EXTERNAL'>{token}</auth>",
            f"<auth {sasl} mechanism='PLAIN'>{token}<!-- --></auth>",
            f"<auth {sasl} mechanism='PLAIN'>{token}</wrong>",
            f"<response {sasl}>{token}</response>",
            f"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>{token}",
            f"<x:auth>{token}</x:auth>",
        ):
            broken = await it.raw()
            await broken.open()
            await broken.send(text)
            with trio.move_on_after(0.1):
                await broken.read()
            await broken.close()
        plain = await it.raw(tls=False)
        await plain.open()
        await plain.send(f"<auth {sasl} mechanism='PLAIN'>{token}</auth>")
        await plain.error()
        it.proxy.process.send_signal(signal.SIGTERM)
        assert await it.proxy.ended() == 0
        await it.proxy.event("stopped")
        log = json.dumps(it.proxy.log)
        assert "bound" in log
        assert password not in log
        assert token[4:40] not in log
