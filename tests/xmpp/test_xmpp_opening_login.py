"""Openings that go on until the client says who it is."""

from __future__ import annotations

import base64

import pytest
from lxml import etree

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.client_opening import BeginTls, ClientOpening, Closed, Opened, OpeningRules, Reply, Step
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.login import UNKNOWN, Login
from cxfr_proxy.xmpp.opening.negotiation import Negotiation

NS = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
HEADER = f"<?xml version='1.0'?><stream:stream {NS} to='Example.org' version='1.0'>"
FEATURES = (
    f"<stream:features><mechanisms xmlns='{names.SASL}'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
)
SECRET = base64.b64encode(b"\0juliet\0r0m30").decode()
AUTH = f"<auth xmlns='{names.SASL}' mechanism='PLAIN'>{SECRET}</auth>"
AUTHENTICATE = (
    f"<authenticate xmlns='{names.SASL2}' mechanism='PLAIN'><initial-response>{SECRET}</initial-response>"
    "<resume xmlns='urn:xmpp:sm:3' previd='sm1' h='0'/></authenticate>"
)
IQ = "<iq type='get' id='1'/>"
STARTTLS = f"<starttls xmlns='{names.TLS}'/>"
JULIET = Login("juliet@example.org")


class Stage:
    """An opening for a domain whose nodes have features in common, and the lane it reads."""

    def __init__(self, *, tls_first: bool = False, offers_tls: bool = False, features: str | None = FEATURES) -> None:
        self.asked: list[str] = []
        self.lane = Lane(max_element_bytes=8192, max_depth=64)
        self.features = features.encode() if features is not None else None
        rules = OpeningRules(
            new_stream_id=lambda: "s1",
            domains=frozenset(("example.org",)),
            requires_tls=tls_first,
            offers_tls=offers_tls,
            features=self,
        )
        self.opening = ClientOpening(self.lane, rules, on_tls=False)

    def of(self, domain: str, *, offer_starttls: bool) -> bytes | None:
        self.asked.append(domain)
        return self.features

    def __call__(self, text: str) -> list[Step]:
        return self.opening.receive(text.encode())

    def left(self) -> str:
        """Return the bytes that the next reader finds."""
        found = b""
        while (piece := self.lane.next()) is not None:
            found += piece.data
        return (found + self.lane.take_unread()).decode()


def test_header_and_features_are_the_proxy_s_own() -> None:
    subject = Stage()
    [reply] = subject(HEADER.replace("to=", "from='example.org' to="))
    assert subject.asked == ["Example.org"]
    assert isinstance(reply, Reply)
    stream = etree.fromstring(reply.data + b"</stream:stream>")
    assert (stream.get("id"), stream.get("from"), stream.get("to")) == ("s1", "Example.org", "example.org")
    assert reply.data.endswith(FEATURES.encode())


def test_who_is_named_by_the_header_gets_a_node_s_own_features() -> None:
    """A node's offers may depend on who asks."""
    subject = Stage()
    [opened] = subject(HEADER.replace("to=", "from='Juliet@Example.org/phone' to=") + AUTH)
    assert isinstance(opened, Opened)
    assert (opened.login, opened.greeted, subject.left()) == (JULIET, False, AUTH)


@pytest.mark.parametrize(
    "from_", ["", "example.org", "juliet@elsewhere.example", "@example.org", "juliet@example.org/"]
)
def test_what_names_no_user_of_the_domain_is_passed_over(from_: str) -> None:
    [reply] = Stage()(HEADER.replace("to=", f"from='{from_}' to="))
    assert isinstance(reply, Reply)


def test_where_nodes_differ_a_named_client_stays_on_its_node() -> None:
    [opened] = Stage(features=None)(HEADER.replace("to=", "from='juliet@example.org' to="))
    assert isinstance(opened, Opened)
    assert opened.login is None


def test_without_a_template_a_node_comes_first() -> None:
    [opened] = Stage(features=None)(HEADER + AUTH)
    assert isinstance(opened, Opened)
    assert opened.login is None


def test_no_template_is_asked_for_before_tls() -> None:
    subject = Stage(tls_first=True)
    assert [type(step) for step in subject(HEADER + STARTTLS)] == [Reply, BeginTls]
    assert not subject.asked


@pytest.mark.parametrize("element", [AUTH, AUTHENTICATE, IQ, "<stream:x/>"])
@pytest.mark.parametrize("behind", ["", HEADER + IQ, "<x/>"])
def test_the_first_element_opens_and_stays_where_it_is(element: str, behind: str) -> None:
    expected = {AUTH: JULIET, AUTHENTICATE: Login("juliet@example.org", "sm1")}.get(element, UNKNOWN)
    flight = HEADER + "\n " + element
    for at in range(len(flight) + 1):
        subject = Stage()
        steps = subject(flight[:at])
        if not (steps and isinstance(steps[-1], Opened)):
            steps += subject(flight[at:] + behind)
        assert [type(step) for step in steps] == [Reply, Opened]
        assert isinstance(steps[-1], Opened)
        assert steps[-1].login == expected
        if behind != HEADER + IQ:  # which is another stream's, and whoever reads on knows
            assert subject.left() == element + (behind if at < len(flight) else "")


def test_one_byte_at_a_time() -> None:
    subject = Stage()
    steps = [step for byte in HEADER + AUTH for step in subject(byte)]
    assert [type(step) for step in steps] == [Reply, Opened]
    assert subject.left() == AUTH


def test_a_header_said_twice_is_one() -> None:
    subject = Stage()
    assert len(subject(HEADER)) == 1
    [opened] = subject(HEADER + AUTH)
    assert isinstance(opened, Opened)
    assert opened.login == JULIET
    assert [type(step) for step in Stage()(HEADER + HEADER + AUTH)] == [Reply, Opened]


def test_starttls_that_was_shown() -> None:
    assert [type(step) for step in Stage(offers_tls=True)(HEADER + STARTTLS + "<<<")] == [Reply, BeginTls]
    assert [type(step) for step in Stage()(HEADER + STARTTLS)] == [Reply, Opened]


def test_a_client_that_leaves_gets_its_end() -> None:
    assert Stage()(HEADER + "</stream:stream>")[1:] == [Closed(b"</stream:stream>")]


@pytest.mark.parametrize(
    ("bytes_", "condition"),
    [
        (AUTH.replace(SECRET, SECRET * 1000), "policy-violation"),
        (AUTH.replace("<auth", "<x:auth").replace("</auth", "</x:auth"), "bad-namespace-prefix"),
        (SECRET, "bad-format"),
        (AUTH.replace(SECRET, f"<!--{SECRET}-->"), "restricted-xml"),
        (AUTH.replace("</auth>", "</r0m30>"), "not-well-formed"),
        (AUTH.replace("</auth>", "&r0m30;</auth>"), "restricted-xml"),
    ],
)
def test_what_ends_it_tells_no_secret(bytes_: str, condition: str) -> None:
    subject = Stage()
    subject(HEADER)
    with pytest.raises(ClientError) as caught:
        subject(bytes_)
    assert caught.value.condition == condition
    fault: BaseException | None = caught.value
    while fault is not None:
        assert SECRET not in repr(fault)
        assert "r0m30" not in repr(fault)
        fault = fault.__cause__ or fault.__context__
    assert subject.opening.refuse(caught.value).startswith(b"<stream:error>"), "it has a header already"


@pytest.mark.parametrize(
    "auth",
    [
        AUTH,
        AUTH.replace(SECRET, base64.b64encode(b"romeo@example.org\0juliet\0r0m30").decode()),
        AUTH.replace(SECRET, "AGp1bGlldAA"),
        AUTH.replace("PLAIN", "EXTERNAL"),
        AUTHENTICATE,
        IQ,
    ],
    ids=["plain", "as somebody else", "no base64", "refused", "SASL2", "no login"],
)
def test_a_login_is_read_once(auth: str) -> None:
    """The next reader does with the note what it would do without; and a password is in no note."""
    subject, header = Stage(), read_header(HEADER.encode(), ClientError)
    assert isinstance(subject(HEADER + auth)[-1], Opened)
    piece = subject.lane.next()
    assert piece is not None
    assert (piece.note is not None) == auth.startswith("<auth ")
    assert "r0m30" not in repr(piece.note)
    noted, read = Negotiation(), Negotiation()
    assert noted.from_client(piece.data, header, note=piece.note) == read.from_client(piece.data, header)
    assert noted.attempt == read.attempt
