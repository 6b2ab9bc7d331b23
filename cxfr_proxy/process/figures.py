"""The running proxy in figures: what :mod:`cxfr_proxy.admin.metrics` makes a page of, gathered from where it is known.

Making it costs some milliseconds, in which a proxy of one process serves nobody. So there is one at a time, made metric
by metric, and between two a pause that keeps what they take to a small share of the time, however many ask.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from cxfr_proxy import __version__
from cxfr_proxy.admin.metrics.exposition import Exposition, in_parts
from cxfr_proxy.admin.metrics.snapshot import DrainFigures, MetricsSnapshot, ProcessFigures, ReloadFigures
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.sources import Standing
from cxfr_proxy.cluster.sources import State as SourceState
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.process.link import State
from cxfr_proxy.process.nodelist import Drainer
from cxfr_proxy.process.operations import Sessions, node_row
from cxfr_proxy.process.reloads import Reloads
from cxfr_proxy.relay import engine
from cxfr_proxy.xmpp.framing import framer

_SHARE: Final = 0.02
"""Of the time, for making pages."""
_SHARE_OF_NOBODY: Final = 0.2
"""The same where this process serves nobody: a page of ten thousand nodes takes a second, and who watches a proxy gives
up after ten."""


class Figures:
    """A :class:`~cxfr_proxy.admin.http.pages.PageSource`. ``standing`` is that of the list of nodes; ``stopping``
    says whether the proxy is; ``room`` is how many connections fit; ``serves``: whether clients are served by this process."""

    def __init__(
        self,
        cluster: Cluster,
        sessions: Sessions,
        drainer: Drainer,
        reloads: Reloads,
        standing: Standing,
        certificates: ServerCertificates,
        *,
        stopping: Callable[[], bool],
        room: int,
        serves: bool = True,
    ) -> None:
        self._cluster = cluster
        self._sessions = sessions
        self._drainer = drainer
        self._reloads = reloads
        self._standing = standing
        self._certificates = certificates
        self._stopping = stopping
        self._room = room
        self._share = _SHARE if serves else _SHARE_OF_NOBODY
        self._started = time.time()
        self._turn = trio.Lock()
        self._next = -float("inf")

    def unready(self) -> str | None:
        if self._stopping():
            return "the proxy is stopping"
        if not any(row.state == State.UP for row in self._sessions.worker_rows()):
            return "no worker serves"
        if not any(node.usable for node in self._cluster):
            return "no node is ready and up"
        return None

    async def metrics(self, accept: str) -> Exposition:
        async with self._turn:
            await trio.sleep_until(self._next)
            states = await self._sessions.states()
            began = time.thread_time()
            content_type, parts = in_parts(self._snapshot(states), accept)
            took, body = time.thread_time() - began, []
            while True:
                await trio.lowlevel.checkpoint()
                began = time.thread_time()
                part = next(parts, None)
                took += time.thread_time() - began
                if part is None:
                    break
                body.append(part)
            self._next = trio.current_time() + took / self._share
            return Exposition(content_type, b"".join(body))

    def _snapshot(self, states: dict[str, int]) -> MetricsSnapshot:
        drains = [
            DrainFigures(name, drain.stage, self._drainer.left(name), waits=drain.reason is not None)
            for name, drain in self._drainer.drains.items()
        ]
        return MetricsSnapshot(
            build={"version": __version__, "framer": framer.ENGINE, "relay": engine.ENGINE},
            nodes=[node_row(node, self._sessions.of_node(node.name)) for node in self._cluster],
            workers=self._sessions.worker_rows(),
            drains=drains,
            states=states,
            totals=self._sessions.totals(),
            tally=self._sessions.tally,
            room=self._room,
            rate=self._drainer.rate * self._drainer.share,
            process=ProcessFigures(self._started, time.process_time(), _resident_bytes()),
            certificate_expiries=self._certificates.expiries,
            source_well=self._standing.state is SourceState.WELL,
            reloads={
                str(part): ReloadFigures(each.worked, each.worked_at) for part, each in self._reloads.outcomes.items()
            },
        )


def _resident_bytes() -> int | None:
    """proc(5): the second number is pages in memory. ``None`` where ``/proc`` is not mounted."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None
