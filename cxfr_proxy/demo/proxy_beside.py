"""The proxy beside the story, in the same process.

The story knows it only as :class:`DemoProxy`. :func:`open_proxy` is the adapter to the real one; the tests put a
stand-in there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.config.table import Config, Limits, ListenAddress, RebalanceMode, Timeouts, WrongNode
from cxfr_proxy.demo.certificate import DemoCertificate
from cxfr_proxy.demo.habits import SeenRung
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.session.commands import Outcome

CXFR_SECONDS: Final = 3.0
"""How long a mute client is given for its answer. Less than the default: nobody wants to watch ten seconds of it."""
PATIENCE_SECONDS: Final = 60.0
"""Of the proxy with clients and nodes that are all slow, because the machine is busy."""


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

    def warnings(self) -> Mapping[str, int]:
        """Return how often it has warned of what, by the event's name."""


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
        f" migrate=external migrate-address={node.migration_address} ca={setting.certificate.certificate}"
        f" check-timeout={PATIENCE_SECONDS:.0f}s\n"
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
        timeouts=Timeouts(
            cxfr_timeout=CXFR_SECONDS,
            see_other_host_timeout=PATIENCE_SECONDS,
            node_connect_timeout=PATIENCE_SECONDS,
            node_greeting_timeout=PATIENCE_SECONDS,
            node_close_timeout=PATIENCE_SECONDS,
            tls_handshake_timeout=PATIENCE_SECONDS,
        ),
    )
    proxy = Proxy(config)
    with _warnings_counted() as warnings:
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.run)
            yield _InProcess(proxy, nodes_file, warnings)
            nursery.cancel_scope.cancel()


@contextmanager
def _warnings_counted() -> Iterator[Counter[str]]:
    """Count the proxy's warnings by event: as lines they would run through the picture."""
    counter = _WarningCounter(logging.WARNING)
    logger = logging.getLogger("cxfr_proxy")
    logger.addHandler(counter)
    try:
        yield counter.counts
    finally:
        logger.removeHandler(counter)


class _WarningCounter(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.getMessage()] += 1


class _InProcess:
    """:class:`DemoProxy` by a :class:`Proxy`."""

    def __init__(self, proxy: Proxy, nodes_file: Path, warnings: Mapping[str, int]) -> None:
        self._proxy = proxy
        self._warnings = warnings
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

    def warnings(self) -> Mapping[str, int]:
        return self._warnings
