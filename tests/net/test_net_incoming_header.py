"""PROXY headers as balancers send them: each whole, split at each byte, with the client's bytes behind it; and what no
balancer sends."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from relay_tools import tcp_pair

from cxfr_proxy.cluster.nodes import ProxyProtocol
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.incoming_header import (
    MAX_BODY_BYTES,
    IncomingHeader,
    MalformedProxyHeader,
    crc32c,
    may_begin,
    parse,
    receive,
)
from cxfr_proxy.net.proxy_protocol import UNTOLD_TLS, ProxiedConnection, header
from cxfr_proxy.net.transport import PlainTransport

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = bytes((192, 0, 2, 7, 198, 51, 100, 1)) + b"\x9c\x40\x14\x66"
V6 = bytes.fromhex("20010db800000000000000000000000720010db80000000000000000000000019c401466")
ENDS = ("192.0.2.7", 40000), ("198.51.100.1", 5222)
ENDS6 = ("2001:db8::7", 40000), ("2001:db8::1", 5222)


def v2(body: bytes, family: int = 0x11, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def with_checksum(body: bytes, *, wrong: int = 0) -> bytes:
    """As section 2.2.4 says it: over all of the header, in which the checksum is zero."""
    blank = v2(body + tlv(3, bytes(4)))
    return blank[:-4] + (crc32c(blank) ^ wrong).to_bytes(4, "big")


SSL = tlv(0x20, b"\x01\0\0\0\x01" + tlv(0x23, b"TLS_AES_128_GCM_SHA256") + tlv(0x21, b"TLSv1.3"))
WHOLE: dict[str, tuple[bytes, ProxiedConnection | None]] = {
    "v1 over IPv4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 5222\r\n", ProxiedConnection(*ENDS)),
    "v1 over IPv6": (b"PROXY TCP6 2001:DB8::7 2001:db8:0::1 40000 5222\r\n", ProxiedConnection(*ENDS6)),
    "v1, an IPv4 client on a socket for both": (
        b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 40000 5222\r\n",
        ProxiedConnection(*ENDS),
    ),
    "v1, the longest": (
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        ProxiedConnection(("ffff:" * 7 + "ffff", 65535), ("ffff:" * 7 + "ffff", 65535)),
    ),
    "v1, no port": (b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", ProxiedConnection((ENDS[0][0], 0), (ENDS[1][0], 0))),
    "v1 of nobody": (b"PROXY UNKNOWN\r\n", None),
    "v1 of nobody, with the worst that may be in it": (
        b"PROXY UNKNOWN " + b" ".join((b"ffff:" * 7 + b"ffff", b"ffff:" * 7 + b"ffff", b"65535", b"65535")) + b"\r\n",
        None,
    ),
    "v1 of nobody, and anything": (b"PROXY UNKNOWN \xff\n\0 x\r\n", None),
    "v2 over IPv4": (v2(V4), ProxiedConnection(*ENDS)),
    "v2 over IPv6": (v2(V6, 0x21), ProxiedConnection(*ENDS6)),
    "v2, an IPv4 client on a socket for both": (
        v2(bytes(10) + b"\xff\xff" + V4[:4] + bytes(10) + b"\xff\xff" + V4[4:], 0x21),
        ProxiedConnection(*ENDS),
    ),
    "v2 of a unix socket": (v2(b"/run/a".ljust(108, b"\0") * 2, 0x31), ProxiedConnection(None, None)),
    "v2 of a unix socket, and more": (
        v2(bytes(216) + tlv(5, b"id"), 0x31),
        ProxiedConnection(None, None, unique_id="id"),
    ),
    "v2, a check": (v2(b"", 0, 0x20), None),
    "v2, a check that names somebody": (v2(V4, 0x11, 0x20), None),
    "v2, a check of no family that there is": (v2(b"\xff" * 7, 0xFF, 0x20), None),
    "v2 of nobody": (v2(b"", 0), None),
    "v2 of nobody, and more": (v2(tlv(5, b"id"), 0), None),
    "v2 and all that is read": (
        v2(V4 + tlv(1, b"xmpp-client") + tlv(2, b"example.org") + tlv(4, b"\0" * 9) + tlv(5, b"a-1") + SSL),
        ProxiedConnection(*ENDS, "TLSv1.3", "example.org", "a-1", "xmpp-client"),
    ),
    "v2 and what nobody knows": (v2(V4 + tlv(0xEA, b"\x01vpce-1") + tlv(0x30, b"")), ProxiedConnection(*ENDS)),
    "v2, the longest": (v2(V4 + tlv(0xE0, bytes(MAX_BODY_BYTES - 15))), ProxiedConnection(*ENDS)),
    "v2 with a checksum": (with_checksum(V4 + tlv(2, b"a.example")), ProxiedConnection(*ENDS, server_name="a.example")),
    "v2, of two the first counts": (v2(V4 + tlv(5, b"1") + tlv(5, b"2")), ProxiedConnection(*ENDS, unique_id="1")),
    "v2, an id that is no text": (v2(V4 + tlv(5, b"\0\xff")), ProxiedConnection(*ENDS, unique_id="00ff")),
    "v2, an id that is none": (v2(V4 + tlv(5, b"")), ProxiedConnection(*ENDS)),
    "v2, names that are none": (v2(V4 + tlv(2, b"a\nb") + tlv(1, b"\xff")), ProxiedConnection(*ENDS)),
    "v2, a name that is too long": (v2(V4 + tlv(2, b"a" * 256)), ProxiedConnection(*ENDS)),
    "v2, not over TLS": (v2(V4 + tlv(0x20, b"\0\0\0\0\x01" + tlv(0x21, b"TLSv1.3"))), ProxiedConnection(*ENDS)),
    "v2, TLS and no version": (v2(V4 + tlv(0x20, b"\x01\0\0\0\x01")), ProxiedConnection(*ENDS, UNTOLD_TLS)),
    "v2, TLS and a version that is none": (
        v2(V4 + tlv(0x20, b"\x01\0\0\0\x01" + tlv(0x21, b"\xff"))),
        ProxiedConnection(*ENDS, UNTOLD_TLS),
    ),
    "v2, TLS that has shown no certificate": (
        v2(V4 + tlv(0x20, b"\x03\0\0\0\0" + tlv(0x21, b"TLSv1.2"))),
        ProxiedConnection(*ENDS, "TLSv1.2"),
    ),
    "v2, only a certificate of an earlier connection": (v2(V4 + tlv(0x20, b"\x04\0\0\0\0")), ProxiedConnection(*ENDS)),
}
EACH = pytest.mark.parametrize(("data", "connection"), WHOLE.values(), ids=WHOLE)


@EACH
def test_a_header(data: bytes, connection: ProxiedConnection | None) -> None:
    assert parse(data) == IncomingHeader(len(data), connection)
    assert may_begin(data[:1])


@EACH
@pytest.mark.parametrize("behind", [b"<", b"\x16\x03\x01", b"\r\n", b"PROXY UNKNOWN\r\n", SIGNATURE, b"\xff" * 5000])
def test_what_follows_is_the_clients(data: bytes, connection: ProxiedConnection | None, behind: bytes) -> None:
    assert parse(data + behind) == IncomingHeader(len(data), connection)


@EACH
def test_a_part_of_it_is_none_yet(data: bytes, connection: ProxiedConnection | None) -> None:
    assert [parse(data[:end]) for end in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("version", ProxyProtocol)
@pytest.mark.parametrize("ends", [ENDS, ENDS6])
def test_what_nodes_are_sent(version: ProxyProtocol, ends: tuple[tuple[str, int], tuple[str, int]]) -> None:
    """A proxy in front of a proxy."""
    told = ProxiedConnection(*ends, "TLSv1.2", "example.org", "17")
    found = parse(header(version, told))
    assert found is not None
    assert found.connection == (told if version is ProxyProtocol.V2 else ProxiedConnection(*ends))


REFUSED = {
    "nothing of it": (b"<stream:stream", "there is none", 1),
    "a record of TLS": (b"\x16\x03\x01", "there is none", 1),
    "an end of a line": (b"\r\n\r\n<", "there is none", 5),
    "another signature": (SIGNATURE[:-1] + b"\r", "there is none", 12),
    "another word": (b"POST / HTTP/1.1\r\n\r\n", "there is none", 2),
    "small letters": (b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n", "there is none", 1),
    "two spaces": (b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n", "not as version 1 has it", None),
    "no kind": (b"PROXY \r\n", "not as version 1 has it", None),
    "another kind": (b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n", "not as version 1 has it", None),
    "a longer kind": (b"PROXY UNKNOWNS\r\n", "not as version 1 has it", None),
    "a word missing": (b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n", "not as version 1 has it", None),
    "a word more": (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n", "not as version 1 has it", None),
    "a space at the end": (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n", "not as version 1 has it", None),
    "a line feed alone": (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n<" + b" " * 99, "more than 107 bytes", 107),
    "a line without end": (b"PROXY TCP4 " + b"1" * 10_000_000, "more than 107 bytes", 107),
    "an end that comes too late": (b"PROXY UNKNOWN".ljust(106, b" ") + b"\r\n", "more than 107 bytes", 107),
    "an octet too large": (b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n", "an address that is none", None),
    "an octet too many": (b"PROXY TCP4 192.0.2.7.1 198.51.100.1 1 2\r\n", "an address that is none", None),
    "a zero before": (b"PROXY TCP4 192.0.02.7 198.51.100.1 1 2\r\n", "an address that is none", None),
    "an address with a zone": (b"PROXY TCP6 fe80::7%eth0 fe80::1 1 2\r\n", "not as version 1 has it", None),
    "an address in brackets": (b"PROXY TCP6 [2001:db8::7] 2001:db8::1 1 2\r\n", "not as version 1 has it", None),
    "two gaps": (b"PROXY TCP6 2001::db8::7 2001:db8::1 1 2\r\n", "an address that is none", None),
    "a name": (b"PROXY TCP4 example.org 198.51.100.1 1 2\r\n", "not as version 1 has it", None),
    "IPv6 as IPv4": (b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", "none of TCP4", None),
    "IPv4 as IPv6": (b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n", "none of TCP6", None),
    "a port too high": (b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n", "none of TCP4", None),
    "a zero before a port": (b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n", "not as version 1 has it", None),
    "a sign": (b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n", "not as version 1 has it", None),
    "a byte that is no ASCII": (b"PROXY TCP4 192.0.2.\xb9 198.51.100.1 1 2\r\n", "not as version 1 has it", None),
    "version 1 in version 2's form": (v2(V4, command=0x11), "a version or command that there is not", 16),
    "version 3": (v2(V4, command=0x31), "a version or command that there is not", 16),
    "another command": (v2(V4, command=0x22), "a version or command that there is not", 16),
    "another family": (v2(V4, 0x41), "a family or transport", 16),
    "datagrams": (v2(V4, 0x12), "a family or transport", 16),
    "datagrams of a unix socket": (v2(bytes(216), 0x32), "a family or transport", 16),
    "no transport": (v2(V4, 0x10), "a family or transport", 16),
    "too long": (SIGNATURE + b"\x21\x11\x10\x01", "4097 bytes long, where 4096 are the most", 16),
    "as long as can be": (SIGNATURE + b"\x21\x11\xff\xff" + bytes(10_000_000), "65535 bytes long", 16),
    "a check that is too long": (SIGNATURE + b"\x20\x00\xff\xff", "65535 bytes long", 16),
    "no addresses": (v2(b""), "too short for its addresses", None),
    "a byte of the addresses missing": (v2(V4[:-1]), "too short for its addresses", None),
    "IPv6 in IPv4's room": (v2(V4, 0x21), "too short for its addresses", None),
    "half a unix socket": (v2(bytes(215), 0x31), "too short for its addresses", None),
    "a TLV that is cut": (v2(V4 + tlv(5, b"id")[:-1]), "behind the addresses is cut", None),
    "a TLV without its length": (v2(V4 + b"\x05\0"), "behind the addresses is cut", None),
    "a type alone": (v2(V4 + b"\x04"), "behind the addresses is cut", None),
    "TLS that is cut": (v2(V4 + tlv(0x20, b"\x01\0\0\0")), "of TLS is cut", None),
    "a TLV within TLS that is cut": (v2(V4 + tlv(0x20, b"\x01\0\0\0\0" + b"\x21\0\xff")), "is cut", None),
    "an id too long": (v2(V4 + tlv(5, b"1" * 129)), "a unique id of more than 128 bytes", None),
    "a wrong checksum": (with_checksum(V4, wrong=1), "a checksum that is wrong", None),
    "a checksum of three bytes": (v2(V4 + tlv(3, bytes(3))), "a checksum that is wrong", None),
    "a checksum of nothing": (v2(V4 + tlv(3, b"")), "a checksum that is wrong", None),
}


@pytest.mark.parametrize(("data", "why", "needed"), REFUSED.values(), ids=REFUSED)
def test_what_is_none(data: bytes, why: str, needed: int | None) -> None:
    """It is refused by its first ``needed`` bytes, whatever is to come; ``None``: by all of it, and not before."""
    with pytest.raises(MalformedProxyHeader, match=why):
        parse(data)
    needed = needed if needed is not None else len(data)
    assert parse(data[: needed - 1]) is None
    with pytest.raises(MalformedProxyHeader, match=why):
        parse(data[:needed])


def test_every_bit_is_covered_by_the_checksum() -> None:
    good = with_checksum(V4 + tlv(5, b"id"))
    assert parse(good) is not None
    for at in range(16, len(good)):
        for bit in range(8):
            changed = good[:at] + bytes((good[at] ^ 1 << bit,)) + good[at + 1 :]
            if changed[28:].startswith(b"\x05\0\x02") and changed[33:].startswith(b"\x03\0\x04"):
                with pytest.raises(MalformedProxyHeader, match="checksum"):
                    parse(changed)


def test_checksums_of_the_standard() -> None:
    """RFC 9260 appendix A and RFC 3720 appendix B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


@given(st.sampled_from(list(WHOLE.values())), st.binary(max_size=8), st.integers(0, 130))
def test_nothing_else_is_raised(whole: tuple[bytes, object], junk: bytes, at: int) -> None:
    data = whole[0][:at] + junk + whole[0][at + len(junk) :]
    try:
        found = parse(data)
    except MalformedProxyHeader:
        return
    assert found is None or 0 < found.size <= len(data)


def test_what_may_begin_one() -> None:
    assert [each for each in range(256) if may_begin(bytes((each,)))] == [ord("\r"), ord("P")]
    assert not may_begin(b"")


# --- off a connection

Pair = Callable[[], tuple[socket.socket, socket.socket]]
PAIRS = pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])


@PAIRS
@EACH
async def test_nothing_is_read_too_far(pair: Pair, data: bytes, connection: ProxiedConnection | None) -> None:
    here, there = pair()
    endpoint = Endpoint(PlainTransport.adopt(here))
    there.sendall(data + b"<stream")
    with there, trio.fail_after(60):
        assert await receive(endpoint) == IncomingHeader(len(data), connection)
        assert await endpoint.receive_some() == b"<stream"
    endpoint.close()


@PAIRS
@pytest.mark.parametrize("name", ["v1, the longest", "v2 and all that is read", "v2, a check", "v1 of nobody"])
async def test_byte_by_byte(pair: Pair, name: str, autojump_clock: trio.abc.Clock) -> None:
    """Each arrives when all before it was taken: nobody looks again and again at what is there already."""
    data, connection = WHOLE[name]
    here, there = pair()
    endpoint = Endpoint(PlainTransport.adopt(here))
    found: list[IncomingHeader | None] = []

    async def read() -> None:
        found.append(await receive(endpoint))

    with there:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for each in data + b"<":
                there.sendall(bytes((each,)))
                await trio.testing.wait_all_tasks_blocked()
        assert found == [IncomingHeader(len(data), connection)]
        assert await endpoint.receive_some() == b"<"
    endpoint.close()


@PAIRS
async def test_a_check_that_says_nothing(pair: Pair) -> None:
    here, there = pair()
    endpoint = Endpoint(PlainTransport.adopt(here))
    there.close()
    assert await receive(endpoint) is None
    endpoint.close()


@PAIRS
async def test_an_end_within_it(pair: Pair) -> None:
    here, there = pair()
    endpoint = Endpoint(PlainTransport.adopt(here))
    there.sendall(b"PROXY TC")
    there.close()
    with pytest.raises(MalformedProxyHeader, match="the connection ends within it"):
        await receive(endpoint)
    endpoint.close()
