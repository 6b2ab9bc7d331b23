"""Features shown before there is a node, and what makes those of two nodes differ."""

from __future__ import annotations

import pytest
from lxml import etree

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening.node_features import differing, shown_features

MECHANISMS = (
    f"<mechanisms xmlns='{names.SASL}'><mechanism>SCRAM-SHA-1</mechanism><mechanism>PLAIN</mechanism></mechanisms>"
)
REGISTER = "<register xmlns='http://jabber.org/features/iq-register'/>"
IQ_AUTH = "<auth xmlns='http://jabber.org/features/iq-auth'/>"
STARTTLS = f"<starttls xmlns='{names.TLS}'/>"
LIMITS = f"<limits xmlns='{names.LIMITS}'><max-bytes>1000000</max-bytes></limits>"


def features(*inner: str) -> bytes:
    return f"<stream:features>{''.join(inner)}</stream:features>".encode()


def shown(*inner: str, offer_starttls: bool = False) -> bytes:
    found = shown_features(features(*inner), offer_starttls=offer_starttls, max_bytes=262_144)
    assert found is not None
    return found


def names_in(data: bytes) -> list[str]:
    return [etree.QName(child).localname for child in stanza.parse(data)]


def test_what_concerns_a_node_s_own_connection_is_not_shown() -> None:
    found = shown(STARTTLS, MECHANISMS.replace("PLAIN", "EXTERNAL"), REGISTER, LIMITS, IQ_AUTH)
    assert names_in(found) == ["mechanisms", "register", "limits"]
    assert b"EXTERNAL" not in found
    assert b"262144" in found


def test_a_node_s_hash_of_its_features_is_not_shown() -> None:
    """It may become another node (XEP-0509)."""
    assert names_in(shown(MECHANISMS, "<config-version xmlns='urn:of:any:version'>abc</config-version>")) == [
        "mechanisms"
    ]


def test_the_proxy_s_own_starttls_is_shown_where_it_is_on_offer() -> None:
    assert names_in(shown(STARTTLS, MECHANISMS, offer_starttls=True)) == ["starttls", "mechanisms"]


@pytest.mark.parametrize(
    "offered",
    [
        features(),
        features(STARTTLS),
        features(REGISTER),
        features(IQ_AUTH),  # its digests need the node's stream id
        features(MECHANISMS.replace("PLAIN", "EXTERNAL").replace("SCRAM-SHA-1", "SCRAM-SHA-1-PLUS")),
        b"<features/>",
        b"<x:features/>",
        b"<stream:features>",
        b"",
    ],
)
def test_what_leads_to_no_login_is_not_shown(offered: bytes) -> None:
    assert shown_features(offered, offer_starttls=False, max_bytes=None) is None


@pytest.mark.parametrize(
    ("one", "other", "elements"),
    [
        ((MECHANISMS, REGISTER), (REGISTER, MECHANISMS), ()),
        (
            (MECHANISMS,),
            (MECHANISMS.replace("SCRAM-SHA-1", "X").replace("PLAIN", "SCRAM-SHA-1").replace("X", "PLAIN"),),
            (),
        ),
        ((MECHANISMS,), (MECHANISMS.replace("><", ">\n <"),), ()),
        ((MECHANISMS,), (MECHANISMS, IQ_AUTH, STARTTLS), ()),
        (("<a xmlns='urn:x' b='1' c='2'/>",), ('<a c="2" b="1" xmlns="urn:x"></a>',), ()),
        ((MECHANISMS,), (MECHANISMS.replace("SCRAM-SHA-1", "SCRAM-SHA-256"),), ("mechanisms",)),
        ((MECHANISMS, REGISTER), (MECHANISMS,), ("register",)),
        ((MECHANISMS,), (MECHANISMS, MECHANISMS), ("mechanisms",)),
        (("<a xmlns='urn:x'/>",), ("<a xmlns='urn:y'/>",), ("a",)),
        (("<a xmlns='urn:x' b='1'/>",), ("<a xmlns='urn:x' b='2'/>",), ("a",)),
        (("<a xmlns='urn:x'><b>1</b></a>", REGISTER), ("<a xmlns='urn:x'><b>2</b></a>",), ("a", "register")),
    ],
)
def test_what_differs(one: tuple[str, ...], other: tuple[str, ...], elements: tuple[str, ...]) -> None:
    login = MECHANISMS.replace("PLAIN", "SCRAM-SHA-512")
    assert differing(shown(login, *one), shown(login, *other)) == elements
    assert differing(shown(login, *other), shown(login, *one)) == elements
