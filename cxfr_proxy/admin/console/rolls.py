"""Rolling restarts of nodes, as an operator begins, plans, watches and ends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from functools import partial

import trio

from cxfr_proxy.admin.console.drains import DrainControl
from cxfr_proxy.admin.console.parts import Drainer, Roller, Sessions
from cxfr_proxy.admin.feed import ChangeFeed, follow
from cxfr_proxy.admin.rows.order_rows import ForetoldRestart, RollPlan, RollProgress
from cxfr_proxy.admin.rows.rows import RollRow
from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Health
from cxfr_proxy.cluster.roll import Roll, RollStep, foretell
from cxfr_proxy.errors import ConfigError

_FOR_AN_OPERATOR = "it can be restarted now: the roll goes on when it has gone and come back (or: roll --restarted {})"


class RollControl:
    """``roller`` carries rolls out."""

    def __init__(
        self,
        roller: Roller,
        cluster: Cluster,
        drains: DrainControl,
        drainer: Drainer,
        sessions: Sessions,
        feed: ChangeFeed,
    ) -> None:
        self.roller = roller
        self._cluster = cluster
        self._drains = drains
        self._drainer = drainer
        self._sessions = sessions
        self._feed = feed
        self._moved: Mapping[str, int] = {}
        self._counted: Roll | None = None

    async def plan(self, nodes: Sequence[str], *, rate: float | None = None, deadline: float | None = None) -> RollPlan:
        """Return what a roll of these nodes would come to. Changes nothing; raises :class:`ConfigError` for a node that
        is not listed."""
        listed = [self._cluster.get(name) for name in nodes]
        plans = [await self._drains.plan(node.name, rate=rate, deadline=deadline) for node in listed]
        pace = (rate if rate is not None else self._drainer.rate) * self._drainer.share
        now = {node.name: self._sessions.of_node(node.name).sessions for node in self._cluster}
        restarts = []
        for foretold, node in zip(foretell(nodes, self._cluster, now), listed, strict=True):
            seconds = foretold.sessions / pace
            seconds = seconds if deadline is None else min(seconds, deadline)
            # It settles twice: when it is empty, and when it is up again.
            restarts.append(
                ForetoldRestart(node.name, foretold.sessions, round(seconds + 2 * node.spec.settle_seconds, 3))
            )
        return RollPlan(
            restarts,
            sessions=sum(plan.sessions for plan in plans),
            moves=sum(each.sessions for each in restarts),
            rate=pace,
            seconds=sum(each.seconds for each in restarts),
            migrate=sum(plan.migrate for plan in plans),
            refuses_logins=next((plan.refuses_logins for plan in plans if plan.refuses_logins is not None), None),
        )

    async def follow(self, *, runs: bool) -> AsyncGenerator[RollProgress, None]:
        """Return how far the roll is, again and again until its end; see :func:`~cxfr_proxy.admin.feed.follow`.

        ``runs``: whoever follows restarts the nodes, until they stop following. Raises :class:`ConfigError` where there
        is no roll.
        """
        roll = self.roller.current
        if roll is None:
            raise ConfigError("no roll goes on")
        async with aclosing(follow(self._feed, partial(self._progress, roll))) as rows:
            with self.roller.running_commands() if runs else nullcontext():
                async for row in rows:
                    yield row

    def abort(self) -> str:
        """Give the roll up; return in a sentence what becomes of the node at which it was. Raises
        :class:`ConfigError`."""
        node = self.roller.abort()
        ready = (
            f" (undrain {node} makes it ready)" if node in self._cluster and not self._cluster.get(node).removed else ""
        )
        return f"the roll is given up; {node} stays as it is now{ready}"

    def rows(self) -> list[RollRow]:
        """Return the nodes of the roll that goes on, or of the last one, in its order; none where there was none."""
        roll = self.roller.last
        if roll is None:
            return []
        moved, record = self._moves(roll), roll.record
        rows = []
        for place, name in enumerate(record.nodes):
            own = place == record.done
            step = "done" if place < record.done else str(record.step) if own else "waits"
            sessions = self._sessions.of_node(name).sessions
            reason = self._reason(roll) if own else None
            rows.append(RollRow(name, step, sessions, moved[name], reason, stopped=own and roll.stopped is not None))
        return rows

    def _progress(self, roll: Roll) -> RollProgress:
        record, given_up = roll.record, self.roller.last is not roll
        drain = self._drainer.drains.get(record.node) if record.node is not None else None
        return RollProgress(
            node=record.node,
            step=str(record.step),
            total=len(record.nodes),
            left=len(record.nodes) - record.done,
            sessions=self._sessions.of_node(record.node).sessions if record.node is not None else 0,
            moved=sum(self._moves(roll).values()),
            finished=record.node is None or record.stopped is not None or given_up,
            reason="it was given up" if given_up else self._reason(roll),
            given_up=given_up,
            settling_seconds=drain.settling_seconds(trio.current_time()) if drain is not None else None,
        )

    def _awaited(self, done: Sequence[str]) -> str | None:
        """Return which nodes have to be up before the next one is drained; ``None``: all are."""
        down = self._cluster.down_of(done)
        return f"it waits for {', '.join(down)}, which was restarted before and is down" if down else None

    def _moves(self, roll: Roll) -> Mapping[str, int]:
        """Return how many clients have moved away from each node since the roll was first looked at."""
        counts = {name: self._sessions.of_node(name).moved for name in roll.record.nodes}
        if self._counted is not roll:
            self._counted, self._moved = roll, counts
        return {name: moved - self._moved[name] for name, moved in counts.items()}

    def _reason(self, roll: Roll) -> str | None:
        """Return why it waits, or has stopped; ``None`` while it does not."""
        record, name = roll.record, roll.node
        if record.stopped is not None or name is None:
            return record.stopped
        match record.step:
            case RollStep.DRAIN:
                drain = self._drainer.drains.get(name)
                return drain.reason if drain is not None else self._awaited(record.nodes[: record.done])
            case RollStep.RESTART:
                return "its command runs" if record.by_command else _FOR_AN_OPERATOR.format(name)
            case RollStep.RETURN:
                return _not_up(self._cluster.get(name)) if name in self._cluster else None
            case RollStep.SETTLE:
                return None


def _not_up(node: Node) -> str:
    check = node.check.text if node.check is not None else "ok"
    found = f", which find it down: {check}" if node.health is Health.DOWN and check != "ok" else ""
    return f"it waits for checks{found}"
