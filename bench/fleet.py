"""A proxy in front of nodes with crowds of clients that can be moved: what ``sockets`` and ``drain`` are made of.

All clients log in while the nodes' list names ``a`` alone; then ``b`` and ``c`` are added to it, and ``a`` is drained.
The proxy is started, and told what to do, by the command an operator has. A node is one address; as many processes
listen there, and as many crowds come, as the descriptors of one process make necessary.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import machine, programs, relays
from bench.load import USED_UP
from bench.programs import HOST, PYTHON, Failed, Program
from bench.relays import Setup

SOURCES: Final = 16
"""Loopback addresses for each crowd."""
_SPARE_OF_ONE: Final = 300
"""Descriptors that a process of a node or a crowd keeps for other things than sessions."""
_EVEN: Final = 0.95
"""The kernel spreads connections over processes by chance: so full may the average one be."""
_SPARE_PORTS: Final = 500
_LATE: Final = re.compile(r"\blate=(\d+)")

JsonObject = dict[str, Any]  # Any: what the proxy and the crowd print


def most_sessions(workers: int) -> int:
    """As many as the machine lets through so many workers to one node.

    Two descriptors for each in a worker; and the proxy reaches a node from one address, with a port for each session.
    """
    return min(int(relays.max_sessions() * workers * _EVEN), len(machine.local_ports()) - _SPARE_PORTS)


def processes_for(sessions: int) -> int:
    """Of a node, or of crowds: one descriptor a session."""
    return -(-sessions // int((machine.descriptor_limit() - _SPARE_OF_ONE) * _EVEN))


@dataclass(frozen=True, slots=True)
class Counted:
    """The crowd's answer; see :mod:`bench.crowd`. ``asked`` and ``bound`` are instants of the monotonic clock, in
    seconds."""

    sessions: int
    clients: int
    outstanding: int
    sent: int
    echoed: int
    returned: int
    twice: int
    lost: int
    moved: int
    failed: int
    asked: list[float]
    bound: list[float]
    gaps: list[float]
    latencies: list[float]

    def __add__(self, other: Counted) -> Counted:
        """Of both crowds; what they list is no longer in order."""
        return Counted(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def missing(self) -> int:
        """Messages without an answer, now that it is quiet: their stream is over, or it hangs."""
        return self.lost + self.outstanding


class Crowds:
    """The handle on processes of :mod:`bench.crowd`: each takes an equal part of what is ordered."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self._programs = programs

    def open(self, count: int, *, parallel: int) -> Counted:
        return self._order(("open", count), parallel=-(-parallel // len(self._programs)))

    def talk(self, count: int, *, interval: float) -> Counted:
        """``count`` of the clients say something every ``interval`` seconds from now on."""
        return self._order(("talk", count), interval=interval)

    def report(self) -> Counted:
        return self._order(("report", 1))

    def reset(self) -> None:
        """Forget what was counted."""
        self._order(("reset", 1))

    def hush(self) -> Counted:
        """Nobody begins anything; counted when all is answered, or after some seconds."""
        return self._order(("hush", 1))

    def _order(self, divided: tuple[str, int], **others: float) -> Counted:
        """All at once; done when all are. Raises :class:`Failed`."""
        name, whole = divided
        for program, part in zip(self._programs, shares(whole, len(self._programs)), strict=True):
            program.write_line(json.dumps({name: part, **others}))
        first, *rest = (Counted(**json.loads(program.read_line())) for program in self._programs)
        return sum(rest, first)


def shares(whole: int, count: int) -> list[int]:
    """``whole`` in ``count`` parts as equal as can be, none below 1."""
    return [max(1, whole // count + (at < whole % count)) for at in range(count)]


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds of the proxy with its workers, and of all that runs on the load's core, at an instant."""

    at: float
    proxy: float
    load: float

    def since(self, before: Used) -> Used:
        """As shares of one core, with the seconds that have passed for ``at``."""
        seconds = self.at - before.at
        return Used(seconds, (self.proxy - before.proxy) / seconds, (self.load - before.load) / seconds)


def bottleneck(shares: Used, cores: int) -> str:
    """``machine``: all cores were used up; ``load``: the load's one was, so the rate may have been its own."""
    if shares.proxy + shares.load >= USED_UP * cores:
        return "machine"
    return "load" if shares.load >= USED_UP else "nobody"


class Fleet:
    """Everything that runs. ``nodes_file`` is the proxy's, without the nodes that come later, whose lines ``others``
    are; its log is ``proxy.said``, and clients connect to ``port``.
    """

    def __init__(
        self,
        setup: Setup,
        proxy: Program,
        crowds: Sequence[Program],
        nodes: Sequence[Program],
        nodes_file: Path,
        control: Path,
        others: str,
        port: int,
    ) -> None:
        self._setup = setup
        self.port = port
        self.proxy = proxy
        self.crowds = Crowds(crowds)
        self._on_load_core = [*crowds, *(nodes if setup.cores.shared else ())]
        self._nodes_file = nodes_file
        self._control = control
        self._others = others

    def used(self) -> Used:
        """Up to now."""
        load = sum(program.cpu_ns() for program in self._on_load_core)
        return Used(time.monotonic(), self.proxy.cpu_ns() / 1e9, load / 1e9)

    def log_in(self, count: int, *, parallel: int = 64) -> Counted:
        """So many more clients, all bound. Raises :class:`Failed` if one is not."""
        counted = self.crowds.open(count, parallel=parallel)
        if counted.failed or counted.sessions != counted.clients:
            raise Failed(f"{counted.failed} logins failed, {counted.sessions} are there: {self.proxy.last_words()}")
        return counted

    def add_nodes(self) -> None:
        """Put the others into the list, and wait until the proxy has them."""
        # Written whole and put in its place at once: the proxy must not read half of it.
        beside = self._nodes_file.with_suffix(".new")
        beside.write_text(self._nodes_file.read_text("utf-8") + self._others, "utf-8")
        beside.replace(self._nodes_file)
        programs.wait_for("other nodes", self.proxy, lambda: len(self.show_nodes()) == 3)

    def show_nodes(self) -> dict[str, int]:
        """Sessions by node."""
        return {row["name"]: row["sessions"] for row in self._show("nodes")}

    def show_workers(self) -> list[int]:
        """Sessions in each worker."""
        return [row["sessions"] for row in self._show("workers")]

    def drain(self, rate: float) -> JsonObject:
        """Drain ``a`` at ``rate`` clients a second until it is empty: the last row of ``drain --wait --json``."""
        lines = self.order("drain", "a", "--wait", "--json", "--rate", f"{rate:g}").splitlines()
        row: JsonObject = json.loads(lines[-1])
        return row

    def late(self) -> int:
        """Stanzas that reached the proxy behind its own last word, by its log."""
        return sum(map(int, _LATE.findall(self.proxy.said.read_text("utf-8", "replace"))))

    def _show(self, what: str) -> list[JsonObject]:
        rows: list[JsonObject] = json.loads(self.order("show", what, "--json"))
        return rows

    def order(self, *words: str) -> str:
        """Give the proxy a command; return what it says. Raises :class:`Failed`."""
        command = [PYTHON, "-m", "cxfr_proxy", *words, "--control", str(self._control)]
        with programs.on_core(self._setup.cores.load):
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=programs.ROOT)
        if done.returncode:
            raise Failed(f"cxfr-proxy {' '.join(words)}: {done.stderr.strip()[-1000:]}")
        return done.stdout


@contextlib.contextmanager
def fleet(setup: Setup, sessions: int, *, refusing: float = 0.0) -> Iterator[Fleet]:
    """For so many sessions; ``refusing`` is the share of clients that don't know connection transfer."""
    processes = processes_for(sessions)
    with contextlib.ExitStack() as stack:
        *node_ports, port = (programs.free_port() for _ in range(4))
        nodes = [stack.enter_context(relays.node(setup, node_port)) for node_port in node_ports * processes]
        # Two to move to: towards one address connecting becomes slow once half of the ports are taken.
        a, *others = (f"{name} {HOST}:{node_port}\n" for name, node_port in zip("abc", node_ports, strict=True))
        nodes_file, control = setup.folder.write("nodes.txt", a), setup.folder.path / "control"
        command = relays.proxy_command(setup, port, nodes_file, control)
        proxy = stack.enter_context(relays.started("proxy", command, setup))
        programs.wait_for("listening", proxy, lambda: programs.accepts(port))
        crowds = [stack.enter_context(crowd(setup, port, at, refusing)) for at in range(processes)]
        yield Fleet(setup, proxy, crowds, nodes, nodes_file, control, "".join(others), port)


@contextlib.contextmanager
def crowd(setup: Setup, port: int, number: int, refusing: float) -> Iterator[Program]:
    """The ``number``-th of them, from 0, with loopback addresses of its own; as for :func:`fleet` otherwise."""
    words = [str(port), str(1 + number * SOURCES), str(SOURCES), str(int(setup.tls)), str(refusing)]
    command = [PYTHON, "-m", "bench.crowd", *words]
    with programs.started(f"crowd-{number}", command, setup.folder, cores={setup.cores.load}) as program:
        program.read_line()
        yield program


def wait_moved(running: Fleet, clients: int, seconds: float = 30.0) -> Counted:
    """Until everybody is bound again: the node is empty a little earlier. The counts of the crowds at that time."""
    limit = time.monotonic() + seconds
    while (counted := running.crowds.report()).sessions < clients and time.monotonic() < limit:
        time.sleep(0.1)
    return counted
