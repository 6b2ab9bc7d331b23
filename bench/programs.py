"""Processes: started pinned to a core, with their words kept, stopped by their id; and what they need to start."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

from bench import machine
from cxfr_proxy.net.tls import self_signed

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parent.parent
NATIVE: Final = Path(__file__).parent / "native"
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0


class Missing(Exception):
    """A program this machine does not have. Benches that need it are left out; the text says what and why."""


class Failed(Exception):
    """A program that is there did not do what it should. The text has what it said last."""


class Folder:
    """A temporary folder for sockets, configurations and what programs say; gone at the end."""

    def __init__(self) -> None:
        self._held = tempfile.TemporaryDirectory(prefix="bench-")
        self.path = Path(self._held.name)

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.write_text(text, "utf-8")
        return path

    def close(self) -> None:
        self._held.cleanup()


class Program:
    """A running process. ``said`` is the file of its stderr."""

    def __init__(self, name: str, process: subprocess.Popen[str], said: Path) -> None:
        self.name = name
        self.process = process
        self.said = said

    @property
    def pid(self) -> int:
        return self.process.pid

    def family(self) -> list[int]:
        return machine.family(self.pid)

    def cpu_ns(self) -> int:
        """Of it and all it has started."""
        return sum(machine.cpu_ns(pid) for pid in self.family())

    def read_line(self) -> str:
        """The next line of its stdout. Raises :class:`Failed` when there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name} has ended: {self.last_words()}")
        return line

    def write_line(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as exc:
            raise Failed(f"{self.name} has ended: {self.last_words()}") from exc

    def last_words(self) -> str:
        return self.said.read_text("utf-8", "replace")[-2000:].strip() or "it said nothing"

    def stop(self) -> None:
        """TERM, and KILL for what does not listen."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def started(
    name: str,
    command: Sequence[str | Path],
    folder: Folder,
    *,
    cores: Collection[int],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Run ``command`` on these cores until the block ends. ``environment`` is added to this process's own."""
    said = folder.path / f"{name}.{time.monotonic_ns()}.stderr"
    with said.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            # Nothing else runs in this process, so there is no lock that a fork could leave held.
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )
    program = Program(name, process, said)
    try:
        yield program
    finally:
        program.stop()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process, and what it starts meanwhile, on that core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_for(what: str, program: Program, ready: Callable[[], bool], seconds: float = _START_SECONDS) -> None:
    """Until ``ready()``. Raises :class:`Failed` if the program ends, or takes too long."""
    limit = time.monotonic() + seconds
    while not ready():
        if program.process.poll() is not None:
            raise Failed(f"{program.name} ended before {what}: {program.last_words()}")
        if time.monotonic() > limit:
            raise Failed(f"{program.name}: waited {seconds:.0f} s for {what}: {program.last_words()}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
        return True
    return False


def free_port() -> int:
    """A port nobody listens on now, below those that outgoing connections are given."""
    below = machine.local_ports().start
    for _ in range(1000):
        port = 10_000 + int.from_bytes(os.urandom(2)) % max(1, below - 10_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind((HOST, port))
            return port
    raise Failed("no free port found")


# --- programs in C


@cache
def compiled(name: str) -> Path:
    """``native/NAME.c`` as a program. Raises :class:`Missing`."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing(f"no C compiler: bench/native/{name}.c can't be built (Debian: gcc)")
    target = _build_folder() / name
    libraries = ["-lssl", "-lcrypto"] if name == "load" else []
    done = subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-o", target, NATIVE / f"{name}.c", *libraries],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"bench/native/{name}.c does not compile (Debian: gcc, libssl-dev): {done.stderr.strip()[-500:]}")
    return target


@cache
def _build_folder() -> Path:
    """Kept until this process ends, when what is cached with it goes as well."""
    _kept.append(Folder())
    return _kept[-1].path


_kept: Final[list[Folder]] = []


# --- a certificate


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files. ``both`` holds certificate and key, as HAProxy wants them."""

    certificate: Path
    key: Path
    both: Path


def new_certificate(folder: Folder) -> Certificate:
    """Self-signed, for localhost, ECDSA P-256: what most servers use today."""
    certificate, secret = (pem.decode() for pem in self_signed(("localhost",)))
    return Certificate(
        folder.write("localhost.crt", certificate),
        folder.write("localhost.key", secret),
        folder.write("localhost.pem", certificate + secret),
    )


PYTHON: Final = sys.executable
