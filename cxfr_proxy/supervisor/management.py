"""The management of a proxy: the list of nodes and its source, their health, assigned users, the certificates.

It also shares state with other proxies, and offers all of it to the operator: control socket, metrics, reload.
"""

from __future__ import annotations

import logging
import time
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
from cxfr_proxy.admin.http.status import ProxyStatus, StoppingProxy
from cxfr_proxy.admin.metrics.scrape import SHARE, SHARE_OF_NOBODY, FilesRead, MetricsScraper
from cxfr_proxy.admin.nodes import NodeControl
from cxfr_proxy.admin.pins import PinControl
from cxfr_proxy.admin.rebalances import RebalanceControl
from cxfr_proxy.admin.reloads import ReloadPart, Reloads
from cxfr_proxy.admin.workers import WorkerControl
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.cluster.sources.named import open_source
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import Config, RebalanceMode, Route
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay import engine
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.supervisor.auto_rebalance import AutoRebalancer
from cxfr_proxy.supervisor.drains import NodeDrainer
from cxfr_proxy.supervisor.node_list import NodeList
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.supervisor.rolling_restart import RollingRestarts
from cxfr_proxy.supervisor.served_files import ServedFiles
from cxfr_proxy.supervisor.startup_log import announce
from cxfr_proxy.supervisor.user_list import MapFollower, UserList
from cxfr_proxy.supervisor.vacancy import Vacancy
from cxfr_proxy.supervisor.workers import Workers
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


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations that commands start, and the feed by which they are watched."""

    drains: NodeDrainer
    rebalances: Rebalances
    restarts: RollingRestarts
    feed: ChangeFeed


class ManagementHost(MapFollower, StoppingProxy, Protocol):
    """The supervisor, as its management knows it."""


class Management:
    """``workers`` have the sessions, ``operations`` move them.

    ``development`` is the self-signed certificate to use where the settings name none; ``None``: a fresh one.
    ``source`` is where the settings come from; ``None``: from nowhere that could change.

    Raises :class:`ConfigError` where a file of the settings can't be read; the nodes are read by :meth:`begin`.
    """

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        assigned: Assigned,
        workers: Workers,
        operations: Operations,
        host: ManagementHost,
        *,
        development: bytes | None = None,
        source: ConfigSource | None = None,
    ) -> None:
        assert config.backends is not None
        self._config = config
        self._cluster = cluster
        self._workers = workers
        drainer, rebalances, feed = operations.drains, operations.rebalances, operations.feed
        self._operations = operations
        self._host = host
        self._node_source = open_source(config.backends, config.redirection)
        map_file = UserMapFile(config.user_map) if config.user_map is not None else None
        self._config_source = source
        self.reloads = Reloads()
        self.users = UserList(map_file, assigned, cluster, host, self.reloads)
        with self.reloads.noted(ReloadPart.CERTIFICATES):
            certificates = ServerCertificates(config.key_pairs, domains=config.domain, development=development)
            dialer = Dialer(config.timeouts, config.limits, config.node_key_pair)
            dialer.take({}, dialer.certificate.read())
        self.files = ServedFiles(certificates, dialer, workers)
        self.checks = HealthChecks(cluster, partial(probe, dialer), domains=config.domain)
        self._features_changed = trio.Event()
        self._common_features = CommonFeatures(cluster, max_bytes=config.limits.max_element_up)
        auto = config.rebalance is RebalanceMode.AUTO
        self._automatic = AutoRebalancer(cluster, rebalances) if auto else None
        self._sharing = PeerProxies(
            self._node_source, cluster, drainer, assigned.pins, workers, config.transfer_rate, self._automatic
        )
        self.nodes = NodeList(self._node_source, cluster, drainer, self.checks, self.files, self._sharing, self.reloads)
        timeouts = config.timeouts
        self.console = Console(
            nodes=NodeControl(cluster, workers, drainer),
            drains=DrainControl(
                cluster,
                drainer,
                workers,
                self._sharing,
                feed,
                domains=tuple(map(domain_key, config.domain)),
                # A client that is closed at the deadline may take so long to be gone, and so may an unfinished login.
                closing_seconds=timeouts.node_close_timeout + timeouts.see_other_host_timeout + 1.0,
                auto=self._automatic,
            ),
            rebalances=RebalanceControl(cluster, rebalances, workers, drainer, feed, self._automatic),
            pins=PinControl(cluster, assigned.pins, workers, self._sharing),
            workers=WorkerControl(workers, feed, operations.restarts),
            sessions=workers,
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
                self._workers,
                self._operations.drains,
                FilesRead(self._node_source.status, self.files.certificates, self.reloads),
                capacity=room,
                build={"version": __version__, "framer": framer.ENGINE, "relay": engine.ENGINE},
                share=SHARE if self._config.workers == 1 else SHARE_OF_NOBODY,
            )
            status = ProxyStatus(self._cluster, self._workers, scraper, self._host)
            await services.start(serve_http, self._config.http, status)

    def announce(self, addresses: list[tuple[str, int]], paths: list[str], *, room: int) -> None:
        """Log that clients can connect now, at these addresses and unix sockets."""
        announce(
            addresses,
            paths,
            problems=self.files.problems,
            self_signed=self.files.certificates.self_signed,
            nodes=len(self._cluster),
            sessions=room,
        )

    def compare_features(self) -> None:
        """Have the nodes' features compared soon, once for many changes."""
        self._features_changed.set()

    async def _compare_features_when_changed(self) -> None:
        while self._config.route is Route.LOGIN:
            await self._features_changed.wait()
            self._features_changed = trio.Event()
            began = time.thread_time()
            self._common_features.compare()
            await trio.sleep((time.thread_time() - began) / _COMPARING_SHARE)

    # --- the files

    async def reload(self) -> str:
        """Read nodes, user map and certificates again, and check whether the settings are still good. Return what was
        done.

        Raises :class:`ConfigError`; faulty content changes nothing.
        """
        caveat = self._look_at_settings()
        with self.reloads.noted(ReloadPart.CERTIFICATES):
            self.files.reload_certificates()
        try:
            done = await self.nodes.reload_as_asked()
        finally:
            errors = await self.files.take()
        if errors:
            raise ConfigError(errors[0])
        await self.users.reload()
        return "; ".join((f"{done}, certificates read again{caveat}", *self.files.problems))

    def _look_at_settings(self) -> str:
        """Read the settings again. Return which have changed, as the end of a sentence. Raises :class:`ConfigError`."""
        if self._config_source is None:
            return ""
        with self.reloads.noted(ReloadPart.SETTINGS):
            now = self._config_source.read()
            now.check_serving()
            changed = self._config.differences(now)
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
            self.files.reload_certificates()
            self.files.send()
        self.nodes.ask()
        self.users.reload_soon()
