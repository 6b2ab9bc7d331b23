"""A session on a stage: the test says what client and node do, the script says what each of them got.

A script drives a :class:`Session` as the relay does (a direction that is ``fast`` is scanned here, the rest is handed
over), keeps a transcript, and watches at every step what must never happen, whatever the test is about:

* nothing is sent to a side whose output has ended, nor behind the end of its stream;
* what the client has got is, at every moment, well-formed up to a boundary between two elements. lxml is the judge, and
  sees the client's bytes only. It looks away while an element longer than ``max_held`` is being cut through
  (``cut_through=True``);
* TLS is closed in good order where the stream was, on either side, and nowhere else;
* the last command is the last.

The question that a session asks before it ends its node's stream (:mod:`cxfr_proxy.session.closing`) is answered at
once, and the test does not see it, unless it says ``asks=True``.

A failing expectation shows the transcript.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NoReturn, TypeVar

from lxml import etree

from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.config.table import Limits, Timeouts
from cxfr_proxy.errors import ClientError
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.session.closing import LastQuestion
from cxfr_proxy.session.commands import (
    Asked,
    Close,
    Dial,
    Drop,
    EarlyLogin,
    EndOutput,
    Event,
    ExchangeNode,
    Forgo,
    Report,
    Reroute,
    Send,
    SessionCommand,
    Side,
    Upgrade,
)
from cxfr_proxy.session.ladder import Order, Rung, Trigger
from cxfr_proxy.session.legs import NodeLeg, node_lane
from cxfr_proxy.session.policy import Policy
from cxfr_proxy.session.session import Session
from cxfr_proxy.session.tables import TRANSITIONS, Intake, Question, State
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.connection_transfer import Server
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.stream_management import Resumption

E = TypeVar("E")

DOMAIN: Final = "example.org"
JID: Final = "juliet@example.org/balcony"
CLIENT_HEADER: Final = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "to='example.org' version='1.0'>"
)
NODE_HEADER: Final = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "from='example.org' id='n1' version='1.0'>"
)
OWN_HEADER: Final = (
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    "version='1.0' from='example.org' id='p1'>"
)
"""The header that a client has got from the proxy, if it was shown features."""
END: Final = "</stream:stream>"
INACTIVE: Final = "<inactive xmlns='urn:xmpp:csi:0'/>"
ACTIVE: Final = "<active xmlns='urn:xmpp:csi:0'/>"
AUTH: Final = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>"
SUCCESS: Final = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
FEATURES: Final = (
    "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>PLAIN</mechanism></mechanisms>"
    "</stream:features>"
)
BIND_FEATURES: Final = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
SM_FEATURES: Final = (
    "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/><sm xmlns='urn:xmpp:sm:3'/></stream:features>"
)
BIND: Final = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
BIND_RESULT: Final = (
    f"<iq type='result' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>{JID}</jid></bind></iq>"
)
ENABLE: Final = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
ENABLED: Final = "<enabled xmlns='urn:xmpp:sm:3' id='sm1' resume='true'/>"
HELLO: Final = "<message to='romeo@example.org' id='m'><body>hello</body></message>"
SUPPORT: Final = (
    "<iq type='result' id='d'><query xmlns='http://jabber.org/protocol/disco#info'>"
    "<feature var='urn:xmpp:cxfr'/></query></iq>"
)
NEWS: Final = "<message from='romeo@example.org'><body>news</body></message>"
PING: Final = "<iq type='get' id='p' to='example.org'><ping xmlns='urn:xmpp:ping'/></iq>"

_OPENING_TAG: Final = re.compile(rb"<([a-z]+:stream)[ >]")

ELSEWHERE: Final = Order(Trigger.DRAIN, target="node2", server=Server("node2.example.org", 5222))
HURRIED: Final = replace(ELSEWHERE, hurried=True)


def waited(kind: str, attributes: str) -> str:
    """The answer to a stanza that could not be delivered any more."""
    return (
        f"<{kind} xmlns='jabber:client' type='error'{attributes}><error type='wait'>"
        "<recipient-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
        "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>"
        f"not delivered: the connection is being moved, try again</text></error></{kind}>"
    )


HELLO_WAITED: Final = waited("message", ' id="m" from="romeo@example.org"')
PING_WAITED: Final = waited("iq", ' id="p" from="example.org"')


def stream_error(condition: str, content: str = "", text: str | None = None) -> str:
    ns = "xmlns='urn:ietf:params:xml:ns:xmpp-streams'"
    body = f"<{condition} {ns}>{content}</{condition}>" if content else f"<{condition} {ns}/>"
    note = f"<text {ns} xml:lang='en'>{text}</text>" if text else ""
    return f"<stream:error>{body}{note}</stream:error>"


RESET: Final = stream_error("reset", text="reconnect")
SEE_OTHER_HOST: Final = stream_error("see-other-host", "node2.example.org:5222")


def iq(number: int = 1, server: str = "node2.example.org:5222") -> str:
    """The request as this script's session writes it; its tokens are numbered."""
    return (
        f"<iq xmlns='jabber:client' type='set' id='urn:xmpp:cxfr:t{number}' from='example.org' to='{JID}'>"
        f"<query xmlns='urn:xmpp:cxfr'><domain>example.org</domain><server>{server}</server></query></iq>"
    )


def answer(kind: str = "result", number: int = 1, *, to: str = "example.org", payload: str = "") -> str:
    return f"<iq type='{kind}' id='urn:xmpp:cxfr:t{number}' to='{to}'>{payload}</iq>"


def refusal(condition: str = "feature-not-implemented", kind: str = "cancel", number: int = 1, text: str = "") -> str:
    """An answer by whoever never heard of requests, unless ``condition`` says otherwise."""
    namespace = "urn:ietf:params:xml:ns:xmpp-stanzas"
    said = f"<text xmlns='{namespace}'>{text}</text>" if text else ""
    error = f"<error type='{kind}'><{condition} xmlns='{namespace}'/>{said}</error>"
    return answer("error", number, payload=error)


class Script:
    """One performance. ``now`` starts at 100 seconds. Not started sessions are started by the constructor."""

    def __init__(
        self,
        *,
        header: str = CLIENT_HEADER,
        behind: str = "",
        tls: bool = True,
        offer_starttls: bool = False,
        try_unknown: bool = True,
        max_element_down: int = 10_000,
        cut_through: bool = False,
        resumable: dict[str, Resumption] | None = None,
        wrap: bool = False,
        trust_node_redirects: bool = False,
        redirect_targets: RedirectTargets = ANYWHERE,
        redirected_lately: Callable[[str | None, float], bool] = lambda user, now: False,
        check_authzid: bool = True,
        stands_in: bool = False,
        max_unacknowledged: int = 65_536,
        client_software: ClientSoftware | None = None,
        asks: bool = False,
        early_login: EarlyLogin | None = None,
        elsewhere: Callable[[Login, str, str], bool] = lambda login, domain, node: False,
        lane: Lane | None = None,
        node: str = "node1",
    ) -> None:
        self.timeouts = Timeouts()
        self.now = 100.0
        self.events: list[Event] = []
        self.commands: list[SessionCommand] = []
        self.moves: list[tuple[State, State]] = []
        self.sent: dict[Side, bytes] = {Side.CLIENT: b"", Side.NODE: b""}
        self._seen = {Side.CLIENT: 0, Side.NODE: 0}
        self._seen_events = 0
        self._documents = [b""]  # what the client got, a document for each of its streams
        self._ended: set[Side] = set()
        self._over = self._client_gone = False
        self._cut_through = cut_through
        self._transcript: list[str] = []
        self._tokens = 0
        self.dialling = self.spare = False
        self.exchanged_at: list[int] = []
        """How much had been sent to the nodes before, each time that the node's leg was exchanged."""
        self._asks = asks
        self._replies: list[tuple[Side, bytes]] = []
        self.client_software = client_software if client_software is not None else ClientSoftware()
        self.resumption = (resumable or {}).get
        self.redirected_lately = redirected_lately
        self.is_elsewhere = elsewhere
        policy = Policy(
            timeouts=self.timeouts,
            limits=Limits(max_element_down=max_element_down, max_unacknowledged=max_unacknowledged),
            surroundings=self,
            try_unknown=try_unknown,
            wrap_resumable_ids=wrap,
            trust_node_redirects=trust_node_redirects,
            redirect_targets=redirect_targets,
            check_authzid=check_authzid,
            stands_in=stands_in,
        )
        if lane is None:
            lane = Lane(max_element_bytes=8192, max_depth=64)
            lane.feed((header + behind).encode())
            lane.next()
        if early_login is not None and early_login.shown is not None:
            self._documents = [early_login.shown.context]
        self.session = Session(
            read_header(header.encode(), ClientError),
            lane,
            policy,
            node=node,
            tls=tls,
            offer_starttls=offer_starttls,
            early_login=early_login,
        )
        self._do("the client opens", lambda: self.session.start(self.now))

    def new_token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens}"

    def takes_sessions(self, node: str) -> bool:
        return node != "guarded"

    # --- what happens

    def client(self, *parts: str) -> Script:
        """The client sends this, in one chunk."""
        return self.arrive(Side.CLIENT, "".join(parts).encode())

    def node(self, *parts: str) -> Script:
        return self.arrive(Side.NODE, "".join(parts).encode())

    def arrive(self, side: Side, data: bytes) -> Script:
        """A chunk is read from that side, as the relay does it; the side has to be wanted now."""
        if not self.session.wants(side):
            self.fail(f"nothing is read from the {side.name.lower()} now")
        self._note(f"{side.name.lower()} sends", data)
        lane = self.session.fast[side]
        if lane is None:
            self._do("", lambda: self.session.receive(side, data, self.now))
        else:
            ready = lane.scan(data)
            if lane.has_events:
                self._do("receive_scanned", lambda: self.session.receive_scanned(side, ready, self.now))
            else:
                self._deliver(side.other, ready)
        return self.catch_up()

    def catch_up(self) -> Script:
        """Read the rest of earlier chunks, as the relay has it done before it reads more."""
        while behind := [side for side in Side if self.session.intake(side) is Intake.BEHIND]:
            self._do("read on", partial(self.session.read_on, behind[0], self.now))
        return self

    def client_ends(self) -> Script:
        """The client's connection ends."""
        self._client_gone = True
        return self._do("client: end of file", lambda: self.session.eof(Side.CLIENT, self.now))

    def node_ends(self) -> Script:
        return self._do("node: end of file", lambda: self.session.eof(Side.NODE, self.now))

    def order(self, order: Order = ELSEWHERE) -> Script:
        return self._do(f"order: {order}", lambda: self.session.transfer(order, self.now))

    def recall(self) -> Script:
        return self._do("the order is recalled", lambda: self.session.recall(self.now))

    def wait(self, seconds: float) -> Script:
        self.now += seconds
        return self._do(f"{seconds} seconds pass", lambda: self.session.tick(self.now))

    def tick(self) -> Script:
        """The deadline comes; there has to be one."""
        due = self.session.deadline
        if due is None:
            self.fail("there is no deadline")
        return self.wait(max(0.0, due - self.now))

    def migrate(self, node: str = "node2") -> Script:
        """The session is to be taken to that node, if it can be."""
        return self.order(replace(ELSEWHERE, target=node, migrates=True))

    def dialled(self, *, node: str = "node2", header: str = NODE_HEADER) -> Script:
        """There is a connection to that node, on which the client's user is logged in."""
        leg = node_leg(node, header)
        self.dialling, self.spare = False, True
        return self._do(f"{node} is dialled", lambda: self.session.dialled(leg, self.now))

    def not_dialled(self, *, broke: bool = False) -> Script:
        self.dialling = False
        why = "it can't be reached"
        return self._do(why, lambda: self.session.not_dialled(why, self.now, broke=broke))

    def kick(self) -> Script:
        return self._do("an operator kicks", lambda: self.session.kick(self.now))

    def stop(self) -> Script:
        return self._do("stop", lambda: self.session.stop(self.now))

    def stall(self, side: Side) -> Script:
        return self._do(f"{side.name} stalls", lambda: self.session.stalled(side, self.now))

    # --- short ways to a scene

    def bind(
        self,
        *,
        stream_management: bool = False,
        jid: str = JID,
        header: str = CLIENT_HEADER,
        features: str = BIND_FEATURES,
    ) -> Script:
        """All of the opening, up to a bound stream in use; nothing of it is left to be expected. ``header``: the
        client's, behind its login. ``features``: the node's then."""
        self.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(header)
        self.node(NODE_HEADER, features).client(BIND)
        self.node(BIND_RESULT.replace(JID, jid))
        if stream_management:
            self.client(ENABLE).node(ENABLED)
        return self.forget()

    def forget(self) -> Script:
        """Ignore everything that was sent and reported up to here."""
        self._seen = {side: len(data) for side, data in self.sent.items()}
        self._seen_events = len(self.events)
        return self

    # --- what is expected

    def client_gets(self, *parts: str) -> Script:
        """The client has got exactly this since the last time."""
        return self._gets(Side.CLIENT, parts)

    def node_gets(self, *parts: str) -> Script:
        return self._gets(Side.NODE, parts)

    def nobody_gets_anything(self) -> Script:
        return self.client_gets().node_gets()

    def is_in(self, state: State) -> Script:
        if self.session.state is not state:
            self.fail(f"expected {state}, found {self.session.state}")
        return self

    def reports(self, *events: Event) -> Script:
        """Exactly these since the last time."""
        found = self.events[self._seen_events :]
        self._seen_events = len(self.events)
        if found != list(events):
            self.fail(f"expected events {list(events)}, found {found}")
        return self

    def reported(self, kind: type[E]) -> E:
        """The only event of that kind so far."""
        found = [event for event in self.events if isinstance(event, kind)]
        if len(found) != 1:
            self.fail(f"expected one {kind.__name__}, found {found}")
        return found[0]

    def output_ended(self, *sides: Side) -> Script:
        if self._ended != set(sides):
            self.fail(f"expected output ended to {sides}, found {self._ended}")
        return self

    def is_over(self, last: type[Close] | type[Upgrade] = Close, *, at_once: bool = False) -> Script:
        expected = Upgrade() if last is Upgrade else Close(at_once)
        if self.session.state is not State.CLOSED or self.commands[-1] != expected:
            self.fail(f"expected {expected}, found {self.session.state} {self.commands[-1:]}")
        return self

    def is_not_over(self) -> Script:
        if self.session.state is State.CLOSED:
            self.fail("expected it not to be over")
        return self

    def expect(self, condition: bool, what: str) -> Script:
        if not condition:
            self.fail(f"expected {what}")
        return self

    def fail(self, why: str) -> NoReturn:
        raise AssertionError("\n".join([why, "", *self._transcript]))

    def _gets(self, side: Side, parts: Sequence[str]) -> Script:
        expected = "".join(parts).encode()
        found = self.sent[side][self._seen[side] :]
        self._seen[side] = len(self.sent[side])
        if found != expected:
            self.fail(f"{side.name.lower()} gets\n  expected {expected!r}\n  found    {found!r}")
        return self

    # --- behind the stage

    def _note(self, who: str, what: object = "") -> None:
        line = f"{self.now:8.2f} {self.session.state.name:12} {who} {what}".rstrip()
        self._transcript.append(line if len(line) <= 220 else f"{line[:140]} ... {line[-70:]}")

    def _do(self, what: str, act: Callable[[], list[SessionCommand]]) -> Script:
        if what:
            self._note(what)
        before = self.session.state if hasattr(self, "session") else State.NEGOTIATING
        try:
            commands = act()
        except Exception as exc:
            self._note("RAISES", repr(exc))
            self.fail(f"raised {exc!r}")
        after = self.session.state
        if after is not before:
            self.moves.append((before, after))
        for command in commands:
            self._carry_out(command)
        replies, self._replies = self._replies, []
        for side, data in replies:
            self.arrive(side, data)
        return self

    def _reply(self, side: Side, data: bytes) -> bool:
        """Whether that was asked before the node's stream is ended, and is answered here."""
        question = last_question(self.session) if hasattr(self, "session") and not self._asks else None
        if question is None:
            return False
        if question.state is Question.ANSWERED:
            return side is Side.NODE and question.ping is None and data.startswith(b"<a ")
        if side is Side.NODE and question.ping is not None and question.ping.encode() in data:
            self._replies.append((side, f"<iq type='result' id='{question.ping}'/>".encode()))
            return True
        if side is Side.CLIENT and question.ping is None and data.startswith(b"<r "):
            self._replies.append((side, f"<a xmlns='{names.SM}' h='{question.h}'/>".encode()))
            return True
        return False

    def _carry_out(self, command: SessionCommand) -> None:
        if self._over:
            self.fail(f"a command behind the last one: {command}")
        self.commands.append(command)
        match command:
            case Send(side, data):
                self._deliver(side, data)
            case Report(event):
                self._note("           reports", event)
                self.events.append(event)
            case Drop(side):
                self._note("           drops:", command)
                self._ended.add(side)
            case EndOutput(side, silent):
                self._note("           ends output:", command)
                self._ended.add(side)
                if not (side is Side.CLIENT and self._client_gone):
                    ended = self.sent[side].rstrip().endswith(b":stream>") or self._is_node_between_streams(side)
                    self.expect(silent != ended, "TLS is closed where the stream was ended, and nowhere else")
                if side is Side.CLIENT and not (self._cut or self._cut_through):
                    self._check_farewell()
            case Dial() | ExchangeNode() | Forgo():
                self._note("          ", command)
                self._exchange(command)
            case Close() | Upgrade() | Reroute():
                self._note("          ", command)
                self._over = True

    def _exchange(self, command: Dial | ExchangeNode | Forgo) -> None:
        """There is one connection besides the two at most, and it is used, or closed, once."""
        match command:
            case Dial():
                self.expect(not self.dialling, "no connection to be made twice")
                self.dialling = True
            case Forgo():
                self.expect(self.spare or self.dialling, "a connection to close, or to make")
                self.spare = self.dialling = False
            case ExchangeNode():
                self.expect(self.spare, "a connection to put in the place of the node's")
                self.spare = False
                self._ended.discard(Side.NODE)
                self.exchanged_at.append(len(self.sent[Side.NODE]))

    def _deliver(self, side: Side, data: bytes) -> None:
        if not data or self._reply(side, data):
            return
        self._note(f"           {side.name.lower()} gets", data)
        if side in self._ended:
            self.fail(f"sent to the {side.name.lower()} behind the end of its output: {data!r}")
        self.sent[side] += data
        if side is Side.CLIENT:
            self._documents[-1] += data
            if not self._cut_through:
                self._check_document()
        elif self._node_stream_ended(data):
            self.fail(f"sent to the node behind the end of its stream: {data!r}")
        elif data.endswith(b":stream>") and self._is_node_between_streams(side):
            self.fail("the node was told the end of a stream that has not begun")

    def _node_stream_ended(self, last: bytes) -> bool:
        return b"</stream:stream>" in self.sent[Side.NODE][: -len(last)]

    def _is_node_between_streams(self, side: Side) -> bool:
        """Behind ``<success/>``, until the client's next header."""
        streams = 1 + self.sent[Side.CLIENT].count(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'")
        return side is Side.NODE and len(_OPENING_TAG.findall(self.sent[Side.NODE])) < streams

    def _check_document(self) -> None:
        """Check that the client got whole elements, in an open stream or one that was ended once."""
        data = self._documents[-1].strip()
        opening = _OPENING_TAG.search(data)
        if opening is None:
            self.fail(f"the client's stream does not begin with a header: {data!r}")
        end = b"</" + opening[1] + b">"
        root = self._parse(data if data.endswith(end) else data + end)
        if any((text or "").strip() for text in (root.text, *(element.tail for element in root))):
            self.fail(f"text between elements\n  {data!r}")
        if len(root) and root[-1].tag == "{urn:ietf:params:xml:ns:xmpp-sasl}success":
            self._documents.append(b"")

    @property
    def _cut(self) -> bool:
        """The last rung was the one that ends both legs without a word."""
        return any(isinstance(event, Asked) and event.rung is Rung.CUT for event in self.events)

    def _check_farewell(self) -> None:
        data = self._documents[-1].strip()
        if not self._client_gone and not data.endswith(b":stream>"):
            self.fail("the client's output was ended, but not its stream")

    def _parse(self, data: bytes) -> etree._Element:
        try:
            return etree.fromstring(data)
        except etree.XMLSyntaxError as exc:
            self.fail(f"the client can't read what it got: {exc}\n  {data!r}")


def node_leg(node: str, header: str = NODE_HEADER) -> NodeLeg:
    """A leg to that node, which has greeted, and whose lane has been read up to there."""
    lane = node_lane(max_element_bytes=10_000)
    lane.feed(header.encode())
    lane.next()
    leg = NodeLeg(node, read_header(CLIENT_HEADER.encode(), ClientError), lane)
    leg.open(leg.opened_by)
    leg.greet(read_header(header.encode(), ClientError))
    return leg


def last_question(session: Session) -> LastQuestion | None:
    """The question before the node's stream is ended; ``None``: nothing, or there was no answer in time."""
    closing = session._parts.closing
    return closing.question if closing is not None else None


def legal(moves: Sequence[tuple[State, State]]) -> bool:
    """A step may make several moves; each pair seen has to be a path through the table."""
    return all(after in _reachable(before) for before, after in moves)


def _reachable(state: State) -> set[State]:
    found = {after for (before, _), after in TRANSITIONS.items() if before is state}
    for _ in State:
        found |= {after for (before, _), after in TRANSITIONS.items() if before in found}
    return found
