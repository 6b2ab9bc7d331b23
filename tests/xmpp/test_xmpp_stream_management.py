"""Counting across a proxy that injects and swallows: single cases by hand, then ten thousand histories at random.

In a history an honest client and an honest node (:mod:`honest_counters`) talk through a proxy that reads their bytes
with lanes, cut anywhere, and breaks all connections now and then, after any byte. No ``h`` may ever be wrong, whatever
the proxy does to the streams, and in the end nothing is lost and nothing was sent twice.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Final

import pytest
from histories import histories
from honest_counters import MODULUS, SM, Party
from known_sessions import KnownResumptions
from lxml import etree

from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing.framer import WholeElement
from cxfr_proxy.xmpp.framing.lane import Lane
from cxfr_proxy.xmpp.stream_management import (
    NAMESPACES,
    Counters,
    Flow,
    Resumption,
    StreamManagement,
    h_of,
    is_request,
)

HEADER: Final = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
HISTORIES: Final = 10_000


def parse(text: str) -> etree._Element:
    return stanza.parse(text.encode())


def sm(name: str, **attributes: object) -> etree._Element:
    return parse(f"<{name} xmlns='{SM}'{''.join(f' {key}={str(value)!r}' for key, value in attributes.items())}/>")


# --- one direction


def test_the_example_in_words() -> None:
    """Injected as the client's third; its reply was the client's fifth, and is swallowed."""
    down, up = Flow(0), Flow(0)
    down.injected(2)
    assert [down.to_sender(h) for h in (1, 2, 3, 4)] == [1, 2, 2, 3]
    up.swallowed(5)
    assert [up.to_sender(h) for h in (3, 4, 5)] == [3, 5, 6]


def test_a_stanza_that_replaces_another_shifts_nothing_once_it_is_acknowledged() -> None:
    flow = Flow(10)
    flow.swallowed(11)
    flow.injected(11)
    assert flow.shifted
    assert [flow.to_sender(h) for h in (0, 1)] == [1, 1]
    assert not flow.shifted


def test_swallowed_before_anything_was_passed_on() -> None:
    flow = Flow(7)
    flow.swallowed(8)
    assert flow.to_sender(0) == 1


def test_counts_wrap_around() -> None:
    flow = Flow(2 - MODULUS)
    flow.injected(1)
    flow.injected(2)
    counts = [MODULUS - 2, MODULUS - 1, 0, 1, 2, 3]
    assert [flow.to_sender(h) for h in counts] == [MODULUS - 2, MODULUS - 1, MODULUS - 1, 0, 0, 1]


def test_a_count_that_is_too_high_is_passed_on_as_what_it_is() -> None:
    assert Flow(0).to_sender(1000) == 1000


# --- what is said


def on(management: StreamManagement, *, resume: bool = True) -> StreamManagement:
    management.from_client(sm("enable", resume="true"), 0)
    management.from_node(sm("enabled", id="sm1", resume=str(resume).lower()), 0)
    return management


def test_without_a_shift_nothing_is_edited() -> None:
    subject = StreamManagement()
    for name in ("enable", "resume", "a", "r"):
        assert not subject.from_client(sm(name, h=3, previd="x"), 0)
    subject = on(StreamManagement())
    assert not subject.from_client(sm("a", h=3), 3)
    assert not subject.from_node(sm("a", h=3), 3)
    assert (subject.id, subject.node_id, subject.resumable, subject.shifted) == ("sm1", "sm1", True, False)


@pytest.mark.parametrize("h", ["", "x", "-1", "1.5", "²", "4294967296", "99999999999"])
def test_what_is_no_count_is_left_alone(h: str) -> None:
    subject = on(StreamManagement())
    subject.injected_down(0)
    assert not subject.from_client(sm("a", h=h), 0)


def test_an_id_of_the_proxys_own_is_known_to_the_proxy_only() -> None:
    subject = StreamManagement(new_id=lambda: "own")
    subject.from_client(sm("enable", resume="true"), 0)
    enabled = sm("enabled", id="sm1", resume="true")
    assert subject.from_node(enabled, 0)
    assert (enabled.get("id"), subject.id, subject.node_id) == ("own", "own", "sm1")
    again = StreamManagement(KnownResumptions({"own": Resumption(None, "node1", "sm1")}), lambda: "other")
    resume, resumed = sm("resume", h=0, previd="own"), sm("resumed", h=0, previd="sm1")
    assert again.from_client(resume, 0)
    assert resume.get("previd") == "sm1"
    assert again.from_node(resumed, 0)
    assert resumed.get("previd") == "own"
    assert (again.id, again.node_id) == ("own", "sm1")


def test_a_stream_that_is_resumed_while_it_lives_goes_its_own_way() -> None:
    old = on(StreamManagement())
    old.injected_down(2)
    new = StreamManagement(KnownResumptions({"sm1": Resumption(None, "node1", "sm1", old.counters)}))
    resume = sm("resume", h=3, previd="sm1")
    assert new.from_client(resume, 0)
    assert resume.get("h") == "2"
    old.injected_down(2)
    old.swallowed_up(1)
    resumed = sm("resumed", h=0, previd="sm1")
    assert not new.from_node(resumed, 0)
    late = sm("a", h=2)
    assert not old.from_client(late, 0)
    assert late.get("h") == "2"


def test_what_cannot_be_resumed_keeps_its_id() -> None:
    subject = StreamManagement(new_id=lambda: "own")
    enabled = sm("enabled")
    assert not subject.from_node(enabled, 0)
    assert (subject.on, subject.id, subject.resumable) == (True, None, False)


def test_a_failed_resumption_still_says_how_far_the_node_had_got() -> None:
    """Seen before: the client's second stanza was the answer that the node never saw."""
    counters = Counters(up=Flow(0), down=Flow(0))
    counters.up.swallowed(2)
    known = {"sm1": Resumption(None, "node1", "sm1", counters)}
    subject = StreamManagement(KnownResumptions(known))
    subject.from_client(sm("resume", h=0, previd="sm1"), 0)
    failed = sm("failed", h=5)
    assert subject.from_node(failed, 0)
    assert failed.get("h") == "6"
    assert not subject.on
    assert not on(subject).shifted


def test_a_failed_enable_counts_nothing() -> None:
    subject = StreamManagement()
    subject.from_client(sm("enable"), 0)
    subject.swallowed_up(1)
    subject.from_node(sm("failed"), 0)
    assert not subject.on
    subject.swallowed_up(2)
    assert not on(subject).shifted


def test_enabling_twice_begins_nothing_anew() -> None:
    subject = on(StreamManagement())
    subject.injected_down(0)
    subject.from_client(sm("enable"), 3)
    subject.from_node(sm("failed"), 3)
    ack = sm("a", h=1)
    assert subject.from_client(ack, 3)
    assert ack.get("h") == "0"


def test_a_login_that_failed_leaves_nothing_of_what_it_asked_for() -> None:
    login = "<authenticate xmlns='urn:xmpp:sasl:2'>{}</authenticate>"
    counters = Counters(up=Flow(0), down=Flow(0))
    counters.up.swallowed(1)
    subject = StreamManagement(KnownResumptions({"sm1": Resumption(None, "node1", "sm1", counters)}))
    subject.from_client(parse(login.format(f"<resume xmlns='{SM}' previd='sm1' h='0'/>")), 0)
    subject.from_client(parse(login.format("")), 0)
    assert not subject.from_node(sm("failed", h=0), 0)


@pytest.mark.parametrize("order", [("failed", "enabled"), ("enabled", "failed")])
def test_a_resumption_that_fails_inside_a_login_which_enables(order: tuple[str, str]) -> None:
    counters = Counters(up=Flow(0), down=Flow(0))
    counters.up.swallowed(1)
    subject = StreamManagement(KnownResumptions({"sm1": Resumption(None, "node1", "sm1", counters)}))
    subject.from_client(
        parse(
            f"<authenticate xmlns='x'><resume xmlns='{SM}' previd='sm1' h='0'/><enable xmlns='{SM}'/></authenticate>"
        ),
        0,
    )
    parts = {"failed": f"<failed xmlns='{SM}' h='4'/>", "enabled": f"<b><enabled xmlns='{SM}' id='sm2'/></b>"}
    success = parse(f"<success xmlns='x'>{''.join(parts[name] for name in order)}</success>")
    assert subject.from_node(success, 0)
    failed = stanza.child(success, SM, "failed")
    assert failed is not None
    assert failed.get("h") == "5"
    assert subject.on
    assert not subject.shifted


def test_how_far_a_node_had_got_when_it_died() -> None:
    subject = StreamManagement()
    assert subject.last_ack(None, HEADER) is None
    on(subject)
    subject.swallowed_up(1)
    assert subject.last_ack(None, HEADER) == b"<a xmlns='urn:xmpp:sm:3' h='1'/>"
    assert subject.last_ack(b"<a xmlns='urn:xmpp:sm:3' h='3'/>", HEADER) == b"<a xmlns='urn:xmpp:sm:3' h='4'/>"
    assert subject.last_ack(b"", HEADER) is None
    assert subject.last_ack(b"<a h='x'/>", HEADER) is None
    assert subject.last_ack(b"<x:a h='x'/>", HEADER) is None
    assert subject.last_ack(b"<a xmlns='urn:other' h='3'/>", HEADER) is None


# --- histories


@dataclass
class Connection:
    """The parts that live as long as a client's connection: two lanes, what is known, and bytes on four ways."""

    management: StreamManagement
    up: Lane = field(default_factory=lambda: _lane())
    down: Lane = field(default_factory=lambda: _lane())
    from_client: bytes = b""
    to_node: bytes = b""
    from_node: bytes = b""
    to_client: bytes = b""
    client_reads: Lane = field(default_factory=lambda: _lane())
    node_reads: Lane = field(default_factory=lambda: _lane())


def _lane() -> Lane:
    lane = Lane(max_element_bytes=None, max_depth=64)
    lane.feed(HEADER)
    assert lane.next() is not None
    lane.report_every(True)
    return lane


class History:
    """One history, made by ``rng``."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        # Half of them near the end of the numbers, which a session reaches by having been resumed.
        self.old = rng.random() < 0.5
        self.inline = rng.random() < 0.3
        self.wraps = rng.random() < 0.3
        up, down = (MODULUS - rng.randrange(12) - 1 for _ in range(2)) if self.old else (0, 0)
        self.client = Party("client", start_sent=up, start_handled=down)
        self.node = Party("node", start_sent=down, start_handled=up)
        self.known: dict[str, Resumption] = {}
        if self.old:
            self.known["sm1"] = Resumption(None, "node1", "sm1")
        self.session_id: str | None = "sm1" if self.old else None
        self.resumes = 0
        self.number = 0
        self.refused: set[str] = set()  # the forged ones
        self.answers: set[str] = set()  # the client's to the proxy
        self.from_proxy = {"early"}
        self.connect()

    def connect(self) -> None:
        self.connection = Connection(
            StreamManagement(KnownResumptions(self.known), (lambda: "own") if self.wraps and not self.old else None)
        )
        self.client.out = self.node.out = b""
        self.client.counts_sent = self.client.counts_handled = False
        self.node.counts_sent = self.node.counts_handled = False
        self.client_up = False
        if self.session_id is None:
            request = f"<enable xmlns='{SM}' resume='true'/>"
            self.client.counts_sent = True
        else:
            self.resumes += 1
            request = f"<resume xmlns='{SM}' previd='{self.session_id}' h='{self.client.handled}'/>"
        self.early(self.client)
        self.client.write(f"<authenticate xmlns='urn:xmpp:sasl:2'>{request}</authenticate>" if self.inline else request)

    def early(self, party: Party) -> None:
        """Stanzas before counting begins."""
        party.write("<iq id='early'/>" * self.rng.randrange(3))

    # --- what happens

    def act(self) -> None:
        self.number += 1
        action = self.rng.choices(
            ("up", "down", "move", "ask", "inject", "forge", "ack", "cut"), (5, 5, 20, 4, 1, 0.5, 2, 0.7)
        )[0]
        if action == "move":
            self.move(self.rng.choice(("from_client", "to_node", "from_node", "to_client")), self.rng.randrange(1, 200))
        elif action == "cut":
            self.cut()
        elif action == "inject":
            if self.connection.management.on:
                self.inject()
        elif action in ("up", "down"):
            party = self.client if action == "up" else self.node
            if self.may_send(party):
                name = self.rng.choice(("message", "iq", "presence"))
                party.send(f"{action}{self.number}", f"<{name} id='{action}{self.number}'>{'x' * 9}</{name}>")
        elif action == "forge":
            if self.may_send(self.node):
                self.refused.add(f"forged{self.number}")
                self.node.send(f"forged{self.number}", f"<iq type='set' id='forged{self.number}'/>")
        else:
            party = self.rng.choice((self.client, self.node))
            if party.counts_handled and action == "ack":
                party.acknowledge()
            elif self.may_send(party):
                party.request()

    def may_send(self, party: Party) -> bool:
        """A client that has asked to resume waits for the answer; one that enables need not."""
        return party.counts_sent

    def inject(self) -> None:
        stanza_id = f"asked{self.number}"
        self.from_proxy.add(stanza_id)
        self.connection.management.injected_down(self.connection.down.stanzas)
        self.connection.to_client += f"<iq type='set' id='{stanza_id}'/>".encode()

    def cut(self) -> None:
        """All connections end; of what is under way, anything may have arrived."""
        for way in self.rng.sample(("from_client", "to_node", "from_node", "to_client"), 4):
            self.move(way, self.rng.randrange(400) if self.rng.random() < 0.7 else 0)
        if self.session_id is None and (self.client.sent or self.node.counts_sent):
            # Not known to the client as resumable: there is nothing to come back to.
            self.__init__(self.rng)  # type: ignore[misc]
            return
        self.remember()
        self.connect()

    def remember(self) -> None:
        management = self.connection.management
        if management.id is not None and management.node_id is not None and management.counters is not None:
            self.known[management.id] = Resumption(None, "node1", management.node_id, management.counters)

    # --- bytes move

    def move(self, way: str, size: int) -> None:
        connection = self.connection
        connection.from_client += self.client.take()
        connection.from_node += self.node.take()
        data: bytes = getattr(connection, way)
        setattr(connection, way, data[size:])
        data = data[:size]
        match way:
            case "from_client":
                self.proxy_reads(connection.up, data, self.proxy_from_client)
            case "from_node":
                self.proxy_reads(connection.down, data, self.proxy_from_node)
            case "to_node":
                self.proxy_reads(connection.node_reads, data, self.node_hears)
            case "to_client":
                self.proxy_reads(connection.client_reads, data, self.client_hears)
        self.remember()

    def proxy_reads(self, lane: Lane, data: bytes, handle: object) -> None:
        for piece in lane.pieces(lane.scan(data)):
            assert isinstance(piece.event, WholeElement)
            handle(stanza.parse(piece.data, HEADER), piece.data, piece.event.stanzas)  # type: ignore[operator]

    def proxy_from_client(self, element: etree._Element, data: bytes, position: int) -> None:
        management = self.connection.management
        if element.get("id", "") in self.answers:
            management.swallowed_up(position)
            return
        if etree.QName(element).localname not in ("message", "iq", "presence"):
            data = stanza.serialize(element) if management.from_client(element, position) else data
        self.connection.to_node += data

    def proxy_from_node(self, element: etree._Element, data: bytes, position: int) -> None:
        management = self.connection.management
        stanza_id = element.get("id", "")
        if stanza_id in self.refused:
            management.swallowed_down(position)
            management.injected_up(self.connection.up.stanzas)
            self.from_proxy.add(f"re-{stanza_id}")
            self.connection.to_node += f"<iq type='error' id='re-{stanza_id}'/>".encode()
            return
        if etree.QName(element).localname not in ("message", "iq", "presence"):
            data = stanza.serialize(element) if management.from_node(element, position) else data
        self.connection.to_client += data

    def node_hears(self, element: etree._Element, data: bytes, position: int) -> None:
        node, connection = self.node, self.connection
        for part in element.iter(f"{{{SM}}}enable", f"{{{SM}}}resume"):
            self.early(node)
            inline = ("<success xmlns='urn:xmpp:sasl:2'>", "</success>") if self.inline else ("", "")
            if etree.QName(part).localname == "enable":
                node.write(f"{inline[0]}<enabled xmlns='{SM}' id='sm1' resume='true'/>{inline[1]}")
            else:
                assert part.get("previd") == "sm1"
                node.on_h(part)
                node.write(f"{inline[0]}<resumed xmlns='{SM}' previd='sm1' h='{node.handled}'/>{inline[1]}")
                node.resend()
            node.counts_sent = node.counts_handled = True
            return
        assert connection is self.connection
        node.hear(element)

    def client_hears(self, element: etree._Element, data: bytes, position: int) -> None:
        client = self.client
        for part in element.iter(f"{{{SM}}}enabled", f"{{{SM}}}resumed"):
            if etree.QName(part).localname == "enabled":
                self.session_id = part.get("id")
            else:
                assert part.get("previd") == self.session_id
                client.on_h(part)
                client.resend()
            client.counts_sent = client.counts_handled = True
            return
        client.hear(element)
        stanza_id = element.get("id", "")
        if stanza_id.startswith("asked") and self.rng.random() < 0.8:
            self.answers.add(f"re-{stanza_id}")
            client.send(f"re-{stanza_id}", f"<iq type='result' id='re-{stanza_id}'/>")

    # --- the end

    def finish(self) -> None:
        """Everything arrives, and both ask how far the other has got."""
        self.settle()
        self.client.request()
        self.node.request()
        self.settle()
        assert not self.client.unacknowledged
        assert not self.node.unacknowledged
        assert [i for i in self.client.received if i not in self.from_proxy] == [
            i for i in self.node.sent if i not in self.refused
        ]
        assert [i for i in self.node.received if i not in self.from_proxy] == [
            i for i in self.client.sent if i not in self.answers
        ]

    def settle(self) -> None:
        for _ in range(8):
            for way in ("from_client", "to_node", "from_node", "to_client"):
                self.move(way, 1_000_000)


def test_ten_thousand_histories_without_a_wrong_count() -> None:
    resumed = asked = forged = 0
    for history in histories(History, HISTORIES, range(10, 120)):
        resumed += history.resumes
        asked += len(history.answers)
        forged += len(history.refused)
    assert min(resumed, asked, forged) > HISTORIES / 4, "they were too dull to prove anything"


@pytest.mark.parametrize("namespace", [SM, "urn:xmpp:sm:2", "urn:other", "urn:xmpp:sm:4"])
@pytest.mark.parametrize("h", ["0", "7", "0012", str(2**32 - 1), str(2**32), "99999999999", "-1", "x", ""])
@pytest.mark.parametrize("end", ["/>", " />", "></a>"])
def test_words_that_are_written_as_usual_are_read_like_all_others(namespace: str, h: str, end: str) -> None:
    known, count = namespace in NAMESPACES, int(h) if h.isdecimal() and len(h) <= 10 and int(h) < 2**32 else None
    for one, other in itertools.product("\"'", repeat=2):
        spellings = (
            f"<a xmlns={one}{namespace}{one} h={other}{h}{other}{end}",
            f"<a h={other}{h}{other} xmlns={one}{namespace}{one}{end}",
        )
        for written in spellings:
            assert h_of(written.encode(), HEADER) == (count if known else None)
    request = f"<r xmlns='{namespace}'{end.replace('a', 'r')}"
    assert is_request(request.encode(), HEADER) is known


def test_a_quote_ends_where_it_began() -> None:
    assert h_of(b"<a xmlns='urn:xmpp:sm:3\" h=\"5'/>", HEADER) is None
    assert not is_request(b"<r xmlns='urn:xmpp:sm:3\" x=\"'/>", HEADER)
