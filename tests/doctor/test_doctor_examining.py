"""The doctor before nodes on real sockets: sound ones, and those with a fault that is planted in what they do."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from doctor_nodes import DOMAIN, PASSWORD, SASL2, USER, ScriptedNode, SharedMemory, offering, serving
from relay_tools import no_leak, peer, server_context, write_pem

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.config.table import Config, Timeouts
from cxfr_proxy.demo.certificate import make_certificate
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.doctor.examining import sessions
from cxfr_proxy.doctor.examining.client import Account, DoctorClient, EntryRefused
from cxfr_proxy.doctor.examining.cluster import examine
from cxfr_proxy.doctor.examining.doors import Doors, Entered, Place
from cxfr_proxy.doctor.examining.sessions import SessionRound
from cxfr_proxy.doctor.examining.tokens import try_tokens
from cxfr_proxy.doctor.facts import ClusterFacts
from cxfr_proxy.doctor.findings import ClusterFinding
from cxfr_proxy.doctor.judgement import judge
from cxfr_proxy.doctor.offer import read_offer
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.opening import usual_header

ACCOUNT = Account(USER, DOMAIN, PASSWORD)
CONFIG = Config(
    domain=(DOMAIN,),
    timeouts=Timeouts(
        node_connect_timeout=20.0, tls_handshake_timeout=20.0, node_greeting_timeout=20.0, negotiation_timeout=60.0
    ),
)
FEATURES = offering("SCRAM-SHA-1", "PLAIN")


@pytest.fixture(autouse=True)
def sessions_are_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node here tells sessions apart by seconds."""
    monkeypatch.setattr(sessions, "_YOUNG_SECONDS", 0.0)


def about_nodes(facts: ClusterFacts) -> list[ClusterFinding]:
    """The findings that are not about this machine."""
    return [each for each in judge(facts) if each.symptom.node is not None]


def named(facts: ClusterFacts) -> set[tuple[str, str | None]]:
    return {(each.rule.name, each.symptom.node) for each in about_nodes(facts)}


async def look(
    nodes: Sequence[ScriptedNode], options: str = "", account: Account | None = None, config: Config = CONFIG
) -> ClusterFacts:
    """Examine these nodes, whose lines have those options."""
    with no_leak():
        async with serving(*nodes) as addresses:
            text = "".join(f"node{number} {address} {options}\n" for number, address in enumerate(addresses, 1))
            return await examine(config, parse_nodes(text, "nodes.txt"), account)


def pair(memory: SharedMemory | None = None, /, **faults: Any) -> list[ScriptedNode]:
    """Two nodes, of which the second has these faults; with ``memory``, they share it."""
    return [
        ScriptedNode(memory or SharedMemory()),
        ScriptedNode(memory or SharedMemory(), **faults),
    ]


async def test_sound_nodes_that_share_nothing() -> None:
    facts = await look(pair(), account=ACCOUNT)
    assert about_nodes(facts) == []
    assert [each.session is not None and each.session.resumable for each in facts.nodes] == [True, True]
    assert [move.refused for move in facts.moves] == ["item-not-found"] * 2


async def test_a_sound_cluster_behind_headers() -> None:
    nodes = pair(SharedMemory(), expects_header=True)
    nodes[0].expects_header = True
    facts = await look(nodes, "send-proxy=v2 resume=shared", ACCOUNT)
    assert about_nodes(facts) == []
    assert [move.refused for move in facts.moves] == [None] * 2
    assert nodes[0].memory.sessions == set(), "nothing is left behind"


async def test_sound_nodes_behind_tls(tmp_path: Path) -> None:
    certificate = write_pem(tmp_path, DOMAIN)
    nodes = pair(tls=server_context(certificate))
    nodes[0].tls = server_context(certificate)
    config = Config(domain=(DOMAIN,), timeouts=CONFIG.timeouts)
    facts = await look(nodes, f"tls=direct ca={certificate}", ACCOUNT, config)
    # It is one of those that the proxy makes for trying things, and ends in 30 days.
    assert about_nodes(facts) == []
    assert all(each.tls is not None and each.tls.version == "TLSv1.3" for each in facts.nodes)


async def test_a_password_that_is_not_known_is_not_guessed() -> None:
    """Where the certificate for nodes has to do, and one node does not take it."""
    node = ScriptedNode(password="")
    async with serving(node) as [address]:
        [spec] = parse_nodes(f"node1 {address}\n", "nodes.txt")
        doors = Doors(Dialer(CONFIG.timeouts, CONFIG.limits), CONFIG.limits, Account(USER, DOMAIN, None), 60.0)
        with pytest.raises(EntryRefused):
            async with doors.enter(Place(spec, (("127.0.0.1", 1), ("127.0.0.1", 2)))):
                pass
    assert node.logins == node.refusals == []


async def test_a_wrong_password_is_tried_once_on_each_node() -> None:
    nodes = pair(features=FEATURES + SASL2, password="another")
    nodes[0].features, nodes[0].password = nodes[1].features, "another"
    assert named(await look(nodes, account=ACCOUNT)) == {("login-refused", "node1"), ("login-refused", "node2")}
    assert [node.refusals for node in nodes] == [["SCRAM-SHA-1"]] * 2


async def test_the_proxys_own_files_are_read_before_a_node_is_looked_at(tmp_path: Path) -> None:
    node = ScriptedNode()
    async with serving(node) as [address]:
        nodes = parse_nodes(f"node1 {address}\n", "nodes.txt")
        with pytest.raises(ConfigError):
            await examine(replace(CONFIG, certificate=(tmp_path / "none.pem",)), nodes, ACCOUNT)
    assert node.logins == []


async def test_a_node_without_a_mechanism_that_the_doctor_knows_is_not_blamed() -> None:
    facts = await look([ScriptedNode(features=offering("OAUTHBEARER"))], account=ACCOUNT)
    assert about_nodes(facts) == []


async def test_nothing_is_left_of_a_session_that_nobody_else_resumes() -> None:
    nodes = pair()
    await look(nodes, account=ACCOUNT)
    assert [node.memory.sessions for node in nodes] == [set(), set()]


PLANTED: list[tuple[str, str, dict[str, Any]]] = [
    ("proxy-header-missing", "", {"expects_header": True}),
    ("mechanisms-differ", "", {"features": offering("SCRAM-SHA-1")}),
    ("features-differ", "", {"features": FEATURES + "<ver xmlns='urn:xmpp:features:rosterver'/>"}),
    ("no-login", "", {"features": "<register xmlns='http://jabber.org/features/iq-register'/>"}),
    ("no-login-passes", "", {"features": offering("EXTERNAL")}),
    ("tls-required", "", {"features": "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"}),
    ("channel-binding", "", {"features": offering("SCRAM-SHA-1", "PLAIN", "SCRAM-SHA-1-PLUS")}),
    ("domain-unknown", "", {"domain": "example.com"}),
    ("login-refused", "", {"password": "another"}),
    ("stream-management", "", {"managed": False}),
    ("stream-management", "", {"resumable": False}),
    ("tls-version-told", "", {"challenge": ",t=0303"}),
    ("clock", "", {"ahead_seconds": -3600.0}),
]


@pytest.mark.parametrize(("name", "options", "faults"), PLANTED)
async def test_a_fault_of_the_second_node_is_named(name: str, options: str, faults: dict[str, Any]) -> None:
    facts = await look(pair(**faults), options, ACCOUNT)
    assert named(facts) == {(name, "node2")}


async def test_a_header_that_is_not_expected_is_named() -> None:
    nodes = pair()
    nodes[0].expects_header = True
    facts = await look(nodes, "send-proxy=v2", ACCOUNT)
    assert named(facts) == {("proxy-header-unexpected", "node2")}


async def test_a_header_that_is_read_and_not_believed_is_named() -> None:
    nodes = pair(expects_header=True, ignores_header=True)
    nodes[0].expects_header = True
    facts = await look(nodes, "send-proxy=v1", ACCOUNT)
    assert named(facts) == {("address-hidden", "node2")}


async def test_nodes_that_only_say_that_they_share_are_named() -> None:
    facts = await look(pair(), "resume=shared", ACCOUNT)
    assert named(facts) == {("resume-not-shared", "node1"), ("resume-not-shared", "node2")}


async def test_nodes_that_share_and_do_not_say_so_are_named() -> None:
    facts = await look(pair(SharedMemory()), "", ACCOUNT)
    assert named(facts) == {("resume-shared-unsaid", "node1"), ("resume-shared-unsaid", "node2")}


@pytest.mark.parametrize("shared", [True, False])
async def test_tokens_that_only_one_node_knows_are_named(shared: bool) -> None:
    memory = SharedMemory() if shared else None
    nodes = pair(memory, features=FEATURES + SASL2)
    nodes[0].features += SASL2
    facts = await look(nodes, "resume=shared" if shared else "", ACCOUNT)
    assert named(facts) == (set() if shared else {("token-local", "node1"), ("token-local", "node2")})
    assert [token.refused for token in facts.tokens] == [None if shared else "it refuses the login: not-authorized"] * 2
    assert [node.memory.tokens for node in nodes] == [{}, {}], "none is left"


async def test_sasl2_that_one_node_lacks_is_named() -> None:
    nodes = pair()
    nodes[0].features += SASL2
    assert named(await look(nodes)) == {("sasl2-differs", "node2")}


async def test_downgrade_protection_is_only_a_fault_where_the_proxy_edits() -> None:
    nodes = pair(challenge=",h=hash")
    assert about_nodes(await look(nodes, account=ACCOUNT)) == []
    nodes = pair(challenge=",h=hash", features=offering("SCRAM-SHA-1", "PLAIN", "DIGEST-MD5"))
    assert named(await look(nodes, account=ACCOUNT)) == {("downgrade-protection", "node2")}


@pytest.mark.parametrize(
    ("served", "options", "name"),
    [
        ((DOMAIN,), "", "node-certificate-untrusted"),
        (("example.com",), "ca={ca}", "node-certificate-name"),
        (("*.org",), "ca={ca}", "node-certificate-name"),
        (None, "ca={ca}", "tls-mode"),
    ],
)
async def test_faults_of_tls_are_named(tmp_path: Path, served: tuple[str, ...] | None, options: str, name: str) -> None:
    authority = write_pem(tmp_path, *(served or (DOMAIN,)))
    node = ScriptedNode(tls=server_context(authority) if served is not None else None)
    facts = await look([node], f"tls=direct {options.format(ca=authority)}")
    assert named(facts) == {(name, "node1")}


async def test_sasl2_that_a_plain_leg_loses_is_named(tmp_path: Path) -> None:
    context = server_context(write_pem(tmp_path, "example.com"))
    assert named(await look([ScriptedNode(starttls=context)])) == set(), "its certificate is nobody's business"
    node = ScriptedNode(starttls=context, behind_tls=SASL2)
    assert named(await look([node])) == {("sasl2-lost", "node1")}


async def test_an_old_version_of_tls_is_a_note(tmp_path: Path) -> None:
    certificate = write_pem(tmp_path, DOMAIN)
    context = server_context(certificate)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    facts = await look([ScriptedNode(tls=context)], f"tls=direct ca={certificate}", ACCOUNT)
    assert named(facts) == {("tls-version-old", "node1")}


@pytest.mark.parametrize(
    ("days", "name"), [(-1, "node-certificate-expired"), (3, "node-certificate-expires-soon"), (20, None)]
)
async def test_the_end_of_a_nodes_certificate_is_named(tmp_path: Path, days: int, name: str | None) -> None:
    pem = tmp_path / "node.pem"
    pem.write_bytes(certificate_until(datetime.now(UTC) + timedelta(days=days)))
    facts = await look([ScriptedNode(tls=server_context(pem))], f"tls=direct ca={pem}")
    assert named(facts) == ({(name, "node1")} if name is not None else set())


def certificate_until(end: datetime) -> bytes:
    """A certificate that is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=90))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + made.public_bytes(serialization.Encoding.PEM)


async def test_starttls_that_is_not_there_is_named() -> None:
    assert named(await look([ScriptedNode()], "tls=starttls")) == {("tls-mode", "node1")}


async def test_where_clients_are_sent_is_looked_at(tmp_path: Path) -> None:
    """The certificate is for the domain, and not for the name that the node is called by."""
    certificate = make_certificate(tmp_path, DOMAIN)
    demo = DemoNode("node1", DOMAIN, public_tls=certificate.server_context())
    async with trio.open_nursery() as nursery:
        await nursery.start(demo.serve)
        assert demo.public_address is not None
        for host, found in (("127.0.0.1", set()), ("localhost", {("public-certificate-host", "node1")})):
            text = f"node1 {demo.address} public={host}:{demo.public_address.port}"
            assert named(await examine(CONFIG, parse_nodes(text, "nodes.txt"), None)) == found
        text = f"node1 {demo.address} domain=example.com public=127.0.0.1:{demo.public_address.port}"
        facts = await examine(CONFIG, parse_nodes(text, "nodes.txt"), None)
        assert named(facts) == {("domain-unknown", "node1"), ("public-certificate-name", "node1")}
        text = f"node1 {demo.address} public=127.0.0.1:{demo.address.port}"
        facts = await examine(CONFIG, parse_nodes(text, "nodes.txt"), None)
        assert named(facts) == {("public-unseen", "node1")}
        nursery.cancel_scope.cancel()


async def test_sessions_go_by_the_certificate_for_nodes(tmp_path: Path) -> None:
    """Without a password, and past a node that does not believe the certificate."""
    own = make_certificate(tmp_path, DOMAIN, "nodes")
    proxy, stranger = make_certificate(tmp_path, "proxy", "proxy"), make_certificate(tmp_path, "x", "stranger")
    cluster = DemoCluster(DOMAIN, shared=True)
    good = [
        DemoNode(f"node{number}", DOMAIN, cluster=cluster, migration_tls=own.migration_context(proxy))
        for number in (1, 2)
    ]
    bad = DemoNode("node3", DOMAIN, cluster=cluster, migration_tls=own.migration_context(stranger))
    open_ = DemoNode("node4", DOMAIN, cluster=cluster, migration_tls=own.server_context())
    config = Config(domain=(DOMAIN,), timeouts=CONFIG.timeouts, node_certificate=proxy.certificate, node_key=proxy.key)
    options = f"resume=shared migrate=external ca={own.certificate}"

    async def found(*nodes: DemoNode) -> ClusterFacts:
        text = "".join(
            f"{node.name} {node.address} migrate-address={node.migration_address} {options}\n" for node in nodes
        )
        return await examine(config, parse_nodes(text, "nodes.txt"), Account(USER, DOMAIN, None))

    async with trio.open_nursery() as nursery:
        for node in (*good, bad, open_):
            await nursery.start(node.serve)
        facts = await found(*good)
        assert named(facts) == set()
        assert [(move.refused, move.by_certificate) for move in facts.moves] == [(None, True)] * 2
        assert cluster.records
        assert not any(node.sessions for node in good), "all were ended in good order"
        assert named(await found(good[0], bad)) == {("migrate-refused", "node3")}
        assert named(await found(good[0], open_)) == {("migrate-open", "node4")}
        nursery.cancel_scope.cancel()


# --- hostile nodes


@pytest.mark.parametrize(
    ("faults", "seen"),
    [
        ({"rounds": 2_000_000_000}, "its challenge is none of SCRAM's"),
        ({"rounds": 0}, "its challenge is none of SCRAM's"),
        ({"proves": False}, "it has not proved that it knows the password itself"),
        ({"chatter": 1000}, "it sends much, and no answer"),
    ],
)
async def test_a_login_ends_where_the_node_plays_tricks(faults: dict[str, Any], seen: str) -> None:
    facts = await look([ScriptedNode(**faults)], account=ACCOUNT)
    [finding] = about_nodes(facts)
    assert (finding.rule.name, finding.symptom.seen) == ("login-refused", seen)


async def test_some_messages_in_between_do_no_harm() -> None:
    assert about_nodes(await look(pair(chatter=20), account=ACCOUNT)) == []


async def test_a_node_that_trickles_is_given_up() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                while True:
                    await stream.send_all(b" ")
                    await trio.sleep(0.01)
            except trio.BrokenResourceError:
                return

    config = Config(domain=(DOMAIN,), timeouts=Timeouts(node_connect_timeout=0.2, node_greeting_timeout=0.2))
    with no_leak():
        async with peer(serve) as port:
            facts = await examine(config, parse_nodes(f"node1 127.0.0.1:{port}", "nodes.txt"), ACCOUNT)
    assert facts.nodes[0].failure is not None
    assert facts.nodes[0].failure.reason == "the node did not answer in time"


HEADER = (
    b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' from='example.org' id='1' "
    b"version='1.0'>"
)


@pytest.mark.parametrize(
    "said",
    [
        HEADER + b"<stream:features>" + b"<a>" * 1000,
        HEADER + b"<stream:features>" + b"<a/>" * 100_000,
        HEADER + b" " * 1_000_000,
        b"\x00" * 1000,
        b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>" + HEADER,
        HEADER + b"<stream:features><x:y/></stream:features>",
        b"",
    ],
    ids=["deep", "long", "white", "binary", "entities", "prefix", "silent"],
)
async def test_a_hostile_node_is_a_finding_and_nothing_more(said: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            try:
                await stream.send_all(said)
            except trio.BrokenResourceError:
                return
            if said:
                async for _ in stream:
                    pass

    with no_leak():
        async with peer(serve) as port:
            facts = await examine(CONFIG, parse_nodes(f"node1 127.0.0.1:{port}", "nodes.txt"), ACCOUNT)
    assert named(facts) == {("no-greeting", "node1")}


async def test_a_node_that_wants_a_certificate_of_clients_is_named(tmp_path: Path) -> None:
    """In TLS 1.3 it says so behind a handshake that has worked for the client."""
    pem = write_pem(tmp_path, DOMAIN)
    context = server_context(pem)
    context.verify_mode = ssl.CERT_REQUIRED

    def shake_hands(descriptor: int) -> None:
        with socket.socket(fileno=os.dup(descriptor)) as sock, suppress(OSError):
            sock.setblocking(True)
            context.wrap_socket(sock, server_side=True).close()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.to_thread.run_sync(shake_hands, stream.socket.fileno())

    with no_leak():
        async with peer(serve) as port:
            line = f"node1 127.0.0.1:{port} tls=direct ca={pem}"
            facts = await examine(CONFIG, parse_nodes(line, "nodes.txt"), ACCOUNT)
    [finding] = about_nodes(facts)
    assert (finding.rule.name, finding.symptom.seen) == (
        "tls-failed",
        "TLS with the node failed: TLSV13_ALERT_CERTIFICATE_REQUIRED",
    )


async def test_a_defect_before_one_node_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = DoctorClient.software

    async def software(client: DoctorClient) -> str | None:
        said = await asked(client)
        if said == "strange 1":
            raise ValueError("nobody has thought of that")
        return said

    monkeypatch.setattr(DoctorClient, "software", software)
    facts = await look(pair(version="strange"), account=ACCOUNT)
    assert named(facts) == {("login-refused", "node2")}
    assert facts.nodes[1].session is not None
    assert facts.nodes[1].session.refused == "what it answered was not foreseen (ValueError)"


async def test_a_defect_on_the_next_node_is_not_blamed_on_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resume(client: DoctorClient, session: str) -> str | None:
        await trio.lowlevel.checkpoint()
        raise ValueError("nobody has thought of that")

    monkeypatch.setattr(DoctorClient, "resume", resume)
    facts = await look(pair(), "resume=shared", ACCOUNT)
    assert [each.session.refused for each in facts.nodes if each.session is not None] == [None, None]
    assert [move.refused for move in facts.moves] == ["what it answered was not foreseen (ValueError)"] * 2


async def test_a_defect_in_one_try_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the certificate, or for a token."""

    async def log_in(client: DoctorClient, *_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("nobody has thought of that")

    async with serving(ScriptedNode(features=FEATURES + SASL2), ScriptedNode(features=FEATURES + SASL2)) as addresses:
        places = places_of(addresses, "resume=shared")
        doors = Doors(Dialer(CONFIG.timeouts, CONFIG.limits), CONFIG.limits, ACCOUNT, 60.0)
        monkeypatch.setattr(DoctorClient, "log_in_by_certificate", log_in)
        assert not await doors.stands_open(places[0])
        monkeypatch.setattr(DoctorClient, "log_in_by_scram", log_in)
        text = f"<stream:features>{FEATURES}{SASL2}</stream:features>"
        offer = read_offer(stanza.parse(text.encode(), usual_header.CONTEXT))
        assert await try_tokens(doors, [(place, offer) for place in places]) == []


class SlowToEnd(Doors):
    """On its nodes all goes well, and then the time is over before the stream has ended."""

    @asynccontextmanager
    async def enter(self, place: Place, *, by_certificate: bool = False) -> AsyncIterator[Entered]:
        async with Doors.enter(self, place, by_certificate=by_certificate) as entered:
            yield entered
        raise trio.TooSlowError

    @asynccontextmanager
    async def reach(self, place: Place, spec: NodeSpec | None = None) -> AsyncIterator[DoctorClient]:
        async with Doors.reach(self, place, spec) as client:
            yield client
        raise trio.TooSlowError


def places_of(addresses: Sequence[str], options: str = "") -> list[Place]:
    text = "".join(f"node{number} {address} {options}\n" for number, address in enumerate(addresses, 1))
    return [Place(each, (("127.0.0.1", 1), ("127.0.0.1", 2))) for each in parse_nodes(text, "nodes.txt")]


async def test_what_was_answered_before_the_time_was_over_counts() -> None:
    doors = SlowToEnd(Dialer(CONFIG.timeouts, CONFIG.limits), CONFIG.limits, ACCOUNT, 60.0)
    async with serving(ScriptedNode(managed=False)) as addresses:
        seen = await SessionRound(doors, places_of(addresses)).run()
    assert [session.refused for session in seen.sessions.values()] == [None]


async def test_a_door_that_stood_open_is_open_however_it_shuts(tmp_path: Path) -> None:
    pem = write_pem(tmp_path, DOMAIN)
    options = f"tls=direct ca={pem} resume=shared migrate=external"
    open_, shut = (ScriptedNode(tls=server_context(pem), lets_anybody_in=open_) for open_ in (True, False))
    doors = SlowToEnd(Dialer(CONFIG.timeouts, CONFIG.limits), CONFIG.limits, ACCOUNT, 60.0)
    async with serving(open_, shut) as addresses:
        assert [await doors.stands_open(each) for each in places_of(addresses, options)] == [True, False]


async def test_a_token_is_spent_where_it_is_from_if_the_next_node_does_not_answer() -> None:
    """And it is known whatever comes behind the login that it was given for."""
    nodes = pair(features=FEATURES + SASL2)
    nodes[0].features += SASL2
    doors = SlowToEnd(Dialer(CONFIG.timeouts, CONFIG.limits), CONFIG.limits, ACCOUNT, 60.0)
    offer = read_offer(
        stanza.parse(f"<stream:features>{nodes[0].features}</stream:features>".encode(), usual_header.CONTEXT)
    )
    async with serving(*nodes) as addresses:
        assert await try_tokens(doors, [(place, offer) for place in places_of(addresses)]) == []
    assert [node.logins.count("HT-SHA-256-NONE") for node in nodes] == [1, 1]
    assert [node.memory.tokens for node in nodes] == [{}, {}], "none is left"


async def test_only_a_few_sessions_are_under_way_at_once(tmp_path: Path) -> None:
    """Also where it is the certificate that is tried: a node may count connections."""
    most = under_way = 0

    class Counting(Doors):
        @asynccontextmanager
        async def reach(self, place: Place, spec: NodeSpec | None = None) -> AsyncIterator[DoctorClient]:
            nonlocal most, under_way
            under_way += 1
            most = max(most, under_way)
            try:
                async with Doors.reach(self, place, spec) as client:
                    yield client
            finally:
                under_way -= 1

    pem = write_pem(tmp_path, DOMAIN)
    options = f"tls=direct ca={pem} resume=shared migrate=external"
    doors = Counting(Dialer(CONFIG.timeouts, CONFIG.limits), CONFIG.limits, Account(USER, DOMAIN, None), 60.0)
    doors.dialer.take({str(pem): pem.read_text()})
    async with serving(*(ScriptedNode(tls=server_context(pem), lets_anybody_in=True) for _ in range(9))) as addresses:
        seen = await SessionRound(doors, places_of(addresses, options)).run()
    assert list(seen.stands_open.values()) == [True] * 9
    assert most <= 4
