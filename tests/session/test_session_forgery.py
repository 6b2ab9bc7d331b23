"""Connection transfers and redirects that don't come from the proxy, in every spelling, place and cut."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from forged import FORGERIES, NO_FORGERIES
from session_script import (
    AUTH,
    BIND,
    BIND_FEATURES,
    BIND_RESULT,
    CLIENT_HEADER,
    ELSEWHERE,
    END,
    FEATURES,
    JID,
    NEWS,
    NODE_HEADER,
    SUCCESS,
    Script,
    iq,
    stream_error,
)

from cxfr_proxy.cluster.targets import HostPattern, RedirectTargets
from cxfr_proxy.session.commands import BoundTo, Ended, Forged, NodeLost, Reason, Redirected, Side
from cxfr_proxy.session.tables import State

MALLORY = "mallory@example.org/x"


def written(form: str, **more: str) -> str:
    """As it comes from the victim's node: with the sender's address put in, which changes nothing else."""
    stanza = form.format(**{"to": JID, "host": "evil.example", "id": "f1", **more})
    return re.sub(r"^<(\w+)", rf"<\1 from='{MALLORY}'", stanza)


def not_allowed() -> str:
    return (
        f"<iq xmlns='jabber:client' type='error' id=\"f1\" from=\"{JID}\" to=\"{MALLORY}\"><error type='cancel'>"
        "<not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>only the server may move a connection</text>"
        "</error></iq>"
    )


forgeries = pytest.mark.parametrize("form", [pytest.param(form, id=name) for name, form in FORGERIES.items()])
others = pytest.mark.parametrize("form", [pytest.param(form, id=name) for name, form in NO_FORGERIES.items()])


@forgeries
def test_a_forgery_is_kept_back_answered_and_reported(form: str) -> None:
    s = Script().bind().node(NEWS, written(form), NEWS)
    s.client_gets(NEWS, NEWS).node_gets(not_allowed()).reports(Forged())


@forgeries
def test_a_forgery_at_every_cut(form: str) -> None:
    forged = written(form)
    s = Script().bind()
    for at in range(1, len(forged)):
        s.node(forged[:at]).client_gets().node(forged[at:]).client_gets().node_gets(not_allowed()).reports(Forged())
    s.node(NEWS[:-1])
    for byte in NEWS[-1:] + forged:
        s.node(byte)
    s.client_gets(NEWS).node_gets(not_allowed())


@forgeries
def test_a_forgery_while_the_client_is_asked(form: str) -> None:
    Script().bind().order().client_gets(iq()).forget().node(written(form)).client_gets().node_gets(not_allowed())


@forgeries
def test_a_forgery_before_a_resource_is_bound(form: str) -> None:
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER)
    s.node(NODE_HEADER, BIND_FEATURES).client(BIND).forget()
    s.node(written(form), BIND_RESULT).client_gets(BIND_RESULT).node_gets(not_allowed()).reports(Forged(), BoundTo(JID))


@forgeries
def test_a_forgery_in_the_flight_of_the_binding(form: str) -> None:
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER)
    s.node(NODE_HEADER, BIND_FEATURES).client(BIND).forget()
    s.node(BIND_RESULT, written(form), NEWS).client_gets(BIND_RESULT, NEWS).node_gets(not_allowed())


@forgeries
def test_a_forgery_too_long_to_be_held_back_never_ends(form: str) -> None:
    forged = written(form)
    long = forged.replace(">", f"><x>{'x' * 12_000}</x>", 1)
    for at in (11_000, len(long) - 30, len(long) - 1):
        s = Script(cut_through=True).bind().node(long[:at]).client_gets(long[:at])
        s.node(long[at:]).client_gets().is_over(at_once=True)
        s.expect(Forged() in s.events, "a report")


@others
def test_what_is_none_passes_byte_for_byte(form: str) -> None:
    stanza = written(form)
    s = Script().bind().node(stanza, NEWS).client_gets(stanza, NEWS).node_gets().reports()
    for at in range(1, len(stanza)):
        s.node(stanza[:at]).node(stanza[at:]).client_gets(stanza)
    s.order().forget().node(stanza).client_gets(stanza).node_gets().reports()


@pytest.mark.parametrize("kind", ["message", "presence", "iq type='result'", "iq id='1' type=\"error\""])
def test_a_long_one_that_mentions_it_passes_too(kind: str) -> None:
    long = f"<{kind}><x>{'x' * 12_000}</x><y>urn:xmpp:cxfr</y></{kind.split()[0]}>"
    s = Script(cut_through=True).bind().node(long[:11_000]).node(long[11_000:], NEWS)
    s.client_gets(long, NEWS).reports().is_in(State.BOUND)


@pytest.mark.parametrize(
    "start",
    [
        "<iq type='set'>",
        "<iq>",
        "<iq x='type=&apos;result&apos;'>",
        f"<iq a='{'a' * 9_000}' type='result'>",  # its type is said too late
        "<c:iq xmlns:c='jabber:client' type='result'>",
        "<c:iq xmlns:c='jabber:client' type='set'>",
    ],
)
def test_a_long_one_that_can_be_a_request_does_not(start: str) -> None:
    long = f"{start}<x>{'x' * 12_000}</x><y>urn:xmpp:cxfr</y></{start[1:].split()[0].rstrip('>')}>"
    s = Script(cut_through=True).bind().node(long[:-5]).forget().node(long[-5:]).client_gets().is_over(at_once=True)
    s.expect(Forged() in s.events, "a report")


@pytest.mark.parametrize("name", ["a:b", "a:b:c", ":c"])
def test_one_that_only_a_parser_without_namespaces_reads_is_kept_back(name: str) -> None:
    """Nobody can say what the client makes of it; and the node, which wrote it, gets no answer to it."""
    forged = f"<iq type='set' id='f1' from='{MALLORY}'><{name}/><x xmlns='urn:xmpp:cxfr'/></iq>"
    Script().bind().node(NEWS, forged, NEWS).client_gets(NEWS, NEWS).node_gets().reports(Forged())


# --- prefixes of the stream itself

PREFIX = " xmlns:c='urn:xmpp:cxfr'>"


@pytest.mark.parametrize("declared", [PREFIX, ' xmlns:c="urn:xmpp&#58;cxfr">', " xmlns:c='urn:xmpp:cxfr '>"])
def test_no_stream_declares_a_prefix_for_it(declared: str) -> None:
    header = NODE_HEADER.replace(">", declared).replace("?" + declared, "?>")
    s = Script().node(header, FEATURES, "<iq><c:query/></iq>")
    s.expect(b"cxfr" not in s.sent[Side.CLIENT], "a header of the proxy's own")
    s.expect(b"<remote-connection-failed" in s.sent[Side.CLIENT], "an error")

    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER).forget()
    s.node(header).expect(b"cxfr" not in s.sent[Side.CLIENT], "a header of the proxy's own")

    header = CLIENT_HEADER.replace("version='1.0'>", "version='1.0'" + declared)
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(header)
    s.expect(b"</stream:error>" in s.sent[Side.CLIENT], "an error")
    s.expect(b"cxfr" not in s.sent[Side.NODE], "kept from the node")


# --- redirects


def redirect(to: str) -> str:
    return stream_error("see-other-host", to)


def trusting(
    *patterns: str, tls: bool = True, lately: Callable[[str | None, float], bool] = lambda user, now: False
) -> Script:
    targets = RedirectTargets(tuple(map(HostPattern.parse, patterns)))
    return Script(tls=tls, trust_node_redirects=True, redirect_targets=targets, redirected_lately=lately)


HIDDEN = [
    redirect("evil.example"),
    redirect("evil.example").replace(
        "see-other-host ", "reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><see-other-host "
    ),
    redirect("evil.example").replace("urn:ietf", "&#117;rn&#x3a;ietf"),
    redirect("evil.example").replace("see-other-host ", "see-other-host a='b' "),
    "<stream:error><x xmlns='y'><see-other-host xmlns='z'>evil.example</see-other-host></x></stream:error>",
    "<error xmlns='http://etherx.jabber.org/streams'><see-other-host xmlns='x'>evil.example</see-other-host></error>",
    "<s:error xmlns:s='urn:x'><see-other-host>evil.example</see-other-host></s:error>",
]


@pytest.mark.parametrize("error", HIDDEN)
def test_a_node_s_redirect_is_replaced(error: str) -> None:
    s = Script().bind().node(NEWS, error, END).client_gets(NEWS).reports(NodeLost(Reason.NODE_REDIRECTED))
    s.is_in(State.BOUND).order().client_gets(iq())
    for at in range(1, len(error)):
        Script().bind().node(error[:at]).node(error[at:]).client_gets()


@pytest.mark.parametrize("error", HIDDEN)
def test_a_node_s_redirect_of_a_login_becomes_a_reset(error: str) -> None:
    s = Script().node(NODE_HEADER, FEATURES).client(AUTH).forget().node(error, END)
    s.client_gets(stream_error("reset", text="reconnect"), END)


def test_a_long_redirect_never_ends() -> None:
    error = f"<stream:error><x xmlns='y'>{'x' * 12_000}</x>" + redirect("evil.example").removeprefix("<stream:error>")
    s = Script(cut_through=True).bind().node(error[:11_000]).forget().node(error[11_000:])
    s.client_gets().is_over(at_once=True)


@pytest.mark.parametrize("error", [HIDDEN[0], HIDDEN[1], HIDDEN[4]])
def test_a_trusted_node_s_redirect_is_said_again(error: str) -> None:
    s = trusting().bind().node(NEWS, error, END).client_gets(NEWS, redirect("evil.example"), END)
    s.client(END).client_ends().is_over()
    s.expect(s.reported(Ended).reason is Reason.NODE_REDIRECTED, "the reason")
    s = trusting("*.example").node(NODE_HEADER, FEATURES).client(AUTH).forget().node(error)
    s.client_gets(redirect("evil.example"), END)


def test_a_trusted_node_s_redirect_while_the_client_is_asked() -> None:
    s = trusting("[2001:db8::1]").bind().order().forget().node(redirect("[2001:DB8:0::1]:5222"))
    s.client_gets(redirect("[2001:db8::1]:5222"), END)


def test_a_trusted_node_s_redirect_is_remembered_and_not_said_twice_in_a_while() -> None:
    s = trusting().bind().node(redirect("b.example"))
    s.reported(Redirected)
    asked: list[tuple[str | None, float]] = []

    def lately(user: str | None, now: float) -> bool:
        asked.append((user, now))
        return True

    s = trusting(lately=lately).bind().node(redirect("b.example"), END).client_gets()
    s.reports(NodeLost(Reason.NODE_REDIRECTED)).is_in(State.BOUND)
    assert asked == [("juliet@example.org", s.now)]


@pytest.mark.parametrize(
    "address",
    ["", "evil.example", "xexample.org", "a.example.org.evil.example", "b.example.org@evil", "[::1]", "x y", "1"],
)
def test_a_trusted_node_s_redirect_to_where_nobody_may_be_sent_is_replaced(address: str) -> None:
    s = trusting("*.example.org", "10.0.0.1").bind().node(redirect(address)).client_gets()
    s.reports(NodeLost(Reason.NODE_REDIRECTED))


def test_a_trusted_node_s_redirect_in_plaintext_is_replaced() -> None:
    s = trusting(tls=False).bind().node(redirect("evil.example")).client_gets()
    s.reports(NodeLost(Reason.NODE_REDIRECTED))


def test_only_tls_streams_are_sent_to_another_host() -> None:
    s = Script(tls=False).bind().order(ELSEWHERE).client_gets(iq(server="example.org")).forget().tick()
    s.node_gets(END).node(END).client_gets(stream_error("reset", text="reconnect"), END)


# --- logging in as somebody else

SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
AS_ROMEO = f"<auth xmlns='{SASL}' mechanism='PLAIN'>cm9tZW8AanVsaWV0AHg=</auth>"
INVALID_AUTHZID = f"<failure xmlns='{SASL}'><invalid-authzid xmlns='{SASL}'/></failure>"


def test_nobody_logs_in_as_somebody_else_and_may_try_again() -> None:
    s = Script().node(NODE_HEADER, FEATURES).forget().client(AS_ROMEO, AS_ROMEO)
    s.client_gets(INVALID_AUTHZID, INVALID_AUTHZID).node_gets().client(AUTH).node_gets(AUTH)
    Script(check_authzid=False).node(NODE_HEADER, FEATURES).forget().client(AS_ROMEO).client_gets().node_gets(AS_ROMEO)


def test_the_exchange_that_was_begun_is_aborted() -> None:
    begin, challenge = AS_ROMEO.replace("cm9tZW8AanVsaWV0AHg=", ""), f"<challenge xmlns='{SASL}'/>"
    response = f"<response xmlns='{SASL}'>cm9tZW8AanVsaWV0AHg=</response>"
    s = Script().node(NODE_HEADER, FEATURES).client(begin).node(challenge).forget().client(response, AUTH)
    s.client_gets().node_gets(f"<abort xmlns='{SASL}'/>")
    s.node(f"<failure xmlns='{SASL}'><aborted/></failure>").client_gets(INVALID_AUTHZID).node_gets(AUTH)
    failure = f"<failure xmlns='{SASL}'><not-authorized/></failure>"
    s.node(failure).client_gets(failure)


@pytest.mark.parametrize("auth", [AS_ROMEO, AUTH.replace("PLAIN", "EXTERNAL")])
def test_who_asks_in_the_first_flight_is_refused_behind_the_features(auth: str) -> None:
    s = Script(behind=auth + AUTH).node_gets(CLIENT_HEADER).client_gets()
    s.node(NODE_HEADER).client_gets(NODE_HEADER).node_gets()
    condition = "invalid-authzid" if auth == AS_ROMEO else "invalid-mechanism"
    s.node(FEATURES).expect(s.sent[Side.CLIENT].endswith(b"</failure>"), "the refusal at last").node_gets(AUTH)
    s.expect(condition.encode() in s.sent[Side.CLIENT], condition)
