"""The story that ``cxfr-proxy demo`` tells: a node is emptied under its clients, and what became of their messages.

Two nodes share their session state. Clients of every kind log in through the proxy, and a third of them exchange
numbered messages in both directions. Then ``node1`` is drained, or meets whatever else :class:`DemoTrigger` names. When
everybody is online elsewhere, the traffic settles, all log out, and the books are judged
(:mod:`cxfr_proxy.demo.account`). Each step waits as long as there is progress (:mod:`cxfr_proxy.demo.progress`), so a
busy machine makes the story longer, and not another one.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import trio

from cxfr_proxy.demo.account import MessageCounts, judge
from cxfr_proxy.demo.certificate import DemoCertificate, make_certificate
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.habits import HABITS, ClientKind, ClientLogin, Life, Security, SeenRung, Traffic
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.progress import LOOK_SECONDS, Patience, Tempo
from cxfr_proxy.demo.proxy_beside import DemoProxy, ProxyOpener, ProxySetup, open_proxy
from cxfr_proxy.demo.screen import DemoOutcome, DemoSnapshot, KindRow, Screen
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.demo.wire import HostPort

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
LOGINS_AT_ONCE: Final = 20
"""More of them would share what a busy machine has left, and all of them exceed the proxy's time limits."""
AHEAD_SECONDS: Final = 1.0
"""Traffic before and after the drain."""


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
        self._phase = "starting"
        self._tempo = Tempo()
        self._stuck: str | None = None
        self._started = trio.current_time()
        self._recent: list[str] = []
        self._shown: Counter[str] = Counter()
        self.clients = cast_of(options, proxy.address, certificate)

    async def tell(self) -> DemoOutcome:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._keep_pace)
            nursery.start_soon(self._bring_in, nursery)
            seconds, left = 0.0, 0
            if await self._until("logging in, {} to come", self._offline):
                self._phase = "everybody is online"
                await trio.sleep(AHEAD_SECONDS * self._tempo.slowness)
                seconds, left = await self._drain(nursery)
            away = self._offline()
            await trio.sleep(AHEAD_SECONDS * self._tempo.slowness)
            await self._settle()
            self._phase = "done" if self._stuck is None else "stuck"
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
            stuck=self._stuck,
            warnings=self._proxy.warnings(),
            slowness=self._tempo.average,
        )

    async def _bring_in(self, nursery: trio.Nursery) -> None:
        for number, client in enumerate(self.clients):
            while number - (len(self.clients) - self._offline()) >= LOGINS_AT_ONCE:  # noqa: ASYNC110 - looks at all
                await trio.sleep(LOOK_SECONDS)
            if client.traffic is not None:
                self._cluster.push_intervals[client.bare_jid] = INTERVAL_SECONDS
            nursery.start_soon(client.run)

    async def _keep_pace(self) -> None:
        """Have the traffic keep up with the machine, so that it does not take all of it."""
        while True:
            before = trio.current_time()
            await trio.sleep(LOOK_SECONDS)
            self._tempo.looked(trio.current_time() - before)
            interval_seconds = INTERVAL_SECONDS * self._tempo.slowness
            for client in self.clients:
                if client.traffic is not None:
                    client.traffic = Traffic(interval_seconds)
            for user in self._cluster.push_intervals:
                self._cluster.push_intervals[user] = interval_seconds

    async def _drain(self, nursery: trio.Nursery) -> tuple[float, int]:
        """Drain the node; return the seconds it took, and the sessions left behind."""
        begun = trio.current_time()
        nursery.start_soon(self._pull)
        await trio.lowlevel.checkpoint()
        await self._until(_PHASES[self._trigger].format(self._drained) + ", {} to move", self._staying)
        return trio.current_time() - begun, len(self._cluster.on_node(self._drained))

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
        await self._until("settling, {} to be answered", self._unsettled)
        for client in self.clients:
            client.leave()
        await self._until("logging out, {} to go", self._remaining)

    async def _until(self, phase: str, missing: Callable[[], int]) -> bool:
        """Wait until nothing is missing, as long as there is progress. ``phase`` has a place for how much that is.

        Returns false if there was none: the outcome then says what the story waited for, and shows what is missing.
        """
        patience = Patience()
        while number := missing():
            self._phase = phase.format(number)
            if not patience.look(self._facts()):
                self._stuck = self._stuck or self._phase
                return False
            await trio.sleep(LOOK_SECONDS)
        self._phase = phase.format(0)
        return True

    def _facts(self) -> Iterator[Hashable]:
        yield "sessions", len(self._cluster.on_node(self._drained))
        yield "connections", self._proxy.left(self._drained)
        for client in self.clients:
            yield client.bare_jid, client.life, client.account.settled

    # ---- what is missing ----

    def _offline(self) -> int:
        return sum(client.life is not Life.BOUND for client in self.clients)

    def _staying(self) -> int:
        """Return how many have not come to another node, or what the proxy still carries to the drained one."""
        staying = {session.bare_jid for session in self._cluster.on_node(self._drained)}
        staying |= {client.bare_jid for client in self.clients if client.life is not Life.BOUND}
        return len(staying) or self._proxy.left(self._drained)

    def _unsettled(self) -> int:
        return sum(not client.account.settled for client in self.clients)

    def _remaining(self) -> int:
        return sum(client.life is not Life.GONE for client in self.clients)

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
