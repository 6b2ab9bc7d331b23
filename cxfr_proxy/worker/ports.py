"""Stand-ins in a worker for parts of the supervisor.

Tokens come from the supervisor's bucket, and what sessions learn of their nodes goes to its health checks.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from cxfr_proxy.cluster.members import Node
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.ipc.messages import (
    NodeFailsLogins,
    NodeGoing,
    NodeServes,
    NodeUnreachable,
    PutBack,
    Want,
)
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.worker.reporter import Reporter

_TELL_SECONDS: Final = 1.0
"""For so long at most a node's login for a domain is told of once, and not each."""
_TELL_TIMES: Final = 4
"""Logins show that a node is alive that answers no check in time. So they are told of so often while a check waits, if
there are so many."""


class GrantedTokens:
    """The mover's pace: tokens that the supervisor grants. See :class:`~cxfr_proxy.transfers.pace.Pace`."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._tokens = 0
        self._used = 0  # or put back
        self._lost = self._leaving = self._hurried = self._misplaced = 0
        self._resting = True
        self._granted = trio.Event()

    def grant(self, tokens: int) -> None:
        self._tokens += tokens
        self._granted.set()
        # The token was granted when there was something to move, and now there is not: it goes back.
        if self._resting:
            self.rest()

    async def wait(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._tokens:
            self._granted = trio.Event()
            await self._granted.wait()

    def spend(self) -> None:
        self._tokens -= 1
        self._used += 1
        self._report_soon()

    def rest(self) -> None:
        self._resting = True
        self._lost = self._leaving = self._hurried = self._misplaced = 0
        self._reporter.changed()  # why a drain waits is known now
        if self._tokens:
            self._reporter.post(PutBack(self._tokens))
            self._used += self._tokens
            self._tokens = 0
        self._report()

    def queued(self, *, lost: int, leaving: int, hurried: int, misplaced: int) -> None:
        self._lost, self._leaving, self._hurried, self._misplaced = lost, leaving, hurried, misplaced
        self._resting = False
        self._report_soon()

    def _report_soon(self) -> None:
        # A drain queues thousands at a time: they are told of once.
        trio.lowlevel.current_trio_token().run_sync_soon(self._report, idempotent=True)

    def _report(self) -> None:
        self._reporter.post(Want(self._lost, self._leaving, self._used, self._misplaced, self._hurried))


class HealthReporter:
    """Reports what sessions learn about their nodes. A node that can't be reached is avoided here at once."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._told: dict[tuple[str, str], float] = {}  # nodes, each with a domain, of which it was told, and till when
        self._forget_at = -math.inf
        self._failing: set[str] = set()  # nodes of which the last login that was told of failed

    def connect_failed(self, node: Node, reason: str) -> None:
        # At once and not when the supervisor has said so: the next login here must not try it again.
        node.health = Health.DOWN
        self._reporter.post(NodeUnreachable(node.name, reason))

    def said_it_was_going(self, node: Node, *, sessions: int) -> None:
        self._reporter.post(NodeGoing(node.name))

    def login_failed(self, node: Node, reason: str) -> None:
        self._failing.add(node.name)
        self._reporter.post(NodeFailsLogins(node.name, reason))

    def login_worked(self, node: Node, domain: str) -> None:
        now = trio.current_time()
        if now >= self._forget_at:
            self._told = {login: until for login, until in self._told.items() if now < until}
            self._forget_at = now + _TELL_SECONDS
        login = node.name, domain_key(domain)
        if now >= self._told.get(login, -math.inf) or node.name in self._failing:
            self._told[login] = now + min(_TELL_SECONDS, node.spec.check_seconds / _TELL_TIMES)
            self._failing.discard(node.name)
            self._reporter.post(NodeServes(node.name, domain))
