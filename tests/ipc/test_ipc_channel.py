"""Messages between supervisor and worker: what is written is read, and nothing else is."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from cxfr_proxy.admin.rows.codec import encode as encode_row
from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.admin.rows.rows import EventRow, SessionRow
from cxfr_proxy.cluster.backends import FileBackends
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast
from cxfr_proxy.cluster.targets import HostPattern
from cxfr_proxy.config.table import Config, KeyPair
from cxfr_proxy.config.values import ClientMatch, ListenAddress, Trait
from cxfr_proxy.ipc.channel import Channel, Lines, StreamChannel, in_memory
from cxfr_proxy.ipc.codec import KINDS, MESSAGES, decode, encode
from cxfr_proxy.ipc.messages import (
    VERSION,
    Announced,
    AnswerPart,
    Ask,
    BadMessage,
    EarlierNews,
    Elsewhere,
    Gone,
    Grant,
    Hello,
    Leave,
    Listed,
    Message,
    News,
    NodeFailsLogins,
    NodeGoing,
    Nodes,
    NodeServes,
    NodeState,
    NodeUnreachable,
    Pinned,
    PinnedBefore,
    Present,
    PutBack,
    Remembered,
    SessionsChanged,
    Setup,
    Stop,
    Stopped,
    TransferEnded,
    Want,
    WorkerCounts,
    WorkerReport,
)
from cxfr_proxy.ipc.questions import (
    ClientsMoved,
    CountStates,
    Done,
    DrainPlanned,
    EventRows,
    Files,
    FindPinned,
    FindSessions,
    KickUser,
    ListEvents,
    ListTransfers,
    MoveUser,
    PinnedUsers,
    PlanDrain,
    PlanRebalance,
    RebalancePlanned,
    ReportCounts,
    SessionRows,
    SessionsEnded,
    SessionShown,
    ShowSession,
    StateCounts,
    TakeSettings,
    TransferRows,
    WorkerQuestion,
    WorkerReply,
)
from cxfr_proxy.net.pem import CertificateFile, Pem
from cxfr_proxy.session.commands import Outcome
from cxfr_proxy.session.ladder import Rung, Trigger
from cxfr_proxy.transfers.client_news import (
    AnyClientNews,
    LandedWrong,
    Lost,
    Moved,
    Returned,
    SessionResumable,
    SoftwareLearned,
    Stayed,
    UserRedirected,
)
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drain_stages import Stage
from cxfr_proxy.transfers.rebalances import RebalanceCounts, RebalanceTerms
from cxfr_proxy.transfers.statistics import PastTransfer, Totals, TriedRung
from cxfr_proxy.xmpp.stream_management import Counters, Flow, Resumption

NODES = """
node1 10.0.0.11:5222 public=node1.example.org weight=2 state=drain
node2 [2001:db8::2]:5223 tls=direct ca=/etc/ca.pem verify-name=x.example send-proxy=v2 public=y.example:5222
node3 unix:/run/c2s
"""
CONFIG = Config(
    backends=FileBackends("nodes.txt"),
    listen=(ListenAddress(None, 5222), ListenAddress("::1", 0)),
    http=ListenAddress("127.0.0.1", 9222),
    domain=("example.org",),
    cxfr_deny=(ClientMatch(Trait.CAPS, "https://a.example#v="), ClientMatch(Trait.DOMAIN, "example.org")),
    redirect_targets=(HostPattern("*.example.org"), HostPattern("2001:db8::1")),
)

ints = st.integers(min_value=-(2**53), max_value=2**53)
texts = st.text(max_size=40)
pems = st.builds(Pem, texts, texts)
paths = st.builds(Path, st.sampled_from(["a.pem", "/k\udcff.pem"]))
files = st.builds(
    Files,
    st.tuples(st.builds(CertificateFile, st.builds(KeyPair, paths, paths), pems)),
    st.dictionaries(texts, texts),
    st.none() | pems,
    st.none() | texts,
)
taking = st.builds(TakeSettings, ints, st.just(CONFIG), files, st.booleans())
counted = st.dictionaries(texts, ints, max_size=4)
states = st.lists(
    st.builds(
        NodeState,
        st.sampled_from(parse_nodes(NODES, "nodes.txt")),
        st.sampled_from(AdminState),
        st.sampled_from(Health),
        st.booleans(),
        st.sampled_from(Stage),
    )
).map(tuple)
numbers = st.floats(min_value=0, allow_infinity=False)
some = st.lists(texts, max_size=3).map(tuple)
rebalancing = st.none() | st.builds(RebalanceTerms, ints, st.none() | numbers)
nodes = st.builds(Nodes, states, some, some, st.dictionaries(texts, texts, max_size=3), rebalancing, st.booleans())
rows = st.builds(
    SessionRow,
    ints,
    st.none() | texts,
    st.none() | texts,
    texts,
    st.none() | texts,
    st.booleans(),
    texts,
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none() | texts,
).map(lambda row: msgspec.Raw(encode_row(row)))
counts = st.builds(
    WorkerCounts,
    sessions=ints,
    nodes=st.none() | st.dictionaries(texts, st.builds(NodeCounts, ints, ints, ints, ints, ints, ints), max_size=3),
    waiting=st.none() | st.dictionaries(texts, texts, max_size=3),
    awaited=st.none() | counted,
    addresses=st.none() | counted,
    totals=st.builds(Totals, st.lists(ints, max_size=4), ints, ints, counted, counted, counted),
    rebalance=st.builds(RebalanceCounts, ints, st.booleans(), *[ints] * 7),
)
attempts = st.builds(TriedRung, st.sampled_from(Rung), st.sampled_from(Outcome))
past_transfers = st.builds(
    PastTransfer,
    texts,
    st.sampled_from(Trigger),
    texts,
    st.lists(attempts, min_size=1, max_size=3).map(tuple),
    st.floats(min_value=0, allow_infinity=False),
)
flows = st.builds(Flow, ints, ints, ints, st.lists(st.tuples(ints, ints), max_size=3).map(tuple))
resumptions = st.builds(Resumption, st.none() | texts, texts, texts, st.none() | st.builds(Counters, flows, flows))
present = st.builds(Present, ints, st.none() | texts, texts, texts, st.none() | ints, numbers)
news: st.SearchStrategy[AnyClientNews] = st.one_of(
    st.builds(UserRedirected, texts),
    st.builds(SessionResumable, texts, resumptions, texts),
    st.builds(Lost, st.none() | texts, texts, texts),
    st.builds(Moved, ints, texts, texts, texts),
    st.builds(Stayed, texts, texts, texts),
    st.builds(Returned, texts, texts),
    st.builds(LandedWrong, texts),
    st.builds(SoftwareLearned, texts, st.none() | st.booleans()),
)
questions: st.SearchStrategy[WorkerQuestion[WorkerReply]] = st.one_of(
    st.sampled_from([ReportCounts(), CountStates(), ListTransfers(), FindPinned(), ListEvents()]),
    st.builds(FindSessions, st.tuples(st.builds(SessionFilter, *[st.none() | texts] * 3, st.none() | ints))),
    st.builds(ShowSession, ints),
    st.builds(KickUser, texts),
    st.builds(PlanDrain, texts),
    st.builds(PlanRebalance, st.none() | numbers),
    st.builds(MoveUser, texts, texts),
    taking,
)
replies: st.SearchStrategy[WorkerReply] = st.one_of(
    st.just(Done()),
    st.builds(StateCounts, counted),
    st.builds(SessionRows, *(st.lists(each, max_size=3) for each in (numbers, rows, ints, ints))),
    st.just(SessionShown()),
    st.builds(SessionsEnded, ints),
    st.builds(PinnedUsers, st.dictionaries(texts, counted, max_size=3)),
    st.builds(EventRows, st.lists(st.builds(EventRow, texts, texts, texts, ints, texts, texts), max_size=3)),
    st.builds(TransferRows, st.just([])),
    st.builds(DrainPlanned, st.builds(DrainForecast, ints, ints, ints, counted)),
    st.builds(RebalancePlanned, st.builds(RebalanceForecast, st.dictionaries(texts, counted, max_size=3), ints)),
    st.builds(ClientsMoved, ints),
)
messages: st.SearchStrategy[Message] = st.one_of(
    nodes,
    st.builds(
        Setup,
        ints,
        taking,
        ints,
        ints,
        ints,
        ints,
    ),
    st.builds(PinnedBefore, st.dictionaries(texts, texts, max_size=3)),
    st.builds(Pinned, texts, st.none() | texts),
    st.builds(Listed, ints, st.lists(texts, max_size=3).map(tuple), st.binary(), st.binary(), st.booleans()),
    st.builds(Grant, ints),
    st.builds(Elsewhere, counted, counted, counted),
    st.builds(Ask, ints, questions),
    st.just(Leave()),
    st.just(Stop()),
    st.builds(Remembered, st.lists(st.builds(EarlierNews, numbers, news), max_size=3).map(tuple)),
    st.builds(Hello, ints, ints),
    st.builds(Want, ints, ints, ints, ints),
    st.builds(PutBack, ints),
    st.builds(WorkerReport, counts),
    st.builds(SessionsChanged, st.lists(present, max_size=3).map(tuple), st.lists(ints, max_size=3).map(tuple)),
    st.builds(TransferEnded, past_transfers, ints, st.none() | texts),
    st.builds(NodeUnreachable, texts, texts),
    st.builds(NodeFailsLogins, texts, texts),
    st.builds(NodeServes, texts, texts),
    st.builds(NodeGoing, texts),
    st.builds(AnswerPart, ints, st.none() | replies, st.booleans(), st.none() | texts),
    st.builds(Stopped, st.booleans()),
    st.builds(Gone, texts),
    st.builds(News, news),
    st.builds(Announced, ints),
)


@given(messages)
def test_what_is_written_is_read(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


def test_every_message_is_tried() -> None:
    tried = {name for name in KINDS if f"{name}" in str(messages)}
    assert tried == set(KINDS)
    for kinds, tries in ((WorkerQuestion.__subclasses__(), questions), (WorkerReply.__subclasses__(), replies)):
        assert [
            each.__name__ for each in kinds if f"{each.__name__}" not in str(tries) and "cxfr_proxy" in each.__module__
        ] == []


@given(st.lists(messages, max_size=5), st.lists(st.integers(min_value=1, max_value=60)))
def test_wherever_it_is_cut(given_messages: list[Message], cuts: list[int]) -> None:
    data = b"".join(map(encode, given_messages))
    lines, read = Lines(MESSAGES), []
    for cut in cuts:
        read += lines.feed(data[:cut])
        data = data[cut:]
    read += lines.feed(data)
    assert read == given_messages


@given(st.binary(max_size=200))
def test_hostile_bytes(data: bytes) -> None:
    """Never anything but messages and :class:`BadMessage`."""
    with contextlib.suppress(BadMessage):
        decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | texts | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(messages, json_values, st.randoms(use_true_random=False))
def test_a_value_of_another_type_is_refused_or_fits(message: Message, value: object, random: object) -> None:
    """One field replaced by anything: either refused, or what is read is written and read the same again."""
    body = json.loads(encode(message))
    field = random.choice(sorted(body))  # type: ignore[attr-defined]
    body[field] = value
    line = json.dumps(body).encode()
    try:
        read = decode(line)
    except BadMessage:
        return
    assert decode(encode(read)) == read


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"type": "Stop", "extra": 1}',
        b'{"type": "Grant"}',
        b'{"type": "Grant", "tokens": "1"}',
        b'{"type": "Grant", "tokens": true}',
        b'{"type": "Grant", "tokens": 1.5}',
        b'{"type": "Nonsense"}',
        b'{"type": null}',
        b'{"tokens": 1}',
        b'{"type": "Ask", "request": 1, "question": {"type": "Passwords"}}',
        b'{"type": "Resumable", "stream_management_id": "s", "address": "", "resumption": {"node": "n"}}',
        b'{"type": "NodeUnreachable", "node": "\xff", "reason": ""}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message(line: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(line)


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 101 + b"\n"])
def test_a_line_without_end_is_not_kept(data: bytes) -> None:
    with pytest.raises(BadMessage):
        Lines(replace(MESSAGES, max_line_bytes=100)).feed(data)


def over_streams() -> tuple[Channel, Channel]:
    ours, theirs = memory_stream_pair()
    return StreamChannel(ours, MESSAGES), StreamChannel(theirs, MESSAGES)


@pytest.fixture(params=[over_streams, in_memory])
def ends(request: pytest.FixtureRequest) -> tuple[Channel, Channel]:
    both: tuple[Channel, Channel] = request.param()
    return both


async def test_a_channel(ends: tuple[Channel, Channel]) -> None:
    """Both ways, in order, and the end of one is the end of the other."""
    here, there = ends
    heard: list[Message] = []
    answered: list[Message] = []

    def echo(message: Message) -> None:
        heard.append(message)
        there.post(message)

    said = [Grant(number) for number in range(100)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(there.run, echo)
        async with trio.open_nursery() as first:
            first.start_soon(here.run, answered.append)
            for message in said:
                here.post(message)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
    assert heard == answered == said
    assert here.broken
    assert there.broken
    there.post(Stop())  # and nothing happens


async def test_nobody_is_called_back_from_inside_of_a_post(ends: tuple[Channel, Channel]) -> None:
    """A caller that posts may be in the middle of anything."""
    here, there = ends
    heard: list[Message] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(there.run, heard.append)
        nursery.start_soon(here.run, heard.append)
        await trio.testing.wait_all_tasks_blocked()
        here.post(Stop())
        assert not heard
        await here.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [Stop()]
        nursery.cancel_scope.cancel()


async def test_what_was_said_before_the_end_is_taken(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    heard: list[Message] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def say() -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(here.run, heard.append)
                    here.post(Stopped(cut=False))
                    await here.flush()
                    scope.cancel()

        await there.run(heard.append)
    assert heard == [Stopped(cut=False)]


async def test_a_fault_in_taking_one_is_the_end(ends: tuple[Channel, Channel]) -> None:
    here, there = ends

    def refuse(message: Message) -> None:
        raise BadMessage("not now")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.run, lambda message: None)
        here.post(Stop())
        with pytest.raises(BadMessage, match="not now"):
            await there.run(refuse)
    assert here.broken
    assert there.broken


async def test_several_can_wait_for_what_they_said_to_be_out(ends: tuple[Channel, Channel]) -> None:
    (channel, other), out = ends, 0

    async def say() -> None:
        nonlocal out
        channel.post(News(UserRedirected("romeo@example.org")))
        await channel.flush()
        out += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(say)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(channel.run, lambda message: None)
        nursery.start_soon(other.run, lambda message: None)
        await trio.testing.wait_all_tasks_blocked()
        assert out == 5
        nursery.cancel_scope.cancel()


async def test_a_channel_that_hears_nonsense() -> None:
    ours, theirs = memory_stream_pair()
    channel = StreamChannel(ours, MESSAGES)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def listen() -> None:
            with pytest.raises(BadMessage):
                await channel.run(lambda message: None)

        await theirs.send_all(b"nonsense\n")
    assert channel.broken


async def test_an_end_that_takes_nothing() -> None:
    """The unsent bytes are bounded: the channel breaks."""
    ours, _ = memory_stream_pair()
    channel = StreamChannel(ours, replace(MESSAGES, max_unsent_bytes=1000))
    for _ in range(100):
        channel.post(News(UserRedirected("romeo@example.org")))
    assert channel.broken
    with trio.fail_after(60):
        await channel.run(lambda message: None)


def test_settings_arrive_as_they_are() -> None:
    config = replace(CONFIG, limits=replace(CONFIG.limits, connections_per_address=None), workers=3)
    pair = KeyPair(Path("a.pem"), Path("a.key"))
    files = Files((CertificateFile(pair, Pem("certificate\n", "key \xe9\n")),), {"ca.pem": "authority"})
    setup = Setup(VERSION, TakeSettings(1, config, files), 1, 3, 1, 1000)
    read = decode(encode(setup))
    assert isinstance(read, Setup)
    assert read == setup
    assert read.taking.config == config
