"""A log that goes to the journal: each line begins with its priority (sd-daemon(3))."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Final

import pytest

from cxfr_proxy.log_writer import WHOLE_BYTES

PROGRAM: Final = """
import logging, sys
from cxfr_proxy import events
log = logging.getLogger("cxfr_proxy.test")
events.open_log(events.LogFormat.TEXT, events.LogLevel.DEBUG, sys.stderr)
for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
    events.emit(log, "happened", level=level, text="<0>\\n<0>")
logging.getLogger("library").warning("one\\ntwo")
events.emit(log, "long", **{f"f{number}": "x" * 900 for number in range(9)})
events.adjust(events.LogFormat.JSON, events.LogLevel.INFO)
events.emit(log, "happened", number=1)
"""


def logged(stream: str | None) -> list[str]:
    """Return what the program writes to a pipe, with the journal's stream as given; ``None``: the pipe itself."""
    reading, writing = os.pipe()
    status = os.fstat(writing)
    journal = stream if stream is not None else f"{status.st_dev}:{status.st_ino}"
    with open(reading, encoding="utf-8") as output:
        try:
            environ = os.environ | {"JOURNAL_STREAM": journal}
            subprocess.run([sys.executable, "-c", PROGRAM], stderr=writing, env=environ, check=True, timeout=60)
        finally:
            os.close(writing)
        return output.read().splitlines()


def test_the_journal_is_told_how_severe_a_line_is() -> None:
    *text, last = logged(None)
    assert [line[:3] for line in text] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<4>", "<6>"]
    assert all("\n" not in line and line[3:].startswith("20") for line in text)
    assert len(text[-1].encode()) < WHOLE_BYTES, "a pipe takes it whole, its priority included"
    assert last.startswith("<6>{")
    assert json.loads(last[3:])["event"] == "happened"


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense"])
def test_whoever_else_reads_the_log_sees_no_priorities(stream: str) -> None:
    assert not [line for line in logged(stream) if line.startswith("<")]
