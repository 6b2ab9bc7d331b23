"""Long lists of nodes: what they cost at rest and at a login, and how long it takes until all are seen down, and up.

One process answers for all nodes of a list. `checked`: each has its health check every two seconds, as it comes. `not
checked`: nobody looks (`check=none`). The proxy is started, told and asked by the command an operator has.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import machine, programs, relays
from bench.fleet import Crowds, crowd
from bench.options import Options, new_report, new_setup, tell
from bench.programs import HOST, PYTHON, Failed, Program
from bench.relays import Setup
from bench.report import Goal, Report, Table, columns
from bench.spread import Spread

_WORKERS: Final = 2
_LISTS: Final = ((1, True), (100, True), (1_000, True), (1, False), (1_000, False), (10_000, False))
_QUICK_LISTS: Final = ((1, True), (100, True), (1_000, False))
_LOGINS: Final = 40
_AT_REST_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 120.0
_SHOW_GOAL: Final = 2.0
_TURNED_GOAL: Final = 15.0
_LOGIN_GOAL: Final = 40.0
_COLUMNS: Final = columns(
    "nodes | checked | serves after s | supervisor MiB | a worker MiB | at rest: supervisor's CPU | workers' CPU |"
    " a login ms | workers' CPU ms | show nodes s | a line more s | all down after s | all up after s | workers died"
)
_NOTES: Final = (
    "MiB: PSS; CPU: of one core; a login: one at a time, the client's own part is in it",
    "show nodes: the whole command, with the start of its interpreter; a line more: from writing the list until "
    "`reload` has answered and all workers know",
    "all down: from the nodes' end, the last of them found out by its checks (two refusals, two seconds apart)",
)


@dataclass(frozen=True, slots=True)
class _Found:
    """Seconds, MiB, shares of a core. ``down`` and ``up`` are ``None`` where nobody checks."""

    serves: float
    supervisor: float
    worker: float
    supervisor_cpu: float
    workers_cpu: float
    login: float
    login_cpu: float
    show: float
    reload: float
    down: float | None
    up: float | None
    died: int


def run(options: Options) -> Report:
    report = new_report("nodes", options)
    table = Table("Long lists of nodes", _COLUMNS)
    found: dict[tuple[int, bool], list[_Found]] = {}
    lists = _QUICK_LISTS if options.quick else _LISTS
    for _ in range(options.rounds_or(1, 1)):
        for count, checked in lists:
            found.setdefault((count, checked), []).append(_measure(options, count, checked=checked))
    for (count, checked), rounds in found.items():
        table.add(f"{count:,}", "yes" if checked else "no", *_cells(rounds))
        report.data.append({"nodes": count, "checked": checked, "rounds": [_json(each) for each in rounds]})
    table.notes += _NOTES
    report.tables.append(table)
    everything = [each for rounds in found.values() for each in rounds]
    turned = [max(each.down or 0.0, each.up or 0.0) for each in everything]
    report.goals += [
        Goal("workers that died", 0.0, Spread.of([float(sum(each.died for each in everything))])),
        Goal("show nodes, the longest list", _SHOW_GOAL, Spread.of([max(each.show for each in everything)]), " s"),
        Goal("all seen down, or up", _TURNED_GOAL, Spread.of([max(turned)]), " s"),
        Goal("CPU of a login", _LOGIN_GOAL, Spread.of([max(each.login_cpu for each in everything) * 1e3]), " ms"),
    ]
    return report


def _cells(rounds: list[_Found]) -> Iterator[str | None]:
    def show(of: Callable[[_Found], float | None], form: str, scale: float = 1.0) -> str | None:
        values = [value for each in rounds if (value := of(each)) is not None]
        return form.format(Spread.of(values).median * scale) if values else None

    yield show(lambda each: each.serves, "{:.1f}")
    yield show(lambda each: each.supervisor, "{:.0f}")
    yield show(lambda each: each.worker, "{:.0f}")
    yield show(lambda each: each.supervisor_cpu, "{:.1%}")
    yield show(lambda each: each.workers_cpu, "{:.1%}")
    yield show(lambda each: each.login, "{:.1f}", 1e3)
    yield show(lambda each: each.login_cpu, "{:.1f}", 1e3)
    yield show(lambda each: each.show, "{:.2f}")
    yield show(lambda each: each.reload, "{:.2f}")
    yield show(lambda each: each.down, "{:.1f}")
    yield show(lambda each: each.up, "{:.1f}")
    yield show(lambda each: each.died, "{:.0f}")


def _json(found: _Found) -> dict[str, float | None]:
    return {name: getattr(found, name) for name in found.__slots__}


def _measure(options: Options, count: int, *, checked: bool) -> _Found:
    tell(f"nodes: {count:,}, {'checked' if checked else 'not checked'}")
    with new_setup(options, tls=False, workers=_WORKERS) as setup, contextlib.ExitStack() as stack:
        port, node_port = programs.free_port(), programs.free_port()
        nodes = stack.enter_context(contextlib.ExitStack())
        nodes.enter_context(relays.node(setup, node_port))
        line = f"{HOST}:{node_port}{'' if checked else ' check=none'}\n"
        nodes_file = setup.folder.write("nodes.txt", "".join(f"n{number} {line}" for number in range(count)))
        control = setup.folder.path / "control"
        began = time.monotonic()
        command = relays.proxy_command(setup, port, nodes_file, control)
        proxy = stack.enter_context(relays.started("proxy", command, setup))
        programs.wait_for("listening", proxy, lambda: programs.accepts(port), _PATIENCE_SECONDS)
        running = _Running(setup, proxy, nodes_file, control)
        running.wait_for(lambda: running.up() == count)
        serves = time.monotonic() - began
        crowds = Crowds([stack.enter_context(crowd(setup, port, 0, 0.0))])
        used = running.workers_cpu()
        login = _login(crowds)
        login_cpu = (running.workers_cpu() - used) / _LOGINS
        supervisor, workers = running.cpu_at_rest()
        memory = running.memory()
        show = running.seconds_of("show", "nodes", "--json")
        reload = running.seconds_with_a_line_more(f"one-more {line}")
        down = up = None
        if checked:
            nodes.close()
            down = running.seconds_until(0)
            nodes.enter_context(relays.node(setup, node_port))
            up = running.seconds_until(count + 1)
        return _Found(serves, *memory, supervisor, workers, login, login_cpu, show, reload, down, up, running.died())


def _login(crowds: Crowds) -> float:
    """Seconds, one at a time."""
    began = time.monotonic()
    counted = crowds.open(_LOGINS, parallel=1)
    if counted.failed or counted.sessions != _LOGINS:
        raise Failed(f"{counted.failed} logins failed")
    return (time.monotonic() - began) / _LOGINS


class _Running:
    """The proxy, and the commands for it."""

    def __init__(self, setup: Setup, proxy: Program, nodes_file: Path, control: Path) -> None:
        self._setup = setup
        self._proxy = proxy
        self._nodes_file = nodes_file
        self._control = control

    def up(self) -> int:
        rows: list[dict[str, Any]] = json.loads(self._command("show", "nodes", "--json"))  # Any: as the proxy prints
        return sum(row["health"] == "up" for row in rows)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        programs.wait_for("the nodes", self._proxy, ready, _PATIENCE_SECONDS)

    def seconds_until(self, up: int) -> float:
        began = time.monotonic()
        self.wait_for(lambda: self.up() == up)
        return time.monotonic() - began

    def seconds_of(self, *words: str) -> float:
        began = time.monotonic()
        self._command(*words)
        return time.monotonic() - began

    def seconds_with_a_line_more(self, line: str) -> float:
        """A plan of each worker's own tells that it knows the node: it is asked behind what it is told."""
        beside = self._nodes_file.with_suffix(".new")
        beside.write_text(self._nodes_file.read_text("utf-8") + line, "utf-8")
        began = time.monotonic()
        beside.replace(self._nodes_file)
        self._command("reload")
        self._command("drain", "one-more", "--plan")
        return time.monotonic() - began

    def workers_cpu(self) -> float:
        """Seconds, up to now."""
        return sum(machine.cpu_ns(pid) for pid in self._proxy.family()[1:]) / 1e9

    def cpu_at_rest(self) -> tuple[float, float]:
        """Of the supervisor and of the workers together, as shares of a core."""
        pids = self._proxy.family()
        time.sleep(2.0)  # until what the logins have left is done
        before, began = [machine.cpu_ns(pid) for pid in pids], time.monotonic()
        time.sleep(_AT_REST_SECONDS)
        seconds = time.monotonic() - began
        first, *others = ((machine.cpu_ns(pid) - used) / 1e9 / seconds for pid, used in zip(pids, before, strict=True))
        return first, sum(others)

    def memory(self) -> tuple[float, float]:
        """MiB of the supervisor, and of one worker."""
        first, worker, *_ = self._proxy.family()
        return machine.memory([first]).pss / 1024, machine.memory([worker]).pss / 1024

    def died(self) -> int:
        return len(re.findall(r"\bworker-died\b", self._proxy.said.read_text("utf-8", "replace")))

    def _command(self, *words: str) -> str:
        command = [PYTHON, "-m", "cxfr_proxy", *words, "--control", str(self._control)]
        with programs.on_core(self._setup.cores.load):
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=programs.ROOT)
        if done.returncode:
            raise Failed(f"cxfr-proxy {' '.join(words)}: {done.stderr.strip()[-1000:]}")
        return done.stdout
