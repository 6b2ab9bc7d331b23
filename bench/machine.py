"""The machine: its cores and limits, and what a process has used of it."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core what runs on. ``load`` and ``node`` share one where there are only two."""

    relay: int
    load: int
    node: int

    @property
    def shared(self) -> bool:
        return self.load == self.node

    def __str__(self) -> str:
        if self.relay == self.load:
            return f"everything on core {self.relay}: the only one, so ratios are worth little"
        if self.shared:
            return f"relay on core {self.relay}, load and node together on core {self.load}"
        return f"relay on core {self.relay}, load on core {self.load}, node on core {self.node}"


def cores() -> Cores:
    """Of those this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    load = usable[1] if len(usable) > 1 else usable[0]
    return Cores(usable[0], load, usable[2] if len(usable) > 2 else load)


def descriptor_limit() -> int:
    """The hard limit on open files of one process, to which each program here raises its soft one."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_descriptor_limit() -> None:
    hard = descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_ns(pid: int) -> int:
    """What all threads of a process have used so far, in nanoseconds; 0 for a process that is gone.

    The kernel numbers the CPU clock of another process ``~pid << 3 | 2``: what clock_getcpuclockid(3) computes.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def family(pid: int) -> list[int]:
    """The process and all it has started, itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None  # it has ended meanwhile


def memory_kib(pids: Iterable[int]) -> tuple[float, float]:
    """Resident and proportional set size of these processes together, in KiB."""
    rss = pss = 0.0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "Rss":
                rss += int(value.split()[0])
            elif name == "Pss":
                pss += int(value.split()[0])
    return rss, pss


def busy_share(seconds: float = 1.0) -> float:
    """How much of all cores others are using now: a bench on a busy machine is good for finding bugs only."""
    before = _cpu_ticks()
    time.sleep(seconds)
    after = _cpu_ticks()
    total = sum(after) - sum(before)
    idle = after[3] + after[4] - before[3] - before[4]
    return (total - idle) / total if total else 0.0


def _cpu_ticks() -> list[int]:
    with open("/proc/stat", encoding="ascii") as file:
        return [int(word) for word in file.readline().split()[1:9]]


def describe() -> dict[str, str]:
    """What a reader has to know of the machine to judge a table."""
    return {
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "descriptors per process": str(descriptor_limit()),
        "others were using": f"{busy_share():.0%} of all cores when it began",
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
