"""A run in which tests were not collected is none of which only those that have failed are run again (see Makefile)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BROKEN_IN = "import os\n\nassert os.environ['PYTEST_XDIST_WORKER'] not in {workers}\n\ndef test_good():\n    pass\n"


@pytest.mark.parametrize(
    ("workers", "code"),
    [((), pytest.ExitCode.TESTS_FAILED), (("gw1",), pytest.ExitCode.INTERRUPTED)],
)
def test_what_was_not_collected_is_no_failed_test(workers: tuple[str, ...], code: int, tmp_path: Path) -> None:
    """With an error in one process, no test is run in any."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    (tmp_path / "test_one.py").write_text(BROKEN_IN.format(workers=workers))
    (tmp_path / "test_other.py").write_text("def test_bad():\n    assert False\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
