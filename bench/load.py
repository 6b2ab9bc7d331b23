"""The load generator (``native/load.c``): its orders, and its answers with the CPU time sorted by whose it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import programs
from bench.programs import HOST, Failed, Program
from bench.relays import Relay, Setup

STANZA_BYTES: Final = 333
"""A chat message of some 200 characters with a receipt request."""
SOURCES: Final = 16
"""Loopback addresses that clients come from: one has some 28,000 ports."""
USED_UP: Final = 0.92
"""From this share of its core on a process is taken to be the bottleneck."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One answer. Times in seconds; CPU of the relay's, the node's and the load's processes. ``tickets`` are those
    of TLS sessions that came meanwhile.
    """

    count: int
    seconds: float
    relay_cpu: float
    node_cpu: float
    load_cpu: float
    p50: float
    p99: float
    slowest: float
    unanswered: int
    tickets: int

    @property
    def rate(self) -> float:
        """Round trips, or logins, per second."""
        return self.count / self.seconds if self.seconds else 0.0

    @property
    def cpu_each(self) -> float:
        """CPU seconds of the relay for one of them."""
        return self.relay_cpu / self.count if self.count else float("nan")

    @property
    def relay_busy(self) -> float:
        return self.relay_cpu / self.seconds

    def load_busy(self, *, shared: bool) -> float:
        """Of the load's core; the node's work counts where it is there too."""
        return (self.load_cpu + (self.node_cpu if shared else 0.0)) / self.seconds


def bottleneck(relay_busy: float, load_busy: float) -> str:
    """The program whose core was used up, by the shares of both."""
    if relay_busy >= USED_UP:
        return "both" if load_busy >= USED_UP else "relay"
    return "load" if load_busy >= USED_UP else "nobody"


class Load:
    """Clients of one relay."""

    def __init__(self, program: Program, relay: Relay) -> None:
        self.relay = relay
        self._program = program

    def open(self, count: int, *, parallel: int = 32, stage: str = "login") -> Measured:
        """``count`` more clients, ``parallel`` at a time; ``stage``: up to a bound resource, ``tls`` only, or up to
        the first presence (``online``).

        The latencies are those from connecting to the end of that stage. Raises :class:`Failed` if one fails.
        """
        return self._order(f"open {count} {parallel} {stage}")

    def run(self, *, warm: float, seconds: float, in_flight: int) -> Measured:
        """As fast as it goes, with so many stanzas on the way for each client."""
        return self._order(f"run {warm} {seconds} {in_flight}")

    def pace(self, *, warm: float, seconds: float, rate: float) -> Measured:
        """``rate`` stanzas a second over all clients. Latency counts from when each was due."""
        return self._order(f"pace {warm} {seconds} {rate}")

    def close(self) -> None:
        self._order("close")

    def _order(self, order: str) -> Measured:
        relay, nodes = self.relay.pids(), [pid for node in self.relay.nodes for pid in node.family()]
        self._program.write_line(f"{order} {' '.join(map(str, relay + nodes))}")
        answer = json.loads(self._program.read_line())
        if answer.get("error") or answer["failed"] or (answer["unanswered"] and not order.startswith("pace")):
            said = self.relay.program.last_words() if self.relay.program is not None else ""
            raise Failed(f"{self.relay.name}: '{order}' went wrong: {answer}; the relay said: {said}")
        cpu = {int(pid): ns / 1e9 for pid, ns in answer["cpu"].items()}
        return Measured(
            count=answer["count"],
            seconds=answer["seconds"],
            relay_cpu=sum(cpu[pid] for pid in relay),
            node_cpu=sum(cpu[pid] for pid in nodes),
            load_cpu=cpu[self._program.pid],
            p50=answer["p50"] / 1e9,
            p99=answer["p99"] / 1e9,
            slowest=answer["max"] / 1e9,
            unanswered=answer["unanswered"],
            tickets=answer["tickets"],
        )


@contextlib.contextmanager
def load(relay: Relay, setup: Setup) -> Iterator[Load]:
    """A load generator for that relay, on its core. Raises :class:`~bench.programs.Missing`."""
    tls = setup.tls and relay.kind.speaks_tls
    words = [HOST, str(relay.port), str(SOURCES), str(int(tls)), str(STANZA_BYTES), str(int(setup.websocket))]
    command: list[str | Path] = [programs.compiled("load"), *words]
    with programs.started("load", command, setup.folder, cores={setup.cores.load}) as program:
        program.read_line()
        yield Load(program, relay)
