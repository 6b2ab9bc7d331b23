"""Sessions on a node that checks find down: what one that is dead is waited for, and who leaves when."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from session_script import (
    AUTH,
    ELSEWHERE,
    END,
    FEATURES,
    HELLO,
    HELLO_WAITED,
    NEWS,
    NODE_HEADER,
    RESET,
    SEE_OTHER_HOST,
    Script,
    answer,
    iq,
    stream_error,
)
from test_transfers_mover import House, working
from trio.testing import MockClock, wait_all_tasks_blocked

from cxfr_proxy.cluster.nodes import Health, SessionOutlook
from cxfr_proxy.config.table import OnNodeDown
from cxfr_proxy.session.commands import Drop, LoginFailed, Side, Warned
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.session import State
from cxfr_proxy.xmpp.connection_transfer import Server

DEAD = replace(ELSEWHERE, trigger=Trigger.NODE_DOWN, node_dead=True, resumes=False)
GONE = stream_error("remote-connection-failed", text="the server went away, try again")


# --- a session and its dead node


def test_nothing_is_waited_for_from_a_dead_node() -> None:
    it = Script(try_unknown=False).bind().order(replace(DEAD, server=None))
    it.node_gets(END).client_gets(RESET, END).is_in(State.CLOSING)
    assert Drop(Side.NODE) in it.commands
    assert not it.session.wants(Side.NODE)
    it.client(END).client_ends().is_over()


def test_one_that_lives_may_say_the_rest() -> None:
    it = Script(try_unknown=False).bind().order(replace(DEAD, server=None, node_dead=False))
    it.node_gets(END).client_gets().node(NEWS).client_gets(NEWS).node(END).client_gets(RESET, END)


def test_the_client_is_asked_as_usual_and_what_it_sends_meanwhile_is_answered() -> None:
    it = Script().bind().order(DEAD)
    it.node_gets(END).client_gets(iq())
    it.client(HELLO).client_gets(HELLO_WAITED).node_gets()
    it.client(answer(), END).client_gets(END)
    it.client_ends().is_over()


def test_who_does_not_know_the_request_is_redirected_at_once() -> None:
    it = Script().bind().order(DEAD).client_gets(iq())
    it.node_gets(END).client(answer("error")).client_gets(SEE_OTHER_HOST, END)


def test_who_can_resume_is_cut_at_once() -> None:
    it = Script(try_unknown=False).bind(stream_management=True).order(DEAD)
    it.node_gets(END).client_gets().output_ended(Side.NODE, Side.CLIENT).is_in(State.CLOSING)
    assert it.session.rung is None


def test_in_the_middle_of_an_element_only_the_end_is_left() -> None:
    it = Script(cut_through=True, max_element_down=10_000).bind()
    it.node("<message><body>" + "x" * 20_000)
    assert it.session.state is State.BOUND
    it.order(DEAD).is_over(at_once=True)


def test_a_node_that_was_lost_before_is_not_given_up_again() -> None:
    it = Script(try_unknown=False).bind().node_ends().order(replace(DEAD, server=None)).client_gets(RESET, END)
    assert Drop(Side.NODE) not in it.commands


def test_a_login_that_waits_for_a_dead_node_is_ended() -> None:
    it = Script().node(NODE_HEADER, FEATURES).client(AUTH).forget()
    it.order(DEAD).client_gets(GONE, END)
    assert it.session.state is State.CLOSING
    other = Script().node(NODE_HEADER, FEATURES).client(AUTH).forget().order(replace(DEAD, node_dead=False))
    other.nobody_gets_anything().is_in(State.NEGOTIATING)


# --- logins that the node ends


@pytest.mark.parametrize(
    ("condition", "its_own"),
    [
        ("internal-server-error", True),
        ("system-shutdown", True),
        ("reset", True),
        ("resource-constraint", True),
        ("remote-connection-failed", True),
        ("host-unknown", False),
        ("policy-violation", False),
        ("not-authorized", False),
        ("connection-timeout", False),
        ("see-other-host", False),
    ],
)
def test_whose_fault_it_is_that_a_login_was_ended(condition: str, its_own: bool) -> None:
    it = Script().node(NODE_HEADER, stream_error(condition), END)
    assert [event for event in it.events if isinstance(event, LoginFailed)] == [LoginFailed(condition)] * its_own


def test_features_that_lead_to_no_login_are_the_node_s_fault() -> None:
    it = Script().node(
        NODE_HEADER, "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>"
    )
    assert it.reported(LoginFailed).reason == "remote-connection-failed"
    assert "tls=starttls" in it.reported(Warned).text
    it.client_gets(
        NODE_HEADER, stream_error("remote-connection-failed", text="the server can't be used at the moment"), END
    )


def test_a_node_that_hangs_up_before_it_has_greeted_has_failed() -> None:
    for it in (Script(), Script().node(NODE_HEADER)):
        assert it.node_ends().reported(LoginFailed).reason == "it closes the connection"
    it = Script().node(NODE_HEADER, FEATURES).client(AUTH).node_ends()
    assert not [event for event in it.events if isinstance(event, LoginFailed)], "it may have had enough of the client"


def test_a_stream_error_to_a_bound_client_is_no_login() -> None:
    it = Script().bind().node(stream_error("internal-server-error"), END)
    assert not [event for event in it.events if isinstance(event, LoginFailed)]


# --- the mover


def house(on_node_down: OnNodeDown = OnNodeDown.TRANSFER, nodes: str = "a 10.0.0.1\nb 10.0.0.2") -> House:
    return House(nodes, on_node_down=on_node_down)


def goes_down(house: House, name: str, session_outlook: SessionOutlook = SessionOutlook.FAILING) -> None:
    node = house.cluster.get(name)
    node.health, node.session_outlook = Health.DOWN, session_outlook
    house.mover.follow_health(node)


def comes_up(house: House, name: str) -> None:
    node = house.cluster.get(name)
    node.health, node.session_outlook = Health.UP, SessionOutlook.GOOD
    house.mover.follow_health(node)
    house.mover.look_again()


async def test_the_sessions_of_a_node_that_is_down_leave_at_the_pace(autojump_clock: MockClock) -> None:
    async with working(house()) as it:
        it.populate("a", 8)
        it.populate("b", 3)
        goes_down(it, "a")
        await trio.sleep(10)
    assert it.times == [0.0] * 5 + [0.1, 0.2, 0.3]
    assert it.moved == list(range(1, 9)), "the longest idle first"
    assert {order for _, _, order in it.orders} == {Order(Trigger.NODE_DOWN, "b", resumes=False)}


async def test_another_treatment_is_that_of_a_node_that_is_down_already(autojump_clock: MockClock) -> None:
    async with working(house(OnNodeDown.KEEP)) as it:
        it.populate("a", 8)
        goes_down(it, "a")
        await trio.sleep(10)
        assert not it.orders
        it.mover.set_on_node_down(OnNodeDown.TRANSFER)
        await trio.sleep(0.25)
        assert len(it.orders) == 7
        it.mover.set_on_node_down(OnNodeDown.KEEP)
        await trio.sleep(10)
        assert len(it.orders) == 7
        it.mover.set_on_node_down(OnNodeDown.CLOSE)
        await wait_all_tasks_blocked()
    assert [order.hurried for _, _, order in it.orders] == [False] * 7 + [True]


async def test_they_go_before_those_that_only_drain(autojump_clock: MockClock) -> None:
    async with working(house(nodes="a 10.0.0.1\nb 10.0.0.2\nc 10.0.0.3")) as it:
        it.populate("b", 10)
        it.populate("a", 3)
        it.empty("b")
        await trio.sleep(0.05)
        goes_down(it, "a")
        await trio.sleep(10)
    assert it.moved[5:8] == [11, 12, 13]
    assert len(it.moved) == 13


async def test_of_a_dead_one_nothing_is_expected(autojump_clock: MockClock) -> None:
    async with working(house(nodes="a 10.0.0.1 resume=shared\nb 10.0.0.2 resume=shared")) as it:
        it.populate("a", 1)
        goes_down(it, "a", SessionOutlook.DEAD)
        await trio.sleep(1)
        it.populate("b", 1)
        it.cluster.get("a").health, it.cluster.get("a").session_outlook = Health.UP, SessionOutlook.GOOD
        it.mover.follow_health(it.cluster.get("a"))
        goes_down(it, "b")
        await trio.sleep(1)
    first, second = (order for _, _, order in it.orders)
    assert (first.node_dead, first.resumes) == (True, False), "from a dead node nobody can fetch a session"
    assert (second.node_dead, second.resumes) == (False, True)


async def test_a_drain_does_not_wait_for_a_dead_node_either(autojump_clock: MockClock) -> None:
    async with working(house()) as it:
        it.cluster.get("a").session_outlook = SessionOutlook.DEAD
        it.populate("a", 1)
        it.empty("a")
        await trio.sleep(1)
    assert it.orders[0][2].trigger is Trigger.DRAIN
    assert it.orders[0][2].node_dead


async def test_who_was_not_told_yet_stays_when_it_is_up_again(autojump_clock: MockClock) -> None:
    async with working(house()) as it:
        it.populate("a", 20)
        goes_down(it, "a")
        await trio.sleep(0.25)
        comes_up(it, "a")
        await trio.sleep(10)
        assert len(it.orders) == 7
        goes_down(it, "a")
        await trio.sleep(10)
    assert len(it.orders) == 20, "and goes the next time"


async def test_without_another_node_they_stay_until_there_is_one(autojump_clock: MockClock) -> None:
    async with working(house()) as it:
        it.populate("a", 2)
        goes_down(it, "b")
        goes_down(it, "a")
        await trio.sleep(10)
        assert it.orders == []
        comes_up(it, "b")
        await trio.sleep(1)
    assert len(it.orders) == 2


async def test_one_that_becomes_bound_there_leaves_as_well(autojump_clock: MockClock) -> None:
    async with working(house()) as it:
        goes_down(it, "a")
        await trio.sleep(1)
        [late] = it.populate("a", 1)
        it.mover.enqueue_leaving(late.id)
        await trio.sleep(1)
    assert [order.trigger for _, _, order in it.orders] == [Trigger.NODE_DOWN]


async def test_close_closes_all_at_once_and_redirects_nobody(autojump_clock: MockClock) -> None:
    nodes = "a 10.0.0.1\nb 10.0.0.2 public=b.example.org"
    async with working(house(OnNodeDown.CLOSE, nodes)) as it:
        sessions = it.populate("a", 30)
        goes_down(it, "a")
        await wait_all_tasks_blocked()
        assert it.times == [0.0] * 30
    assert {order for _, _, order in it.orders} == {Order(Trigger.NODE_DOWN, "b", hurried=True, resumes=False)}
    assert sessions[0].session.rung is Rung.RESET


async def test_close_closes_nobody_who_could_not_come_back(autojump_clock: MockClock) -> None:
    async with working(house(OnNodeDown.CLOSE)) as it:
        it.populate("a", 3)
        goes_down(it, "b")
        goes_down(it, "a")
        await trio.sleep(5)
        assert it.orders == []
        comes_up(it, "b")
        await wait_all_tasks_blocked()
        assert len(it.orders) == 3


async def test_keep_keeps(autojump_clock: MockClock) -> None:
    async with working(house(OnNodeDown.KEEP)) as it:
        it.populate("a", 3)
        goes_down(it, "a", SessionOutlook.DEAD)
        it.mover.look_again()
        await trio.sleep(10)
    assert it.orders == []


async def test_what_the_client_is_told(autojump_clock: MockClock) -> None:
    async with working(house(nodes="a 10.0.0.1\nb 10.0.0.2 public=b.example.org:5223")) as it:
        it.populate("a", 1)
        goes_down(it, "a", SessionOutlook.DEAD)
        await trio.sleep(1)
    server = Server("b.example.org", 5223)
    assert it.orders[0][2] == Order(Trigger.NODE_DOWN, "b", server, resumes=False, node_dead=True)
