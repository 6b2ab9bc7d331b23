"""The proxy as a whole, as an operator is shown it: what runs here, where, since when; and the latest events."""

from __future__ import annotations

import os
import platform
import ssl
import time
from collections.abc import Sequence
from typing import Final

from cxfr_proxy import __version__, events
from cxfr_proxy.admin.console.parts import Peers
from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.http.status import StoppingProxy
from cxfr_proxy.admin.latest_events import SUPERVISOR, event_rows
from cxfr_proxy.admin.rows.live_rows import SummaryRow
from cxfr_proxy.admin.rows.rows import EventRow, InfoRow
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.config.current import CurrentSettings
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay import engine
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.xmpp.framing import framer

_EARLIER_EVENTS: Final = 1000
"""Most events of proxies before this one, the latest."""


class AboutProxy:
    """The console's :class:`~cxfr_proxy.admin.console.parts.About`."""

    def __init__(
        self,
        settings: CurrentSettings,
        cluster: Cluster,
        workers: Workers,
        peers: Peers,
        certificates: ServerCertificates,
        http_certificate: HttpCertificate,
        host: StoppingProxy,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._workers = workers
        self._peers = peers
        self._certificates = certificates
        self._http_certificate = http_certificate
        self._host = host
        self._started, self._began = time.time(), time.monotonic()
        self._earlier: Sequence[EventRow] = ()  # of a proxy whose place this one has taken
        self._listen: list[str] | None = None
        self._room = 0

    def serves(self, addresses: Sequence[tuple[str, int]], paths: Sequence[str], *, room: int) -> None:
        """Note where clients can connect from now on, and how many sessions fit."""
        tcp = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
        self._listen = [*tcp, *(f"unix:{path}" for path in paths)]
        self._room = room

    def summary(self) -> SummaryRow:
        workers, totals = self._workers, self._workers.totals()
        outcomes = workers.statistics.by_software.values()
        return SummaryRow(
            state=self._state,
            nodes=len(self._cluster),
            nodes_usable=sum(node.usable for node in self._cluster),
            workers=len(workers.slots),
            sessions=workers.sessions,
            predecessor_sessions=workers.predecessor.sessions,
            connections=sum(row.connections for row in workers.worker_rows()),
            capacity=self._room,
            logins=sum(totals.logins),
            logins_failed=sum(totals.failed_logins.values()),
            moved=sum(each.moved for each in outcomes),
            returned=sum(each.returned for each in outcomes),
            rate=self._peers.source_row().rate,
        )

    async def info(self) -> InfoRow:
        await self._workers.refresh()
        source, workers, config = self._peers.source_row(), self._workers.worker_rows(), self._settings.config
        expiries = [*self._certificates.shown.expiries.values(), *self._http_certificate.expiries.values()]
        return InfoRow(
            version=__version__,
            engine=f"framer {framer.ENGINE.chosen}, relay {engine.ENGINE.chosen}",
            python=platform.python_version(),
            openssl=ssl.OPENSSL_VERSION.removeprefix("OpenSSL "),
            pid=os.getpid(),
            started=events.timestamp(self._started),
            up_seconds=time.monotonic() - self._began,
            state=self._state,
            listen=self._listen or [],
            control=str(config.control),
            http=str(config.http) if config.http is not None else None,
            config_file=self._settings.file,
            state_file=str(config.state_path),
            source=source.source,
            nodes=source.nodes,
            nodes_usable=sum(node.usable for node in self._cluster),
            workers=len(self._workers.slots),
            sessions=self._workers.sessions,
            connections=sum(row.connections for row in workers),
            capacity=self._room,
            rate=source.rate,
            certificates_until=events.timestamp(min(expiries)) if expiries else None,
        )

    @property
    def _state(self) -> str:
        if self._host.is_stopping():
            return "stopping"
        return "starting" if self._listen is None else "serving"

    async def events(self) -> list[EventRow]:
        others = await self._workers.event_rows()
        # A single worker is in this process, where there is one log.
        in_process = any(link.pid == os.getpid() for link in self._workers)
        return sorted([*self.known_events(), *(() if in_process else others)], key=lambda row: row.time)

    def known_events(self) -> list[EventRow]:
        """Return those of this process, and of the proxies before it, as they were told."""
        return [*self._earlier, *event_rows(SUPERVISOR)]

    def note_earlier_events(self, rows: Sequence[EventRow]) -> None:
        """Show these as well: they are of the proxies before this one."""
        self._earlier = rows[-_EARLIER_EVENTS:]
