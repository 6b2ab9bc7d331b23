"""One process that serves clients for a supervisor.

It is a fresh interpreter that inherits its listening sockets and one end of a :class:`~.channel.Channel`; all else it
is told over that, settings and nodes included. It decides nothing that is the whole proxy's: nodes, health, drains and
pace are the supervisor's, and what its sessions learn about nodes it reports.

Signals of an operator are the supervisor's too, and ignored here (service managers send them to every process). A
worker whose supervisor is gone moves its clients as it would at a stop, and ends.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.channel import Channel
from cxfr_proxy.ipc.messages import (
    VERSION,
    Announced,
    Answer,
    Ask,
    BadMessage,
    Elsewhere,
    Files,
    Gone,
    Grant,
    Hello,
    Leave,
    Listed,
    Listing,
    Lost,
    Message,
    Moved,
    MoveUser,
    Nodes,
    Pinned,
    PinnedBefore,
    Remembered,
    Returned,
    SessionResumable,
    Setup,
    SoftwareLearned,
    Stayed,
    Stop,
    Stopped,
    TakeFiles,
    TransferEnded,
    UserRedirected,
    WorkerCounts,
    WorkerReport,
)
from cxfr_proxy.net.tls import ServerCertificates
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.session import commands
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.tasks import Task, isolated, start, start_once
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.memory import RESUMABLE_SECONDS
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.registry import Registry
from cxfr_proxy.transfers.relayed import may_come_back, sent_to, user_of
from cxfr_proxy.transfers.statistics import past_transfer
from cxfr_proxy.upstream.dial import Dialer
from cxfr_proxy.worker.mirror import Mirror
from cxfr_proxy.worker.ports import GrantedTokens, HealthReporter, MoveAnnouncer
from cxfr_proxy.worker.queries import (
    forecast,
    rebalance_forecast,
    session_rows,
    session_states,
    transfer_rows,
)
from cxfr_proxy.worker.service import Service, new_assigned
from cxfr_proxy.worker.session_changes import SessionChanges
from cxfr_proxy.worker.user_map import ToldUserMap
from cxfr_proxy.xmpp.stream_management import Counters

ROWS_AT_A_TIME: Final = 100
"""Rows made between two checkpoints: about a millisecond, in which no session is served."""
_REPORT_SECONDS: Final = 0.005
"""Between two reports at least; the first one behind a pause is sent at once."""
_REPORT_SHARE: Final = 0.02
"""Of the time, for making reports: those of many nodes and addresses are sent less often."""
_AWAITING_SECONDS: Final = 0.1
"""Between two reports while clients are awaited."""
_WORDS_SECONDS: Final = 1.0
"""For the last words, at the end."""
_FAULT: Final = "it met a fault, which the log has"

_log = logging.getLogger(__name__)


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
        self.told_list = ToldUserMap()
        self.placement = Placement(self.cluster, config.policies, self.assigned.node_of)
        self.mover = Mover(
            self.cluster,
            self.registry,
            self.placement,
            self.pace,
            on_node_down=config.on_node_down,
            announcer=MoveAnnouncer(post, changed),
        )
        self.service = Service(
            config,
            cluster=self.cluster,
            registry=self.registry,
            placement=self.placement,
            assigned=self.assigned,
            mover=self.mover,
            dialer=self.dialer,
            checks=HealthReporter(post),
            certificates=self.certificates,
            observer=self._observe,
            share=1.0 / setup.workers,
        )
        self._post = post
        self._changed = changed
        self._reported: dict[str, NodeCounts] = {}
        self._shifted: dict[str, tuple[Counters, str]] = {}  # not told yet, and the client's address, by resumable id

    def _observe(self, relayed: LiveSession, event: commands.Event) -> None:
        """Tell what other workers may need: its client may come back to one of them. And what is counted for all."""
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
                    self._tell_resumable(relayed.session.resumable_id, address)
            case commands.Resumable(stream_management_id):
                self._tell_resumable(stream_management_id, address)
            case commands.Learned(caps, knows_cxfr):
                self._post(SoftwareLearned(caps, knows_cxfr))
            case commands.Shifted(counters):
                if relayed.session.resumable_id is not None:
                    self._shifted[relayed.session.resumable_id] = counters, address
            case commands.Ended(reason):
                self._tell_end(relayed, reason)
        self._changed()

    def _tell_end(self, relayed: LiveSession, reason: commands.Reason) -> None:
        session = relayed.session
        if may_come_back(session, reason) and not self.registry.memory.was_sent(relayed.id):
            self._post(Lost(user_of(session), relayed.client_address, session.node))
        if session.resumable_id is not None:
            self._post(Gone(session.resumable_id))

    def _tell_resumable(self, stream_management_id: str, address: str) -> None:
        known = self.registry.memory.resumption(stream_management_id)
        if known is not None:
            self._post(SessionResumable(stream_management_id, known.without_equal_counts(), address))

    def tell_shifted(self) -> None:
        """Whose counts have changed. A stream that was resumed by another one meanwhile has no say any more."""
        shifted, self._shifted = self._shifted, {}
        for stream_management_id, (counters, address) in shifted.items():
            known = self.registry.memory.resumption(stream_management_id)
            if known is not None and known.counters is counters:
                self._tell_resumable(stream_management_id, address)

    def call_roll(self) -> None:
        """Say which sessions have come and gone."""
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
            # What is too little to matter for the limit is not worth the words.
            addresses=registry.busy_addresses(max(1, limit // (4 * self.workers))) if limit is not None else {},
            totals=self.service.totals,
            rebalance=self.mover.rebalance_counts(),
        )

    def _counts_of_nodes(self) -> dict[str, NodeCounts]:
        """Of those nodes of which others were reported."""
        touched = self.registry.counts.take_touched()
        news = {name: replace(counts) for name, counts in touched.items() if counts != self._reported.get(name)}
        self._reported |= news
        return news

    def remember(self, told: Remembered) -> None:
        """What others saw before this worker began."""
        now = trio.current_time()
        for user, seconds_ago in told.redirected.items():
            self.registry.memory.remember_redirected(user, now - seconds_ago)
        for stream_management_id, resumption in told.resumable.items():
            self.registry.memory.remember_resumable(stream_management_id, resumption)
        for moved in told.moved:
            self.remember_moved(moved)
        for caps, knows_cxfr in told.learned.items():
            self.registry.memory.client_software.learn(caps, knows_cxfr)
        for lost in told.lost:
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
        """A client that was moved is with another worker now."""
        self.registry.memory.returned(returned.full_jid, returned.address, None, trio.current_time())
        if returned.wrong:
            self.registry.memory.guard.landed_wrong(returned.full_jid, self.cluster.placement_basis())

    def follow(self, piece: Nodes) -> bool:
        """What has changed about the nodes; those that are leaving are to be emptied. Whether that was all of it."""
        told = self.mirror.hear(piece)
        if told is None:
            return False
        for name, stage in told.changed.items():
            if name in self.cluster:
                self._follow_node(self.cluster.get(name), stage)
        for name in told.forgotten:
            self.mover.undrain(name)
        self.mover.look_again()
        self.mover.follow_rebalance(told.rebalance)
        return True

    def _follow_node(self, node: Node, stage: Stage) -> None:
        if not node.leaving:
            self.mover.undrain(node.name)
        self.mover.follow_health(node)
        if node.leaving:
            self.mover.follow(node.name, stage)


class Worker:
    """``channel`` leads to the supervisor. ``configured`` is called with the settings before anything is done."""

    def __init__(
        self, channel: Channel, listeners: Sequence[trio.SocketListener], configured: Callable[[Config], None]
    ) -> None:
        self._channel = channel
        self._listeners = listeners
        self._configured = configured
        self.parts: WorkerParts | None = None
        """What serves, once the settings are known."""
        self._ready = trio.Event()
        self._dirty = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._fault: ConfigError | None = None

    async def run(self) -> None:
        """Until the supervisor says stop, or is gone, and everybody was moved. Raises :class:`ConfigError`."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._listen)
            await self._ready.wait()
            if self.parts is not None:
                start(self._nursery, Task.REPORT, self._report)
                self._nursery.start_soon(self._serve, self.parts)
        if self._fault is not None:
            raise self._fault

    async def _serve(self, parts: WorkerParts) -> None:
        assert self._nursery is not None
        self._channel.post(Hello(VERSION, os.getpid()))
        cut = await parts.service.run(self._listeners)
        self._post_report(parts)
        self._channel.post(Stopped(cut))
        with trio.move_on_after(_WORDS_SECONDS):
            await self._channel.flush()
        self._nursery.cancel_scope.cancel()

    async def _listen(self) -> None:
        try:
            await self._channel.run(self._receive)
        except BadMessage as exc:
            emit(_log, "channel-fault", level=logging.ERROR, reason=str(exc))
        except ConfigError as exc:
            self._fault = exc
        self._ready.set()
        if self.parts is not None and not self.parts.service.stopping:
            emit(_log, "supervisor-gone", level=logging.ERROR, sessions=len(self.parts.registry))
            self.parts.service.stop()

    # --- what the supervisor says

    def _receive(self, message: Message) -> None:
        if isinstance(message, Setup):
            self._set_up(message)
            return
        parts = self.parts
        if parts is None:
            raise BadMessage(f"{type(message).__name__} before the settings")
        with isolated(Task.MESSAGE, (BadMessage,), message=type(message).__name__):
            self._obey(parts, message)

    def _obey(self, parts: WorkerParts, message: Message) -> None:
        match message:
            case PinnedBefore(pins):
                for user, node in pins.items():
                    parts.assigned.pins.set(user, node)
            case Nodes():
                if parts.follow(message):
                    self._ready.set()
            case Pinned(user, node):
                parts.assigned.pins.set(user, node)
            case Listed():
                listed = parts.told_list.hear(message)
                if listed is not None:
                    parts.assigned.listed = listed
            case Grant(tokens):
                parts.pace.grant(tokens)
            case Elsewhere(sessions, addresses, sessions_before):
                parts.registry.note_elsewhere(sessions)
                parts.registry.sessions_before.update(sessions_before)
                parts.registry.addresses_elsewhere = addresses
            case Remembered():
                parts.remember(message)
            case UserRedirected(user):
                parts.registry.memory.remember_redirected(user, trio.current_time())
            case SessionResumable(stream_management_id, resumption):
                parts.registry.memory.remember_resumable(stream_management_id, resumption)
            case Lost():
                parts.remember_lost(message)
            case Moved():
                parts.remember_moved(message)
            case Announced(session):
                parts.mover.announced(session)
            case Stayed(full_jid, address, node):
                parts.registry.memory.stayed(full_jid, address, node)
            case Returned():
                parts.note_returned(message)
            case SoftwareLearned(caps, knows_cxfr):
                parts.registry.memory.client_software.learn(caps, knows_cxfr)
            case TakeFiles(request, files):
                self._take(parts, request, files)
            case Ask():
                self._answer(parts, message)
            case MoveUser(request, jid, node):
                moved = parts.mover.move(jid, node) if node in parts.cluster else 0
                self._channel.post(Answer(request, (), (), last=True, error=None, moved=moved))
            case Leave():
                parts.service.leave()
            case Stop():
                parts.service.stop()
            case _:
                raise BadMessage(f"{type(message).__name__} is a worker's to say")

    def _set_up(self, setup: Setup) -> None:
        if self.parts is not None or setup.version != VERSION:
            raise BadMessage(f"settings of version {setup.version}, or for the second time")
        self._configured(setup.config)
        self.parts = WorkerParts(setup, self._channel.post, self._change)

    def _take(self, parts: WorkerParts, request: int, files: Files) -> None:
        error = None
        parts.dialer.take(files.authorities)
        try:
            parts.certificates.take(files.certificates)
        except ConfigError as exc:
            error = str(exc)
            emit(_log, "reload-failed", level=logging.ERROR, what="certificates", error=error)
        self._channel.post(Answer(request, (), (), last=True, error=error))

    def _answer(self, parts: WorkerParts, ask: Ask) -> None:
        match ask.what:
            case Listing.COUNTS:
                self._post_report(parts)
                self._channel.post(Answer(ask.request, (), (), last=True, error=None))
            case Listing.STATES:
                self._begin_answer(ask, partial(self._answer_states, parts, ask.request))
            case Listing.PLAN | Listing.REBALANCE:
                self._begin_answer(ask, partial(self._answer_plan, parts, ask))
            case Listing.SESSIONS | Listing.TRANSFERS:
                self._begin_answer(ask, partial(self._answer_rows, parts, ask.request, ask.what))

    def _begin_answer(self, ask: Ask, make: Callable[[], Awaitable[None]]) -> None:
        assert self._nursery is not None
        start_once(self._nursery, Task.ANSWER, partial(self._answer_in_any_case, ask, make))

    async def _answer_in_any_case(self, ask: Ask, make: Callable[[], Awaitable[None]]) -> None:
        with isolated(Task.ANSWER, what=str(ask.what)) as turn:
            await make()
        if turn.fault is not None:
            self._channel.post(Answer(ask.request, (), (), last=True, error=_FAULT))

    async def _answer_plan(self, parts: WorkerParts, ask: Ask) -> None:
        house = (parts.registry, parts.cluster, parts.placement)
        plan = await forecast(*house, ask.node) if ask.node is not None and ask.node in parts.cluster else None
        rebalance = await rebalance_forecast(*house, ask.max_share) if ask.what is Listing.REBALANCE else None
        self._channel.post(Answer(ask.request, (), (), last=True, error=None, plan=plan, rebalance=rebalance))

    async def _answer_states(self, parts: WorkerParts, request: int) -> None:
        states = await session_states(parts.registry)
        self._post_report(parts)
        self._channel.post(Answer(request, (), (), last=True, error=None, states=states))

    async def _answer_rows(self, parts: WorkerParts, request: int, what: Listing) -> None:
        now = trio.current_time()
        if what is Listing.SESSIONS:
            rows = session_rows(parts.registry, now)
            for at in range(0, len(rows), ROWS_AT_A_TIME):
                self._channel.post(Answer(request, tuple(rows[at : at + ROWS_AT_A_TIME]), (), last=False, error=None))
                await self._channel.flush()  # a million rows are more than the channel holds
        else:
            ended, running = transfer_rows(parts.registry, now)
            moves = ended + running
            for at in range(0, len(moves), ROWS_AT_A_TIME):
                self._channel.post(Answer(request, (), tuple(moves[at : at + ROWS_AT_A_TIME]), last=False, error=None))
                await self._channel.flush()
        self._channel.post(Answer(request, (), (), last=True, error=None))

    # --- what there is to report

    def _change(self) -> None:
        self._dirty.set()

    async def _report(self) -> None:
        assert self.parts is not None
        registry = self.parts.registry
        while True:
            awaits = registry.memory.awaited(trio.current_time())
            with trio.move_on_after(_AWAITING_SECONDS if awaits else math.inf):  # time alone ends waiting
                await self._dirty.wait()
            self._dirty = trio.Event()
            began = time.thread_time()
            self._post_report(self.parts)
            await trio.sleep(max(_REPORT_SECONDS, (time.thread_time() - began) / _REPORT_SHARE))

    def _post_report(self, parts: WorkerParts) -> None:
        parts.tell_shifted()
        parts.call_roll()
        self._channel.post(WorkerReport(parts.counts()))
