"""The native engines, built with sanitizers, through their tests and some thousand inputs of their fuzzers.

``framing_fuzz.py``, ``websocket_fuzz.py`` and ``relay_fuzz.py`` beside this file are what runs; a long run is started
by hand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.mark.parametrize(
    ("fuzzer", "arguments"),
    [
        pytest.param("framing_fuzz.py", ["--tests"], id="framing tests"),
        pytest.param("framing_fuzz.py", ["--inputs", "4000", "--seed", "1"], id="framing"),
        pytest.param("framing_fuzz.py", ["--inputs", "2000", "--seed", "2", "--flags=-DPLAIN_C"], id="no vectors"),
        pytest.param("websocket_fuzz.py", ["--inputs", "3000", "--seed", "1"], id="websocket"),
        pytest.param("proxy_header_fuzz.py", ["--inputs", "20000", "--seed", "1"], id="PROXY headers"),
        pytest.param("relay_fuzz.py", ["--tests"], id="relay tests"),
        pytest.param("relay_fuzz.py", ["--stories", "2000", "--seed", "1"], id="relay"),
        pytest.param("relay_fuzz.py", ["--stories", "1000", "--seed", "1", "--websocket"], id="relay, WebSocket"),
    ],
)
def test_no_fault_and_no_difference(fuzzer: str, arguments: list[str]) -> None:
    script = str(Path(__file__).with_name(fuzzer))
    run = subprocess.run(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if "cannot find" in run.stdout and "asan" in run.stdout:
        reason = "the compiler has no sanitizers here"
        if os.environ.get("CXFR_REQUIRE_REAL"):
            pytest.fail(reason)
        pytest.skip(reason)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "passed" in run.stdout or " 0 differences" in run.stdout, run.stdout[-4000:]
