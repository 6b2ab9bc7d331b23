"""The systemd units: systemd itself has nothing to say against them, and the command line finds what they set up."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from cxfr_proxy.config.control_places import control_places
from cxfr_proxy.config.table import Config
from cxfr_proxy.supervisor.workers.worker_slots import PATIENCE_SECONDS

UNITS: Final = Path(__file__).parents[1] / "packaging" / "systemd"
SERVICE: Final = (UNITS / "cxfr-proxy.service").read_text("utf-8")
MOST_EXPOSED: Final = 2.0
"""Of 10, as systemd-analyze counts what a service could do to its machine."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60)


def systemd_version() -> int:
    return int(analyze("--version").stdout.split()[1])


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as this machine's systemd and programs allow: as the service's first line says, and with a program that
    is there."""
    text = SERVICE.replace("ExecStart=/usr/bin/cxfr-proxy", "ExecStart=/bin/true")
    if systemd_version() < 253:
        text = text.replace("Type=notify-reload\n", "Type=notify\nExecReload=/bin/true reload\n")
    (tmp_path / "cxfr-proxy.service").write_text(text)
    shutil.copy(UNITS / "cxfr-proxy.socket", tmp_path)
    drop_ins = tmp_path / "cxfr-proxy.service.d"
    drop_ins.mkdir()
    shutil.copy(UNITS / "credentials.conf", drop_ins)
    return tmp_path


@needs_systemd
def test_systemd_has_nothing_to_say(units: Path) -> None:
    for name in ("cxfr-proxy.service", "cxfr-proxy.socket"):
        done = analyze("verify", "--man=no", str(units / name))
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_service_can_do_little_to_its_machine(units: Path) -> None:
    done = analyze(
        "security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:g}", str(units / "cxfr-proxy.service")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (found := re.search(r"exposure level for cxfr-proxy\.service: ([0-9.]+)", done.stdout))
    assert 0.0 < float(found[1]) <= MOST_EXPOSED


def value(name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", SERVICE, re.MULTILINE)
    return str(found)


def test_commands_find_the_services_control_socket(tmp_path: Path) -> None:
    directory = f"/run/{value('RuntimeDirectory')}"
    (places, *_) = control_places({"RUNTIME_DIRECTORY": directory}, 998, tmp_path)
    assert places in control_places({}, 0, tmp_path), "by root, who has no such variable"


def test_a_stop_has_the_time_that_it_takes_by_default() -> None:
    """More than that is asked for while the proxy stops."""
    assert float(value("TimeoutStopSec")) > Config().timeouts.hard_stop_after + PATIENCE_SECONDS


def test_a_proxy_that_was_upgraded_is_stopped_and_started_as_before() -> None:
    """Its main process was started by the one before, so systemd takes it for somebody else's child. With
    ``KillMode=mixed`` it would not wait for its end, but kill all at once; and it may not see why it ended."""
    assert value("KillMode") == "control-group"
    assert value("Restart") == "always"
