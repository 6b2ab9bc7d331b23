"""Users are moved to where they belong: when a node joins, when they log in elsewhere, when an operator says so. And
not to and fro."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from e2e_proxy import (
    DOMAIN,
    PATIENCE_SECONDS,
    ProxyHere,
    Raw,
    Row,
    all_bound,
    command,
    connect,
    in_process,
    nodes_file,
    running,
    until,
)

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.config.table import Config, Route, StartTls, Timeouts
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Security
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.session.ladder import Trigger
from cxfr_proxy.xmpp import names


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), DOMAIN)


def home(user: str, *nodes: str) -> str:
    """Where a user of that name belongs, of nodes with these names."""
    cluster = Cluster(NodeSpec(name, Address("h", 1)) for name in nodes)
    found = Placement(cluster).home(f"{user}@{DOMAIN}", DOMAIN)
    assert found is not None
    return found.name


def user_where(condition: Callable[[str], bool]) -> str:
    return next(user for number in range(10_000) if condition(user := f"user{number}"))


HIDDEN = ("--starttls", "off", "--route", "connect")
"""A client that doesn't name its user in the header may land on the wrong node."""


def plain(tmp_path: Path, nodes: Path, **settings: float) -> Config:
    return Config(
        backends=FileBackends(str(nodes)),
        starttls=StartTls.OFF,
        route=Route.CONNECT,  # so a client that doesn't name its user may land wrong
        control=tmp_path / "c.sock",
        timeouts=Timeouts(cxfr_timeout=0.3, see_other_host_timeout=0.5, node_close_timeout=1.0),
        **settings,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def crowd() -> AsyncIterator[trio.Nursery]:
    """Where clients live; they end before the proxy does."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """As ``until``, of what a command tells."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - it happens in another process
            await trio.sleep(0.02)


async def log_in(
    nursery: trio.Nursery, address: HostPort, user: str, kind: ClientKind = ClientKind.CXFR, says: str | None = None
) -> DemoClient:
    """``says``: the name in its header; ``None``: it has none."""
    client = DemoClient(
        f"{user}@{DOMAIN}",
        kind,
        address,
        rng=random.Random(user),
        login=ClientLogin(header_from=f"{says}@{DOMAIN}" if says is not None else None),
        back_off_seconds=0.05,
    )
    with trio.fail_after(PATIENCE_SECONDS):
        await nursery.start(client.run)
    return client


def places(proxy: ProxyHere) -> dict[str, str]:
    """Node by user."""
    return {(relayed.session.full_jid or "").partition("@")[0]: relayed.session.node for relayed in proxy.registry}


def nodes_of(*names: str, shared: bool = False) -> list[DemoNode]:
    cluster = DemoCluster(DOMAIN, shared=shared)
    return [DemoNode(name, cluster=cluster) for name in names]


# --- a node joins


async def test_a_fourth_node_gets_its_quarter_by_itself(tmp_path: Path) -> None:
    """And nobody else is moved; at the rate."""
    nodes = nodes_of("a", "b", "c", "d")
    async with running(*nodes):
        file = nodes_file(tmp_path, nodes[:3])
        async with (
            in_process(plain(tmp_path, file, transfer_rate=10.0), placing=True) as (proxy, address),
            crowd() as nursery,
        ):
            users = [f"user{number}" for number in range(80)]
            kinds = [ClientKind.CXFR, ClientKind.CXFR_SILENT, ClientKind.PLAIN, ClientKind.STREAM_MANAGEMENT]
            clients = [
                await log_in(nursery, address, user, kinds[number % 4], says=user) for number, user in enumerate(users)
            ]
            assert places(proxy) == {user: home(user, "a", "b", "c") for user in users}
            await trio.sleep(0.1)
            before = {relayed.session.full_jid: relayed.id for relayed in proxy.registry}
            nodes_file(tmp_path, nodes)
            await until(lambda: proxy.rebalances.last is not None, "it begins")
            rebalance = proxy.rebalances.last
            assert rebalance is not None
            await until(lambda: rebalance.ended is not None, "it ends")
            after = {user: home(user, "a", "b", "c", "d") for user in users}
            moved = {user for user in users if after[user] == "d"}
            assert 10 < len(moved) < 30
            await until(lambda: places(proxy) == after, "all are back")
            assert [record.target for record in proxy.registry.counts.recent] == ["d"] * len(moved)
            assert {record.trigger for record in proxy.registry.counts.recent} == {Trigger.REBALANCE}
            stayed = {jid: number for jid, number in before.items() if (jid or "").partition("@")[0] not in moved}
            now = {relayed.session.full_jid: relayed.id for relayed in proxy.registry}
            assert stayed.items() <= now.items()
            asked = sorted(record.ended - record.seconds for record in proxy.registry.counts.recent)
            assert asked[-1] - asked[0] >= (len(moved) - 6) / 10
            assert (rebalance.counts.planned, rebalance.counts.moved) == (len(moved), len(moved))
            await until(lambda: all_bound(clients))


async def test_rebalancing_by_command(tmp_path: Path) -> None:
    """With workers: planned, in portions, at a rate of its own, watched, and nothing left to do behind it."""
    nodes = nodes_of("a", "b", "c", "d")
    async with running(*nodes) as services:
        file = nodes_file(tmp_path, nodes[:3])
        options = ("--starttls", "off", "--workers", "2", "--cxfr-timeout", "300ms", "--node-close-timeout", "1s")
        async with command(services, tmp_path, file, *options) as proxy, crowd() as nursery:
            users = [f"user{number}" for number in range(80)]
            for number, user in enumerate(users):
                await log_in(nursery, proxy.address, user, [ClientKind.CXFR, ClientKind.PLAIN][number % 2], says=user)
            nodes_file(tmp_path, nodes)
            await proxy.event("node-up")
            wrong = {user: home(user, "a", "b", "c") for user in users if home(user, "a", "b", "c", "d") == "d"}
            expected = [{"source": n, "target": "d", "sessions": k} for n, k in sorted(Counter(wrong.values()).items())]
            plan = json.loads((await proxy.say("rebalance", "--plan", "--rate", "10", "--json")).output)
            assert plan == {
                "kind": "rebalance-plan",
                "sessions": len(wrong),
                "inactive": 0,
                "moves": expected,
                "rate": 10.0,
                "seconds": pytest.approx(len(wrong) / 10),
                "stay_down": 0,
                "held": 0,
                "held_seconds": 0.0,
            }
            there = Counter(home(user, "a", "b", "c") for user in users)
            few = json.loads(
                (await proxy.say("rebalance", "--wait", "--max-share", "5%", "--json")).output.splitlines()[-1]
            )
            allowed = sum(min(int(there[n] * 0.05), Counter(wrong.values())[n]) for n in there)
            # Below that, where the worker whose turn it is has none of those who are to move: the kernel spreads them.
            first = few["total"]
            assert first <= allowed
            assert (few["moved"], few["left"]) == (first, 0)
            began = trio.current_time()
            done = await proxy.say("rebalance", "--wait", "--rate", "4", "--json")
            rest = len(wrong) - first
            last = json.loads(done.output.splitlines()[-1])
            assert (done.code, last["total"], last["moved"], last["left"]) == (0, rest, rest, 0)
            assert trio.current_time() - began >= (rest - 2) / 4

            async def all_back() -> bool:
                rows = await proxy.show("sessions")
                return {row["jid"].partition("@")[0]: row["node"] for row in rows if row["jid"]} == after

            after = {user: home(user, "a", "b", "c", "d") for user in users}
            await eventually(all_back)
            transfers = await proxy.event("transfer", len(wrong))
            assert {row["jid"].partition("@")[0] for row in transfers} == wrong.keys()
            assert {(row["trigger"], row["target"]) for row in transfers} == {("rebalance", "d")}
            assert [row["sessions"] for row in await proxy.event("rebalance-begins", 2)] == [first, rest]
            done = await proxy.say("rebalance", "--wait")
            assert (done.code, done.output) == (0, done.output.replace("\r", ""))
            assert done.output.endswith("all users are where they belong\n")
            assert (await proxy.say("rebalance", "--stop")).code == 2


async def test_the_load_is_evened_by_all_workers(tmp_path: Path) -> None:
    nodes = nodes_of("a", "b", "c")
    async with running(*nodes) as services:
        file = nodes_file(tmp_path, nodes[:2])
        options = ("--starttls", "off", "--workers", "2", "--placement", "least-sessions", "--rebalance", "auto")
        async with command(services, tmp_path, file, *options, "--transfer-rate", "50") as proxy, crowd() as nursery:
            clients = [await log_in(nursery, proxy.address, f"user{number}") for number in range(40)]
            nodes_file(tmp_path, nodes)
            (begins,) = await proxy.event("rebalance-begins")
            assert begins["reason"] == "c takes clients"
            await proxy.event("rebalance-ends")

            async def even() -> bool:
                counts = [row["sessions"] for row in await proxy.show("nodes")]
                return sum(counts) == 40 and bool(max(counts) - min(counts) <= 1)

            await eventually(even)
            assert len(await proxy.event("transfer", 12)) <= 14
            await until(lambda: all_bound(clients))


# --- logged in on the wrong node


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", ClientKind)
async def test_a_client_whose_header_hides_its_name_is_sent_home_once(
    kind: ClientKind, shared: bool, tmp_path: Path
) -> None:
    nodes = nodes_of("a", "b", shared=shared)
    async with running(*nodes):
        options = dict.fromkeys("ab", "resume=shared") if shared else {}
        file = nodes_file(tmp_path, nodes, **options)
        async with in_process(plain(tmp_path, file), placing=True) as (proxy, address), crowd() as nursery:
            for user in ("user0", "user1", "user2", "user3", "user4", "user5"):
                client = await log_in(nursery, address, user, kind)
                right = home(user, "a", "b")
                await until(lambda u=user, n=right: places(proxy).get(u) == n, "it is at home")  # type: ignore[misc]
                assert client.logins <= 2
            await trio.sleep(0.5)
            moves = Counter(record.full_jid for record in proxy.registry.counts.recent)
            assert moves
            assert set(moves.values()) == {1}
            assert {record.trigger for record in proxy.registry.counts.recent} == {Trigger.WRONG_NODE}


async def test_a_client_whose_mechanism_hides_its_name_is_sent_home(tmp_path: Path) -> None:
    """With ``--route login`` as well nobody knows who it is when a node has to be chosen: the server speaks first."""
    nodes = nodes_of("a", "b")
    user = user_where(lambda user: home(user, "a", "b") == "b")

    async def log_in_unnamed(address: HostPort) -> Raw:
        raw = await connect(address)
        await raw.open()
        await raw.send(f"<auth xmlns='{names.SASL}' mechanism='PLAIN'/>")
        assert "challenge" in await raw.xml()
        token = base64.b64encode(f"\0{user}\0secret".encode()).decode()
        await raw.send(f"<response xmlns='{names.SASL}'>{token}</response>")
        assert "success" in await raw.xml()
        raw.connection.restart()
        await raw.open()
        await raw.send(f"<iq type='set' id='b'><bind xmlns='{names.BIND}'/></iq>")
        assert user in await raw.xml()
        return raw

    async with running(*nodes):
        config = replace(plain(tmp_path, nodes_file(tmp_path, nodes)), route=Route.LOGIN, domain=(DOMAIN,))
        async with in_process(config, placing=True) as (proxy, address):
            cluster = proxy.cluster
            await until(lambda: all(node.features for node in cluster), "else it is placed too early to be moved")
            raw = await log_in_unnamed(address)
            assert places(proxy) == {user: "a"}
            request = await raw.element()
            assert request.get("id", "").startswith("urn:xmpp:cxfr")
            await raw.send(f"<iq type='result' id='{request.get('id')}'/></stream:stream>")
            await until(lambda: not proxy.registry, "it has left")
            raw = await log_in_unnamed(address)
            assert places(proxy) == {user: "b"}
            await raw.close()


async def test_with_workers_as_well(tmp_path: Path) -> None:
    """It comes back to either of them."""
    nodes = nodes_of("a", "b")
    async with running(*nodes) as services:
        file = nodes_file(tmp_path, nodes)
        options = (*HIDDEN, "--workers", "2", "--wrong-node", "transfer", "--cxfr-timeout", "300ms")
        async with (
            command(services, tmp_path, file, *options, "--node-close-timeout", "1s") as proxy,
            crowd() as nursery,
        ):
            users = [f"user{number}" for number in range(16)]
            for number, user in enumerate(users):
                await log_in(
                    nursery,
                    proxy.address,
                    user,
                    [ClientKind.CXFR, ClientKind.PLAIN, ClientKind.STREAM_MANAGEMENT][number % 3],
                )

                async def at_home(user: str = user) -> bool:
                    rows = [row for row in await proxy.show("sessions") if (row["jid"] or "").startswith(f"{user}@")]
                    return [row["node"] for row in rows] == [home(user, "a", "b")]

                await eventually(at_home)
            moves = Counter(row["jid"] for row in await proxy.event("transfer"))
            assert set(moves.values()) == {1}


# --- to and fro


async def test_a_client_whose_header_names_somebody_else_is_moved_once(tmp_path: Path) -> None:
    """It would be placed by that name each time."""
    nodes = nodes_of("a", "b")
    async with running(*nodes):
        file = nodes_file(tmp_path, nodes)
        async with in_process(plain(tmp_path, file), placing=True) as (proxy, address), crowd() as nursery:
            user = user_where(lambda user: home(user, "a", "b") == "a")
            other = user_where(lambda user: home(user, "a", "b") == "b")
            client = await log_in(nursery, address, user, says=other)
            await until(lambda: client.logins == 2 and places(proxy) == {user: "b"}, "it was moved in vain")
            await trio.sleep(0.5)
            assert client.logins == 2
            for relayed in proxy.registry:
                relayed.stop()
            await until(lambda: client.logins == 3 and places(proxy) == {user: "b"}, "it is back by itself")
            await trio.sleep(0.5)
            assert client.logins == 3
            assert len(proxy.registry.counts.recent) == 1


async def test_whichever_worker_it_comes_back_to(tmp_path: Path) -> None:
    nodes = nodes_of("a", "b")
    async with running(*nodes) as services:
        file = nodes_file(tmp_path, nodes)
        options = (*HIDDEN, "--workers", "2", "--wrong-node", "transfer")
        async with command(services, tmp_path, file, *options) as proxy, crowd() as nursery:
            users = [user for number in range(30) if home(user := f"user{number}", "a", "b") == "a"]
            other = user_where(lambda user: home(user, "a", "b") == "b")
            clients = [await log_in(nursery, proxy.address, user, says=other) for user in users]
            await until(lambda: all(client.logins >= 2 for client in clients), "all were moved in vain")
            await trio.sleep(1)
            moves = Counter(row["jid"] for row in await proxy.event("transfer", len(clients)))
            assert moves == dict.fromkeys([client.full_jid for client in clients], 1)
            await proxy.logged("bound", lambda found: {event["session"] % 2 for event in found} == {0, 1})


async def test_two_proxies_that_disagree_move_a_client_once_each(tmp_path: Path, certificate: DemoCertificate) -> None:
    """Each sends it to the other, by the address that both say its home has."""
    nodes = nodes_of("a", "b")

    def config(directory: str, one: str, two: str) -> Config:
        (tmp_path / directory).mkdir()
        file = tmp_path / directory / "nodes.txt"
        file.write_text(f"{one} {nodes[0].address}\n{two} {nodes[1].address}\n")
        return Config(
            backends=FileBackends(str(file)),
            route=Route.CONNECT,
            certificate=(certificate.certificate,),
            key=(certificate.key,),
            control=tmp_path / directory / "c.sock",
        )

    async def name_public(proxy: ProxyHere, directory: str, other: HostPort) -> None:
        file = tmp_path / directory / "nodes.txt"
        file.write_text("".join(f"{line} public={other}\n" for line in file.read_text().splitlines()))
        await proxy.console.files.reload()

    async with running(*nodes):
        first, second = config("first", "a", "b"), config("second", "x", "y")
        async with (
            in_process(first, placing=True) as (one, one_address),
            in_process(second, placing=True) as (two, two_address),
            crowd() as nursery,
        ):
            await name_public(one, "first", two_address)
            await name_public(two, "second", one_address)
            user = user_where(lambda user: home(user, "a", "b") == "a" and home(user, "x", "y") == "y")
            says = user_where(lambda user: home(user, "a", "b") == "b" and home(user, "x", "y") == "x")
            client = DemoClient(
                f"{user}@{DOMAIN}",
                ClientKind.CXFR,
                one_address,
                rng=random.Random(1),
                login=ClientLogin(
                    security=Security.DIRECT_TLS, tls=certificate.client_context(), header_from=f"{says}@{DOMAIN}"
                ),
                back_off_seconds=0.05,
            )
            with trio.fail_after(PATIENCE_SECONDS):
                await nursery.start(client.run)
            await until(lambda: client.logins == 3 and len(one.registry) == 1, "there and back")
            await trio.sleep(1)
            assert client.logins == 3
            assert [len(proxy.registry.counts.recent) for proxy in (one, two)] == [1, 1]
            assert [str(proxy.registry.counts.recent[0].trigger) for proxy in (one, two)] == ["wrong-node"] * 2


# --- the operator moves one


async def test_a_user_is_moved_by_command(tmp_path: Path) -> None:
    nodes = nodes_of("a", "b")
    async with running(*nodes) as services:
        file = nodes_file(tmp_path, nodes)
        options = (*HIDDEN, "--workers", "2", "--wrong-node", "transfer", "--cxfr-timeout", "300ms")
        async with command(services, tmp_path, file, *options) as proxy, crowd() as nursery:
            user = user_where(lambda user: home(user, "a", "b") == "a")
            client = await log_in(nursery, proxy.address, user, says=user)

            async def sessions() -> list[Row]:
                return [row for row in await proxy.show("sessions") if row["jid"]]

            assert [row["node"] for row in await sessions()] == ["a"]
            done = await proxy.say("move", f"{user}@{DOMAIN}", "b")
            assert (done.code, done.output) == (0, f"1 client of {user}@{DOMAIN} asked to move to b\n")
            await until(lambda: client.logins == 2, "it is back")
            await trio.sleep(0.5)
            assert [row["node"] for row in await sessions()] == ["b"]
            assert client.logins == 2
            done = await proxy.say("move", f"{user}@{DOMAIN}", "b")
            assert done.code == 2
            done = await proxy.say("move", f"{user}@{DOMAIN}", "c")
            assert done.code == 2
            assert "no node 'c'" in done.output
