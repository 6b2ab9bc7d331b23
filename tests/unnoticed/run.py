"""One run: crowds chat across the nodes of a cluster; ``node1`` is drained, and stopped.

Half of the clients move. The node is stopped as soon as the drain is over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from bench import machine
from bench.spread import percentile
from unnoticed.crowd import Counts
from unnoticed.scene import PATIENCE_SECONDS, Scene, Setting, open_scene, tell

_CALM_SECONDS: Final = 5.0
"""For which is measured what the chat costs by itself."""


@dataclass(frozen=True, slots=True)
class Terms:
    """``rate``: moves a second, at most. ``interval``: seconds between two messages of one client."""

    setting: Setting
    rate: float
    interval: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a run.

    ``before`` and ``during`` are the counts of both times, ``after`` those behind the stop. ``outcomes`` are the
    transfers as the proxy's log has them, by rung and outcome. ``held``: seconds for which clients were not read, and
    ``took``: those of whole transfers. ``cpu``: seconds of the proxy's meanwhile, and of both nodes'; ``per_move``:
    those for one move, without what the chat costs.
    """

    moved: int
    drain_seconds: float
    before: Counts
    during: Counts
    after: Counts
    outcomes: Mapping[str, int]
    held: Sequence[float]
    took: Sequence[float]
    cpu: tuple[float, float]
    per_move: tuple[float, float]

    @property
    def chat(self) -> Counts:
        """All that was counted."""
        return self.before + self.during + self.after

    @property
    def changes(self) -> int:
        """How many presences the watcher has seen since everybody was there."""
        return self.after.presences - self.before.presences

    @property
    def unnoticed(self) -> bool:
        """No client and no watcher has noticed anything, and every message came once and in its turn."""
        chat = self.chat
        harmed = self.after.lost or chat.twice or chat.disordered or chat.bounced
        return bool(self.moved) and not (chat.noticed or self.changes or harmed)

    def lines(self) -> list[str]:
        """For people."""
        chat = self.chat
        outcomes = ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items()))
        return [
            f"moved {self.moved} in {self.drain_seconds:.1f} s ({self.moved / self.drain_seconds:.0f} a second):"
            f" {outcomes}",
            f"messages {chat.sent}: lost {self.after.lost}, twice {chat.twice}, out of order {chat.disordered},"
            f" bounced {chat.bounced}",
            *(f"bounced: {each}" for each in chat.bounces),
            f"noticed: {chat.noticed} streams ended ({chat.resumed} resumed), {self.changes} presences at a watcher",
            f"held: {times(self.held)}",
            f"a whole transfer: {times(self.took)}",
            f"a message to the other client before: {times(self.before.arrivals)}",
            f"                          meanwhile: {times(self.during.arrivals)}",
            f"its acknowledgement before: {times(self.before.acks)}",
            f"                 meanwhile: {times(self.during.acks)}",
            *(
                f"CPU of the {whose}: {cpu:.1f} s meanwhile, {per_move * 1e3:.2f} ms a move"
                for whose, cpu, per_move in zip(("proxy", "nodes"), self.cpu, self.per_move, strict=True)
            ),
        ]


def times(seconds: Sequence[float]) -> str:
    """For people."""
    if not seconds:
        return "never"
    shares = {"median": 0.5, "p99": 0.99}
    told = [f"{name} {percentile(seconds, share) * 1e3:.1f} ms" for name, share in shares.items()]
    return ", ".join([*told, f"most {max(seconds) * 1e3:.1f} ms"])


async def play(folder: Path, terms: Terms) -> Figures:
    """Play it once. Says on stderr how far it is."""
    async with open_scene(folder, terms.setting) as scene:
        return await _tell_story(terms, scene)


async def _tell_story(terms: Terms, scene: Scene) -> Figures:
    proxy, cluster, crowds = scene.proxy, scene.cluster, scene.crowds
    tell(f"{terms.setting.sessions} logins")
    await scene.let_in(terms.interval)
    await trio.sleep(terms.interval)
    await crowds.order(report=1)
    programs = [proxy.process], [node.process for node in cluster.nodes if node.process is not None]
    calm = [_cpu(each) for each in programs]
    await trio.sleep(_CALM_SECONDS)
    before, began = await crowds.order(report=1), [_cpu(each) for each in programs]
    leaving = next(row["sessions"] for row in await proxy.show("nodes") if row["name"] == "node1")
    tell(f"draining node1 at {terms.rate:g} a second")
    done = await proxy.command("drain", "node1", "--wait", "--rate", f"{terms.rate:g}", seconds=PATIENCE_SECONDS)
    assert done.code == 0, done.output
    cpu = [_cpu(each) - used for each, used in zip(programs, began, strict=True)]
    usual = [(now - used) / _CALM_SECONDS * done.seconds for now, used in zip(began, calm, strict=True)]
    during = await crowds.order(report=1)
    tell("stopping node1")
    await cluster.nodes[0].stop()
    await trio.sleep(2 * terms.interval)
    after = await crowds.order(hush=1)
    transfers = await proxy.event("transfer", leaving)
    return Figures(
        moved=len(transfers),
        drain_seconds=done.seconds,
        before=before,
        during=during,
        after=after,
        outcomes=Counter(f"{each['rung']}:{each['outcome']}" for each in transfers),
        held=[each["held_seconds"] for each in transfers if each["held_seconds"] is not None],
        took=[each["seconds"] for each in transfers],
        cpu=(cpu[0], cpu[1]),
        per_move=((cpu[0] - usual[0]) / len(transfers), (cpu[1] - usual[1]) / len(transfers)),
    )


def _cpu(programs: Iterable[trio.Process]) -> float:
    """Seconds that these have used so far, with all that they have started."""
    return sum(machine.cpu_ns(pid) for program in programs for pid in machine.family(program.pid)) / 1e9
