"""The reactions of client programs that are told to move: what was measured, what is learned, what the operator says.

A client is recognised by what it says about itself anyway: the node of its entity capabilities (XEP-0115) in its first
presence, the resource of its JID, the user agent of its login (XEP-0388), the words in which it refuses. All of it is
hearsay. It decides only which rung is tried first, and whether the client is moved if nothing forces it. A client that
lies about itself is moved less well, and so may be the clients that it claims to be like; the operator's lists correct
that.

Whether a client knows the connection transfer (XEP-0051) is decided by the first of these that knows:

1. the operator's lists, ``cxfr-deny`` and ``cxfr-allow``;
2. what this very session has shown: an answer, or the feature in its service discovery;
3. what others with the same capabilities hash have answered;
4. the mark in its capabilities' node that says so (:data:`~cxfr_proxy.xmpp.connection_transfer.CAPS_MARK`);
5. the table of what was measured. It says "no" only for programs that never answer: asking any other one costs a round
   trip, and its next version, or a plugin, may know.

Answers are learned by capabilities hash (``node#ver``), which names one version of one program with one set of
features. An answer counts at once, unless it refuses only this request and not the kind. Silence counts only after
:data:`SILENCES` times, since a client may be silent because its connection is, and after :data:`SILENCES_BEHIND_YES`
times in a row if one had said yes. A client that leaves without an answer has understood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.config.values import ClientMatch, Trait
from cxfr_proxy.session.ladder import Rung
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp.connection_transfer import CAPS_MARK

SILENCES: Final = 3
"""Clients of one program that may fail to answer before the next one is not asked any more."""
SILENCES_BEHIND_YES: Final = 8
"""Clients in a row that may fail to answer after one has answered that it knows. That answer may have been a lie; and
if it was true, and so many connections have broken instead, the clients are moved with a gap."""
REMEMBERED: Final = 10_000
"""Most capabilities hashes of which something was learned; the oldest go first. Some 2 MB when full."""


@dataclass(frozen=True, slots=True)
class Software:
    """The client's words about itself; ``None``: nothing, or not yet.

    ``caps``: ``node#ver`` of XEP-0115. ``agent``: the software of a SASL2 user agent (XEP-0388 section 2.3.1).
    ``refusal``: the text of the error by which it has refused a request.
    """

    caps: str | None = None
    resource: str | None = None
    agent: str | None = None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Habit:
    """The measured behaviour of one program.

    It is recognised if the capabilities' node contains one of ``caps``, the resource begins with one of ``resources``,
    the agent is one of ``agents``, or the text of its refusal one of ``refusals``.

    ``answers``: it answers a request that it does not know, by an error; otherwise asking it costs the whole time for
    an answer. ``rungs`` are tried before the usual ones, in this order, those that are possible. ``redirected_home``: a
    redirect to its own domain brings it back. ``stays_down``: any end of its stream is for good, until somebody starts
    it again.
    """

    name: str
    caps: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    answers: bool = True
    rungs: tuple[Rung, ...] = ()
    redirected_home: bool = False
    stays_down: bool = False

    def fits(self, software: Software) -> bool:
        caps, resource = software.caps or "", software.resource or ""
        return (
            any(part in caps for part in self.caps)
            or any(resource.startswith(part) for part in self.resources)
            or software.agent in self.agents
            or software.refusal in self.refusals
        )


MEASURED: Final = (
    # Follows a redirect in the middle of a session, and logs in at the other host. It has no name for itself, so it can
    # be told only where the application names it.
    Habit("xmpp.js", caps=("github.com/xmppjs/xmpp.js",), agents=("xmpp.js",), rungs=(Rung.SEE_OTHER_HOST,)),
    # A cut, or any other stream error, leaves it down unless its application reconnects. A redirect brings it back, and
    # mostly to where it was, but with a certificate for the host that was named: so its own domain is.
    Habit(
        "slixmpp",
        caps=("slixmpp.com/ver/",),
        refusals=("No handlers registered for this request.",),
        rungs=(Rung.SEE_OTHER_HOST,),
        redirected_home=True,
    ),
    # In plaintext it never notices a cut.
    Habit("aioxmpp", caps=("aioxmpp.zombofant.net",)),
    Habit("Gajim", caps=("gajim.org",), resources=("gajim.",)),
    Habit("Profanity", caps=("profanity-im.github.io", "www.profanity.im"), resources=("profanity.",), answers=False),
    # Any stream error leaves it down; a cut doesn't. Its request to resume is malformed, and is answered for the node
    # (xmpp/opening/negotiation.py).
    Habit("QXmpp", caps=("github.com/qxmpp-project/qxmpp",), resources=("QXmpp",), rungs=(Rung.CUT,)),
    Habit("mcabber", caps=("mcabber.com/caps",), resources=("mcabber",), stays_down=True),
    Habit("go-sendxmpp", resources=("go-sendxmpp.",), agents=("go-sendxmpp",), stays_down=True),
    Habit("Converse", caps=("conversejs.org",), resources=("converse.js-",), answers=False),
)
"""The reactions were measured with real clients behind a proxy that tried each rung on each of them; see
docs/connection-transfer.md. How they name themselves is from what they publish, not from those runs."""


_STAYING_DOWN: Final = tuple(habit for habit in MEASURED if habit.stays_down)


@dataclass(slots=True)
class _Learned:
    """``silences`` since the last answer."""

    knows_cxfr: bool | None = None
    silences: int = 0


class ClientSoftware:
    """The knowledge of client programs so far. ``allow`` and ``deny`` are the operator's lists; ``deny`` wins."""

    def __init__(self, allow: Iterable[ClientMatch] = (), deny: Iterable[ClientMatch] = ()) -> None:
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._learned: BoundedDict[str, _Learned] = BoundedDict(REMEMBERED)

    def set_lists(self, allow: Iterable[ClientMatch], deny: Iterable[ClientMatch]) -> None:
        """Have the operator's lists be these from now on; what was learned stays."""
        self._allow, self._deny = tuple(allow), tuple(deny)

    def knows_cxfr(self, software: Software, domain: str, said: bool | None) -> bool | None:
        """Return whether that client understands the IQ; ``said`` is what its session has shown, ``None`` if nothing
        is known."""
        if any(_is_meant(clients, software, domain) for clients in self._deny):
            return False
        if any(_is_meant(clients, software, domain) for clients in self._allow):
            return True
        if said is not None:
            return said
        learned = self._learned.get(software.caps or "")
        if learned is not None and learned.knows_cxfr is not None:
            return learned.knows_cxfr
        if _says_so(software):
            return True
        habit = habit_of(software)
        return False if habit is not None and not habit.answers else None

    def stays_down(self, software: Software, domain: str, said: bool | None) -> bool:
        """Return whether that client is known not to come back, however its stream ends: it is moved only if
        something forces it. ``said`` as for :meth:`knows_cxfr`: a client that understands the IQ ends its stream
        itself."""
        if not any(habit.fits(software) for habit in _STAYING_DOWN):
            return False  # nearly all, and all sessions are asked about for a plan
        habit = habit_of(software)
        return habit is not None and habit.stays_down and not self.knows_cxfr(software, domain, said)

    def is_news(self, caps: str, knows_cxfr: bool | None) -> bool:
        """Return whether :meth:`learn` would make a difference."""
        learned = self._learned.get(caps, _Learned())
        if knows_cxfr is None:
            return learned.knows_cxfr is not False
        return knows_cxfr is not learned.knows_cxfr or learned.silences > 0

    def learn(self, caps: str, knows_cxfr: bool | None) -> None:
        """Learn that a client with these capabilities answered that it does or doesn't know the IQ; ``None``: it was
        silent."""
        learned = self._learned[caps] = self._learned.get(caps) or _Learned()
        if knows_cxfr is not None:
            learned.knows_cxfr, learned.silences = knows_cxfr, 0
            return
        # Silence overrules a "yes" only after many: each may be a connection that broke.
        learned.silences += 1
        if learned.silences >= (SILENCES_BEHIND_YES if learned.knows_cxfr else SILENCES):
            learned.knows_cxfr = False

    def learned(self) -> dict[str, bool]:
        """Return what is known for sure, by capabilities, oldest first."""
        return {caps: learned.knows_cxfr for caps, learned in self._learned.items() if learned.knows_cxfr is not None}


def habit_of(software: Software) -> Habit | None:
    """Return the row of the table that fits; ``None`` for software that was not measured."""
    return next((habit for habit in MEASURED if habit.fits(software)), None)


def _says_so(software: Software) -> bool:
    node, _, _ = (software.caps or "").rpartition("#")
    return node.endswith(CAPS_MARK)


def name_of(software: Software) -> str:
    """Return a name for people and counters, one of few: the table's, else ``other``, or ``unknown`` if it said
    nothing."""
    habit = habit_of(software)
    if habit is not None:
        return habit.name
    return "other" if software.caps or software.agent else "unknown"


def _is_meant(clients: ClientMatch, software: Software, domain: str) -> bool:
    match clients.trait:
        case Trait.CAPS:
            return (software.caps or "").startswith(clients.text)
        case Trait.RESOURCE:
            return (software.resource or "").startswith(clients.text)
        case Trait.AGENT:
            return software.agent == clients.text
        case Trait.DOMAIN:
            return domain_key(domain) == clients.text
