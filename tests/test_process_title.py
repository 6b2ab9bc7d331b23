"""The names under which processes are listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from needs import needs_proc

from cxfr_proxy import process_title
from cxfr_proxy.process_title import name_process


@needs_proc
def test_the_kernel_is_told() -> None:
    script = (
        "from cxfr_proxy.process_title import name_process; name_process('cxfr-worker-12'); "
        "print(open('/proc/self/comm').read())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cxfr-worker-12"


def test_the_command_line_is_changed_where_that_is_possible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_title, "_OWN_NAME", tmp_path / "no" / "comm")
    titles: list[str] = []
    module = ModuleType("setproctitle")
    vars(module)["setproctitle"] = titles.append
    monkeypatch.setitem(sys.modules, "setproctitle", module)
    name_process("cxfr-worker-1", "cxfr-proxy: worker 1")
    name_process("cxfr-proxy")
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    name_process("cxfr-worker-1", "cxfr-proxy: worker 1")
    assert titles == ["cxfr-proxy: worker 1"]
