"""The client of a request, by the headers of HTTP proxies: only those who are trusted are believed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.config.choices import ForwardingHeader
from cxfr_proxy.config.values import PEER_NETWORK
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.forwarded import ForwardedClient, forwarded_client
from cxfr_proxy.net.proxy_protocol import Peer
from cxfr_proxy.net.trusted_proxies import TrustedProxies

XFF, RFC = ForwardingHeader
BALANCER: Peer = ("10.0.0.2", 50000)


def trusted(*networks: str) -> TrustedProxies:
    return TrustedProxies(map(PEER_NETWORK.parse, networks))


TRUSTED = trusted("10.0.0.0/8", "2001:db8:a::/48", "unix")


def found(
    peer: Peer | None, *values: str, header: ForwardingHeader = XFF
) -> tuple[Peer | None, str | None, str | None]:
    """Client, ``via`` and fault."""
    return forwarded_client(peer, values, header, TRUSTED)[:3]


# --- who is trusted


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:DB8:0::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("unix", "unix"),
    ],
)
def test_networks(text: str, canonical: str) -> None:
    read = PEER_NETWORK.parse(text)
    assert str(read) == canonical
    assert PEER_NETWORK.parse(str(read)) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/-1",
        "fe80::1%eth0",
        "haproxy",
        "*",
        "::/129",
    ],
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected an IP address or network like .*, found"):
        PEER_NETWORK.parse(text)


def test_a_network_has_one_name() -> None:
    """Most likely the bits were mistyped; to guess would trust more, or other, peers than was meant."""
    with pytest.raises(ConfigError, match=r"first address, as in 10\.1\.0\.0/16, found '10\.1\.2\.3/16'"):
        PEER_NETWORK.parse("10.1.2.3/16")


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("2001:db8:a::1", True),
        ("2001:db8:b::1", False),
        (None, True),
    ],
)
def test_trust(address: str | None, is_trusted: bool) -> None:
    assert TRUSTED.trust(address) is is_trusted
    assert TRUSTED


def test_nobody_is_trusted_unless_named() -> None:
    assert not trusted()
    assert not trusted().trust("127.0.0.1")
    assert not trusted().trust(None)
    assert not trusted("10.0.0.0/8").trust(None)
    assert trusted("fe80::/10").trust("fe80::1%eth0")


# --- the walk


def test_a_client_is_named() -> None:
    assert found(BALANCER, "192.0.2.7") == (("192.0.2.7", 0), "10.0.0.2", None)


def test_what_a_client_has_made_up_is_not_looked_at() -> None:
    assert found(BALANCER, "10.0.0.1, 198.51.100.9, 192.0.2.7") == (("192.0.2.7", 0), "10.0.0.2", None)
    assert found(BALANCER, 'garbage, ",,, 192.0.2.7') == (("192.0.2.7", 0), "10.0.0.2", None)


def test_each_trusted_hop_is_followed() -> None:
    assert found(BALANCER, "192.0.2.7, 10.0.0.9 ,10.1.1.1") == (("192.0.2.7", 0), "10.0.0.2", None)
    assert found(BALANCER, "192.0.2.7", "10.0.0.9", " ", "10.1.1.1,") == (("192.0.2.7", 0), "10.0.0.2", None)


def test_a_client_within_the_trusted_networks() -> None:
    assert found(BALANCER, "10.0.0.9, 10.0.0.8") == (("10.0.0.9", 0), "10.0.0.2", None)


def test_nobody_else_is_believed() -> None:
    stranger = ("192.0.2.66", 1234)
    for header in ForwardingHeader:
        assert found(stranger, "for=10.0.0.1", header=header) == (stranger, None, None)
    assert forwarded_client(BALANCER, ["192.0.2.7"], XFF, trusted(), ["https"]) == ForwardedClient(BALANCER)


def test_without_a_header_it_is_the_hop_itself() -> None:
    assert found(BALANCER) == (BALANCER, "10.0.0.2", None)
    assert found(BALANCER, "", " , ,") == (BALANCER, "10.0.0.2", None)


def test_a_hop_on_this_machine() -> None:
    assert found(None, "192.0.2.7") == (("192.0.2.7", 0), "local", None)
    assert found(None) == (None, "local", None)


@pytest.mark.parametrize(
    ("entry", "client"),
    [
        ("192.0.2.7:4711", ("192.0.2.7", 4711)),
        ("2001:db8::7", ("2001:db8::7", 0)),
        ("2001:DB8:0:0::7", ("2001:db8::7", 0)),
        ("[2001:db8::7]", ("2001:db8::7", 0)),
        ("[2001:db8::7]:65535", ("2001:db8::7", 65535)),
        ("::ffff:192.0.2.7", ("192.0.2.7", 0)),
    ],
)
def test_spellings(entry: str, client: Peer) -> None:
    assert found(BALANCER, entry) == (client, "10.0.0.2", None)


@pytest.mark.parametrize(
    ("element", "client"),
    [
        ("for=192.0.2.7", ("192.0.2.7", 0)),
        ("For=192.0.2.7;proto=https;by=10.0.0.2", ("192.0.2.7", 0)),
        ('host="a,b";for="192.0.2.7:4711"', ("192.0.2.7", 4711)),
        ('for="[2001:db8::7]:4711" ; by="[::1]"', ("2001:db8::7", 4711)),
        ('for="[2001:db8::7]:_port"', ("2001:db8::7", 0)),
        (r'for="\1\92.0.2.7"', ("192.0.2.7", 0)),
        (r'host="a\",for=6.6.6.6";for=192.0.2.7', ("192.0.2.7", 0)),
    ],
)
def test_forwarded(element: str, client: Peer) -> None:
    assert found(BALANCER, element, header=RFC) == (client, "10.0.0.2", None)
    assert found(BALANCER, f'for=6.6.6.6, "for=x, {element}', header=RFC) == (client, "10.0.0.2", None)
    assert found(BALANCER, f"{element}, for=10.0.0.9", header=RFC) == (client, "10.0.0.2", None)


@pytest.mark.parametrize(
    "element", ["for=unknown", "for=_hidden", 'for="_hidden:80"', "proto=https", 'for="unknown:_p"']
)
def test_a_hop_that_does_not_tell_stands_for_its_client(element: str) -> None:
    assert found(BALANCER, f"for=6.6.6.6, {element}, for=10.0.0.9", header=RFC) == (("10.0.0.9", 0), "10.0.0.2", None)
    assert found(BALANCER, "6.6.6.6, unknown, 10.0.0.9") == (("10.0.0.9", 0), "10.0.0.2", None)


@pytest.mark.parametrize(
    "entry",
    [
        "example.org",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.07",
        "192.0.2.7:",
        "192.0.2.7:65536",
        "192.0.2.7 192.0.2.8",
        "[192.0.2.7]x",
        "[2001:db8::7",
        "2001:db8::7::",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "1.2.3.4\n5.6.7.8",
        "\u0661.2.3.4",
        "x" * 10_000,
    ],
)
def test_a_malformed_entry_ends_the_walk(entry: str) -> None:
    """The hop that has passed it on counts as the client, and somebody can see why."""
    client, via, fault = found(BALANCER, f"192.0.2.7, {entry}, 10.0.0.9")
    assert (client, via) == (("10.0.0.9", 0), "10.0.0.2")
    assert fault is not None
    assert fault.startswith("x-forwarded-for has an entry that is no address: ")
    assert len(fault) < 120
    client, via, fault = found(BALANCER, f'for="{entry}"', header=RFC)
    assert (client, via) == (BALANCER, "10.0.0.2")
    assert fault is not None


@pytest.mark.parametrize(
    "element", ["for", "for=", "=1.2.3.4", "for=1.2.3.4 x", "for=1.2.3.4;for=1.2.3.5", 'for="1.2.3.4', ";"]
)
def test_a_malformed_element_ends_the_walk(element: str) -> None:
    client, _, fault = found(BALANCER, element, header=RFC)
    assert client == BALANCER
    assert fault is not None


# --- TLS


@pytest.mark.parametrize(
    ("schemes", "on_tls"),
    [
        ([], None),
        (["https"], True),
        (["WSS"], True),
        (["http"], False),
        (["ws"], False),
        (["https", "http"], False),
        (["http", "https"], False),
        (["https", "https"], True),
        (["spdy", ""], None),
        (["spdy", "https"], True),
    ],
)
def test_x_forwarded_proto(schemes: list[str], on_tls: bool | None) -> None:
    """Of several all count, since nobody can tell whose they are."""
    for values in (["192.0.2.7"], ["unknown"], ["no address"], []):
        assert forwarded_client(BALANCER, values, XFF, TRUSTED, schemes).on_tls is on_tls
    assert forwarded_client(("192.0.2.66", 1), ["192.0.2.7"], XFF, TRUSTED, schemes).on_tls is None
    assert forwarded_client(BALANCER, ["for=192.0.2.7"], RFC, TRUSTED, schemes).on_tls is None


@pytest.mark.parametrize(
    ("elements", "on_tls"),
    [
        ("for=192.0.2.7;proto=https", True),
        ('proto="https";for=192.0.2.7', True),
        ("for=192.0.2.7;Proto=HTTP", False),
        ("for=192.0.2.7", None),
        ("for=_hidden;proto=https", True),
        ("proto=https", True),
        ("for=6.6.6.6;proto=https, for=192.0.2.7", None),
        ("for=192.0.2.7;proto=https, for=10.0.0.9;proto=http", True),
        ("for=6.6.6.6;proto=https, for=192.0.2.7;proto=http, for=10.0.0.9;proto=https", False),
        ("for=192.0.2.7;proto=https;proto=http", None),
        ("for=nobody;proto=https, for=10.0.0.9;proto=https", None),
    ],
)
def test_the_protocol_in_forwarded(elements: str, on_tls: bool | None) -> None:
    """The word of the hop to which the client has connected: what is between the others is their own business."""
    assert forwarded_client(BALANCER, [elements], RFC, TRUSTED).on_tls is on_tls


@given(st.lists(st.text('0123456789.:af[]",=;\\for unk', max_size=40), max_size=5), st.sampled_from(ForwardingHeader))
def test_nothing_that_a_client_writes_changes_what_a_proxy_adds(written: list[str], header: ForwardingHeader) -> None:
    added = "192.0.2.7" if header is XFF else 'for="192.0.2.7";proto=https'
    for values in ([*written, added], [f"{','.join(written)}, {added}"]):
        named = forwarded_client(BALANCER, values, header, TRUSTED)
        assert (named.peer, named.on_tls) == (("192.0.2.7", 0), None if header is XFF else True)
    found(BALANCER, *written, header=header)


@pytest.mark.parametrize("header", ForwardingHeader)
@pytest.mark.parametrize(
    "hostile", ['"' * 65_536, "\\" * 65_535 + '"', "," * 65_536, 'a="' * 20_000, "10.0.0.1," * 7000]
)
def test_a_long_header_takes_little_time(hostile: str, header: ForwardingHeader) -> None:
    """It takes milliseconds. Work that grows with the square of the length would take minutes, on any machine."""
    began = time.thread_time()
    found(BALANCER, hostile, header=header)
    assert time.thread_time() - began < 5
