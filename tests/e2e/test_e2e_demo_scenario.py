"""The demo's story, for the most part without the proxy: a splice carries the bytes, and the node is told to play the
proxy's part."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from waiting import PATIENCE_SECONDS, until

from cxfr_proxy import demo
from cxfr_proxy.demo import progress, proxy_beside
from cxfr_proxy.demo.account import MessageCounts
from cxfr_proxy.demo.cluster import NodeSession
from cxfr_proxy.demo.habits import HABITS, ClientKind, SeenRung
from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.proxy_beside import ProxySetup
from cxfr_proxy.demo.scenario import SHARES, DemoOptions, kinds_of, play
from cxfr_proxy.demo.screen import DemoOutcome, DemoSnapshot, KindRow, Screen, frame, line, table
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.session import exchanging
from cxfr_proxy.transfers import young_sessions
from cxfr_proxy.xmpp.names import StreamCondition

pytestmark = pytest.mark.usefixtures("engines")


class StandIn:
    """Connections go to the public address of ``here``; a drain tells node1's sessions to move, as a proxy would."""

    def __init__(self, nodes: list[DemoNode], address: HostPort) -> None:
        self.address = address
        self.nodes = nodes
        self.here = nodes[0]

    async def drain(self, node: str) -> None:
        source, self.here = self.nodes
        assert source.name == node
        for session in source.sessions:
            source.deliver(
                session.full_jid,
                f"<iq type='set' id='go' from='localhost' to='{session.full_jid}'><query xmlns='urn:xmpp:cxfr'>"
                f"<domain>localhost</domain><server>{self.here.public_address}</server></query></iq>".encode(),
            )
        mute = kinds_of(len(source.sessions)).count(ClientKind.MUTE)
        await until(
            lambda: sum(map(is_waited_for, source.sessions)) <= mute, "all have left or answered that ever will"
        )
        for session in source.sessions:
            if session.leg is None:
                continue
            if session.counters is not None:
                await source.cut(session.full_jid)
            elif "go" not in session.record.replies or session.record.replies["go"] == "error":
                source.end(session.full_jid, StreamCondition.SEE_OTHER_HOST, str(self.here.public_address))

    async def remove(self, node: str) -> None:
        await self.drain(node)

    def left(self, node: str) -> int:
        return len(self.nodes[0].sessions)

    def transfers(self) -> Counter[SeenRung]:
        return Counter()

    def returned(self) -> Counter[SeenRung]:
        return Counter()

    def warnings(self) -> Counter[str]:
        return Counter()

    async def splice(self, client: trio.SocketStream) -> None:
        assert self.here.public_address is not None
        async with (
            client,
            await trio.open_tcp_stream(*self.here.public_address) as node,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._carry, client, node, nursery.cancel_scope)
            nursery.start_soon(self._carry, node, client, nursery.cancel_scope)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()
        except trio.BrokenResourceError:
            scope.cancel()


def is_waited_for(session: NodeSession) -> bool:
    return session.leg is not None and "go" not in session.record.replies


@asynccontextmanager
async def stand_in(setting: ProxySetup) -> AsyncIterator[StandIn]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = StandIn(list(setting.nodes), HostPort(*listeners[0].socket.getsockname()))
        nursery.start_soon(trio.serve_listeners, proxy.splice, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxfr_proxy.demo.scenario.AHEAD_SECONDS", 0.3)
    monkeypatch.setattr("cxfr_proxy.demo.scenario.INTERVAL_SECONDS", 0.05)


@pytest.fixture
def _no_web_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in carries bytes to nodes, which speak no WebSocket."""
    shares = {kind: share for kind, share in SHARES.items() if not HABITS[kind].websocket}
    monkeypatch.setattr("cxfr_proxy.demo.scenario.SHARES", shares)


@pytest.mark.usefixtures("_no_web_clients")
async def test_everybody_moves_by_the_rung_of_their_kind() -> None:
    out = io.StringIO()
    with trio.fail_after(PATIENCE_SECONDS):
        outcome = await play(DemoOptions(clients=30), Screen(out), stand_in)
    assert outcome.faults == []
    assert outcome.good, outcome
    assert outcome.total.sent > 50
    rungs = {row.kind: row.moved for row in outcome.kinds}
    assert rungs == {
        kind: {rung: kinds_of(30).count(kind)}
        for kind, rung in {
            ClientKind.CXFR: SeenRung.CXFR,
            ClientKind.CXFR_SILENT: SeenRung.CXFR,
            ClientKind.SEE_OTHER_HOST: SeenRung.SEE_OTHER_HOST,
            ClientKind.PLAIN: SeenRung.SEE_OTHER_HOST,
            ClientKind.MUTE: SeenRung.SEE_OTHER_HOST,
            ClientKind.STREAM_MANAGEMENT: SeenRung.CUT,
        }.items()
    }
    assert "draining node1" in out.getvalue()


async def test_the_proxy_takes_sessions_to_the_other_node_and_the_table_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that has not turned stream management on when its turn comes is told to move, on a slow machine."""
    monkeypatch.setattr(proxy_beside, "CXFR_SECONDS", 0.3)
    monkeypatch.setattr(exchanging, "STEP_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(young_sessions, "SETTLED_SECONDS", 0.0)
    screen = Screen(out := io.StringIO())
    with trio.fail_after(PATIENCE_SECONDS):
        outcome = await play(DemoOptions(clients=30), screen)
    screen.conclude(outcome)
    assert outcome.good, outcome
    assert outcome.reported.keys() > {SeenRung.MIGRATE}, "the others have moved by other rungs"
    taken = outcome.reported[SeenRung.MIGRATE]
    assert sum(row.moved.get(SeenRung.MIGRATE, 0) for row in outcome.kinds) == taken
    assert all(HABITS[row.kind].resumes for row in outcome.kinds if row.moved.get(SeenRung.MIGRATE))
    assert outcome.returned[SeenRung.MIGRATE] == taken
    row = next(text for text in out.getvalue().splitlines() if text.startswith("  noticed nothing "))
    sent = outcome.by_rung[SeenRung.MIGRATE].sent
    assert row.split()[2:5] == [str(taken), str(taken), str(sent or "·")]


@pytest.mark.usefixtures("_no_web_clients")
async def test_a_node_that_is_not_emptied_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def do_nothing(proxy: StandIn, node: str) -> None:
        monkeypatch.setattr(progress, "LOOKS_IN_VAIN", 10)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(StandIn, "drain", do_nothing)
    screen = Screen(out := io.StringIO())
    with trio.fail_after(PATIENCE_SECONDS):
        outcome = await play(DemoOptions(clients=6), screen, stand_in)
    screen.conclude(outcome)
    assert (outcome.left, outcome.away, outcome.good) == (6, 0, False)
    assert "FAILED: nothing moved any more (draining node1, 6 to move), 6 sessions left on node1" in out.getvalue()


@pytest.mark.usefixtures("_no_web_clients")
async def test_nothing_is_drained_before_everybody_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that serves nobody: the clients come again and again, which is no progress."""

    async def refuse(proxy: StandIn, client: trio.SocketStream) -> None:
        await client.aclose()

    monkeypatch.setattr(progress, "LOOKS_IN_VAIN", 10)
    monkeypatch.setattr(StandIn, "splice", refuse)
    screen = Screen(out := io.StringIO())
    with trio.fail_after(PATIENCE_SECONDS):
        outcome = await play(DemoOptions(clients=6), screen, stand_in)
    screen.conclude(outcome)
    assert (outcome.left, outcome.away, outcome.good) == (0, 6, False)
    assert "draining" not in out.getvalue()
    assert "FAILED: nothing moved any more (logging in, 6 to come), 6 clients not online\n" in out.getvalue()


@pytest.mark.usefixtures("_no_web_clients")
def test_main_tells_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(DemoOptions(clients=6), stand_in) == 0
    assert "node1 emptied in" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 6, 7, 100, 201])
def test_kinds(count: int) -> None:
    kinds = kinds_of(count)
    assert len(kinds) == count
    assert count < len(SHARES) or set(kinds) == set(SHARES)


# ---- slow, or stuck ----


def test_something_new_from_time_to_time_is_progress() -> None:
    watch = progress.Patience()
    assert all(watch.look([number // progress.LOOKS_IN_VAIN]) for number in range(5 * progress.LOOKS_IN_VAIN))


def test_what_comes_and_goes_is_none() -> None:
    watch = progress.Patience()
    looks = 2
    assert all(watch.look([number % 2]) for number in range(looks))
    while watch.look([looks % 2]):
        looks += 1
    assert looks == progress.LOOKS_IN_VAIN + 1


# ---- the screen ----

ROWS = [
    KindRow(ClientKind.CXFR, 2, 1, {SeenRung.CXFR: 1}, MessageCounts(10, 10, 1, 0, 0, 0)),
    KindRow(ClientKind.MUTE, 1, 0, {SeenRung.SEE_OTHER_HOST: 1}, MessageCounts(5, 4, 0, 0, 0, 0)),
]
SNAPSHOT = DemoSnapshot(
    1.25, "draining node1", 3, {"node1": 1, "node2": 2}, ROWS, 15, 14, 1, [f"m{n}" for n in range(9)]
)


def test_frame_keeps_its_height_and_its_columns() -> None:
    lines = frame(SNAPSHOT, colour=False)
    assert len(lines) == len(frame(DemoSnapshot(0, "x", 3, SNAPSHOT.nodes, ROWS, 0, 0, 0), colour=False))
    columns = [text for text in lines if text.startswith(("  client", "  cxfr", "  mute"))]
    assert len(columns) == 3
    assert len({len(text) for text in columns}) == 1
    assert lines[-1].strip() == "m8"
    assert "m3" not in "".join(lines)


def test_line() -> None:
    assert "moved: cxfr 1, see-other-host 1" in line(SNAPSHOT)


@pytest.mark.parametrize(
    ("left", "away", "tally", "words"),
    [
        (0, 0, MessageCounts(), "node1 emptied in 2.0 s: 0 lost, 0 twice, of 15 messages"),
        (3, 0, MessageCounts(), "FAILED: 3 sessions left on node1"),
        (0, 1, MessageCounts(), "FAILED: 1 client not online"),
        (0, 0, MessageCounts(lost=1), "FAILED: 1 message lost"),
        (0, 0, MessageCounts(twice=2), "FAILED: 2 messages came twice"),
        (0, 0, MessageCounts(disordered=3), "FAILED: 3 messages out of order"),
    ],
)
def test_table_and_verdict(left: int, away: int, tally: MessageCounts, words: str) -> None:
    rows = [*ROWS, KindRow(ClientKind.PLAIN, 0, 0, {}, tally)]
    outcome = DemoOutcome("node1", 2.0, left, away, rows)
    lines = table(outcome, colour=False)
    assert lines[-1].strip() == words
    assert outcome.good == words.startswith("node1")
    assert len({len(text) for text in lines[1:6]}) == 1


@pytest.mark.parametrize("lost", [0, 4])
def test_what_a_node_took_along_is_shown_and_no_failure(lost: int) -> None:
    rows = [KindRow(ClientKind.PLAIN, 1, 0, {SeenRung.CUT: 1}, MessageCounts(20, 20, 0, 0, lost))]
    outcome = DemoOutcome(
        "node1",
        2.0,
        0,
        0,
        rows,
        {SeenRung.CUT: 7},
        by_rung={SeenRung.CUT: rows[0].tally},
        returned={SeenRung.CUT: 6},
        node_ended=True,
    )
    lines = table(outcome, colour=False)
    assert outcome.good
    assert ("the node's doing" in lines[-1]) == bool(lost)
    assert next(text for text in lines if text.startswith("  cut")).split() == [
        "cut",
        "7",
        "6",
        "20",
        "·",
        str(lost or "·"),
        "·",
        "·",
    ]
    assert all(len(text) <= 80 for text in lines)


def test_a_busy_machine_and_what_the_proxy_warned_of_stand_above_the_verdict() -> None:
    outcome = DemoOutcome("node1", 40.0, 0, 0, ROWS, warnings={"node-down": 2}, slowness=12.3)
    assert [text.strip() for text in table(outcome, colour=False)[-3:-1]] == [
        "the proxy warns: node-down (2)",
        "the machine is busy: all this took 12 times as long as usual",
    ]


def test_the_pace_follows_the_machine() -> None:
    pace = progress.Tempo()
    for _ in range(100):
        pace.looked(10 * progress.LOOK_SECONDS)
    assert pace.slowness == pytest.approx(10, rel=0.01)
    for _ in range(100):
        pace.looked(progress.LOOK_SECONDS)
    assert pace.slowness == pytest.approx(1, rel=0.01)
    assert pace.average == pytest.approx(5.5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_redrawn_in_place_and_a_pipe_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, pipe = Terminal(), io.StringIO()
    for out in (terminal, pipe):
        screen = Screen(out)
        screen.show(SNAPSHOT)
        screen.show(SNAPSHOT)
    height = len(frame(SNAPSHOT, colour=False))
    assert terminal.getvalue().count(f"\x1b[{height}F") == 1
    assert pipe.getvalue().count("\n") == 2
    assert "\x1b" not in pipe.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    Screen(terminal).show(SNAPSHOT)
    assert "\x1b[1m" not in terminal.getvalue()
