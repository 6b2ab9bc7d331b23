"""A proxy without sessions, as commands see it: two nodes, and parts that note what they are asked for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio
from msgspec import Raw
from msgspec.structs import replace

from cxfr_proxy.admin.commands.callers import Caller, Role, Way
from cxfr_proxy.admin.commands.table import execute
from cxfr_proxy.admin.console.clients import ClientControl
from cxfr_proxy.admin.console.console import Console
from cxfr_proxy.admin.console.drains import DrainControl
from cxfr_proxy.admin.console.history import History
from cxfr_proxy.admin.console.nodes import NodeControl
from cxfr_proxy.admin.console.parts import About, Peers, Reloader, Roller, SessionLists, SettingsControl
from cxfr_proxy.admin.console.pins import PinControl
from cxfr_proxy.admin.console.rebalances import RebalanceControl
from cxfr_proxy.admin.console.reloads import ReloadPart, ReloadRefused
from cxfr_proxy.admin.console.rolls import RollControl
from cxfr_proxy.admin.console.upgrades import UpgradeControl
from cxfr_proxy.admin.console.workers import WorkerControl
from cxfr_proxy.admin.control.server import ControlDoor
from cxfr_proxy.admin.rows.codec import encode
from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.admin.rows.live_rows import SummaryRow
from cxfr_proxy.admin.rows.order_rows import (
    DrainPlan,
    DrainProgress,
    ForetoldRestart,
    PlannedMove,
    PlannedTarget,
    RebalancePlan,
    RebalanceProgress,
    RestartProgress,
    Returning,
    RollPlan,
    RollProgress,
    UpgradeProgress,
)
from cxfr_proxy.admin.rows.rows import (
    EventRow,
    HistoryRow,
    InfoRow,
    NodeRow,
    PinRow,
    ProxyRow,
    RollRow,
    SessionDetailsRow,
    SessionRow,
    SettingRow,
    SoftwareRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)
from cxfr_proxy.cluster.roll import Roll
from cxfr_proxy.errors import ConfigError, NoSuchSession

START = DrainProgress("node1", 3, 0, 0, 0, 0, 0, 3, finished=False, waiting_reason="the rate allows no more now")


@dataclass
class FakeConsole:
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
    upgrade: tuple[UpgradeProgress, ...] = (
        UpgradeProgress("start", 4712, None, 2, 2, 3, finished=False, failure=None),
        UpgradeProgress("move", 4712, "0.2.0", 2, 1, 3, finished=False, failure=None),
        UpgradeProgress("done", 4712, "0.2.0", 2, 0, 0, finished=True, failure=None),
    )
    roll_script: tuple[RollProgress, ...] = (
        RollProgress("node1", "drain", 2, 2, 40, 0, finished=False, reason=None),
        RollProgress("node1", "restart", 2, 2, 0, 40, finished=False, reason="its command runs"),
        RollProgress("node2", "drain", 2, 1, 0, 40, finished=False, reason=None, settling_seconds=2.5),
        RollProgress("node2", "return", 2, 1, 0, 90, finished=False, reason="it waits for checks"),
        RollProgress(None, "drain", 2, 0, 0, 90, finished=True, reason=None),
    )
    """Behind a row with the step ``restart`` it goes on when it was told of the restart."""
    roll_told: trio.Event = field(default_factory=trio.Event)
    roll_begun: Path | None = None
    planned_moves: list[PlannedMove] = field(
        default_factory=lambda: [PlannedMove("node1", "node3", 199), PlannedMove("node2", "node3", 101)]
    )
    stay_down: int = 0
    migrate: int = 0
    refused: str | None = None
    """Users whose logins would be."""
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
    """The addition to the answers of commands."""
    missing: list[str] = field(default_factory=list)
    """The omissions of all answers."""
    hangs: bool = False
    """A session's details never come."""
    not_kept: str | None = None
    """Why what was ordered is not on disk."""

    @property
    def console(self) -> Console:
        return Console(
            nodes=_Nodes(self),
            drains=_Drains(self),
            rebalances=_Rebalances(self),
            rolls=_Rolls(self),
            pins=_Pins(self),
            workers=_Workers(self),
            upgrades=_Upgrades(self),
            clients=_Clients(self),
            sessions=_Sessions(self),
            peers=_Peers(self),
            files=_Files(),
            settings=_Settings(self),
            about=_About(self),
            history=_History(),
            state=_State(self),
        )

    async def restarted_or_begun(self) -> None:
        """Wait until it was told of the restart, or ``roll_begun`` is there, which the command makes."""
        while not (self.roll_begun is not None and self.roll_begun.exists()):
            with trio.move_on_after(0.01):
                await self.roll_told.wait()
                return

    def check(self, node: str) -> None:
        if node not in ("node1", "node2"):
            raise ConfigError(f"unknown node {node!r}; known are node1, node2")

    async def send_interrupt(self) -> None:
        if self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()


class _Drains(DrainControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    def refused_without(self, node: str) -> str | None:
        self._fake.check(node)
        return self._fake.refused

    def begin(
        self,
        node: str,
        *,
        grace: float | None = None,
        deadline: float | None = None,
        rate: float | None = None,
        force: bool = False,
    ) -> None:
        self._fake.check(node)
        if self._fake.refused is not None and not force:
            raise ConfigError("nothing is done")
        self._fake.draining.add(node)
        self._fake.calls.append(("drain", node, grace, deadline, rate))

    async def plan(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> DrainPlan:
        fake = self._fake
        fake.check(node)
        fake.calls.append(("plan", node, grace, deadline, rate))
        targets = [PlannedTarget("node2", 1190), PlannedTarget(None, 10)]
        return DrainPlan(
            "node1",
            1200,
            700,
            targets,
            rate=50.0,
            seconds=72.5,
            stay_down=fake.stay_down,
            migrate=fake.migrate,
            refuses_logins=fake.refused,
        )

    def progress_rows(self) -> list[DrainProgress]:
        return [replace(START, node=node) for node in sorted(self._fake.draining)]

    def abort(self, node: str) -> None:
        self._fake.check(node)
        self._fake.calls.append(("abort", node))

    def undrain(self, node: str, *, rebalance: bool = True) -> None:
        self._fake.check(node)
        self._fake.draining.discard(node)
        self._fake.calls.append(("undrain", node) if rebalance else ("undrain", node, "no-rebalance"))

    async def follow(self, node: str) -> AsyncGenerator[DrainProgress, None]:
        fake = self._fake
        fake.check(node)
        try:
            for row in fake.script:
                yield row
                await trio.lowlevel.checkpoint()
            fake.waiting.set()
            if fake.interrupt:
                os.kill(os.getpid(), signal.SIGINT)
            if not fake.script[-1].finished:
                await trio.sleep_forever()
        finally:
            fake.waits_ended.append(node)
            fake.wait_ended.set()


@dataclass
class _State:
    fake: FakeConsole

    async def settle(self) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.fake.not_kept


class _Rolls(RollControl):
    """Its roller is the fake's."""

    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake
        self.roller = FakeRoller(fake)

    async def plan(self, nodes: Sequence[str], *, rate: float | None = None, deadline: float | None = None) -> RollPlan:
        for node in nodes:
            self._fake.check(node)
        restarts = [ForetoldRestart(node, 100 + 50 * place, 3.0) for place, node in enumerate(nodes)]
        return RollPlan(restarts, 200, 250, rate=50.0, seconds=5.0, migrate=20, refuses_logins=self._fake.refused)

    async def follow(self, *, runs: bool) -> AsyncGenerator[RollProgress, None]:
        with self.roller.running_commands() if runs else nullcontext():
            for row in self._fake.roll_script:
                yield row
                self._fake.waiting.set()
                if self._fake.interrupt:
                    await self._fake.send_interrupt()
                if runs and row.step == "restart":
                    await self._fake.restarted_or_begun()

    def abort(self) -> str:
        return f"{self.roller.abort()} stays as it is"

    def rows(self) -> list[RollRow]:
        return [
            RollRow("node1", "done", 0, 12),
            RollRow("node2", "restart", 3, 9, "restarting it has failed: \x1b[1mno", stopped=True),
        ]


class FakeRoller(Roller):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    @property
    def last(self) -> Roll | None:
        return None

    @property
    def current(self) -> Roll | None:
        return None

    def begin(
        self, nodes: Sequence[str], *, rate: float | None = None, deadline: float | None = None, by_command: bool
    ) -> None:
        for node in nodes:
            self._fake.check(node)
        self._fake.calls.append(("roll", *nodes, rate, deadline, by_command))

    def proceed(self, *, by_command: bool) -> None:
        self._fake.calls.append(("roll-continue", by_command))

    def restarted(self, node: str) -> None:
        self._fake.check(node)
        self._fake.calls.append(("roll-restarted", node))
        self._fake.roll_told.set()

    def fail(self, reason: str) -> None:
        self._fake.calls.append(("roll-failed", reason))
        self._fake.roll_told.set()

    def abort(self) -> str:
        self._fake.calls.append(("roll-abort",))
        return "node1"

    @contextmanager
    def running_commands(self) -> Iterator[None]:
        self._fake.calls.append(("roll-runs",))
        yield


class _Rebalances(RebalanceControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    def begin(self, *, rate: float | None = None, max_share: float | None = None) -> None:
        self._fake.calls.append(("rebalance", rate, max_share))

    async def plan(self, *, rate: float | None = None, max_share: float | None = None) -> RebalancePlan:
        fake = self._fake
        fake.calls.append(("plan-rebalance", rate, max_share))
        return RebalancePlan(300, 40, fake.planned_moves, rate=50.0, seconds=6.0, stay_down=fake.stay_down)

    def progress_rows(self) -> list[RebalanceProgress]:
        return []

    async def plan_return(self, node: str) -> Returning:
        return replace(self._fake.returning, node=node)

    def stop(self) -> None:
        self._fake.calls.append(("stop-rebalance",))

    async def follow(self) -> AsyncGenerator[RebalanceProgress, None]:
        for row in self._fake.rebalance_script:
            yield row
            await trio.lowlevel.checkpoint()
        await self._fake.send_interrupt()


class _Nodes(NodeControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    async def move(self, address: str, node: str) -> int:
        self._fake.check(node)
        self._fake.calls.append(("move", address, node))
        return self._fake.sessions_count

    async def rows(self) -> list[NodeRow]:
        return await self.known_rows()

    async def known_rows(self) -> list[NodeRow]:
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


class _Pins(PinControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    def pin(self, user: str, node: str) -> None:
        self._fake.check(node)
        self._fake.calls.append(("pin", user, node))

    def unpin(self, user: str) -> None:
        self._fake.calls.append(("unpin", user))

    async def rows(self) -> list[PinRow]:
        return [PinRow("juliet@example.org", "node1", 2, []), PinRow("romeo@example.org", "node1", 0, ["node2", "old"])]


class _Workers(WorkerControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    async def rows(self) -> list[WorkerRow]:
        return self.known_rows()

    def progress_rows(self) -> list[RestartProgress]:
        return []

    def known_rows(self) -> list[WorkerRow]:
        return [WorkerRow(1, 4711, "up", 12, 15, 0), WorkerRow(2, None, "starting", 0, 0, 2, 1)]

    def restart(self) -> None:
        self._fake.calls.append(("restart-workers",))

    async def follow(self) -> AsyncGenerator[RestartProgress, None]:
        for row in self._fake.restart:
            yield row
            await trio.lowlevel.checkpoint()
        await self._fake.send_interrupt()


class _Upgrades(UpgradeControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    def begin(self, program: Path | None = None) -> None:
        self._fake.calls.append(("upgrade", program))

    async def until_decided(self) -> None:
        await trio.lowlevel.checkpoint()

    async def follow(self) -> AsyncGenerator[UpgradeProgress, None]:
        for row in self._fake.upgrade:
            yield row
            await trio.lowlevel.checkpoint()
        await self._fake.send_interrupt()


class _Clients(ClientControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    async def sessions(self, wanted: SessionFilter) -> FoundSessions:
        self._fake.calls.append(("sessions", wanted))
        row = SessionRow(1, self._fake.jid, "node1", "bound", "TLSv1.3", True, "192.0.2.1:40000", 3721.0, 0.25, None)
        numbers = range(1, self._fake.sessions_count + 1)
        rows = [Raw(encode(replace(row, id=number))) for number in numbers]
        return FoundSessions(rows[: wanted.limit], len(rows))

    async def details(self, session_id: int) -> SessionDetailsRow:
        if self._fake.hangs:
            await trio.sleep_forever()
        if session_id > self._fake.sessions_count:
            raise NoSuchSession(f"there is no session {session_id}")
        return SessionDetailsRow(
            id=session_id,
            jid=self._fake.jid,
            state="bound",
            node="node1",
            home=None,
            worker=2,
            client_address="192.0.2.1",
            client_port=40000,
            via=None,
            unique_id=None,
            domain="example.org",
            server_name="example.org",
            transport="tcp",
            tls="TLSv1.3",
            age_seconds=3721.0,
            idle_seconds=0.25,
            inactive=False,
            software="slixmpp",
            caps="http://slixmpp.com/ver/1.8.5#x",
            agent=None,
            stays_down=False,
            stream_management=True,
            resumable=True,
            transfer=None,
            transfer_target=None,
            transfer_trigger=None,
            transfer_seconds=None,
            held_seconds=None,
            unsent_to_client=0,
            unsent_to_node=20_480,
        )

    async def kick(self, address: str) -> int:
        self._fake.calls.append(("kick", address))
        if not self._fake.sessions_count:
            raise NoSuchSession(f"{address} has no session")
        return self._fake.sessions_count


class _About(About):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    def summary(self) -> SummaryRow:
        return SummaryRow("serving", 2, 1, 2, self._fake.sessions_count, 0, 15, 500, 20, 1, 3, 2, 50.0)

    async def info(self) -> InfoRow:
        return InfoRow(
            version="1.2.3",
            engine="framer native, relay native",
            python="3.13.1",
            openssl="3.5.0",
            pid=4711,
            started="2026-01-31T12:00:00.000Z",
            up_seconds=190.0,
            state="serving",
            listen=["[::]:5222", "unix:/run/clients"],
            control="/run/cxfr-proxy/control.sock",
            http=None,
            config_file=None,
            state_file="/run/cxfr-proxy.sock.state",
            source="nodes.txt",
            nodes=2,
            nodes_usable=1,
            workers=2,
            sessions=12,
            connections=15,
            capacity=500,
            rate=50.0,
            certificates_until=None,
        )

    async def events(self) -> list[EventRow]:
        return [
            EventRow("2026-01-31T12:00:00.000Z", "INFO", "node-up", 1, "supervisor", "node=node2"),
            EventRow("2026-01-31T12:00:01.000Z", "WARNING", "node-down", 1, "supervisor", "node=node2 reason=timeout"),
            EventRow("2026-01-31T12:00:02.000Z", "ERROR", "no-node", 3, "worker 1", "domain=\x1b[2J"),
        ]


class _History(History):
    def __init__(self) -> None:
        pass

    def rows(self, limit: int | None = None) -> list[HistoryRow]:
        return [HistoryRow("2026-01-31T12:00:10.000Z", 10.0, 12, 3, 1, 4, 0, 1, 0)]

    def software_rows(self) -> list[SoftwareRow]:
        return [SoftwareRow("Gajim", transfers=5, moved=4, refused=0, silent=1, failed=0, returned=3)]


class _Sessions(SessionLists):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    def omissions(self) -> list[str]:
        return self._fake.missing

    async def transfer_rows(self) -> list[TransferRow]:
        return [TransferRow(1, self._fake.jid, "node1", None, "cxfr", None, 2.0, 2.0, "drain", "slixmpp")]


class _Peers(Peers):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    @property
    def caveat(self) -> str | None:
        return self._fake.alone

    def share_directive(self, node: str, *, rebalance: bool = True) -> None:
        pass

    def share_pin(self, user: str, node: str | None) -> None:
        pass

    def left_elsewhere(self, node: str) -> int | None:
        return 0

    def settles_elsewhere(self, node: str) -> bool:
        return False

    def source_row(self) -> SourceRow:
        return SourceRow("etcd://etcd1:2379/cxfr", "lost", 61.0, "no answer", 2, 2, 33.4, 1)

    def proxy_rows(self) -> list[ProxyRow]:
        return [ProxyRow("front1-0a1b2c", own=True, sessions=12, to_move=3)]


class _Files(Reloader):
    async def reload(self) -> str:
        fault = ConfigError("expected a host", file="nodes.txt", line=3, column=7)
        raise ReloadRefused([(ReloadPart.NODES, fault), (ReloadPart.SETTINGS, ConfigError("unknown setting 'x'"))])


class _Settings(SettingsControl):
    def __init__(self, fake: FakeConsole) -> None:
        self._fake = fake

    async def set(self, name: str, values: Sequence[str]) -> str:
        self._fake.calls.append(("set", name, values))
        return f"{name} is {' '.join(values)} now"

    async def unset(self, name: str) -> str:
        raise ConfigError(f"{name} is not set")

    def rows(self) -> list[SettingRow]:
        return [SettingRow("transfer-rate", "50/s", "100/s", "set", "at once")]


OPERATOR: Final = Caller("uid 0", Role.ADMIN, Way.CONTROL, pid=1)


@contextmanager
def proxy_in_thread(path: Path, fake: FakeConsole) -> Iterator[None]:
    """Serve ``fake`` on ``path`` from another thread, for tests of the command line, which has a trio of its
    own."""
    ready = threading.Event()
    stop: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlDoor(path).serve, partial(execute, fake.console))
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
