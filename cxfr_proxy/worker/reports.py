"""A worker's reports to its supervisor about its sessions: each transfer, resumable counts that have shifted, and
all counts together.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import trio

from cxfr_proxy.config.table import Config
from cxfr_proxy.ipc.messages import Gone, TransferEnded, WorkerCounts, WorkerReport
from cxfr_proxy.process_figures import ProcessCost
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session.commands import Ended, Event, Shifted, Transferred
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.statistics import past_transfer
from cxfr_proxy.worker.reporter import Reporter
from cxfr_proxy.worker.service import Service
from cxfr_proxy.xmpp.stream_management import Counters

_COST_SECONDS: Final = 1.0


class SessionReports:
    """Reports each session, behind the news that all workers have to know of its client
    (:mod:`cxfr_proxy.transfers.client_news`)."""

    def __init__(self, reporter: Reporter, registry: Registry) -> None:
        self._reporter = reporter
        self._registry = registry
        self._shifted: dict[str, tuple[Counters, str]] = {}  # by resumable id, with the client's address

    def session_event(self, live: LiveSession, event: Event) -> None:
        session = live.session
        match event:
            case Transferred():
                ended = TransferEnded(past_transfer(session, event), live.id, session.full_jid)
                self._reporter.post(ended)
            case Shifted(counters) if session.resumable_id is not None:
                self._shifted[session.resumable_id] = counters, live.client_address
            case Ended() if session.resumable_id is not None:
                self._reporter.post(Gone(session.resumable_id))
            case _:
                pass
        self._reporter.changed()

    def report_shifted(self) -> None:
        """Report sessions whose counts have changed. A stream that was resumed by another one meanwhile has no say any
        more."""
        shifted, self._shifted = self._shifted, {}
        memory = self._registry.memory
        for stream_management_id, (counters, address) in shifted.items():
            known = memory.resumption(stream_management_id)
            if known is not None and known.counters is counters:
                for news in memory.resumable_news(stream_management_id, address):
                    self._reporter.client_news(news)


class CountReports:
    """The counts of one worker. ``workers``: how many there are."""

    def __init__(
        self,
        config: Config,
        workers: int,
        reporter: Reporter,
        registry: Registry,
        mover: Mover,
        service: Service,
        sessions: SessionReports,
    ) -> None:
        self._workers = workers
        self.take_settings(config)
        self._reporter = reporter
        self._registry = registry
        self._mover = mover
        self._service = service
        self._sessions = sessions
        self._reported: dict[str, NodeCounts] = {}
        self._cost = ProcessCost()
        self._cost_due = -math.inf

    def take_settings(self, config: Config) -> None:
        """Report by these from now on."""
        limit = config.limits.connections_per_address
        # Addresses with few connections can't reach the limit, so they are not worth reporting.
        self._busy_from = max(1, limit // (4 * self._workers)) if limit is not None else None

    def report(self) -> None:
        """Report what is new, and the counts."""
        self._sessions.report_shifted()
        for changes in self._reporter.sessions.call(trio.current_time()):
            self._reporter.post(changes)
        self._reporter.post(WorkerReport(self.counts()))

    def counts(self) -> WorkerCounts:
        registry, mover = self._registry, self._mover
        return WorkerCounts(
            sessions=len(registry),
            connections=registry.connections,
            last_id=registry.last_id,
            nodes=self._counts_of_nodes(),
            awaited=dict(registry.memory.awaited(trio.current_time())),
            waiting={
                name: drain.waiting_reason for name, drain in mover.drains.items() if drain.waiting_reason is not None
            },
            addresses=registry.busy_addresses(self._busy_from) if self._busy_from is not None else {},
            totals=self._service.totals,
            rebalance=mover.rebalance_counts(),
            moves=mover.moves,
            process=self._cost_now(),
        )

    def _cost_now(self) -> ProcessCost:
        """Return what the process costs, looked up once a second: reports come far more often."""
        now = trio.current_time()
        if now >= self._cost_due:
            self._cost, self._cost_due = ProcessCost.now(), now + _COST_SECONDS
        return self._cost

    def _counts_of_nodes(self) -> dict[str, NodeCounts]:
        """Return the counts of nodes that have changed since the last report."""
        touched = self._registry.counts.take_touched()
        news = {name: replace(counts) for name, counts in touched.items() if counts != self._reported.get(name)}
        self._reported |= news
        return news
