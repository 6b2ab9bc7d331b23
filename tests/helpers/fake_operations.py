"""A proxy without sessions: it does what :class:`Operations` promises, to two nodes, as fast as it is
asked."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from cxfr_proxy.admin.commands import Operations, execute
from cxfr_proxy.admin.control.server import serve_control
from cxfr_proxy.admin.rows import (
    DrainPlan,
    DrainProgress,
    NodeRow,
    PinRow,
    PlannedMove,
    PlannedTarget,
    ProxyRow,
    RebalancePlan,
    RebalanceProgress,
    RestartProgress,
    Returning,
    SessionRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)
from cxfr_proxy.errors import ConfigError

START = DrainProgress("node1", 3, 0, 0, 0, 0, 0, 3, finished=False, waiting_reason="the rate allows no more now")


@dataclass
class FakeOperations:
    """``script`` is what a wait reports; after it, a wait that isn't ``finished`` goes on for ever."""

    script: tuple[DrainProgress, ...] = (
        START,
        START,
        replace(START, asked=2, moved=1, refused=1, left=1, waiting_reason=None),
        replace(START, asked=3, moved=2, refused=1, left=0, finished=True, waiting_reason=None, returned=1),
    )
    restart: tuple[RestartProgress, ...] = (
        RestartProgress(2, 0, 2, 0, 0, finished=False, failure=None),
        RestartProgress(2, 1, 1, 40, 0, finished=False, failure=None),
        RestartProgress(2, 2, 0, 0, 0, finished=True, failure=None),
    )
    rebalance_script: tuple[RebalanceProgress, ...] = (
        RebalanceProgress(3, 0, 0, 0, 0, 0, 3, finished=False, waiting_reason=None),
        RebalanceProgress(3, 2, 1, 1, 0, 0, 2, finished=False, waiting_reason=None),
        RebalanceProgress(3, 3, 3, 1, 0, 0, 0, finished=True, waiting_reason=None),
    )
    planned_moves: list[PlannedMove] = field(
        default_factory=lambda: [PlannedMove("node1", "node3", 199), PlannedMove("node2", "node3", 101)]
    )
    stay_down: int = 0
    refused: str | None = None
    """Whose logins would be."""
    returning: Returning = field(default_factory=lambda: Returning("", up=True, to_move=0, held=0, begins_in=5.0))
    interrupt: bool = False
    """Send this process the Ctrl-C of an operator once the script is through."""
    draining: set[str] = field(default_factory=set)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    waits_ended: list[str] = field(default_factory=list)
    waiting: trio.Event = field(default_factory=trio.Event)
    wait_ended: trio.Event = field(default_factory=trio.Event)
    jid: str = "juliet@example.org/balcony"
    sessions_count: int = 1
    alone: str | None = None
    """What is to be added to the answers of orders."""
    missing: list[str] = field(default_factory=list)
    """What is missing from all answers."""

    def _check(self, node: str) -> None:
        if node not in ("node1", "node2"):
            raise ConfigError(f"unknown node {node!r}; known are node1, node2")

    def refused_without(self, node: str) -> str | None:
        self._check(node)
        return self.refused

    def drain(self, node: str, *, grace: float | None, deadline: float | None, rate: float | None, force: bool) -> None:
        self._check(node)
        if self.refused is not None and not force:
            raise ConfigError("nothing is done")
        self.draining.add(node)
        self.calls.append(("drain", node, grace, deadline, rate))

    async def plan_drain(
        self, node: str, *, grace: float | None, deadline: float | None, rate: float | None
    ) -> DrainPlan:
        self._check(node)
        self.calls.append(("plan", node, grace, deadline, rate))
        targets = [PlannedTarget("node2", 1190), PlannedTarget(None, 10)]
        return DrainPlan(
            "node1", 1200, 700, targets, rate=50.0, seconds=72.5, stay_down=self.stay_down, refuses_logins=self.refused
        )

    def abort(self, node: str) -> None:
        self._check(node)
        self.calls.append(("abort", node))

    def undrain(self, node: str, *, rebalance: bool) -> None:
        self._check(node)
        self.draining.discard(node)
        self.calls.append(("undrain", node) if rebalance else ("undrain", node, "no-rebalance"))

    async def plan_return(self, node: str) -> Returning:
        return replace(self.returning, node=node)

    def caveat(self) -> str | None:
        return self.alone

    def omissions(self) -> list[str]:
        return self.missing

    async def wait_drained(self, node: str) -> AsyncGenerator[DrainProgress, None]:
        self._check(node)
        try:
            for row in self.script:
                yield row
                await trio.lowlevel.checkpoint()
            self.waiting.set()
            if self.interrupt:
                os.kill(os.getpid(), signal.SIGINT)
            if not self.script[-1].finished:
                await trio.sleep_forever()
        finally:
            self.waits_ended.append(node)
            self.wait_ended.set()

    def rebalance(self, *, rate: float | None, max_share: float | None) -> None:
        self.calls.append(("rebalance", rate, max_share))

    async def plan_rebalance(self, *, rate: float | None, max_share: float | None) -> RebalancePlan:
        self.calls.append(("plan-rebalance", rate, max_share))
        return RebalancePlan(300, 40, self.planned_moves, rate=50.0, seconds=6.0, stay_down=self.stay_down)

    def stop_rebalance(self) -> None:
        self.calls.append(("stop-rebalance",))

    async def wait_rebalanced(self) -> AsyncGenerator[RebalanceProgress, None]:
        for row in self.rebalance_script:
            yield row
            await trio.lowlevel.checkpoint()
        if self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()

    async def move(self, address: str, node: str) -> int:
        self._check(node)
        self.calls.append(("move", address, node))
        return self.sessions_count

    async def nodes(self) -> list[NodeRow]:
        return [
            NodeRow(
                "node1",
                "10.0.0.11:5222",
                "node1.example.org",
                "drain",
                "up",
                1,
                12,
                3,
                0,
                2,
                5,
                1,
                0,
                1,
                False,
                7,
                190.0,
                "ok 3 ms",
                1.5,
                0.35,
                returned=2,
                drain="awake",
            ),
            NodeRow(
                "node2",
                "10.0.0.12:5222",
                None,
                "ready",
                "down",
                20,
                1234,
                0,
                17,
                0,
                usable=False,
                check="timeout",
                check_seconds_ago=0.5,
            ),
        ]

    async def sessions(self) -> list[SessionRow]:
        row = SessionRow(1, self.jid, "node1", "bound", "TLSv1.3", True, "192.0.2.1:40000", 3721.0, 0.25, None)
        return [replace(row, id=number) for number in range(1, self.sessions_count + 1)]

    async def transfers(self) -> list[TransferRow]:
        return [TransferRow(1, self.jid, "node1", None, "cxfr", None, 2.0, 2.0, "drain", "slixmpp")]

    def pin(self, user: str, node: str) -> None:
        self._check(node)
        self.calls.append(("pin", user, node))

    def unpin(self, user: str) -> None:
        self.calls.append(("unpin", user))

    async def pins(self) -> list[PinRow]:
        return [PinRow("juliet@example.org", "node1", 2, []), PinRow("romeo@example.org", "node1", 0, ["node2", "old"])]

    async def workers(self) -> list[WorkerRow]:
        return [WorkerRow(1, 4711, "up", 12, 15, 0), WorkerRow(2, None, "starting", 0, 0, 2, 1)]

    async def source(self) -> list[SourceRow]:
        return [SourceRow("etcd://etcd1:2379/cxfr", "lost", 61.0, "no answer", 2, 2, 33.4, 1)]

    async def proxies(self) -> list[ProxyRow]:
        return [ProxyRow("front1-0a1b2c", own=True, sessions=12, to_move=3)]

    def restart_workers(self) -> None:
        self.calls.append(("restart-workers",))

    async def wait_restarted(self) -> AsyncGenerator[RestartProgress, None]:
        for row in self.restart:
            yield row
            await trio.lowlevel.checkpoint()
        if self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()

    async def reload(self) -> str:
        raise ConfigError("expected a host", file="nodes.txt", line=3, column=7)


def as_operations(fake: FakeOperations) -> Operations:
    """For mypy: the fake keeps the promise."""
    return fake


@contextmanager
def proxy_in_thread(path: Path, fake: FakeOperations) -> Iterator[None]:
    """Serve ``fake`` on ``path`` from another thread, for tests of the command line, which has a trio of its
    own."""
    ready = threading.Event()
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, partial(execute, as_operations(fake)))
            stop.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        if stop:
            token, scope = stop[0]
            token.run_sync_soon(scope.cancel)
        thread.join(10)
