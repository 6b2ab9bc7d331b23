"""Keep the live list of nodes as its source has it, with the consequences for drains."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from cxfr_proxy import shortage
from cxfr_proxy.admin.console.reloads import ReloadPart, Reloads, log_faults
from cxfr_proxy.cluster.members import Changes, Cluster
from cxfr_proxy.cluster.sources.source import NodeSource, Reading
from cxfr_proxy.cluster.targets import RedirectTargets
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.supervisor.orders.drain_keeper import NodeDrainer
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.supervisor.reading.served_files import ServedFiles
from cxfr_proxy.units import counted
from cxfr_proxy.upstream.dial import read_authorities_of
from cxfr_proxy.upstream.health_checks import HealthChecks

_SHOWN_NAMES: Final = 100
"""Most names of nodes that have changed, in a log line."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadNodes:
    """A reading that was found good, with the CA certificates that its nodes name, by path."""

    reading: Reading
    authorities: Mapping[str, str]


class NodeList:
    """The live list. ``peers`` get the directives of each reading; ``files`` has the nodes' CA certificates."""

    def __init__(
        self,
        source: NodeSource,
        cluster: Cluster,
        drainer: NodeDrainer,
        checks: HealthChecks,
        files: ServedFiles,
        peers: PeerProxies,
        reloads: Reloads,
    ) -> None:
        self._source = source
        self._cluster = cluster
        self._drainer = drainer
        self._checks = checks
        self._files = files
        self._peers = peers
        self._reloads = reloads

    async def begin(self) -> None:
        """Read for the first time. Raises :class:`ConfigError`."""
        with self._reloads.noted(ReloadPart.NODES):
            read = _checked(await self._source.read())
            reading = read.reading
            self._files.take_authorities(read.authorities)
            self._cluster.apply(reading.specs)
        for node in self._cluster:
            self._checks.follow(node)
        self._peers.begin(reading.directives)

    async def watch(self) -> None:
        """Follow the source until cancelled. Faulty content is logged, and everything stays as it was."""
        while True:
            try:
                with self._reloads.noted(ReloadPart.NODES), self._judged():
                    self._take(_checked(await self._source.next_reading()))
            except ConfigError as exc:
                log_faults(ReloadPart.NODES, exc)
                if shortage.passes(exc):
                    await trio.sleep(shortage.AGAIN_SECONDS)
                    self._source.unread()

    def allow(self, targets: RedirectTargets) -> None:
        """Let public addresses be within these, from the next reading on."""
        self._source.allow(targets)

    async def read(self) -> ReadNodes:
        """Read it now. Raises :class:`ConfigError`."""
        with self._judged():
            return _checked(await self._source.read())

    def unread(self) -> None:
        """Have :meth:`watch` take what was read: it was not taken."""
        self._source.unread()

    def take_as_asked(self, read: ReadNodes) -> str:
        """Apply what an operator has had read. Return what has changed."""
        changes = self._take(read)
        emit(_log, "reloaded", nodes=len(self._cluster))
        parts = [
            f"{len(names)} {word}"
            for names, word in ((changes.added, "added"), (changes.removed, "removed"), (changes.changed, "changed"))
            if names
        ]
        return f"{counted(len(self._cluster), 'node')} ({', '.join(parts) or 'unchanged'})"

    def _take(self, read: ReadNodes) -> Changes:
        """Apply a reading."""
        reading, specs = read.reading, read.reading.specs
        self._files.take_authorities(read.authorities)
        changes = self._cluster.apply(specs)
        for name in changes.added:
            self._checks.expect(self._cluster.get(name))
        for name in changes.changed:
            self._checks.reread(self._cluster.get(name))
        if changes:
            emit(
                _log,
                "nodes-changed",
                added=_listing(changes.added),
                removed=_listing(changes.removed),
                changed=_listing(changes.changed),
            )
        # A copy: undrain() takes them out.
        for name in tuple(self._drainer.drains):
            if name in self._cluster and not self._cluster.get(name).leaving:
                self._drainer.undrain(name)
        for name in changes.emptied:
            self._drainer.drain(name)
        self._peers.carry_out(reading.directives)
        # After the drains: a node whose line is gone is kept until it is empty.
        self.forget_empty()
        return changes

    def forget_empty(self) -> None:
        """Drop nodes whose line is gone, once they have settled, and nobody is on them or will be fetched from them."""
        for node in self._cluster.removed:
            gone = not self._drainer.left(node.name) and not self._drainer.awaited(node.name)
            if gone and self._drainer.is_done(node.name):
                self._cluster.forget(node.name)
                self._drainer.undrain(node.name)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Note in the source's status whether its content is good."""
        try:
            yield
        except ConfigError as exc:
            self._source.status.refused(str(exc.errors[0]))
            raise
        self._source.status.taken()


def _checked(reading: Reading) -> ReadNodes:
    """Read the files that these nodes name. Raises :class:`ConfigError`."""
    return ReadNodes(reading, read_authorities_of(reading.specs))


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ",".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
