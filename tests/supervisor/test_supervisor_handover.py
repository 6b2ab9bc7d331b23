"""What an old and a new proxy tell each other, and what the new one counts."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio
from fake_workers import house
from waiting import until

from cxfr_proxy.admin.rows.rows import EventRow, WorkerRow
from cxfr_proxy.cluster.kept_state import KeptState
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.ipc.messages import Announced, BadMessage, EarlierNews, News
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.supervisor.upgrading.handover import (
    HANDOVER_VERSION,
    VARIABLE,
    HandedOver,
    HandoverBegins,
    HandoverMessage,
    NewsNoted,
    PredecessorCounts,
    PredecessorNews,
    SuccessorFailed,
    SuccessorReady,
    UnknownMessage,
    decode_handover,
    encode_handover,
    handover_channel,
    taking_the_place_of_another,
)
from cxfr_proxy.supervisor.upgrading.predecessor import Predecessor
from cxfr_proxy.supervisor.upgrading.successor import Program, Upgrades
from cxfr_proxy.supervisor.workers.workers import Workers
from cxfr_proxy.transfers.client_news import Moved, UserRedirected
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.statistics import PastTransfer, Totals, TransferStatistics, TriedRung

BEGINS = HandoverBegins(HANDOVER_VERSION, 4711, (), (), KeptState().encode().decode(), 4000, PredecessorCounts())
MOVED = PastTransfer("node1", Trigger.DRAIN, "Gajim", (TriedRung(Rung.CXFR, Outcome.MOVED),), 0.3)


def test_what_a_newer_version_has_added_is_passed_over() -> None:
    value = json.loads(encode_handover(BEGINS))
    value["mood"] = "gloomy"
    value["counts"] = {"sessions": 3, "totals": {"late": 1, "mood": 1}, "nodes": {"node1": {"moved": 2, "mood": 1}}}
    read = decode_handover(json.dumps(value).encode())
    assert isinstance(read, HandoverBegins)
    assert (read.counts.sessions, read.counts.totals.late, read.counts.nodes["node1"].moved) == (3, 1, 2)


def test_a_message_that_only_another_version_knows_is_passed_over() -> None:
    assert decode_handover(b'{"type":"Dance","steps":3}') == UnknownMessage()


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"type":3}', b"\xff", b'{"type":"SuccessorReady"}', b"[" * 9999])
def test_what_is_no_message(line: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_handover(line)


def a_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return ours, theirs


async def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = a_pair()
    one, other = handover_channel(ours), handover_channel(theirs)
    heard: list[HandoverMessage] = []
    long = SuccessorFailed("x" * 1_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, heard.append)
        nursery.start_soon(other.run, heard.append)
        for message in (long, NewsNoted(1), NewsNoted(2)):
            other.post(message)
        await other.flush()
        await until(lambda: len(heard) == 3)
        nursery.cancel_scope.cancel()
    assert heard == [long, NewsNoted(1), NewsNoted(2)]
    assert one.broken
    one.post(NewsNoted(3))  # nobody is there any more


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"", "the proxy that was to be replaced has ended"),
        (b"dance\n", "handover: "),
        (encode_handover(SuccessorReady("1")), "in a form that this version does not know"),
        (encode_handover(msgspec.structs.replace(BEGINS, version=99)), "in a form that this version does not know"),
    ],
)
def test_a_beginning_that_is_none(sent: bytes, says: str) -> None:
    ours, theirs = a_pair()
    with ours, theirs:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(ConfigError, match=says):
            Predecessor(theirs)


def fail_within(environ: dict[str, str], reason: str) -> None:
    with taking_the_place_of_another(environ) as end:
        if end is not None:
            end.close()
        raise ConfigError(reason)


def test_a_mistake_is_told_the_old_one_and_ends_the_new_one() -> None:
    ours, theirs = a_pair()
    environ = {VARIABLE: str(theirs.detach())}
    with ours:
        with pytest.raises(SystemExit):
            fail_within(environ, "no")
        assert environ == {}
        assert decode_handover(ours.recv(1000)) == SuccessorFailed("no")
    with pytest.raises(ConfigError, match="alone"):
        fail_within({}, "alone")
    with pytest.raises(ConfigError, match="expected the descriptor of a socket"):
        fail_within({VARIABLE: "x"}, "")


async def test_counts_go_on_and_session_numbers_begin_anew() -> None:
    old, new = Workers(2), Workers(3)
    old.note_transfer(7, "juliet@example.org/r", MOVED)
    old.slots[1].deaths = 2
    old.note_predecessor(PredecessorCounts(5, 6, {"node1": NodeCounts(5, moved=9)}, {"node1": 1}, Totals(late=4)))
    new.statistics.take_over(old.statistics.record())
    new.take_over_pasts(old.pasts())
    new.note_predecessor(old.own_counts())
    assert (new.sessions, new.of_node("node1").moved, new.awaited("node1"), new.totals().late) == (5, 9, 1, 4)
    assert [slot.deaths for slot in new.slots] == [0, 2, 0]
    assert 0 <= new.last_move("node1") - old.last_move("node1") < 60, (
        "a drained node settles as if nothing had happened"
    )
    assert list(new.statistics.transfers()) == list(old.statistics.transfers())
    new.begin_behind(4001)
    first = [slot.next_first_id(3) for slot in new.slots]
    assert min(first) > 4001 + 100_000
    assert len({each % 3 for each in first}) == 3


def test_statistics_are_written_and_read() -> None:
    counted = TransferStatistics()
    counted.add(MOVED)
    counted.add_return(MOVED, 2.0, resumed=True)
    text = msgspec.json.encode(counted.record())
    again = TransferStatistics()
    again.take_over(msgspec.json.decode(text, type=type(counted.record())))
    assert again.record() == counted.record()


class Host:
    """The new proxy, as the old one's messages reach it."""

    def __init__(self) -> None:
        self.counts: list[PredecessorCounts] = []
        self.news: list[EarlierNews] = []

    def note_predecessor_counts(self, counts: PredecessorCounts, workers: Sequence[WorkerRow]) -> None:
        self.counts.append(counts)
        self.workers = workers

    def note_predecessor_events(self, events: Sequence[EventRow]) -> None:
        self.events = events

    def note_predecessor_news(self, news: EarlierNews) -> None:
        self.news.append(news)

    def note_predecessor_transfer(self, ended: object) -> None:
        raise AssertionError


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


async def test_the_new_one_takes_over_when_it_is_told_and_notes_news() -> None:
    ours, theirs = a_pair()
    ours.sendall(encode_handover(BEGINS))
    predecessor, host, heard = Predecessor(theirs), Host(), list[HandoverMessage]()
    old = handover_channel(ours)
    moved = EarlierNews(0.0, Moved(7, "juliet@example.org/r", "192.0.2.1", "node1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(predecessor.run, host)
        async with trio.open_nursery() as talking:
            talking.start_soon(old.run, heard.append)
            old.post(PredecessorNews((raw(EarlierNews(3.0, UserRedirected("a@b"))), raw({"mood": 1}), raw(moved))))
            old.post(PredecessorCounts(2, 2, {"node1": NodeCounts(2, moved=3)}))
            old.post(HandedOver("{}", raw({}), {}))
            assert (await predecessor.hand_over()).state == "{}"
            await until(lambda: len(heard) == 2)
            talking.cancel_scope.cancel()
    assert {type(each) for each in heard} == {SuccessorReady, NewsNoted}
    assert host.news == [EarlierNews(3.0, UserRedirected("a@b")), moved]
    assert [each.sessions for each in host.counts] == [2, 0], "what it had is gone with it"
    assert host.counts[-1].nodes == {"node1": NodeCounts(0, moved=3)}


async def test_counts_that_can_not_be_read_are_left_out_and_what_decides_is_not() -> None:
    """The old one hears then that the new one listens no more, although that has a copy of its end for failures."""
    ours, theirs = a_pair()
    ours.sendall(encode_handover(BEGINS))
    host, heard = Host(), list[HandoverMessage]()
    with theirs.dup():
        predecessor = Predecessor(theirs)
        old = handover_channel(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(predecessor.run, host)
            nursery.start_soon(old.run, heard.append)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await old._stream.send_all(b'{"type":"PredecessorCounts","nodes":{"node1":{"sessions":"three"}}}\n')
            old.post(PredecessorCounts(2, 2))
            await until(lambda: host.counts)
            assert [each.sessions for each in host.counts] == [2]
            assert not predecessor.gone.is_set()
            await old._stream.send_all(b'{"type":"HandedOver","state":7}\n')
            await until(predecessor.gone.is_set)
            with trio.move_on_after(5):
                await until(lambda: old.broken)
            assert old.broken
            nursery.cancel_scope.cancel()


async def test_an_old_one_that_ends_before_it_has_handed_over() -> None:
    ours, theirs = a_pair()
    ours.sendall(encode_handover(BEGINS))
    predecessor = Predecessor(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(predecessor.run, Host())
        ours.close()
        with pytest.raises(ConfigError, match="has ended"):
            await predecessor.hand_over()


async def test_news_of_the_old_one_are_told_all_workers(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with house(tmp_path) as it:
        moved = Moved(7, "juliet@example.org/r", "192.0.2.1", "node1")
        it.supervisor._succession.note_predecessor_news(EarlierNews(0.0, moved))
        it.supervisor._succession.note_predecessor_news(EarlierNews(5.0, UserRedirected("a@b")))
        await trio.sleep(1)
        for worker in it.workers.values():
            assert worker.of(News) == [News(moved)]
            assert (5.0, UserRedirected("a@b")) in worker.remembered
        it.workers[1].post(moved)
        await trio.sleep(1)
        assert it.workers[1].of(Announced) == [Announced(7)], "nobody else has to know"


async def test_what_can_not_be_replaced(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with house(tmp_path) as it:
        with pytest.raises(ConfigError, match="a part of another program"):
            it.supervisor.upgrades.begin()
        upgrades = Upgrades(it.supervisor._succession, it.supervisor._feed, Program(["/bin/true"], ["-x"], {}))
        upgrades.begin()
        with pytest.raises(ConfigError, match="under way already"):
            upgrades.begin()
        it.supervisor.stop()
        with pytest.raises(ConfigError, match="stopping"):
            upgrades.begin()


async def test_a_containers_first_process_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as it:
        upgrades = Upgrades(it.supervisor._succession, it.supervisor._feed, Program(["/bin/true"], [], {}))
        with monkeypatch.context() as patched:
            patched.setattr("os.getpid", lambda: 1)
            with pytest.raises(ConfigError, match="first process of a container"):
                upgrades.begin()
        assert upgrades.last is None


def test_the_line_by_which_the_next_one_is_started() -> None:
    program = Program(["/opt/a/bin/cxfr-proxy"], ["--listen", "*:5222"], {})
    assert program.line(None) == ["/opt/a/bin/cxfr-proxy", "--listen", "*:5222"]
    assert program.line("/opt/b/bin/cxfr-proxy") == ["/opt/b/bin/cxfr-proxy", "--listen", "*:5222"]
