"""Words of a client about itself, in passing."""

from __future__ import annotations

import pytest

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.opening import client_identity
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.negotiation import Negotiation

HEADER = (
    b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='example.org' "
    b"version='1.0'>"
)
CAPS = "xmlns='http://jabber.org/protocol/caps'"


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        (f"<c {CAPS} hash='sha-1' node='https://a.example' ver='x='/>", "https://a.example#x="),
        (f"<show>away</show><q:c xmlns:q='http://jabber.org/protocol/caps' {CAPS} node='a' ver='b'/>", "a#b"),
        (f"<c {CAPS} node='{'n' * 300}' ver='{'v' * 300}'/>", "n" * 256 + "#" + "v" * 256),
        (f"<c {CAPS} node='a'/>", None),
        (f"<c {CAPS} ver='b'/>", None),
        (f"<x xmlns='x'><c {CAPS} node='a' ver='b'/></x>", None),
        ("<c node='a' ver='b'/>", None),
        ("", None),
    ],
)
def test_capabilities(inside: str, expected: str | None) -> None:
    presence = f"<presence>{inside}</presence>".encode()
    assert client_identity.caps(stanza.parse(presence, HEADER)) == expected
    assert client_identity.may_have_caps(presence) is ("protocol/caps" in inside)


def test_one_object_for_all_that_say_the_same() -> None:
    def said() -> str | None:
        return client_identity.caps(stanza.parse(f"<presence><c {CAPS} node='a' ver='b'/></presence>".encode(), HEADER))

    assert said() is said()


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<user-agent id='1'><software>Some Client</software><device>phone</device></user-agent>", "Some Client"),
        (f"<user-agent><software>{'s' * 300}</software></user-agent>", "s" * 256),
        ("<user-agent id='1'/>", None),
        ("<user-agent id='1'><software/></user-agent>", None),
        ("<software>Some Client</software>", None),
        ("", None),
    ],
)
def test_user_agents(inside: str, expected: str | None) -> None:
    subject = Negotiation()
    data = f"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'>{inside}</authenticate>".encode()
    assert subject.agent is None
    assert subject.from_client(data, read_header(HEADER, ClientError)).forward == data
    assert subject.agent == expected
