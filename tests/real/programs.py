"""The programs under test: are they here, starting them, and ending them.

Every process is ended by its own id, SIGTERM first, and always: on success, failure and cancellation.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import pytest
import trio
from ports import free_port as free_port
from waiting import PATIENCE_SECONDS

HOST: Final = "127.0.0.1"
DOMAIN: Final = "xmpp.test"
PASSWORD: Final = "secret"

_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02


class Need(StrEnum):
    """Programs that a test can depend on and that may not be installed."""

    PROSODY = "prosody"
    EJABBERD = "ejabberdctl"
    SLIXMPP = "slixmpp"
    AIOXMPP = "aioxmpp"
    NODE = "node"
    NPM = "npm"
    ETCD = "etcd"
    FAIL2BAN = "fail2ban-regex"
    HAPROXY = "haproxy"
    NGINX = "nginx"
    GO_SENDXMPP = "go-sendxmpp"
    PROMTOOL = "promtool"
    FISH = "fish"


def which(program: str) -> str | None:
    """Where it is: in PATH, or where programs for root are."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which(program, path=path)


def require(*needs: Need) -> None:
    """Skip the test where something is not installed; see :func:`missing`."""
    absent = [
        need.value for need in needs if which(need.value) is None and importlib.util.find_spec(need.value) is None
    ]
    if absent:
        missing(f"not installed: {', '.join(absent)}")


def missing(reason: str) -> NoReturn:
    """Skip the test; fail it instead where CXFR_REQUIRE_REAL=1 (continuous integration)."""
    if os.environ.get("CXFR_REQUIRE_REAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def tail(log: Path, lines: int = 40) -> str:
    """The end of a log file, for the message of a failure."""
    if not log.exists():
        return f"(no {log.name})"
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])


async def start(
    command: Sequence[str | Path], *, output: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> trio.Process:
    """Start a program whose stdout and stderr are appended to ``output``. The caller ends it."""
    with output.open("ab") as log:
        return await trio.lowlevel.open_process(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
        )


class Background(Protocol):
    """A task that says when it has started, and then runs until it is cancelled."""

    async def __call__(self, *, task_status: trio.TaskStatus[Any]) -> None: ...


@asynccontextmanager
async def background(task: Background) -> AsyncIterator[None]:
    """Run ``task`` beside the block and cancel it afterwards.

    An exception of the block comes out as it is, not in an exception group, or every failed assertion would be buried
    in as many groups as there are programs.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(task)
        try:
            yield
        except Exception as exc:
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def wait_accepting(
    host: str, port: int, process: trio.Process, *logs: Path, seconds: float = PATIENCE_SECONDS
) -> None:
    """Wait until ``process`` accepts connections there. Raises ``AssertionError`` with the tails of its logs."""
    with trio.move_on_after(seconds):
        while process.poll() is None:
            try:
                stream = await trio.open_tcp_stream(host, port)
            except OSError:
                await trio.sleep(_POLL_SECONDS)
                continue
            await stream.aclose()
            return
    state = "still running" if process.poll() is None else f"ended with {process.returncode}"
    raise AssertionError(
        f"{process.args!r} does not accept on {host}:{port}; {state}\n" + "\n".join(tail(log) for log in logs)
    )


async def end(process: trio.Process | None, *, seconds: float = _STOP_SECONDS) -> int | None:
    """SIGTERM, then SIGKILL after ``seconds``. Its exit code; ``None`` for ``None``. Not disturbed by cancellation."""
    if process is None:
        return None
    with trio.CancelScope(shield=True):  # bounded: SIGKILL cannot be refused
        if process.poll() is None:
            process.terminate()
        with trio.move_on_after(seconds):
            await process.wait()
            return process.returncode
        process.kill()
        await process.wait()
    return process.returncode
