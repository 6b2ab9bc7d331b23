"""The load, the node, the crowd and the relays' configurations: that they count what they say they count."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from lxml import etree
from needs import needs_proc

from bench import machine, programs, relays
from bench.crowd import Client, Crowd, Stage
from bench.load import bottleneck, load
from bench.programs import Folder, Missing
from bench.relays import Kind, Setup
from bench.traffic import HEADER, TRAFFIC, Traffic


@pytest.mark.parametrize(
    ("relay", "load_", "word"), [(1.0, 0.5, "relay"), (0.99, 0.95, "both"), (0.4, 0.93, "load"), (0.9, 0.9, "nobody")]
)
def test_whose_core_was_used_up(relay: float, load_: float, word: str) -> None:
    assert bottleneck(relay, load_) == word


# --- traffic


@pytest.mark.parametrize("traffic", TRAFFIC, ids=lambda traffic: traffic.name)
@pytest.mark.parametrize("size", [None, 64, 16_384])
def test_cutting_loses_nothing(traffic: Traffic, size: int | None) -> None:
    pieces = traffic.cut(size)
    assert b"".join(pieces) == b"".join(traffic.stanzas)
    assert size is None or all(len(piece) == size for piece in pieces[:-1])


@pytest.mark.parametrize("traffic", TRAFFIC, ids=lambda traffic: traffic.name)
def test_traffic_is_so_many_stanzas(traffic: Traffic) -> None:
    stream = etree.fromstring(HEADER + b"".join(traffic.stanzas) + b"</stream:stream>")
    assert len(stream) == len(traffic.stanzas)


# --- the load against a node


@pytest.fixture
def setup() -> Iterator[Setup]:
    with closing(Folder()) as folder:
        yield Setup(False, folder, machine.cores())


@needs_proc
def test_the_load_counts_round_trips(setup: Setup) -> None:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(load(stack.enter_context(relays.relay(Kind.DIRECT, setup)), setup))
        except Missing as exc:
            pytest.skip(str(exc))
        assert running.open(5).count == 5
        assert running.open(3, parallel=1).count == 3
        assert running.open(2, stage="online").count == 2
        assert running.run(warm=0.0, seconds=0.0, in_flight=3).count >= 4 * 10 * 3, "however long that takes"
        many = running.run(warm=0.0, seconds=0.1, in_flight=2)
        assert many.count > 0
        assert many.unanswered == 0
        assert many.seconds >= 0.1
        assert 0 < many.p50 <= many.p99 <= many.slowest * 1.04  # the histogram's buckets are 3 % wide
        assert many.load_cpu > 0
        assert many.node_cpu > 0
        assert many.relay_cpu == 0.0
        running.close()


# --- the crowd


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd(port=1, first=1, sources=1, tls=False, refusing=0.0)
    yield crowd
    crowd.close()


def read(crowd: Crowd, client: Client, data: bytes) -> None:
    client.rest += data
    crowd.read_tags(client)


def bound_client(*outstanding: int) -> Client:
    client = Client(0, refuses=False)
    client.stage = Stage.BOUND
    client.outstanding = dict.fromkeys(outstanding, 0.0)
    return client


def test_an_echo_is_counted_once_and_then_as_twice(crowd: Crowd) -> None:
    client = bound_client(1, 2)
    for _ in range(2):
        read(crowd, client, b"<message to='u' type='chat' id='m1'><body>x</body></message>")
    assert (crowd.counts.echoed, crowd.counts.twice, list(client.outstanding)) == (1, 1, [2])


def test_what_comes_back_as_an_error_is_returned(crowd: Crowd) -> None:
    client = bound_client(1)
    read(crowd, client, b"<message type='error' id='m1'><body>x</body><error type='wait'/></message>")
    assert (crowd.counts.echoed, crowd.counts.returned, client.outstanding) == (0, 1, {})


def test_a_tag_may_come_in_two_pieces(crowd: Crowd) -> None:
    client = bound_client(17)
    read(crowd, client, b"<message type='chat' id='m1")
    assert crowd.counts.twice == 0
    read(crowd, client, b"7'><body>x</body></message>")
    assert (crowd.counts.echoed, crowd.counts.twice) == (1, 0)


# --- the peers' configurations


@needs_proc
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("kind", "check"), [(Kind.HAPROXY, "-c"), (Kind.NGINX, "-t")])
def test_a_peer_accepts_its_configuration(kind: Kind, check: str, tls: bool) -> None:
    with closing(Folder()) as folder:
        setup = Setup(tls, folder, machine.cores(), programs.new_certificate(folder) if tls else None)
        try:
            command = relays.command(kind, setup, programs.free_port(), programs.free_port())
        except Missing as exc:
            pytest.skip(str(exc))
        done = subprocess.run([*map(str, command), check], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_proxy_is_the_operators_command(setup: Setup) -> None:
    words = [str(word) for word in relays.command(Kind.PROXY, setup, 5222, 6222)]
    assert words[1:5] == ["-m", "cxfr_proxy", "--workers", "1"]
    assert words[words.index("--listen") + 1] == "127.0.0.1:5222"
