"""Everything of a worker that needs settings, made when they are known."""

from __future__ import annotations

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.ipc.messages import Nodes, Setup
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay.connection_rules import ConnectionRules
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.upstream.admission import Admission
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.router import Router
from cxfr_proxy.worker.mirror import Mirror
from cxfr_proxy.worker.ports import GrantedTokens, HealthReporter
from cxfr_proxy.worker.reporter import Reporter
from cxfr_proxy.worker.reports import CountReports, SessionReports
from cxfr_proxy.worker.service import Service, new_assigned, new_lookup
from cxfr_proxy.worker.user_map import ReceivedUserMap


class WorkerParts:
    """Everything that needs settings, made when they are known. Raises :class:`ConfigError`."""

    def __init__(self, setup: Setup, reporter: Reporter) -> None:
        config = setup.config
        pem = setup.development_certificate
        self.config = config
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
        self.dialer = Dialer(config.timeouts, config.limits, config.node_key_pair)
        self.dialer.take(setup.files.authorities, setup.files.node_certificate)
        self.certificates = ServerCertificates(
            config.key_pairs,
            domains=config.domain,
            development=pem.encode() if pem is not None else None,
            contents=setup.files.certificates,
        )
        self.assigned = new_assigned(config)
        self.received_map = ReceivedUserMap()
        self.placement = Placement(self.cluster, config.policies, self.assigned.node_of)
        self.mover = Mover(
            self.cluster,
            self.registry,
            self.placement,
            self.pace,
            on_node_down=config.on_node_down,
            migrates=config.node_certificate is not None,
        )
        health = HealthReporter(reporter)
        logins = config.logins_per_second
        router = Router(
            cluster=self.cluster,
            registry=self.registry,
            placement=self.placement,
            dialer=self.dialer,
            checks=health,
            # The kernel spreads connections evenly over the workers, so each admits its share.
            admission=Admission(
                logins / setup.workers if logins is not None else None, config.timeouts.admission_timeout
            ),
            users=new_lookup(config, self.assigned, self.cluster),
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

    def apply_nodes(self, piece: Nodes) -> bool:
        """Take over what has changed about the nodes; those that are leaving are to be emptied. Return whether that
        was all of it."""
        batch = self.mirror.apply(piece)
        if batch is None:
            return False
        for name, stage in batch.changed.items():
            if name in self.cluster:
                self._follow_node(self.cluster.get(name), stage)
        for name in batch.forgotten:
            self.mover.undrain(name)
        self.mover.look_again()
        self.mover.follow_rebalance(batch.rebalance)
        return True

    def _follow_node(self, node: Node, stage: Stage) -> None:
        if not node.leaving:
            self.mover.undrain(node.name)
        self.mover.follow_health(node)
        if node.leaving:
            self.mover.follow(node.name, stage)
