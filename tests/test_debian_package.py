"""What the scripts of the Debian package do, with stand-ins for the programs that they call."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cxfr_proxy.relay import engine

SCRIPTS: Final = Path(__file__).parents[1] / "packaging" / "deb"
UPGRADE: Final = "cxfr-proxy upgrade --config /etc/cxfr-proxy/settings.toml"


class Machine:
    """Of a systemd whose service is in that state; each program that is called is noted, and returns 0, or its code
    in ``fails``."""

    def __init__(self, folder: Path, *, active: bool = False, **fails: int) -> None:
        self._folder = folder
        self._calls = folder / "calls"
        self._programs = folder / "bin"
        self._programs.mkdir()
        codes = {"systemctl": 0, "systemd-sysusers": 0, "deb-systemd-invoke": 0, "cxfr-proxy": 0, "policy-rc.d": 0}
        for name, code in (
            codes | {name.replace("_", "-").replace("rc-d", "rc.d"): code for name, code in fails.items()}
        ).items():
            program = self._programs / name
            inactive = "case $* in *is-active*) exit 3;; esac\n" if name == "systemctl" and not active else ""
            program.write_text(f'#!/bin/sh\necho "{name} $*" >>{self._calls}\n{inactive}exit {code}\n')
            program.chmod(0o755)
        self._files = {"/run/systemd/system": folder, "/usr/sbin/policy-rc.d": self._programs / "policy-rc.d"}
        self._files["/var/lib/cxfr-proxy"] = folder / "state"

    def runs(self, script: str, *words: str) -> tuple[list[str], str]:
        """Return what the script has called, and what it has to say. It succeeds."""
        text = (SCRIPTS / script).read_text("utf-8")
        for name, stand_in in self._files.items():
            text = text.replace(name, str(stand_in))
        path = {"PATH": f"{self._programs}:/usr/bin:/bin"}
        done = subprocess.run(
            ["/bin/sh", "-c", text, script, *words], env=path, capture_output=True, text=True, check=True, timeout=60
        )
        calls = self._calls.read_text("utf-8").splitlines() if self._calls.exists() else []
        return calls, done.stderr


@pytest.mark.skipif("native" not in engine.ENGINE.names, reason="the relay loop was not compiled here")
def test_the_build_takes_a_program_that_was_compiled() -> None:
    """Nothing but a build runs these lines."""
    script = (SCRIPTS / "build").read_text("utf-8")
    (lines,) = re.findall(r"<<'PYTHON'[^\n]*\n(.*?)^PYTHON$", script, re.DOTALL | re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_first_installation_starts_nothing(tmp_path: Path) -> None:
    calls, _ = Machine(tmp_path).runs("postinst", "configure", "")
    assert calls == ["systemd-sysusers cxfr-proxy.conf", "systemctl daemon-reload"]


def test_a_new_version_takes_the_place_of_one_that_runs(tmp_path: Path) -> None:
    calls, said = Machine(tmp_path, active=True).runs("postinst", "configure", "0.1.0-1")
    assert (calls[-1], said) == (UPGRADE, "")
    assert "systemctl daemon-reload" in calls


@pytest.mark.parametrize("policy", [0, 104])
def test_one_that_fails_leaves_the_old_one_and_the_package(policy: int, tmp_path: Path) -> None:
    machine = Machine(tmp_path, active=True, cxfr_proxy=1, policy_rc_d=policy)
    calls, said = machine.runs("postinst", "configure", "0.1.0-1")
    assert calls[-1] == UPGRADE
    assert "the new version may not serve yet" in said


def test_a_systemd_that_can_not_be_told_fails_no_run_of_apt(tmp_path: Path) -> None:
    calls, _ = Machine(tmp_path, active=True, systemctl=1).runs("postinst", "configure", "0.1.0-1")
    assert "systemctl daemon-reload" in calls


def test_one_that_was_stopped_stays_so(tmp_path: Path) -> None:
    calls, _ = Machine(tmp_path).runs("postinst", "configure", "0.1.0-1")
    assert UPGRADE not in calls


def test_who_makes_images_may_forbid_it(tmp_path: Path) -> None:
    calls, _ = Machine(tmp_path, active=True, policy_rc_d=101).runs("postinst", "configure", "0.1.0-1")
    assert calls[-1] == "policy-rc.d cxfr-proxy.service restart"


def test_it_is_stopped_before_its_files_go_and_not_before_they_are_replaced(tmp_path: Path) -> None:
    machine = Machine(tmp_path, active=True)
    assert machine.runs("prerm", "upgrade", "0.2.0-1") == ([], "")
    calls, _ = machine.runs("prerm", "remove")
    assert calls[0] == "deb-systemd-invoke stop cxfr-proxy.socket cxfr-proxy.service"


@pytest.mark.parametrize(("word", "stays"), [("remove", True), ("upgrade", True), ("purge", False)])
def test_a_purge_takes_what_is_kept(word: str, stays: bool, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    Machine(tmp_path).runs("postrm", word)
    assert (tmp_path / "state").exists() == stays
