"""The running proxy: its parts put together, its tasks, its signals.

Data travels one way through it: accept -> sniff -> TLS -> opening -> place -> dial -> pump. An order travels the other
way: command, node list or a node's own end -> mover -> session -> IQ -> answer -> one log line and one counter.
"""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

import trio

from cxfr_proxy.admin import commands
from cxfr_proxy.cluster.nodes import Changes, Cluster, Node
from cxfr_proxy.cluster.sources.file import NodesFile
from cxfr_proxy.config import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.process.control import serve_control
from cxfr_proxy.process.operations import ProxyOperations
from cxfr_proxy.relay.check import Checks
from cxfr_proxy.relay.dial import Dialer
from cxfr_proxy.relay.listen import accept, bind
from cxfr_proxy.relay.pump import Pump, Relayed
from cxfr_proxy.relay.serve import ClientServer
from cxfr_proxy.relay.tls import ServerCertificates
from cxfr_proxy.session.commands import BoundTo, Ended, Event, Forged, NodeLost, Reason, Transferred, Warned
from cxfr_proxy.session.ladder import Order, Trigger
from cxfr_proxy.session.mover import Drain, Mover
from cxfr_proxy.session.registry import Registry

_TRIGGERS: Final = {
    Reason.NODE_SHUTDOWN: Trigger.NODE_SHUTDOWN,
    Reason.NODE_REDIRECTED: Trigger.NODE_REDIRECTED,
}
"""Why a session's node was lost, as the reason of its transfer; all else is a loss without a word."""

_log = logging.getLogger(__name__)


class Proxy:
    """One proxy. Reading the configuration's files happens in the constructor, which raises :class:`ConfigError`.

    ``operations`` is what an operator can do with it; ``addresses`` are the clients' sockets once it runs.
    """

    def __init__(self, config: Config) -> None:
        config.check_serving()
        assert config.backends is not None
        self._config = config
        self._file = NodesFile(config.backends)
        specs = self._file.load()
        self._cluster = Cluster(specs)
        self._registry = Registry(redirect_window=config.redirect_window)
        self._certificates = ServerCertificates(config.key_pairs, domains=config.domain)
        self._dialer = Dialer(config.timeouts, config.limits)
        self._dialer.check_files(specs)
        domain = config.domain[0] if config.domain else None
        self._checks = Checks(self._cluster, self._dialer, self._on_node_up, domain=domain)
        self._pump = Pump(write_stall_timeout=config.timeouts.write_stall_timeout)
        self._mover = Mover(self._cluster, self._registry, transfer_rate=config.transfer_rate, report=self._on_drain)
        self._server = ClientServer(
            config,
            cluster=self._cluster,
            registry=self._registry,
            pump=self._pump,
            dialer=self._dialer,
            checks=self._checks,
            certificates=self._certificates,
            observer=self._observe,
            on_gone=self._forget_empty_nodes,
        )
        self._listening = trio.CancelScope()
        self._stopping = False
        self._warned: set[tuple[str, str]] = set()
        self.addresses: list[tuple[str, int]] = []
        self.registry = self._registry
        self.operations = ProxyOperations(self._cluster, self._registry, self._mover, config.timeouts, self.reload)

    # --- tasks

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` has moved everybody, or until cancelled; ``started`` once clients can connect.

        Raises :class:`ConfigError`, alone or in an exception group, where a socket can't be had.
        """
        listeners = bind(self._config.listen)
        self.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
        with ExitStack() as held:
            held.callback(self._pump.close)
            for listener in listeners:
                held.callback(listener.socket.close)
            await self._run_tasks(listeners, task_status)

    async def _run_tasks(self, listeners: list[trio.SocketListener], task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as services:
            services.start_soon(self._pump.run)
            services.start_soon(self._mover.run)
            services.start_soon(self._watch_nodes)
            services.start_soon(self._checks.run)
            await services.start(serve_control, self._config.control, partial(commands.execute, self.operations))
            self._announce()
            task_status.started()
            async with trio.open_nursery() as clients:
                with self._listening:
                    await accept(listeners, self._server.serve, clients)
                self._server.open_no_more()
                clients.cancel_scope.deadline = trio.current_time() + self._config.timeouts.hard_stop_after
                await self._move_everybody()
            emit(_log, "stopped", cut=clients.cancel_scope.cancelled_caught, sessions=len(self._registry))
            services.cancel_scope.cancel()

    def _announce(self) -> None:
        if self._certificates.self_signed:
            emit(
                _log,
                "development-certificate",
                level=logging.WARNING,
                reason="no --certificate: clients see a self-signed one that is made anew at each start",
            )
        for problem in self._certificates.problems:
            emit(_log, "certificate", level=logging.WARNING, reason=problem)
        for host, port in self.addresses:
            emit(_log, "listening", address=host, port=port, nodes=len(self._cluster))

    # --- stopping

    def stop(self) -> None:
        """Accept nobody any more, and move the clients there are; :meth:`run` returns when they have gone."""
        if not self._stopping:
            self._stopping = True
            emit(_log, "stopping", sessions=len(self._registry), within=self._config.timeouts.hard_stop_after)
            self._listening.cancel()

    async def _move_everybody(self) -> None:
        """Tell each client to reconnect, in a third of the time there is: the rest is for going through with it."""
        sessions = list(self._registry)
        available = self._config.timeouts.hard_stop_after / 3
        pause = min(1.0 / self._config.transfer_rate, available / (len(sessions) or 1))
        for relayed in sessions:
            relayed.transfer(Order(Trigger.PROXY_STOP))
            await trio.sleep(pause)

    # --- the nodes' list

    async def _watch_nodes(self) -> None:
        while True:
            await self._file.wait_changed()
            self._try("nodes-file", self._reload_nodes)

    def _try(self, what: str, action: Callable[[], object]) -> None:
        """A bad file changes nothing and says so."""
        try:
            action()
        except ConfigError as exc:
            for error in getattr(exc, "errors", (exc,)):
                emit(_log, "reload-failed", level=logging.ERROR, what=what, error=str(error))

    def _reload_nodes(self) -> Changes:
        specs = self._file.load()
        self._dialer.forget()
        self._dialer.check_files(specs)
        changes = self._cluster.apply(specs)
        for name in changes.added:
            self._checks.expect(self._cluster.get(name))
        if changes:
            emit(
                _log,
                "nodes-changed",
                added=",".join(changes.added),
                removed=",".join(changes.removed),
                changed=",".join(changes.changed),
            )
        for node in self._cluster:
            if not node.leaving:
                self._mover.undrain(node.name)
        for name in changes.emptied:
            self._mover.drain(name)
        self._mover.look_again()
        self._forget_empty_nodes()
        return changes

    def _forget_empty_nodes(self) -> None:
        for node in self._cluster:
            if node.removed and not self._mover.left(node.name):
                self._cluster.forget(node.name)
                self._mover.undrain(node.name)

    def reload(self) -> str:
        """Read nodes and certificates again; what was done. Raises :class:`ConfigError`; what was bad, is as it was."""
        self._certificates.reload()
        changes = self._reload_nodes()
        emit(_log, "reloaded", nodes=len(self._cluster))
        parts = [
            f"{len(names)} {word}"
            for names, word in ((changes.added, "added"), (changes.removed, "removed"), (changes.changed, "changed"))
            if names
        ]
        return f"{len(self._cluster)} nodes ({', '.join(parts) or 'unchanged'}), certificates read again"

    def reload_on_signal(self) -> None:
        """As :meth:`reload`, for SIGHUP: errors go to the log."""
        self._try("certificates", self._certificates.reload)
        self._try("nodes-file", self._reload_nodes)
        emit(_log, "reloaded", nodes=len(self._cluster))

    def _on_drain(self, what: str, drain: Drain) -> None:
        counts = self._registry.of_node(drain.node)
        emit(
            _log,
            what,
            level=logging.WARNING if drain.waiting_reason is not None else logging.INFO,
            node=drain.node,
            sessions=counts.sessions,
            moved=counts.moved - drain.moved_before,
            reason=drain.waiting_reason,
        )

    def _on_node_up(self, node: Node) -> None:
        self._mover.look_again()

    # --- what sessions report

    def _observe(self, relayed: Relayed, event: Event) -> None:
        self._registry.note(relayed, event, trio.current_time())
        session = relayed.session
        match event:
            case BoundTo(full_jid):
                emit(_log, "bound", session=relayed.id, jid=full_jid, node=session.node, client=relayed.client_address)
                self._place_right(relayed)
            case NodeLost(reason):
                if reason is Reason.NODE_SHUTDOWN and session.node in self._cluster:
                    node = self._cluster.get(session.node)
                    self._checks.said_it_was_going(node, sessions=self._mover.left(node.name))
                trigger = _TRIGGERS.get(reason, Trigger.NODE_LOST)
                self._mover.enqueue_lost(relayed.id, trigger)
            case Transferred(order, tried, seconds):
                rung, outcome = tried[-1]
                emit(
                    _log,
                    "transfer",
                    session=relayed.id,
                    jid=session.full_jid,
                    source=session.node,
                    target=order.target,
                    server=str(order.server) if order.server is not None else None,
                    trigger=str(order.trigger),
                    rung=str(rung),
                    outcome=str(outcome),
                    tried=",".join(f"{rung}:{outcome}" for rung, outcome in tried),
                    seconds=round(seconds, 3),
                )
            case Ended(reason, condition, late, undelivered):
                emit(
                    _log,
                    "session-end",
                    session=relayed.id,
                    jid=session.full_jid,
                    node=session.node,
                    reason=str(reason),
                    condition=condition,
                    late=late or None,
                    undelivered=undelivered or None,
                )
            case Forged():
                emit(_log, "forged-transfer", level=logging.WARNING, session=relayed.id, node=session.node)
            case Warned(text):
                self._warn_once(session.node, text)
            case _:
                pass

    def _place_right(self, relayed: Relayed) -> None:
        """A session that becomes bound while its node is being emptied, or the proxy is, has to move on."""
        if self._stopping:
            # Not now: the session is in the middle of what it reports.
            order = Order(Trigger.PROXY_STOP)
            trio.lowlevel.current_trio_token().run_sync_soon(relayed.transfer, order)
        elif self._is_leaving(relayed.session.node):
            self._mover.enqueue_leaving(relayed.id)

    def _is_leaving(self, name: str) -> bool:
        """A node whose line went, and which was empty, may be forgotten while a client is being connected to it."""
        return name not in self._cluster or self._cluster.get(name).leaving

    def _warn_once(self, node: str, text: str) -> None:
        if (node, text) not in self._warned and len(self._warned) < 1000:
            self._warned.add((node, text))
            emit(_log, "node-warning", level=logging.WARNING, node=node, reason=text)


# --- the process


def run(config: Config) -> int:
    """Serve until a signal ends it; the exit code. Raises :class:`ConfigError` where it can't begin."""
    _raise_descriptor_limit()
    try:
        return trio.run(_serve, config)
    except BaseExceptionGroup as group:
        raise _only(group) from group


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one fault of the operator's in a group that nurseries made; the group itself where there is another."""
    config_errors, rest = group.split(ConfigError)
    if config_errors is None or rest is not None:
        return group
    leaf: BaseException = config_errors
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf


async def _serve(config: Config) -> int:
    proxy = Proxy(config)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, proxy, signals, nursery.cancel_scope)
            await proxy.run()
            nursery.cancel_scope.cancel()
    return 0


async def _obey(proxy: Proxy, signals: object, everything: trio.CancelScope) -> None:
    """TERM and INT: leave in good order; the second time, at once. HUP: read the files again."""
    asked_to_stop = False
    async for number in signals:  # type: ignore[attr-defined]
        if number == signal.SIGHUP:
            proxy.reload_on_signal()
        elif asked_to_stop:
            emit(_log, "stopped", cut=True)
            everything.cancel()
        else:
            asked_to_stop = True
            proxy.stop()


def _raise_descriptor_limit() -> None:
    """Two sockets a session: use what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
