"""What there is one of in a proxy.

That is the list of nodes and its source, their health, assigned users, the certificates, what is shared with other
proxies, and what an operator can do with all of it: control socket, metrics, reload.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from cxfr_proxy import __version__
from cxfr_proxy.admin import commands
from cxfr_proxy.admin.console import Console
from cxfr_proxy.admin.control.server import serve_control
from cxfr_proxy.admin.drains import DrainControl
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.http.server import serve_http
from cxfr_proxy.admin.http.status import ProxyStatus
from cxfr_proxy.admin.metrics.scrape import SHARE, SHARE_OF_NOBODY, FilesRead, MetricsScraper
from cxfr_proxy.admin.nodes import NodeControl
from cxfr_proxy.admin.parts import Sessions
from cxfr_proxy.admin.pins import PinControl
from cxfr_proxy.admin.rebalances import RebalanceControl
from cxfr_proxy.admin.reloads import ReloadPart, Reloads
from cxfr_proxy.admin.workers import WorkerControl
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.cluster.sources.named import open_source
from cxfr_proxy.config.table import Config, RebalanceMode, Route
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.questions import Files
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay import engine
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.supervisor.auto_rebalance import AutoRebalancer
from cxfr_proxy.supervisor.node_list import NodeDrainer, NodeList
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.supervisor.rolling_restart import RollingRestarts
from cxfr_proxy.supervisor.startup_log import announce, log_certificates
from cxfr_proxy.supervisor.user_list import UserList
from cxfr_proxy.supervisor.vacancy import Vacancy
from cxfr_proxy.tasks import Task, start
from cxfr_proxy.transfers.rebalances import Rebalances
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.health_checks import HealthChecks
from cxfr_proxy.upstream.probe import probe
from cxfr_proxy.xmpp.framing import framer

_COMPARING_SHARE: Final = 0.05
"""Share of the time for comparing the nodes' features: with one worker, no client is served meanwhile."""

_log = logging.getLogger(__name__)


class ServedSessions(Sessions, Protocol):
    """The workers, which have the sessions."""

    async def take_files(self, files: Files) -> list[str]:
        """Let other processes use what was read; return errors, if there were some."""

    def send_files(self, files: Files) -> None:
        """Do the same without waiting: errors go to the log."""


@dataclass(frozen=True, slots=True)
class Operations:
    """What goes on by an operator's order, and the feed by which it is watched."""

    drains: NodeDrainer
    rebalances: Rebalances
    restarts: RollingRestarts
    feed: ChangeFeed


class ManagementHost(Protocol):
    """The supervisor, as its management knows it."""

    def is_stopping(self) -> bool:
        """Return whether the proxy is to end."""

    def users_read(self) -> None:
        """The user map was read."""


class Management:
    """``sessions`` are where the clients are, ``operations`` move them.

    ``development`` is the self-signed certificate to use where the settings name none; ``None``: a fresh one.
    ``reread`` reads the settings as they are by now; ``None``: they come from nowhere that could change.

    Raises :class:`ConfigError` where a file of the settings can't be read; the nodes are read by :meth:`begin`.
    """

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        assigned: Assigned,
        sessions: ServedSessions,
        operations: Operations,
        host: ManagementHost,
        *,
        development: bytes | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        assert config.backends is not None
        self._config = config
        self._cluster = cluster
        self._sessions = sessions
        drainer, rebalances, feed = operations.drains, operations.rebalances, operations.feed
        self._operations = operations
        self._host = host
        self._source = source = open_source(config.backends, config.redirection)
        map_file = UserMapFile(config.user_map) if config.user_map is not None else None
        self._reread = reread
        self.reloads = Reloads()
        self.users = UserList(map_file, assigned, cluster, host.users_read, self.reloads)
        with self.reloads.noted(ReloadPart.CERTIFICATES):
            self.certificates = ServerCertificates(config.key_pairs, domains=config.domain, development=development)
        self.dialer = Dialer(config.timeouts, config.limits)
        self.checks = HealthChecks(cluster, partial(probe, self.dialer), domains=config.domain)
        self._features_changed = trio.Event()
        self._common_features = CommonFeatures(cluster, max_bytes=config.limits.max_element_up)
        auto = config.rebalance is RebalanceMode.AUTO
        self._automatic = AutoRebalancer(cluster, rebalances) if auto else None
        self._sharing = PeerProxies(
            source,
            cluster,
            drainer,
            pins=assigned.pins,
            sessions=lambda: sessions.sessions,
            usual_rate=config.transfer_rate,
            excuse=self._automatic.excuse if self._automatic is not None else None,
        )
        self.nodes = NodeList(
            source,
            cluster,
            drainer,
            self.dialer,
            self.checks,
            self.reloads,
            carry_out=self._sharing.carry_out,
            files_read=self._send_files,
        )
        timeouts = config.timeouts
        self.console = Console(
            nodes=NodeControl(cluster, sessions, drainer),
            drains=DrainControl(
                cluster,
                drainer,
                sessions,
                self._sharing,
                feed,
                domains=tuple(map(domain_key, config.domain)),
                # A client that is closed at the deadline may take that long to be gone, and so may an unfinished login.
                closing_seconds=timeouts.node_close_timeout + timeouts.see_other_host_timeout + 1.0,
                auto=self._automatic,
            ),
            rebalances=RebalanceControl(cluster, rebalances, sessions, drainer, feed, self._automatic),
            pins=PinControl(cluster, assigned.pins, sessions, self._sharing),
            workers=WorkerControl(sessions, feed, operations.restarts),
            sessions=sessions,
            peers=self._sharing,
            files=self,
        )

    # --- tasks

    async def begin(self) -> None:
        """Read the nodes for the first time, which may take etcd its time. Raises :class:`ConfigError`."""
        await self.nodes.begin()

    async def serve(self, services: trio.Nursery, *, room: int) -> None:
        """Begin everything in ``services``; an operator can connect when this returns. ``room``: how many sessions fit.

        Raises :class:`ConfigError` where a socket can't be had.
        """
        for task, run in (
            (Task.SOURCE, self.nodes.watch),
            (Task.RELOAD, self.nodes.read_when_asked),
            (Task.USER_MAP, self.users.watch),
            (Task.CHECK, self.checks.run),
            (Task.SHARING, self._sharing.run),
            (Task.REBALANCE, self._operations.rebalances.watch),
            (Task.VACANCY, Vacancy(self._cluster, self._config.domain).run),
            (Task.FEATURES, self._compare_features_when_changed),
        ):
            start(services, task, run)
        if self._automatic is not None:
            start(services, Task.REBALANCE, self._automatic.run)
        await services.start(serve_control, self._config.control, partial(commands.execute, self.console))
        if self._config.http is not None:
            scraper = MetricsScraper(
                self._cluster,
                self._sessions,
                self._operations.drains,
                FilesRead(self._source.status, self.certificates, self.reloads),
                capacity=room,
                build={"version": __version__, "framer": framer.ENGINE, "relay": engine.ENGINE},
                share=SHARE if self._config.workers == 1 else SHARE_OF_NOBODY,
            )
            status = ProxyStatus(self._cluster, self._sessions, scraper, self._host.is_stopping)
            await services.start(serve_http, self._config.http, status)

    def announce(self, addresses: list[tuple[str, int]], *, room: int) -> None:
        """Log that clients can connect now, at these addresses."""
        announce(self.certificates, addresses, nodes=len(self._cluster), sessions=room)

    def compare_features(self) -> None:
        """Follow changes of nodes; done soon, and once for many changes."""
        self._features_changed.set()

    async def _compare_features_when_changed(self) -> None:
        while self._config.route is Route.LOGIN:
            await self._features_changed.wait()
            self._features_changed = trio.Event()
            began = time.thread_time()
            self._common_features.compare()
            await trio.sleep((time.thread_time() - began) / _COMPARING_SHARE)

    # --- the files

    @property
    def files(self) -> Files:
        """Return what was read last, and was good."""
        return Files(self.certificates.contents, dict(self.dialer.authorities))

    def _send_files(self) -> None:
        self._sessions.send_files(self.files)

    async def reload(self) -> str:
        """Read nodes, user map and certificates again, and check whether the settings are still good. Return what was
        done.

        Raises :class:`ConfigError`; faulty content changes nothing.
        """
        caveat = self._look_at_settings()
        with self.reloads.noted(ReloadPart.CERTIFICATES):
            self._read_certificates()
        try:
            done = await self.nodes.reload_as_asked()
        finally:
            errors = await self._sessions.take_files(self.files)
        if errors:
            raise ConfigError(errors[0])
        await self.users.reload()
        return "; ".join((f"{done}, certificates read again{caveat}", *self.certificates.problems))

    def _read_certificates(self) -> None:
        self.certificates.reload()
        log_certificates(self.certificates)

    def _look_at_settings(self) -> str:
        """Read the certificates. Return which have changed, as the end of a sentence. Raises :class:`ConfigError`."""
        if self._reread is None:
            return ""
        with self.reloads.noted(ReloadPart.SETTINGS):
            changed = self._config.differences(self._reread())
        if not changed:
            return ""
        names = ", ".join(changed)
        emit(_log, "settings-not-taken", level=logging.WARNING, settings=names, reason="they are read at the start")
        return f"; {names}: changed, which takes a restart of the proxy"

    def reload_on_signal(self) -> None:
        """Reload for SIGHUP: errors go to the log."""
        with self.reloads.logged(ReloadPart.SETTINGS):
            self._look_at_settings()
        with self.reloads.logged(ReloadPart.CERTIFICATES):
            self._read_certificates()
            self._send_files()
        self.nodes.ask()
        self.users.reload_soon()
