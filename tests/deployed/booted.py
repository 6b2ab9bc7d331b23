"""A systemd of a Debian root as process 1 of namespaces of its own.

Needs root, and a kernel with overlayfs and cgroups of version 2, beside which those of version 1 may be.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BOOT: Final = Path(__file__).with_name("boot")
_NAMESPACES: Final = ("pid", "mount", "uts", "ipc", "net", "cgroup")
_CLONE_NEWNET: Final = 0x40000000
_PATIENCE_SECONDS: Final = 60.0


class Machine:
    """``pid`` is its process 1, as seen from here; ``root`` its files."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def line(self, *words: str) -> list[str]:
        """Return what to run for that command to run inside."""
        within = [f"--{name}" for name in _NAMESPACES if name != "cgroup"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        return ["nsenter", f"--target={self.pid}", *within, "--root", "--wdns=/", *clean, *words]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.line(*words), capture_output=True, text=True, check=False, timeout=300)

    def run(self, *words: str) -> str:
        """Return what the command prints. Raises ``AssertionError`` where it fails."""
        done = self.call(*words)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def put(self, path: str, content: bytes) -> None:
        """Write a file there."""
        (self.root / path.lstrip("/")).write_bytes(content)

    def property(self, name: str) -> str:
        """Return what systemd says of the service."""
        return self.run("systemctl", "show", "--value", f"--property={name}", "cxfr-proxy").strip()

    def enter_network(self) -> None:
        """Have this process in the machine's network from now on."""
        with open(f"/proc/{self.pid}/ns/net", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def booted(root: Path, folder: Path) -> Iterator[Machine]:
    """Boot it, within the block. ``folder`` is on a disk: an overlay can't lie on another one."""
    group = _cgroups() / f"deployed-{os.getpid()}"
    group.mkdir()
    with (folder / "console").open("wb") as console:
        unshare = ["unshare", "--fork", "--kill-child", "--propagation=private", *(f"--{name}" for name in _NAMESPACES)]
        into_group = ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh"]
        process = subprocess.Popen(
            [*into_group, *unshare, str(_BOOT), str(root), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        try:
            machine = Machine(_first_process(process, folder / "console"))
            _wait_booted(machine)
            yield machine
        finally:
            process.kill()  # the kernel ends all that runs inside
            process.wait()
            _remove(group)


def _cgroups() -> Path:
    (found, *_) = [
        Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"
    ]
    return found


def _first_process(process: subprocess.Popen[bytes], console: Path) -> int:
    """Return the number of systemd's process once it is that."""
    limit = time.monotonic() + _PATIENCE_SECONDS
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and time.monotonic() < limit:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
        time.sleep(0.05)
    raise RuntimeError(f"systemd did not start:\n{console.read_text(errors='replace')}")


def _wait_booted(machine: Machine) -> None:
    limit = time.monotonic() + _PATIENCE_SECONDS
    # "degraded" will do: a minimal root has units that fail in namespaces.
    while machine.call("systemctl", "is-system-running").stdout.strip() not in ("running", "degraded"):
        assert time.monotonic() < limit, "systemd does not come up"
        time.sleep(0.2)


def _remove(group: Path) -> None:
    """Remove what systemd has made there, too, once the last process has gone."""
    limit = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
        except OSError as exc:
            if exc.errno != errno.EBUSY or time.monotonic() > limit:
                raise
            time.sleep(0.1)
        else:
            return
