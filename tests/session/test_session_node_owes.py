"""The side at fault when a login comes to nothing: what counts against its node, and what a client can bring about."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from session_script import (
    AUTH,
    BIND,
    BIND_FEATURES,
    CLIENT_HEADER,
    END,
    FEATURES,
    NODE_HEADER,
    SUCCESS,
    Script,
    stream_error,
)

from cxfr_proxy.session.commands import EarlyLogin, LoginFailed, Reroute
from cxfr_proxy.session.node_owes import OWED_SECONDS
from cxfr_proxy.session.session import State
from cxfr_proxy.xmpp.opening.login import UNKNOWN

SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
CHALLENGE = f"<challenge xmlns='{SASL}'>{base64.b64encode(b'r=x').decode()}</challenge>"
RESPONSE = f"<response xmlns='{SASL}'>{base64.b64encode(b'c=biws').decode()}</response>"
FAILURE = f"<failure xmlns='{SASL}'><not-authorized/></failure>"
SCRAM = f"<auth xmlns='{SASL}' mechanism='SCRAM-SHA-1'>{base64.b64encode(b'n,,n=kim,r=x').decode()}</auth>"
NO_LOGIN = "<iq type='get' id='v'><query xmlns='jabber:iq:version'/></iq>"
AWAY = "the server went away, try again"
GREETING_SECONDS = 10.0
"""The setting's default."""
HTML = "HTTP/1.1 400 Bad Request\r\n\r\n<html>"


def begun() -> Script:
    return Script()


def with_a_header() -> Script:
    return Script().node(NODE_HEADER)


def greeted() -> Script:
    return Script().node(NODE_HEADER, FEATURES)


def asked() -> Script:
    return greeted().client(AUTH)


def asked_at_once() -> Script:
    """Header and login in one flight."""
    return Script().client(AUTH).node(NODE_HEADER, FEATURES)


def challenged() -> Script:
    return greeted().client(SCRAM).node(CHALLENGE)


def responded() -> Script:
    return challenged().client(RESPONSE)


def refused() -> Script:
    return asked().node(FAILURE)


def proved() -> Script:
    return asked().node(SUCCESS)


def opened_again() -> Script:
    return proved().client(CLIENT_HEADER)


def greeted_again() -> Script:
    return opened_again().node(NODE_HEADER, BIND_FEATURES)


def binding() -> Script:
    return greeted_again().client(BIND)


def chatting() -> Script:
    return greeted().client(NO_LOGIN)


def chatting_before_the_greeting() -> Script:
    return Script().client(NO_LOGIN)


def chatting_and_asked() -> Script:
    return chatting().client(AUTH)


def out_of_turn() -> Script:
    return greeted().client(RESPONSE)


def chatting_instead_of_binding() -> Script:
    return greeted_again().client(NO_LOGIN)


GREETING = (begun, with_a_header, opened_again)
ANSWER = (asked, asked_at_once, responded)
RESOURCE = (binding,)
CLIENTS_TURN = (greeted, challenged, refused, greeted_again)
ODD = (chatting, chatting_before_the_greeting, chatting_and_asked, out_of_turn, chatting_instead_of_binding)


def hangs_up(it: Script) -> Script:
    return it.node_ends()


def says_html(it: Script) -> Script:
    return it.node(HTML)


def says_nothing(it: Script) -> Script:
    return it.wait(61.0)


def says_nothing_until_the_client_leaves(it: Script) -> Script:
    return it.wait(OWED_SECONDS).client_ends()


def failures(it: Script) -> list[str]:
    return [event.reason for event in it.events if isinstance(event, LoginFailed)]


Make = Callable[[], Script]
End = Callable[[Script], Script]

COUNTS: list[tuple[End, str, tuple[Make, ...]]] = [
    (hangs_up, "it closes the connection", (*GREETING, proved, *RESOURCE)),
    (says_html, "what it says can't be read", (*GREETING, proved, *ANSWER, *RESOURCE)),
    (says_nothing, "it does not answer", (*GREETING, *ANSWER, *RESOURCE)),
    (says_nothing_until_the_client_leaves, "it does not answer", (*GREETING, *ANSWER, *RESOURCE)),
]


@pytest.mark.parametrize("end", [end for end, _, _ in COUNTS])
@pytest.mark.parametrize("made", [*GREETING, proved, *ANSWER, *RESOURCE, *CLIENTS_TURN, *ODD])
def test_what_counts_against_the_node(made: Make, end: End) -> None:
    reason, counting = next((reason, counting) for each, reason, counting in COUNTS if each is end)
    it = end(made())
    assert failures(it) == ([reason] if made in counting else [])


@pytest.mark.parametrize("made", [opened_again, binding])
def test_a_stream_that_is_ended_without_a_word(made: Make) -> None:
    it = made().node(*([NODE_HEADER] if made is opened_again else []), END)
    assert failures(it) == ["it ends the stream"]


@pytest.mark.parametrize("made", [*ANSWER, *CLIENTS_TURN])
def test_a_node_may_have_enough_of_a_client(made: Make) -> None:
    assert failures(made().node(END)) == []


# --- a node that does not greet


def silent_reroute(it: Script) -> Reroute:
    assert it.session.state is State.CLOSED
    command = it.commands[-1]
    assert isinstance(command, Reroute)
    return command


@pytest.mark.parametrize("made", [begun, with_a_header])
def test_another_node_is_tried_where_one_does_not_greet(made: Make) -> None:
    it = made().wait(GREETING_SECONDS)
    if made is with_a_header:  # the client has got it, and no other node can go on with it
        it.client_gets(NODE_HEADER, stream_error("remote-connection-failed", text=AWAY), END)
    else:
        command = silent_reroute(it)
        assert (command.early_login, command.silent) == (None, ("node1",))
        it.client_gets().node_gets(CLIENT_HEADER, END)
    assert failures(it) == ["it does not answer"]


def test_a_login_behind_features_of_the_proxy_s_waits_for_the_next_one() -> None:
    early_login = EarlyLogin(login=UNKNOWN, bind_by=160.0, changes_left=1)
    it = Script(early_login=early_login, behind=AUTH).node_gets(CLIENT_HEADER).node(NODE_HEADER).wait(GREETING_SECONDS)
    command = silent_reroute(it)
    assert (command.early_login, command.silent) == (early_login, ("node1",))
    it.node_gets(END)
    again = Script(early_login=command.early_login, lane=command.up)
    again.node(NODE_HEADER, FEATURES).node_gets(CLIENT_HEADER, AUTH)


def test_a_password_that_was_sent_goes_to_no_other_node() -> None:
    it = Script().client(AUTH).wait(GREETING_SECONDS)
    assert not [command for command in it.commands if isinstance(command, Reroute)]
    assert failures(it) == ["it does not answer"]
    it = Script().client(NO_LOGIN).wait(GREETING_SECONDS)
    assert not [command for command in it.commands if isinstance(command, Reroute)]
    assert failures(it) == [], "who knows what the node makes of that"


def test_a_node_that_has_greeted_has_its_time() -> None:
    it = greeted().wait(GREETING_SECONDS).is_in(State.NEGOTIATING)
    assert it.session.deadline == 160.0


@pytest.mark.parametrize("made", [*GREETING, *ANSWER, *RESOURCE])
def test_a_client_that_leaves_before_long_has_not_waited(made: Make) -> None:
    assert failures(made().wait(OWED_SECONDS - 0.1).client_ends()) == []


def test_a_client_that_sends_its_part_at_the_last_moment_is_late_itself() -> None:
    assert failures(greeted().wait(58.0).client(AUTH).wait(5.0)) == []
    assert failures(proved().wait(58.0).client(CLIENT_HEADER).wait(5.0)) == []


def test_a_client_that_never_opens_its_second_stream_has_been_served() -> None:
    assert failures(proved().wait(61.0)) == []


def test_behind_bind_it_is_no_login() -> None:
    assert failures(Script().bind().wait(1000.0).node_ends()) == []
