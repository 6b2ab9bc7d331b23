"""A proxy in front of two nodes with a crowd of clients that can be moved: what ``sockets`` and ``drain`` are made of.

All clients log in while the nodes' list names ``a`` alone; then ``b`` is added to the list, and ``a`` is drained.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import programs, relays
from bench.programs import HOST, PYTHON, Failed, Program
from bench.relays import Setup

SOURCES: Final = 16
_LATE: Final = re.compile(r"\blate=(\d+)")

JsonObject = dict[str, Any]  # Any: what the proxy and the crowd print


@dataclass(frozen=True, slots=True)
class Counted:
    """The crowd's answer; see :mod:`bench.crowd`. ``asked`` are instants of the monotonic clock, in seconds."""

    sessions: int
    clients: int
    outstanding: int
    cpu: float
    sent: int
    echoed: int
    returned: int
    twice: int
    lost: int
    moved: int
    failed: int
    asked: list[float]
    gaps: list[float]
    latencies: list[float]


class Crowd:
    """The handle on a process of :mod:`bench.crowd`."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def order(self, **order: float) -> Counted:
        """Give an order, and wait until it is done. Raises :class:`~bench.programs.Failed`."""
        self._program.write_line(json.dumps(order))
        answer: JsonObject = json.loads(self._program.read_line())
        return Counted(**answer)


class Fleet:
    """Everything that runs. ``nodes_file`` is the proxy's; its log is ``proxy.said``."""

    def __init__(self, setup: Setup, proxy: Program, crowd: Crowd, nodes_file: Path, control: Path, b: str) -> None:
        self._setup = setup
        self.proxy = proxy
        self.crowd = crowd
        self._nodes_file = nodes_file
        self._control = control
        self._b = b

    def log_in(self, count: int) -> Counted:
        """So many more clients, all bound. Raises :class:`Failed` if one is not."""
        counted = self.crowd.order(open=count, parallel=64)
        if counted.failed or counted.sessions != counted.clients:
            raise Failed(f"{counted.failed} logins failed, {counted.sessions} are there: {self.proxy.last_words()}")
        return counted

    def add_node(self) -> None:
        """Put ``b`` into the list, and wait until the proxy has it."""
        # Written whole and put in its place at once: the proxy must not read half of it.
        beside = self._nodes_file.with_suffix(".new")
        beside.write_text(self._nodes_file.read_text("utf-8") + self._b, "utf-8")
        beside.replace(self._nodes_file)
        programs.wait_for("node b", self.proxy, lambda: len(self.show_nodes()) == 2)

    def show_nodes(self) -> dict[str, int]:
        """Sessions by node."""
        rows = json.loads(self._command("show", "nodes", "--json"))
        return {row["name"]: row["sessions"] for row in rows}

    def drain(self, rate: float) -> JsonObject:
        """Drain ``a`` at ``rate`` clients a second until it is empty: the last row of ``drain --wait --json``."""
        lines = self._command("drain", "a", "--wait", "--json", "--rate", f"{rate:g}").splitlines()
        row: JsonObject = json.loads(lines[-1])
        return row

    def late(self) -> int:
        """Stanzas that reached the proxy behind its own last word, by its log."""
        return sum(map(int, _LATE.findall(self.proxy.said.read_text("utf-8", "replace"))))

    def _command(self, *words: str) -> str:
        command = [PYTHON, "-m", "cxfr_proxy", *words, "--control", str(self._control)]
        with programs.on_core(self._setup.cores.load):
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=programs.ROOT)
        if done.returncode:
            raise Failed(f"cxfr-proxy {' '.join(words)}: {done.stderr.strip()[-1000:]}")
        return done.stdout


@contextlib.contextmanager
def fleet(setup: Setup, *, refusing: float = 0.0) -> Iterator[Fleet]:
    """``refusing`` is the share of clients that don't know connection transfer."""
    with contextlib.ExitStack() as stack:
        ports = [programs.free_port() for _ in range(3)]
        for port in ports[:2]:
            stack.enter_context(relays.node(setup, port))
        a, b = (f"{name} {HOST}:{port}\n" for name, port in zip("ab", ports, strict=False))
        nodes_file, control = setup.folder.write("nodes.txt", a), setup.folder.path / "control"
        command = relays.proxy_command(setup, ports[2], nodes_file, control)
        proxy = stack.enter_context(programs.started("proxy", command, setup.folder, core=setup.cores.relay))
        programs.wait_for("listening", proxy, lambda: programs.accepts(ports[2]))
        words = [str(ports[2]), str(SOURCES), str(int(setup.tls)), str(refusing)]
        crowd_command = [PYTHON, "-m", "bench.crowd", *words]
        crowd = stack.enter_context(programs.started("crowd", crowd_command, setup.folder, core=setup.cores.load))
        crowd.read_line()
        yield Fleet(setup, proxy, Crowd(crowd), nodes_file, control, b)


def wait_moved(running: Fleet, clients: int, seconds: float = 30.0) -> Counted:
    """Until everybody is bound again: the node is empty a little earlier. What the crowd has counted then."""
    limit = time.monotonic() + seconds
    while (counted := running.crowd.order(report=1)).sessions < clients and time.monotonic() < limit:
        time.sleep(0.1)
    return counted


def percentile(values: list[float], share: float) -> float:
    """NaN where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
