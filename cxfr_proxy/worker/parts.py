"""Everything of a worker that needs settings, made when they are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.ipc.messages import (
    Gone,
    Lost,
    Message,
    Moved,
    Nodes,
    Remembered,
    Returned,
    SessionResumable,
    Setup,
    SoftwareLearned,
    Stayed,
    TransferEnded,
    UserRedirected,
    WorkerCounts,
    WorkerReport,
)
from cxfr_proxy.net.connection_limit import ConnectionLimit
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay.connection_rules import ConnectionRules
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session import commands
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.memory import RESUMABLE_SECONDS
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import may_come_back, sent_to, user_of
from cxfr_proxy.transfers.statistics import past_transfer
from cxfr_proxy.upstream.admission import Admission
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.upstream.router import Router
from cxfr_proxy.worker.mirror import Mirror
from cxfr_proxy.worker.ports import GrantedTokens, HealthReporter, MoveAnnouncer
from cxfr_proxy.worker.service import Service, new_assigned, new_lookup
from cxfr_proxy.worker.session_changes import SessionChanges
from cxfr_proxy.worker.user_map import ReceivedUserMap
from cxfr_proxy.xmpp.stream_management import Counters


class WorkerParts:
    """Everything that needs settings, made when they are known. Raises :class:`ConfigError`."""

    def __init__(self, setup: Setup, post: Callable[[Message], None], changed: Callable[[], None]) -> None:
        config = setup.config
        pem = setup.development_certificate
        self.config = config
        self.workers = setup.workers
        self.cluster = Cluster()
        self.mirror = Mirror(self.cluster)
        self.registry = Registry(
            redirect_window=config.redirect_window,
            client_software=ClientSoftware(config.cxfr_allow, config.cxfr_deny),
            first_id=setup.first_id,
            id_step=setup.workers,
        )
        self.registry.changed = changed
        self._roll = SessionChanges()
        self.registry.added, self.registry.removed = self._roll.note, self._roll.note_end
        self.pace = GrantedTokens(post, changed)
        self.dialer = Dialer(config.timeouts, config.limits)
        self.dialer.take(setup.files.authorities)
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
            announcer=MoveAnnouncer(post, changed),
        )
        reports = HealthReporter(post)
        logins = config.logins_per_second
        router = Router(
            cluster=self.cluster,
            registry=self.registry,
            placement=self.placement,
            dialer=self.dialer,
            checks=reports,
            # The kernel spreads connections evenly over the workers, so each admits its share.
            admission=Admission(
                logins / setup.workers if logins is not None else None, config.timeouts.admission_timeout
            ),
            users=new_lookup(config, self.assigned, self.cluster),
        )
        self.service = Service(
            config,
            registry=self.registry,
            mover=self.mover,
            router=router,
            rules=ConnectionRules(config, self.cluster, self.certificates),
            room=ConnectionLimit(setup.capacity),
            reports=reports,
            observer=self._observe,
        )
        self._post = post
        self._changed = changed
        self._reported: dict[str, NodeCounts] = {}
        self._shifted: dict[str, tuple[Counters, str]] = {}  # by resumable id, with the client's address

    def _observe(self, relayed: LiveSession, event: commands.Event) -> None:
        """Report what other workers may need, since the client may come back to one of them, and what is counted for
        all."""
        registry, full_jid, user = self.registry, relayed.session.full_jid, user_of(relayed.session)
        address = relayed.client_address
        if isinstance(event, commands.BoundTo):
            self._roll.note(relayed)
        match event:
            case commands.BoundTo() if full_jid is not None and registry.memory.has_returned(relayed.id):
                self._post(Returned(full_jid, address, wrong=registry.memory.guard.is_wrong(full_jid)))
            case commands.Redirected() if user is not None:
                self._post(UserRedirected(user))
            case commands.Transferred(order):
                self._post(TransferEnded(past_transfer(relayed.session, event), relayed.id, full_jid))
                if sent_to(event) is None and order.place is not None and full_jid is not None:
                    self._post(Stayed(full_jid, address, order.place))
                elif order.place is not None and relayed.session.resumable_id is not None:
                    self._report_resumable(relayed.session.resumable_id, address)
            case commands.Resumable(stream_management_id):
                self._report_resumable(stream_management_id, address)
            case commands.Learned(caps, knows_cxfr):
                self._post(SoftwareLearned(caps, knows_cxfr))
            case commands.Shifted(counters):
                if relayed.session.resumable_id is not None:
                    self._shifted[relayed.session.resumable_id] = counters, address
            case commands.Ended(reason):
                self._report_end(relayed, reason)
        self._changed()

    def _report_end(self, relayed: LiveSession, reason: commands.Reason) -> None:
        session = relayed.session
        if may_come_back(session, reason) and not self.registry.memory.was_sent(relayed.id):
            self._post(Lost(user_of(session), relayed.client_address, session.node))
        if session.resumable_id is not None:
            self._post(Gone(session.resumable_id))

    def _report_resumable(self, stream_management_id: str, address: str) -> None:
        known = self.registry.memory.resumption(stream_management_id)
        if known is not None:
            self._post(SessionResumable(stream_management_id, known.without_equal_counts(), address))

    def report_shifted(self) -> None:
        """Report a session whose counts have changed. A stream that was resumed by another one meanwhile has no say
        any more."""
        shifted, self._shifted = self._shifted, {}
        for stream_management_id, (counters, address) in shifted.items():
            known = self.registry.memory.resumption(stream_management_id)
            if known is not None and known.counters is counters:
                self._report_resumable(stream_management_id, address)

    def report(self) -> None:
        """Report what is new, and the counts."""
        self.report_shifted()
        self.call_roll()
        self._post(WorkerReport(self.counts()))

    def call_roll(self) -> None:
        """Report which sessions have come and gone."""
        for called in self._roll.call(trio.current_time()):
            self._post(called)

    def counts(self) -> WorkerCounts:
        registry, limit = self.registry, self.config.limits.connections_per_address
        return WorkerCounts(
            sessions=len(registry),
            connections=registry.connections,
            last_id=registry.last_id,
            nodes=self._counts_of_nodes(),
            awaited=dict(registry.memory.awaited(trio.current_time())),
            waiting={
                name: drain.waiting_reason
                for name, drain in self.mover.drains.items()
                if drain.waiting_reason is not None
            },
            # Addresses with few connections can't reach the limit, so they are not worth reporting.
            addresses=registry.busy_addresses(max(1, limit // (4 * self.workers))) if limit is not None else {},
            totals=self.service.totals,
            rebalance=self.mover.rebalance_counts(),
        )

    def _counts_of_nodes(self) -> dict[str, NodeCounts]:
        """Return the counts of nodes that have changed since the last report."""
        touched = self.registry.counts.take_touched()
        news = {name: replace(counts) for name, counts in touched.items() if counts != self._reported.get(name)}
        self._reported |= news
        return news

    def remember(self, remembered: Remembered) -> None:
        """Take over what others saw before this worker began."""
        now = trio.current_time()
        for user, seconds_ago in remembered.redirected.items():
            self.registry.memory.remember_redirected(user, now - seconds_ago)
        for stream_management_id, resumption in remembered.resumable.items():
            self.registry.memory.remember_resumable(stream_management_id, resumption)
        for moved in remembered.moved:
            self.remember_moved(moved)
        for caps, knows_cxfr in remembered.learned.items():
            self.registry.memory.client_software.learn(caps, knows_cxfr)
        for lost in remembered.lost:
            self.remember_lost(lost)

    def remember_lost(self, lost: Lost) -> None:
        at = trio.current_time() - lost.seconds_ago
        self.registry.memory.returning_clients.leaves(
            lost.user, lost.address, lost.node, at=at, seconds=RESUMABLE_SECONDS
        )

    def remember_moved(self, moved: Moved) -> None:
        at = trio.current_time() - moved.seconds_ago
        self.registry.memory.about_to_be_asked(moved.full_jid, moved.address, moved.node, at)

    def note_returned(self, returned: Returned) -> None:
        """Note that a client that was moved is with another worker now."""
        self.registry.memory.returned(returned.full_jid, returned.address, None, trio.current_time())
        if returned.wrong:
            self.registry.memory.guard.landed_wrong(returned.full_jid, self.cluster.placement_basis())

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
