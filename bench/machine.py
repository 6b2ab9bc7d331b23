"""The machine: its cores and limits, and what a process has used of it."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core what runs on. ``load`` and ``node`` share one where there are only two.

    ``relay`` is one core, or one for each worker; where there are too few for that, the workers may use all.
    """

    relay: tuple[int, ...]
    load: int
    node: int

    @property
    def shared(self) -> bool:
        return self.load == self.node

    def __str__(self) -> str:
        if self.relay == (self.load,):
            return f"everything on core {self.load}: the only one, so ratios are worth little"
        relay = f"relay on core {' and '.join(map(str, self.relay))}"
        if self.shared:
            return f"{relay}; load and node together on core {self.load}"
        return f"{relay}; load on core {self.load}; node on core {self.node}"


def cores(workers: int = 1, usable: Collection[int] | None = None) -> Cores:
    """Of those that are ``usable``; ``None``: that this process may use."""
    all_of_them = sorted(os.sched_getaffinity(0) if usable is None else usable)
    count = len(all_of_them)
    load = min(workers, max(count - 2, 1), count - 1)
    node = min(load + 1, count - 1)
    alone = workers == 1 or load >= workers
    return Cores(tuple(all_of_them[:workers] if alone else all_of_them), all_of_them[load], all_of_them[node])


def descriptor_limit() -> int:
    """The hard limit on open files of one process, to which each program here raises its soft one."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_descriptor_limit() -> None:
    hard = descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_ns(pid: int) -> int:
    """The time that all threads of a process have used so far, in nanoseconds; 0 for a process that is gone.

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


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional (PSS) and resident (RSS) set size in KiB. PSS shares out the pages that processes have in common."""

    pss: float = 0.0
    rss: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.pss + other.pss, self.rss + other.rss)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.pss - other.pss, self.rss - other.rss)

    def __truediv__(self, count: int) -> Memory:
        return Memory(self.pss / count, self.rss / count)


def memory(pids: Iterable[int]) -> Memory:
    """Of these processes together. Neither figure has the kernel's memory for them, socket buffers above all."""
    return sum((_memory_of(Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")) for pid in pids), Memory())


def _memory_of(rollup: str) -> Memory:
    sizes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in rollup.splitlines()[1:])}
    return Memory(float(sizes["Pss"]), float(sizes["Rss"]))


def local_ports() -> range:
    """Those the kernel gives to outgoing connections: at most so many from one address to one address and port."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split())
    return range(low, high + 1)


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
    """The facts of the machine that a reader has to know to judge a table."""
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
