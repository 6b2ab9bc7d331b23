"""Wherever a domain, or an account at one, is compared with another: all spellings are one, and no two names are."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from lxml import etree

import cxfr_proxy
from cxfr_proxy.cluster.backends import SrvBackends, parse_url
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.cluster.targets import HostPattern, RedirectTargets
from cxfr_proxy.config.table import Config
from cxfr_proxy.config.values import CLIENTS, DOMAIN, PLACEMENT
from cxfr_proxy.errors import ClientError, ConfigError
from cxfr_proxy.net.certificate_names import read_names
from cxfr_proxy.net.tls import self_signed
from cxfr_proxy.session.client_software import ClientSoftware, Software
from cxfr_proxy.spellings import dns_name, domain_key
from cxfr_proxy.xmpp.connection_transfer import fits
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.authzid import AuthzidWatch
from cxfr_proxy.xmpp.opening.client_opening import ClientOpening, DomainMoved, Opened, OpeningRules
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.login import named_by, read_login
from cxfr_proxy.xmpp.opening.sasl import read_request

SAME: Final = (
    ("example.org", "EXAMPLE.org"),
    ("example.org", "example.org."),
    ("b\u00fccher.example", "xn--bcher-kva.example"),
    ("xn--bcher-kva.example", "BU\u0308CHER.example."),
    ("xn--bcher-kva.example", "b\u00fccher\u3002example"),
    ("fa\u00df.example", "XN--FA-HIA.example."),
    ("\u2603.example", "xn--n3h.example"),  # registered before IDNA 2008, which has no symbols
    ("\uff45xample.org", "example.org"),
    ("[2001:db8::1]", "[2001:DB8:0:0::0001]"),
)
OTHER: Final = (
    ("example.org", "example.org.net"),
    ("example.org", "xexample.org"),
    ("fa\u00df.example", "fass.example"),  # one domain by IDNA 2003, two by IDNA 2008
    ("b\u00fccher.example", "bucher.example"),
    ("b\u00fccher.example", "xn--bcher-kvb.example"),
)


def opening(to: str, *, domain: str | None = None, moved: str | None = None) -> ClientOpening:
    rules = OpeningRules(
        new_stream_id=lambda: "s",
        domains=(domain_key(domain),) if domain is not None else (),
        moved={domain_key(moved): "elsewhere.example"} if moved is not None else {},
    )
    return ClientOpening(Lane(max_element_bytes=10_000, max_depth=64), rules, on_tls=True)


def header(to: str) -> bytes:
    return (
        f"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='{to}'>"
    ).encode()


def is_served(one: str, other: str) -> bool:
    try:
        [step] = opening(other, domain=DOMAIN.parse(one)).receive(header(other))
    except ClientError:
        return False
    return isinstance(step, Opened)


def has_moved(one: str, other: str) -> bool:
    try:
        opening(other, moved=one).receive(header(other))
    except DomainMoved:
        return True
    return False


def is_in_the_circle(one: str, other: str) -> bool:
    """A domain that is served here can't have moved away."""
    try:
        Config.from_sources({"domain": [one], "redirect_domain": [f"{other}=elsewhere.example"]})
    except ConfigError:
        return True
    return False


def is_a_node_s(one: str, other: str) -> bool:
    [spec] = parse_nodes(f"a 127.0.0.1 domain={one}", "nodes")
    return spec.serves(domain_key(other))


def has_the_policy(one: str, other: str) -> bool:
    return PLACEMENT.parse(f"{one}=least-sessions").domain == domain_key(other)


def is_denied(one: str, other: str) -> bool:
    return ClientSoftware(deny=[CLIENTS.parse(f"domain={one}")]).knows_cxfr(Software(), other, True) is False


def auth(text: str) -> etree._Element:
    element = etree.Element("{urn:ietf:params:xml:ns:xmpp-sasl}auth", mechanism="PLAIN")
    element.text = base64.b64encode(text.encode()).decode()
    return element


def may_log_in_as(one: str, other: str) -> bool:
    return AuthzidWatch().begun(read_request(auth(f"Kim@{other}\0kim\0secret")), one) is None


def logs_in_as(one: str, other: str) -> bool:
    return read_login(auth(f"\0Kim@{one}\0secret"), one) == read_login(auth("\0kim\0secret"), other)


def is_named_by_its_header(one: str, other: str) -> bool:
    named = named_by(read_header(header(one).replace(b" to=", f" from='Kim@{other}/a' to=".encode()), ClientError))
    return named is not None and named == named_by(
        read_header(header(other).replace(b" to=", f" from='kim@{one}' to=".encode()), ClientError)
    )


def answers_to(one: str, other: str) -> bool:
    iq = etree.Element("{jabber:client}iq", {"to": other, "from": f"kim@{other}/a"})
    return fits(iq, one, f"Kim@{one}/a")


def may_be_sent_to(one: str, other: str) -> bool:
    return RedirectTargets((HostPattern.parse(one),)).allow(other.strip("[]"))


def may_be_sent_below(one: str, other: str) -> bool:
    """An address has nothing below it."""
    if one.startswith("["):
        return domain_key(one) == domain_key(other)
    return RedirectTargets((HostPattern.parse(f"*.{one}"),)).allow(f"xmpp1.{other}")


def is_asked_in_dns(one: str, other: str) -> bool:
    """Of an address nothing can be asked there."""
    return parse_srv(one) == parse_srv(other)


def parse_srv(domain: str) -> str:
    if domain.startswith("["):
        return domain_key(domain)
    found = parse_url(f"dns+srv://_xmpp-client._tcp.{domain}")
    assert isinstance(found, SrvBackends)
    assert found.name.isascii()
    return found.name


def is_certified(one: str, other: str) -> bool:
    [general] = read_names(x509.load_pem_x509_certificate(self_signed([one])[0])).domains
    return general == domain_key(other)


def is_called_in_tls(one: str, other: str) -> bool:
    return dns_name(one) == dns_name(other)


PLACES: Final = (
    is_served,
    has_moved,
    is_in_the_circle,
    is_a_node_s,
    has_the_policy,
    is_denied,
    may_log_in_as,
    logs_in_as,
    is_named_by_its_header,
    answers_to,
    may_be_sent_to,
    may_be_sent_below,
    is_asked_in_dns,
    is_certified,
    is_called_in_tls,
)

Place = Callable[[str, str], bool]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_spellings_are_one_domain(one: str, other: str, place: Place) -> None:
    assert place(one, other)
    assert place(other, one)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("one", "other"), OTHER)
def test_two_names_are_two_domains(one: str, other: str, place: Place) -> None:
    assert not place(one, other)
    assert not place(other, one)


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("Example.org.", "example.org"),
        ("fa\u00df.example", "xn--fa-hia.example"),
        ("\u2603.example", "xn--n3h.example"),
        ("a_b.example", "a_b.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_what_a_domain_is_called_in_tls(domain: str, name: str) -> None:
    assert dns_name(domain) == name


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a b",
        "a\n.b",
        "*",
        "[a]",
        "[::1",
        "[10.0.0.1]",
        "a/b",
        "a..b",
        ".a",
        f"{'x' * 64}.a",
        "\u00fc" * 60 + ".a",
        "a." * 127 + "a",
    ],
)
def test_what_nothing_in_dns_can_be_called(domain: str) -> None:
    with pytest.raises(ValueError, match="not a host's name"):
        dns_name(domain)


PACKAGE: Final = Path(cxfr_proxy.__file__).parent
KEPT_AS_WRITTEN: Final = {
    "worker/service.py": "what a node has answered to",
}


def test_nobody_compares_domains_in_another_way() -> None:
    """A line that folds the case of a domain, or of what stands in ``to``, and does not say why here."""
    folding = re.compile(r"(domain|\.to\b|\bto\b).*\.(lower|casefold)\(\)")
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name != "spellings.py" and any(map(folding.search, path.read_text("utf-8").splitlines()))
    }
    assert found == set(KEPT_AS_WRITTEN)
