"""Everything of a worker that needs settings, made when they are known."""

from __future__ import annotations

import os
from typing import Final

from cxfr_proxy import events
from cxfr_proxy.cluster.assigned import Assigned
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.config.table import Config
from cxfr_proxy.ipc.messages import Nodes, NodeState, Setup
from cxfr_proxy.ipc.questions import Files, TakeSettings
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.node_tls import NodeCertificate
from cxfr_proxy.net.tls import ServerCertificates, show_certificates
from cxfr_proxy.relay.connection_rules import ConnectionRules
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.admission import Admission
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.router import Router
from cxfr_proxy.worker.mirror import Mirror
from cxfr_proxy.worker.ports import GrantedTokens, HealthReporter
from cxfr_proxy.worker.reporter import Reporter
from cxfr_proxy.worker.reports import CountReports, SessionReports
from cxfr_proxy.worker.service import Service
from cxfr_proxy.worker.time_share import TimeShare
from cxfr_proxy.worker.user_endpoint import UserEndpoint
from cxfr_proxy.worker.user_map import ReceivedUserMap

_LISTING_SHARE: Final = 0.25
"""Of the time at most, for listing sessions to operators."""


class WorkerParts:
    """Everything that needs settings, made when they are known. Raises :class:`ConfigError`."""

    def __init__(self, setup: Setup, reporter: Reporter) -> None:
        config, files = setup.taking.config, setup.taking.files
        self._settings_version = setup.taking.version
        self.number = setup.number
        self.workers = setup.workers
        self.cluster = Cluster()
        self.mirror = Mirror(self.cluster)
        self.registry = Registry(
            reporter,
            redirect_window=config.redirect_window,
            client_software=ClientSoftware(config.cxfr_allow, config.cxfr_deny),
            first_id=setup.first_id,
            id_step=setup.workers,
        )
        self.pace = GrantedTokens(reporter)
        self.dialer = Dialer(config.timeouts, config.limits, NodeCertificate(content=files.node_certificate))
        self.dialer.take(files.authorities)
        self.certificates = ServerCertificates(
            show_certificates(files.certificates, domains=config.domain, development=_development(files))
        )
        self.assigned = Assigned()
        self.users = UserEndpoint(self.assigned, self.cluster)
        self._use_endpoint(config)
        self.received_map = ReceivedUserMap()
        self.placement = Placement(self.cluster, config.policies, self.assigned.node_of)
        self.mover = Mover(
            self.cluster,
            self.registry,
            self.placement,
            self.pace,
            self.dialer.own_logins,
            on_node_down=config.on_node_down,
            migrates=config.migrates,
        )
        self.listing = TimeShare(_LISTING_SHARE)
        health = HealthReporter(reporter)
        self.admission = Admission(self._share_of_logins(config), config.timeouts.admission_timeout)
        router = Router(
            cluster=self.cluster,
            registry=self.registry,
            placement=self.placement,
            dialer=self.dialer,
            checks=health,
            admission=self.admission,
            users=self.users,
        )
        sessions = SessionReports(reporter, self.registry)
        self.service = Service(
            config,
            registry=self.registry,
            mover=self.mover,
            router=router,
            rules=ConnectionRules(config, self.cluster, self.certificates),
            room=ConnectionLimit(setup.capacity),
            reports=health,
            observer=sessions,
        )
        self.reports = CountReports(config, setup.workers, reporter, self.registry, self.mover, self.service, sessions)

    def _share_of_logins(self, config: Config) -> float | None:
        """Return how many logins a second this worker admits to each node. The kernel spreads connections evenly over
        the workers, so each admits its share."""
        logins = config.logins_per_second
        return logins / self.workers if logins is not None else None

    def _use_endpoint(self, config: Config) -> None:
        self.users.use(config.user_lookup, timeout=config.timeouts.lookup_timeout, cache=config.lookup_cache)

    @property
    def leaving_pid(self) -> int | None:
        """The id of this process, if another worker has taken over; ``None``: none has."""
        return os.getpid() if self.service.leaving else None

    def take_settings(self, taking: TakeSettings) -> None:
        """Use these from now on, or only try whether they could be used. Raises :class:`ConfigError`, and then nothing
        has changed."""
        config, files = taking.config, taking.files
        shown = self.certificates.load(files.certificates, domains=config.domain, development=_development(files))
        if taking.only_try or taking.version < self._settings_version:
            return
        # Nothing below can fail: from here on all of it is taken.
        self._settings_version = taking.version
        events.adjust(config.log_format, config.log_level)
        self.certificates.use(shown)
        self.dialer.use(config.timeouts, config.limits, NodeCertificate(content=files.node_certificate))
        self.dialer.take(files.authorities)
        self.registry.memory.set_redirect_window(config.redirect_window)
        self.registry.memory.client_software.set_lists(config.cxfr_allow, config.cxfr_deny)
        self.placement.set_policies(config.policies)
        self.mover.set_on_node_down(config.on_node_down)
        self.mover.set_migrates(config.migrates)
        self.admission.set_rate(self._share_of_logins(config), config.timeouts.admission_timeout)
        self._use_endpoint(config)
        self.service.take_settings(config, ConnectionRules(config, self.cluster, self.certificates))
        self.reports.take_settings(config)

    def apply_nodes(self, piece: Nodes) -> bool:
        """Take over what has changed about the nodes; those that are leaving are to be emptied. Return whether that
        was all of it."""
        batch = self.mirror.apply(piece)
        if batch is None:
            return False
        for name, state in batch.changed.items():
            if name in self.cluster:
                self._follow_node(self.cluster.get(name), state)
        for name in batch.forgotten:
            self.mover.undrain(name)
        self.mover.look_again()
        self.mover.follow_rebalance(batch.rebalance)
        return True

    def _follow_node(self, node: Node, state: NodeState) -> None:
        if not node.leaving:
            self.mover.undrain(node.name)
        self.mover.follow_health(node)
        if node.leaving:
            self.mover.follow(node.name, state.stage, late=state.late)


def _development(files: Files) -> bytes | None:
    return files.development.encode() if files.development is not None else None
