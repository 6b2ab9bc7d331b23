"""Anything may happen, in any order: what must never happen, and what must always.

The driver plays a client and a node that both speak well-formed XMPP, each at its own pace, cut anywhere, and lets
orders, ends of connections, errors of the node's and deadlines come in between. The checks at every step are in
:mod:`session_script` (one well-formed stream, nothing behind its end); here is the accounting at the end.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from hypothesis import event, given, settings
from hypothesis import strategies as st
from session_script import (
    AUTH,
    BIND,
    BIND_FEATURES,
    BIND_RESULT,
    CLIENT_HEADER,
    ELSEWHERE,
    ENABLED,
    END,
    FEATURES,
    HURRIED,
    NODE_HEADER,
    SUCCESS,
    Script,
    answer,
    last_question,
    legal,
    stream_error,
)

from cxfr_proxy.session.commands import Close, Ended, EndOutput, Reroute, Send, Side, Transferred
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.session import State

UP: Final = ["message", "iq", "presence", " ", "answer", "error", "sm", "close"]
DOWN: Final = ["message", "iq", "presence", " ", "long", "forged", "sm", "close", "error"]
ERRORS: Final = ["system-shutdown", "reset", "see-other-host", "conflict"]
DEAD: Final = replace(ELSEWHERE, trigger=Trigger.NODE_DOWN, node_dead=True, resumes=False)
ORDERS: Final = [ELSEWHERE, HURRIED, Order(Trigger.NODE_LOST), DEAD]
OPENING: Final = [
    (Side.NODE, NODE_HEADER + FEATURES),
    (Side.CLIENT, AUTH),
    (Side.NODE, SUCCESS),
    (Side.CLIENT, CLIENT_HEADER),
    (Side.NODE, NODE_HEADER + BIND_FEATURES),
    (Side.CLIENT, BIND),
    (Side.NODE, BIND_RESULT),
]


class Play:
    """Both parties, and a ledger of what each has said in whole stanzas."""

    def __init__(self, *, cut_through: bool) -> None:
        self.script = Script(cut_through=cut_through)
        self.written = {Side.CLIENT: b"", Side.NODE: b""}  # what was sent, unfinished element included
        self.unsent = {Side.CLIENT: b"", Side.NODE: b""}
        self.closed = {Side.CLIENT: False, Side.NODE: False}  # has said its last word
        self.eof = {Side.CLIENT: False, Side.NODE: False}
        self.cut_through = cut_through
        self.numbered = 0

    def say(self, side: Side, what: str, size: int) -> None:
        """Put an element in front of that side's wire; it is sent in pieces of ``size``."""
        if self.closed[side] or self.eof[side]:
            return
        self.numbered += 1
        number = f"{side.name[0]}{self.numbered:04}"
        long = f"<message id='{number}' to='a@b'><body>{'x' * 12_000}</body></message>"
        text = {
            "message": f"<message id='{number}' to='a@b'><body>x</body></message>",
            "iq": f"<iq id='{number}' type='get' to='a@b'><q xmlns='q'/></iq>",
            "presence": f"<presence id='{number}'/>",
            "long": long if self.cut_through else " ",
            "forged": f"<iq id='forged{number}' type='set' from='m@x'><query xmlns='urn:xmpp:cxfr'/></iq>",
            "answer": answer(),
            "sm": ENABLED if side is Side.NODE else "<a xmlns='urn:xmpp:sm:3' h='1'/>",
            "close": END,
        }.get(what, what)
        if what == "error":
            text = answer("error") if side is Side.CLIENT else stream_error(ERRORS[size % len(ERRORS)]) + END
        self.closed[side] = text.endswith(END)
        self.unsent[side] += text.encode()
        self.send(side, size)

    def send(self, side: Side, size: int) -> None:
        """The next ``size`` bytes of what that side has to say, if anybody listens."""
        data = self.unsent[side][:size]
        if data and not self.eof[side] and self.script.session.wants(side):
            self.unsent[side] = self.unsent[side][size:]
            self.written[side] += data
            self.script.arrive(side, data)

    def end(self, side: Side) -> None:
        if not self.eof[side] and self.script.session.wants(side):
            self.eof[side] = True
            self.script.client_ends() if side is Side.CLIENT else self.script.node_ends()

    def finish(self) -> None:
        """Nobody says anything any more; a session that lost its node gets its order. It has to end by time alone."""
        script = self.script
        for _ in range(12):
            if script.session.state is State.CLOSED:
                return
            if script.session.deadline is None:
                assert script.session.state is State.BOUND
                script.order(HURRIED)
            else:
                script.tick()
        script.fail("expected it to be over by now")


actions = st.one_of(
    st.tuples(st.just("up"), st.sampled_from(UP), st.integers(1, 90)),
    st.tuples(st.just("up"), st.sampled_from(UP[:4]), st.integers(60, 90)),
    st.tuples(st.just("down"), st.sampled_from(DOWN), st.integers(1, 90)),
    st.tuples(st.just("down"), st.sampled_from(DOWN[:6]), st.integers(60, 20_000)),
    st.tuples(st.just("more"), st.sampled_from(["up", "down"]), st.integers(1, 30_000)),
    st.tuples(st.just("eof"), st.sampled_from(["up", "down"]), st.just(0)),
    st.tuples(st.just("order"), st.just(""), st.integers(0, len(ORDERS) - 1)),
    st.tuples(st.just("recall"), st.just(""), st.just(0)),
    st.tuples(st.just("tick"), st.just(""), st.integers(0, 12)),
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([*range(len(OPENING)), *[len(OPENING)] * 30]), st.lists(actions, max_size=25), st.booleans())
def test_a_session_survives_anything(opened: int, steps: list[tuple[str, str, int]], cut_through: bool) -> None:
    play = Play(cut_through=cut_through)
    script = play.script
    for side, text in OPENING[:opened]:
        play.written[side] += text.encode()
        script.arrive(side, text.encode())
    if opened < len(OPENING):
        # Nobody talks of stanzas before there is a resource: what is left are ends, orders and time.
        steps = [step for step in steps if step[0] in ("eof", "order", "recall", "tick") or step[1] == "close"]
    for kind, what, number in steps:
        match kind:
            case "up":
                play.say(Side.CLIENT, what, number)
            case "down":
                play.say(Side.NODE, what, number)
            case "more":
                play.send(Side.CLIENT if what == "up" else Side.NODE, number)
            case "eof":
                play.end(Side.CLIENT if what == "up" else Side.NODE)
            case "order":
                script.order(ORDERS[number])
            case "recall":
                script.recall()
            case "tick":
                script.wait(float(number))
    reached = script.session.state
    play.finish()
    event(f"acted until {reached.name}")
    check_the_end(play)


def check_the_end(play: Play) -> None:
    script = play.script
    assert script.session.state is State.CLOSED
    last = script.commands[-1]
    if isinstance(last, Reroute):
        assert last.silent, "nobody has named anybody"
        return  # another session goes on with the client
    assert isinstance(last, Close)
    assert len([item for item in script.events if isinstance(item, Ended)]) == 1
    transfers = [item for item in script.events if isinstance(item, Transferred)]
    assert all(item.tried[-1][0] is Rung.CXFR for item in transfers[:-1]), "only a question can be recalled"
    assert legal(script.moves)
    check_down(play)
    check_up(play)


NUMBERED: Final = re.compile(rb"<(message|iq|presence) id='([CN][0-9]{4})'[^>]*?(?:/>|>.*?</\1>)", re.DOTALL)


def whole_stanzas(data: bytes) -> list[bytes]:
    return [match[2] for match in NUMBERED.finditer(data)]


def check_down(play: Play) -> None:
    """All that the node said before its end reached the client, in order; or the client had left, was cut, or had said
    its last word (XEP-0198)."""
    script = play.script
    said = whole_stanzas(play.written[Side.NODE])
    got = whole_stanzas(script.sent[Side.CLIENT])
    assert b"forged" not in script.sent[Side.CLIENT]
    assert got == said[: len(got)], script.fail(f"expected {said}, found {got}")
    question = last_question(script.session)
    if question is not None and not question.open:
        return  # the client has said what it has, so the node knows that it has not got what came behind that
    if got != said:
        ended = script.reported(Ended)
        output_ended = any(isinstance(item, EndOutput) and item.side is Side.CLIENT for item in script.commands)
        if not output_ended or not ended.undelivered:
            script.fail(f"lost on the way down: {said[len(got) :]}")


def check_up(play: Play) -> None:
    """Each stanza of the client's was forwarded or answered, or is counted, or is one that nobody may answer."""
    script = play.script
    before_end = play.written[Side.CLIENT].split(END.encode())[0]
    said = whole_stanzas(before_end)
    forwarded = whole_stanzas(script.sent[Side.NODE])
    assert forwarded == [number for number in said if number in forwarded]
    errors = b"".join(
        command.data
        for command in script.commands
        if isinstance(command, Send) and command.side is Side.CLIENT and b"type='wait'" in command.data
    )
    answerable = [m[2] for m in NUMBERED.finditer(before_end) if m[1] != b"presence"]
    missing = [n for n in answerable if n not in forwarded and n not in errors]
    ended = script.reported(Ended)
    if len(missing) > ended.late and not script.session.stream_management:
        script.fail(f"lost on the way up: {missing}, late: {ended.late}")
    assert not [number for number in forwarded if number in errors]
