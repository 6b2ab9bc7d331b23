"""The running proxy: a supervisor, its workers, and the signals.

There is one assembly. The supervisor keeps what there is one of, and workers serve the clients. With ``--workers 1``
the one worker is in the supervisor's process, as it is in the demo and wherever a proxy is wanted inside another
program; with more, each is a process of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

import trio

from cxfr_proxy import gc_policy, signals
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit
from cxfr_proxy.net.connection_limit import raise_descriptor_limit
from cxfr_proxy.net.inherited import InheritedSockets, given_by_service_manager
from cxfr_proxy.net.names import look_up_apart
from cxfr_proxy.process_title import name_process
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.supervisor import Supervisor
from cxfr_proxy.supervisor.upgrading.predecessor import Predecessor
from cxfr_proxy.supervisor.upgrading.successor import Program
from cxfr_proxy.tasks import Task, isolated, start
from cxfr_proxy.worker.in_process import InProcessWorkers
from cxfr_proxy.worker.launch import WorkerProcesses
from cxfr_proxy.worker.worker import Worker

_log = logging.getLogger(__name__)


class Proxy:
    """One proxy. Certificates are read in the constructor, which raises :class:`ConfigError`; nodes by :meth:`run`.

    ``console`` is what an operator can get at; ``addresses`` are the clients' sockets once it runs. ``source``
    is where the settings come from; ``None``: from nowhere that could change. ``inherited`` sockets are used where they
    fit the settings; ``manager`` is told how the proxy is. ``predecessor`` is the one whose place it takes, ``program``
    what is started to take its place; ``None``: it can't be replaced.
    """

    def __init__(
        self,
        config: Config,
        source: ConfigSource | None = None,
        inherited: InheritedSockets | None = None,
        manager: ServiceManager | None = None,
        predecessor: Predecessor | None = None,
        program: Program | None = None,
    ) -> None:
        self._here = InProcessWorkers()
        launcher = self._here if config.workers == 1 else WorkerProcesses()
        self.supervisor = Supervisor(config, launcher, source, inherited, manager, predecessor, program)
        self.console = self.supervisor.console
        self.stop = self.supervisor.stop
        self.reload_on_signal = self.supervisor.reload_on_signal
        self.upgrade_on_signal = self.supervisor.upgrade_on_signal

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return self.supervisor.addresses

    @property
    def worker(self) -> Worker:
        """The one in this process. Raises :class:`LookupError` where there is none."""
        if self._here.latest is None:
            raise LookupError("all workers are in other processes")
        return self._here.latest.worker

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop` has moved everybody, or until cancelled; ``started`` once clients can connect.

        Raises :class:`ConfigError`, alone or in an exception group, where the nodes can't be read, a socket can't be
        had, or no worker lives.
        """
        async with self._here.running():
            await self.supervisor.run(task_status=task_status)


# --- the process


class Stoppable(Protocol):
    """The part of a :class:`Proxy` that signals use."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...

    def reload_on_signal(self) -> None: ...

    def upgrade_on_signal(self) -> None: ...


def run(config: Config, source: ConfigSource | None = None, handover: socket.socket | None = None) -> int:
    """Serve until a signal ends it; the exit code. Raises :class:`ConfigError` where it can't begin.

    ``source`` is where the settings come from; ``None``: from nowhere that could change. ``handover`` is the channel to
    the proxy whose place this one takes; ``None``: there is none.
    """
    inherited = given_by_service_manager(os.environ, os.getpid())
    manager = ServiceManager.of_environment(os.environ, os.getpid())
    program = Program.running(manager.variables)
    name_process("cxfr-proxy")
    raise_descriptor_limit()
    predecessor = Predecessor(handover) if handover is not None else None
    if predecessor is not None:
        inherited = predecessor.for_clients
        manager.wait_until_ready()
    try:
        return trio.run(_serve, partial(Proxy, config, source, inherited, manager, predecessor, program))
    except BaseExceptionGroup as group:
        raise only(group) from group


def only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the operator's fault where a group that nurseries made holds nothing else; else the group."""
    config_errors, rest = group.split(ConfigError)
    if config_errors is None or rest is not None:
        return group
    leaf: BaseException = config_errors
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf


async def _serve(assemble: Callable[[], Proxy]) -> int:
    look_up_apart()
    proxy = assemble()
    gc_policy.settle()
    with trio.open_signal_receiver(*signals.ALL) as received:
        signals.release()
        try:
            async with trio.open_nursery() as nursery:
                start(nursery, Task.SIGNAL, partial(_take_signals, proxy, received, nursery.cancel_scope))
                await proxy.run()
                nursery.cancel_scope.cancel()
        finally:
            signals.hold()  # there is nothing left that they could mean
    return 0


async def _take_signals(proxy: Stoppable, received: AsyncIterator[int], everything: trio.CancelScope) -> None:
    """TERM and INT: leave in good order; the second time, at once. HUP: read the files again. USR2: a new process."""
    asked_to_stop = False
    async for number in received:
        with isolated(Task.SIGNAL, signal=signal.Signals(number).name):
            if number == signal.SIGHUP:
                proxy.reload_on_signal()
            elif number == signal.SIGUSR2:
                proxy.upgrade_on_signal()
            elif number == signal.SIGUSR1:  # by default it would kill the proxy
                emit(_log, "signal-ignored", signal="SIGUSR1", reason="it means nothing to this program")
            elif asked_to_stop:
                emit(_log, "stopped", cut=True)
                everything.cancel()
            else:
                asked_to_stop = True
                proxy.stop()
