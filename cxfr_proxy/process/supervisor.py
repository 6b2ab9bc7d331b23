"""The process that serves nobody: it owns what there is one of in a proxy, and keeps the workers alive.

One of a proxy are: settings, the list of nodes and its file, the nodes' health, wishes, drains, the pace at which
clients are moved (one token bucket), the control socket and signals. All of it reaches the workers as state, not as
steps: :class:`~.messages.Nodes` is everything a worker has to know to do what is wanted, whenever it began. Only tokens
are handed out one by one: a worker says how many sessions it has to move (:class:`~.messages.Want`), is granted one,
and chooses who has been idle for longest.

The listening sockets are made here and stay open here, so that connections wait for a worker that is being replaced.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import trio

from cxfr_proxy.admin import commands
from cxfr_proxy.cluster.nodes import Cluster, Node
from cxfr_proxy.cluster.sources.file import NodesFile
from cxfr_proxy.config import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.process.announce import announce, say_of_drain
from cxfr_proxy.process.channel import Channel
from cxfr_proxy.process.control import serve_control
from cxfr_proxy.process.fleet import Fleet, Grants, Slot, State
from cxfr_proxy.process.messages import (
    VERSION,
    Answer,
    BadMessage,
    Elsewhere,
    Hello,
    Message,
    NodeDown,
    NodeGoing,
    Nodes,
    NodeState,
    PutBack,
    Redirected,
    Report,
    Resumable,
    Setup,
    Stop,
    Stopped,
    Want,
)
from cxfr_proxy.process.nodelist import NodeList, attempt
from cxfr_proxy.process.operations import ProxyOperations
from cxfr_proxy.relay.check import Checks
from cxfr_proxy.relay.dial import Dialer
from cxfr_proxy.relay.listen import bind_shared
from cxfr_proxy.relay.room import sessions_that_fit
from cxfr_proxy.relay.tls import ServerCertificates, development_certificate
from cxfr_proxy.session.mover_drains import Drain, Drains, OwnPace

_SHORT_LIFE_SECONDS: Final = 1.0
"""A worker that dies sooner will probably do so again."""
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 5.0
"""Beyond ``hard-stop-after``, for a worker to end, before it is killed."""
_ELSEWHERE_SECONDS: Final = 0.005
_ELSEWHERE_SHARE: Final = 0.02
"""As the workers' reports: at least so long, and at most this share of the time, between two rounds."""

_log = logging.getLogger(__name__)


class Launched(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int: ...

    @property
    def stream(self) -> trio.abc.Stream:
        """Its end of the channel is the other one."""

    async def wait(self) -> int:
        """Its exit code, once it has ended."""

    def kill(self) -> None: ...


Launch = Callable[[Sequence[socket.socket]], Awaitable[Launched]]


class _Process:
    def __init__(self, process: trio.Process, stream: trio.SocketStream) -> None:
        self._process = process
        self.stream = stream
        self.pid = process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)


_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from cxfr_proxy.process.worker import main; main()"
)
"""The worker finds the modules where this process did, and nothing in the directory it happens to be in."""


async def launch(listening: Sequence[socket.socket]) -> Launched:
    """A fresh interpreter, in a process group of its own: what a terminal sends is for the supervisor."""
    ours, theirs = socket.socketpair()
    with theirs:
        inherited = [theirs.fileno(), *(sock.fileno() for sock in listening)]
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path), *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
    ours.setblocking(False)
    return _Process(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))


class FleetDrainer:
    """Drains that workers carry out; ``changed`` lets them know."""

    def __init__(self, cluster: Cluster, fleet: Fleet, pace: OwnPace, rate: float, changed: Callable[[], None]) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._changed = changed
        self._drains = Drains(pace, rate, counts_of=fleet.of_node, hurry=self._hurry, report=self._report)

    @property
    def drains(self) -> dict[str, Drain]:
        return self._drains.by_node

    def drain(self, node: str, *, deadline: float | None = None, rate: float | None = None) -> None:
        self._cluster.get(node)
        self._drains.begin(node, deadline=deadline, rate=rate)
        self._changed()

    def undrain(self, node: str) -> None:
        self._drains.end(node)
        self._changed()

    def look_again(self) -> None:
        self._changed()

    def left(self, node: str) -> int:
        return self._fleet.of_node(node).sessions

    def waits(self, drain: Drain, reason: str | None) -> None:
        """What workers say of it."""
        self._drains.waits(drain, reason)

    def _hurry(self, node: str) -> None:
        self._changed()

    def _report(self, what: str, drain: Drain) -> None:
        say_of_drain(what, drain, self._fleet.of_node(drain.node))

    async def watch(self) -> None:
        await self._drains.watch()


class Supervisor:
    """One proxy of several processes; as :class:`~.server.Proxy` otherwise.

    ``addresses`` are the clients' sockets once it runs. Reading the configuration's files happens in the constructor,
    which raises :class:`ConfigError`.
    """

    def __init__(self, config: Config, launcher: Launch = launch) -> None:
        config.check_serving()
        assert config.backends is not None
        self._config = config
        self._launch = launcher
        file = NodesFile(config.backends, targets=config.redirection)
        specs = file.load()
        self._cluster = Cluster(specs)
        self._development = (
            None if config.certificate else development_certificate(config.domain or ("localhost",)).decode()
        )
        pem = self._development.encode() if self._development is not None else None
        self._certificates = ServerCertificates(config.key_pairs, domains=config.domain, development=pem)
        self._dialer = Dialer(config.timeouts, config.limits)
        self._dialer.check_files(specs)
        self._checks = Checks(
            self._cluster, self._dialer, self._node_changed, self._node_changed, domain=next(iter(config.domain), None)
        )
        self.fleet = Fleet(config.workers)
        pace = OwnPace(config.transfer_rate)
        self._grants = Grants(self.fleet, pace)
        self._drainer = FleetDrainer(self._cluster, self.fleet, pace, config.transfer_rate, self.tell_nodes)
        self._nodes = NodeList(file, self._cluster, self._drainer, self._dialer, self._checks, self.tell_nodes)
        self._sockets: list[list[socket.socket]] = []
        self._stop = trio.Event()
        self._cut = False
        self._reported = trio.Event()
        self.addresses: list[tuple[str, int]] = []
        self.operations = ProxyOperations(self._cluster, self.fleet, self._drainer, config.timeouts, self.reload)

    # --- tasks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` has moved everybody, or until cancelled; ``started`` once clients can connect.

        Raises :class:`ConfigError`, alone or in an exception group, where a socket can't be had or no worker lives.
        """
        self._sockets = bind_shared(self._config.listen, len(self.fleet))
        self.addresses = [sock.getsockname()[:2] for sock in self._sockets[0]]
        try:
            async with trio.open_nursery() as services:
                services.start_soon(self._nodes.watch)
                services.start_soon(self._checks.run)
                services.start_soon(self._drainer.watch)
                services.start_soon(self._grants.run)
                services.start_soon(self._tell_elsewhere)
                await services.start(serve_control, self._config.control, partial(commands.execute, self.operations))
                await self._run_workers(task_status)
                emit(_log, "stopped", cut=self._cut, sessions=self.fleet.sessions)
                services.cancel_scope.cancel()
        finally:
            self._close_sockets()

    async def _run_workers(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as workers:
            async with trio.open_nursery() as starting:
                for slot in self.fleet:
                    starting.start_soon(workers.start, self._keep, slot)
            fitting = sessions_that_fit() * len(self.fleet)
            announce(self._certificates, self.addresses, nodes=len(self._cluster), sessions=fitting)
            task_status.started()
            await self._stop.wait()
            workers.cancel_scope.deadline = (
                trio.current_time() + self._config.timeouts.hard_stop_after + _PATIENCE_SECONDS
            )
        self._cut |= workers.cancel_scope.cancelled_caught

    def _close_sockets(self) -> None:
        for sock in [each for sockets in self._sockets for each in sockets]:
            sock.close()

    async def _tell_elsewhere(self) -> None:
        """Let each worker know what the others have."""
        while True:
            await self._reported.wait()
            self._reported = trio.Event()
            began = time.thread_time()
            for slot in self.fleet:
                slot.post(Elsewhere(*self.fleet.elsewhere(slot)))
            await trio.sleep(max(_ELSEWHERE_SECONDS, (time.thread_time() - began) / _ELSEWHERE_SHARE))

    # --- keeping a worker

    async def _keep(self, slot: Slot, *, task_status: trio.TaskStatus[None]) -> None:
        """Have a worker in this slot until the proxy stops; ``started`` when the first one serves."""
        pause = 0.0
        first = True
        while not self._stop.is_set():
            slot.state = State.WAITING if pause else State.STARTING
            with trio.move_on_after(pause):
                await self._stop.wait()
                break
            slot.state = State.STARTING
            began = trio.current_time()
            worker = await self._launch(self._sockets[slot.number - 1])
            code = await self._watch(slot, worker, task_status if first else trio.TASK_STATUS_IGNORED)
            served = slot.state is not State.STARTING
            if first and not served and not self._stop.is_set():
                raise ConfigError(f"a worker ended before it served, with exit code {code}; the log may say why")
            if first and not served:
                task_status.started()  # the proxy is stopping: nobody waits for more
            first = False
            self._see_off(slot, worker, code)
            lived = trio.current_time() - began
            pause = 0.0 if served and lived > _SHORT_LIFE_SECONDS else _longer(pause)
        slot.state = State.GONE

    async def _watch(self, slot: Slot, worker: Launched, task_status: trio.TaskStatus[None]) -> int:
        """Until that worker has ended; its exit code. Cancelling kills it."""
        slot.pid = worker.pid
        slot.channel = Channel(worker.stream, partial(self._hear, slot, task_status))
        slot.sent_nodes = self._states()
        slot.post(
            Setup(
                VERSION,
                self._config,
                slot.sent_nodes,
                slot.number,
                len(self.fleet),
                slot.next_first_id,
                self._development,
            )
        )
        try:
            try:
                await slot.channel.run()
            except BadMessage as exc:
                emit(_log, "channel-fault", level=logging.ERROR, worker=slot.number, reason=str(exc))
                worker.kill()
            return await worker.wait()
        finally:
            worker.kill()
            with trio.CancelScope(shield=True):  # SIGKILL cannot be refused
                await worker.wait()

    def _see_off(self, slot: Slot, worker: Launched, code: int) -> None:
        died = slot.state is not State.STOPPING or code != 0
        if died:
            self._cut |= self._stop.is_set()
            emit(
                _log,
                "worker-died",
                level=logging.ERROR,
                worker=slot.number,
                pid=worker.pid,
                code=code,
                sessions=slot.counts.sessions,
            )
        self.fleet.bury(slot, died=died)
        self._reported.set()
        self._forget_empty()

    # --- what workers say

    def _hear(self, slot: Slot, task_status: trio.TaskStatus[None], message: Message) -> None:
        match message:
            case Hello(version, pid):
                self._welcome(slot, version, pid)
                task_status.started()
            case Report(counts):
                slot.counts = counts
                for name, drain in self._drainer.drains.items():
                    self._drainer.waits(drain, self.fleet.waiting_reason(name))
                self._reported.set()
                self._forget_empty()
            case Want():
                self._grants.wanted(slot, message)
            case PutBack(tokens):
                self._grants.put_back(tokens)
            case NodeDown(name, domain, reason) if name in self._cluster:
                self._checks.connect_failed(self._cluster.get(name), domain, reason)
            case NodeGoing(name) if name in self._cluster:
                self._checks.said_it_was_going(self._cluster.get(name), sessions=self._drainer.left(name))
            case NodeDown() | NodeGoing():
                pass  # it was forgotten meanwhile
            case Answer():
                slot.answer(message)
            case Redirected() | Resumable():
                for other in self.fleet:
                    if other is not slot:
                        other.post(message)
            case Stopped(cut):
                slot.state = State.STOPPING
                self._cut |= cut
            case _:
                raise BadMessage(f"{type(message).__name__} is the supervisor's to say")

    def _welcome(self, slot: Slot, version: int, pid: int) -> None:
        if version != VERSION or slot.state is not State.STARTING:
            raise BadMessage(f"a worker of version {version}, in state {slot.state}")
        slot.state = State.UP
        emit(_log, "worker-up", worker=slot.number, pid=pid)
        if self._stop.is_set():
            slot.post(Stop())

    def _forget_empty(self) -> None:
        before = len(self._cluster)
        self._nodes.forget_empty()
        if len(self._cluster) != before:
            self.tell_nodes()

    # --- nodes

    def _states(self) -> Nodes:
        drains = self._drainer.drains
        return Nodes(
            tuple(
                NodeState(
                    node.spec,
                    node.wish,
                    node.health,
                    node.removed,
                    hurried=node.name in drains and drains[node.name].hurried,
                )
                for node in self._cluster
            )
        )

    def tell_nodes(self) -> None:
        """Let all workers know how the nodes are now, and so what is to be moved."""
        states = self._states()
        for slot in self.fleet:
            slot.post_nodes(states)

    def _node_changed(self, node: Node) -> None:
        self.tell_nodes()

    # --- the operator

    def stop(self) -> None:
        """Accept nobody any more, and move the clients there are; :meth:`run` returns when they have gone."""
        if not self._stop.is_set():
            emit(_log, "stopping", sessions=self.fleet.sessions, within=self._config.timeouts.hard_stop_after)
            self._stop.set()
            self._close_sockets()
            for slot in self.fleet:
                slot.post(Stop())

    async def reload(self) -> str:
        """Read nodes and certificates again; what was done. Raises :class:`ConfigError`; what was bad, is as it was."""
        self._certificates.reload()
        try:
            done = self._nodes.reload_as_asked()
        finally:
            errors = await self.fleet.reload_certificates()
        if errors:
            raise ConfigError(errors[0])
        return done

    def reload_on_signal(self) -> None:
        """As :meth:`reload`, for SIGHUP: errors go to the log."""
        attempt("certificates", self._reload_certificates)
        attempt("nodes-file", self._nodes.reload_as_asked)

    def _reload_certificates(self) -> None:
        self._certificates.reload()
        self.fleet.tell_to_reload()


def _longer(pause: float) -> float:
    return min(max(_FIRST_PAUSE_SECONDS, pause * 2), _LONGEST_PAUSE_SECONDS)
