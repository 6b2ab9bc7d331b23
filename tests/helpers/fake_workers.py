"""Workers that say what a test lets them say, over memory streams, and a supervisor that takes them for processes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
from trio.testing import memory_stream_pair

from cxfr_proxy.admin.rows.rows import TransferRow
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.config.source import ConfigSource
from cxfr_proxy.config.table import Config, RebalanceMode, Timeouts
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.ipc.channel import Receive, StreamChannel
from cxfr_proxy.ipc.codec import MESSAGES
from cxfr_proxy.ipc.messages import (
    VERSION,
    AnswerPart,
    Ask,
    Grant,
    Hello,
    Leave,
    Message,
    News,
    Nodes,
    NodeState,
    Remembered,
    Setup,
    Stop,
    Stopped,
    Want,
    WorkerCounts,
    WorkerReport,
)
from cxfr_proxy.ipc.questions import (
    ClientsMoved,
    CountStates,
    DrainPlanned,
    ListTransfers,
    MoveUser,
    PlanDrain,
    PlanRebalance,
    RebalancePlanned,
    ReportCounts,
    StateCounts,
    TakeSettings,
    TransferRows,
    WorkerQuestion,
    WorkerReply,
)
from cxfr_proxy.service_manager import ServiceManager
from cxfr_proxy.supervisor.supervisor import Supervisor
from cxfr_proxy.supervisor.upgrading.predecessor import Predecessor
from cxfr_proxy.supervisor.upgrading.successor import Program
from cxfr_proxy.transfers.client_news import AnyClientNews, ClientNews
from cxfr_proxy.transfers.counts import NodeCounts

Q = TypeVar("Q", bound=WorkerQuestion[WorkerReply])


class FakeChannel:
    """Keeps what is posted."""

    broken = False

    def __init__(self) -> None:
        self.posted: list[Message] = []

    def post(self, message: Message) -> None:
        self.posted.append(message)

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    async def run(self, receive: Receive) -> None:
        await trio.sleep_forever()


class FakeWorker:
    """Keeps what it hears. Greets, leaves and stops by itself where the house lets it; reports what ``counts`` says
    when asked, and uses each token at once, unless it hangs."""

    ends_unheard = True

    def __init__(self, house: House, listening: Sequence[socket.socket]) -> None:
        self.house = house
        self.listening = list(listening)
        self.hangs = False
        self.refuses: str | None = None
        """Why it can't take settings."""
        self.pid = 1000 + len(house.all)
        ours, theirs = memory_stream_pair()
        self.channel = StreamChannel(ours, MESSAGES)
        """The supervisor's end."""
        self._own_end = StreamChannel(theirs, MESSAGES)
        self.heard: list[tuple[float, Message]] = []
        self.counts = WorkerCounts()
        self._want = Want(0, 0, 0)
        self.states: dict[str, int] = {}
        self.plan: DrainForecast | None = None
        """Its forecast of a drain."""
        self.rebalance: RebalanceForecast | None = None
        """The same of a rebalance."""
        self.transfers: list[TransferRow] = []
        self.moves = 0
        """How many clients it has of a user who is to be moved."""
        self._ended = trio.Event()
        self._code = 0

    def of(self, kind: type) -> list[Message]:
        return [message for _, message in self.heard if isinstance(message, kind)]

    def news_of(self, *kinds: type[ClientNews]) -> list[ClientNews]:
        """The news of these kinds that it was told as they were made."""
        return [each.news for _, each in self.heard if isinstance(each, News) and isinstance(each.news, kinds)]

    @property
    def remembered(self) -> list[tuple[Any, ClientNews]]:
        """The news that it was told later, each with its age."""
        told = [message for _, message in self.heard if isinstance(message, Remembered)]
        return [(each.seconds_ago, each.news) for message in told for each in message.news]

    @property
    def setup(self) -> Setup:
        (setup,) = self.of(Setup)
        assert isinstance(setup, Setup)
        return setup

    @property
    def nodes(self) -> dict[str, NodeState]:
        """As it was told last."""
        known: dict[str, NodeState] = {}
        for piece in self.pieces:
            known |= {state.spec.name: state for state in piece.states}
            known = {name: state for name, state in known.items() if name not in piece.forgotten}
        return known

    @property
    def pieces(self) -> list[Nodes]:
        """The messages about nodes that it got; the first one has all of them."""
        return [message for _, message in self.heard if isinstance(message, Nodes)]

    def _hear(self, message: Message) -> None:
        self.heard.append((trio.current_time(), message))
        if self.hangs:
            return
        match message:
            case Nodes() if self.house.greet and len(self.pieces) == 1:
                self.greet()
            case Ask(request, question):
                if isinstance(question, ReportCounts | CountStates):
                    self.post(WorkerReport(self.counts))
                reply = self._reply(question)
                if reply is not None:
                    self.post(AnswerPart(request, reply))
                error = self.refuses if isinstance(question, TakeSettings) else None
                self.post(AnswerPart(request, last=True, error=error))
            case Grant(tokens):
                self._use(tokens)
            case Stop():
                self.end()
            case Leave() if self.house.leave:
                self.end()

    def _use(self, tokens: int) -> None:
        want = self._want
        lost, leaving = min(want.lost, tokens), min(want.leaving, max(0, tokens - want.lost))
        misplaced = max(0, want.misplaced - (tokens - lost - leaving))
        hurried = max(0, want.hurried - leaving)
        self.post(Want(want.lost - lost, want.leaving - leaving, want.used + tokens, misplaced, hurried))

    def _reply(self, question: WorkerQuestion[WorkerReply]) -> WorkerReply | None:
        match question:
            case CountStates():
                return StateCounts(self.states)
            case ListTransfers():
                return TransferRows(self.transfers)
            case PlanDrain():
                return DrainPlanned(self.plan) if self.plan is not None else None
            case PlanRebalance():
                return RebalancePlanned(self.rebalance) if self.rebalance is not None else None
            case MoveUser():
                return ClientsMoved(self.moves)
            case _:
                return None

    def asked(self, kind: type[Q]) -> list[Q]:
        """Return the questions of that kind that it was asked."""
        questions = [message.question for message in self.of(Ask) if isinstance(message, Ask)]
        return [question for question in questions if isinstance(question, kind)]

    def post(self, message: Message | AnyClientNews) -> None:
        """Say it."""
        if isinstance(message, Want):
            self._want = message
        self._own_end.post(message if isinstance(message, Message) else News(message))

    def greet(self) -> None:
        self.post(Hello(VERSION, self.pid))

    def end(self, *, cut: bool = False) -> None:
        """In good order."""
        self.house.nursery.start_soon(self._end, cut)

    async def _end(self, cut: bool) -> None:
        self.post(Stopped(cut))
        await self._own_end.flush()
        self.die(0)

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    def report(self, *, awaited: dict[str, int] | None = None, **nodes: NodeCounts) -> None:
        self.counts = WorkerCounts(sum(each.sessions for each in nodes.values()), nodes=nodes, awaited=awaited)
        self.post(WorkerReport(self.counts))

    def die(self, code: int = -9) -> None:
        if not self._ended.is_set():
            self._code = code
            self._ended.set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._own_end.run, self._hear)
            await self._ended.wait()
            nursery.cancel_scope.cancel()

    # --- as a process

    async def wait(self) -> int:
        await self._ended.wait()
        return self._code

    def kill(self) -> None:
        self.die()


class House:
    """A supervisor with fake workers. ``settings``: a settings file, with what differs from the house's own."""

    def __init__(
        self,
        tmp_path: Path,
        nursery: trio.Nursery,
        rebalance: RebalanceMode = RebalanceMode.MANUAL,
        settings: Path | None = None,
        manager: ServiceManager | None = None,
        predecessor: Predecessor | None = None,
        program: Program | None = None,
        http: ListenAddress | None = None,
    ) -> None:
        self.nursery = nursery
        self.all: list[FakeWorker] = []
        self.launched: list[float] = []
        self.greet = True
        self.leave = True
        self.refuse: OSError | None = None
        self.nodes = tmp_path / "nodes.txt"
        self.nodes.write_text("node1 10.0.0.1 check=none\nnode2 10.0.0.2 check=none\n")
        self.config = Config(
            backends=FileBackends(str(self.nodes)),
            listen=(ListenAddress("127.0.0.1", 0),),
            control=tmp_path / "c.sock",
            http=http,
            workers=2,
            transfer_rate=10.0,
            rebalance=rebalance,
            timeouts=Timeouts(hard_stop_after=3.0),
        )
        source = ConfigSource({"config": str(settings)} if settings is not None else {}, self.config)
        inherited = predecessor.for_clients if predecessor is not None else None
        self.supervisor = Supervisor(source.read(), self, source, inherited, manager, predecessor, program)

    async def launch(self, listening: Sequence[socket.socket]) -> FakeWorker:
        if self.refuse is not None:
            raise self.refuse
        worker = FakeWorker(self, listening)
        self.all.append(worker)
        self.launched.append(trio.current_time())
        self.nursery.start_soon(worker.run)
        await trio.lowlevel.checkpoint()
        return worker

    @property
    def workers(self) -> dict[int, FakeWorker]:
        """Those that are there, the newest by number."""
        return {worker.setup.number: worker for worker in self.all if worker.alive}


@asynccontextmanager
async def house(
    tmp_path: Path,
    rebalance: RebalanceMode = RebalanceMode.MANUAL,
    settings: Path | None = None,
    manager: ServiceManager | None = None,
) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path, nursery, rebalance, settings, manager)
        await nursery.start(it.supervisor.run)
        it.all.sort(key=lambda worker: worker.setup.number)  # they start in any order
        yield it
        nursery.cancel_scope.cancel()
