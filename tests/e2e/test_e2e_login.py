"""Clients get their node by who logs in: the proxy in this process, three nodes that share nothing, raw clients that
leave out ``from``.

Where a user belongs is computed by :class:`Placement` from the nodes file, and the nodes tell where the user is.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from e2e_proxy import HEADER, ProxyHere, Raw, command, connect, in_process, nodes_file, running, until
from e2e_workers import world as workers_world

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.config.table import Config, Route, StartTls, Timeouts
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.demo.wire import HostPort, StreamOpened
from cxfr_proxy.events import TextFormatter
from cxfr_proxy.session.commands import Reason
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, serialize
from cxfr_proxy.xmpp.stream_management import Resumption

pytestmark = pytest.mark.usefixtures("engines")

PASSWORD = "r0m30-4nd-jul13t"
REGISTER = "<register xmlns='http://jabber.org/features/iq-register'/>"


def encoded(message: str) -> str:
    return base64.b64encode(message.encode()).decode()


def plain(user: str, password: str = PASSWORD) -> str:
    return f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{encoded(f'{chr(0)}{user}{chr(0)}{password}')}</auth>"


def named(jid: str) -> bytes:
    return HEADER.replace(b"to=", f"from='{jid}' to=".encode())


def authenticate(user: str, inline: str = "") -> str:
    first = f"<initial-response>{encoded(f'{chr(0)}{user}{chr(0)}{PASSWORD}')}</initial-response>"
    return f"<authenticate xmlns='{names.SASL2}' mechanism='PLAIN'>{first}{inline}</authenticate>"


BIND2 = f"<bind xmlns='{names.BIND2}'><enable xmlns='{names.SM}' resume='true'/></bind>"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


@dataclass
class World:
    proxy: ProxyHere
    address: HostPort
    nodes: Sequence[DemoNode]
    certificate: DemoCertificate
    placement: Placement
    logged: list[logging.LogRecord]

    async def raw(self, *, tls: bool = True) -> Raw:
        return await connect(self.address, self.certificate.client_context() if tls else None)

    async def greeted(self, *, tls: bool = True) -> Raw:
        """A client that has got header and features, and no node yet; waits until the nodes' features are known."""
        sessions = len(self.proxy.registry)
        while True:
            raw = await self.raw(tls=tls)
            await raw.open()
            if len(self.proxy.registry) == sessions:
                return raw
            await raw.close()
            await until(lambda: len(self.proxy.registry) == sessions)

    def home(self, user: str) -> str:
        node = self.placement.home(f"{user}@localhost", "localhost")
        assert node is not None
        return node.name

    def user_of(self, *homes: str) -> str:
        """Somebody whose home is one of these."""
        return next(user for user in (f"user{number}" for number in range(100)) if self.home(user) in homes)

    def node_of(self, user: str) -> str:
        """The node where the user is bound."""
        [found] = [node.name for node in self.nodes for each in node.sessions if each.bare_jid == f"{user}@localhost"]
        return found

    async def now_on(self) -> str:
        """The node of the only session that logs in now."""
        await until(lambda: self.proxy.registry.logging_in())
        [relayed] = self.proxy.registry.logging_in()
        return relayed.session.node

    def log(self) -> str:
        return "\n".join(map(TextFormatter().format, self.logged))


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _log_kept() -> Iterator[list[logging.LogRecord]]:
    """All of it, whatever its level."""
    logger, keep = logging.getLogger("cxfr_proxy"), _Keep()
    before = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.DEBUG)
    try:
        yield keep.records
    finally:
        logger.removeHandler(keep)
        logger.setLevel(before)


@asynccontextmanager
async def world(
    directory: Path,
    certificate: DemoCertificate,
    *,
    extra: Sequence[str] = ("", "", ""),
    route: Route = Route.LOGIN,
    starttls: StartTls = StartTls.OFF,
    timeouts: Timeouts | None = None,
    sasl2_by_name: bool = False,
) -> AsyncIterator[World]:
    """``extra``: features of each node's own. All of the log is kept, whatever its level."""
    nodes = [
        DemoNode(
            f"node{number}",
            offers=NodeOffers(
                extra_features=features,
                sasl2=True,
                sasl2_by_name=sasl2_by_name,
                check_password=lambda user, password: password == PASSWORD,
            ),
        )
        for number, features in enumerate(extra, start=1)
    ]
    async with running(*nodes):
        file = nodes_file(directory, nodes)
        config = Config(
            backends=FileBackends(str(file)),
            domain=("localhost",),
            certificate=(certificate.certificate,),
            key=(certificate.key,),
            starttls=starttls,
            route=route,
            control=directory / "c.sock",
            timeouts=timeouts or Timeouts(see_other_host_timeout=0.5, node_close_timeout=1.0),
        )
        placement = Placement(Cluster(parse_nodes(file.read_text(), "nodes.txt")))
        with _log_kept() as logged:
            async with in_process(config) as (proxy, address):
                it = World(proxy, address, nodes, certificate, placement, logged)
                yield it
                asked = [counts.asked for counts in it.proxy.registry.counts.nodes.values()]
                assert not any(asked), "nobody had to be moved"
        for secret in (PASSWORD, *(encoded(f"\0user{number}\0{PASSWORD}") for number in range(100))):
            assert secret not in it.log()


async def bind(raw: Raw, user: str, first: str | None = None) -> None:
    """Log in on a stream that has its features."""
    await raw.send(first or plain(user))
    assert "success" in await raw.xml()
    raw.connection.restart()
    await raw.open()
    await raw.send(f"<iq type='set' id='b'><bind xmlns='{names.BIND}'><resource>r</resource></bind></iq>")
    assert f"{user}@localhost/r" in await raw.xml()


@pytest.mark.parametrize("tls", [True, False])
async def test_everybody_lands_at_home(tmp_path: Path, certificate: DemoCertificate, tls: bool) -> None:
    async with world(tmp_path, certificate) as it:
        await (await it.greeted()).close()
        users = [f"user{number}" for number in range(12)]
        for user in users:
            raw = await it.raw(tls=tls)
            await raw.open()
            await bind(raw, user)
        assert {user: it.node_of(user) for user in users} == {user: it.home(user) for user in users}
        assert len({it.home(user) for user in users}) == 3


async def test_a_stream_without_a_login_costs_no_node(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        raws = [await it.greeted() for _ in range(5)]
        assert it.proxy.registry.connections >= 5
        assert not it.proxy.registry
        await raws[0].send("</stream:stream>")
        await raws[0].read()
        await raws[0].closed()


async def test_all_in_one_flight(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        await (await it.greeted()).close()
        raw, user = await it.raw(), it.user_of("node2")
        await raw.send(
            HEADER + plain(user).encode() + HEADER + f"<iq type='set' id='b'><bind xmlns='{names.BIND}'/></iq>".encode()
        )
        assert isinstance(await raw.read(), StreamOpened)
        assert "mechanisms" in await raw.xml()
        assert "success" in await raw.xml()
        raw.connection.restart()
        assert isinstance(await raw.read(), StreamOpened)
        assert "bind" in await raw.xml()
        assert f"{user}@localhost" in await raw.xml()
        assert it.node_of(user) == "node2"


async def test_nodes_that_differ(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Said once, and routed as the client connects: its from counts, and nothing of its login."""
    async with world(tmp_path, certificate, extra=("", REGISTER, "")) as it:
        await until(lambda: "features-differ" in it.log())
        user = it.user_of("node2")
        raw = await it.raw()
        await raw.open(named(f"{user}@localhost"))
        await bind(raw, user)
        assert it.node_of(user) == "node2"
        raw = await it.raw()
        await raw.open()
        node = await it.now_on()
        other = it.user_of(*{"node1", "node2", "node3"} - {node})
        await bind(raw, other)
        assert it.node_of(other) == node
        [line] = [line for line in it.log().splitlines() if "features-differ" in line]
        assert "domain=localhost elements=register nodes=node2 unlike=node1" in line


async def test_route_connect_shows_the_node_s_own(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, route=Route.CONNECT) as it:
        await until(lambda: all(node.accepted for node in it.nodes))
        raw = await it.raw()
        await raw.open()
        assert await it.now_on()
        await bind(raw, "user1")


async def test_a_wrong_password_and_then_somebody_else(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        one, two, three = (it.user_of(name) for name in ("node1", "node2", "node3"))
        raw = await it.greeted()
        for user in (one, two, one):
            await raw.send(plain(user, PASSWORD + "x"))
            assert "not-authorized" in await raw.xml()
            assert await it.now_on() == it.home(user)
        await bind(raw, three)
        assert it.node_of(three) == "node3"
        await until(lambda: len(it.proxy.registry) == 1, "the others are over")
        assert it.proxy.registry.counts.totals.ended[Reason.REROUTED] == 3
        assert it.proxy.registry.connections == 1
        await raw.close()
        await until(lambda: it.proxy.registry.connections == 0)


async def test_nobody_tries_users_without_end(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Nodes count failures by connection. After three changes it stays where it is, and is the node's to end."""
    async with world(tmp_path, certificate) as it:
        one, two = it.user_of("node1"), it.user_of("node2")
        raw = await it.greeted()
        found = []
        for user in (one, two, one, two, one, two):
            await raw.send(plain(user, "x"))
            assert "not-authorized" in await raw.xml()
            found.append(await it.now_on())
        assert found == ["node1", "node2", "node1", "node2", "node2", "node2"]


@pytest.mark.parametrize(
    "first",
    [
        lambda user: f"<auth xmlns='{names.SASL}' mechanism='SCRAM-SHA-1'>{encoded(f'n,,n={user},r=abc')}</auth>",
        lambda user: f"<auth xmlns='{names.SASL}' mechanism='HT-SHA-256-NONE'>{encoded(f'{user}{chr(0)}abc')}</auth>",
        lambda user: (
            f"<auth xmlns='{names.SASL}' mechanism='OAUTHBEARER'>"
            f"{encoded(f'n,a={user}@localhost,{chr(1)}auth=Bearer x{chr(1)}{chr(1)}')}</auth>"
        ),
    ],
)
async def test_mechanisms_that_name_somebody_first(tmp_path: Path, certificate: DemoCertificate, first: object) -> None:
    """The demo's node knows none of them, and is asked for them all the same."""
    assert callable(first)
    async with world(tmp_path, certificate) as it:
        for name in ("node1", "node2", "node3"):
            user = it.user_of(name)
            raw = await it.greeted()
            await raw.send(first(user))
            assert "failure" in await raw.xml()
            assert await it.now_on() == name
            await bind(raw, user)
            assert it.node_of(user) == name
            await raw.close()
            await until(lambda: not it.proxy.registry)


async def test_a_mechanism_that_names_nobody_is_routed_by_the_header(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    async with world(tmp_path, certificate) as it:
        await (await it.greeted()).close()
        user = it.user_of("node3")
        raw = await it.raw()
        await raw.open(named(f"{user}@localhost/x"))
        await raw.send(f"<auth xmlns='{names.SASL}' mechanism='LOGIN'/>")
        assert "failure" in await raw.xml()
        assert await it.now_on() == "node3"


async def test_who_is_named_by_the_header_is_shown_what_the_node_offers_them(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    """ejabberd offers SASL2 to nobody else, so the template of all nodes has none."""
    async with world(tmp_path, certificate, sasl2_by_name=True) as it:
        await (await it.greeted()).close()
        raw = await it.raw()
        assert names.SASL2 not in await raw.open()
        for name in ("node1", "node2", "node3"):
            user = it.user_of(name)
            raw = await it.raw()
            assert names.SASL2 in await raw.open(named(f"{user}@localhost"))
            assert await it.now_on() == name
            await raw.send(authenticate(user, BIND2))
            assert "success" in await raw.xml()
            assert it.node_of(user) == name
            await until(lambda: not it.proxy.registry.logging_in())


async def test_who_logs_in_as_another_than_the_header_said(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate, sasl2_by_name=True) as it:
        await (await it.greeted()).close()
        said, user = it.user_of("node1"), it.user_of("node2")
        for first in (plain(user), authenticate(user, BIND2)):
            raw = await it.raw()
            await raw.open(named(f"{said}@localhost"))
            assert await it.now_on() == "node1"
            await raw.send(first)
            assert "success" in await raw.xml()
            await until(lambda: [each.session.node for each in it.proxy.registry] == ["node2"])
            await raw.close()
            await until(lambda: not it.proxy.registry)
        assert it.proxy.registry.counts.totals.ended[Reason.REROUTED] == 2


async def test_sasl2_with_bind_and_resumption(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        user = it.user_of("node2")
        raw = await it.greeted()
        await raw.send(authenticate(user, BIND2))
        success = await raw.element()
        assert it.node_of(user) == "node2"
        enabled = success.find(f".//{{{names.SM}}}enabled")
        assert enabled is not None
        await trio.lowlevel.checkpoint()
        raw.abandon()
        await until(lambda: not it.proxy.registry)
        raw = await it.greeted()
        await raw.send(authenticate(user, f"<resume xmlns='{names.SM}' previd='{enabled.get('id')}' h='0'/>"))
        assert "resumed" in await raw.xml()
        await until(lambda: not it.proxy.registry.logging_in())
        assert it.node_of(user) == "node2"


@pytest.mark.parametrize("names_user", [True, False])
async def test_a_session_is_resumed_where_it_is_and_not_at_home(
    tmp_path: Path, certificate: DemoCertificate, names_user: bool
) -> None:
    async with world(tmp_path, certificate) as it:
        user = it.user_of("node1")
        for node in ("node2", "node3"):
            known = Resumption(f"{user}@localhost/r", node, f"sm-{node}")
            it.proxy.registry.memory.remember_resumable(f"sm-{node}", known)
            raw = await it.greeted()
            resume = f"<resume xmlns='{names.SM}' previd='sm-{node}' h='0'/>"
            if names_user:
                await raw.send(authenticate(user, resume + BIND2))
                assert "item-not-found" in await raw.xml(), "it is not there, and was looked for"
                assert it.node_of(user) == node
            else:
                await raw.send(f"<authenticate xmlns='{names.SASL2}' mechanism='LOGIN'>{resume}</authenticate>")
                assert "failure" in await raw.xml()
                assert await it.now_on() == node
            await raw.close()
            await until(lambda: not it.proxy.registry)
            await until(lambda: not any(node.sessions for node in it.nodes) or names_user)
            for each in it.nodes:
                for session in each.sessions:
                    each.cluster.drop(session)


async def test_something_else_first(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Registration, say: routed at once, and the login stays with it."""
    async with world(tmp_path, certificate) as it:
        raw = await it.greeted()
        await raw.send(f"<r xmlns='{names.SM}'/>")
        node = await it.now_on()
        user = it.user_of(*{"node1", "node2", "node3"} - {node})
        await bind(raw, user)
        assert it.node_of(user) == node


async def test_the_home_can_t_be_reached(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        user = it.user_of("node2")
        raw = await it.greeted()
        await it.nodes[1].stop(StopStyle.REFUSE)
        await bind(raw, user)
        assert it.node_of(user) in ("node1", "node3")
        raw = await it.greeted()
        for node in it.nodes:
            await node.stop(StopStyle.REFUSE)
        await raw.send(plain(it.user_of("node1")))
        assert await raw.error() == "remote-connection-failed"


async def test_a_client_that_says_nothing(tmp_path: Path, certificate: DemoCertificate) -> None:
    timeouts = Timeouts(negotiation_timeout=2.0, see_other_host_timeout=0.2)
    async with world(tmp_path, certificate, timeouts=timeouts) as it:
        raw = await it.greeted()
        assert await raw.error() == "connection-timeout"


async def test_the_waiting_is_part_of_the_time_for_a_login(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The end is as long after the header as if no node had been chosen behind it."""
    timeouts = Timeouts(negotiation_timeout=600.0)
    async with world(tmp_path, certificate, timeouts=timeouts) as it:
        raw = await it.greeted()
        began = trio.current_time()
        await trio.sleep(0.01)
        await raw.send(plain("user1", "x"))
        assert "not-authorized" in await raw.xml()
        [relayed] = it.proxy.live
        assert relayed.session.deadline is not None
        assert began < relayed.session.deadline <= began + 600.0


async def test_starttls_on_offer(tmp_path: Path, certificate: DemoCertificate) -> None:
    """It needs no node before it, neither with features of the proxy's nor after a failed login."""
    async with world(tmp_path, certificate, starttls=StartTls.OPTIONAL) as it:
        raw = await it.greeted(tls=False)
        await raw.start_tls(certificate.client_context())
        await raw.open()
        assert not it.proxy.registry
        user = it.user_of("node2")
        await bind(raw, user)
        assert it.node_of(user) == "node2"
        raw = await it.greeted(tls=False)
        await raw.send(plain(it.user_of("node1"), "x"))
        assert "not-authorized" in await raw.xml()
        await raw.start_tls(certificate.client_context())
        await raw.open()
        user = it.user_of("node3")
        await bind(raw, user)
        assert it.node_of(user) == "node3"


@pytest.mark.parametrize(
    "element",
    [
        plain("user1").replace("</auth>", "</response>"),
        plain("user1").replace("</auth>", "&x;</auth>"),
        plain("user1").replace("<auth", "<x:auth").replace("</auth", "</x:auth"),
        plain("user1").replace("</auth>", "x" * 9000 + "</auth>"),
        encoded(f"\0user1\0{PASSWORD}"),
        plain("user1").replace("</auth>", "*</auth>"),
        plain("user1\0x"),
        plain("user1\xff"),
        plain("user1").replace("PLAIN", PASSWORD),
        plain("user1").replace("auth", "starttls"),
        plain("user1", "x") + plain("user2").replace("</auth>", "</a>"),
        authenticate("user1").replace("</init", "<x/></init"),
        authenticate("user1").replace("PLAIN", "EXTERNAL"),
        plain("romeo\0user1"),
        plain("user1") + "<<",
        plain("user1") + HEADER.decode().replace("localhost", PASSWORD),
        plain("user1").replace("<auth", f"<auth {PASSWORD}='<'"),
    ],
)
@pytest.mark.parametrize("route", list(Route))
async def test_no_fault_tells_a_password(
    tmp_path: Path, certificate: DemoCertificate, element: str, route: Route
) -> None:
    """Neither to the log, of which :func:`world` keeps all, nor to the client."""
    async with world(tmp_path, certificate, route=route) as it:
        raw = await it.greeted() if route is Route.LOGIN else await it.raw()
        if route is Route.CONNECT:
            await raw.open()
        await raw.send(element)
        incoming = await raw.read()
        assert not isinstance(incoming, Element) or PASSWORD not in serialize(incoming).decode()
        await raw.close()
        await until(lambda: not it.proxy.registry.connections)


async def test_unknown_users_are_answered_like_known_ones(tmp_path: Path, certificate: DemoCertificate) -> None:
    """One is logged in, one has a session to resume, of one nothing is known: nobody can tell by the answer."""
    async with world(tmp_path, certificate) as it:
        known, lost, unknown = it.user_of("node1"), it.user_of("node2"), it.user_of("node3")
        bound = await it.greeted()
        await bind(bound, known)
        it.proxy.registry.memory.returning_clients.leaves(
            f"{lost}@localhost", "192.0.2.1", "node3", at=trio.current_time(), seconds=60.0
        )
        answers = set()
        for user in (known, lost, unknown):
            raw = await it.greeted()
            await raw.send(plain(user, "x"))
            answers.add(await raw.xml())
            await raw.send(plain(user, "x") + plain(known, "x"))
            answers.add(await raw.xml() + await raw.xml())
            await raw.close()
            await until(lambda: len(it.proxy.registry) == 1)
        assert len(answers) == 2


async def test_workers_say_once_that_nodes_differ(tmp_path: Path, certificate: DemoCertificate) -> None:
    nodes = [DemoNode("node1"), DemoNode("node2", offers=NodeOffers(extra_features=REGISTER))]
    async with running(*nodes) as nursery:
        options = ("--domain", "localhost", "--starttls", "off", "--workers", "2")
        async with command(nursery, tmp_path, nodes_file(tmp_path, nodes), *options) as proxy:
            await proxy.event("features-differ")
            for number in range(8):
                raw = await connect(proxy.address)
                await raw.log_in(f"user{number}", PASSWORD)
            assert len(await proxy.event("features-differ")) == 1


async def test_workers(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Each shows what the supervisor's checks have seen."""
    async with workers_world(tmp_path, certificate, "--domain", "localhost") as it:
        placement = Placement(Cluster(parse_nodes(it.proxy.nodes.read_text(), "nodes.txt")))
        users = [f"user{number}" for number in range(24)]
        homes = {user: placement.home(f"{user}@localhost", "localhost") for user in users}
        await it.proxy.event("listening")
        while True:
            raw = await connect(it.proxy.address, certificate.client_context())
            await raw.open()
            if not await it.proxy.show("sessions"):
                break
            await raw.close()
        await it.log_in(24)
        found = {row["jid"].partition("@")[0]: row["node"] for row in await it.proxy.show("sessions") if row["jid"]}
        assert found == {user: node.name for user, node in homes.items() if node is not None}
