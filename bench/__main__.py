"""``python -m bench NAME [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench import machine
from bench.options import Options
from bench.programs import Failed, Missing
from bench.report import Report
from cxfr_proxy.xmpp import framing

NAMES: Final = ("framing", "relay", "idle", "connect", "sockets", "drain")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    machine.raise_descriptor_limit()
    if arguments.engine not in framing.ENGINES:
        print(f"bench: no framing engine '{arguments.engine}' here", file=sys.stderr)
        return 2
    options = Options(
        quick=arguments.quick,
        engine=arguments.engine,
        proxy_options=tuple(arguments.proxy_option),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        sessions=arguments.sessions,
        workers=arguments.workers,
        tls=arguments.tls,
    )
    reports, faults = [], 0
    for name in NAMES if arguments.name == "all" else (arguments.name,):
        try:
            report = _run(name)(options)
        except (Failed, Missing) as exc:
            print(f"bench {name}: {exc}", file=sys.stderr)
            faults += 1
            continue
        reports.append(report)
        print(report, flush=True)
        for path in report.save():
            print(f"  … {path}", file=sys.stderr)
        gc.collect()
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
        epilog="\n".join(f"{name:8}  {_first_line(name)}" for name in NAMES) + "\n\nbench/README.md tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*NAMES, "all"], metavar="NAME", help="one of those below, or all")
    parser.add_argument("--quick", action="store_true", help="few and short rounds: for finding bugs, not for quoting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--engine", default=framing.ENGINE, metavar="NAME", help="the proxy's framer: native or expat")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds, instead of each bench's own number")
    parser.add_argument("--seconds", type=float, metavar="N", help="how long one measurement takes")
    parser.add_argument("--sessions", type=int, metavar="N", help="idle, connect, sockets, drain: how many sessions")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="the proxy's workers; 1 leaves it to the proxy"
    )
    parser.add_argument("--tls", action="store_true", help="sockets, drain: clients on TLS")
    parser.add_argument(
        "--proxy-option", action="append", default=[], metavar="OPTION", help="for the proxy, as --proxy-option=--x=y"
    )
    return parser


def _first_line(name: str) -> str:
    return (importlib.import_module(f"bench.benches.{name}").__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
