"""Random histories of an honest client and an honest node (:mod:`honest_counters`), with sessions in between.

They talk through one session after the other, each driven as the relay drives it: transfers are ordered, forged ones
come along, connections break, and the client resumes. In the end nothing may be missing and nothing be there twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Final

from honest_counters import SM, Party
from lxml import etree
from session_script import (
    AUTH,
    BIND_FEATURES,
    BIND_RESULT,
    CLIENT_HEADER,
    ELSEWHERE,
    ENABLE,
    ENABLED,
    END,
    FEATURES,
    HURRIED,
    JID,
    NODE_HEADER,
    SUCCESS,
    SUPPORT,
    Script,
)

from cxfr_proxy.session.commands import Resumable, Side
from cxfr_proxy.session.tables import State
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing.framer import StreamEnd, WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane, Piece
from cxfr_proxy.xmpp.stream_management import Resumption

FOR_GOOD: Final = replace(ELSEWHERE, resumes=False)


class History:
    """One history, made by ``rng``: an honest client and an honest node, with sessions in between."""

    KINDS: ClassVar = {
        "up": 6.0,
        "down": 6.0,
        "move": 24.0,
        "request": 4.0,
        "ack": 3.0,
        "order": 1.5,
        "kick": 0.2,
        "forge": 0.7,
        "tick": 0.5,
        "lose": 0.7,
        "know": 4.0,
    }
    """The events that may happen next, and how often."""
    OPTIONS: ClassVar[dict[str, Any]] = {}
    """The options of the scripts."""
    FEATURES: ClassVar = BIND_FEATURES
    """The features that the node offers a client that has logged in."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.wrap = rng.random() < 0.4
        self.client, self.node = Party("client"), Party("node")
        self.known: dict[str, Resumption] = {}
        self.session_id: str | None = None
        self.on_node = False  # the node has the session, connected or waiting
        self.ended = 0
        self.doubtful = False  # a client that never heard of its session can't know what it has got
        self.resumed = 0
        self.number = 0
        self.knows = rng.random() < 0.7
        self.connect()

    # --- a connection

    def connect(self) -> None:
        self.script = s = Script(resumable=self.known, wrap=self.wrap, asks=True, **self.OPTIONS)
        s.node(NODE_HEADER, FEATURES).client(AUTH).node(SUCCESS).client(CLIENT_HEADER).node(NODE_HEADER, self.FEATURES)
        self.seen = {side: len(s.sent[side]) for side in Side}
        self.under_way = dict.fromkeys(Side, b"")  # from the party at that side
        self.reads = {side: reader() for side in Side}
        self.gone = dict.fromkeys(Side, False)
        self.client.out = self.node.out = b""
        for party in (self.client, self.node):
            party.counts_sent = party.counts_handled = False
        if self.session_id is None:
            self.doubtful = self.number > 0
            self.bind()
        else:
            self.client.write(f"<resume xmlns='{SM}' previd='{self.session_id}' h='{self.client.handled}'/>")

    def bind(self) -> None:
        """A new session; what the client does not know to have arrived, it sends again."""
        self.client.write("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        self.client.write(ENABLE)
        self.client.acknowledged = 0
        self.client.counts_sent = True
        self.client.resend()

    @property
    def client_speaks(self) -> bool:
        """The client may send stanzas."""
        return self.client.counts_sent

    @property
    def in_use(self) -> bool:
        return self.client.counts_handled and self.node.counts_sent

    # --- what happens

    def act(self) -> None:
        self.number += 1
        self.do(self.rng.choices(list(self.KINDS), list(self.KINDS.values()))[0])
        if self.script.session.state is State.CLOSED:
            self.lose()

    def do(self, kind: str) -> None:
        session = self.script.session
        if kind == "move":
            self.move(self.rng.choice(list(Side)), self.rng.randrange(1, 300))
        elif kind == "lose":
            self.lose()
        elif kind == "tick" and session.deadline is not None and session.state is not State.NEGOTIATING:
            self.script.tick()
        elif kind == "order" and self.in_use:
            self.script.order(self.rng.choice((ELSEWHERE, ELSEWHERE, HURRIED, FOR_GOOD)))
        elif kind == "kick" and self.in_use:
            self.script.kick()
        elif kind in ("up", "down", "forge", "know"):
            self.speak(kind)
        elif kind in ("request", "ack"):
            party = self.rng.choice((self.client, self.node))
            if party.counts_handled:
                party.request() if kind == "request" else party.acknowledge()

    def speak(self, kind: str) -> None:
        stanza_id = f"{kind}{self.number}"
        if kind in ("down", "forge"):
            if self.node.counts_sent:
                query = "<query xmlns='urn:xmpp:cxfr'/>" if kind == "forge" else "x" * 40
                self.node.send(stanza_id, f"<iq type='set' from='m@x' id='{stanza_id}'>{query}</iq>")
        elif self.client_speaks and (kind == "up" or self.knows):
            self.client.send(
                stanza_id, f"<message id='{stanza_id}'>{SUPPORT if kind == 'know' else 'x' * 40}</message>"
            )
            if kind == "know":
                self.client.send(f"{stanza_id}d", SUPPORT.replace("id='d'", f"id='{stanza_id}d'"))

    def lose(self) -> None:
        """The connections break. Lose some or all of the bytes that are under way; then bring the client back."""
        for side in self.rng.sample(list(Side), 2):
            self.move(side, self.rng.randrange(600) if self.rng.random() < 0.7 else 0)
        ends = [self.script.client_ends, self.script.node_ends]
        for end in self.rng.sample(ends, 2):
            if self.script.session.state is not State.CLOSED:
                end()
        self.hear(Side.NODE, everything=self.rng.random() < 0.7)
        if not self.gone[Side.NODE] and END.encode() in self.script.sent[Side.NODE]:
            self.hear(Side.NODE, everything=True)  # a connection does not break and arrive
        self.remember()
        self.connect()

    def remember(self) -> None:
        """As the registry does."""
        for event in self.script.events:
            if isinstance(event, Resumable):
                self.known[event.stream_management_id] = Resumption(JID, "node1", event.node_id, event.counters)

    # --- bytes move

    def move(self, side: Side, size: int) -> None:
        """The party at that side hears what has been sent to it, and some of what it says arrives at the proxy."""
        self.hear(side, everything=False)
        party = self.client if side is Side.CLIENT else self.node
        self.under_way[side] += party.take()
        data = self.under_way[side][:size]
        if data and self.script.session.state is not State.CLOSED and self.script.session.wants(side):
            self.under_way[side] = self.under_way[side][size:]
            self.script.arrive(side, data)

    def hear(self, side: Side, *, everything: bool) -> None:
        sent = self.script.sent[side]
        until = len(sent) if everything else self.rng.randint(self.seen[side], len(sent))
        data, self.seen[side] = sent[self.seen[side] : until], until
        for piece in read_all(self.reads[side], data):
            if isinstance(piece.event, StreamEnd):
                self.gone[side] = True
                if side is Side.NODE:
                    self.node.write(END)
                    self.node.counts_sent = self.node.counts_handled = False
                    self.on_node = False
                    self.ended += 1
            elif isinstance(piece.event, WholeElement) and not self.gone[side]:
                element = stanza.parse(piece.data, reader_header())
                self.client_hears(element) if side is Side.CLIENT else self.node_hears(element)

    def node_hears(self, element: etree._Element) -> None:
        node = self.node
        match etree.QName(element).localname:
            case "iq" if element.get("id") == "b":
                node.write(BIND_RESULT)
            case "enable":
                # The session before this one is over, and what its client may not have got comes again.
                node.write(ENABLED)
                node.acknowledged = node.handled = 0
                node.counts_sent = node.counts_handled = self.on_node = True
                node.resend()
            case "resume" if self.on_node:
                assert element.get("previd") == "sm1"
                node.on_h(element)
                node.write(f"<resumed xmlns='{SM}' previd='sm1' h='{node.handled}'/>")
                node.counts_sent = node.counts_handled = True
                node.resend()
            case "resume":
                node.write(f"<failed xmlns='{SM}' h='{node.handled}'/>")
            case _:
                node.hear(element)

    def client_hears(self, element: etree._Element) -> None:
        client = self.client
        match etree.QName(element).localname:
            case "iq" if element.get("id") == "b":
                pass
            case "enabled":
                self.session_id = element.get("id")
                client.handled = 0
                client.counts_handled = True
            case "resumed":
                assert element.get("previd") == self.session_id
                self.resumed += 1
                client.on_h(element)
                client.counts_sent = client.counts_handled = True
                client.resend()
            case "failed":
                client.on_h(element)
                self.session_id = None
                self.bind()
            case _:
                client.hear(element)
                self.answer(element.get("id", ""))

    def answer(self, stanza_id: str) -> None:
        if stanza_id.startswith("urn:xmpp:cxfr") and self.rng.random() < 0.8:
            kind = self.rng.choice(("result", "error"))
            self.client.send(stanza_id, f"<iq type='{kind}' id='{stanza_id}' to='example.org'/>")

    # --- the end

    def finish(self) -> None:
        for _ in range(20):
            if self.settle():
                break
        else:
            raise AssertionError("it does not come to rest")
        self.client.request()
        self.node.request()
        assert self.settle()
        assert not self.client.unacknowledged
        assert not self.node.unacknowledged
        ours = "urn:xmpp:cxfr"
        returned = self.returned()
        up = [i for i in self.client.sent if not i.startswith(ours) and i not in returned]
        handled = [i for i in self.node.received if not i.startswith(("forge", ours))]
        assert (list(dict.fromkeys(handled)) if self.doubtful else handled) == up
        down = [i for i in self.node.sent if not i.startswith("forge")]
        arrived = [i for i in self.client.received if not i.startswith(ours) and i not in returned]
        if self.ended:  # what was on its way when a stream ended for good comes again: better twice than not at all
            arrived = list(dict.fromkeys(arrived))
        assert arrived == down

    def returned(self) -> set[str]:
        """The client's stanzas that the proxy has answered because they could not be delivered."""
        return set(self.client.received) & set(self.client.sent)

    def settle(self) -> bool:
        """Everything arrives; whether it does so on a stream that is in use."""
        for _ in range(8):
            for side in Side:
                self.move(side, 1_000_000)
                self.hear(side, everything=True)
        if self.in_use and self.script.session.state is State.BOUND:
            return True
        self.lose()
        return False


def read_all(lane: Lane, data: bytes) -> Iterator[Piece]:
    while data:
        yield from lane.pieces(lane.scan(data))
        data = lane.take_unread()


def reader_header() -> bytes:
    return NODE_HEADER.partition("?>")[2].encode()


def reader() -> Lane:
    lane = Lane(max_element_bytes=None, max_depth=64)
    lane.feed(reader_header())
    assert lane.next() is not None
    lane.report_every(True)
    return lane
