"""The placement of users, by the real command: pins, a user map, an endpoint that is asked, domains with nodes of their
own."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from e2e_proxy import (
    COMMAND,
    HEADER,
    PATIENCE_SECONDS,
    ProxyHere,
    Raw,
    connect,
    in_process,
    nodes_file,
    running,
    until,
)
from e2e_workers import World, world

from cxfr_proxy.cluster.addresses import PublicAddress
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.placement import Placement, PlacementPolicy
from cxfr_proxy.config.table import Config, Route, StartTls, Timeouts
from cxfr_proxy.config.values import DomainPolicy, DomainRedirect
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.demo.wire import HostPort, StreamClosed, StreamOpened
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import stream_condition

NAMES = ("node1", "node2")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> DemoCertificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "localhost")


def header_of(user: str, domain: str = "localhost") -> bytes:
    return HEADER.replace(b"to='localhost'", f"to='{domain}' from='{user}@{domain}'".encode())


async def nodes_of(it: World, user: str, count: int = 16) -> set[str]:
    """Where clients that name themselves are placed; they leave again.

    The kernel deals connections out to the workers by chance: both get some of 16, but for once in 32,768 times.
    """
    raws: list[Raw] = []
    jids: list[str] = []

    async def log_in(number: int) -> None:
        raws.append(raw := await connect(it.proxy.address, it.certificate.client_context()))
        jids.append(await raw.log_in(user, resource=f"r{number}", header=header_of(user)))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(log_in, number)
    rows = [row for row in await it.proxy.show("sessions") if row["jid"] in jids]
    for raw in raws:
        await raw.close()
    ids = {row["id"] for row in rows}
    await it.proxy.logged("session-end", lambda found: ids <= {event["session"] for event in found})
    return {str(row["node"]) for row in rows}


def other(node: str) -> str:
    return NAMES[node == "node1"]


async def test_pins(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with world(tmp_path, certificate) as it:
        (home,) = await nodes_of(it, "kim")
        stays = await connect(it.proxy.address, it.certificate.client_context())
        await stays.log_in("kim", resource="stays", header=header_of("kim"))
        said = await it.proxy.say("pin", "Kim@LOCALHOST", other(home))
        assert said.code == 0, said.output
        assert await nodes_of(it, "kim") == {other(home)}
        pins = await it.proxy.show("pins")
        assert pins == [{"kind": "pin", "user": "kim@localhost", "node": other(home), "here": 0, "elsewhere": [home]}]
        assert await it.pings(stays)

        workers = await it.workers()
        os.kill(workers[1]["pid"], signal.SIGKILL)
        os.kill(workers[2]["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 4)
        assert await nodes_of(it, "kim") == {other(home)}

        assert (await it.proxy.say("unpin", "kim@localhost")).code == 0
        assert await nodes_of(it, "kim") == {home}
        assert await it.proxy.show("pins") == []
        for words, error in (
            (("unpin", "kim@localhost"), "kim@localhost has no pin"),
            (("pin", "kim@localhost", "node3"), "no node 'node3'"),
            (("pin", "kim", "node1"), "expected a bare JID"),
        ):
            said = await it.proxy.say(*words)
            assert said.code == 2
            assert error in said.output


async def test_the_user_map_is_followed_by_all_workers(tmp_path: Path, certificate: DemoCertificate) -> None:
    path = tmp_path / "users.txt"
    path.write_text("Kim@localhost node1\nsam@localhost node2\nlost@localhost node9\n")
    async with world(tmp_path, certificate, "--user-map", str(path)) as it:
        assert await nodes_of(it, "kim") == {"node1"}
        assert await nodes_of(it, "sam") == {"node2"}
        assert (await it.proxy.event("user-map-unknown-nodes"))[0] == {"nodes": "node9", "count": 1}
        path.write_text("kim@localhost node2\n")
        await it.proxy.event("user-map", 2)
        assert await nodes_of(it, "kim") == {"node2"}
        path.write_text("kim@localhost node1\nsam\n")
        assert ":2:4: expected a node's name" in (await it.proxy.event("reload-failed"))[0]["error"]
        assert await nodes_of(it, "kim") == {"node2"}
        said = await it.proxy.say("reload")
        assert said.code == 1
        assert ":2:4: expected a node's name" in said.output
        workers = await it.workers()
        os.kill(workers[1]["pid"], signal.SIGKILL)
        os.kill(workers[2]["pid"], signal.SIGKILL)
        await it.proxy.event("worker-up", 4)
        assert await nodes_of(it, "kim") == {"node2"}


async def test_a_map_with_faults_is_refused_at_the_start(tmp_path: Path) -> None:
    nodes, users = tmp_path / "nodes.txt", tmp_path / "users.txt"
    nodes.write_text("node1 127.0.0.1:1\n")
    users.write_text("kim@h\n")
    done = await trio.run_process(
        [*COMMAND, "--backends", str(nodes), "--user-map", str(users)],
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode().endswith("users.txt:1:6: expected a node's name after the user, found nothing\n")


@asynccontextmanager
async def endpoint(answers: dict[str, str | None]) -> AsyncIterator[tuple[str, list[str]]]:
    """Says what ``answers`` says by user, nothing at all for ``None``, and 404 for others. Also who was asked about."""
    asked: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some():
                user = data.decode().split("jid=")[1].split("%40")[0]
                asked.append(user)
                answer = answers.get(user, "")
                if answer is None:
                    await trio.sleep_forever()
                status = "200 OK" if answer else "404 Not Found"
                await stream.send_all(
                    f"HTTP/1.1 {status}\r\nContent-Length: {len(answer or '')}\r\n\r\n{answer}".encode()
                )

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/where", asked
        nursery.cancel_scope.cancel()


async def test_an_endpoint_that_knows_and_one_that_hangs(tmp_path: Path, certificate: DemoCertificate) -> None:
    async with endpoint({"kim": "node1", "sam": "node2", "lost": "node9", "slow": None}) as (url, asked):
        options = ("--user-lookup", url, "--lookup-timeout", "60s")
        async with world(tmp_path, certificate, *options) as it:
            assert await nodes_of(it, "kim") == {"node1"}
            assert await nodes_of(it, "sam") == {"node2"}
            assert asked.count("kim") <= 2  # once for each worker
            assert (await it.proxy.say("set", "lookup-timeout", "1s")).code == 0
            for user in ("nobody", "lost", "slow"):
                assert len(await nodes_of(it, user, 1)) == 1
                assert user in asked
            failures = [event["reason"] for event in await it.proxy.event("lookup-failed")]
            assert not any(user in reason for user in ("lost", "slow") for reason in failures)


# --- domains


def config_of(directory: Path, certificate: DemoCertificate, **settings: object) -> Config:
    return Config(
        backends=FileBackends(str(directory / "nodes.txt")),
        certificate=(certificate.certificate,),
        key=(certificate.key,),
        control=directory / "c.sock",
        **settings,  # type: ignore[arg-type] # as the test has them
    )


@asynccontextmanager
async def placing(
    config: Config, nodes: Sequence[DemoNode], *, sends_home: bool = False, **lines: str
) -> AsyncIterator[tuple[ProxyHere, HostPort]]:
    """The proxy in front of these nodes, which run."""
    assert config.backends is not None
    nodes_file(Path(str(config.backends)).parent, nodes, **lines)
    async with in_process(config, placing=sends_home) as running_proxy:
        yield running_proxy


async def session_of(address: HostPort, certificate: DemoCertificate, domain: str, user: str | None) -> Raw:
    """A stream for that domain, logged in at one of its nodes. Without ``user`` the header names nobody."""
    raw = await connect(address, certificate.client_context())
    header = header_of(user, domain) if user is not None else HEADER.replace(b"localhost", domain.encode())
    await raw.open(header)
    await raw.authenticate(user or "nobody")
    return raw


@pytest.mark.parametrize("route", Route)
async def test_two_clusters_behind_one_proxy(tmp_path: Path, certificate: DemoCertificate, route: Route) -> None:
    """For any user, and with any nodes down: nobody meets the other domain's nodes."""
    clusters = {domain: DemoCluster(domain) for domain in ("one.example", "two.example")}
    nodes = [
        DemoNode(f"{cluster.domain[:3]}{number}", cluster.domain, cluster=cluster)
        for cluster in clusters.values()
        for number in (1, 2)
    ]
    lines = {node.name: f"domain={node.domain}" for node in nodes}
    lines["two1"] += " state=drain"
    config = config_of(
        tmp_path,
        certificate,
        placement=(DomainPolicy("two.example", PlacementPolicy.LEAST_SESSIONS),),
        route=route,
    )
    async with running(*nodes), placing(config, nodes, sends_home=False, **lines) as (proxy, address):
        raws = [
            await session_of(address, certificate, domain, user)
            for domain in clusters
            for user in (None, "kim", "sam", "pat", "lee", "max")
        ]
        by_node = Counter(await proxy.nodes_of_sessions())
        assert set(by_node) == {"one1", "one2", "two2"}
        assert by_node["two2"] == 6
        lost = await connect(address, certificate.client_context())
        await lost.send(header_of("kim", "three.example"))
        assert await lost.error() == "remote-connection-failed"
        with pytest.raises(ConfigError, match=r"node 'one1' does not serve two.example: its domain= is one.example"):
            proxy.console.pins.pin("kim@two.example", "one1")
        for raw in raws:
            await raw.close()


async def moved(tmp_path: Path, certificate: DemoCertificate, starttls: StartTls, how: str) -> tuple[str, str | None]:
    """The condition, and the address, by which a client is told that its domain is served elsewhere."""
    node = DemoNode("node1")
    config = config_of(
        tmp_path,
        certificate,
        domain=("localhost",),
        starttls=starttls,
        redirect_domain=(DomainRedirect("old.example", PublicAddress("new.example.net", 5223)),),
    )
    header = HEADER.replace(b"localhost", b"Old.example")
    async with running(node), placing(config, [node]) as (proxy, address):
        raw = await connect(address, certificate.client_context() if how == "direct" else None)
        if how == "starttls":
            assert "<required" in await raw.open(header)
            await raw.start_tls(certificate.client_context())
        await raw.send(header)
        assert isinstance(await raw.read(), StreamOpened)
        error = await raw.element()
        assert isinstance(await raw.read(), StreamClosed)
        await raw.closed()
        assert proxy.registry.last_id == 0  # there was no session
    condition = stream_condition(error)
    return condition, error.findtext(f"{{{names.STREAM_ERRORS}}}{condition}")


@pytest.mark.parametrize(
    ("starttls", "how", "expected"),
    [
        (StartTls.REQUIRED, "starttls", ("see-other-host", "new.example.net:5223")),
        (StartTls.OPTIONAL, "starttls", ("see-other-host", "new.example.net:5223")),
        (StartTls.REQUIRED, "direct", ("see-other-host", "new.example.net:5223")),
        (StartTls.OFF, "direct", ("see-other-host", "new.example.net:5223")),
        (StartTls.OFF, "plain", ("host-gone", "")),
    ],
)
async def test_a_domain_that_has_moved(
    tmp_path: Path, certificate: DemoCertificate, starttls: StartTls, how: str, expected: tuple[str, str | None]
) -> None:
    assert await moved(tmp_path, certificate, starttls, how) == expected


async def test_a_full_node_lets_others_have_the_next(tmp_path: Path, certificate: DemoCertificate) -> None:
    nodes = [DemoNode("node1"), DemoNode("node2")]
    config = config_of(
        tmp_path,
        certificate,
        placement=(DomainPolicy(None, PlacementPolicy.FIRST_AVAILABLE),),
    )
    async with running(*nodes), placing(config, nodes, node1="max-sessions=2") as (proxy, address):
        raws = [await session_of(address, certificate, "localhost", None) for _ in range(4)]
        assert await proxy.nodes_of_sessions() == ["node1", "node1", "node2", "node2"]
        await raws.pop(0).close()
        await until(lambda: len(proxy.registry) == 3)
        raws.append(await session_of(address, certificate, "localhost", None))
        assert await proxy.nodes_of_sessions() == ["node1", "node2", "node2", "node1"]
        for raw in raws:
            await raw.close()


async def test_nobody_is_sent_home_to_a_full_node(tmp_path: Path, certificate: DemoCertificate) -> None:
    nodes = [DemoNode("node1"), DemoNode("node2")]
    config = config_of(
        tmp_path,
        certificate,
        route=Route.CONNECT,
    )
    async with (
        running(*nodes),
        placing(config, nodes, sends_home=True, node1="max-sessions=2") as (
            proxy,
            address,
        ),
    ):
        cluster = proxy.cluster
        at_home = [user for number in range(30) if home_of(cluster, user := f"user{number}") == "node1"][:4]
        raws = []
        for user in at_home:
            raws.append(raw := await connect(address, certificate.client_context()))
            await raw.log_in(user, header=header_of(user))
        await trio.sleep(0.3)
        assert Counter(await proxy.nodes_of_sessions()) == {"node1": 2, "node2": 2}
        assert not proxy.registry.counts.recent
        assert (await proxy.console.rebalances.plan()).sessions == 0
        await raws.pop(0).close()
        await until(lambda: len(proxy.registry) == 3)
        assert (await proxy.console.rebalances.plan()).sessions == 1, "there is room for one of the two"
        for raw in raws:
            await raw.close()


def home_of(cluster: Cluster, user: str) -> str:
    home = Placement(cluster).home(f"{user}@localhost", "localhost")
    assert home is not None
    return home.name


async def test_who_turns_up_at_bind_is_asked_after_then(tmp_path: Path, certificate: DemoCertificate) -> None:
    """And belongs where the endpoint has said, also when its answer is old."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    async with endpoint({f"user{number}": "node2" for number in range(30)}) as (url, asked):
        config = config_of(
            tmp_path,
            certificate,
            route=Route.CONNECT,
            user_lookup=f"{url}?jid={{jid}}",
            lookup_cache=0.1,
            timeouts=Timeouts(lookup_timeout=PATIENCE_SECONDS),
        )
        async with running(*nodes), placing(config, nodes, sends_home=True) as (proxy, address):
            cluster = proxy.cluster
            users = [user for number in range(30) if home_of(cluster, user := f"user{number}") == "node1"][:4]
            raws = []
            for user in users:
                raws.append(raw := await connect(address, certificate.client_context()))
                await raw.log_in(user)
            wrong = [relayed for relayed in proxy.registry if relayed.session.node == "node1"]
            assert len(wrong) == 2
            await until(lambda: all(relayed.session.transfer_under_way is not None for relayed in wrong))
            await until(lambda: sorted(asked) == sorted(users))
            await trio.sleep(0.2)  # their answers are old by then
            plan = await proxy.console.rebalances.plan()
            assert [(move.source, move.target, move.sessions) for move in plan.moves] == [("node1", "node2", 2)]
            for raw in raws:
                await raw.close()


async def test_a_name_that_a_client_makes_up_takes_no_node_down(tmp_path: Path, certificate: DemoCertificate) -> None:
    """The nodes' certificates are for another one."""
    node = DemoNode("node1", offers=NodeOffers(starttls=certificate.server_context()))
    config = config_of(
        tmp_path,
        certificate,
        route=Route.CONNECT,
    )
    line = f"tls=starttls ca={certificate.certificate}"
    async with running(node), placing(config, [node], node1=line) as (proxy, address):
        raw = await connect(address, certificate.client_context())
        await raw.send(header_of("kim", "made-up.example"))
        assert await raw.error() == "remote-connection-failed"
        assert proxy.registry.counts.of_node("node1").connect_failures == 1
        assert proxy.cluster.get("node1").usable
        raw = await connect(address, certificate.client_context())
        await raw.log_in("kim")
        await raw.close()


async def test_the_first_logins_of_a_fresh_proxy_stay_where_they_are(
    tmp_path: Path, certificate: DemoCertificate
) -> None:
    """Without ``--domain`` nobody knows what to ask the nodes for before somebody has logged in."""
    nodes = [DemoNode("node1"), DemoNode("node2")]
    config = config_of(tmp_path, certificate)
    async with running(*nodes), placing(config, nodes, sends_home=True) as (proxy, address):
        cluster = proxy.cluster
        users = (user for number in range(99) if home_of(cluster, user := f"user{number}") == "node2")
        early = await connect(address, certificate.client_context())
        await early.log_in(next(users))
        [first] = list(proxy.registry)
        assert isinstance(first, LiveSession)
        assert (first.session.node, first.placed_early) == ("node1", True)
        await until(lambda: all(node.features for node in cluster))
        late = await connect(address, certificate.client_context())
        await late.log_in(next(users))
        [latest] = [relayed for relayed in proxy.registry if relayed is not first]
        assert isinstance(latest, LiveSession)
        assert (latest.session.node, latest.placed_early) == ("node2", False)
        # Who had to go would be under way by now: a login takes longer.
        assert first.session.transfer_under_way is None
        assert not proxy.registry.counts.recent
        for raw in (early, late):
            await raw.close()
