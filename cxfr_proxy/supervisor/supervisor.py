"""The supervisor: it serves no client, and owns everything that exists once in a proxy.

These are the settings, the list of nodes and its source, the nodes' health, admin states, drains, the pace at which
clients are moved (one token bucket), the control socket and signals. Workers are told of all of it as state, not as
steps: :mod:`.workers.node_states` sends everything that a worker has to know to do what is wanted, whenever it began.
Only tokens are handed out one by one: a worker reports how many sessions it has to move
(:class:`~cxfr_proxy.ipc.messages.Want`), is granted a token, and chooses the session that has been idle for longest.

The listening sockets are made here and stay open here, so that connections wait for a worker that is being replaced.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Final

import trio

from cxfr_proxy import events
from cxfr_proxy.admin.feed import ChangeFeed
from cxfr_proxy.cluster.assigned import Assigned, Pins
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.config.current import CurrentSettings
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.ipc.launch import Launcher
from cxfr_proxy.ipc.messages import (
    VERSION,
    AnswerPart,
    BadMessage,
    Gone,
    Hello,
    Message,
    News,
    NodeFailsLogins,
    NodeGoing,
    NodeServes,
    NodeUnreachable,
    Pinned,
    PinnedBefore,
    PutBack,
    SessionsChanged,
    Setup,
    Stopped,
    TransferEnded,
    Want,
    WorkerReport,
)
from cxfr_proxy.net.connection_limit import sessions_that_fit
from cxfr_proxy.net.inherited import InheritedSockets
from cxfr_proxy.net.tls_watch import watching_tls
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.management import Management, Operations
from cxfr_proxy.supervisor.orders.drain_keeper import DrainKeeper
from cxfr_proxy.supervisor.orders.state_keeper import StateFile, StateKeeper
from cxfr_proxy.supervisor.startup_log import log_rebalance
from cxfr_proxy.supervisor.upgrading.predecessor import Predecessor
from cxfr_proxy.supervisor.upgrading.succession import Succession
from cxfr_proxy.supervisor.upgrading.successor import Program, Upgrades
from cxfr_proxy.supervisor.workers.catch_up import CatchUp
from cxfr_proxy.supervisor.workers.client_sockets import ClientSockets
from cxfr_proxy.supervisor.workers.grants import Grants
from cxfr_proxy.supervisor.workers.link import FirstMessages, Link
from cxfr_proxy.supervisor.workers.node_states import NodeStates, NodeUpdates
from cxfr_proxy.supervisor.workers.rolling_restart import RollingRestarts
from cxfr_proxy.supervisor.workers.slot import WorkerSlot
from cxfr_proxy.supervisor.workers.worker_slots import WorkerSlots
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.tasks import Task, start, start_once
from cxfr_proxy.transfers.client_news import SoftwareLearned
from cxfr_proxy.transfers.pace import OwnPace, Rate
from cxfr_proxy.transfers.rebalances import Rebalance, RebalanceCounts, Rebalances, RebalanceTerms

_REPORTS_SECONDS: Final = 0.005
_REPORTS_SHARE: Final = 0.02
"""Least seconds, and largest share of the time, between two rounds over the workers' reports."""
_WORDS_SECONDS: Final = 5.0
"""Seconds for the last answer to whoever watches an upgrade."""
_PINS_A_PIECE: Final = 100
"""Pins per message: a key may have 12 KB."""

_log = logging.getLogger(__name__)


class Supervisor:
    """One proxy; see :class:`cxfr_proxy.proxy.Proxy`.

    ``addresses`` are the clients' sockets once it runs; ``inherited`` sockets are used for them where they fit.
    ``manager`` is told how it is. Certificates are read in the constructor, which raises :class:`ConfigError`; nodes by
    :meth:`run`.
    """

    def __init__(
        self,
        config: Config,
        launcher: Launcher,
        source: ConfigSource | None = None,
        inherited: InheritedSockets | None = None,
        manager: ServiceManager | None = None,
        predecessor: Predecessor | None = None,
        program: Program | None = None,
    ) -> None:
        config.check_serving()
        self._settings = CurrentSettings(config, source if source is not None else ConfigSource({}, config))
        self._cluster = Cluster()
        self._assigned = Assigned(Pins(follower=self))
        self._listed = trio.Event()
        self.workers = Workers(config.workers)
        self._catch_up = CatchUp(config.redirect_window)
        self._inherited = inherited if inherited is not None else InheritedSockets()
        self._sockets = ClientSockets(self._inherited)
        self._manager = manager if manager is not None else ServiceManager()
        self._slots = WorkerSlots(self.workers, self._sockets, launcher, config.timeouts.hard_stop_after, self)
        self._kept = StateKeeper(StateFile(config.state_path, makes_directory=config.state is None), self._catch_up)
        self._predecessor = predecessor
        if predecessor is not None:
            self.workers.begin_behind(predecessor.begins.last_id)
        self._succession = Succession(
            self.workers, self._catch_up, self._kept, self._sockets, self._slots, self._manager, predecessor
        )
        self._feed = ChangeFeed()
        self.upgrades = Upgrades(self._succession, self._feed, program)
        self._restarts = RollingRestarts(self.workers, self._slots, self._feed)
        pace = OwnPace(config.transfer_rate)
        self._grants = Grants(self.workers, pace)
        self._rate = Rate(pace, config.transfer_rate)
        self._drainer = DrainKeeper(self._cluster, self.workers, self._rate, self, self._feed)
        self._states = NodeStates(self._cluster, self._drainer.drains)
        self._cluster.watch(self.node_changed)
        self.rebalances = Rebalances(self._rate, self)
        self._management = Management(
            self._settings,
            self._cluster,
            self._assigned,
            self.workers,
            Operations(self._drainer, self.rebalances, self._restarts, self._feed, self._kept, self.upgrades),
            self._manager,
            self,
        )
        self._succession.manages(self._management)
        self._stops = False
        self._capacity = 0
        self._reported = trio.Event()
        self.console = self._management.console
        self.reload_on_signal = self._management.reloading.ask

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return self._sockets.addresses

    # --- tasks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` has moved all clients, or until cancelled; ``started`` once clients can connect.

        Raises :class:`ConfigError`, alone or in an exception group, if the nodes can't be read, a socket can't be had,
        or no worker lives.
        """
        with watching_tls():  # health checks read from nodes
            await self._run(task_status)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        if self._predecessor is None:
            await self._management.begin()
            await self._serve(task_status)
            return
        async with trio.open_nursery() as following:
            self._predecessor.tell_first_counts(self._succession)
            start_once(following, Task.UPGRADE, partial(self._predecessor.run, self._succession))
            await self._management.begin_beside(self._predecessor.state)
            await self._serve(task_status)
            following.cancel_scope.cancel()

    async def _serve(self, task_status: trio.TaskStatus[None]) -> None:
        if self._slots.stopping:
            return
        self._capacity = sessions_that_fit()  # of each: workers' processes have the same limits as this one
        try:
            self._have_sockets_and_state()
            async with trio.open_nursery() as services:
                self._begin_services(services)
                await self._serve_clients(services, task_status)
                await self._part()
                services.cancel_scope.cancel()
            # Behind the services: the task that writes the file is one of them.
            await self._kept.flush()
        finally:
            self._management.close()
            self._sockets.close()
            self._kept.unlock()

    def _have_sockets_and_state(self) -> None:
        """Have everything of which there is only one on a machine. Raises :class:`ConfigError`; all of it is given up
        at the end.

        All of it before a proxy whose place this one takes gives up its own: what can't be had has to be known by then.
        """
        if self._predecessor is None:
            self._management.inherit(self._inherited)
        else:
            self._management.inherit(self._predecessor.for_operators)
            self._predecessor.for_operators.close()  # those that these settings have no use for
        self._sockets.bind(self._settings.config, named=self._settings.any_given("listen", "listen-unix"))
        self._management.bind()
        if self._predecessor is None:
            self._management.have_state()
        else:
            self._sockets.share()
            self._kept.lock(self._predecessor.begins.state_lock)

    def _begin_services(self, services: trio.Nursery) -> None:
        for task, run in (
            (Task.USER_MAP, self._send_user_map),
            (Task.DRAINS, self._drainer.watch),
            (Task.GRANTS, self._grants.run),
            (Task.RESTART, self._restarts.run),
            (Task.ELSEWHERE, self._follow_reports),
            (Task.UPGRADE, self.upgrades.run),
        ):
            start(services, task, run)
        self._management.serve(services)

    async def _serve_clients(self, services: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Keep workers until the proxy stops, and all clients are gone."""
        room = self._capacity * len(self.workers.slots)
        # Operators before clients: a worker that does not come up can be looked at. Of two proxies the new one has to
        # wait, since orders are the old one's until it has handed over.
        if self._predecessor is None:
            await self._management.open(services, room=room)
        async with trio.open_nursery() as keeping:
            await keeping.start(self._slots.run)
            if self._predecessor is not None:
                await self._take_over(self._predecessor, services, room)
            self._management.announce(self.addresses, self._sockets.paths, room=room)
            self._manager.ready()
            task_status.started()

    async def _take_over(self, predecessor: Predecessor, services: trio.Nursery, room: int) -> None:
        """Be the proxy in the place of the one before. Raises :class:`ConfigError`, and then the old one goes on."""
        self._check_not_stopping()
        handed_over = await predecessor.hand_over()
        self._check_not_stopping()  # once more: that took a while
        if not self.workers.all_serve():
            raise ConfigError("not all of its workers live; the log may say why")
        self._succession.take_over(predecessor, handed_over)
        await self._management.open(services, room=room)
        await predecessor.leaves()
        self._sockets.share_no_more()

    def _check_not_stopping(self) -> None:
        if self._slots.stopping:
            raise ConfigError("it was told to stop")

    async def _part(self) -> None:
        """Tell everybody who waits for it that all clients are gone."""
        await self.upgrades.end()
        await self._succession.until_alone()
        emit(_log, "stopped", cut=self._slots.cut, sessions=self.workers.sessions)
        if self._succession.given_away:
            with trio.move_on_after(_WORDS_SECONDS):
                await self._management.wait_closed()

    async def _follow_reports(self) -> None:
        """Act on the workers' counts, once for many reports, until cancelled."""
        while True:
            await self._reported.wait()
            self._reported = trio.Event()
            began = time.thread_time()
            self.workers.send_elsewhere()
            for name, drain in self._drainer.drains.items():
                self._drainer.waits(drain, self.workers.waiting_reason(name))
            self._management.nodes.forget_empty()
            self._feed.changed()
            await trio.sleep(max(_REPORTS_SECONDS, (time.thread_time() - began) / _REPORTS_SHARE))

    # --- workers

    def first_messages(self, slot: WorkerSlot) -> FirstMessages:
        workers = len(self.workers.slots)
        first_id = slot.next_first_id(workers)
        taking = self._management.files.for_workers()
        setup = Setup(VERSION, taking, slot.number, workers, first_id, self._capacity)
        more: Iterator[Message] = chain(self._management.users.pieces(), self._catch_up.pieces(trio.current_time()))
        return FirstMessages(setup, self._pieces_of_pins(), NodeUpdates(self._states), more)

    def _pieces_of_pins(self) -> Iterator[PinnedBefore]:
        """Yield the pins in pieces, each as they are when it is asked for."""
        pins = self._assigned.pins.nodes
        keys = list(pins)
        for at in range(0, len(keys), _PINS_A_PIECE):
            yield PinnedBefore({key: pins[key] for key in keys[at : at + _PINS_A_PIECE] if key in pins})

    def on_message(self, link: Link, message: Message) -> None:
        match message:
            case WorkerReport(counts):
                self.workers.note_counts(counts)
                self._reported.set()
            case TransferEnded(transfer, session, full_jid):
                self.workers.note_transfer(session, full_jid, transfer)
                if self.upgrades.last is not None:
                    self.upgrades.last.note_transfer(message)
            case SessionsChanged(present):
                for each in present:
                    self.workers.absences.note_login(each)
            case Want():
                self._grants.wanted()
            case PutBack(tokens):
                self._grants.put_back(tokens)
            case NodeUnreachable(name, reason) if name in self._cluster:
                self._management.checks.connect_failed(self._cluster.get(name), reason)
            case NodeGoing(name) if name in self._cluster:
                self._management.checks.said_it_was_going(self._cluster.get(name), sessions=self._drainer.left(name))
            case NodeFailsLogins(name, reason) if name in self._cluster:
                self._management.checks.login_failed(self._cluster.get(name), reason)
            case NodeServes(name, domain) if name in self._cluster:
                self._management.checks.login_worked(self._cluster.get(name), domain)
            case NodeUnreachable() | NodeGoing() | NodeFailsLogins() | NodeServes():
                pass  # it was forgotten meanwhile
            case News(news):
                self._catch_up.note(news, trio.current_time())
                for other in self.workers:
                    # Its sender knows already.
                    if other is not link:
                        other.post(message)
                self._succession.pass_on(link, news, self.upgrades.last)
                if isinstance(news, SoftwareLearned):
                    self._kept.learned()
            case Hello() | AnswerPart() | Stopped() | Gone():
                pass  # noted by whom they concern
            case _:
                raise BadMessage(f"{type(message).__name__} is the supervisor's to say")

    def on_gone(self, link: Link) -> None:
        at_stake = link.at_stake.values() if link.died else ()
        for piece in self._catch_up.note_killed(at_stake, trio.current_time()):
            for other in self.workers:
                other.post(piece)
            if self.upgrades.last is not None:
                for each in piece.news:
                    self.upgrades.last.note_news(each)
        self._reported.set()

    # --- nodes

    def node_changed(self, name: str) -> None:
        """Let all workers know of a node that has changed, or whose drain's stage has."""
        self._states.changed(name)
        for link in self.workers:
            link.node_changed(name)
        self._management.compare_features()
        self._feed.changed()

    # --- rebalances: see :class:`~cxfr_proxy.transfers.rebalances.RebalanceHost`

    def follow_rebalance(self, rebalance: RebalanceTerms | None) -> None:
        self._states.rebalance = rebalance
        for link in self.workers:
            link.rebalance_changed()

    def counts_of_rebalance(self, number: int) -> RebalanceCounts | None:
        return self.workers.rebalance_counts(number)

    def report_rebalance(self, event: str, rebalance: Rebalance) -> None:
        log_rebalance(event, rebalance)

    # --- settings: see :class:`~.reading.reloading.SettingsFollower`

    def settings_taken(self, config: Config) -> None:
        events.adjust(config.log_format, config.log_level)
        self._catch_up.redirect_window = config.redirect_window
        self._rate.set_usual(config.transfer_rate)
        self._slots.set_hard_stop_after(config.timeouts.hard_stop_after)

    # --- users who have a node assigned

    def pin_changed(self, key: str, node: str | None) -> None:
        for link in self.workers:
            link.post(Pinned(key, node))

    def users_read(self) -> None:
        self._listed.set()

    async def _send_user_map(self) -> None:
        """Let all workers know the user map as it is now; those that begin get it at the start."""
        while True:
            await self._listed.wait()
            self._listed = trio.Event()
            async with trio.open_nursery() as sending:
                for link in self.workers:
                    sending.start_soon(link.send_all, self._management.users.pieces())

    # --- the operator

    def stop(self) -> None:
        """Accept nobody more, and move the clients there are; :meth:`run` returns when they are gone."""
        if not self._stops:
            self._stops = True
            emit(
                _log, "stopping", sessions=self.workers.sessions, within=self._settings.config.timeouts.hard_stop_after
            )
            if not self._succession.given_away:
                self._manager.stopping(within=self._slots.parting_seconds)
                self._sockets.close()
                self._succession.stop_predecessor()
            self._slots.stop()
            self.upgrades.stop()

    def is_stopping(self) -> bool:
        return self._slots.stopping

    def upgrade_on_signal(self) -> None:
        """Replace this proxy by a new process, for SIGUSR2; a refusal goes to the log."""
        try:
            self.upgrades.begin()
        except ConfigError as exc:
            emit(_log, "upgrade-refused", level=logging.WARNING, reason=str(exc))
