"""Keep the live list of nodes as its source has it, with the consequences for drains."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from cxfr_proxy.admin.reloads import ReloadPart, Reloads
from cxfr_proxy.cluster.members import Changes, Cluster
from cxfr_proxy.cluster.sources.source import NodeSource, Reading
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.supervisor.drains import NodeDrainer
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.supervisor.served_files import ServedFiles
from cxfr_proxy.upstream.health_checks import HealthChecks

_SHOWN_NAMES: Final = 100
"""Most names of nodes that have changed, in a log line."""

_log = logging.getLogger(__name__)


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
        self._asked = trio.Event()

    async def begin(self) -> None:
        """Read for the first time. Raises :class:`ConfigError`."""
        with self._reloads.noted(ReloadPart.NODES):
            reading = await self._source.read()
            self._files.read_authorities(reading.specs)
            self._cluster.apply(reading.specs)
        for node in self._cluster:
            self._checks.follow(node)
        self._peers.carry_out(reading.directives)

    async def watch(self) -> None:
        """Follow the source until cancelled. Faulty content is logged, and everything stays as it was."""
        while True:
            with self._reloads.logged(ReloadPart.NODES), self._judged():
                self._take(await self._source.next_reading())

    async def read_when_asked(self) -> None:
        """Read it whenever :meth:`ask` says so, until cancelled; otherwise like :meth:`watch`."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            with self._reloads.logged(ReloadPart.NODES), self._judged():
                await self._read_now()

    def ask(self) -> None:
        """Have it read soon; errors go to the log."""
        self._asked.set()

    def _take(self, reading: Reading) -> Changes:
        """Apply a reading. Raises :class:`ConfigError`, and then nothing has changed."""
        specs = reading.specs
        self._files.read_authorities(specs)
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
        """Drop nodes whose line is gone, once nobody is on them or will be fetched from them."""
        for node in self._cluster.removed:
            if not self._drainer.left(node.name) and not self._drainer.awaited(node.name):
                self._cluster.forget(node.name)
                self._drainer.undrain(node.name)

    async def reload_as_asked(self) -> str:
        """Read it now, because an operator said so. Return what has changed.

        Raises :class:`ConfigError`, and then nothing has changed.
        """
        with self._reloads.noted(ReloadPart.NODES), self._judged():
            return await self._read_now()

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """Note in the source's status whether its content is good."""
        try:
            yield
        except ConfigError as exc:
            self._source.status.refused(str(next(iter(getattr(exc, "errors", (exc,))))))
            raise
        self._source.status.taken()

    async def _read_now(self) -> str:
        changes = self._take(await self._source.read())
        emit(_log, "reloaded", nodes=len(self._cluster))
        parts = [
            f"{len(names)} {word}"
            for names, word in ((changes.added, "added"), (changes.removed, "removed"), (changes.changed, "changed"))
            if names
        ]
        return f"{len(self._cluster)} nodes ({', '.join(parts) or 'unchanged'})"


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_NAMES
    return ",".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
