"""Sum up events that one stranger could cause without end.

A client whose connections are all refused, or whose logins all fail, would write a line each time: so fast that nobody
finds anything else in the log, or until the disk is full. The events of :data:`RULES` are grouped by the fields in
``by`` (such as the client's address). Of each group the first few are written in each interval of :data:`SECONDS`. The
others are counted, and at the interval's end a line of the same event gives their number (``repeated``).

An IPv6 client is grouped by its /64, in which everybody has as many addresses as they like (RFC 7707). Beyond
:data:`MAX_OPEN` open groups, all further ones share one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cxfr_proxy.spellings import address_range

FieldValue = str | int | float | bool | None
Origin = tuple[logging.Logger, int]
"""The logger of the event, and its level."""

SECONDS: Final = 60.0
MAX_OPEN: Final = 1000


@dataclass(frozen=True, slots=True)
class Rule:
    """``by``: the fields that make a group; ``most``: lines that are written of a group in each interval. Events
    with a value in the field ``unless`` are always written. ``only``: a field and its value; events that have another
    value there are always written."""

    by: tuple[str, ...] = ()
    most: int = 5
    unless: str | None = None
    only: tuple[str, FieldValue] | None = None


RULES: Final[Mapping[str, Rule]] = {
    "accept-failed": Rule(most=1),
    "bytes-dropped": Rule(("side",), most=20),
    "client-refused": Rule(("client", "condition")),
    "dial-failed": Rule(("reason",), most=1),
    "fault": Rule(("task", "at")),
    "forged-transfer": Rule(("node",)),
    "forwarded-malformed": Rule(("via",)),
    "full": Rule(),
    "http-denied": Rule(("client",)),
    "log": Rule(("source",), most=20),
    # More than a filter that bans addresses waits for.
    "login-failed": Rule(("client",), most=30),
    "name-not-resolved": Rule(("reason",), most=3),
    # Each text once (upstream/node_warnings.py), and a node can make up any number of them.
    "node-warning": Rule(("node",), most=20),
    # Of somebody whose token is good for less. What others order has a line each, which these must not push out.
    "order": Rule(("by", "outcome"), only=("outcome", "denied")),
    "proxy-header-refused": Rule(("peer", "reason")),
    "room-again": Rule(),
    # Of somebody who has not logged in.
    "session-end": Rule(("client",), most=30, unless="jid"),
    "tls-failed": Rule(("client",)),
    "tls-flood": Rule(("peer",)),
    "unraisable": Rule(("source",)),
}


class Repeated(NamedTuple):
    """The result of an interval."""

    event: str
    what: Origin
    fields: dict[str, FieldValue]


@dataclass(slots=True)
class _Open:
    what: Origin
    fields: dict[str, FieldValue]
    since: float
    written: int = 0
    repeated: int = field(default=0)


class Sums:
    """All open groups. Any thread may call the methods; ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._open: dict[tuple[str, tuple[FieldValue, ...] | None], _Open] = {}

    def admit(self, event: str, fields: Mapping[str, FieldValue], what: Origin) -> bool:
        """Return whether this event is to be written; otherwise count it. ``what`` comes back with the sum."""
        rule = RULES.get(event)
        if rule is None or (rule.unless is not None and fields.get(rule.unless) is not None):
            return True
        if rule.only is not None and fields.get(rule.only[0]) != rule.only[1]:
            return True
        values = {name: _place(name, fields.get(name)) for name in rule.by}
        with self._lock:
            key: tuple[str, tuple[FieldValue, ...] | None] = event, tuple(values.values())
            known = self._open.get(key)
            if known is None and len(self._open) >= MAX_OPEN:
                key, values = (event, None), {rule.by[0]: "others"} if rule.by else {}
                known = self._open.get(key)
            if known is None:
                known = self._open[key] = _Open(what, values, self._clock())
            if known.written < rule.most:
                known.written += 1
                return True
            known.repeated += 1
            return False

    def due(self, *, at_once: bool = False) -> list[Repeated]:
        """Return the sums whose interval is over, or all of them with ``at_once``."""
        found = []
        with self._lock:
            now = self._clock()
            for key, each in list(self._open.items()):
                seconds = now - each.since
                if seconds < SECONDS and not at_once:
                    continue
                del self._open[key]
                if each.repeated:
                    told: dict[str, FieldValue] = {"repeated": each.repeated, "seconds": round(seconds)}
                    found.append(Repeated(key[0], each.what, each.fields | told))
        return found

    def next_due(self) -> float | None:
        """Return the seconds until a sum may be due; ``None`` if no group is open."""
        with self._lock:
            # A copy: a finalizer may log in the middle of this, and so make another group.
            since = min((each.since for each in list(self._open.values())), default=None)
            return max(0.0, since + SECONDS - self._clock()) if since is not None else None


def _place(name: str, value: FieldValue) -> FieldValue:
    return address_range(value) if name == "client" and isinstance(value, str) else value
