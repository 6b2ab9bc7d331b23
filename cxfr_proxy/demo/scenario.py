"""The story that ``cxfr-proxy demo`` tells: a node is emptied under its clients, and what became of their messages.

Two nodes share their session state. Clients of every kind log in through the proxy, and a third of them exchange
numbered messages in both directions. Then ``node1`` is drained, or meets whatever else :class:`DemoTrigger` names. When
everybody is online elsewhere, the traffic settles, all log out, and the books are judged
(:mod:`cxfr_proxy.demo.account`).

The story knows the proxy only as :class:`DemoProxy`. :func:`open_proxy` is the adapter to the real one; the tests put a
stand-in there.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, Limits, ListenAddress, RebalanceMode, Timeouts, WrongNode
from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import HABITS, ClientKind, ClientLogin, Life, Security, SeenRung, Traffic
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.screen import DemoOutcome, DemoSnapshot, KindRow, Screen
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.session.commands import Outcome

DOMAIN: Final = "localhost"
SHARES: Final = {
    ClientKind.CXFR: 20,
    ClientKind.CXFR_SILENT: 10,
    ClientKind.SEE_OTHER_HOST: 15,
    ClientKind.PLAIN: 10,
    ClientKind.MUTE: 10,
    ClientKind.STREAM_MANAGEMENT: 15,
    ClientKind.WEBSOCKET: 10,
    ClientKind.WEBSOCKET_RESUMING: 10,
}
"""Of a hundred clients. Kinder than the world, where hardly any knows XEP-0051: the demo is to show every rung."""
TALKATIVE_EVERY: Final = 3
"""One client in so many has traffic."""
INTERVAL_SECONDS: Final = 0.25
"""Between two messages of a talkative client, each way: enough that every drain catches some in flight, and about 500 a
second in all, which a laptop carries with both ends, the nodes and the proxy in one process."""
LOGIN_SECONDS: Final = 20.0
DRAIN_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 5.0
LEAVE_SECONDS: Final = 5.0
AHEAD_SECONDS: Final = 1.0
"""Traffic before and after the drain."""
CXFR_SECONDS: Final = 3.0
"""How long a mute client is given for its answer. Less than the default: nobody wants to watch ten seconds of it."""
POLL_SECONDS: Final = 0.02


class DemoTrigger(StrEnum):
    """The fate of ``node1``."""

    DRAIN = "drain"
    REMOVE = "remove"
    """Its line is taken out of the nodes file."""
    SIGTERM = "sigterm"
    """It stops, and says so."""
    KILL = "kill"
    """It dies without a word."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``seed`` decides who is talkative and how long everybody waits; ``live`` is ``None`` for: if on a terminal."""

    clients: int = 200
    seed: int = 1
    live: bool | None = None
    trigger: DemoTrigger = DemoTrigger.DRAIN


class DemoProxy(Protocol):
    """A proxy, as the story needs it."""

    @property
    def address(self) -> HostPort:
        """Takes STARTTLS and direct TLS."""

    async def drain(self, node: str) -> None:
        """Begin to empty a node; may return at once, or when it is done."""

    async def remove(self, node: str) -> None:
        """Take a node's line out of the nodes file, and have that read."""

    def left(self, node: str) -> int:
        """Return how many sessions it still carries to that node."""

    def transfers(self) -> Mapping[SeenRung, int]:
        """Return the transfers that worked, by the rung that did it."""

    def returned(self) -> Mapping[SeenRung, int]:
        """Of these, those whose clients have logged in again."""


@dataclass(frozen=True, slots=True)
class ProxySetup:
    """The arguments to start a proxy with. ``directory`` is there for its files, and vanishes afterwards.
    ``for_nodes`` is the certificate with which it may log in to the nodes as any user."""

    domain: str
    nodes: Sequence[DemoNode]
    certificate: DemoCertificate
    for_nodes: DemoCertificate
    directory: Path
    seed: int


ProxyOpener = Callable[[ProxySetup], AbstractAsyncContextManager[DemoProxy]]


@asynccontextmanager
async def open_proxy(setting: ProxySetup) -> AsyncIterator[DemoProxy]:
    """Start the real proxy in this process, on a free port of the loopback interface."""
    nodes_file = setting.directory / "nodes.txt"
    lines = [
        f"{node.name} {node.address} public={node.public_address} resume=shared"
        f" migrate=external migrate-address={node.migration_address} ca={setting.certificate.certificate}\n"
        for node in setting.nodes
    ]
    nodes_file.write_text("".join(lines))
    config = Config(
        backends=FileBackends(str(nodes_file)),
        listen=(ListenAddress("127.0.0.1", 0),),
        domain=(setting.domain,),
        certificate=(setting.certificate.certificate,),
        key=(setting.certificate.key,),
        node_certificate=setting.for_nodes.certificate,
        node_key=setting.for_nodes.key,
        control=setting.directory / "control.sock",
        workers=1,
        limits=Limits(connections_per_address=None),
        wrong_node=WrongNode.KEEP,  # who moves here is to move for the drain
        rebalance=RebalanceMode.MANUAL,
        timeouts=Timeouts(cxfr_timeout=CXFR_SECONDS),
    )
    proxy = Proxy(config)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield _InProcess(proxy, nodes_file)
        nursery.cancel_scope.cancel()


class _InProcess:
    """:class:`DemoProxy` by a :class:`Proxy`."""

    def __init__(self, proxy: Proxy, nodes_file: Path) -> None:
        self._proxy = proxy
        self._nodes_file = nodes_file
        host, port = proxy.addresses[0]
        self.address = HostPort(host, port)

    async def drain(self, node: str) -> None:
        self._proxy.console.drains.begin(node)

    async def remove(self, node: str) -> None:
        lines = self._nodes_file.read_text().splitlines(keepends=True)
        self._nodes_file.write_text("".join(line for line in lines if line.split()[0] != node))
        await self._proxy.console.files.reload()

    def left(self, node: str) -> int:
        return self._proxy.supervisor.workers.of_node(node).sessions

    def transfers(self) -> Mapping[SeenRung, int]:
        counts: Counter[SeenRung] = Counter()
        for _, kind, count in self._proxy.supervisor.workers.statistics.transfers():
            if kind.outcome is Outcome.MOVED:
                counts[SeenRung(kind.rung.value)] += count
        return counts

    def returned(self) -> Mapping[SeenRung, int]:
        absences = self._proxy.supervisor.workers.statistics.absences
        return {SeenRung(rung.value): sum(durations.counts) for rung, durations in absences.items()}


async def play(options: DemoOptions, screen: Screen, opener: ProxyOpener = open_proxy) -> DemoOutcome:
    """Tell the whole story on the screen."""
    with tempfile.TemporaryDirectory(prefix="cxfr-proxy-demo-") as name:
        directory = Path(name)
        certificate, for_nodes = make_certificate(directory, DOMAIN), make_certificate(directory, "proxy", "proxy")
        cluster = DemoCluster(DOMAIN, shared=True)
        context = certificate.server_context()
        nodes = [
            DemoNode(
                node,
                DOMAIN,
                cluster=cluster,
                public_tls=context,
                migration_tls=certificate.migration_context(for_nodes),
                offers=NodeOffers(asks_capabilities=True),
            )
            for node in ("node1", "node2")
        ]
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.serve)
            setup = ProxySetup(DOMAIN, nodes, certificate, for_nodes, directory, options.seed)
            async with opener(setup) as proxy:
                story = Story(options, screen, cluster, nodes, proxy, certificate)
                outcome = await story.tell()
            nursery.cancel_scope.cancel()
    return outcome


class Story:
    """One run, from the first login to the verdict."""

    def __init__(
        self,
        options: DemoOptions,
        screen: Screen,
        cluster: DemoCluster,
        nodes: Sequence[DemoNode],
        proxy: DemoProxy,
        certificate: DemoCertificate,
    ) -> None:
        self._screen = screen
        self._cluster = cluster
        self._nodes = nodes
        self._proxy = proxy
        self._drained = nodes[0].name
        self._trigger = options.trigger
        self._phase = "logging in"
        self._started = trio.current_time()
        self._recent: list[str] = []
        self._shown: Counter[str] = Counter()
        self.clients = cast_of(options, proxy.address, certificate)

    async def tell(self) -> DemoOutcome:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            for client in self.clients:
                nursery.start_soon(client.run)
                if client.traffic is not None:
                    self._cluster.push_intervals[client.bare_jid] = INTERVAL_SECONDS
            await self._until(self._all_online, LOGIN_SECONDS)
            self._phase = "everybody is online"
            await trio.sleep(AHEAD_SECONDS)
            self._phase = _PHASES[self._trigger].format(self._drained)
            seconds, left, away = await self._drain(nursery)
            self._phase = "letting traffic settle"
            await trio.sleep(AHEAD_SECONDS)
            await self._settle()
            self._phase = "done"
            self._look()
            nursery.cancel_scope.cancel()
        return DemoOutcome(
            self._drained,
            seconds,
            left,
            away,
            self._kinds(judged=True),
            self._proxy.transfers(),
            [f"{client.bare_jid}: {fault}" for client in self.clients for fault in client.faults],
            self._rungs(),
            self._proxy.returned(),
            node_ended=self._trigger in (DemoTrigger.SIGTERM, DemoTrigger.KILL),
        )

    async def _drain(self, nursery: trio.Nursery) -> tuple[float, int, int]:
        """Drain the node; return the seconds it took, sessions left behind, clients nowhere."""
        begun = trio.current_time()
        nursery.start_soon(self._pull)
        await trio.lowlevel.checkpoint()
        await self._until(self._emptied, DRAIN_SECONDS)
        online = sum(client.life is Life.BOUND for client in self.clients)
        return (
            trio.current_time() - begun,
            len(self._cluster.on_node(self._drained)),
            len(self.clients) - online,
        )

    async def _pull(self) -> None:
        match self._trigger:
            case DemoTrigger.DRAIN:
                await self._proxy.drain(self._drained)
            case DemoTrigger.REMOVE:
                await self._proxy.remove(self._drained)
            case DemoTrigger.SIGTERM:
                await self._nodes[0].stop(StopStyle.SYSTEM_SHUTDOWN)
            case DemoTrigger.KILL:
                await self._nodes[0].stop(StopStyle.KILL)

    async def _settle(self) -> None:
        """Stop all traffic, wait for what is under way, log everybody out."""
        for client in self.clients:
            client.quiet()
        self._cluster.push_intervals.clear()
        await self._until(lambda: all(client.account.settled for client in self.clients), SETTLE_SECONDS)
        for client in self.clients:
            client.leave()
        await self._until(lambda: all(client.life is Life.GONE for client in self.clients), LEAVE_SECONDS)

    def _all_online(self) -> bool:
        return all(client.life is Life.BOUND for client in self.clients)

    def _emptied(self) -> bool:
        return not self._cluster.on_node(self._drained) and not self._proxy.left(self._drained) and self._all_online()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for it, but no longer than that: what is missing then shows in the outcome."""
        with trio.move_on_after(seconds):
            while not condition():  # noqa: ASYNC110 - looks at hundreds of clients, a few times a second
                await trio.sleep(POLL_SECONDS)

    # ---- looking ----

    async def _watch(self) -> None:
        while True:
            self._look()
            await trio.sleep(self._screen.refresh_seconds)

    def _look(self) -> None:
        self._note_moves()
        accounts = [client.account for client in self.clients]
        self._screen.show(
            DemoSnapshot(
                seconds=trio.current_time() - self._started,
                phase=self._phase,
                clients=len(self.clients),
                nodes={node.name: len(node.sessions) for node in self._nodes},
                kinds=self._kinds(judged=False),
                sent=sum(account.sent for account in accounts),
                answered=sum(len(account.echoes) for account in accounts),
                under_way=sum(len(account.in_flight) + len(account.due_again) for account in accounts),
                recent=self._recent,
            )
        )

    def _note_moves(self) -> None:
        for client in self.clients:
            for move in client.moves[self._shown[client.bare_jid] :]:
                self._shown[client.bare_jid] += 1
                how = "resumed" if move.resumed else "logged in"
                self._recent.append(
                    f"{client.bare_jid} ({client.kind}): {move.rung}, {how} at {move.where} after {move.seconds:.2f} s"
                )
        del self._recent[:-20]

    def _rungs(self) -> dict[SeenRung, MessageCounts]:
        """Return the books of those that moved, by the way they did."""
        tallies: dict[SeenRung, MessageCounts] = {}
        unnoticed = self._unnoticed()
        for client in self.clients:
            if client.moves or client.bare_jid in unnoticed:
                rung = client.moves[0].rung if client.moves else SeenRung.MIGRATE
                tallies[rung] = tallies.get(rung, MessageCounts()) + judge(client.account, self._cluster.records)
        return tallies

    def _unnoticed(self) -> set[str]:
        """Return the users whose session is on another node than it was, while their client has noticed nothing."""
        taken = {record.bare_jid for record in self._cluster.records if len(set(record.nodes)) > 1}
        # One that is resuming there by itself has not come in yet.
        coming = (Life.AWAY, Life.CONNECTING)
        return {each.bare_jid for each in self.clients if each.logins == 1 and each.life not in coming} & taken

    def _kinds(self, *, judged: bool) -> list[KindRow]:
        records = self._cluster.records
        unnoticed = self._unnoticed()
        by_user: dict[str, list[int]] = {}
        for index, record in enumerate(records if judged else ()):
            by_user.setdefault(record.bare_jid, []).append(index)
        rows = []
        for kind in SHARES:
            own = [client for client in self.clients if client.kind is kind]
            tallies = [
                judge(client.account, [records[index] for index in by_user.get(client.bare_jid, ())])
                for client in (own if judged else ())
            ]
            rows.append(
                KindRow(
                    kind,
                    clients=len(own),
                    under_way=sum(client.life not in (Life.BOUND, Life.GONE) for client in own),
                    moved=Counter(move.rung for client in own for move in client.moves)
                    + Counter({SeenRung.MIGRATE: sum(client.bare_jid in unnoticed for client in own)}),
                    tally=sum(tallies, MessageCounts()),
                )
            )
        return rows


_PHASES: Final = {
    DemoTrigger.DRAIN: "draining {}",
    DemoTrigger.REMOVE: "{} is out of the file",
    DemoTrigger.SIGTERM: "{} stops",
    DemoTrigger.KILL: "{} was killed",
}


def cast_of(options: DemoOptions, address: HostPort, certificate: DemoCertificate) -> list[DemoClient]:
    """Return the clients, in random order, so that every kind is found on every node."""
    rng = random.Random(options.seed)
    kinds = kinds_of(options.clients)
    rng.shuffle(kinds)
    context = certificate.client_context()
    return [
        DemoClient(
            f"user{number}@{DOMAIN}",
            kind,
            address,
            rng=random.Random(rng.getrandbits(64)),
            login=ClientLogin(security=_security(kind, number), tls=context),
            traffic=Traffic(INTERVAL_SECONDS) if number % TALKATIVE_EVERY == 0 else None,
        )
        for number, kind in enumerate(kinds)
    ]


def _security(kind: ClientKind, number: int) -> Security:
    return Security.STARTTLS if number % 2 and not HABITS[kind].websocket else Security.DIRECT_TLS


def kinds_of(count: int) -> list[ClientKind]:
    """Return so many kinds, in the proportion of :data:`SHARES`, none missing if there are enough clients."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, count * share // 100))]
    while len(kinds) < count:
        kinds.append(ClientKind.CXFR)
    return kinds[:count]
