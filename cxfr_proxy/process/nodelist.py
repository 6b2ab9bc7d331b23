"""Keeping the live list of nodes as the file has it, and what follows for drains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from cxfr_proxy.cluster.members import Changes, Cluster
from cxfr_proxy.cluster.sources.file import NodesFile
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.relay.check import Checks
from cxfr_proxy.relay.dial import Dialer
from cxfr_proxy.session.mover_drains import Drain

_log = logging.getLogger(__name__)


class Drainer(Protocol):
    """Who empties nodes: the mover, or the supervisor through its workers."""

    @property
    def drains(self) -> dict[str, Drain]: ...

    @property
    def rate(self) -> float: ...

    def drain(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> None: ...

    def abort(self, node: str) -> None: ...

    def undrain(self, node: str) -> None: ...

    def look_again(self) -> None: ...

    def left(self, node: str) -> int: ...

    def awaited(self, node: str) -> int: ...


class NodeList:
    """``changed`` is called after each reading, when the list is as it should be."""

    def __init__(
        self,
        file: NodesFile,
        cluster: Cluster,
        drainer: Drainer,
        dialer: Dialer,
        checks: Checks,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._cluster = cluster
        self._drainer = drainer
        self._dialer = dialer
        self._checks = checks
        self._changed = changed

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while True:
            await self._file.wait_changed()
            attempt("nodes-file", self.reload)

    def reload(self) -> Changes:
        """Raises :class:`ConfigError`, and then nothing has changed."""
        specs = self._file.load()
        self._dialer.forget()
        self._dialer.check_files(specs)
        changes = self._cluster.apply(specs)
        for name in changes.added:
            self._checks.expect(self._cluster.get(name))
        for name in changes.changed:
            self._checks.reread(self._cluster.get(name))
        if changes:
            emit(
                _log,
                "nodes-changed",
                added=",".join(changes.added),
                removed=",".join(changes.removed),
                changed=",".join(changes.changed),
            )
        for node in self._cluster:
            if not node.leaving:
                self._drainer.undrain(node.name)
        for name in changes.emptied:
            self._drainer.drain(name)
        self._drainer.look_again()
        self.forget_empty()
        self._changed()
        return changes

    def forget_empty(self) -> None:
        """Drop the nodes whose line is gone, and that nobody is on or will be fetched from any more."""
        for node in self._cluster:
            if node.removed and not self._drainer.left(node.name) and not self._drainer.awaited(node.name):
                self._cluster.forget(node.name)
                self._drainer.undrain(node.name)

    def reload_as_asked(self) -> str:
        """As :meth:`reload`, because an operator said so; the answer: what has changed."""
        changes = self.reload()
        emit(_log, "reloaded", nodes=len(self._cluster))
        parts = [
            f"{len(names)} {word}"
            for names, word in ((changes.added, "added"), (changes.removed, "removed"), (changes.changed, "changed"))
            if names
        ]
        return f"{len(self._cluster)} nodes ({', '.join(parts) or 'unchanged'}), certificates read again"


def attempt(what: str, action: Callable[[], object]) -> None:
    """Do it; what was bad is logged, and everything stays as it was."""
    try:
        action()
    except ConfigError as exc:
        for error in getattr(exc, "errors", (exc,)):
            emit(_log, "reload-failed", level=logging.ERROR, what=what, error=str(error))
