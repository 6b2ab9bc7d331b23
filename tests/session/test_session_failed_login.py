"""A session's report of a login that fails: who, by which mechanism, and the condition, whoever has said it."""

from __future__ import annotations

import base64

import pytest
from session_script import (
    AUTH,
    BIND,
    BIND_FEATURES,
    CLIENT_HEADER,
    END,
    FEATURES,
    JID,
    NODE_HEADER,
    SUCCESS,
    Script,
    stream_error,
)

from cxfr_proxy.transfers.statistics import LOGIN_FAILURES, Totals
from cxfr_proxy.xmpp.opening.attempt import FailedLogin

SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
SASL2 = "urn:xmpp:sasl:2"
NOT_AUTHORIZED = f"<failure xmlns='{SASL}'><text>no</text><not-authorized/></failure>"


def encoded(said: str) -> str:
    return base64.b64encode(said.encode()).decode()


def auth(said: str, mechanism: str = "PLAIN") -> str:
    return f"<auth xmlns='{SASL}' mechanism='{mechanism}'>{encoded(said) if said else ''}</auth>"


def response(said: str) -> str:
    return f"<response xmlns='{SASL}'>{encoded(said)}</response>"


def greeted(**options: bool) -> Script:
    return Script(**options).node(NODE_HEADER, FEATURES)  # type: ignore[arg-type]


def proved() -> Script:
    it = greeted().client(AUTH).node(SUCCESS)
    return it.client(CLIENT_HEADER).node(NODE_HEADER, BIND_FEATURES)


def failed(it: Script) -> list[FailedLogin]:
    return [event for event in it.events if isinstance(event, FailedLogin)]


@pytest.mark.parametrize(
    ("begins", "user", "mechanism"),
    [
        (auth("\0kim\0secret"), "kim@example.org", "PLAIN"),
        (auth("\0kim@example.org\0secret"), "kim@example.org", "PLAIN"),
        (auth("n,,n=kim,r=nonce", "SCRAM-SHA-1"), "kim@example.org", "SCRAM-SHA-1"),
        (auth("n,a=kim@example.org,\1auth=Bearer secret\1\1", "OAUTHBEARER"), "kim@example.org", "OAUTHBEARER"),
        (auth("kim\0hash", "HT-SHA-256-NONE"), "kim@example.org", "HT-SHA-256-NONE"),
        (auth("no name to be read", "CRAM-MD5"), None, "CRAM-MD5"),
        (auth("\0a user\nsession=1\0x"), "a user\nsession=1@example.org", "PLAIN"),
    ],
)
def test_the_node_refuses(begins: str, user: str | None, mechanism: str) -> None:
    it = greeted().client(begins).node(NOT_AUTHORIZED)
    assert failed(it) == [FailedLogin(user, mechanism, "not-authorized")]
    assert "secret" not in repr(it.events)
    it.client(begins).node(f"<failure xmlns='{SASL}'/>")
    assert failed(it)[1:] == [FailedLogin(user, mechanism, "undefined-condition")], "each attempt is one"


def test_the_header_s_from_stands_for_a_name_that_cannot_be_read() -> None:
    header = CLIENT_HEADER.replace("to=", "from='kim@example.org' to=")
    it = Script(header=header).node(NODE_HEADER, FEATURES).client(auth("", "CRAM-MD5")).node(NOT_AUTHORIZED)
    assert failed(it) == [FailedLogin("kim@example.org", "CRAM-MD5", "not-authorized")]


def test_sasl2() -> None:
    first = f"<initial-response>{encoded(chr(0) + 'kim' + chr(0) + 'x')}</initial-response>"
    it = greeted().client(f"<authenticate xmlns='{SASL2}' mechanism='PLAIN'>{first}</authenticate>")
    it.node(f"<failure xmlns='{SASL2}'><account-disabled xmlns='{SASL}'/></failure>")
    assert failed(it) == [FailedLogin("kim@example.org", "PLAIN", "account-disabled")]


def test_a_name_that_comes_with_a_response() -> None:
    it = greeted().client(auth("")).node(f"<challenge xmlns='{SASL}'/>")
    it.client(response("\0kim\0x")).node(NOT_AUTHORIZED)
    assert failed(it) == [FailedLogin("kim@example.org", "PLAIN", "not-authorized")]


def test_what_the_proxy_refuses_itself() -> None:
    it = greeted().client(auth("", "EXTERNAL"), auth("anna\0kim\0x"))
    assert failed(it) == [
        FailedLogin(None, "EXTERNAL", "invalid-mechanism"),
        FailedLogin("kim@example.org", "PLAIN", "invalid-authzid"),
    ]
    it.client(auth("")).node(f"<challenge xmlns='{SASL}'/>").client(response("anna\0kim\0x"))
    it.node(f"<failure xmlns='{SASL}'><aborted/></failure>")
    assert failed(it)[2:] == [FailedLogin("kim@example.org", "PLAIN", "invalid-authzid")]


def test_xep_0078() -> None:
    query = "<query xmlns='jabber:iq:auth'><username>kim</username><password>x</password><resource>r</resource></query>"
    it = greeted().client(f"<iq type='set' id='1'>{query}</iq>")
    error = "<error type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
    it.node("<iq type='error' id='2'/>", f"<iq type='error' id='1'>{error}</iq>")
    assert failed(it) == [FailedLogin("kim@example.org", "iq-auth", "not-authorized")]


@pytest.mark.parametrize(
    ("ends", "condition"),
    [
        (lambda it: it.node(stream_error("policy-violation"), END).client_ends(), "policy-violation"),
        (lambda it: it.node(END).client(END).client_ends(), "node-closed"),
        (lambda it: it.node_ends().client_ends(), "remote-connection-failed"),
    ],
)
def test_the_node_ends_the_stream(ends: object, condition: str) -> None:
    """Before it has judged the password, or behind that: neither is the client's."""
    it = greeted().client(auth("\0kim\0x"))
    ends(it)  # type: ignore[operator]
    assert failed(it) == [FailedLogin("kim@example.org", "PLAIN", condition)]
    it = proved()
    ends(it)  # type: ignore[operator]
    assert failed(it) == [FailedLogin("a@example.org", "PLAIN", condition)]


def test_no_resource_is_bound() -> None:
    it = proved().client(BIND)
    it.node("<iq type='error' id='b'><error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
    assert failed(it) == [FailedLogin("a@example.org", "PLAIN", "conflict")]
    it.client(BIND.replace("'b'", "'c'"))
    it.node(f"<iq type='result' id='c'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>{JID}</jid></bind></iq>")
    it.client(END).node(END).client_ends()
    assert len(failed(it)) == 1, "the second one was granted"


def test_a_client_that_leaves() -> None:
    """In the middle of it nobody knows why; once its password was found right it need not go on."""
    it = greeted().client(auth("\0kim\0x")).client_ends().node_ends()
    assert failed(it) == [FailedLogin("kim@example.org", "PLAIN", "client-lost")]
    it = proved().client_ends().node_ends()
    assert not failed(it)
    it = greeted().client_ends().node_ends()
    assert not failed(it), "nobody has tried to log in"


def test_a_client_that_takes_too_long() -> None:
    it = greeted().client(AUTH).node(f"<challenge xmlns='{SASL}'/>").wait(100.0)
    it.client_ends().node_ends()
    assert failed(it) == [FailedLogin("a@example.org", "PLAIN", "connection-timeout")]


def test_nothing_of_a_login_that_worked() -> None:
    it = Script().bind()
    it.client_ends().node_ends()
    assert not failed(it)


def test_no_word_of_a_node_s_makes_a_label() -> None:
    totals = Totals()
    for condition in ("not-authorized", "not-authorized", "policy-violation", "client-lost", "x1", "x2"):
        totals.count_failed_login(condition)
    assert totals.failed_logins == {"not-authorized": 2, "policy-violation": 1, "client-lost": 1, "other": 2}
    assert len(LOGIN_FAILURES) < 100
