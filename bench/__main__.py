"""``python -m bench NAME [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench import machine
from bench.options import Options, tell
from bench.programs import Failed, Missing
from bench.report import RESULTS, Report, goals_table

NAMES: Final = (
    "framing",
    "placement",
    "relay",
    "websocket",
    "idle",
    "connect",
    "admission",
    "sockets",
    "drain",
    "upgrade",
    "nodes",
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    machine.raise_descriptor_limit()
    options = Options(
        quick=arguments.quick,
        engine=arguments.engine,
        proxy_options=tuple(arguments.proxy_option),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        sessions=arguments.sessions,
        workers=arguments.workers,
        rate=arguments.rate,
        tls=arguments.tls,
    )
    reports, faults = [], 0
    for name in NAMES if arguments.name == "all" else (arguments.name,):
        start = time.monotonic()
        try:
            report = _run(name)(options)
        except (Failed, Missing) as exc:
            print(f"bench {name}: {exc}", file=sys.stderr)
            faults += 1
            continue
        reports.append(report)
        print(report, flush=True)
        for path in report.save(arguments.results):
            tell(str(path))
        tell(f"{name} took {time.monotonic() - start:.0f} s")
        gc.collect()
    if len(reports) > 1:
        goals = [
            dataclasses.replace(goal, what=f"{report.name}: {goal.what}") for report in reports for goal in report.goals
        ]
        table = goals_table("All goals", goals)
        print(table)
        (arguments.results / ("goals-quick.md" if options.quick else "goals.md")).write_text(f"{table}", "utf-8")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([report.to_json() for report in reports]) + "\n", "utf-8")
    return 1 if faults else 0


def _run(name: str) -> Callable[[Options], Report]:
    run: Callable[[Options], Report] = importlib.import_module(f"bench.benches.{name}").run
    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the proxy beside HAProxy, nginx and a bare relay.",
        epilog="\n".join(f"{name:9}  {_first_line(name)}" for name in NAMES) + "\n\nbench/README.md tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*NAMES, "all"], metavar="NAME", help="one of those below, or all")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: for finding bugs, not for quoting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help="for JSON and plots (default: bench/results)"
    )
    parser.add_argument("--engine", default="native", choices=("native", "python"), help="the proxy's framer")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds, instead of each bench's own number")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long one measurement takes")
    parser.add_argument(
        "--sessions", type=int, metavar="N", help="idle, connect, sockets, drain: how many sessions; placement: users"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="the proxy's workers, instead of each bench's own number"
    )
    parser.add_argument("--rate", type=float, metavar="N", help="sockets, drain: clients moved in a second")
    parser.add_argument("--tls", action="store_true", help="sockets, drain: clients on TLS")
    parser.add_argument(
        "--proxy-option", action="append", default=[], metavar="OPTION", help="for the proxy, as --proxy-option=--x=y"
    )
    return parser


def _first_line(name: str) -> str:
    return (importlib.import_module(f"bench.benches.{name}").__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
