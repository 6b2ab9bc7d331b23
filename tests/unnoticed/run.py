"""One run: a cluster, a proxy in front of it, crowds that chat across its nodes; ``node1`` is drained, and stopped.

Each pair has one client on either node (:func:`pairs_for`), so every message passes both, and half of the clients move.
The node is stopped as soon as the drain is over.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Final

import msgspec
import trio
from real.certs import Authority
from real.ejabberd import EjabberdCluster
from real.programs import DOMAIN, HOST
from real.proxy import ProxyProcess, open_proxy
from real.site import Doors

from bench import machine
from bench.spread import percentile
from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.placement import Placement
from unnoticed.crowd import WATCHER, Cast, Counts

IN_A_PROCESS: Final = 2_500
"""Clients: as many as Python serves beside the rest."""
_LOGINS_AT_ONCE: Final = 32
_PATIENCE_SECONDS: Final = 600.0
_CALM_SECONDS: Final = 5.0
"""For which is measured what the chat costs by itself."""


@dataclass(frozen=True, slots=True)
class Terms:
    """``interval``: seconds between two messages of one client. ``counting``: the share of clients with XEP-0198 of
    their own. ``by_cut``: the nodes do not let the proxy take sessions. ``options`` are more settings of the
    proxy's."""

    sessions: int
    rate: float
    interval: float
    workers: int
    counting: float = 1.0
    by_cut: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a run.

    ``before`` and ``during`` are the counts of both times, ``after`` those behind the stop. ``outcomes`` are the
    transfers as the proxy's log has them, by rung and outcome. ``held``: seconds for which clients were not read, and
    ``took``: those of whole transfers. ``cpu``: seconds of the proxy's meanwhile, and of both nodes'; ``per_move``:
    those for one move, without what the chat costs.
    """

    moved: int
    drain_seconds: float
    before: Counts
    during: Counts
    after: Counts
    outcomes: Mapping[str, int]
    held: Sequence[float]
    took: Sequence[float]
    cpu: tuple[float, float]
    per_move: tuple[float, float]

    @property
    def chat(self) -> Counts:
        """All that was counted."""
        return self.before + self.during + self.after

    @property
    def changes(self) -> int:
        """How many presences the watcher has seen since everybody was there."""
        return self.after.presences - self.before.presences

    @property
    def unnoticed(self) -> bool:
        """No client and no watcher has noticed anything, and every message came once and in its turn."""
        chat = self.chat
        harmed = self.after.lost or chat.twice or chat.disordered or chat.bounced
        return bool(self.moved) and not (chat.noticed or self.changes or harmed)

    def lines(self) -> list[str]:
        """For people."""
        chat = self.chat
        outcomes = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        return [
            f"moved {self.moved} in {self.drain_seconds:.1f} s ({self.moved / self.drain_seconds:.0f} a second):"
            f" {outcomes}",
            f"messages {chat.sent}: lost {self.after.lost}, twice {chat.twice}, out of order {chat.disordered},"
            f" bounced {chat.bounced}",
            f"noticed: {chat.noticed} streams ended ({chat.resumed} resumed), {self.changes} presences at a watcher",
            f"held: {_times(self.held)}",
            f"a whole transfer: {_times(self.took)}",
            f"a message to the other client before: {_times(self.before.arrivals)}",
            f"                          meanwhile: {_times(self.during.arrivals)}",
            f"its acknowledgement before: {_times(self.before.acks)}",
            f"                 meanwhile: {_times(self.during.acks)}",
            *(
                f"CPU of the {whose}: {cpu:.1f} s meanwhile, {per_move * 1e3:.2f} ms a move"
                for whose, cpu, per_move in zip(("proxy", "nodes"), self.cpu, self.per_move, strict=True)
            ),
        ]


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never"
    shares = {"median": 0.5, "p99": 0.99}
    told = [f"{name} {percentile(seconds, share) * 1e3:.1f} ms" for name, share in shares.items()]
    return ", ".join([*told, f"most {max(seconds) * 1e3:.1f} ms"])


def pairs_for(sessions: int) -> list[tuple[str, str]]:
    """So many users in pairs: of each, the first one's home is node1, and the second one's node2."""
    placement = Placement(Cluster(NodeSpec(name, Address("h", 1)) for name in ("node1", "node2")))
    users: dict[str, list[str]] = {"node1": [], "node2": []}
    number = 0
    while min(map(len, users.values())) < sessions // 2:
        number += 1
        home = placement.home(f"u{number}@{DOMAIN}", DOMAIN)
        assert home is not None
        users[home.name].append(f"u{number}")
    return list(zip(*(names[: sessions // 2] for names in users.values()), strict=True))


class Crowds:
    """The processes of :mod:`unnoticed.crowd`; each is told every order."""

    def __init__(self) -> None:
        self.processes: list[trio.Process] = []

    async def start(self, file: Path) -> None:
        command = [sys.executable, "-m", "unnoticed.crowd", str(file)]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes.append(process)
        await _line(process)

    async def order(self, **order: float) -> Counts:
        """The counts of all, when all are done."""
        counts: list[Counts] = []

        async def tell(process: trio.Process) -> None:
            assert process.stdin is not None
            await process.stdin.send_all(json.dumps(order).encode() + b"\n")
            counts.append(msgspec.json.decode(await _line(process), type=Counts))

        with trio.fail_after(_PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                for process in self.processes:
                    nursery.start_soon(tell, process)
        return reduce(Counts.__add__, counts)


async def _line(process: trio.Process) -> bytes:
    """The next line of its output. It says nothing that it was not asked."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        data = await process.stdout.receive_some()
        assert data, f"{process.args!r} has ended"
        line += data
    return line


@asynccontextmanager
async def open_crowds(
    folder: Path, terms: Terms, pairs: Sequence[tuple[str, str]], port: int, watched_port: int
) -> AsyncIterator[Crowds]:
    """All are started, and the watcher is there; nobody else is yet."""
    crowds = Crowds()
    try:
        for at in range(0, len(pairs), IN_A_PROCESS // 2):
            cast = Cast(port, list(pairs[at : at + IN_A_PROCESS // 2]), terms.counting, None if at else watched_port)
            file = folder / f"cast-{at}.json"
            file.write_bytes(msgspec.json.encode(cast))
            await crowds.start(file)
        await crowds.order(watch=1)
        yield crowds
    finally:
        for process in crowds.processes:
            process.kill()
            with trio.CancelScope(shield=True):  # bounded: it was killed
                await process.wait()


async def play(folder: Path, terms: Terms) -> Figures:
    """Play it once. Says on stderr how far it is."""
    authority, pairs = Authority(folder / "ca"), pairs_for(terms.sessions)
    users = [WATCHER, *(user for pair in pairs for user in pair)]
    doors = Doors.cut(folder, authority)
    async with AsyncExitStack() as stack:
        _tell("starting the servers")
        cluster = EjabberdCluster(folder / "cluster", users=users, doors=doors.listeners)
        await stack.enter_async_context(cluster)
        options = ["resume=shared"] * 2 if terms.by_cut else doors.options(authority)
        lines = [f"node{n} {HOST}:{cluster.nodes[n - 1].port} {options[n - 1]}" for n in (1, 2)]
        proxy = await stack.enter_async_context(
            open_proxy(
                folder,
                lines,
                authority.issue(DOMAIN, HOST),
                options=[
                    *("--workers", str(terms.workers), "--connections-per-address", "none", "--starttls", "optional"),
                    *doors.settings,
                    *terms.options,
                ],
            )
        )
        crowds = await stack.enter_async_context(open_crowds(folder, terms, pairs, proxy.port, cluster.nodes[1].port))
        return await _tell_story(terms, proxy, cluster, crowds)


async def _tell_story(terms: Terms, proxy: ProxyProcess, cluster: EjabberdCluster, crowds: Crowds) -> Figures:
    _tell(f"{terms.sessions} logins")
    await crowds.order(open=_LOGINS_AT_ONCE)
    await crowds.order(talk=terms.interval)
    await trio.sleep(terms.interval)
    await crowds.order(report=1)
    programs = [proxy.process], [node.process for node in cluster.nodes if node.process is not None]
    calm = [_cpu(each) for each in programs]
    await trio.sleep(_CALM_SECONDS)
    before, began = await crowds.order(report=1), [_cpu(each) for each in programs]
    leaving = next(row["sessions"] for row in await proxy.show("nodes") if row["name"] == "node1")
    _tell(f"draining node1 at {terms.rate:g} a second")
    done = await proxy.command("drain", "node1", "--wait", "--rate", f"{terms.rate:g}", seconds=_PATIENCE_SECONDS)
    assert done.code == 0, done.output
    cpu = [_cpu(each) - used for each, used in zip(programs, began, strict=True)]
    usual = [(now - used) / _CALM_SECONDS * done.seconds for now, used in zip(began, calm, strict=True)]
    during = await crowds.order(report=1)
    _tell("stopping node1")
    await cluster.nodes[0].stop()
    await trio.sleep(2 * terms.interval)
    after = await crowds.order(hush=1)
    transfers = await proxy.event("transfer", leaving)
    return Figures(
        moved=len(transfers),
        drain_seconds=done.seconds,
        before=before,
        during=during,
        after=after,
        outcomes=Counter(f"{each['rung']}:{each['outcome']}" for each in transfers),
        held=[each["held_seconds"] for each in transfers if each["held_seconds"] is not None],
        took=[each["seconds"] for each in transfers],
        cpu=(cpu[0], cpu[1]),
        per_move=((cpu[0] - usual[0]) / len(transfers), (cpu[1] - usual[1]) / len(transfers)),
    )


def _cpu(programs: Iterable[trio.Process]) -> float:
    """Seconds that these have used so far, with all that they have started."""
    return sum(machine.cpu_ns(pid) for program in programs for pid in machine.family(program.pid)) / 1e9


def _tell(text: str) -> None:
    print(f"  … {text}", file=sys.stderr, flush=True)
