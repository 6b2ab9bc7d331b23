"""PROXY headers, read back by the demo node's reader, which shares no code with the writer."""

from __future__ import annotations

import ipaddress
import socket

import pytest
import trio.testing
from relay_tools import tcp_pair

from cxfr_proxy.cluster.nodes import ProxyProtocol
from cxfr_proxy.demo import proxy_header as reader
from cxfr_proxy.net.proxy_protocol import Peer, ProxiedConnection, header, own_ends

BOTH = pytest.mark.parametrize("version", list(ProxyProtocol))


async def read(data: bytes) -> reader.ProxyHeader:
    here, there = trio.testing.memory_stream_pair()
    await here.send_all(data + b"<")
    found = await reader.read_proxy_header(there)
    assert await there.receive_some() == b"<", "not a byte too many or too few"
    return found


@BOTH
@pytest.mark.parametrize(
    ("client", "proxy", "source", "destination"),
    [
        (("192.0.2.7", 40000), ("198.51.100.1", 5222), ("192.0.2.7", 40000), ("198.51.100.1", 5222)),
        (("2001:db8::7", 1), ("2001:db8::1", 65535), ("2001:db8::7", 1), ("2001:db8::1", 65535)),
        # a dual-stack socket shows an IPv4 client so
        (("::ffff:192.0.2.7", 40000), ("::ffff:198.51.100.1", 5222), ("192.0.2.7", 40000), ("198.51.100.1", 5222)),
        (("fe80::7%eth0", 1), ("fe80::1%eth0", 2), ("fe80::7", 1), ("fe80::1", 2)),
    ],
)
async def test_addresses(version: ProxyProtocol, client: Peer, proxy: Peer, source: Peer, destination: Peer) -> None:
    found = await read(header(version, ProxiedConnection(client, proxy)))
    assert found == reader.ProxyHeader(2 if version is ProxyProtocol.V2 else 1, found.source, found.destination)
    assert (found.source, found.destination) == (source, destination)


@BOTH
async def test_one_family(version: ProxyProtocol) -> None:
    """The two ends are always named: a connection of unknown origin is refused by real servers."""
    found = await read(header(version, ProxiedConnection(("192.0.2.7", 40000), ("2001:db8::1", 5222))))
    assert found.source is not None
    assert ipaddress.ip_address(found.source[0]) == ipaddress.ip_address("::ffff:192.0.2.7")  # written in either way
    assert (found.source[1], found.destination) == (40000, ("2001:db8::1", 5222))


async def test_a_connection_in_nobodys_name() -> None:
    here, there = tcp_pair()
    with here, there:
        source, target = own_ends(here)
        assert (source, target) == (there.getpeername(), there.getsockname())
    here, there = socket.socketpair()
    with here, there:
        found = await read(header(ProxyProtocol.V2, ProxiedConnection(*own_ends(here))))
    assert found.source == found.destination == ("127.0.0.1", 0)


def test_what_version_2_has_room_for() -> None:
    """Section 2.2: each with its type and length. No certificate of the client's was verified, so that is not 0."""
    ends = ("192.168.0.1", 56324), ("192.168.0.11", 443)
    plain = header(ProxyProtocol.V2, ProxiedConnection(*ends))
    told = ProxiedConnection(*ends, tls_version="TLSv1.3", server_name="example.org", unique_id="17")
    tlvs = b"\x02\0\x0bexample.org" + b"\x05\0\x0217" + b"\x20\0\x0f\x01\0\0\0\x01" + b"\x21\0\x07TLSv1.3"
    assert header(ProxyProtocol.V2, told) == plain[:15] + bytes((plain[15] + len(tlvs),)) + plain[16:] + tlvs
    assert header(ProxyProtocol.V1, told) == header(ProxyProtocol.V1, ProxiedConnection(*ends))


async def test_what_version_2_has_room_for_is_read() -> None:
    ends = ("2001:db8::7", 1), ("2001:db8::1", 2)
    found = await read(header(ProxyProtocol.V2, ProxiedConnection(*ends, "TLSv1.2", "example.org", "17")))
    assert (found.source, found.destination) == ends
    assert found.tlvs == {2: b"example.org", 5: b"17", 0x20: b"\x01\0\0\0\x01\x21\0\x07TLSv1.2"}


async def test_ends_stand_in_where_there_are_none() -> None:
    one, other = ("192.0.2.7", 1), ("192.0.2.8", 2)
    told = ProxiedConnection(None, other, unique_id="17").or_between(one, one)
    assert told == ProxiedConnection(one, one, unique_id="17")
    assert ProxiedConnection(one, other).or_between(other, one) == ProxiedConnection(one, other)


def test_exact_bytes() -> None:
    """As in the examples of the specification."""
    client, proxy = ("192.168.0.1", 56324), ("192.168.0.11", 443)
    assert (
        header(ProxyProtocol.V1, ProxiedConnection(client, proxy))
        == b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert header(ProxyProtocol.V2, ProxiedConnection(client, proxy)) == bytes.fromhex(
        "0d0a0d0a000d0a515549540a2111000cc0a80001c0a8000bdc0401bb"
    )
    longest = header(ProxyProtocol.V1, ProxiedConnection(("ffff:" * 7 + "ffff", 65535), ("ffff:" * 7 + "ffff", 65535)))
    assert len(longest) <= 107, "the specification's longest line"
