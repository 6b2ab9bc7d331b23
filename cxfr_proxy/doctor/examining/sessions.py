"""Log in on every node, ask what only a session can, and take sessions from node to node."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from cxfr_proxy.doctor.examining.client import DoctorClient, NotTried
from cxfr_proxy.doctor.examining.doors import FAULTS, Doors, Entered, Place, why
from cxfr_proxy.doctor.examining.together import together
from cxfr_proxy.doctor.facts import MoveFacts, SessionFacts
from cxfr_proxy.net.proxy_protocol import Peer
from cxfr_proxy.xmpp import names, stanza

_YOUNG_SECONDS: Final = 2.0
"""Seconds for which a session is left where it began: ejabberd tells sessions apart by the second of their beginning,
and the proxy waits as long before it moves one."""
_AT_A_TIME: Final = 4
"""Sessions of the user at one time: servers end the oldest one of too many (ejabberd: of ten)."""


@dataclass(slots=True)
class SessionsSeen:
    """The outcome, by the names of the nodes. ``external`` has the reason why the certificate does not log in,
    empty where it does;
    ``stands_open`` whether somebody without a certificate is let in."""

    sessions: dict[str, SessionFacts] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    stands_open: dict[str, bool] = field(default_factory=dict)
    moves: list[MoveFacts] = field(default_factory=list)

    def is_let_in(self, node: str) -> bool:
        """Return whether a login worked there."""
        session = self.sessions.get(node)
        return session is not None and session.refused is None


class SessionRound:
    """One round over the nodes of a domain: a session begins on each, and is resumed on the next one."""

    def __init__(self, doors: Doors, places: Sequence[Place]) -> None:
        self._doors = doors
        self._places = {each.spec.name: each for each in places}
        self._resumable: dict[str, str] = {}  # by node: the id of the session that began there
        self.seen = SessionsSeen()

    async def run(self) -> SessionsSeen:
        """Do it all; nothing is left behind on nodes that do what they say. Faults of nodes are part of what was
        seen."""
        knocked_at = [place for place in self._places.values() if place.spec.migrates]
        await together((partial(self._knock, place) for place in knocked_at), at_a_time=_AT_A_TIME)
        await together((partial(self._follow, place) for place in self._places.values()), at_a_time=_AT_A_TIME)
        order = list(self._places)
        self.seen.moves.sort(key=lambda move: order.index(move.origin))
        return self.seen

    async def _follow(self, place: Place) -> None:
        name = place.spec.name
        await self._begin(place)
        session = self._resumable.get(name)
        if session is not None:
            await trio.sleep(_YOUNG_SECONDS)
            await self._move(session, name, self._next_of(name))

    # --- a session on each node

    async def _begin(self, place: Place) -> None:
        name = place.spec.name
        by_certificate = self._doors.account.password is None
        if by_certificate and not self._doors.by_certificate(place.spec):
            return
        try:
            async with self._doors.enter(place, by_certificate=by_certificate) as entered:
                self.seen.sessions[name] = await self._question(place, entered)
                if name not in self._resumable:
                    await entered.client.close()
        except FAULTS as exc:
            if name in self.seen.sessions:
                return  # all was answered, and only the end took too long
            if not by_certificate:  # else it is said as a fault of migrate=external
                self.seen.sessions[name] = SessionFacts(refused=why(exc), tried=not isinstance(exc, NotTried))

    async def _question(self, place: Place, entered: Entered) -> SessionFacts:
        client, seen = entered.client, entered.seen
        managed = entered.greeting is None or (stanza.child(entered.greeting.parsed, names.SM, "sm") is not None)
        await client.bind()
        version = await client.software()
        ahead, slack = await _compare_clocks(client)
        address = await client.address()
        session = await client.enable() if managed else None
        if session is not None:
            self._resumable[place.spec.name] = session
        told = _told(place)
        return SessionFacts(
            mechanism=seen.mechanism if seen is not None else None,
            scram=frozenset(seen.attributes) if seen is not None else frozenset(),
            told_tls=seen.attributes.get("t") if seen is not None else None,
            managed=managed,
            resumable=session is not None,
            version=version,
            ahead=ahead,
            ahead_slack=slack,
            seen_address=_peer(address, told),
            told_address=told,
        )

    async def _knock(self, place: Place) -> None:
        """Log in by the certificate for nodes, and out again; and see that nobody gets in without one."""
        name = place.spec.name
        self.seen.stands_open[name] = await self._doors.stands_open(place)
        if not self._doors.has_certificate:
            return
        try:
            async with self._doors.enter(place, by_certificate=True) as entered:
                self.seen.external[name] = ""
                await entered.client.close()
        except FAULTS as exc:
            self.seen.external.setdefault(name, why(exc))  # else it was in, and only the end took too long

    # --- from node to node

    def _next_of(self, name: str) -> str:
        """Return the node on which a session of that one is to be resumed: one of those that say the same of sessions,
        if there are others."""
        resume = self._places[name].spec.resume
        alike = [each for each, place in self._places.items() if place.spec.resume is resume]
        order = alike if len(alike) > 1 else list(self._places)
        return order[(order.index(name) + 1) % len(order)]

    async def _move(self, session: str, origin: str, target: str) -> None:
        resumed = False
        if origin != target:
            with suppress(*FAULTS):  # a login that fails is a fault of its own
                refused = await self._resume(session, origin, target)
                resumed = refused is None
                by_certificate = self._goes_by_certificate(origin, target)
                domain = self._doors.account.domain
                self.seen.moves.append(MoveFacts(origin, target, domain, refused, by_certificate))
        if not resumed:
            with suppress(*FAULTS):
                await self._resume(session, origin, origin)  # to end it in good order

    def _goes_by_certificate(self, origin: str, target: str) -> bool:
        specs = self._places[origin].spec, self._places[target].spec
        return self._doors.by_certificate(*specs) and self.seen.external.get(target) == ""

    async def _resume(self, session: str, origin: str, target: str) -> str | None:
        """Log in there, resume the session, and end it. Return why it was not resumed; raises one of :data:`FAULTS`
        where the login failed."""
        by_certificate = self._goes_by_certificate(origin, target)
        async with self._doors.enter(self._places[target], by_certificate=by_certificate) as entered:
            try:
                refused = await entered.client.resume(session)
            except FAULTS as exc:
                return why(exc)
            await entered.client.close()
            return refused


async def _compare_clocks(client: DoctorClient) -> tuple[float | None, float]:
    """Return by how many seconds the node's clock is ahead, and how wrong that may be: the way there and back, and the
    second that an answer is rounded to."""
    before = time.time()
    said = await client.clock()
    after = time.time()
    if said is None:
        return None, 0.0
    return said - (before + after) / 2, 1.0 + (after - before) / 2


def _told(place: Place) -> Peer | None:
    """Return the client's address as the PROXY header tells it; ``None``: there is no header."""
    source = place.told.source if place.told is not None else None
    return (_usual(source[0]), source[1]) if source is not None else None


def _peer(said: tuple[str, int | None] | None, told: Peer | None) -> Peer | None:
    """Return the address in an answer; ``None``: it is no address. A port that is not said is taken for the right
    one."""
    if said is None:
        return None
    try:
        host = _usual(said[0])
    except ValueError:
        return None
    return host, said[1] if said[1] is not None else (told[1] if told is not None else 0)


def _usual(host: str) -> str:
    """Return an IP address in its usual form: without a zone, and an IPv4 address on an IPv6 socket as the IPv4 address
    that it is. Raises ``ValueError``."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)
