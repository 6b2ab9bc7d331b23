"""The native engine, built with sanitizers, through the framing tests and some thousand inputs of the fuzzer.

``framing_fuzz.py`` beside this file is what runs; a long run is started by hand.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

FUZZER = Path(__file__).with_name("framing_fuzz.py")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--tests"], id="framing tests"),
        pytest.param(["--inputs", "4000", "--seed", "1"], id="fuzz"),
        pytest.param(["--inputs", "2000", "--seed", "2", "--flags=-DPLAIN_C"], id="fuzz, no vectors"),
    ],
)
def test_no_fault_and_no_difference(arguments: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, str(FUZZER), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if "cannot find" in run.stdout and "asan" in run.stdout:
        pytest.skip("the compiler has no sanitizers here")
    assert run.returncode == 0, run.stdout[-4000:]
    assert "passed" in run.stdout or " 0 differences" in run.stdout, run.stdout[-4000:]
