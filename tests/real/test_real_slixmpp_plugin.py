"""slixmpp with the XEP-0051 plugin: at the built-in node, which says anything a test wants, and through the proxy in
front of two Prosody nodes, from one to the other by the IQ alone.

Certificates are verified in all of it. A node's name in them is the *domain*; the address is never in them, so a client
that checked the address instead would refuse every one.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio
from waiting import until

from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.session.client_software import ClientSoftware, Software
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening import client_identity
from real.certs import Authority, Certificate
from real.clients.fleet import Event, Fleet, Library, Tls, open_fleet
from real.programs import DOMAIN, HOST, Need, background, free_port, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.tap import Tap, open_silence, open_tap
from real.wire import Element, Recording, Transcript

pytestmark = pytest.mark.real

USER: Final = "juliet"
JID: Final = f"{USER}@{DOMAIN}/r"
ELSEWHERE: Final = "elsewhere.test"


def tls_context(authority: Authority, *names: str) -> ssl.SSLContext:
    files = authority.issue(*names)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    return context


@dataclass(slots=True)
class Stage:
    """A client of one node that trusts it, and a second node."""

    first: DemoNode
    second: DemoNode
    fleet: Fleet
    seen: int = 0

    @property
    def home(self) -> str:
        return address_of(self.first)

    @property
    def there(self) -> str:
        return address_of(self.second)

    def ask(self, node: DemoNode, server: str, *, id: str = "t1", sender: str = DOMAIN, domain: str = DOMAIN) -> None:
        """Have the node send the request; what is waited for comes after it."""
        self.seen = len(self.fleet.events)
        full_jid = node.sessions[0].full_jid
        node.push(
            full_jid,
            f"<iq type='set' id='{id}' from='{sender}' to='{full_jid}'><query xmlns='urn:xmpp:cxfr'>"
            f"<domain>{domain}</domain><server>{server}</server></query></iq>".encode(),
        )

    async def step(self, name: str) -> Event:
        """The plugin's event of that name, after the last request."""

        def found() -> list[Event]:
            return [e for e in self.fleet.of("transfer", since=self.seen) if e["step"] == name]

        await until(lambda: bool(found()), f"{name}: {self.fleet.events[self.seen :]}")
        return found()[0]

    async def connections(self) -> list[Recording]:
        return (await self.fleet.wire())[USER]

    async def connections_with(self, holds: Callable[[Recording], bool]) -> list[Recording]:
        """Return the connections once it holds for the last of them."""
        with trio.fail_after(300):
            while True:
                connections = await self.connections()
                if holds(connections[-1]):
                    return connections
                await trio.sleep(0.05)

    async def sent(self, kind: str, count: int) -> list[list[str | None]]:
        """The ids of that kind of stanza, by connection, once there are so many."""
        with trio.fail_after(300):
            while True:
                stanzas = [connection.read_up().stanzas for connection in await self.connections()]
                ids = [[each.id for each in one if each.kind == kind] for one in stanzas]
                if sum(map(len, ids)) >= count:
                    return ids
                await trio.sleep(0.05)

    async def answer(self, id: str = "t1") -> Element:
        """Return the client's answer to an IQ."""
        while True:
            for connection in await self.connections():
                for element in connection.read_up().stanzas:
                    if element.kind == "iq" and element.id == id:
                        return element
            await trio.sleep(0.02)


def address_of(node: DemoNode) -> str:
    assert node.public_address is not None
    return f"{HOST}:{node.public_address.port}"


@asynccontextmanager
async def open_stage(
    logs: Path,
    authority: Authority,
    *,
    tls: Tls = Tls.STARTTLS,
    serves: str = DOMAIN,
    certified: str | None = None,
    stream_management: bool = False,
    **transfer: object,
) -> AsyncIterator[Stage]:
    """``serves``: the second node's domain. ``certified``: the name in its certificate, ``None`` for that domain."""
    require(Need.SLIXMPP)
    first = DemoNode("node1", DOMAIN, public_tls=tls_context(authority, DOMAIN))
    second = DemoNode("node2", serves, public_tls=tls_context(authority, certified or serves))
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            for node in (first, second):
                await stack.enter_async_context(background(node.serve))
            fleet = await stack.enter_async_context(open_fleet(Library.SLIXMPP, logs / "slixmpp.log"))
            assert first.public_address is not None
            await fleet.connect(
                [USER],
                port=(first.address if tls is Tls.NONE else first.public_address).port,
                tls=tls,
                ca=authority.file,
                stream_management=stream_management,
                transfer=transfer,
            )
            yield Stage(first, second, fleet)


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.DIRECT])
async def test_answers_closes_and_goes_there(tls: Tls, logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority, tls=tls) as stage:
        stage.ask(stage.first, stage.there)
        moved = await stage.step("moved")
        assert moved["server"] == stage.there
        assert [session.full_jid for session in stage.second.sessions] == [JID]
        assert stage.first.records[0].replies["t1"] == "result"
        old, new = await stage.connections()
        up = old.read_up()
        assert up.ended_at is not None, "the stream was not closed"
        assert up.stanzas[-1].id == "t1"
        assert new.read_down().bound_jid == JID


async def test_the_application_may_delay(logs: Path, authority: Authority) -> None:
    """The session is whole until the client leaves: what comes meanwhile is read and answered."""
    async with open_stage(logs, authority, delay=4) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("requested")
        stage.first.push(JID, f"<message from='{DOMAIN}' id='m1'><body>still here?</body></message>".encode())
        assert (await stage.answer("t1")).type == "result"
        assert (await stage.fleet.wait_event("message"))["body"] == "still here?"
        assert stage.first.sessions
        assert not stage.second.sessions
        await stage.step("moved")


async def test_its_patience_ends(logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority, delay=3600, patience_seconds=0.2) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("moved")


async def test_a_forged_request_moves_nobody(logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority) as stage:
        for number, sender in enumerate(("evil.test", f"mallory@{DOMAIN}/r", JID)):
            stage.ask(stage.first, stage.there, id=f"f{number}", sender=sender)
            assert (await stage.answer(f"f{number}")).condition == "not-allowed"
        stage.ask(stage.first, stage.there, id="d", domain=ELSEWHERE)
        assert (await stage.answer("d")).condition == "not-acceptable"
        stage.ask(stage.first, "::1", id="b")
        assert (await stage.answer("b")).condition == "bad-request"
        assert stage.second.accepted == 0
        assert not stage.fleet.of("transfer")


async def test_in_plaintext_it_only_reconnects(logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority, tls=Tls.NONE) as stage:
        stage.ask(stage.first, stage.there)
        assert (await stage.answer()).condition == "not-acceptable"
        stage.ask(stage.first, DOMAIN, id="again")
        assert (await stage.step("moved"))["server"] is None
        assert stage.second.accepted == 0


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.DIRECT])
async def test_a_wrong_certificate_is_refused(tls: Tls, logs: Path, authority: Authority) -> None:
    """Of an authority that is trusted, for another name: no login there, and back home."""
    async with open_stage(logs, authority, tls=tls, certified=ELSEWHERE) as stage:
        stage.ask(stage.first, stage.there)
        assert (await stage.step("failed"))["server"] == stage.there
        await stage.fleet.wait_reconnected([USER], since=stage.seen)
        assert stage.second.accepted > 0, "it was not even tried"
        # By STARTTLS there is a stream in plaintext before it; all it may hold is the wish for TLS.
        for connection in (await stage.connections())[1:-1]:
            assert [e.kind for e in connection.read_up().elements] == ["starttls"]
            assert [e.kind for e in connection.read_down().elements] == ["features", "proceed"]
        assert [session.full_jid for session in stage.first.sessions] == [JID]


async def test_no_login_without_tls(logs: Path, authority: Authority) -> None:
    """Although the application here allows passwords in plaintext."""
    async with open_stage(logs, authority) as stage:
        stage.ask(stage.first, str(stage.second.address))
        await stage.step("failed")
        await stage.fleet.wait_reconnected([USER], since=stage.seen)
        assert stage.first.sessions
        (connection,) = [c for c in (await stage.connections())[1:-1] if c.down]
        assert connection.read_down().elements, "it was offered a login"
        assert not connection.read_up().elements


async def test_back_home_where_nobody_listens(logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority) as stage:
        stage.ask(stage.first, f"{HOST}:{free_port()}")
        await stage.step("failed")
        await stage.fleet.wait_reconnected([USER], since=stage.seen)
        assert stage.first.sessions


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.DIRECT])
async def test_back_home_from_where_nobody_answers(tls: Tls, logs: Path, authority: Authority) -> None:
    async with open_silence() as port, open_stage(logs, authority, tls=tls, connect_seconds=0.5) as stage:
        stage.ask(stage.first, f"{HOST}:{port}")
        await stage.step("failed")
        await stage.fleet.wait_reconnected([USER], since=stage.seen)
        assert stage.first.sessions


async def test_simply_reconnect_leads_home(logs: Path, authority: Authority) -> None:
    """Also from where it was sent before: home is what the application had configured."""
    async with open_stage(logs, authority) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("moved")
        stage.ask(stage.second, DOMAIN)
        assert (await stage.step("moved"))["server"] is None
        assert stage.first.sessions
        await until(lambda: not stage.second.sessions, "the session there is over")


async def test_round_and_round_it_goes_five_times(logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority) as stage:
        here, there = stage.first, stage.second
        for number in range(5):
            stage.ask(here, address_of(there), id=f"t{number}")
            await stage.step("moved")
            here, there = there, here
        stage.ask(here, address_of(there), id="t5")
        assert (await stage.answer("t5")).condition == "resource-constraint"
        assert here.sessions


async def test_to_a_domain_that_the_application_allows(logs: Path, authority: Authority) -> None:
    """The stream, the account and the certificate are that domain's."""
    async with open_stage(logs, authority, serves=ELSEWHERE, domains=[ELSEWHERE]) as stage:
        stage.ask(stage.first, stage.there, domain=ELSEWHERE)
        await stage.step("moved")
        assert [session.full_jid for session in stage.second.sessions] == [f"{USER}@{ELSEWHERE}/r"]


async def test_with_stream_management_the_old_session_is_over(logs: Path, authority: Authority) -> None:
    """All that was sent is acknowledged before the stream is closed, and nothing is resumed."""
    async with open_stage(logs, authority, stream_management=True) as stage:
        await stage.fleet.send({USER: [JID]}, tag="before", rate=100, count=3)
        stage.ask(stage.first, stage.there)
        assert (await stage.step("moved"))["unacknowledged"] == 0
        # The application knows of its new session before the library has asked for stream management in it.
        old, new = await stage.connections_with(lambda new: b"<enable" in new.up)
        assert b"<enable" in old.up, "stream management was not on"
        assert b"<resume" not in new.up
        await until(lambda: not stage.first.sessions, "the old session is over")


@pytest.mark.parametrize("stream_management", [False, True])
async def test_what_is_sent_while_it_leaves_goes_out_on_the_next_stream(
    stream_management: bool, logs: Path, authority: Authority
) -> None:
    """Once, in order, and nothing of it on the stream that it has closed, where nobody reads it."""
    async with open_stage(logs, authority, stream_management=stream_management, parting=20) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("moved")
        sent = [f"parting-{number}" for number in range(20)]

        assert await stage.sent("message", len(sent)) == [[], sent]
        old, _ = await stage.connections()
        assert old.up.endswith(b"</stream:stream>")


async def test_its_capabilities_say_that_it_knows_requests(logs: Path, authority: Authority) -> None:
    """In its first presence, with a hash of what it says when it is asked."""
    async with open_stage(logs, authority) as stage:
        await stage.sent("presence", 1)
        (presence,) = [e for e in (await stage.connections())[0].read_up().stanzas if e.kind == "presence"]
        said = client_identity.caps(stanza.parse(presence.xml))
        assert said is not None
        assert said.rpartition("#")[0].endswith("+xep-0051")
        assert ClientSoftware().knows_cxfr(Software(said), DOMAIN, None) is True
        stage.first.push(
            JID,
            f"<iq type='get' id='disco' from='{DOMAIN}' to='{JID}'>"
            f"<query xmlns='http://jabber.org/protocol/disco#info' node='{said}'/></iq>".encode(),
        )
        answer = await stage.answer("disco")
        assert answer.type == "result"
        assert b'<feature var="urn:xmpp:cxfr"' in answer.xml


async def test_a_connection_that_is_lost_too_early_leads_there_too(logs: Path, authority: Authority) -> None:
    """The server loses patience and sends see-other-host: the library reconnects, and the plugin has said where to."""
    async with open_stage(logs, authority, delay=3600) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("requested")
        stage.first.end(JID, StreamCondition.SEE_OTHER_HOST, f"{HOST}:1")
        await stage.step("moved")
        assert stage.second.sessions


async def test_a_session_that_came_of_a_lost_connection_is_no_business_of_the_old_departure(
    logs: Path, authority: Authority
) -> None:
    """Its patience ends when the client is long there."""
    async with open_stage(logs, authority, delay=3600, patience_seconds=2.0) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("requested")
        stage.first.end(JID, StreamCondition.SEE_OTHER_HOST, f"{HOST}:1")
        await stage.step("moved")
        await trio.sleep(2.5)
        await stage.fleet.send({USER: [JID]}, tag="later", rate=100, count=3)
        assert (await stage.sent("message", 3))[-1] == [f"later-{USER}-{number}" for number in (1, 2, 3)]


async def test_the_application_has_the_last_word(logs: Path, authority: Authority) -> None:
    """The connection is lost before the client has left, and the application connects to an address of its choice."""
    async with open_stage(logs, authority, delay=3600) as stage:
        stage.ask(stage.first, stage.there)
        await stage.step("requested")
        await stage.first.cut(JID)
        await stage.step("failed")
        assert stage.first.sessions
        stage.ask(stage.first, DOMAIN, id="t2")
        assert (await stage.answer("t2")).type == "result"


async def test_support_is_announced(logs: Path, authority: Authority) -> None:
    async with open_stage(logs, authority) as stage:
        stage.first.push(
            JID,
            f"<iq type='get' id='disco' from='{DOMAIN}' to='{JID}'>"
            "<query xmlns='http://jabber.org/protocol/disco#info'/></iq>".encode(),
        )
        answer = await stage.answer("disco")
        assert answer.type == "result"
        assert b'<feature var="urn:xmpp:cxfr"' in answer.xml


# -- the proxy, and two nodes that know nothing of it ----------------------------------------------------------------


@dataclass(slots=True)
class Site:
    """Two Prosody nodes, which demand TLS; before each a tap for the proxy, ``inner``, and one for clients, ``public``.

    The client begins on node1.
    """

    proxy: ProxyProcess
    inner: list[Tap]
    public: list[Tap]
    fleet: Fleet

    async def drain(self) -> None:
        """Until the client has a new session, wherever."""
        seen = len(self.fleet.events)
        done = await self.proxy.drain("node1")
        assert done.code == 0, done.output
        await self.fleet.wait_reconnected([USER], since=seen)


@asynccontextmanager
async def open_site(folder: Path, logs: Path, authority: Authority, certified: str = DOMAIN) -> AsyncIterator[Site]:
    """``certified``: the name in the certificate at node2's public address. If it is not the domain, another server is
    there, of the same users."""
    require(Need.PROSODY, Need.SLIXMPP)
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:

            async def start(name: str, certificate: Certificate) -> ProsodyNode:
                return await stack.enter_async_context(
                    ProsodyNode(folder / name, users=[USER], certificate=certificate)
                )

            certificate = authority.issue(DOMAIN)
            nodes = [await start("node1", certificate), await start("node2", certificate)]
            at_public = list(nodes)
            if certified != DOMAIN:
                at_public[1] = await start("other", authority.issue(certified))
            inner = [await stack.enter_async_context(open_tap(node.port)) for node in nodes]
            public = [await stack.enter_async_context(open_tap(node.port)) for node in at_public]
            lines = [
                f"node{n} {inner[n - 1].address} public={public[n - 1].address} tls=starttls ca={authority.file} "
                f"verify-name={DOMAIN}"
                for n in (1, 2)
            ]
            # A node that weighs nothing takes nobody: everybody begins on node1.
            lines[1] += " weight=0"
            proxy = await stack.enter_async_context(open_proxy(folder, lines, certificate))
            fleet = await stack.enter_async_context(open_fleet(Library.SLIXMPP, logs / "slixmpp.log"))
            await fleet.connect([USER], port=proxy.port, tls=Tls.DIRECT, ca=authority.file, transfer={})
            assert [row["node"] for row in await proxy.show("sessions")] == ["node1"]
            proxy.nodes_file.write_text("".join(f"{line.replace(' weight=0', '')}\n" for line in lines), "utf-8")
            assert (await proxy.command("reload")).code == 0
            yield Site(proxy, inner, public, fleet)


async def _transcripts(site: Site) -> list[tuple[Recording, Transcript, Transcript]]:
    return [(c, c.read_up(), c.read_down()) for c in (await site.fleet.wire())[USER]]


async def test_moves_by_the_iq_alone_to_the_node_itself(tmp_path: Path, logs: Path, authority: Authority) -> None:
    async with open_site(tmp_path, logs, authority) as site:
        await site.fleet.send({USER: [JID]}, tag="before", rate=100, count=5)
        await site.drain()

        (transfer,) = await site.proxy.show("transfers")
        assert transfer["rung"] == "cxfr", transfer
        assert transfer["outcome"] == "moved", transfer
        assert await site.proxy.show("sessions") == [], "it came back to the proxy"
        assert [len(tap.open_connections) for tap in site.public] == [0, 1]

        (old, up, down), (_, _, new_down) = await _transcripts(site)
        (request,) = [e for e in down.stanzas if e.payload == ("{urn:xmpp:cxfr}query",)]
        (answer,) = [e for e in up.stanzas if e.id == request.id]
        assert answer.type == "result"
        assert up.ended_at is not None
        assert down.stream_error is None, "it was told twice"
        assert down.ended_at is not None
        assert new_down.bound_jid == JID
        assert site.fleet.of("transfer")[-1]["step"] == "moved"

        # Nothing was lost and nothing came twice: the client writes to itself, before and after.
        await site.fleet.send({USER: [JID]}, tag="after", rate=100, count=5)
        await until(lambda: len(site.fleet.of("message")) >= 10, "ten messages")
        bodies = [e["body"] for e in site.fleet.of("message")]
        assert bodies == [f"{tag} {USER} {n}" for tag in ("before", "after") for n in range(1, 6)]
        assert old.closed_at is not None


async def test_who_has_another_certificate_gets_nobody(tmp_path: Path, logs: Path, authority: Authority) -> None:
    """The client looks, sees a certificate for the wrong name, and comes back to the proxy."""
    async with open_site(tmp_path, logs, authority, ELSEWHERE) as site:
        await site.drain()
        assert [e["step"] for e in site.fleet.of("transfer")] == ["requested", "failed"]
        assert site.public[1].connections, "it was not even tried"
        assert not site.public[1].open_connections
        (session,) = await site.proxy.show("sessions")
        assert session["node"] == "node2"
        bound = [down.bound_jid for _, _, down in await _transcripts(site)]
        assert bound == [JID, *[None] * (len(bound) - 2), JID]
        assert all([e.kind for e in up.elements] == ["starttls"] for _, up, _ in (await _transcripts(site))[1:-1])
