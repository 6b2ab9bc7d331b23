"""Taking a snapshot of the running proxy, and making a page of it.

That costs some milliseconds, in which a proxy of one process serves nobody. So there is one page at a time, made metric
by metric, and between two pages a pause that keeps their cost to a small share of the time, however many ask. All who
wait for their turn get the page that is made next: nobody waits behind others for a page of their own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from cxfr_proxy.admin.console.nodes import node_row
from cxfr_proxy.admin.console.parts import Drainer, Sessions
from cxfr_proxy.admin.console.reloads import Reloads
from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.metrics.exposition import Exposition, content_type_of, in_parts
from cxfr_proxy.admin.metrics.snapshot import DrainFigures, MetricsSnapshot, ProcessFigures
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.sources.source import SourceState, SourceStatus
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.process_figures import ProcessCost

SHARE: Final = 0.02
"""Of the time, for making pages."""
SHARE_OF_NOBODY: Final = 0.2
"""The same where this process serves nobody: a page of ten thousand nodes takes a second, and who watches a proxy gives
up after ten."""


@dataclass(frozen=True, slots=True)
class FilesRead:
    """The files and sources that the proxy reads, each with its last result: the node list, certificates, and all
    others."""

    source: SourceStatus
    certificates: ServerCertificates
    http_certificate: HttpCertificate
    reloads: Reloads

    @property
    def certificate_expiries(self) -> Mapping[str, float]:
        """The end of each certificate, in seconds since 1970, by its file."""
        return {**self.certificates.shown.expiries, **self.http_certificate.expiries}


class _MadePage(NamedTuple):
    """``number`` counts pages."""

    number: int
    page: Exposition


class MetricsScraper:
    """``capacity`` is how many connections fit, ``build`` has the words of ``--version``; ``share`` is how much of the
    time pages may take."""

    def __init__(
        self,
        cluster: Cluster,
        sessions: Sessions,
        drainer: Drainer,
        files: FilesRead,
        *,
        capacity: int,
        build: Mapping[str, str],
        share: float = SHARE,
    ) -> None:
        self._cluster = cluster
        self._sessions = sessions
        self._drainer = drainer
        self._files = files
        self._capacity = capacity
        self._build = build
        self._share = share
        self._started = time.time()
        self._turn = trio.Lock()
        self._next = -float("inf")
        self._begun = 0
        """How many pages were begun."""
        self._made: dict[str, _MadePage] = {}
        """The last page of each content type."""

    async def metrics(self, accept: str) -> Exposition:
        """Return the page in a format that ``accept`` allows, the request's header of that name."""
        before, wanted = self._begun, content_type_of(accept)
        async with self._turn:
            made = self._made.get(wanted)
            if made is not None and made.number > before:
                return made.page
            await trio.sleep_until(self._next)
            self._begun += 1
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
            page = Exposition(content_type, b"".join(body))
            self._made[wanted] = _MadePage(self._begun, page)
            return page

    def _snapshot(self, states: Mapping[str, int]) -> MetricsSnapshot:
        drains = [
            DrainFigures(name, drain.stage, self._drainer.left(name), waits=drain.reason is not None)
            for name, drain in self._drainer.drains.items()
        ]
        return MetricsSnapshot(
            build=self._build,
            nodes=[node_row(node, self._sessions.of_node(node.name)) for node in self._cluster],
            workers=self._sessions.worker_rows(),
            drains=drains,
            states=states,
            totals=self._sessions.totals(),
            statistics=self._sessions.statistics,
            capacity=self._capacity,
            rate=self._drainer.rate * self._drainer.share,
            moves=self._sessions.moves(),
            process=ProcessFigures(self._started, ProcessCost.now()),
            certificate_expiries=self._files.certificate_expiries,
            source_well=self._files.source.state is SourceState.WELL,
            reloads=self._files.reloads.outcomes,
        )
