"""The process that serves nobody: it owns what there is one of in a proxy.

One of a proxy are: settings, the list of nodes and its file, the nodes' health, wishes, drains, the pace at which
clients are moved (one token bucket), the control socket and signals. All of it reaches the workers as state, not as
steps: :class:`~.messages.Nodes` is everything a worker has to know to do what is wanted, whenever it began. Only tokens
are handed out one by one: a worker says how many sessions it has to move (:class:`~.messages.Want`), is granted one,
and chooses who has been idle for longest.

======== =================================================================================================
link     one worker: its end of the channel, and whether it lives
fleet    all of them, in slots; sums
keeper   has a worker in each slot, and replaces it
restart  replaces all, one by one
memory   what a worker that starts later has to know of users
======== =================================================================================================

The listening sockets are made here and stay open here, so that connections wait for a worker that is being replaced.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import Final

import trio

from cxfr_proxy.admin import commands
from cxfr_proxy.cluster.assigned import Assigned, Pins
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.sources import open_source
from cxfr_proxy.cluster.sources.file import UserMapFile
from cxfr_proxy.config import Config, RebalanceMode, Route
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.process.announce import announce, say_of_rebalance
from cxfr_proxy.process.automatic import Automatic
from cxfr_proxy.process.control import serve_control
from cxfr_proxy.process.drainer import FleetDrainer
from cxfr_proxy.process.figures import Figures
from cxfr_proxy.process.fleet import Fleet, Grants, Slot
from cxfr_proxy.process.keeper import Keeper
from cxfr_proxy.process.launch import Launch, Launched, launch
from cxfr_proxy.process.link import Link
from cxfr_proxy.process.listing import UserList
from cxfr_proxy.process.memory import Memory
from cxfr_proxy.process.messages import (
    VERSION,
    Answer,
    BadMessage,
    Gone,
    Hello,
    Learned,
    Lost,
    Message,
    Moved,
    NodeDown,
    NodeFailsLogins,
    NodeGoing,
    Nodes,
    NodeServes,
    NodeState,
    Pinned,
    PutBack,
    Redirected,
    Report,
    Resumable,
    Returned,
    Setup,
    Stayed,
    Stopped,
    Transferred,
    Want,
)
from cxfr_proxy.process.nodelist import NodeList, logged
from cxfr_proxy.process.operations import ProxyOperations
from cxfr_proxy.process.restart import Restarts
from cxfr_proxy.process.sharing import Sharing
from cxfr_proxy.process.web import serve_http
from cxfr_proxy.relay.check import Checks
from cxfr_proxy.relay.dial import Dialer
from cxfr_proxy.relay.listen import bind_shared
from cxfr_proxy.relay.probe import look
from cxfr_proxy.relay.room import sessions_that_fit
from cxfr_proxy.relay.templates import Templates
from cxfr_proxy.relay.tls import ServerCertificates, development_certificate
from cxfr_proxy.session.mover_drains import OwnPace, Rate
from cxfr_proxy.session.mover_rebalances import Rebalances, Rebalancing

_ELSEWHERE_SECONDS: Final = 0.005
_ELSEWHERE_SHARE: Final = 0.02
"""As the workers' reports: at least so long, and at most this share of the time, between two rounds."""

_log = logging.getLogger(__name__)


class Supervisor:
    """One proxy of several processes; as :class:`~.server.Proxy` otherwise.

    ``addresses`` are the clients' sockets once it runs. Certificates are read in the constructor, which raises
    :class:`ConfigError`; nodes by :meth:`run`.
    """

    def __init__(self, config: Config, launcher: Launch = launch) -> None:
        config.check_serving()
        assert config.backends is not None
        self._config = config
        self._launch = launcher
        source = open_source(config.backends, config.redirection)
        self._cluster = Cluster()
        self._assigned = Assigned(Pins(told=self._tell_pin))
        self._listed = trio.Event()
        map_file = UserMapFile(config.user_map) if config.user_map is not None else None
        self._users = UserList(map_file, self._assigned, self._cluster, self._on_listed)
        self._development = (
            None if config.certificate else development_certificate(config.domain or ("localhost",)).decode()
        )
        pem = self._development.encode() if self._development is not None else None
        self._certificates = ServerCertificates(config.key_pairs, domains=config.domain, development=pem)
        self._dialer = Dialer(config.timeouts, config.limits)
        self._templates = Templates(self._cluster, max_bytes=config.limits.max_element_up)
        self._checks = Checks(
            self._cluster,
            partial(look, self._dialer),
            self._node_changed,
            self._node_changed,
            domains=config.domain,
        )
        self.fleet = Fleet(config.workers)
        self._memory = Memory(config.redirect_window)
        self._keeper = Keeper(
            self.fleet,
            config.timeouts.hard_stop_after,
            launch=self._start_worker,
            first_words=self._first_words,
            hear=self._hear,
            buried=self._buried,
        )
        self._restarts = Restarts(self.fleet, self._is_stopping)
        pace = OwnPace(config.transfer_rate)
        self._grants = Grants(self.fleet, pace)
        rate = Rate(pace, config.transfer_rate)
        self._drainer = FleetDrainer(self._cluster, self.fleet, rate, self.tell_nodes)
        self._rebalancing: Rebalancing | None = None
        self._rebalances = Rebalances(
            rate, tell=self._tell_rebalancing, counts_of=self.fleet.rebalance_counts, report=say_of_rebalance
        )
        self._sharing = Sharing(
            source,
            self._cluster,
            self._drainer,
            pins=self._assigned.pins,
            sessions=lambda: self.fleet.sessions,
            usual_rate=config.transfer_rate,
        )
        self._nodes = NodeList(
            source,
            self._cluster,
            self._drainer,
            self._dialer,
            self._checks,
            obey=self._sharing.obey,
            changed=self.tell_nodes,
        )
        self._sockets: list[list[socket.socket]] = []
        self._reported = trio.Event()
        self.addresses: list[tuple[str, int]] = []
        self.operations = ProxyOperations(
            self._cluster,
            self.fleet,
            self._drainer,
            self._rebalances,
            config.timeouts,
            self.reload,
            sharing=self._sharing,
            pins=self._assigned.pins,
            restarts=self._restarts,
        )

    # --- tasks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` has moved everybody, or until cancelled; ``started`` once clients can connect.

        Raises :class:`ConfigError`, alone or in an exception group, where the nodes can't be read, a socket can't be
        had, or no worker lives.
        """
        await self._nodes.begin()
        if self._keeper.stopping:
            return  # etcd may take its time
        workers = len(self.fleet.slots)
        self._sockets = bind_shared(self._config.listen, workers)
        self.addresses = [sock.getsockname()[:2] for sock in self._sockets[0]]
        try:
            async with trio.open_nursery() as services:
                services.start_soon(self._nodes.watch)
                services.start_soon(self._sharing.run)
                services.start_soon(self._users.watch)
                services.start_soon(self._tell_listed)
                services.start_soon(self._checks.run)
                services.start_soon(self._drainer.watch)
                services.start_soon(self._rebalances.watch)
                if self._config.rebalance is RebalanceMode.AUTO:
                    services.start_soon(Automatic(self._cluster, self._rebalances).run)
                services.start_soon(self._grants.run)
                services.start_soon(self._restarts.run)
                services.start_soon(self._tell_elsewhere)
                await services.start(serve_control, self._config.control, partial(commands.execute, self.operations))
                fitting = sessions_that_fit() * workers
                if self._config.http is not None:
                    figures = Figures(
                        self._cluster, self.fleet, self._drainer, stopping=self._is_stopping, room=fitting
                    )
                    await services.start(serve_http, self._config.http, figures)
                async with trio.open_nursery() as keeping:
                    await keeping.start(self._keeper.run)
                    announce(self._certificates, self.addresses, nodes=len(self._cluster), sessions=fitting)
                    task_status.started()
                emit(_log, "stopped", cut=self._keeper.cut, sessions=self.fleet.sessions)
                services.cancel_scope.cancel()
        finally:
            self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in [each for sockets in self._sockets for each in sockets]:
            sock.close()

    async def _tell_elsewhere(self) -> None:
        """Let each worker know what the others have."""
        while True:
            await self._reported.wait()
            self._reported = trio.Event()
            began = time.thread_time()
            for link in self.fleet:
                link.post(self.fleet.elsewhere(link))
            await trio.sleep(max(_ELSEWHERE_SECONDS, (time.thread_time() - began) / _ELSEWHERE_SHARE))

    # --- workers

    async def _start_worker(self, slot: Slot) -> Launched:
        return await self._launch(self._sockets[slot.number - 1])

    def _first_words(self, slot: Slot) -> tuple[Setup, Iterable[Message]]:
        workers = len(self.fleet.slots)
        setup = Setup(
            VERSION,
            self._config,
            self._states(),
            slot.number,
            workers,
            slot.next_first_id(workers),
            self._development,
            dict(self._assigned.pins.nodes),
        )
        return setup, chain(self._users.pieces(), self._memory.pieces(trio.current_time()))

    def _hear(self, link: Link, message: Message) -> None:
        match message:
            case Report():
                for name, drain in self._drainer.drains.items():
                    self._drainer.waits(drain, self.fleet.waiting_reason(name))
                self._reported.set()
                self._forget_empty()
            case Transferred(transfer):
                self.fleet.tally.add(transfer)
            case Want():
                self._grants.wanted()
            case PutBack(tokens):
                self._grants.put_back(tokens)
            case NodeDown(name, reason) if name in self._cluster:
                self._checks.connect_failed(self._cluster.get(name), reason)
            case NodeGoing(name) if name in self._cluster:
                self._checks.said_it_was_going(self._cluster.get(name), sessions=self._drainer.left(name))
            case NodeFailsLogins(name, reason) if name in self._cluster:
                self._checks.login_failed(self._cluster.get(name), reason)
            case NodeServes(name, domain) if name in self._cluster:
                self._checks.login_worked(self._cluster.get(name), domain)
            case NodeDown() | NodeGoing() | NodeFailsLogins() | NodeServes():
                pass  # it was forgotten meanwhile
            case Redirected() | Resumable() | Lost() | Moved() | Stayed() | Returned() | Learned():
                self._memory.note(message, trio.current_time())
                for other in self.fleet:
                    if other is not link:
                        other.post(message)
            case Hello() | Answer() | Stopped() | Gone():
                pass  # noted by whom they concern
            case _:
                raise BadMessage(f"{type(message).__name__} is the supervisor's to say")

    def _buried(self, link: Link) -> None:
        at_stake = link.at_stake.values() if link.died else ()
        for piece in self._memory.note_killed(at_stake, trio.current_time()):
            for other in self.fleet:
                other.post(piece)
        self._reported.set()
        self._forget_empty()

    def _forget_empty(self) -> None:
        before = len(self._cluster)
        self._nodes.forget_empty()
        if len(self._cluster) != before:
            self.tell_nodes()

    # --- nodes

    def _states(self) -> Nodes:
        return Nodes(
            tuple(
                NodeState(
                    node.spec,
                    node.wish,
                    node.health,
                    node.removed,
                    self._drainer.stage(node.name),
                    node.outlook,
                    node.ramp,
                    {domain: features.decode() for domain, features in node.features.items()},
                )
                for node in self._cluster
            ),
            self._rebalancing,
        )

    def _tell_rebalancing(self, order: Rebalancing | None) -> None:
        self._rebalancing = order
        self.tell_nodes()

    def tell_nodes(self) -> None:
        """Let all workers know how the nodes are now, and so what is to be moved."""
        if self._config.route is Route.LOGIN:
            self._templates.compare()
        states = self._states()
        for link in self.fleet:
            link.post_nodes(states)

    def _node_changed(self, node: Node) -> None:
        self.tell_nodes()

    # --- users who have a node assigned

    def _tell_pin(self, key: str, node: str | None) -> None:
        for link in self.fleet:
            link.post(Pinned(key, node))

    def _on_listed(self) -> None:
        self._listed.set()

    async def _tell_listed(self) -> None:
        """Let all workers know the user map as it is now; those that begin are told at the start."""
        while True:
            await self._listed.wait()
            self._listed = trio.Event()
            async with trio.open_nursery() as telling:
                for link in self.fleet:
                    telling.start_soon(link.tell, self._users.pieces())

    # --- the operator

    def stop(self) -> None:
        """Accept nobody any more, and move the clients there are; :meth:`run` returns when they have gone."""
        if not self._keeper.stopping:
            emit(_log, "stopping", sessions=self.fleet.sessions, within=self._config.timeouts.hard_stop_after)
            self._close_sockets()
            self._keeper.stop()

    def _is_stopping(self) -> bool:
        return self._keeper.stopping

    async def reload(self) -> str:
        """Read nodes, user map and certificates again; what was done. Raises :class:`ConfigError`; what was bad, is as
        it was."""
        self._certificates.reload()
        try:
            done = await self._nodes.reload_as_asked()
        finally:
            errors = await self.fleet.reload_certificates()
        if errors:
            raise ConfigError(errors[0])
        await self._users.reload()
        return done

    def reload_on_signal(self) -> None:
        """As :meth:`reload`, for SIGHUP: errors go to the log."""
        with logged("certificates"):
            self._reload_certificates()
        self._nodes.ask()
        self._users.reload_soon()

    def restart_on_signal(self) -> None:
        """Replace all workers, one by one, for SIGUSR2; a refusal goes to the log."""
        try:
            self._restarts.begin()
        except ConfigError as exc:
            emit(_log, "restart-refused", level=logging.WARNING, reason=str(exc))

    def _reload_certificates(self) -> None:
        self._certificates.reload()
        self.fleet.tell_to_reload()
