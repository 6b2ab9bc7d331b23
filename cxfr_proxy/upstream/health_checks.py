"""Check the nodes, and take in what sessions report about theirs.

The consequences for a node's health are a table in :mod:`cxfr_proxy.cluster.health`. This module decides when to look:
every ``inter`` seconds, or ``fast-inter`` while there is doubt, and at once after sessions have met something. Each
node has a task of its own, so its checks never overlap and a silent node holds up no other. The time between two checks
varies by chance, and so does the first one's: many nodes, and many proxies that were started together, are not looked
at in step. The time counts from the beginning of a check; if the check takes longer, the next one begins at once.

A check connects as a session would be connected: with the PROXY header, and with TLS. The streams it opens are for the
domains that the node serves; those that it was not asked for yet all at once, and then one per check, in turn. A domain
for which it fails has its turn again.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.health import HOLD_SECONDS, Finding, Vitals
from cxfr_proxy.cluster.members import CheckResult, Cluster, Node
from cxfr_proxy.cluster.nodes import MOST_SECONDS, Check, Health, NodeSpec, SessionOutlook
from cxfr_proxy.events import emit
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.tasks import Task, isolated, start
from cxfr_proxy.upstream.probe import ProbeResult

JITTER: Final = 0.1
"""Largest fraction by which a pause may be longer or shorter."""

AT_ONCE: Final = 50
"""New nodes that are looked at as soon as they appear; if there are more,"""
TURNS_A_SECOND: Final = 200.0
"""so many follow each second. A check takes a millisecond of a core's time or two, half of it the kernel's."""
MAX_FEATURES_BYTES: Final = 32 * 1024
"""Most bytes of features that are kept of a node and domain: servers' have one to three kilobytes. If a node has more,
its clients get their node before they are shown features."""

_WORDS: Final = {Finding.SILENT: "timeout", Finding.REFUSED: "refused", Finding.UNTRIED: "untried"}
"""Short texts for tables, for which the usual reasons are too long."""

_UNFORESEEN: Final = ProbeResult(Finding.FAILED, "what it answered was not foreseen; the log has it")
"""The result of a check that ended by a fault of this program: a node that provokes one is no good to clients
either."""

_log = logging.getLogger(__name__)


class NodeReports(Protocol):
    """Receives what sessions learn about their nodes."""

    def connect_failed(self, node: Node, reason: str) -> None:
        """Note that a session could not be connected to it."""

    def said_it_was_going(self, node: Node, *, sessions: int) -> None:
        """Note that one of its ``sessions`` (this one included) was told by a stream error that it is going away."""

    def login_failed(self, node: Node, reason: str) -> None:
        """Note that it has ended a login by its own fault."""

    def login_worked(self, node: Node, domain: str) -> None:
        """Note that a client has logged in for that domain."""


class Prober(Protocol):
    """:func:`~cxfr_proxy.upstream.probe.probe`, by a certain dialer."""

    def __call__(
        self, spec: NodeSpec, domain: str | None, *, seconds: float, stream: bool = True
    ) -> Awaitable[ProbeResult]: ...


class _Watch:
    """The state that is kept of one node."""

    def __init__(self, node: Node, *, new: bool = False) -> None:
        self.node = node
        self.vitals = Vitals(node, new=new)
        self.greeted: set[str] = set()
        """Domains for which it has answered."""
        self.turn = 0
        """Of these, whose it is."""
        self.logins: dict[str, float] = {}
        """When a client has logged in last, by the domain's key."""
        self.first = True
        self.wake = trio.Event()
        self.watched = False
        self.in_line = True
        """It waits for its first look, or for one at its new line."""

    def logins_work(self, domain: str | None, since: float) -> bool:
        """Return whether a client has logged in for that domain since then; ``None``: for any domain. A node may serve
        one domain and hang for another."""
        if domain is None:
            return any(at >= since for at in self.logins.values())
        return self.logins.get(domain_key(domain), -math.inf) >= since


class HealthChecks:
    """Keeps the nodes' health, features and warm-up; whoever needs to know of changes watches the cluster.

    ``domains`` are those that are served. If there are none, the first that somebody logs in to will be asked for.
    """

    def __init__(
        self,
        cluster: Cluster,
        probe: Prober,
        *,
        domains: Sequence[str] = (),
        rng: random.Random | None = None,
    ) -> None:
        self._cluster = cluster
        self._probe = probe
        self._domains = tuple(domains)
        self._rng = rng if rng is not None else random.Random()
        self._watches = {node.name: _Watch(node) for node in cluster}
        self._more = trio.Event()
        self._last_turn = -math.inf
        cluster.watch(self._on_change)

    def _on_change(self, name: str) -> None:
        """End the task of a node that was forgotten."""
        watch = self._watches.get(name)
        if watch is not None and not self._is_in_list(watch.node):
            watch.wake.set()

    # --- what others say

    def connect_failed(self, node: Node, reason: str) -> None:
        """Note that a session could not be connected to it."""
        now = trio.current_time()
        self._heard(node, lambda vitals: vitals.connect_failed(now), reason)

    def said_it_was_going(self, node: Node, *, sessions: int) -> None:
        """Note that one of its ``sessions`` (this one included) was told by a stream error that it is going away."""
        now = trio.current_time()
        reason = "its sessions are told that it is going away"
        self._heard(node, lambda vitals: vitals.said_it_was_going(now, sessions=sessions), reason)

    def login_failed(self, node: Node, reason: str) -> None:
        """Note that it has ended a login by its own fault."""
        now = trio.current_time()
        self._heard(node, lambda vitals: vitals.login_failed(now), f"one login after the other fails: {reason}")

    def login_worked(self, node: Node, domain: str) -> None:
        """Note that a client has logged in for that domain."""
        watch = self._watch_of(node)
        watch.vitals.login_worked()
        watch.logins[domain_key(domain)] = trio.current_time()
        self.served(domain)

    def served(self, domain: str) -> None:
        """Note that a client has logged in for that domain. Before the login it may name any nonsense."""
        if not self._domains:
            self._domains = (domain,)
            self._ask_anew()

    def set_domains(self, domains: Sequence[str]) -> None:
        """Ask for these from now on; for none: for those that it was asked for so far."""
        if domains and tuple(domains) != self._domains:
            self._domains = tuple(domains)
            self._ask_anew()

    def _ask_anew(self) -> None:
        for watch in self._watches.values():
            watch.in_line = True
            watch.wake.set()

    def follow(self, node: Node) -> None:
        """Take in a node of the first list: it is used until it was seen to be down."""
        self._watch_of(node)

    def expect(self, node: Node) -> None:
        """Take in a node that has just appeared: it is not used before it was seen to be up, which is tried at once."""
        self._add(_Watch(node, new=True))

    def reread(self, node: Node) -> None:
        """Take in a node's new line. Results at another address mean nothing any more."""
        watch = self._watch_of(node)
        if node.check is None:
            watch.vitals, watch.greeted, watch.logins = Vitals(node), set(), {}
        watch.in_line = True
        watch.wake.set()

    # --- watching

    async def run(self) -> None:
        """Look until cancelled."""
        for watch in self._watches.values():
            watch.watched = False
        async with trio.open_nursery() as watching:
            while True:
                for watch in self._watches.values():
                    if not watch.watched:
                        watch.watched = True
                        start(watching, Task.CHECK, partial(self._watch, watch), node=watch.node.name)
                self._more = trio.Event()
                await self._more.wait()

    def _watch_of(self, node: Node) -> _Watch:
        watch = self._watches.get(node.name)
        if watch is None or watch.node is not node:
            watch = _Watch(node)
            if self._is_in_list(node):  # else it was forgotten, and another may bear its name by now
                self._add(watch)
        return watch

    def _add(self, watch: _Watch) -> None:
        former = self._watches.get(watch.node.name)
        if former is not None:
            former.wake.set()
        self._watches[watch.node.name] = watch
        self._more.set()

    def _is_in_list(self, node: Node) -> bool:
        return node.name in self._cluster and self._cluster.get(node.name) is node

    def _is_listed(self, watch: _Watch) -> bool:
        return self._is_in_list(watch.node) and self._watches.get(watch.node.name) is watch

    async def _watch(self, watch: _Watch) -> None:
        while self._is_listed(watch):
            await self._take_turn(watch)
            began = trio.current_time()
            watch.wake = trio.Event()
            await self._check(watch)
            await self._rest(watch, began + self._pause(watch))
        if self._watches.get(watch.node.name) is watch:
            del self._watches[watch.node.name]

    async def _take_turn(self, watch: _Watch) -> None:
        """Wait if the node or its line is new: a list of thousands is not looked at in one moment."""
        if watch.in_line and watch.node.spec.check is not Check.NONE:
            now = trio.current_time()
            self._last_turn = max(self._last_turn, now - AT_ONCE / TURNS_A_SECOND) + 1 / TURNS_A_SECOND
            await trio.sleep_until(min(self._last_turn, now + MOST_SECONDS))
        watch.in_line = False

    def _pause(self, watch: _Watch) -> float:
        spec = watch.node.spec
        if spec.check is Check.NONE:  # only time has to be told, and only where it is down
            return HOLD_SECONDS / 4 if watch.node.health is Health.DOWN else math.inf
        doubtful = watch.vitals.in_doubt
        pause = spec.fast_inter if doubtful and spec.fast_inter is not None else spec.inter
        pause *= self._rng.uniform(1 - JITTER, 1 + JITTER)
        if watch.first and not doubtful:
            watch.first = False
            pause *= self._rng.random()
        return pause

    async def _rest(self, watch: _Watch, due: float) -> None:
        """Wait until ``due``, or until something calls for a look; meanwhile the weight of a node that is back may
        grow."""
        while trio.current_time() < due:
            step = watch.vitals.grow(trio.current_time())
            with trio.move_on_at(min(due, step if step is not None else math.inf)):
                await watch.wake.wait()
                return

    # --- one check

    async def _check(self, watch: _Watch) -> None:
        node, vitals = watch.node, watch.vitals
        began = trio.current_time()
        seen, logins_work = ProbeResult(Finding.OK), False
        if node.spec.check is Check.NONE:
            await trio.lowlevel.checkpoint()
        else:
            for domain in self._domains_to_ask(watch):
                asked_at = trio.current_time()
                seen = await self._ask(watch, domain)
                # A check that only connects is about the machine and the listener, which all domains share.
                logins_work = watch.logins_work(domain if node.spec.check is Check.STREAM else None, asked_at)
                if seen.finding is not Finding.OK:
                    break
        if watch.vitals is not vitals or not self._is_listed(watch):
            return  # it was at another address
        now = trio.current_time()
        if node.spec.check is not Check.NONE:
            text = _WORDS.get(seen.finding, seen.reason) or str(seen.finding)
            node.check = CheckResult(text, now, now - began)
            node.checks_failed += seen.finding not in (Finding.OK, Finding.UNTRIED)
            if seen.finding is Finding.UNTRIED:
                emit(_log, "dial-failed", level=logging.ERROR, node=node.name, reason=seen.reason)
        self._judge(watch, lambda vitals: vitals.checked(seen.finding, now, logins_work=logins_work), seen.reason)

    def _domains_to_ask(self, watch: _Watch) -> Sequence[str | None]:
        spec = watch.node.spec
        domains = spec.domain or self._domains
        if spec.check is Check.TCP or not domains:
            return domains[:1] or (None,)  # for the name in its certificate
        new = [domain for domain in domains if domain not in watch.greeted]
        return new or (domains[watch.turn % len(domains)],)

    async def _ask(self, watch: _Watch, domain: str | None) -> ProbeResult:
        node, vitals = watch.node, watch.vitals
        spec = node.spec
        seen = _UNFORESEEN
        with isolated(Task.CHECK, node=node.name):
            seen = await self._probe(spec, domain, seconds=spec.check_seconds, stream=spec.check is Check.STREAM)
        if seen.finding is Finding.OK and domain is not None and watch.vitals is vitals:
            watch.turn += 1
            watch.greeted.add(domain)
            key = domain_key(domain)
            self._keep_features(node, key, seen.features)
        return seen

    def _keep_features(self, node: Node, domain: str, features: bytes | None) -> None:
        """Keep the features by domain, for the domains it is asked for. Features that are too long count as none."""
        if features is None:
            return
        asked = {domain_key(each) for each in node.spec.domain or self._domains}
        kept = {each: known for each, known in node.features.items() if each in asked and each != domain}
        if len(features) <= MAX_FEATURES_BYTES:
            kept[domain] = features
        node.features = kept

    # --- what follows

    def _heard(self, node: Node, apply: Callable[[Vitals], None], reason: str) -> None:
        """Take in a session's report; if it matters, look for oneself."""
        watch, health = self._watch_of(node), node.health
        self._judge(watch, apply, reason)
        if node.health is not health:
            watch.wake.set()

    def _judge(self, watch: _Watch, apply: Callable[[Vitals], None], reason: str | None) -> None:
        node = watch.node
        health, session_outlook, slow = node.health, node.session_outlook, watch.vitals.slow
        apply(watch.vitals)
        if node.health is not health and node.health is Health.DOWN:
            emit(_log, "node-down", level=logging.WARNING, node=node.name, reason=reason)
        elif node.health is not health:
            emit(_log, "node-up", node=node.name, slowstart=node.spec.slowstart or None)
        if watch.vitals.slow and not slow:
            emit(_log, "node-slow", level=logging.WARNING, node=node.name, reason=reason)
        if node.session_outlook is not session_outlook and node.session_outlook is not SessionOutlook.GOOD:
            emit(
                _log,
                "node-given-up",
                level=logging.WARNING,
                node=node.name,
                session_outlook=str(node.session_outlook),
                reason=reason,
            )
