"""Sessions whose clients were shown header and features by the proxy, and got their node by who logs in."""

from __future__ import annotations

import base64

import pytest
from lxml import etree
from msgspec.structs import replace
from session_script import (
    BIND,
    BIND_FEATURES,
    BIND_RESULT,
    CLIENT_HEADER,
    END,
    FEATURES,
    HELLO,
    JID,
    NEWS,
    NODE_HEADER,
    SUCCESS,
    Script,
    stream_error,
)

from cxfr_proxy.session.commands import BoundTo, EarlyLogin, Ended, Reason, Reroute, Side, Warned
from cxfr_proxy.session.session import State
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.header import SHOWN
from cxfr_proxy.xmpp.opening.login import UNKNOWN, Login

SASL = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
SASL2 = "xmlns='urn:xmpp:sasl:2'"
FAILURE = f"<failure {SASL}><not-authorized/></failure>"
CHALLENGE = f"<challenge {SASL}>cg==</challenge>"
RESPONSE = f"<response {SASL}>Yz1iaXdzLHI9bm9uY2UscD14</response>"  # c=biws,r=nonce,p=x
IQ = "<iq type='get' id='1'/>"
JULIET, ROMEO = Login("juliet@example.org"), Login("romeo@example.org")
CHOSEN = EarlyLogin(JULIET, bind_by=150.0, changes_left=2, shown=SHOWN)
NAMED = replace(CHOSEN, shown=None)
"""The client's header says who it is, so it gets that user's node's own header and features."""
GONE = stream_error("remote-connection-failed", text="the server went away, try again")


def plain(user: str) -> str:
    return f"<auth {SASL} mechanism='PLAIN'>{encoded(f'{chr(0)}{user}{chr(0)}x')}</auth>"


def scram(user: str) -> str:
    return f"<auth {SASL} mechanism='SCRAM-SHA-1'>{encoded(f'n,,n={user},r=nonce')}</auth>"


def authenticate(user: str, inline: str = "") -> str:
    first = f"<initial-response>{encoded(f'{chr(0)}{user}{chr(0)}x')}</initial-response>"
    return f"<authenticate {SASL2} mechanism='PLAIN'>{first}{inline}</authenticate>"


def encoded(message: str) -> str:
    return base64.b64encode(message.encode()).decode()


def romeo_elsewhere(login: Login, domain: str, node: str) -> bool:
    assert (domain, node) == ("example.org", "node1")
    return login.user == ROMEO.user


def begun(behind: str = "", *, early_login: EarlyLogin = CHOSEN, **options: bool) -> Script:
    """A session behind what made it: what the client has said waits to be read."""
    return Script(early_login=early_login, behind=behind, elsewhere=romeo_elsewhere, **options)  # type: ignore[arg-type]


# --- logging in


def test_the_node_s_greeting_is_not_for_the_client() -> None:
    s = begun(plain("juliet")).node_gets(CLIENT_HEADER).node(NODE_HEADER).nobody_gets_anything()
    s.expect(not s.session.wants(Side.CLIENT), "the client to be held")
    s.node(FEATURES).client_gets().node_gets(plain("juliet"))
    s.node(SUCCESS).client_gets(SUCCESS)
    s.client(CLIENT_HEADER).node_gets(CLIENT_HEADER)
    s.node(NODE_HEADER, BIND_FEATURES).client_gets(NODE_HEADER, BIND_FEATURES)
    s.client(BIND).node_gets(BIND).node(BIND_RESULT).client_gets(BIND_RESULT)
    s.is_in(State.BOUND).reports(BoundTo(JID)).node(NEWS).client_gets(NEWS).client(HELLO).node_gets(HELLO)


def test_one_byte_at_a_time() -> None:
    s = begun(plain("juliet"))
    for byte in NODE_HEADER + FEATURES + SUCCESS:
        s.node(byte)
    s.client_gets(SUCCESS)
    for byte in CLIENT_HEADER + BIND:
        s.client(byte)
    for byte in NODE_HEADER + BIND_FEATURES + BIND_RESULT + NEWS:
        s.node(byte)
    s.client_gets(NODE_HEADER, BIND_FEATURES, BIND_RESULT, NEWS).is_in(State.BOUND)


def test_all_in_one_flight() -> None:
    s = begun(plain("juliet") + CLIENT_HEADER + BIND + HELLO).node_gets(CLIENT_HEADER)
    s.node(NODE_HEADER, FEATURES).node_gets(plain("juliet"))
    s.expect(not s.session.wants(Side.CLIENT), "the client to be held")
    s.node(SUCCESS).node_gets(CLIENT_HEADER, BIND, HELLO)
    s.node(NODE_HEADER, BIND_FEATURES, BIND_RESULT).client_gets(SUCCESS, NODE_HEADER, BIND_FEATURES, BIND_RESULT)


def test_sasl2_has_features_of_its_own_behind_success() -> None:
    success = f"<success {SASL2}><authorization-identifier>{JID}</authorization-identifier></success>"
    s = begun(authenticate("juliet")).node(NODE_HEADER, FEATURES).client_gets()
    s.node_gets(CLIENT_HEADER, authenticate("juliet"))
    s.node(success, BIND_FEATURES, NEWS).client_gets(success, BIND_FEATURES, NEWS).is_in(State.BOUND)


def test_features_in_another_segment_than_the_header() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER).node(FEATURES[:20]).node(FEATURES[20:]).client_gets()
    s.node(SUCCESS).client_gets(SUCCESS)


def test_a_prefix_of_the_node_s_header_that_the_client_has_not_got() -> None:
    header = NODE_HEADER.replace("id='n1'", "id='n1' xmlns:x='urn:x'")
    s = begun(plain("juliet")).node(header, FEATURES, f"<challenge {SASL} x:a='b'>cg==</challenge>")
    challenge = etree.fromstring(s.sent[Side.CLIENT])
    assert dict(challenge.items()) == {"{urn:x}a": "b"}


def test_what_the_proxy_refuses() -> None:
    s = begun(plain("juliet").replace("PLAIN", "EXTERNAL")).node(NODE_HEADER, FEATURES).node_gets(CLIENT_HEADER)
    s.client_gets(f"<failure {SASL}><invalid-mechanism/></failure>")
    s.client(plain("juliet")).node_gets(plain("juliet"))


# --- how it ends


def test_the_waiting_counts() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER, FEATURES).forget()
    s.wait(49.0).is_not_over().wait(1.0)
    s.client_gets(stream_error("connection-timeout", text="the login took too long"), END)
    s.expect(s.session.state is State.CLOSING, "it to be closing")


@pytest.mark.parametrize("sent", ["", NODE_HEADER, NODE_HEADER + FEATURES])
def test_the_node_goes_away(sent: str) -> None:
    s = begun(plain("juliet"))
    if sent:
        s.node(sent)
    s.expect((plain("juliet").encode() in s.sent[Side.NODE]) is (FEATURES in sent), "a login for who has greeted")
    s.node_ends().client_gets(GONE, END)
    warned = [event for event in s.events if isinstance(event, Warned)]
    assert bool(warned) is (sent == ""), "it may have wanted a PROXY header"


def test_the_node_ends_the_stream_instead_of_a_greeting() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER, stream_error("host-unknown"), END)
    s.client_gets(stream_error("host-unknown"), END).node_gets(CLIENT_HEADER, END)


def test_the_client_leaves() -> None:
    begun(plain("juliet")).node(NODE_HEADER, FEATURES, FAILURE).client(END).node_gets(
        CLIENT_HEADER, plain("juliet"), END
    ).node(END).client_gets(FAILURE, END)


# --- somebody else


def rerouted(s: Script) -> Reroute:
    command = s.commands[-1]
    assert isinstance(command, Reroute), command
    s.is_in(State.CLOSED).expect(s.reported(Ended).reason is Reason.REROUTED, "the reason")
    return command


def left(lane: Lane) -> str:
    found = b""
    while (piece := lane.next()) is not None:
        found += piece.data
    return (found + lane.take_unread()).decode()


@pytest.mark.parametrize("login", [plain, scram, authenticate])
def test_a_failed_attempt_with_another_user_chooses_anew(login: object) -> None:
    assert callable(login)
    s = begun(login("juliet")).node(NODE_HEADER, FEATURES, FAILURE).forget()
    s.client(login("romeo") + " " + IQ).node_gets(END).client_gets()
    command = rerouted(s)
    assert command.header.raw == CLIENT_HEADER.encode()
    assert command.early_login == EarlyLogin(ROMEO, bind_by=150.0, changes_left=1, shown=SHOWN)
    again = Script(early_login=command.early_login, lane=command.up, elsewhere=romeo_elsewhere)
    again.node_gets(CLIENT_HEADER).node(NODE_HEADER, FEATURES).node_gets(login("romeo"))
    again.node(FAILURE).client_gets(FAILURE).node_gets(" ", IQ)


def test_the_node_s_failure_goes_out_first() -> None:
    s = begun(plain("juliet") + plain("romeo")).node(NODE_HEADER, FEATURES).client_gets()
    s.node(FAILURE).client_gets(FAILURE)
    assert left(rerouted(s).up) == plain("romeo")


def test_one_byte_at_a_time_as_well() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER, FEATURES, FAILURE)
    for byte in plain("romeo"):
        s.client(byte)
    assert left(rerouted(s).up) == plain("romeo")


def test_the_same_user_stays() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER, FEATURES, FAILURE).forget()
    s.client(plain("JULIET")).node_gets(plain("JULIET"))


def test_who_has_no_other_place_stays() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER, FEATURES, FAILURE).forget()
    s.client(plain("nurse")).node_gets(plain("nurse")).node(FAILURE).client_gets(FAILURE)
    s.client(plain("romeo")).node_gets(END)
    rerouted(s)


def test_an_exchange_stays_on_its_node() -> None:
    s = begun(scram("juliet")).node(NODE_HEADER, FEATURES, CHALLENGE).forget()
    s.client(RESPONSE).node_gets(RESPONSE).node(CHALLENGE).client_gets(CHALLENGE)
    s.client(plain("romeo")).node_gets(plain("romeo"))  # the node's to judge
    s.node(FAILURE).client_gets(FAILURE).client(scram("romeo")).node_gets(END)
    rerouted(s)


def test_a_mechanism_that_names_nobody_stays_and_what_follows_may_move() -> None:
    s = begun(f"<auth {SASL} mechanism='LOGIN'/>", early_login=replace(CHOSEN, login=UNKNOWN))
    s.node(NODE_HEADER, FEATURES, CHALLENGE).forget()
    s.client(RESPONSE).node_gets(RESPONSE).node(FAILURE).forget()
    s.client(plain("romeo")).node_gets(END)
    rerouted(s)


def test_what_was_refused_here_has_begun_nothing() -> None:
    s = begun(plain("juliet").replace("PLAIN", "EXTERNAL")).node(NODE_HEADER, FEATURES).forget()
    s.client(plain("romeo")).node_gets(END)
    rerouted(s)


def test_a_node_that_was_asked_for_something_else_is_kept() -> None:
    s = begun(IQ).node(NODE_HEADER, FEATURES).node_gets(CLIENT_HEADER, IQ)
    s.client(plain("romeo")).node_gets(plain("romeo"))


def test_nobody_changes_without_end() -> None:
    s = (
        begun(plain("juliet"), early_login=replace(CHOSEN, changes_left=0))
        .node(NODE_HEADER, FEATURES, FAILURE)
        .forget()
    )
    s.client(plain("romeo")).node_gets(plain("romeo"))


def test_who_is_in_stays() -> None:
    s = begun(plain("juliet")).node(NODE_HEADER, FEATURES, SUCCESS).forget()
    s.client(CLIENT_HEADER, plain("romeo")).node_gets(CLIENT_HEADER, plain("romeo"))


# --- who says in the header who they are


def test_a_named_client_gets_the_node_s_own_greeting() -> None:
    s = begun(early_login=NAMED).node_gets(CLIENT_HEADER)
    s.node(NODE_HEADER, FEATURES).client_gets(NODE_HEADER, FEATURES)
    s.client(plain("juliet")).node_gets(plain("juliet")).node(SUCCESS).client_gets(SUCCESS)
    s.client(CLIENT_HEADER).node_gets(CLIENT_HEADER)
    s.node(NODE_HEADER, BIND_FEATURES).client_gets(NODE_HEADER, BIND_FEATURES)


def test_a_login_in_the_header_s_flight_waits_for_a_node_that_has_greeted() -> None:
    s = begun(plain("juliet"), early_login=NAMED).node_gets(CLIENT_HEADER).node(NODE_HEADER).node_gets()
    s.node(FEATURES).client_gets(NODE_HEADER, FEATURES).node_gets(plain("juliet"))


@pytest.mark.parametrize("login", [plain, scram, authenticate])
@pytest.mark.parametrize("prefix", ["stream", "s"])
def test_who_logs_in_as_another_than_the_header_said_is_judged_by_the_other_s_node(login: object, prefix: str) -> None:
    assert callable(login)
    header, features = (
        each.replace("stream:", f"{prefix}:").replace("xmlns:stream", f"xmlns:{prefix}")
        for each in (NODE_HEADER, FEATURES)
    )
    s = begun(early_login=NAMED).node(header, features).client_gets(header, features).forget()
    s.client(login("romeo")).node_gets(END).client_gets()
    command = rerouted(s)
    assert command.early_login is not None
    shown = command.early_login.shown
    assert shown is not None
    assert (shown.prefix, command.early_login.login, command.early_login.changes_left) == (prefix, ROMEO, 1)
    again = Script(early_login=command.early_login, lane=command.up, elsewhere=romeo_elsewhere)
    again.node(NODE_HEADER, FEATURES).client_gets().node_gets(CLIENT_HEADER, login("romeo"))
    again.node(stream_error("not-authorized"), END)
    assert again.sent[Side.CLIENT].endswith(f"</{prefix}:stream>".encode())


def test_a_named_client_without_another_place_stays() -> None:
    s = begun(early_login=NAMED).node(NODE_HEADER, FEATURES).client(plain("nurse")).forget()
    s.node(FAILURE).client_gets(FAILURE).client(plain("juliet")).node_gets(plain("juliet"))


def test_a_session_that_was_shown_nothing_stays_on_its_node() -> None:
    s = Script(elsewhere=romeo_elsewhere).node(NODE_HEADER, FEATURES).client(plain("juliet")).node(FAILURE).forget()
    s.client(plain("romeo")).node_gets(plain("romeo"))


def test_a_lane_that_somebody_else_began_to_read() -> None:
    """The header behind the login begins the next stream, and is no repetition of the first."""
    lane = Lane(max_element_bytes=8192, max_depth=64)
    lane.feed((CLIENT_HEADER + plain("juliet") + CLIENT_HEADER + BIND).encode())
    lane.next()
    piece = lane.next()
    assert piece is not None
    lane.put_back(piece)
    s = Script(early_login=CHOSEN, lane=lane).node(NODE_HEADER, FEATURES).node_gets(CLIENT_HEADER, plain("juliet"))
    s.node(SUCCESS).node_gets(CLIENT_HEADER, BIND)
