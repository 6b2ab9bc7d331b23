"""A rolling restart: several nodes, one after the other, as one order. Decide what comes next, sans-IO, and told the
time.

Each node goes through these steps::

    DRAIN ------> RESTART ----------> RETURN ----------> SETTLE -------> done; the next node
    it is empty   a command has run,  checks find it up  it has stayed
    and settled   or an operator has                     up
                  restarted it

A step that fails stops the roll where it is, and :meth:`Roll.proceed` goes on with that step.

As long as a node has still to be restarted, users are placed on it only if no other node takes them
(:attr:`.members.Node.to_restart`): whoever is moved there has to be moved again. So the clients of the first node are
moved twice, and all others once. Nobody is moved to where they belong before the last node is done.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from cxfr_proxy.cluster.members import CheckResult, Cluster, Node
from cxfr_proxy.cluster.nodes import Check

RETURN_SECONDS: Final = 300.0
"""Seconds for a node to be up once it has been restarted, or if it goes down later: a large server needs a minute or
two to start."""


class RollStep(StrEnum):
    """A step of the node whose turn it is."""

    DRAIN = "drain"
    """Its clients are moved away, and it settles."""
    RESTART = "restart"
    """It can be stopped: a command restarts it, or an operator does."""
    RETURN = "return"
    """It was restarted: checks have to find it up."""
    SETTLE = "settle"
    """It is up, and has to stay so before it takes clients and the next one goes."""


class RollRecord(msgspec.Struct, frozen=True):
    """A roll as it is kept. ``done`` of the ``nodes`` are, in their order; ``step`` is the next one's.

    ``rate`` in clients a second and ``deadline`` in seconds are those of each drain, ``None``: the usual ones.
    ``by_command``: a command restarts the nodes. ``stopped`` is why it does not go on, ``None`` while it does.
    """

    nodes: tuple[str, ...]
    rate: float | None = None
    deadline: float | None = None
    by_command: bool = False
    done: Annotated[int, msgspec.Meta(ge=0)] = 0
    step: RollStep = RollStep.DRAIN
    stopped: str | None = None

    @property
    def node(self) -> str | None:
        """Return the node whose turn it is; ``None``: all are done."""
        return self.nodes[self.done] if self.done < len(self.nodes) else None


class RollAction(StrEnum):
    """Something that has to be done now."""

    DRAIN = "drain"
    """Drain the node whose turn it is."""
    READY = "ready"
    """Make the node that is done ready again."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node whose turn it is, as it is at the moment. ``drained``: its drain is done. ``drain_failure``: why it will
    not be, ``None`` as long as it may."""

    up: bool
    rise: int
    """Good checks in a row after which it is up; 0: it is not checked."""
    settle_seconds: float
    check: CheckResult | None = None
    drained: bool = False
    drain_failure: str | None = None

    @classmethod
    def of(cls, node: Node, *, up: bool, drained: bool, drain_failure: str | None) -> NodeView:
        rise = node.spec.rise if node.spec.check is not Check.NONE else 0
        return cls(up, rise, node.spec.settle_seconds, node.check, drained, drain_failure)


class Roll:
    """One roll, from its record. Times are one monotonic clock's."""

    def __init__(self, record: RollRecord, now: float) -> None:
        self._record = record
        self._since = now  # when the step began
        self._drains = False  # the drain of this step has begun
        self._went = False  # the node was seen to be down in this step
        self._good = 0  # good checks in a row that began in this step
        self._check: CheckResult | None = None  # the last one

    @property
    def record(self) -> RollRecord:
        return self._record

    @property
    def node(self) -> str | None:
        """Return the node whose turn it is; ``None``: all are done."""
        return self._record.node

    @property
    def stopped(self) -> str | None:
        """Return why it does not go on; ``None``: it does, or all are done."""
        return self._record.stopped

    @property
    def awaits_restart(self) -> bool:
        """Return whether the node can be restarted now."""
        return self.stopped is None and self._record.step is RollStep.RESTART and self.node is not None

    def look(
        self, seen: NodeView | None, now: float, *, down: Collection[str] = (), runs: bool = False
    ) -> RollAction | None:
        """Return what is to be done, as things are; ``None``: nothing but wait.

        ``seen`` is the node whose turn it is, ``None``: it is not listed any more. ``down``: nodes that are done, and
        down. ``runs``: somebody is there to run the command.
        """
        if self.stopped is not None or self.node is None:
            return None
        if seen is None:
            self.stop("it is no longer in the list")
            return None
        match self._record.step:
            case RollStep.DRAIN:
                return self._look_at_drain(seen, now, down)
            case RollStep.RESTART:
                self._look_at_restart(seen, now, runs=runs)
            case RollStep.RETURN:
                self._look_at_return(seen, now)
            case RollStep.SETTLE:
                return self._look_at_settling(seen, now)
        return None

    def _look_at_drain(self, seen: NodeView, now: float, down: Collection[str]) -> RollAction | None:
        if not self._drains:
            if not down:
                self._drains = True
                return RollAction.DRAIN
            if now >= self._since + RETURN_SECONDS:
                self.stop(f"{', '.join(down)} was restarted before, and is down")
            return None
        if seen.drain_failure is not None:
            self.stop(seen.drain_failure)
        elif seen.drained:
            self._enter(RollStep.RESTART, now)
        return None

    def _look_at_restart(self, seen: NodeView, now: float, *, runs: bool) -> None:
        if self._record.by_command and not runs:
            self.stop("the command line that restarts the nodes is gone")
        elif self._went and seen.up and not self._record.by_command:
            self._enter(RollStep.RETURN, now)  # an operator's restart is seen: the node goes, and comes back
        elif seen.drain_failure is not None:
            self.stop(seen.drain_failure)
        else:
            self._went = self._went or not seen.up

    def _look_at_return(self, seen: NodeView, now: float) -> None:
        check = seen.check
        if check is not None and check != self._check and check.at - check.seconds >= self._since:
            self._good = self._good + 1 if check.text == "ok" else 0
            self._check = check
        if seen.up and self._good >= seen.rise:
            self._enter(RollStep.SETTLE, now)
        elif now >= self._since + RETURN_SECONDS:
            found = f": {check.text}" if check is not None and check.text != "ok" else ""
            self.stop(f"it was restarted {RETURN_SECONDS:.0f} s ago, and is not up{found}")

    def _look_at_settling(self, seen: NodeView, now: float) -> RollAction | None:
        if not seen.up:
            self._enter(RollStep.RETURN, now)
        elif now >= self._since + seen.settle_seconds:
            return RollAction.READY
        return None

    # --- what is said

    def restarted(self, now: float) -> None:
        """Note that the node was restarted, also if the roll has stopped because that had failed."""
        self._record = msgspec.structs.replace(self._record, stopped=None)
        self._enter(RollStep.RETURN, now)

    def is_ready(self, now: float) -> None:
        """Note that the node takes clients again: it is done."""
        self._record = msgspec.structs.replace(self._record, done=self._record.done + 1)
        self._enter(RollStep.DRAIN, now)

    def stop(self, reason: str) -> None:
        """Stop where it is."""
        self._record = msgspec.structs.replace(self._record, stopped=reason)

    def proceed(self, now: float, *, by_command: bool, drained: bool = True) -> None:
        """Go on with the step at which it has stopped; ``by_command``: from now on a command restarts the nodes, or
        none does. A node that is not ``drained`` any more is drained once more before it is restarted."""
        self._record = msgspec.structs.replace(self._record, stopped=None, by_command=by_command)
        again = self._record.step is RollStep.RESTART and not drained
        self._enter(RollStep.DRAIN if again else self._record.step, now)

    def _enter(self, step: RollStep, now: float) -> None:
        self._record = msgspec.structs.replace(self._record, step=step)
        self._since = now
        self._drains = self._went = False
        self._good, self._check = 0, None


# --- the plan


@dataclass(frozen=True, slots=True)
class ForetoldDrain:
    """How many sessions a node would have when its turn comes, and has to give away."""

    node: str
    sessions: int


def foretell(order: Sequence[str], cluster: Cluster, sessions: Mapping[str, int]) -> list[ForetoldDrain]:
    """Return what the drains of a roll would come to; ``sessions`` counts by node as they are now.

    Sessions go to each node that may take them by its weight, as they do on average. Raises
    :class:`~cxfr_proxy.cluster.members.UnknownNode`.
    """
    there = {node.name: float(sessions.get(node.name, 0)) for node in cluster}
    waiting = set(order)
    drains = []
    for name in order:
        leaving, there[name] = there[cluster.get(name).name], 0.0
        drains.append(ForetoldDrain(name, round(leaving)))
        takers = _takers(cluster, cluster.get(name), waiting)
        weights = sum(node.spec.weight for node in takers)
        for node in takers:
            there[node.name] += leaving * node.spec.weight / weights
        waiting.discard(name)
    return drains


def _takers(cluster: Cluster, source: Node, waiting: Collection[str]) -> list[Node]:
    """Return the nodes that would take its sessions; ``waiting`` are those that have still to be restarted."""
    takers = [node for node in cluster if node is not source and node.usable and _shares_domain(node, source)]
    lowest = min((node.spec.priority for node in takers), default=0)
    takers = [node for node in takers if node.spec.priority == lowest]
    return [node for node in takers if node.name not in waiting] or takers


def _shares_domain(node: Node, other: Node) -> bool:
    return not node.spec.domain or not other.spec.domain or not set(node.spec.domain).isdisjoint(other.spec.domain)
