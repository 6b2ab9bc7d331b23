"""The demo's clients, with a node that plays the proxy's part (:meth:`DemoNode.push`, :meth:`DemoNode.end`)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from demo_world import PATIENCE_SECONDS, connected, running, until
from ports import free_port

from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Life, Security, SeenRung, Traffic
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.stream import ACK_EVERY, NodeOffers
from cxfr_proxy.demo.wire import StreamClosed
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.names import StreamCondition


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    directory: Path = tmp_path_factory.mktemp("certificate")
    return make_certificate(directory, "localhost")


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
