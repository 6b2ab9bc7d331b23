"""A fault in each kind of task (:class:`Task`): the proxy lives on, one line says so, and what goes on is tried again.

Each case runs a part of a proxy in which one function raises when it is called next. :data:`CASES` has one for each
member, so a new one fails here until it has its own.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import httpx2
import pytest
import trio
from fake_site import FakeSite
from fake_workers import House, house
from relay_twins import Deaf
from trio.testing import MockClock, memory_stream_pair

from cxfr_proxy import proxy as running
from cxfr_proxy.admin.console.history import History
from cxfr_proxy.admin.control import server as control_server
from cxfr_proxy.admin.control.client import Result, call
from cxfr_proxy.admin.http.server import HttpServer
from cxfr_proxy.cluster.assigned import Answers, Assigned, Pins
from cxfr_proxy.cluster.backends import EtcdBackends, FileBackends, parse_url
from cxfr_proxy.cluster.sources.etcd import EtcdSource
from cxfr_proxy.cluster.sources.file import NodesFile
from cxfr_proxy.config.table import Config, RebalanceMode
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.gc_policy import Turns
from cxfr_proxy.ipc.channel import StreamChannel
from cxfr_proxy.ipc.codec import MESSAGES
from cxfr_proxy.ipc.messages import AnswerPart, Ask, Hello, Message, WorkerReport
from cxfr_proxy.ipc.questions import CountStates
from cxfr_proxy.net import listen
from cxfr_proxy.net.arrival import Arrival
from cxfr_proxy.net.transport import PlainTransport
from cxfr_proxy.proxy import Proxy
from cxfr_proxy.relay.connection import ClientConnection
from cxfr_proxy.relay.live_session import LiveSession
from cxfr_proxy.relay.pump import Pump
from cxfr_proxy.relay.timers import Timers
from cxfr_proxy.relay.turns import Queue
from cxfr_proxy.supervisor.orders.rolls import Rolls
from cxfr_proxy.supervisor.orders.state_keeper import StateKeeper
from cxfr_proxy.supervisor.peer_proxies import PeerProxies
from cxfr_proxy.supervisor.reading.reloading import Reloading
from cxfr_proxy.supervisor.reading.user_list import UserList
from cxfr_proxy.supervisor.service_reports import ServiceReports
from cxfr_proxy.supervisor.upgrading.successor import Upgrades
from cxfr_proxy.supervisor.vacancy import Vacancy
from cxfr_proxy.supervisor.workers.grants import Grants
from cxfr_proxy.supervisor.workers.link import Link
from cxfr_proxy.supervisor.workers.node_states import NodeUpdates
from cxfr_proxy.supervisor.workers.rolling_restart import RollingRestart
from cxfr_proxy.supervisor.workers.worker_slots import WorkerSlots
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.tasks import Task
from cxfr_proxy.transfers.drains import Drains
from cxfr_proxy.transfers.mover import Mover
from cxfr_proxy.transfers.rebalances import Rebalances
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.upstream.health_checks import HealthChecks
from cxfr_proxy.upstream.user_lookup import UserLookup
from cxfr_proxy.worker import queries
from cxfr_proxy.worker.reports import CountReports
from cxfr_proxy.worker.service import Service
from cxfr_proxy.worker.worker import Worker


class Defect(Exception):
    """Nobody has foreseen it."""


class World:
    """``fail`` makes a function raise once; ``failed`` and ``called_again`` say what became of it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: MockClock) -> None:
        self.tmp_path = tmp_path
        self._monkeypatch = monkeypatch
        self.clock = clock
        self.failed = trio.Event()
        self.called_again = trio.Event()
        self.stops = False

    def fail(self, owner: object, name: str) -> None:
        usual = getattr(owner, name)

        def once(*arguments: object, **named: object) -> object:
            if not self.failed.is_set():
                self.failed.set()
                raise Defect
            self.called_again.set()
            return usual(*arguments, **named)

        self._monkeypatch.setattr(owner, name, once)

    def uses_sockets(self) -> None:
        """They need real time, so the clock jumps only when nothing has come for a while."""
        self.clock.autojump_threshold = 0.05

    @asynccontextmanager
    async def supervisor(self) -> AsyncIterator[House]:
        async with house(self.tmp_path) as it:
            yield it
            await trio.sleep(30)  # nobody has died of it
            assert len(it.workers) == 2

    @asynccontextmanager
    async def proxy(self, *, http: bool = False) -> AsyncIterator[Proxy]:
        self.uses_sockets()
        nodes = self.tmp_path / "nodes.txt"
        nodes.write_text("node1 127.0.0.1:1 check=none\n")
        config = Config(
            backends=FileBackends(str(nodes)),
            listen=(ListenAddress("127.0.0.1", 0),),
            control=self.tmp_path / "c.sock",
            workers=1,
            rebalance=RebalanceMode.MANUAL,
            http=ListenAddress("127.0.0.1", 0) if http else None,
        )
        proxy = Proxy(config)
        ended = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._run, proxy, ended)
            yield proxy
            assert self.stops or not ended.is_set()
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _run(proxy: Proxy, ended: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        await proxy.run(task_status=task_status)
        ended.set()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Supervised]:
        """One that serves, and its supervisor's end of the channel."""
        ours, theirs = memory_stream_pair()
        async with house(self.tmp_path) as it, trio.open_nursery() as nursery:
            setup = it.workers[1].setup
            worker = Worker(
                StreamChannel(theirs, MESSAGES), await trio.open_tcp_listeners(0, host="127.0.0.1"), lambda config: None
            )
            supervised = Supervised([])
            channel = StreamChannel(ours, MESSAGES)
            supervised.post = channel.post
            nursery.start_soon(channel.run, supervised.heard.append)
            nursery.start_soon(worker.run)
            channel.post(setup)
            for piece in it.workers[1].pieces:
                channel.post(piece)
            await supervised.until(Hello)
            yield supervised
            nursery.cancel_scope.cancel()


@dataclass
class Supervised:
    heard: list[Message]
    post: Callable[[Message], None] = lambda message: None

    async def until(self, kind: type[Message]) -> Message:
        with trio.fail_after(60):
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        return message
                await trio.sleep(0.1)


async def again(world: World) -> None:
    with trio.fail_after(60):
        await world.called_again.wait()


async def connect(proxy: Proxy) -> trio.SocketStream:
    return await trio.open_tcp_stream(*proxy.addresses[0])


# --- what the supervisor, or the one process, does


async def in_the_supervisor(world: World, owner: object, name: str, *, ask: Callable[[House], None]) -> None:
    """A task that is begun with it, or does something when asked."""
    async with world.supervisor() as it:
        world.fail(owner, name)
        for _ in range(2):
            ask(it)
            await trio.sleep(5)
        await again(world)


async def from_the_start(world: World, owner: object, name: str) -> None:
    world.fail(owner, name)
    async with world.supervisor():
        await again(world)


def change_nodes(it: House) -> None:
    it.nodes.write_text(it.nodes.read_text() + f"more{len(it.nodes.read_text())} 10.0.0.9 check=none\n")


def report(it: House) -> None:
    it.workers[1].report()


def roll(it: House) -> None:
    roller = it.supervisor.console.rolls.roller
    if roller.current is None:
        roller.begin(("node1",), by_command=False)


async def a_worker(world: World) -> None:
    async with world.supervisor() as it:
        world.fail(Link, "live")
        it.workers[1].die()
        await again(world)


async def a_command(world: World) -> None:
    async with world.proxy() as proxy:
        world.fail(control_server, "_receive_request")
        path = world.tmp_path / "c.sock"
        async with await trio.open_unix_socket(str(path)) as stream:
            assert await stream.receive_some() == b""
        async with aclosing(call(path, "show", {"what": "nodes"})) as answers:
            assert [type(each) async for each in answers] == [Result]
        assert proxy.addresses


async def a_scrape(world: World) -> None:
    world.fail(HttpServer, "_converse")
    fake = FakeSite()
    http = HttpServer(fake.site, fake.certificate)
    for expected in (b"", b"HTTP/1.1 200 "):
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            await ours.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            nursery.start_soon(http.serve, theirs)
            assert (await ours.receive_some()).startswith(expected)
            await ours.aclose()


async def a_signal(world: World) -> None:
    obeyed: list[str] = []

    class Obedient:
        async def run(self) -> None: ...

        def stop(self) -> None:
            obeyed.append("stop")

        def reload_on_signal(self) -> None:
            obeyed.append("reload")
            raise Defect

        def upgrade_on_signal(self) -> None:
            obeyed.append("restart")

    async def signals() -> AsyncGenerator[int, None]:
        for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM):
            yield number

    async with aclosing(signals()) as received:
        await running._take_signals(Obedient(), received, trio.CancelScope())
    assert obeyed == ["reload", "restart", "stop"]


async def etcd(world: World) -> None:
    backends = parse_url("etcd://127.0.0.1:1/cxfr")
    assert isinstance(backends, EtcdBackends)
    source = EtcdSource(backends, identity="one")
    world.fail(EtcdSource, "_keep_up")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run)
        await world.failed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert source.status.reason is not None
        await again(world)
        nursery.cancel_scope.cancel()


# --- what serves clients


async def a_lookup(world: World) -> None:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        raise Defect

    assigned = Assigned(Pins(), Answers(60.0, trio.current_time))
    lookup = UserLookup("http://127.0.0.1:1/{jid}", 1.0, assigned, {"node1"}, transport=httpx2.MockTransport(answer))
    async with trio.open_nursery() as nursery:
        await nursery.start(lookup.run)
        await lookup.find("romeo@example.org")
        nursery.cancel_scope.cancel()
    assert sum(lookup.outcomes.values()) == 1


async def accepting(world: World) -> None:
    async with world.proxy() as proxy:
        world.fail(listen, "_accept_some")
        async with await connect(proxy):
            await again(world)


async def a_connection(world: World) -> None:
    async with world.proxy() as proxy:
        world.fail(ClientConnection, "accept")
        async with await connect(proxy) as first:
            assert await first.receive_some() == b""
            async with await connect(proxy):
                await again(world)


async def the_pump(world: World) -> None:
    world.fail(Pump, "_turn")
    pump = Pump(write_stall_timeout=30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        pump._serve_later(None, Queue())  # type: ignore[arg-type]
        await again(world)
        nursery.cancel_scope.cancel()
    pump.close()


async def timers(world: World) -> None:
    rung: list[int] = []

    def ring(when: float, key: int) -> None:
        rung.append(key)
        if key == 1:
            raise Defect

    it = Timers(ring)
    it.set(trio.current_time() + 1, 1)
    it.set(trio.current_time() + 1, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.run)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert rung == [1, 2]


async def a_session(world: World) -> None:
    """More of it: tests/relay/test_relay_pump.py."""
    pump = Pump(write_stall_timeout=30.0)
    over: list[LiveSession] = []
    client, node = socket.socketpair(), socket.socketpair()

    class Faulty:
        fast = (None, None)

        def wants(self, side: object) -> bool:
            return True

        def due(self, *, backlogged: bool) -> None:
            return None

        def start(self, now: float) -> None:
            raise Defect

        def stop(self, now: float) -> list[object]:
            return []

    class Listening(Deaf):
        def session_over(self, live: LiveSession) -> None:
            over.append(live)

    live = pump.relay(
        Faulty(),  # type: ignore[arg-type]
        PlainTransport.adopt(client[0]),
        PlainTransport.adopt(node[0]),
        session_id=1,
        arrival=Arrival("", None),
        listener=Listening(),
    )
    live.start()
    assert over == [live]
    assert (client[1].recv(1), node[1].recv(1)) == (b"", b"")
    pump.close()
    for sock in (client[1], node[1]):
        sock.close()


async def the_mover(world: World) -> None:
    world.fail(Mover, "_wait_for_work")
    async with world.proxy():
        await again(world)


async def looking_again(world: World) -> None:
    world.fail(Mover, "_look_at_the_leaving")
    async with world.proxy() as proxy:
        for _ in range(2):
            proxy.console.drains.begin("node1", force=True)
            proxy.console.drains.undrain("node1")
            await trio.sleep(5)
        await again(world)


async def the_end(world: World) -> None:
    """A client is there, so that somebody has to be sent off."""
    world.fail(Service, "_send_off")
    async with world.proxy() as proxy, await connect(proxy) as client:
        await client.send_all(b"<")
        await trio.sleep(1)
        world.stops = True
        proxy.stop()
        await again(world)


# --- what a worker does for its supervisor


async def an_answer(world: World) -> None:
    async with world.worker() as it:
        world.fail(queries, "session_states")
        it.post(Ask(7, CountStates()))
        answer = await it.until(AnswerPart)
        assert isinstance(answer, AnswerPart)
        assert (answer.request, answer.last, bool(answer.error)) == (7, True, True)


async def reports(world: World) -> None:
    world.fail(CountReports, "report")
    async with world.worker() as it:
        it.post(Ask(7, CountStates()))
        await it.until(WorkerReport)


Case = Callable[[World], Awaitable[None]]

CASES: Final[dict[Task, Case]] = {
    Task.ACCEPT: accepting,
    Task.ANSWER: an_answer,
    Task.CHECK: partial(from_the_start, owner=HealthChecks, name="_check"),
    Task.CONNECTION: a_connection,
    Task.CONTROL: a_command,
    Task.DRAINS: partial(
        in_the_supervisor, owner=Drains, name="_see", ask=lambda it: it.supervisor.console.drains.begin("node1")
    ),
    Task.ELSEWHERE: partial(in_the_supervisor, owner=Workers, name="send_elsewhere", ask=report),
    Task.ETCD: etcd,
    Task.FEATURES: partial(in_the_supervisor, owner=CommonFeatures, name="compare", ask=change_nodes),
    Task.GRANTS: partial(from_the_start, owner=Grants, name="next"),
    Task.HISTORY: partial(from_the_start, owner=History, name="_take"),
    Task.HTTP: a_scrape,
    Task.LOOKING: looking_again,
    Task.LOOKUP: a_lookup,
    Task.MESSAGE: partial(in_the_supervisor, owner=Link, name="_note", ask=report),
    Task.MOVER: the_mover,
    Task.PUMP: the_pump,
    Task.REBALANCE: partial(from_the_start, owner=Rebalances, name="look"),
    Task.RELOAD: partial(
        in_the_supervisor, owner=Reloading, name="reload", ask=lambda it: it.supervisor.reload_on_signal()
    ),
    Task.REPORT: reports,
    Task.RESTART: partial(
        in_the_supervisor, owner=RollingRestart, name="_replace", ask=lambda it: it.supervisor.console.workers.restart()
    ),
    Task.ROLL: partial(in_the_supervisor, owner=Rolls, name="_look", ask=roll),
    Task.SEND_OFF: the_end,
    Task.SERVICE_MANAGER: partial(from_the_start, owner=ServiceReports, name="_status"),
    Task.SESSION: a_session,
    Task.SHARING: partial(from_the_start, owner=PeerProxies, name="run"),
    Task.SIGNAL: a_signal,
    Task.SLOT: partial(from_the_start, owner=WorkerSlots, name="_wait_for_news"),
    Task.SOURCE: partial(in_the_supervisor, owner=NodesFile, name="next_reading", ask=change_nodes),
    Task.STATE: partial(
        in_the_supervisor, owner=StateKeeper, name="_write", ask=lambda it: it.supervisor.console.drains.begin("node1")
    ),
    Task.TELLING: partial(from_the_start, owner=NodeUpdates, name="batch"),
    Task.TIMERS: timers,
    Task.UPGRADE: partial(from_the_start, owner=Upgrades, name="run"),
    Task.USER_MAP: partial(from_the_start, owner=UserList, name="watch"),
    Task.VACANCY: partial(from_the_start, owner=Vacancy, name="_look"),
    Task.WORKER: a_worker,
}


@pytest.mark.parametrize("task", Task)
async def test_a_fault_ends_one_thing(
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    await CASES[task](World(tmp_path, monkeypatch, autojump_clock))
    faults = [record for record in caplog.records if record.msg == "fault"]
    told = [getattr(record, "cxfr_proxy_fields")["task"] for record in faults]  # noqa: B009 - no attribute of the type
    assert told == [str(task)]
    assert faults[0].exc_info is not None
    assert faults[0].exc_info[0] is Defect


async def test_a_fault_before_a_connection_is_served_loses_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """The code that counts it in relies on its being counted out."""
    world = World(tmp_path, monkeypatch, autojump_clock)
    async with world.proxy() as proxy:
        world.fail(Turns, "session_comes")
        async with await connect(proxy) as client:
            await client.send_all(b"<")
            await world.failed.wait()
            await client.send_eof()
            with trio.fail_after(60):
                while await client.receive_some():
                    pass
        with trio.fail_after(60):
            parts = proxy.worker.parts
            assert parts is not None
            while parts.service.room.taken:  # noqa: ASYNC110
                await trio.sleep(0.1)
    assert "fault" in caplog.messages
