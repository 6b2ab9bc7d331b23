"""What ``--node-stream-management`` costs the proxy: memory of a session, CPU of a message.

``PYTHONPATH=tests:tests/helpers python -m unnoticed.cost`` plays the same chat four times, with clients that have
XEP-0198 of their own and without, with the setting and without. A message goes through the proxy twice, from its sender
and to its receiver; with XEP-0198 each is followed by a client's request for an acknowledgement, and its answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from bench import machine
from unnoticed.scene import Scene, Setting, open_scene

_CHANCE_SECONDS: Final = 7.0
"""After which the proxy has begun to count in the place of the clients."""


@dataclass(frozen=True, slots=True)
class Cost:
    """``kib``: memory of a session, as the kernel counts it (PSS), without socket buffers. ``cpu``: seconds for a
    message."""

    kib: float
    cpu: float


async def measure(folder: Path, setting: Setting, interval: float, seconds: float) -> Cost:
    """Have everybody chat for so long."""
    async with open_scene(folder, setting) as scene:
        before = _memory(scene)
        await scene.let_in(interval)
        await trio.sleep(_CHANCE_SECONDS)
        await scene.crowds.order(report=1)
        used = _cpu_seconds(scene)
        await trio.sleep(seconds)
        counts, used = await scene.crowds.order(report=1), _cpu_seconds(scene) - used
        assert counts.noticed == 0, "nobody was moved"
        return Cost((_memory(scene) - before) / setting.sessions, used / counts.arrived)


def _memory(scene: Scene) -> float:
    return machine.memory(machine.family(scene.proxy.process.pid)).pss


def _cpu_seconds(scene: Scene) -> float:
    return sum(machine.cpu_ns(pid) for pid in machine.family(scene.proxy.process.pid)) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m unnoticed.cost", description="What node-stream-management costs.")
    parser.add_argument("--sessions", type=int, default=500, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--interval",
        type=float,
        default=1.0,
        metavar="S",
        help="between two messages of a client (default: %(default)g)",
    )
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="(default: %(default)g)")
    given = parser.parse_args()
    machine.raise_descriptor_limit()
    for whose, share in (("without XEP-0198", 0.0), ("with XEP-0198", 1.0)):
        for stands_in in (False, True):
            setting = Setting(given.sessions, 1, share, stands_in=stands_in)
            with tempfile.TemporaryDirectory(prefix="cxfr-cost-") as folder:
                cost = trio.run(measure, Path(folder), setting, given.interval, given.seconds)
            switch = "on" if stands_in else "off"
            print(f"clients {whose}, {switch}: {cost.kib:.1f} KiB a session, {cost.cpu * 1e6:.0f} µs a message")
    return 0


if __name__ == "__main__":
    sys.exit(main())
