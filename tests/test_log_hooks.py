"""Anything that Python writes by itself becomes one line, in a process that serves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, threading, warnings
from cxfr_proxy import events, log_hooks
events.open_log(events.LogFormat.{format}, events.LogLevel.INFO, sys.stderr)
log_hooks.install()
class Odd:
    def __del__(self):
        raise ValueError("two\\nlines")
{statement}
"""
CASES = {
    "raise ValueError('two\\nlines')": ("fault", {"task": "process"}),
    "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()": ("fault", {"task": "thread"}),
    "Odd(); 1": ("unraisable", {"error": "ValueError: two\nlines"}),
    "warnings.warn('two\\nlines')": ("log", {"source": "py.warnings"}),
    "logging.getLogger('other').error('%d', 'x')": ("log", {"source": "other", "message": "'%d' (TypeError)"}),
    "logging.getLogger('other').error('two\\nlines')": ("log", {"message": "two\nlines"}),
    "events.emit(logging.getLogger('cxfr_proxy'), 'bound', text='x' * 900, b='\\u00e9' * 900, c='\\ud800' * 900)": (
        "bound",
        {},
    ),
}


def run(statement: str, log_format: str) -> bytes:
    program = PROGRAM.format(format=log_format, statement=statement)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    return done.stderr


@pytest.mark.parametrize("log_format", ["TEXT", "JSON"])
@pytest.mark.parametrize("statement", CASES)
def test_one_event_is_one_line(statement: str, log_format: str) -> None:
    event, fields = CASES[statement]
    written = run(statement, log_format)
    assert written.endswith(b"\n")
    (line,) = written.decode().splitlines()
    assert len(line.encode()) < 4096
    if log_format == "JSON":
        logged = json.loads(line)
        assert logged["event"] == event
        assert fields.items() <= logged["fields"].items()
    else:
        assert line.split()[2] == event


def test_what_was_summed_up_is_told_at_the_end() -> None:
    written = run("for _ in range(9): events.emit(logging.getLogger('cxfr_proxy'), 'tls-failed', client='c')", "TEXT")
    assert [line.split(maxsplit=1)[1] for line in written.decode().splitlines()] == [
        *["INFO tls-failed client=c"] * 5,
        "INFO tls-failed client=c repeated=4 seconds=0",
    ]


def test_a_log_that_is_closed() -> None:
    program = PROGRAM.format(format="TEXT", statement="events.emit(logging.getLogger('cxfr_proxy'), 'x')")
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(shell, check=False, capture_output=True).returncode == 0
