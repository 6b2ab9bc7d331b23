"""Openings: the proxy's own part with a client, then what passes between client and node until a resource is bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from known_sessions import KnownResumptions
from lxml import etree

from cxfr_proxy.errors import ClientError, NodeError
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.client_opening import (
    STARTTLS_FEATURES,
    BeginTls,
    ClientOpening,
    Closed,
    Opened,
    OpeningRules,
    Reply,
    Step,
)
from cxfr_proxy.xmpp.opening.header import StreamHeader, read_header
from cxfr_proxy.xmpp.opening.negotiation import Negotiation
from cxfr_proxy.xmpp.opening.verdict import Bound, ElementVerdict
from cxfr_proxy.xmpp.stream_management import Resumption

NS = "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
HEADER = f"<?xml version='1.0'?><stream:stream {NS} to='example.org' version='1.0'>"
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
SASL2 = "xmlns='urn:xmpp:sasl:2'"
JID = "juliet@example.org/balcony"
KNOWN = Resumption(JID, "node1", "sm1")


def opening(*, tls_first: bool = True, domains: frozenset[str] = frozenset(), limit: int = 8192) -> ClientOpening:
    rules = OpeningRules(new_stream_id=lambda: "s1", domains=domains, requires_tls=tls_first)
    return ClientOpening(Lane(max_element_bytes=limit, max_depth=64), rules, on_tls=False)


def refusal(header: str, **options: bool | frozenset[str]) -> tuple[str, etree._Element]:
    """The condition a header is refused with, and what the client gets, which has to be one well-formed stream."""
    subject = opening(**options)  # type: ignore[arg-type]
    with pytest.raises(ClientError) as caught:
        subject.receive(header.encode())
    stream = etree.fromstring(subject.refuse(caught.value))
    assert [child.tag for child in stream] == [f"{{{names.STREAM}}}error"]
    return caught.value.condition, stream


def one(steps: list[Step], kind: type[Opened]) -> StreamHeader:
    assert isinstance(steps[-1], kind)
    return steps[-1].header


# --- the header


def test_a_client_on_tls_is_let_through_at_once() -> None:
    header = one(opening(tls_first=False).receive(HEADER.encode()), Opened)
    context = f'<stream:stream xmlns="{names.CLIENT}" xmlns:stream="{names.STREAM}">'.encode()
    assert header == StreamHeader(HEADER.encode(), context, "example.org", None, None, None, "1.0", "stream")
    assert header.end == b"</stream:stream>"


@pytest.mark.parametrize(
    "header",
    [
        HEADER.replace("version='1.0'?", "version='1.0' encoding='UTF-8'?"),
        HEADER.replace("version='1.0'?", 'version="1.0" encoding="utf-8" '.rstrip() + "?"),
        HEADER.removeprefix("<?xml version='1.0'?>"),
        HEADER.replace("?>", "?>\n"),
        "\n " + HEADER,
        HEADER.replace("to='example.org'", "to='EXAMPLE.org' from='juliet@example.org' xml:lang='de'"),
        HEADER.replace("version='1.0'>", "version='1.5'>"),
        HEADER.replace("version='1.0'>", "version='01.0'>"),
        HEADER.replace("version='1.0'>", "version='10'>"),
        HEADER.replace("xmlns:stream", "xmlns:s").replace("stream:stream", "s:stream"),
        HEADER[:-1] + "\n>",
    ],
)
def test_headers_that_clients_send(header: str) -> None:
    for size in (1, 7, len(header)):
        subject = opening(tls_first=False, domains=frozenset(("example.org",)))
        steps = [s for at in range(0, len(header), size) for s in subject.receive(header[at : at + size].encode())]
        read = one(steps, Opened)
        assert read.raw == header.strip().encode()
        assert read.to is not None
        assert etree.fromstring(read.raw + read.end).tag == f"{{{names.STREAM}}}stream"


@pytest.mark.parametrize("tls_first", [True, False])
@pytest.mark.parametrize(
    ("header", "condition"),
    [
        (HEADER.replace(" to='example.org'", ""), "improper-addressing"),
        (HEADER.replace("to='example.org'", "to=''"), "improper-addressing"),
        (HEADER.replace("version='1.0'>", ">"), "unsupported-version"),
        (HEADER.replace("version='1.0'>", "version='0.9'>"), "unsupported-version"),
        (HEADER.replace("version='1.0'>", "version=''>"), "unsupported-version"),
        (HEADER.replace("version='1.0'>", "version='00.9'>"), "unsupported-version"),
        (HEADER.replace("version='1.0'>", "version='one'>"), "unsupported-version"),
        ("\ufeff" + HEADER, "not-well-formed"),
        (HEADER.replace("jabber:client", "jabber:server"), "invalid-namespace"),
        (HEADER.replace("xmlns='jabber:client' ", ""), "invalid-namespace"),
        (HEADER.replace("etherx.jabber.org/streams", "example.org/streams"), "invalid-namespace"),
        (HEADER.replace("xmlns:stream", "xmlns:other"), "bad-namespace-prefix"),
        (HEADER.replace("<stream:", "<stream:x:").replace("jabber:client", "relative"), "bad-namespace-prefix"),
        (HEADER[:-1] + "/>", "bad-format"),
        (HEADER[:-1] + " / >", "not-well-formed"),
        (HEADER.replace("stream:stream", "stream:flow"), "bad-format"),
        (f"<stream xmlns='{names.STREAM}' to='example.org' version='1.0'>", "invalid-namespace"),
        (HEADER.replace("'example.org'", "'elsewhere.org'"), "host-unknown"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?>" + HEADER, "unsupported-encoding"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + HEADER, "restricted-xml"),
        ("<!-- hello -->" + HEADER, "restricted-xml"),
        ("GET / HTTP/1.1\r\n", "not-well-formed"),
        ("</stream:stream>", "not-well-formed"),
        (HEADER.replace("to=", "a='" + "x" * 9000 + "' to="), "policy-violation"),
        ("<" + "x" * 9000, "policy-violation"),
    ],
)
def test_headers_that_are_refused(header: str, condition: str, tls_first: bool) -> None:
    found, stream = refusal(header, tls_first=tls_first, domains=frozenset(("example.org",)))
    assert found == condition
    assert stream.get("id") == "s1"
    assert stream[0][0].tag == f"{{{names.STREAM_ERRORS}}}{condition}"


def test_a_node_s_header_is_the_node_s_fault() -> None:
    with pytest.raises(NodeError):
        read_header(HEADER.replace("jabber:client", "jabber:server").encode(), NodeError)


# --- STARTTLS


def test_the_proxy_offers_starttls_itself() -> None:
    [reply] = opening().receive(HEADER.replace("to=", "from='juliet@example.org' to=").encode())
    assert isinstance(reply, Reply)
    assert reply.data.endswith(STARTTLS_FEATURES)
    stream = etree.fromstring(reply.data + b"</stream:stream>")
    assert dict(stream.items()) == {
        "from": "example.org",
        "to": "juliet@example.org",
        "id": "s1",
        "version": "1.0",
        "{http://www.w3.org/XML/1998/namespace}lang": "en",
    }
    assert stream[0][0].find(f"{{{names.TLS}}}required") is not None


def test_a_quote_in_an_address_stays_in_its_attribute() -> None:
    [reply] = opening().receive(HEADER.replace("to=", "from='&lt;&apos;&quot;@a' to=").encode())
    assert isinstance(reply, Reply)
    assert etree.fromstring(reply.data + b"</stream:stream>").get("to") == "<'\"@a"


@pytest.mark.parametrize("starttls", [STARTTLS, f"{STARTTLS[:-2]} id='1'></starttls>", "\n" + STARTTLS])
@pytest.mark.parametrize("junk", ["", "<iq/>", "<<<", HEADER, "\x16\x03\x01"])
def test_header_and_starttls_in_one_flight_with_junk_behind(starttls: str, junk: str) -> None:
    flight = (HEADER + starttls + junk).encode()
    for at in range(len(flight) + 1):
        subject = opening()
        steps = subject.receive(flight[:at])
        if not steps or not isinstance(steps[-1], BeginTls):
            steps += subject.receive(flight[at:])
        assert [type(step) for step in steps] == [Reply, BeginTls]


@pytest.mark.parametrize(
    "element",
    [
        f"<auth {SASL} mechanism='PLAIN'>AGEAYg==</auth>",
        f"<authenticate {SASL2} mechanism='PLAIN'/>",
        "<iq type='get' id='1'/>",
        "<starttls/>",
    ],
)
def test_nothing_but_starttls_comes_before_tls(element: str) -> None:
    subject = opening()
    subject.receive(HEADER.encode())
    with pytest.raises(ClientError) as caught:
        subject.receive(element.encode())
    assert caught.value.condition == "policy-violation"
    # It has got a header already.
    assert subject.refuse(caught.value).startswith(b"<stream:error>")


@pytest.mark.parametrize(
    ("bytes_", "condition"),
    [
        ("<iq>" + "x" * 9000, "policy-violation"),
        ("<x:iq/>", "bad-namespace-prefix"),
        ("text", "bad-format"),
        (HEADER, "restricted-xml"),
    ],
)
def test_what_ends_an_opening(bytes_: str, condition: str) -> None:
    subject = opening()
    subject.receive(HEADER.encode())
    with pytest.raises(ClientError) as caught:
        subject.receive(bytes_.encode())
    assert caught.value.condition == condition


class NoFeatures:
    """Of a domain whose nodes offer nothing."""

    def of(self, domain: str, *, offer_starttls: bool) -> bytes:
        return b"<stream:features/>"


@pytest.mark.parametrize("tls_first", [True, False])
def test_a_stream_that_is_closed_in_good_order_is_answered_so(tls_first: bool) -> None:
    flight = (HEADER + " </stream:stream>").encode()
    rules = OpeningRules(new_stream_id=lambda: "s1", requires_tls=tls_first, features=NoFeatures())
    for at in range(len(flight) + 1):
        subject = ClientOpening(Lane(max_element_bytes=8192, max_depth=64), rules, on_tls=False)
        steps = subject.receive(flight[:at]) + subject.receive(flight[at:])
        assert [type(step) for step in steps] == [Reply, Closed]
        assert steps[-1] == Closed(b"</stream:stream>")


def test_nothing_is_read_behind_a_header_on_tls() -> None:
    lane = Lane(max_element_bytes=8192, max_depth=64)
    subject = ClientOpening(lane, OpeningRules(new_stream_id=lambda: "s1"), on_tls=True)
    assert len(subject.receive(f"{HEADER}<auth/><<<".encode())) == 1
    assert lane.take_unread() == b"<auth/><<<"


# --- domains that have moved away


MOVED = {"example.org": "[2001:db8::1]:5223"}


def asked_for_a_moved_domain(*, tls_first: bool, on_tls: bool = False, offers_tls: bool = False) -> ClientOpening:
    rules = OpeningRules(
        new_stream_id=lambda: "s1",
        domains={"other.example"},
        moved=MOVED,
        requires_tls=tls_first,
        offers_tls=offers_tls,
    )
    return ClientOpening(Lane(max_element_bytes=8192, max_depth=64), rules, on_tls=on_tls)


@pytest.mark.parametrize("domain", ["example.org", "Example.ORG."])
def test_over_tls_it_says_where_to(domain: str) -> None:
    subject = asked_for_a_moved_domain(tls_first=False, on_tls=True, offers_tls=True)
    with pytest.raises(ClientError) as caught:
        subject.receive(HEADER.replace("example.org", domain).encode())
    stream = etree.fromstring(subject.refuse(caught.value))
    assert stream.get("from") == domain
    assert stream.findtext(f"*/{{{names.STREAM_ERRORS}}}see-other-host") == "[2001:db8::1]:5223"


@pytest.mark.parametrize("tls_first", [True, False])
def test_before_tls_it_says_nothing_but_that_tls_comes_first(tls_first: bool) -> None:
    subject = asked_for_a_moved_domain(tls_first=tls_first, offers_tls=True)
    (reply,) = subject.receive(HEADER.encode())
    assert isinstance(reply, Reply)
    assert b"<required/>" in reply.data
    assert b"2001" not in reply.data
    assert subject.receive(f"<starttls xmlns='{names.TLS}'/>".encode()) == [BeginTls("example.org")]
    refused = asked_for_a_moved_domain(tls_first=tls_first, offers_tls=True)
    with pytest.raises(ClientError, match="policy-violation"):
        refused.receive(f"{HEADER}<auth {SASL}/>".encode())


def test_where_there_is_no_tls_it_does_not_say_where_to() -> None:
    subject = asked_for_a_moved_domain(tls_first=False)
    with pytest.raises(ClientError, match="host-gone") as caught:
        subject.receive(HEADER.encode())
    assert b"2001" not in subject.refuse(caught.value)


def test_other_domains_have_not_moved() -> None:
    subject = asked_for_a_moved_domain(tls_first=False, on_tls=True)
    assert isinstance(subject.receive(HEADER.replace("example.org", "other.example").encode())[0], Opened)


# --- between client and node


NODE = read_header(f"<stream:stream {NS} from='example.org' id='n' version='1.0'>".encode(), NodeError)
CLIENT = read_header(HEADER.encode(), ClientError)


def up(subject: Negotiation, element: str) -> ElementVerdict:
    return subject.from_client(element.encode(), CLIENT)


def down(subject: Negotiation, element: str) -> ElementVerdict:
    return subject.from_node(element.encode(), NODE, "example.org")


@pytest.mark.parametrize(
    "element",
    [
        f"<auth {SASL} mechanism='SCRAM-SHA-1'>biwsbj1hLHI9Yg==</auth>",
        f"<response {SASL}>Yz1i</response>",
        f"<abort {SASL}/>",
        f"<authenticate {SASL2} mechanism='PLAIN'><initial-response>AGEAYg==</initial-response></authenticate>",
        f"<response {SASL2}/>",
    ],
)
def test_a_sasl_element_is_forwarded_and_the_rest_waits(element: str) -> None:
    verdict = up(Negotiation(), element)
    assert (verdict.forward, verdict.answer, verdict.hold_client) == (element.encode(), b"", True)


@pytest.mark.parametrize(
    "element",
    [
        f"<challenge {SASL}>cj0=</challenge>",
        f"<failure {SASL}><not-authorized/></failure>",
        f"<challenge {SASL2}/>",
        f"<continue {SASL2}/>",
        f"<failure {SASL2}/>",
    ],
)
def test_the_node_s_answer_lets_the_client_go_on(element: str) -> None:
    assert down(Negotiation(), element) == ElementVerdict(forward=element.encode(), hold_client=False)


def test_success_begins_a_new_stream_and_sasl2_does_not() -> None:
    assert down(Negotiation(), f"<success {SASL}/>").restart
    jid = "<authorization-identifier>a@b</authorization-identifier>"
    verdict = down(Negotiation(), f"<success {SASL2}>{jid}</success>")
    assert (verdict.restart, verdict.bound, verdict.hold_client) == (False, None, False)


@pytest.mark.parametrize(
    "mechanism", ["EXTERNAL", "external", " EXTERNAL ", "SCRAM-SHA-1-PLUS", "DIGEST-MD5", "GSSAPI", "HT-SHA-256-UNIQ"]
)
def test_stripped_mechanisms_are_refused_when_asked_for_all_the_same(mechanism: str) -> None:
    verdict = up(Negotiation(), f"<auth {SASL} mechanism='{mechanism}'>=</auth>")
    assert (verdict.forward, verdict.hold_client) == (b"", None)
    assert etree.fromstring(verdict.answer)[0].tag == f"{{{names.SASL}}}invalid-mechanism"
    verdict = up(Negotiation(), f"<authenticate {SASL2} mechanism='{mechanism}'/>")
    assert (verdict.forward, verdict.hold_client) == (b"", None)
    assert etree.fromstring(verdict.answer).tag == f"{{{names.SASL2}}}failure"
    assert etree.fromstring(verdict.answer)[0].tag == f"{{{names.SASL}}}invalid-mechanism"


def test_a_malformed_request_to_resume_is_refused_for_the_node() -> None:
    """QXmpp 1.4 binds anew then; a node would say nothing to it, or end the stream."""
    negotiation = Negotiation()
    verdict = up(negotiation, "<resume h='3' previd=''/>")
    assert not verdict.forward
    assert etree.fromstring(verdict.answer).tag == "{urn:xmpp:sm:3}failed"
    assert not negotiation.management.counting
    well_formed = "<resume xmlns='urn:xmpp:sm:3' h='3' previd='x'/>"
    assert up(Negotiation(), well_formed).forward == well_formed.encode()


def test_compression_is_refused() -> None:
    compress = "<compress xmlns='http://jabber.org/protocol/compress'><method>zlib</method></compress>"
    verdict = up(Negotiation(), compress)
    assert verdict.forward == b""
    assert etree.fromstring(verdict.answer)[0].tag == "{http://jabber.org/protocol/compress}setup-failed"


def test_starttls_is_taken_where_it_was_offered_and_refused_elsewhere() -> None:
    assert up(Negotiation(offer_starttls=True), STARTTLS) == ElementVerdict(start_tls=True)
    with pytest.raises(ClientError) as caught:
        up(Negotiation(), STARTTLS)
    assert caught.value.condition == "policy-violation"


@pytest.mark.parametrize("name", ["x:auth", "x:y:auth", "auth:"])
def test_a_name_that_means_nothing_is_the_client_s_fault(name: str) -> None:
    with pytest.raises(ClientError) as caught:
        up(Negotiation(), f"<{name}/>")
    assert caught.value.condition == "bad-namespace-prefix"


# --- bind


def test_bind_names_the_full_jid() -> None:
    subject = Negotiation()
    assert up(subject, f"<iq type='set' id='1'><bind xmlns='{names.BIND}'/></iq>").bound is None
    result = f"<iq type='result' id='1'><bind xmlns='{names.BIND}'><jid>{JID}</jid></bind></iq>"
    assert down(subject, result) == ElementVerdict(forward=result.encode(), bound=Bound(JID))
    assert subject.full_jid == JID
    assert not subject.management.on


@pytest.mark.parametrize(
    "iq",
    [
        f"<iq type='error' id='1'><bind xmlns='{names.BIND}'><jid>{JID}</jid></bind></iq>",
        f"<iq type='result' id='1'><bind xmlns='{names.BIND}'/></iq>",
        f"<iq type='result' id='1'><bind xmlns='urn:other'><jid>{JID}</jid></bind></iq>",
        "<iq type='result' id='1'/>",
    ],
)
def test_what_does_not_bind(iq: str) -> None:
    assert down(Negotiation(), iq).bound is None


NO_JIDS = ["juliet@example.org/" + "r" * 3072, "juliet@example.org", "juliet@example.org/", "@example.org/r", "/r", "@"]


@pytest.mark.parametrize("bound", NO_JIDS)
def test_what_is_no_full_jid_names_nobody(bound: str) -> None:
    """The client is bound all the same, and whoever asks for its address is told that it has none."""
    for result in (
        f"<iq type='result' id='1'><bind xmlns='{names.BIND}'><jid>{bound}</jid></bind></iq>",
        f"<success {SASL2}><authorization-identifier>{bound}</authorization-identifier></success>",
    ):
        subject = Negotiation()
        verdict = down(subject, result)
        if "/" in bound or "<iq" in result:  # SASL2 names a bare JID where no resource is bound
            assert verdict.bound == Bound(None)
            assert subject.warnings
        assert verdict.forward == result.encode()
        assert subject.full_jid is None


BIND2 = (
    f"<success {SASL2}><authorization-identifier>{JID}</authorization-identifier>"
    "<bound xmlns='urn:xmpp:bind:0'>%s</bound></success>"
)


def test_sasl2_binds_inline() -> None:
    subject = Negotiation()
    verdict = down(subject, BIND2 % "")
    assert verdict == ElementVerdict(forward=(BIND2 % "").encode(), hold_client=False, bound=Bound(JID))
    assert not subject.management.on


def test_stream_management_inside_bind2_and_its_location() -> None:
    subject = Negotiation()
    verdict = down(subject, BIND2 % "<enabled xmlns='urn:xmpp:sm:3' id='sm1' location='[::1]:5222'/>")
    assert verdict.bound == Bound(JID)
    assert (subject.management.on, subject.management.id) == (True, "sm1")
    assert b"location" not in verdict.forward
    assert etree.fromstring(verdict.forward).find(".//{urn:xmpp:sm:3}enabled") is not None


@pytest.mark.parametrize("known", [True, False])
def test_sasl2_resumes_inline(known: bool) -> None:
    subject = Negotiation(known=KnownResumptions({"sm1": KNOWN}) if known else None)
    resume = "<resume xmlns='urn:xmpp:sm:3' previd='sm1' h='3'/>"
    assert up(subject, f"<authenticate {SASL2} mechanism='PLAIN'>{resume}</authenticate>").hold_client
    verdict = down(
        subject,
        f"<success {SASL2}><authorization-identifier>juliet@example.org</authorization-identifier>"
        "<resumed xmlns='urn:xmpp:sm:3' h='2' previd='sm1'/></success>",
    )
    assert verdict.bound == Bound(JID if known else None, resumed=True)
    assert subject.management.on


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("namespace", ["urn:xmpp:sm:3", "urn:xmpp:sm:2"])
@pytest.mark.parametrize("said", [" previd='sm1'", ""])
def test_resumption(known: bool, namespace: str, said: str) -> None:
    subject = Negotiation(known=KnownResumptions({"sm1": KNOWN}) if known else None)
    resume = f"<resume xmlns='{namespace}' previd='sm1' h='3'/>"
    assert up(subject, resume).forward == resume.encode()
    verdict = down(subject, f"<resumed xmlns='{namespace}' h='2'{said}/>")
    assert verdict.bound == Bound(JID if known else None, resumed=True)
    assert subject.management.id == "sm1"


def test_a_resumption_that_fails_binds_nothing() -> None:
    subject = Negotiation(known=KnownResumptions({"sm1": KNOWN}))
    up(subject, "<resume xmlns='urn:xmpp:sm:3' previd='sm1' h='3'/>")
    assert down(subject, "<failed xmlns='urn:xmpp:sm:3'/>") == ElementVerdict(
        forward=b"<failed xmlns='urn:xmpp:sm:3'/>"
    )
    assert subject.full_jid is None


def test_enabled_turns_stream_management_on_and_loses_its_location() -> None:
    subject = Negotiation()
    enabled = "<enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true'/>"
    assert down(subject, enabled).forward == enabled.encode()
    assert (subject.management.on, subject.management.id) == (True, "sm1")
    located = "<enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true' location='10.0.0.1'/>"
    assert dict(etree.fromstring(down(subject, located).forward).items()) == {"id": "sm1", "resume": "true"}


@pytest.mark.parametrize("user", ["juliet", "50%", "a%s%s", "{x}"])
def test_a_login_of_old_names_the_full_jid_by_its_request(user: str) -> None:
    subject = Negotiation()
    query = f"<username>{user}</username><resource>balcony</resource><password>x</password>"
    up(subject, "<iq type='get' id='0'><query xmlns='jabber:iq:auth'/></iq>")
    up(subject, f"<iq type='set' id='1'><query xmlns='jabber:iq:auth'>{query}</query></iq>")
    assert down(subject, "<iq type='result' id='0'/>").bound is None
    assert down(subject, "<iq type='result' id='1'/>").bound == Bound(f"{user}@example.org/balcony")


@pytest.mark.parametrize(
    "between",
    [
        lambda subject: down(subject, "<iq type='error' id='1'/>"),  # the login failed
        lambda subject: up(subject, "<iq type='get' id='1'><query xmlns='jabber:iq:register'/></iq>"),
    ],
)
def test_a_login_of_old_is_not_confirmed_by_the_answer_to_something_else(
    between: Callable[[Negotiation], object],
) -> None:
    subject = Negotiation()
    query = "<username>admin</username><resource>r</resource><password>wrong</password>"
    up(subject, f"<iq type='set' id='1'><query xmlns='jabber:iq:auth'>{query}</query></iq>")
    between(subject)
    assert down(subject, "<iq type='result' id='1'/>").bound is None
    assert subject.full_jid is None


def test_elements_are_parsed_in_a_short_context_however_long_the_header_is() -> None:
    attributes = "".join(f" a{number}=''" for number in range(90))
    header = HEADER.replace("<stream:stream", f"<stream:stream{attributes} xmlns:x='urn:x'")
    (opened,) = opening(tls_first=False).receive(header.encode())
    assert isinstance(opened, Opened)
    assert len(opened.header.context) < 120
    assert stanza.parse(b"<x:y/>", opened.header.context).tag == "{urn:x}y"


def test_prefixes_without_end() -> None:
    prefixes = "".join(f" xmlns:p{number}='urn:p'" for number in range(40))
    with pytest.raises(ClientError, match="policy-violation"):
        opening(tls_first=False).receive(HEADER.replace("<stream:stream", f"<stream:stream{prefixes}").encode())


# --- what the node says about the stream


def test_features_are_rewritten_and_unchanged_ones_pass_byte_by_byte() -> None:
    odd = f"<stream:features ><bind  xmlns=\"{names.BIND}\"></bind>\n<x:y xmlns:x='urn:z'/></stream:features>"
    assert down(Negotiation(), odd) == ElementVerdict(forward=odd.encode(), greets=True)
    stripped = f"<stream:features>{STARTTLS}<bind xmlns='{names.BIND}'/></stream:features>"
    verdict = down(Negotiation(), stripped)
    assert [child.tag for child in etree.fromstring(verdict.forward)] == [f"{{{names.BIND}}}bind"]
    offered = etree.fromstring(down(Negotiation(offer_starttls=True), odd).forward)
    assert offered[0].tag == f"{{{names.TLS}}}starttls"


def test_features_that_leave_no_login_are_told_to_the_operator() -> None:
    subject = Negotiation()
    down(subject, f"<stream:features><mechanisms {SASL}><mechanism>EXTERNAL</mechanism></mechanisms></stream:features>")
    assert len(subject.warnings) == 1


@pytest.mark.parametrize(
    ("inner", "condition"),
    [
        ("<system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", "system-shutdown"),
        (
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>a</text>"
            "<conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>",
            "conflict",
        ),
        ("<invented/>", "undefined-condition"),
    ],
)
def test_a_stream_error_says_how_the_stream_ends(inner: str, condition: str) -> None:
    error = f"<stream:error>{inner}</stream:error>"
    text = "a" if "<text" in inner else None
    assert down(Negotiation(), error) == ElementVerdict(forward=error.encode(), ends=condition, ends_text=text)


LIMITS = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits>"


@pytest.mark.parametrize("offer_starttls", [False, True])
@pytest.mark.parametrize(
    ("offered", "hint"),
    [
        (f"<starttls xmlns='{names.TLS}'><required/></starttls>", "tls=starttls"),
        (f"<starttls xmlns='{names.TLS}'><required/></starttls>{LIMITS}", "tls=starttls"),  # Prosody 13
        (LIMITS, "no way to log in"),
        ("", "no way to log in"),
    ],
)
def test_features_that_lead_to_no_login_end_it(offered: str, hint: str, offer_starttls: bool) -> None:
    subject = Negotiation(offer_starttls=offer_starttls)
    verdict = down(subject, f"<stream:features>{offered}</stream:features>")
    assert (verdict.forward, verdict.ends) == (b"", "remote-connection-failed")
    assert hint in subject.warnings[0]


def test_behind_a_login_features_may_be_anything() -> None:
    """Prosody sends them behind a resumption inside SASL2."""
    subject = Negotiation()
    up(subject, "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'/>")
    down(subject, "<success xmlns='urn:xmpp:sasl:2'/>")
    assert down(subject, f"<stream:features>{LIMITS}</stream:features>").ends is None


def test_stream_management_is_offered_only_once() -> None:
    """ejabberd offers it behind a success that has enabled it; a client that enables it again counts wrongly."""
    offered = f"<stream:features><bind xmlns='{names.BIND}'/><sm xmlns='{names.SM}'/></stream:features>"
    subject = Negotiation()
    assert down(subject, offered).forward == offered.encode()
    up(subject, f"<authenticate xmlns='{names.SASL2}' mechanism='PLAIN'>{BIND2_WITH_SM}</authenticate>")
    down(
        subject,
        f"<success xmlns='{names.SASL2}'><bound xmlns='{names.BIND2}'><enabled xmlns='{names.SM}'/></bound></success>",
    )
    assert b"<bind" in (left := down(subject, offered).forward)
    assert names.SM.encode() not in left


BIND2_WITH_SM = f"<bind xmlns='{names.BIND2}'><enable xmlns='{names.SM}'/></bind>"


def test_elements_nobody_knows_pass_both_ways() -> None:
    element = "<active xmlns='urn:xmpp:csi:0'/>"
    assert up(Negotiation(), element) == down(Negotiation(), element) == ElementVerdict(forward=element.encode())


def test_a_client_says_whether_it_is_looked_at() -> None:
    """XEP-0352; what has another namespace says nothing."""
    subject = Negotiation()
    for element, inactive in (
        ("<inactive xmlns='urn:xmpp:csi:1'/>", False),
        ("<inactive xmlns='urn:xmpp:csi:0'/>", True),
        ("<inactive xmlns='urn:xmpp:csi:0'/>", True),
        ("<active/>", True),
        ("<active xmlns='urn:xmpp:csi:0'/>", False),
    ):
        assert up(subject, element) == ElementVerdict(forward=element.encode())
        assert subject.inactive is inactive, element


def test_a_client_logs_in_without_being_looked_at() -> None:
    """XEP-0386; for each attempt anew."""
    subject = Negotiation()
    inactive = "<bind xmlns='urn:xmpp:bind:0'><inactive xmlns='urn:xmpp:csi:0'/></bind>"
    up(subject, f"<authenticate {SASL2} mechanism='PLAIN'>{inactive}</authenticate>")
    assert subject.inactive
    up(subject, f"<authenticate {SASL2} mechanism='PLAIN'><bind xmlns='urn:xmpp:bind:0'/></authenticate>")
    assert not subject.inactive
