"""Nodes from SRV records: a pure function; and from a name server, on a clock that jumps.

The server is made of dnspython's messages and a socket each for UDP and TCP.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from cxfr_proxy.cluster.addresses import Address, UnixAddress
from cxfr_proxy.cluster.backends import SrvBackends, parse_url
from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import Health, NodeSpec, NodeTls
from cxfr_proxy.cluster.placement import Placement
from cxfr_proxy.cluster.sources.dns import SrvSource
from cxfr_proxy.cluster.srv import SrvRecord, next_query, specs_from
from cxfr_proxy.errors import ConfigError

NAME = "_xmpp-client._tcp.example.org"
COMMON = NodeSpec("", UnixAddress("/"))


def specs(*records: SrvRecord, common: NodeSpec = COMMON) -> list[tuple[str, str, int, int]]:
    return [(each.name, str(each.address), each.weight, each.priority) for each in specs_from(records, common, "dns")]


def test_records_are_nodes() -> None:
    assert specs(
        SrvRecord(20, 7, 5222, "c.example.org."),
        SrvRecord(10, 30, 5222, "B.example.org."),
        SrvRecord(10, 10, 5300, "a.example.org."),
    ) == [
        ("a.example.org.5300", "a.example.org:5300", 85, 10),
        ("b.example.org", "b.example.org:5222", 256, 10),
        ("c.example.org", "c.example.org:5222", 256, 20),
    ]


def test_the_usual_port_depends_on_tls() -> None:
    direct = NodeSpec("", UnixAddress("/"), tls=NodeTls.DIRECT)
    record = SrvRecord(0, 1, 5223, "a.example.org.")
    assert specs(record, common=direct)[0][0] == "a.example.org"
    assert specs(record)[0][0] == "a.example.org.5223"


def test_weight_0_is_little_beside_others() -> None:
    assert [each[2] for each in specs(SrvRecord(0, 0, 1, "a."), SrvRecord(0, 65535, 1, "b."))] == [1, 256]
    assert [each[2] for each in specs(SrvRecord(0, 0, 1, "a."), SrvRecord(0, 0, 1, "b."))] == [1, 1]


def test_twice_the_same_is_one_node_with_the_better_priority() -> None:
    assert specs(SrvRecord(9, 1, 5222, "a."), SrvRecord(3, 1, 5222, "A.")) == [("a", "a:5222", 256, 3)]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ((), "dns: expected SRV records, found none"),
        ((SrvRecord(0, 0, 0, "."),), "dns: expected SRV records, found none"),  # RFC 2782: not offered
        ((SrvRecord(0, 0, 1, r"a\032b."),), "dns: the record of 'a\\\\032b': expected a host name"),
        ((SrvRecord(0, 0, 0, "a."),), "dns: the record of 'a': expected a port"),
    ],
)
def test_what_is_no_list_of_nodes(records: tuple[SrvRecord, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        specs(*records)
    assert str(caught.value).startswith(message)


hosts = st.from_regex(r"[a-zA-Z]{1,3}(\.[a-z]{2})?", fullmatch=True)
records = st.builds(SrvRecord, st.integers(0, 65535), st.integers(0, 65535), st.integers(1, 65535), hosts)


@given(st.lists(records, min_size=1, max_size=20))
def test_any_records_make_a_list_that_does_not_depend_on_their_order(found: list[SrvRecord]) -> None:
    made = specs_from(found, COMMON, "dns")
    assert made == specs_from(reversed(found), COMMON, "dns")
    Cluster(made)  # no name twice
    assert {each.address for each in made} == {Address(each.target.lower(), each.port) for each in found}
    assert all(1 <= each.weight <= 256 for each in made)


def test_those_that_stand_by_are_used_when_no_other_can_be() -> None:
    cluster = Cluster(
        specs_from([SrvRecord(1, 0, 1, "a."), SrvRecord(1, 0, 1, "b."), SrvRecord(5, 0, 1, "c.")], COMMON, "")
    )
    placement = Placement(cluster)
    for user in map("user{}@d".format, range(50)):
        assert [each.spec.priority for each in placement.rank(user, "d", {})] == [1, 1, 5]
    for name in ("a.1", "b.1"):
        cluster.get(name).health = Health.DOWN
    assert [each.name for each in placement.rank("user@d", "d", {})] == ["c.1"]


def test_the_next_query() -> None:
    assert [next_query(ttl, 0.0) for ttl in (0, 60, 86400)] == [5, 60, 300]
    assert next_query(60, 1.0) == pytest.approx(66)


# --- with a name server


@dataclass
class NameServer:
    """``rcode`` and ``answer`` are what it says; ``truncates``: by UDP it says only that there is more."""

    address: tuple[str, int] = ("", 0)
    answer: list[str] = field(default_factory=list)
    ttl: int = 60
    rcode: int = dns.rcode.NOERROR
    truncates: bool = False
    by_tcp: int = 0

    def reply(self, data: bytes, *, udp: bool) -> bytes:
        response = dns.message.make_response(dns.message.from_wire(data))
        response.set_rcode(dns.rcode.Rcode(self.rcode))
        if udp and self.truncates:
            response.flags |= dns.flags.TC
        elif self.answer:
            response.answer.append(dns.rrset.from_text(f"{NAME}.", self.ttl, "IN", "SRV", *self.answer))
        return response.to_wire()

    async def serve_udp(self, sock: trio.socket.SocketType) -> None:
        while True:
            data, sender = await sock.recvfrom(4096)
            await sock.sendto(self.reply(data, udp=True), sender)

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            (length,) = struct.unpack("!H", await stream.receive_some(2))
            reply = self.reply(await stream.receive_some(length), udp=False)
            self.by_tcp += 1
            await stream.send_all(struct.pack("!H", len(reply)) + reply)

    @property
    def source(self) -> SrvSource:
        backends = parse_url(f"dns+srv://{self.address[0]}:{self.address[1]}/{NAME}")
        assert isinstance(backends, SrvBackends)
        return SrvSource(backends)


@asynccontextmanager
async def name_server(*answer: str) -> AsyncIterator[NameServer]:
    it = NameServer(answer=list(answer))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        it.address = listener.socket.getsockname()
        await sock.bind(it.address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.serve_udp, sock)
            nursery.start_soon(trio.serve_listeners, it.serve_tcp, [listener])
            yield it
            nursery.cancel_scope.cancel()


async def names(source: SrvSource) -> list[str]:
    return [spec.name for spec in (await source.read()).specs]


async def test_read() -> None:
    async with name_server("1 2 5222 a.example.org.", "1 1 5222 b.example.org.") as server:
        assert await names(server.source) == ["a.example.org", "b.example.org"]


async def test_what_is_too_long_for_udp_is_asked_for_by_tcp() -> None:
    async with name_server("1 2 5222 a.example.org.") as server:
        server.truncates = True
        assert await names(server.source) == ["a.example.org"]
        assert server.by_tcp == 1


@pytest.mark.parametrize(
    ("rcode", "message"),
    [
        (dns.rcode.NXDOMAIN, "there is no such name (NXDOMAIN)"),
        (dns.rcode.NOERROR, "found none that offers the service"),
        (dns.rcode.SERVFAIL, "SERVFAIL"),
        (dns.rcode.REFUSED, "REFUSED"),
    ],
)
async def test_no_answer_is_no_list(rcode: int, message: str) -> None:
    async with name_server() as server:
        server.rcode = rcode
        with pytest.raises(ConfigError) as caught:
            await server.source.read()
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"dns+srv://127.0.0.1:{server.address[1]}/{NAME}: ")


# --- on a clock that jumps


@dataclass
class Zone:
    """The results of a lookup: the targets' names, or why not; and when."""

    found: list[str] | ConfigError
    ttl: float = 60.0
    asked: list[float] = field(default_factory=list)

    async def look_up(self, backends: SrvBackends) -> tuple[list[SrvRecord], float]:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        if isinstance(self.found, ConfigError):
            raise self.found
        return [SrvRecord(0, 0, 5222, name) for name in self.found], self.ttl

    @property
    def source(self) -> SrvSource:
        backends = parse_url(f"dns+srv://{NAME}")
        assert isinstance(backends, SrvBackends)
        return SrvSource(backends, Never(), self.look_up)


class Never(random.Random):
    def random(self) -> float:
        return 0.0


async def test_the_ttl_says_when_to_ask_again(autojump_clock: MockClock) -> None:
    zone = Zone(["a."])
    source, began = zone.source, trio.current_time()
    await source.read()
    with trio.move_on_after(150):
        await source.next_reading()
    assert [at - began for at in zone.asked] == [0, 60, 120]
    zone.found = ["b.", "a."]
    assert [each.name for each in (await source.next_reading()).specs] == ["a", "b"]
    assert zone.asked[-1] - began == 180


async def test_what_is_away_is_asked_for_and_changes_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    zone = Zone(["a."])
    source, began = zone.source, trio.current_time()
    await source.read()
    caplog.set_level("INFO", "cxfr_proxy")
    zone.found = ConfigError("no answer")
    with trio.move_on_after(70):
        await source.next_reading()
    assert [at - began for at in zone.asked] == [0, 60, 61, 63, 67]
    assert (source.status.reason, source.status.lost_at) == ("no answer", began + 60)
    zone.found = []  # an empty zone is no better
    with trio.move_on_after(20):
        await source.next_reading()
    assert [record.getMessage() for record in caplog.records] == ["source-lost"]  # once
    zone.found = ["a."]
    with trio.move_on_after(30):
        await source.next_reading()
    assert source.status.lost_at is None
    assert [record.getMessage() for record in caplog.records] == ["source-lost", "source-back"]


async def test_who_asks_for_it_now_is_told(autojump_clock: MockClock) -> None:
    zone = Zone(ConfigError("no answer"))
    source = zone.source
    with pytest.raises(ConfigError):
        await source.read()
    assert source.status.lost_at is None
    zone.found = ["a."]
    assert len((await source.next_reading()).specs) == 1
