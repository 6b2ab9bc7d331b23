"""What a run is played on: an ejabberd cluster, a proxy in front of it, and crowds that chat across its nodes.

Each pair has one client on either node (:func:`pairs_for`), so every message passes both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
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
from real.tap import Tap, open_tap

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.placement import Placement
from unnoticed.crowd import WATCHER, Cast, Counts

IN_A_PROCESS: Final = 2_500
"""Clients: as many as Python serves beside the rest."""
PATIENCE_SECONDS: Final = 600.0
_LOGINS_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """``counting``: the share of clients with XEP-0198 of their own. ``by_cut``: the nodes do not let the proxy take
    sessions. ``stands_in``: the proxy speaks XEP-0198 in the place of those without. ``tapped``: taps stand between
    the proxy and the nodes. ``options`` are more settings of the proxy's."""

    sessions: int
    workers: int
    counting: float = 1.0
    by_cut: bool = False
    stands_in: bool = False
    tapped: bool = False
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """``taps`` are in front of the nodes, and of the listeners at which the proxy logs in; none, unless they were asked
    for."""

    cluster: EjabberdCluster
    proxy: ProxyProcess
    crowds: Crowds
    taps: Sequence[Tap]

    async def let_in(self, interval: float) -> None:
        """Log everybody in, and let each write a message every ``interval`` seconds."""
        await self.crowds.order(open=_LOGINS_AT_ONCE)
        await self.crowds.order(talk=interval)


@asynccontextmanager
async def open_scene(folder: Path, setting: Setting) -> AsyncIterator[Scene]:
    """All is up, and nobody has logged in. Says on stderr how far it is."""
    authority, pairs = Authority(folder / "ca"), pairs_for(setting.sessions)
    users = [WATCHER, *(user for pair in pairs for user in pair)]
    doors = Doors.cut(folder, authority)
    async with AsyncExitStack() as stack:
        tell("starting the servers")
        cluster = EjabberdCluster(folder / "cluster", users=users, doors=doors.listeners)
        await stack.enter_async_context(cluster)
        ports, door_ports = [node.port for node in cluster.nodes], list(doors.ports)
        taps: list[Tap] = []
        if setting.tapped:
            taps = [await stack.enter_async_context(open_tap(port)) for port in (*ports, *door_ports)]
            ports, door_ports = [tap.port for tap in taps[:2]], [tap.port for tap in taps[2:]]
        options = ["resume=shared"] * 2 if setting.by_cut else doors.options(authority, door_ports)
        lines = [f"node{n} {HOST}:{ports[n - 1]} {options[n - 1]}" for n in (1, 2)]
        proxy = await stack.enter_async_context(
            open_proxy(
                folder,
                lines,
                authority.issue(DOMAIN, HOST),
                options=[
                    *("--workers", str(setting.workers), "--connections-per-address", "none", "--starttls", "optional"),
                    *("--node-stream-management", "on" if setting.stands_in else "off"),
                    *doors.settings,
                    *setting.options,
                ],
            )
        )
        watched = cluster.nodes[1].port
        crowds = await stack.enter_async_context(open_crowds(folder, setting.counting, pairs, proxy.port, watched))
        yield Scene(cluster, proxy, crowds, taps)


def tell(text: str) -> None:
    """Say on stderr how far it is."""
    print(f"  … {text}", file=sys.stderr, flush=True)


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

        with trio.fail_after(PATIENCE_SECONDS):
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
    folder: Path, counting: float, pairs: Sequence[tuple[str, str]], port: int, watched_port: int
) -> AsyncIterator[Crowds]:
    """All are started, and the watcher is there; nobody else is yet."""
    crowds = Crowds()
    try:
        for at in range(0, len(pairs), IN_A_PROCESS // 2):
            cast = Cast(port, list(pairs[at : at + IN_A_PROCESS // 2]), counting, None if at else watched_port)
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
