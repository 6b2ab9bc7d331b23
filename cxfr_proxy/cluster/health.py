"""Decide from what is seen of a node whether it is up: a table of rules, sans-IO, that is told the time.

There are two sources. *Checks* look at the node again and again; ``rise`` and ``fall`` of them in a row decide, as in
HAProxy. *Sessions* meet it in passing: their reports take it out of placement at once, since another node is better for
the next user anyway, but only checks decide about the sessions that it has.

=================================== ========= ============ =========================================================
what is seen                        health    outlook      remarks
=================================== ========= ============ =========================================================
``fall`` bad checks in a row        down      failing      dead, if none of them brought an answer
two refusals in a row               down      failing      it has closed its listener, so it is going
one bad check, the first ever       down      as it was    it was up on trust alone
no connection for a session         down      as it was    checks come at once
sessions say that it is going       down      as it was    not up again within :data:`HOLD_SECONDS`
logins fail one after the other     down      as it was    likewise, each time twice as long, until one works
no answer, but logins work          as it was as it was    counted, and decides nothing now: the node is slow
no room for a connection here       as it was as it was    not counted; down, where no check has seen it well yet
one good check                      as it was good         nobody else leaves a node that answers again
``rise`` good checks in a row       up        good         one, if it is new in the list
=================================== ========= ============ =========================================================

A login that has worked since a check began shows that the node was alive as the check was not answered (decision
0047). It puts off what silent checks would decide, until one of them ends without such a login. So a node that is gone
is found as early as without that rule: nobody logs in to it.

When a node comes up, its weight grows in steps during its warm-up (``slowstart``). A node that has not been checked yet
counts as up, as all nodes do when a proxy starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cxfr_proxy.cluster.members import Node
from cxfr_proxy.cluster.nodes import Check, Health, SessionOutlook

REFUSALS: Final = 2
"""Refused connections in a row after which nobody listens there any more. One may be a restart of the listener
alone."""
HOLD_SECONDS: Final = 5.0
"""How long the reports of sessions count more than checks: a node that stops is gone by then, or it was a restart so
quick that nobody minds."""
TOGETHER_SECONDS: Final = 2.0
"""Reports of two sessions that come within this time are about the node, not about a client."""
FAILED_LOGINS: Final = 5
"""Failed logins in a row, without one that succeeds: one alone may be a client's own doing."""
FAILED_LOGINS_SECONDS: Final = 60.0
"""The longest time from one failed login to the next: a login that is never answered takes as long."""
LONGEST_HOLD_SECONDS: Final = 300.0
"""The longest hold for a node that lets nobody log in, however well it greets: some clients try it again after that
time."""
STEPS: Final = 20
"""Steps in which the weight of a node that has come back grows; HAProxy has as many."""


class Finding(StrEnum):
    """The result of one look at a node."""

    OK = "ok"
    REFUSED = "refused"
    """Nobody listens: the first thing that a stopping server does, while its sessions live on."""
    SILENT = "silent"
    """Nothing came in time."""
    FAILED = "failed"
    """It gave a wrong answer."""
    UNTRIED = "untried"
    """It was not looked at: this machine could not begin a connection."""


@dataclass(slots=True)
class _Streak:
    """Count reports of sessions that belong together, because each comes soon after the one before."""

    count: int = 0
    last: float = 0.0

    def add(self, now: float, seconds: float) -> int:
        self.count = self.count + 1 if now - self.last <= seconds else 1
        self.last = now
        return self.count


class Vitals:
    """Keeps ``health``, ``session_outlook`` and ``warm_up`` of one node.

    ``now`` is of any one monotonic clock. ``new``: the node takes nobody before a check has seen it."""

    def __init__(self, node: Node, *, new: bool = False) -> None:
        self.node = node
        self._new = new
        self._good = self._bad = self._refused = self._silent = 0  # checks in a row
        self._seen = False  # well, at least once
        self.slow = False
        """Whether its checks alone would have decided that it is down by now: clients still log in."""
        self._going = _Streak()
        self._logins = _Streak()
        self._login_hold = HOLD_SECONDS
        self._hold_until = -math.inf
        self._up_since: float | None = None  # while the weight still grows
        if new:
            node.health = Health.DOWN

    # --- checks

    def checked(self, finding: Finding, now: float, *, logins_work: bool = False) -> None:
        """Take in a check that has just ended. ``logins_work``: a client has logged in since it began."""
        if finding is Finding.UNTRIED:
            if not self._seen:  # it may be of a family that this machine does not speak, which looks the same
                self._mark_down(now)
            return
        self.slow = False
        if finding is Finding.OK:
            self._good += 1
            self._bad = self._refused = self._silent = 0
            self._on_good(now)
        else:
            self._good = 0
            self._bad += 1
            self._refused = self._refused + 1 if finding is Finding.REFUSED else 0
            self._silent = self._silent + 1 if finding is Finding.SILENT else 0
            self._on_bad(now, alive=finding is Finding.SILENT and logins_work)

    def _on_good(self, now: float) -> None:
        node = self.node
        self._seen = True
        node.session_outlook = SessionOutlook.GOOD
        needed = 1 if self._new or node.spec.check is Check.NONE else node.spec.rise
        if node.health is Health.DOWN and now >= self._hold_until and self._good >= needed:
            node.health, node.health_since = Health.UP, now
            self._new = False
            self._logins.count = self._going.count = 0
            self._up_since = now
            self.grow(now)

    def _on_bad(self, now: float, *, alive: bool) -> None:
        node = self.node
        sure = self._bad >= node.spec.fall or self._refused >= REFUSALS
        if alive:
            self.slow = sure and node.health is Health.UP
            return
        if sure or not self._seen:
            self._mark_down(now)
        if sure:
            node.session_outlook = SessionOutlook.DEAD if self._silent >= node.spec.fall else SessionOutlook.FAILING

    @property
    def in_doubt(self) -> bool:
        """Return whether the next checks may change something."""
        if self.node.health is Health.UP:
            return self._bad > 0
        return self._good > 0 or self.node.session_outlook is SessionOutlook.GOOD

    # --- sessions

    def connect_failed(self, now: float) -> None:
        """Note that a session could not be connected to the node."""
        if self.node.spec.check is Check.NONE:
            self._hold_until = now + HOLD_SECONDS
        self._mark_down(now)

    def said_it_was_going(self, now: float, *, sessions: int) -> None:
        """Note that one of its ``sessions`` (this one included) was told that the node is going away. A stream error
        can be meant for one client: it takes two, or the only one."""
        if self._going.add(now, TOGETHER_SECONDS) >= min(2, sessions):
            self._hold_down(now)

    def login_failed(self, now: float) -> None:
        """Note that it has ended a login by a fault of its own."""
        if self._logins.add(now, FAILED_LOGINS_SECONDS) >= FAILED_LOGINS:
            if self.node.health is Health.DOWN:
                self._hold_down(now)  # those that were under way fail as well
            else:
                self._hold_down(now, self._login_hold)
                self._login_hold = min(2 * self._login_hold, LONGEST_HOLD_SECONDS)

    def login_worked(self) -> None:
        self._logins.count = 0
        self._login_hold = HOLD_SECONDS

    def _hold_down(self, now: float, seconds: float = HOLD_SECONDS) -> None:
        self._hold_until = max(self._hold_until, now + seconds)
        self._mark_down(now)

    def _mark_down(self, now: float) -> None:
        self._good = 0
        if self.node.health is Health.UP:
            self.node.health, self.node.health_since = Health.DOWN, now
            self._up_since, self.node.warm_up = None, 1.0

    # --- the weight of one that has come back

    def grow(self, now: float) -> float | None:
        """Set the node's warm-up as it has to be now. Return when to call again; ``None``: no need to."""
        since, slowstart = self._up_since, self.node.spec.slowstart
        if since is None or now >= since + slowstart:
            self._up_since, self.node.warm_up = None, 1.0
            return None
        step = int((now - since) / slowstart * STEPS + 1e-9)  # as if on time, where the clock is a hair early
        self.node.warm_up = max(1, step) / STEPS
        return since + (step + 1) * slowstart / STEPS
