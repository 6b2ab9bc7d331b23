"""Reset connections between the proxy and the nodes, one after the other, while crowds chat across them.

::

    pairs of clients -> the proxy -> taps -> node1 and node2

``PYTHONPATH=tests:tests/helpers python -m unnoticed.cuts --cuts 1000 --every 0.12`` resets a connection every 0.12
seconds, drawn from all that are open. Behind some of these resets comes another one within milliseconds, of the
connection on which the proxy is about to log in again. Exit code 1 where a client noticed, or a message is not as it
has to be. Every other client has XEP-0198 of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from bench import machine
from unnoticed.crowd import Counts
from unnoticed.run import times
from unnoticed.scene import Scene, Setting, open_scene, tell

_LOGIN_SECONDS: Final = 0.015
"""How long a login of the proxy's takes, and the resumption behind it."""


@dataclass(frozen=True, slots=True)
class Cuts:
    """``count`` of them, one every ``every`` seconds. ``again``: the share of those behind which the connection that
    replaces it is reset as well. ``interval``: seconds between two messages of one client."""

    count: int
    every: float
    again: float
    interval: float


@dataclass(frozen=True, slots=True)
class Harm:
    """What came of it. ``made``: connections that were reset; ``regained``: for how long each session was without its
    node; ``lost``: sessions whose clients were told to move; ``warnings`` of the proxy's about nodes."""

    made: int
    seconds: float
    counts: Counts
    regained: Sequence[float]
    lost: int
    warnings: Sequence[str]

    @property
    def unnoticed(self) -> bool:
        """No client has noticed anything, and every message came once and in its turn."""
        counts = self.counts
        harm = counts.lost or counts.twice or counts.disordered or counts.bounced or counts.noticed
        return bool(self.regained) and not harm

    def lines(self) -> list[str]:
        """For people."""
        counts = self.counts
        return [
            f"{self.made} connections reset in {self.seconds:.0f} s: {len(self.regained)} sessions regained,"
            f" {self.lost} given up",
            f"messages {counts.sent}: lost {counts.lost}, twice {counts.twice}, out of order {counts.disordered},"
            f" bounced {counts.bounced}",
            f"noticed: {counts.noticed} streams ended ({counts.resumed} resumed)",
            f"without a node: {times(self.regained)}",
            *(f"warning: {text}" for text in self.warnings),
        ]


async def play(folder: Path, setting: Setting, cuts: Cuts) -> Harm:
    """Play it once. Says on stderr how far it is."""
    async with open_scene(folder, setting) as scene:
        tell(f"{setting.sessions} logins")
        await scene.let_in(cuts.interval)
        await _can_be_taken(scene, setting.sessions)
        await scene.crowds.order(report=1)
        began = trio.current_time()
        made = await _cut(scene, cuts)
        seconds = trio.current_time() - began
        counts = await scene.crowds.order(hush=1)
        log = scene.proxy.so_far
        return Harm(
            made=made,
            seconds=seconds,
            counts=counts,
            regained=[row["seconds"] for row in log("node-regained")],
            lost=len(log("transfer")),
            warnings=sorted({row["reason"] for row in log("node-warning")}),
        )


async def _can_be_taken(scene: Scene, sessions: int) -> None:
    """Wait until the proxy could resume each session: a while after it began."""
    while True:
        done = [await scene.proxy.command("drain", name, "--plan", "--json") for name in ("node1", "node2")]
        if sum(json.loads(each.output)["migrate"] for each in done) == sessions:
            return
        await trio.sleep(0.1)


async def _cut(scene: Scene, cuts: Cuts) -> int:
    rng, made, told = random.Random(1), 0, 0
    due = trio.current_time()
    while made < cuts.count:
        opened = [(door, len(door.connections)) for door in scene.taps[2:]]
        tap, place = rng.choice([(tap, place) for tap in scene.taps for place in range(tap.carried)])
        tap.reset_one(place)
        made += 1
        if rng.random() < cuts.again:
            await trio.sleep(rng.uniform(0.0, _LOGIN_SECONDS))
            for door in [door for door, before in opened if door.carried and len(door.connections) > before]:
                door.reset_one(door.carried - 1)
                made += 1
        if made >= told + 100:
            told = made
            tell(f"{made} connections reset")
        due += cuts.every
        await trio.sleep_until(due)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m unnoticed.cuts", description="Connections to nodes are reset.")
    parser.add_argument("--sessions", type=int, default=8, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--cuts", type=int, default=1000, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--every", type=float, default=0.12, metavar="S", help="(default: %(default)g)")
    parser.add_argument(
        "--again",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of them, whose replacement is reset too (default: %(default)g)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        default=0.2,
        metavar="S",
        help="between two messages of a client (default: %(default)g)",
    )
    given = parser.parse_args()
    machine.raise_descriptor_limit()
    setting = Setting(given.sessions, workers=1, counting=0.5, stands_in=True, tapped=True)
    cuts = Cuts(given.cuts, given.every, given.again, given.interval)
    with tempfile.TemporaryDirectory(prefix="cxfr-cuts-") as folder:
        harm = trio.run(play, Path(folder), setting, cuts)
    print("\n".join(harm.lines()))
    return 0 if harm.unnoticed else 1


if __name__ == "__main__":
    sys.exit(main())
