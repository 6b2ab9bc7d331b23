"""The senders of numbered messages in a cell: clients behind the proxy, and witnesses right at the nodes.

A *mover* is a :class:`~cxfr_proxy.demo.client.DemoClient` behind the proxy. It writes to a witness, and knows what has
become of each message without the witness's help:

* with XEP-0198 by acknowledgements, one asked for behind each message. Messages that are not acknowledged when the
  stream can't be resumed is sent again;
* without it by a ping to its server behind each message. A server works through a stream in order, so the answer says
  that the message was taken in; and if the ping is bounced but the message was not, the message had been passed on.
  Messages that were neither answered nor bounced when the stream ended is sent again.

A message that comes back as an error is sent again, in both cases. So a mover never gives a message up, and never
repeats one that it can know to have arrived.

A *witness* is a client on a node itself, not behind the proxy. It keeps what it got, in order, and writes numbered
messages to every mover that it hears from. All witnesses of a run have one JID and one :class:`Ledger`.

Both ways there is a *window*. A mover has at most :data:`WINDOW` messages under way, and says in each how many it has
got; a witness writes at most as many more. So what the death of a node can cost has a bound that does not depend on how
long it takes until anybody notices, nor on how slowly a client reads: at most a window up, and a window down on top of
what the node had just been given.
"""

from __future__ import annotations

import itertools
import random
import ssl
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import quoteattr

import trio
from real.programs import DOMAIN, PASSWORD

from cxfr_proxy.demo.account import ClientAccount, MessageCounts, Numbered, judge_flow
from cxfr_proxy.demo.client import DemoClient
from cxfr_proxy.demo.habits import ClientKind, ClientLogin, Ending, Life, Security, SeenRung, Traffic
from cxfr_proxy.demo.wire import IQ_TAG, MESSAGE_TAG, HostPort
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import Element, qualified

WINDOW: Final = 5
INTERVAL_SECONDS: Final = 0.08
"""Between two messages, each way, of a pair."""
MOVED_SECONDS: Final = 0.5
"""For how long a mover that has come back is not written to: bounces from its former node may still be on their way,
and what is sent again has to go out in order."""
WITNESS: Final = "witness"


class _Checking(DemoClient):
    """Sends messages whose taking in it can be sure of."""

    def __init__(
        self, user: str, kind: ClientKind, address: HostPort, login: ClientLogin, traffic: Traffic | None = None
    ) -> None:
        super().__init__(
            f"{user}@{DOMAIN}",
            kind,
            address,
            rng=random.Random(user),
            login=login,
            traffic=traffic,
            back_off_seconds=0.1,
        )
        self._checks: dict[Numbered, str] = {}
        """The id of the ping behind each message, the last time that it was sent."""
        self._serial = itertools.count(1)

    def _account_of(self, numbered: Numbered) -> ClientAccount:
        """In which books a message of its own is."""
        raise NotImplementedError

    def _account_with(self, jid: str | None) -> ClientAccount | None:
        """In which books messages to that JID are."""
        raise NotImplementedError

    def send_checked(self, to: str, numbered: Numbered) -> None:
        """A message, and behind it what will be answered once it was taken in."""
        self._send(
            f"<message to={quoteattr(to)} id='n{numbered.number}' type='chat'>"
            f"<thread>{self.logins} {len(self.account.arrived)}</thread><body>{numbered}</body></message>".encode(),
            numbered,
        )
        if self._resumption is not None:
            self._write(f"<r xmlns='{names.SM}'/>".encode())
        else:
            self._checks[numbered] = check = f"c{next(self._serial)}"
            self._write(f"<iq type='get' id='{check}' to='{DOMAIN}'><ping xmlns='{names.PING}'/></iq>".encode())

    def _taken_in(self, numbered: Numbered) -> None:
        self._account_of(numbered).handled(numbered.number)

    def _stanza(self, element: Element) -> None:
        id_ = element.get("id", "")
        if element.tag == IQ_TAG and element.get("type") in ("result", "error") and id_.startswith("c"):
            for numbered in [each for each, check in self._checks.items() if check == id_]:
                del self._checks[numbered]
                self._account_of(numbered).handled(numbered.number)
        elif element.tag == MESSAGE_TAG and element.get("type") == "error":
            account, number = self._account_with(element.get("from")), id_.removeprefix("n")
            if account is not None and number.isdecimal():
                self._checks.pop(Numbered(account.origin, int(number)), None)  # it is about the message that came back
                account.bounced(int(number), wait=True)
        else:
            super()._stanza(element)
        self._settle_if_done()


class Mover(_Checking):
    """One of the clients that are to move."""

    def _account_of(self, numbered: Numbered) -> ClientAccount:
        return self.account

    def _account_with(self, jid: str | None) -> ClientAccount | None:
        return self.account

    def _send_next(self) -> None:
        if len(self.account.in_flight) + len(self.account.due_again) < WINDOW:
            super()._send_next()

    def _send_numbered(self, numbered: Numbered) -> None:
        self.send_checked(f"{WITNESS}@{DOMAIN}/{WITNESS}", numbered)


def mover(user: str, kind: ClientKind, address: HostPort, *, tls: ssl.SSLContext, security: Security) -> Mover:
    """With traffic, and a resource by which the proxy can know its kind."""
    login = ClientLogin(security, tls, PASSWORD, kind.value)
    return Mover(user, kind, address, login, Traffic(INTERVAL_SECONDS, peer=WITNESS))


@dataclass(slots=True)
class _Contact:
    """A mover, as the witnesses know it. ``login`` counts its logins; ``since`` the messages that it had not got at its
    last word. In this login it was written ``pushed`` messages, and it ``had`` got so many before."""

    account: ClientAccount
    witness: Witness
    """The last witness that heard of it."""
    writer: Witness
    """The last sender that wrote to it."""
    jid: str
    login: str
    heard_at: float
    since: int = 0
    pushed: int = 0
    had: int = 0


@dataclass(slots=True)
class Ledger:
    """The common knowledge of the witnesses of one run."""

    arrived: list[Numbered] = field(default_factory=list)
    contacts: dict[str, _Contact] = field(default_factory=dict)
    """By bare JID."""
    accounts: dict[str, ClientAccount] = field(default_factory=dict)
    """Of what is written to the movers, by origin."""
    pushing: bool = True
    """Something new is to be written."""

    def heard(self, witness: Witness, numbered: Numbered, jid: str, login: str, got: int) -> None:
        self.arrived.append(numbered)
        bare_jid, now = jid.partition("/")[0], trio.current_time()
        contact = self.contacts.get(bare_jid)
        if contact is None:
            account = ClientAccount(f"to-{bare_jid.partition('@')[0]}")
            self.accounts[account.origin] = account
            contact = self.contacts[bare_jid] = _Contact(account, witness, witness, jid, login, now - MOVED_SECONDS)
        if login != contact.login or witness is not contact.witness:
            contact.witness, contact.jid, contact.login, contact.heard_at = witness, jid, login, now
            contact.pushed, contact.had = 0, got
        contact.since = max(0, contact.pushed - (got - contact.had))

    async def push_forever(self) -> None:
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            for contact in self.contacts.values():
                self._push(contact)

    def _push(self, contact: _Contact) -> None:
        account, witness = contact.account, contact.witness
        if len(account.in_flight) >= WINDOW:
            return
        is_new = trio.current_time() < contact.heard_at + MOVED_SECONDS
        if is_new or witness.life is not Life.BOUND or contact.since >= WINDOW:
            return
        if account.due_again and account.in_flight:
            return  # more may come back
        due = account.again() or ([account.number()] if self.pushing else [])
        for numbered in due:
            contact.since += 1
            contact.pushed += 1
            contact.writer = witness
            witness.send_checked(contact.jid, numbered)

    def lost(self, witness: Witness, *, ended: bool) -> None:
        """A witness's stream is over. If it was ``ended`` in good order, what was not answered did not arrive.

        Otherwise nobody knows, and it is neither sent again nor missed: that is not about the proxy.
        """
        for contact in self.contacts.values():
            if contact.writer is witness and ended:
                contact.account.stream_lost()
            elif contact.writer is witness:
                contact.account.refused |= contact.account.in_flight
                contact.account.in_flight.clear()

    def quiet(self) -> None:
        """Nothing new; what came back goes out again."""
        self.pushing = False
        for contact in self.contacts.values():
            contact.since = 0

    @property
    def settled(self) -> bool:
        return all(contact.account.settled for contact in self.contacts.values())


class Witness(_Checking):
    """On a node itself."""

    def __init__(self, ledger: Ledger, address: HostPort) -> None:
        super().__init__(WITNESS, ClientKind.PLAIN, address, ClientLogin(password=PASSWORD, resource=WITNESS))
        self._ledger = ledger

    def _account_of(self, numbered: Numbered) -> ClientAccount:
        return self._ledger.accounts[numbered.origin]

    def _account_with(self, jid: str | None) -> ClientAccount | None:
        contact = self._ledger.contacts.get((jid or "").partition("/")[0])
        return contact.account if contact is not None else None

    async def _one_stream(self, task_status: trio.TaskStatus[None]) -> tuple[bool, Ending]:
        bound, ending = await super()._one_stream(task_status)
        self._ledger.lost(self, ended=ending.rung is not SeenRung.CUT)
        return bound, ending

    def _take_numbered(self, element: Element) -> None:
        numbered = Numbered.parse(element.findtext(qualified(names.CLIENT, "body")))
        if numbered is not None:
            login, _, got = (element.findtext(qualified(names.CLIENT, "thread")) or "").partition(" ")
            self._ledger.heard(self, numbered, element.get("from", ""), login, int(got))


def judge_pair(who: Mover, ledger: Ledger) -> MessageCounts:
    """Both ways."""
    up = judge_flow(who.account, ledger.arrived)
    contact = ledger.contacts.get(who.bare_jid)
    return up if contact is None else up + judge_flow(contact.account, who.account.arrived)
