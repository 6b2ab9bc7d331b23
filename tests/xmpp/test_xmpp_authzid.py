"""Logins as somebody else, mechanism by mechanism; and saying one thing to the proxy and another to the node."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening.attempt import FailedLogin
from cxfr_proxy.xmpp.opening.authzid import AuthzidWatch
from cxfr_proxy.xmpp.opening.header import StreamHeader
from cxfr_proxy.xmpp.opening.negotiation import Negotiation
from cxfr_proxy.xmpp.opening.sasl import SaslFault, read_request
from cxfr_proxy.xmpp.opening.verdict import ElementVerdict

HEADER = StreamHeader(
    raw=b"",
    context=b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
    to="example.org",
    from_=None,
    id=None,
    lang=None,
    version="1.0",
    prefix="stream",
)


def encoded(message: str | bytes) -> str:
    return base64.b64encode(message if isinstance(message, bytes) else message.encode()).decode()


def auth(message: str, mechanism: str = "PLAIN") -> str:
    return f"<auth xmlns='{names.SASL}' mechanism='{mechanism}'>{message}</auth>"


def authenticate(message: str, mechanism: str = "PLAIN") -> str:
    inner = f"<initial-response>{message}</initial-response><user-agent/>"
    return f"<authenticate xmlns='{names.SASL2}' mechanism='{mechanism}'>{inner}</authenticate>"


def response(message: str, namespace: str = names.SASL) -> str:
    return f"<response xmlns='{namespace}'>{message}</response>"


def judged(element: str) -> SaslFault | None:
    return AuthzidWatch().begun(read_request(stanza.parse(element.encode())), "example.org")


@pytest.mark.parametrize(
    ("authzid", "authcid", "good"),
    [
        ("", "juliet", True),
        ("juliet", "juliet", True),
        ("juliet@example.org", "juliet", True),
        ("Juliet@EXAMPLE.org", "juliet", True),
        ("juliet", "juliet@example.org", True),
        ("juliet@example.org", "juliet@example.org", True),
        ("", "juliet@elsewhere.org", True),
        ("romeo", "juliet", False),
        ("romeo@example.org", "juliet", False),
        ("juliet@example.com", "juliet", False),
        ("juliet@example.org/balcony", "juliet", False),
        ("juliet ", "juliet", False),
        ("juliet@example.org.", "juliet", True),  # RFC 7622 section 3.2: the dot is no part of it
        ("juliet@example.org@example.org", "juliet", False),
        ("@example.org", "", True),  # nobody's account
        ("romeo", "", False),
        ("żółw", "ŻÓŁW", True),
    ],
)
def test_who_may_log_in_as_whom(authzid: str, authcid: str, good: bool) -> None:
    expected = None if good else SaslFault.INVALID_AUTHZID
    message = encoded(f"{authzid}\0{authcid}\0secret")
    for mechanism in ("PLAIN", "X-OAUTH2", "plain", " PLAIN "):
        assert judged(auth(message, mechanism)) is expected
        assert judged(authenticate(message, mechanism)) is expected
    scram = encoded(f"n,{f'a={authzid}' if authzid else ''},n={authcid},r=abc")
    for mechanism in ("SCRAM-SHA-1", "SCRAM-SHA-256-PLUS"):
        assert judged(auth(scram, mechanism)) is expected
        assert judged(authenticate(scram, mechanism)) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("n,a=a=2Cb=3Dc,n=a=2Cb=3Dc,r=x", None),
        ("y,a=romeo,n=juliet,r=x", SaslFault.INVALID_AUTHZID),
        ("p=tls-exporter,a=romeo,n=juliet,r=x", SaslFault.INVALID_AUTHZID),
        ("n,a=romeo,m=ext,n=juliet,r=x", SaslFault.INVALID_AUTHZID),
        ("n,,n=juliet,r=x,a=romeo", None),  # an extension behind the header says nothing
        ("c=biws,r=x,p=y", None),
        ("n,a=romeo,a=juliet,n=juliet,r=x", SaslFault.MALFORMED_REQUEST),
        ("n,n=juliet,r=x", SaslFault.MALFORMED_REQUEST),
        ("a=romeo,n=juliet,r=x", SaslFault.MALFORMED_REQUEST),
        ("", None),
    ],
)
def test_scram(message: str, expected: SaslFault | None) -> None:
    assert judged(auth(encoded(message), "SCRAM-SHA-256")) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("=", None),
        (" \n", None),
        ("AGEAYg==", None),
        ("\nAGEA\r\nYg==\t", None),
        ("AGEAYg", SaslFault.INCORRECT_ENCODING),
        ("AGEAYg=", SaslFault.INCORRECT_ENCODING),
        ("AGEAYh==", SaslFault.INCORRECT_ENCODING),  # bits that no byte has
        ("AGEAYg====", SaslFault.INCORRECT_ENCODING),
        ("AGEA=Yg==", SaslFault.INCORRECT_ENCODING),
        ("AGE-Yg==", SaslFault.INCORRECT_ENCODING),
        ("AGEAYg==!", SaslFault.INCORRECT_ENCODING),
        ("AGEAYgé=", SaslFault.INCORRECT_ENCODING),
        ("==", SaslFault.INCORRECT_ENCODING),
        (encoded("a\0b"), SaslFault.MALFORMED_REQUEST),
        (encoded("a\0b\0c\0d"), SaslFault.MALFORMED_REQUEST),
        (encoded(b"\0a\0\xff"), SaslFault.MALFORMED_REQUEST),
        ("AGEA<x/>Yg==", SaslFault.MALFORMED_REQUEST),
        ("<x>cm9tZW8A</x>AGEAYg==", SaslFault.MALFORMED_REQUEST),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str, expected: SaslFault | None) -> None:
    assert judged(auth(text)) is expected
    assert judged(authenticate(text)) is expected


def test_two_initial_responses_are_refused() -> None:
    second = "<initial-response xmlns='urn:x'>AGEAYg==</initial-response></authenticate>"
    twice = authenticate("AGEAYg==").replace("</authenticate>", second)
    assert judged(twice) is SaslFault.MALFORMED_REQUEST


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "HT-SHA-256-NONE", "ANONYMOUS", "X-OAUTH", "LOGIN", ""])
def test_other_mechanisms_are_the_node_s(mechanism: str) -> None:
    assert judged(auth(encoded("n,a=romeo,\1auth=Bearer x\1\1"), mechanism)) is None
    assert judged(auth("not base64 at all", mechanism)) is None


# --- more than one message


def up(subject: Negotiation, element: str) -> ElementVerdict:
    return subject.from_client(element.encode(), HEADER)


def down(subject: Negotiation, element: str) -> ElementVerdict:
    return subject.from_node(element.encode(), HEADER, "example.org")


ROMEO = encoded("romeo\0juliet\0secret")
JULIET = encoded("juliet@example.org\0juliet\0secret")


@pytest.mark.parametrize("namespace", [names.SASL, names.SASL2])
@pytest.mark.parametrize("begun", ["", "=", "AGEAYg=="])
def test_a_response_is_judged_as_well(namespace: str, begun: str) -> None:
    subject = Negotiation()
    begin = auth(begun) if namespace == names.SASL else authenticate(begun)
    verdict = up(subject, begin)
    assert (verdict.forward, verdict.hold_client, verdict.asks) == (begin.encode(), True, True)
    wrong = up(subject, response(ROMEO, namespace))
    assert wrong == ElementVerdict(forward=f"<abort xmlns='{namespace}'/>".encode(), hold_client=True, asks=True)
    said = down(subject, f"<failure xmlns='{namespace}'><aborted xmlns='{names.SASL}'/></failure>")
    refusal = f"<failure xmlns='{namespace}'><invalid-authzid xmlns='{names.SASL}'/></failure>"
    failed = FailedLogin("juliet@example.org", "PLAIN", "invalid-authzid")
    assert said == ElementVerdict(forward=refusal.encode(), hold_client=False, failed=failed)
    # The client tries again, as whom it is.
    up(subject, begin)
    assert up(subject, response(JULIET, namespace)).forward == response(JULIET, namespace).encode()
    own = f"<failure xmlns='{namespace}'><not-authorized xmlns='{names.SASL}'/></failure>"
    assert down(subject, own).forward == own.encode()


def test_another_mechanism_does_not_end_what_was_begun() -> None:
    subject = Negotiation()
    up(subject, auth(""))
    up(subject, auth(encoded("n,,n=juliet,r=x"), "SCRAM-SHA-1"))
    assert b"<abort" in up(subject, response(ROMEO)).forward


def test_each_mechanism_that_was_begun_is_asked() -> None:
    subject = Negotiation()
    up(subject, auth("", "SCRAM-SHA-1"))
    up(subject, auth(""))
    romeo_of_a_strange_name = response(encoded("c=romeo\0juliet\0secret"))
    assert b"<abort" in up(subject, romeo_of_a_strange_name).forward


def test_what_has_failed_is_over() -> None:
    subject = Negotiation()
    up(subject, auth(""))
    down(subject, f"<failure xmlns='{names.SASL}'><not-authorized/></failure>")
    up(subject, auth("", "X-STEPS"))
    assert up(subject, response("cA==")).forward == response("cA==").encode()


def test_one_that_was_refused_has_not_begun() -> None:
    subject = Negotiation()
    assert b"<invalid-authzid" in up(subject, auth(ROMEO)).answer
    other = auth("", "X-STEPS")
    assert up(subject, other).forward == other.encode()
    assert up(subject, response("cA==")).forward == response("cA==").encode()


def test_the_responses_of_other_mechanisms_pass() -> None:
    subject = Negotiation()
    up(subject, auth(ROMEO, "X-STEPS"))
    assert up(subject, response(ROMEO)).forward == response(ROMEO).encode()
    assert down(subject, f"<challenge xmlns='{names.SASL}'/>").hold_client is False


def test_scram_to_its_end() -> None:
    subject = Negotiation()
    up(subject, auth("", "SCRAM-SHA-1"))
    for message in ("n,,n=juliet,r=x", "c=biws,r=xy,p=z"):
        assert up(subject, response(encoded(message))).forward == response(encoded(message)).encode()


def test_where_it_is_allowed_everything_passes() -> None:
    subject = Negotiation(check_authzid=False)
    for element in (auth(ROMEO), auth("?"), response(ROMEO), authenticate(ROMEO)):
        verdict = up(subject, element)
        assert (verdict.forward, verdict.hold_client, verdict.failed) == (element.encode(), True, None)


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.sampled_from(["PLAIN", "SCRAM-SHA-1"]))
def test_nothing_that_passes_names_somebody_else(authzid: str, authcid: str, more: str, mechanism: str) -> None:
    """An independent reading: split at the first NULs, or commas, as lenient servers do."""
    plain = mechanism == "PLAIN"
    message = f"{authzid}\0{authcid}\0{more}" if plain else f"n,a={authzid},n={authcid},r={more}"
    try:
        text = encoded(message)
    except UnicodeEncodeError:
        return
    if judged(auth(text, mechanism)) is not None:
        return
    first, second, *_ = message.split("\0") if plain else [part[2:] for part in message.split(",")[1:]]
    names_of = [name.replace("=2C", ",").replace("=3D", "=") if not plain else name for name in (first, second)]
    bare = [name.lower().removesuffix("@example.org") for name in names_of]
    assert names_of[0] == "" or bare[0] == bare[1]
