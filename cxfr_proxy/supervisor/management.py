"""The management of a proxy: the list of nodes and its source, their health, assigned users, the certificates.

It also shares state with other proxies, and offers all of it to the operator: control socket, metrics, reload.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from cxfr_proxy import __version__
from cxfr_proxy.admin.commands.table import UPGRADE, execute
from cxfr_proxy.admin.console.clients import ClientControl
from cxfr_proxy.admin.console.console import Console
from cxfr_proxy.admin.console.drains import DrainControl
from cxfr_proxy.admin.console.history import History
from cxfr_proxy.admin.console.nodes import NodeControl
from cxfr_proxy.admin.console.pins import PinControl
from cxfr_proxy.admin.console.rebalances import RebalanceControl
from cxfr_proxy.admin.console.reloads import ReloadPart, Reloads
from cxfr_proxy.admin.console.rolls import RollControl
from cxfr_proxy.admin.console.upgrades import UpgradeControl
from cxfr_proxy.admin.console.workers import WorkerControl
from cxfr_proxy.admin.control.server import ControlDoor
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.admin.http.access import Access
from cxfr_proxy.admin.http.api import HttpApi
from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.http.live import LiveView
from cxfr_proxy.admin.http.server import http_listeners, serve_http
from cxfr_proxy.admin.http.site import Site
from cxfr_proxy.admin.http.status import ProxyStatus, StoppingProxy
from cxfr_proxy.admin.metrics.scrape import SHARE, SHARE_OF_NOBODY, FilesRead, MetricsScraper
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.kept_state import KeptState
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.cluster.sources.named import open_source
from cxfr_proxy.config.current import CurrentSettings
from cxfr_proxy.config.table import Config, RebalanceMode, Route
from cxfr_proxy.errors import FaultList
from cxfr_proxy.net.certificate_files import key_pairs_of
from cxfr_proxy.net.inherited import InheritedSocket, InheritedSockets
from cxfr_proxy.net.node_tls import read_node_certificate
from cxfr_proxy.net.pem import read_pairs
from cxfr_proxy.net.tls import ServerCertificates, show_certificates
from cxfr_proxy.relay import engine
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.supervisor.about import AboutProxy
from cxfr_proxy.supervisor.orders.auto_rebalance import AutoRebalancer
from cxfr_proxy.supervisor.orders.drain_keeper import NodeDrainer
from cxfr_proxy.supervisor.orders.rolls import Rolls
from cxfr_proxy.supervisor.orders.state_keeper import StateKeeper
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.supervisor.reading.node_list import NodeList
from cxfr_proxy.supervisor.reading.reloading import Reloading, SettingsFollower
from cxfr_proxy.supervisor.reading.served_files import ServedFiles
from cxfr_proxy.supervisor.reading.user_list import MapFollower, UserList
from cxfr_proxy.supervisor.service_reports import ServiceReports
from cxfr_proxy.supervisor.startup_log import announce
from cxfr_proxy.supervisor.upgrading.handover import GivenSocket
from cxfr_proxy.supervisor.upgrading.successor import Upgrades
from cxfr_proxy.supervisor.vacancy import Vacancy
from cxfr_proxy.supervisor.workers.rolling_restart import RollingRestarts
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.tasks import Task, start
from cxfr_proxy.transfers.rebalances import Rebalances
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.health_checks import HealthChecks
from cxfr_proxy.upstream.probe import probe
from cxfr_proxy.xmpp.framing import framer

_COMPARING_SHARE: Final = 0.05
"""Share of the time for comparing the nodes' features: with one worker, no client is served meanwhile."""


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations that commands start, the feed by which they are watched, and what of them is kept."""

    drains: NodeDrainer
    rebalances: Rebalances
    restarts: RollingRestarts
    feed: ChangeFeed
    kept: StateKeeper
    upgrades: Upgrades


class ManagementHost(MapFollower, StoppingProxy, SettingsFollower, Protocol):
    """The supervisor, as its management knows it."""


class Management:
    """``workers`` have the sessions, ``operations`` move them; ``manager`` is told of reloads.

    Raises :class:`ConfigError` where a file of the settings can't be read; the nodes are read by :meth:`begin`.
    """

    def __init__(
        self,
        settings: CurrentSettings,
        cluster: Cluster,
        assigned: Assigned,
        workers: Workers,
        operations: Operations,
        manager: ServiceManager,
        host: ManagementHost,
    ) -> None:
        config = settings.config
        assert config.backends is not None
        self._settings = settings
        self._cluster = cluster
        self._workers = workers
        drainer, rebalances, feed = operations.drains, operations.rebalances, operations.feed
        self._operations = operations
        self._host = host
        self._node_source = open_source(config.backends, config.redirection)
        map_file = UserMapFile(config.user_map) if config.user_map is not None else None
        self.reloads = Reloads()
        self.users = UserList(map_file, assigned, cluster, host, self.reloads)
        with self.reloads.noted(ReloadPart.CERTIFICATES):
            faults = FaultList()
            with faults:
                shown = show_certificates(read_pairs(key_pairs_of(config)), domains=config.domain)
            with faults:
                dialer = Dialer(config.timeouts, config.limits, read_node_certificate(config.node_key_pair))
            with faults:
                http_certificate = HttpCertificate(config)
            faults.check()
        with self.reloads.noted(ReloadPart.HTTP_TOKENS):
            self._access = Access(config, http_certificate)
        self.files = ServedFiles(settings, ServerCertificates(shown), dialer, workers)
        self.checks = HealthChecks(cluster, partial(probe, dialer), domains=config.domain)
        self._features_changed = trio.Event()
        self._common_features = CommonFeatures(cluster, max_bytes=config.limits.max_element_up)
        self._auto_rebalance = AutoRebalancer(cluster, rebalances, active=config.rebalance is RebalanceMode.AUTO)
        self._vacancy = Vacancy(cluster, config.domain)
        self._peers = PeerProxies(
            self._node_source, cluster, drainer, assigned.pins, workers, operations.kept, self._auto_rebalance
        )
        self.nodes = NodeList(self._node_source, cluster, drainer, self.checks, self.files, self._peers, self.reloads)
        self.reloading = Reloading(
            settings, self.files, self.nodes, self.users, self._access, self.reloads, manager, self
        )
        self._door = ControlDoor(config.control)
        self._inherited_http: list[InheritedSocket] = []
        self._http: list[trio.SocketListener] = []
        self._operating = trio.CancelScope()
        self._reports = ServiceReports(manager, cluster, workers)
        self.about = AboutProxy(
            settings, cluster, workers, self._peers, self.files.certificates, http_certificate, host
        )
        self.history = History(workers)
        self._drains = DrainControl(cluster, drainer, workers, self._peers, feed, self._auto_rebalance)
        self._set_up_drains(config)
        self._rolls = Rolls(cluster, self._drains, drainer, rebalances, self._peers, feed, operations.kept)
        self.console = Console(
            nodes=NodeControl(cluster, workers, drainer),
            drains=self._drains,
            rolls=RollControl(self._rolls, cluster, self._drains, drainer, workers, feed),
            rebalances=RebalanceControl(cluster, rebalances, workers, drainer, feed, self._auto_rebalance),
            pins=PinControl(cluster, assigned.pins, workers, self._peers),
            workers=WorkerControl(workers, feed, operations.restarts),
            upgrades=UpgradeControl(operations.upgrades, feed),
            clients=ClientControl(cluster, workers),
            sessions=workers,
            peers=self._peers,
            files=self.reloading,
            settings=self.reloading,
            about=self.about,
            history=self.history,
            state=operations.kept,
        )

    # --- settings

    def settings_taken(self, config: Config) -> None:
        """Go by these from now on; see :class:`~.reading.reloading.SettingsFollower`."""
        self._set_up_drains(config)
        self.checks.set_domains(config.domain)
        self._vacancy.set_domains(config.domain)
        self._common_features.set_max_bytes(config.limits.max_element_up)
        self._auto_rebalance.active = config.rebalance is RebalanceMode.AUTO
        self.compare_features()
        self._host.settings_taken(config)

    def _set_up_drains(self, config: Config) -> None:
        timeouts = config.timeouts
        self._drains.domains = tuple(map(domain_key, config.domain))
        # A client that is closed at the deadline may take so long to be gone, and so may an unfinished login.
        self._drains.closing_seconds = timeouts.node_close_timeout + timeouts.see_other_host_timeout + 1.0

    # --- tasks

    async def begin(self) -> None:
        """Read what was kept, and the nodes for the first time, which may take etcd its time. Raises
        :class:`ConfigError`."""
        self._operations.kept.load()
        await self.nodes.begin()
        self._rolls.load()

    async def begin_beside(self, state: KeptState) -> None:
        """Read the nodes, while another process has what is kept, and goes on with a roll. Raises
        :class:`ConfigError`."""
        self._operations.kept.check()
        self._operations.kept.state = state
        await self.nodes.begin()

    def have_state(self) -> None:
        """Have the state file alone. Raises :class:`ConfigError` where another proxy has it.

        Its lock stands beside the control socket, in a directory that may have to be made, and :meth:`begin` needs what
        it keeps long before that. So a proxy that was about to end may have written once more in between.
        """
        self._operations.kept.lock()
        before = self._operations.kept.load_again()
        if before is not None:
            self._peers.take_over(before)
            self._rolls.load()

    def serve(self, services: trio.Nursery) -> None:
        """Begin everything in ``services`` that needs no operator."""
        for task, run in (
            (Task.SOURCE, self.nodes.watch),
            (Task.RELOAD, self.reloading.run),
            (Task.RELOAD, self.reloading.watch),
            (Task.USER_MAP, self.users.watch),
            (Task.CHECK, self.checks.run),
            (Task.HISTORY, self.history.run),
            (Task.REBALANCE, self._operations.rebalances.watch),
            (Task.VACANCY, self._vacancy.run),
            (Task.FEATURES, self._compare_features_when_changed),
            (Task.REBALANCE, self._auto_rebalance.run),
        ):
            start(services, task, run)

    def inherit(self, sockets: InheritedSockets) -> None:
        """Use those of the control socket and HTTP, where they are there."""
        config = self._settings.config
        control = sockets.take_path(str(config.control))
        self._door = ControlDoor(config.control, control[0].listening if control else None)
        self._inherited_http = sockets.take(config.http) if config.http is not None else []

    def bind(self) -> None:
        """Have the sockets on which operators will connect, before anything depends on them. Raises
        :class:`ConfigError`; the caller calls :meth:`close` all the same."""
        self._door.bind()
        config = self._settings.config
        if config.http is not None:
            self._http = http_listeners(config.http, self._inherited_http)

    def close(self) -> None:
        """Close those of them that are not served."""
        self._door.close()
        for listener in self._http:
            listener.socket.close()

    async def open(self, services: trio.Nursery, *, room: int) -> None:
        """Begin in ``services`` what only one process may do; an operator can connect when this returns. ``room``: how
        many sessions fit.

        Raises :class:`ConfigError`, alone or in a group, where an inherited socket has lost its file.
        """
        await services.start(self._door.serve, partial(execute, self.console))
        await services.start(self._operate, room)

    async def _operate(self, room: int, *, task_status: trio.TaskStatus[None]) -> None:
        with self._operating:
            async with trio.open_nursery() as services:
                for task, run in (
                    (Task.ROLL, self._rolls.run),
                    (Task.STATE, self._operations.kept.run),
                    (Task.SHARING, self._peers.run),
                    (Task.SERVICE_MANAGER, self._reports.run),
                ):
                    start(services, task, run)
                await self._serve_http(services, room)
                task_status.started()

    async def _serve_http(self, services: trio.Nursery, room: int) -> None:
        config = self._settings.config
        if config.http is not None:
            scraper = MetricsScraper(
                self._cluster,
                self._workers,
                self._operations.drains,
                FilesRead(self._node_source.status, self.files.certificates, self._access.certificate, self.reloads),
                capacity=room,
                build={"version": __version__, "framer": framer.ENGINE.chosen, "relay": engine.ENGINE.chosen},
                share=SHARE if config.workers == 1 else SHARE_OF_NOBODY,
            )
            status = ProxyStatus(self._cluster, self._workers, scraper, self._host)
            api = HttpApi(self.console, self._access, LiveView(self.console, self._operations.feed))
            await services.start(serve_http, self._http, Site(status, api), self._access.certificate)

    # --- another process takes the place of this one, or this one that of another

    def given(self) -> list[GivenSocket]:
        """Return the sockets on which operators connect."""
        descriptors = [each.socket.fileno() for each in self._http]
        if self._door.listening is not None:
            descriptors.append(self._door.listening.fileno())
        return [GivenSocket(each) for each in descriptors]

    def give_away(self) -> None:
        """Take no more orders: another process does."""
        self._auto_rebalance.active = False
        self._operations.rebalances.stop()
        self._operating.cancel()
        self._door.give_away(staying=UPGRADE)

    async def wait_closed(self) -> None:
        """Wait until whoever watches the upgrade has been told of its end."""
        await self._door.wait_closed()

    def checks_failed(self) -> dict[str, int]:
        """Return how many checks have failed, by node."""
        return {node.name: node.checks_failed for node in self._cluster if node.checks_failed}

    def take_over(self, before: KeptState, checks_failed: Mapping[str, int]) -> None:
        """Go on with what is kept by now; what was kept ``before`` holds already. Count on from the checks that had
        failed."""
        self._peers.take_over(before)
        self._rolls.go_on()
        for name, failed in checks_failed.items():
            if name in self._cluster:
                self._cluster.get(name).checks_failed += failed

    def announce(self, addresses: list[tuple[str, int]], paths: list[str], *, room: int) -> None:
        """Log that clients can connect now, at these addresses and unix sockets."""
        self.about.serves(addresses, paths, room=room)
        announce(
            addresses,
            paths,
            problems=(*self.files.problems, *self._access.certificate.problems),
            self_signed=self.files.certificates.shown.self_signed,
            nodes=len(self._cluster),
            sessions=room,
        )

    def compare_features(self) -> None:
        """Have the nodes' features compared soon, once for many changes."""
        self._features_changed.set()

    async def _compare_features_when_changed(self) -> None:
        while True:
            await self._features_changed.wait()
            self._features_changed = trio.Event()
            began = time.thread_time()
            if self._settings.config.route is Route.LOGIN:
                self._common_features.compare()
            await trio.sleep((time.thread_time() - began) / _COMPARING_SHARE)
