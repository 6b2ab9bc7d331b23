"""Two nodes of a kind, node1 of which can be stopped and killed, and be there again for the next run.

=========== =============================================================== =============================
built-in    the demo's nodes, which route to each other                     sessions stay on their node
shared      the demo's nodes                                                share sessions (XEP-0198)
prosody     two Prosody servers of one domain, strangers to each other      sessions stay on their node
ejabberd    a cluster of two ejabberd nodes                                 share sessions
migrating   the same, and the proxy may take sessions from node to node     share sessions
=========== =============================================================== =============================
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import trio
from real.certs import Authority
from real.ejabberd import EjabberdCluster, EjabberdNode
from real.programs import DOMAIN
from real.prosody import ProsodyNode
from real.site import Doors

from cxfr_proxy.demo.cluster import DemoCluster
from cxfr_proxy.demo.node import DemoNode, StopStyle
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.demo.wire import HostPort


class Nodes(StrEnum):
    BUILT_IN = "built-in"
    SHARED = "built-in, sessions shared"
    PROSODY = "Prosody pair"
    EJABBERD = "ejabberd cluster"
    MIGRATING = "ejabberd cluster, with migrate"


class Site(Protocol):
    """``options`` stand behind the nodes' addresses in the nodes file; ``settings`` are the proxy's. ``witnessed`` says
    which nodes (0, 1) have a witness: both where a message can't get from one to the other. ``doors`` are where the
    proxy may take sessions, with the authority of the nodes' certificates; ``None``: nowhere."""

    doors: tuple[Doors, Authority] | None
    options: Sequence[str]
    settings: Sequence[str]
    witnessed: tuple[int, ...]

    @property
    def addresses(self) -> list[HostPort]:
        """Of node1 and node2, plain."""

    async def terminate(self) -> None:
        """SIGTERM to node1, or what that comes to."""

    async def kill(self) -> None:
        """SIGKILL to node1."""

    async def refresh(self) -> None:
        """Both nodes are there and nobody is on them. Called before each run."""


class BuiltIn:
    """Nodes of this process; new ones for each run."""

    def __init__(self, nursery: trio.Nursery, *, shared: bool) -> None:
        self.options: Sequence[str] = ["resume=shared" if shared else ""] * 2
        self.settings: Sequence[str] = ()
        self.doors: tuple[Doors, Authority] | None = None
        self.witnessed: tuple[int, ...] = (1,)
        self._nursery = nursery
        self._shared = shared
        self._nodes: list[DemoNode] = []

    @property
    def addresses(self) -> list[HostPort]:
        return [node.address for node in self._nodes]

    async def terminate(self) -> None:
        await self._nodes[0].stop(StopStyle.SYSTEM_SHUTDOWN)

    async def kill(self) -> None:
        await self._nodes[0].stop(StopStyle.KILL)

    async def refresh(self) -> None:
        cluster = DemoCluster(DOMAIN, shared=self._shared)
        for node in self._nodes:
            await node.stop(StopStyle.KILL)
        self._nodes = [
            DemoNode(name, DOMAIN, cluster=cluster, offers=NodeOffers(asks_capabilities=True))
            for name in ("node1", "node2")
        ]
        for node in self._nodes:
            await self._nursery.start(node.serve)


class _Real:
    """Servers that are started once; node1 is started again where a run has ended it."""

    def __init__(
        self,
        nodes: list[ProsodyNode] | list[EjabberdNode],
        witnessed: tuple[int, ...],
        *,
        options: Sequence[str] = ("", ""),
        doors: tuple[Doors, Authority] | None = None,
    ) -> None:
        self.options = options
        self.doors = doors
        self.settings: Sequence[str] = doors[0].settings if doors is not None else ()
        self.witnessed = witnessed
        self._nodes = nodes

    @property
    def addresses(self) -> list[HostPort]:
        return [HostPort(node.host, node.port) for node in self._nodes]

    async def terminate(self) -> None:
        node = self._nodes[0]
        await (node.terminate() if isinstance(node, EjabberdNode) else node.stop())

    async def kill(self) -> None:
        await self._nodes[0].kill()

    async def refresh(self) -> None:
        node = self._nodes[0]
        assert node.process is not None
        if node.process.poll() is not None:
            await node.start()


@asynccontextmanager
async def _built_in(folder: Path, users: Iterable[str], *, shared: bool) -> AsyncIterator[Site]:
    async with trio.open_nursery() as nursery:
        yield BuiltIn(nursery, shared=shared)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _prosody(folder: Path, users: Iterable[str]) -> AsyncIterator[Site]:
    names = list(users)
    async with (
        ProsodyNode(folder / "prosody1", users=names, stream_management=True) as node1,
        ProsodyNode(folder / "prosody2", users=names, stream_management=True) as node2,
    ):
        yield _Real([node1, node2], (0, 1))


@asynccontextmanager
async def _ejabberd(folder: Path, users: Iterable[str]) -> AsyncIterator[Site]:
    async with EjabberdCluster(folder / "ejabberd", users=users) as cluster:
        yield _Real(cluster.nodes, (1,), options=["resume=shared"] * 2)


@asynccontextmanager
async def _migrating(folder: Path, users: Iterable[str]) -> AsyncIterator[Site]:
    authority = Authority(folder / "nodes")
    doors = Doors.cut(folder, authority)
    async with EjabberdCluster(folder / "migrating", users=users, doors=doors.listeners) as cluster:
        yield _Real(cluster.nodes, (1,), options=doors.options(authority), doors=(doors, authority))


_Opener = Callable[[Path, Iterable[str]], AbstractAsyncContextManager[Site]]

_OPENERS: Final[dict[Nodes, _Opener]] = {
    Nodes.BUILT_IN: lambda folder, users: _built_in(folder, users, shared=False),
    Nodes.SHARED: lambda folder, users: _built_in(folder, users, shared=True),
    Nodes.PROSODY: _prosody,
    Nodes.EJABBERD: _ejabberd,
    Nodes.MIGRATING: _migrating,
}


def open_site(nodes: Nodes, folder: Path, users: Iterable[str]) -> AbstractAsyncContextManager[Site]:
    """Two nodes on which these users can log in."""
    return _OPENERS[nodes](folder, users)
