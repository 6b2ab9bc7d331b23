"""JavaScript clients: the libraries from npm, each in a Node process of its own, with ``cxfr.js``.

The libraries are named, with their hashes, in ``tests/js/package-lock.json``, and are installed once into pytest's
cache. Where Node or npm is missing, or npm reaches no registry, the tests are skipped with that reason; with
CXFR_REQUIRE_REAL=1 they fail.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from waiting import until

import cxfr_proxy.plugins
from real import programs
from real.programs import DOMAIN, PASSWORD, Need, require

MODULE: Final = Path(cxfr_proxy.plugins.__file__).parent / "js" / "cxfr.js"
_SOURCES: Final = Path(__file__).resolve().parents[1] / "js"
_DRIVERS: Final = ("package.json", "package-lock.json", "drive.mjs", "judge.mjs")
_INSTALL_SECONDS: Final = 180.0

Event = dict[str, Any]  # Any: a JSON object of drive.mjs


class Js(StrEnum):
    XMPPJS = "xmppjs"
    STROPHE = "strophe"
    STANZA = "stanza"


def install(cache: pytest.Cache) -> Path:
    """The folder of the drivers, with all libraries beside them. Skips or fails the test where that can't be.

    Processes that run tests at once share it: one installs, and no driver is written while another one starts it.
    """
    require(Need.NODE, Need.NPM)
    sources = {name: (_SOURCES / name).read_bytes() for name in _DRIVERS}
    folder = cache.mkdir("js-" + hashlib.sha256(b"".join(sources.values())).hexdigest()[:16])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            _install(folder, sources)
    return folder


def _install(folder: Path, sources: Mapping[str, bytes]) -> None:
    for name, content in sources.items():
        (folder / name).write_bytes(content)
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        programs.missing(f"npm ci failed: {done.stderr[-500:]}")
    (folder / "installed").touch()


class JsClient:
    """One client. ``events`` is everything it said; see ``drive.mjs``."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self.events: list[Event] = []
        self._process = process
        self._log = log
        self._ended = False

    def of(self, event: str) -> list[Event]:
        return [each for each in self.events if each["event"] == event]

    async def wait(self, event: str, count: int = 1) -> Event:
        """The event of that name, the ``count``\\ th."""
        try:
            await until(lambda: len(self.of(event)) >= count or self._ended, f"{count} x {event}")
            return self.of(event)[count - 1]
        except (AssertionError, IndexError) as exc:
            raise AssertionError(f"{exc}: {event}\n{self.events}\n{programs.tail(self._log)}") from exc

    async def _listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        assert self._process.stdout is not None
        pending = b""
        async for data in self._process.stdout:
            *lines, pending = (pending + data).split(b"\n")
            self.events += [json.loads(line) for line in lines if line.startswith(b"{")]
        self._ended = True


@asynccontextmanager
async def open_js(
    library: Js,
    folder: Path,
    log: Path,
    *,
    service: str,
    user: str,
    ca: Path,
    domain: str = DOMAIN,
    delay: float = 0.0,
    parting: int = 0,
    options: Mapping[str, object] | None = None,
    plugin: bool = True,
    drops: int = 0,
) -> AsyncIterator[JsClient]:
    """Start a client. ``ca`` is trusted beside what Node trusts; ``delay``, ``parting``, ``options``, ``plugin`` and
    ``drops`` are as in ``drive.mjs``. It is ended by its id."""
    config = {
        "module": MODULE.as_uri(),
        "library": library,
        "service": service,
        "domain": domain,
        "username": user,
        "password": PASSWORD,
        "resource": "r",
        "delay": delay * 1000,
        "parting": parting,
        "plugin": plugin,
        "drops": drops,
        "options": dict(options or {}),
    }
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            ["node", str(folder / "drive.mjs"), json.dumps(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=folder,
            env={**os.environ, "NODE_EXTRA_CA_CERTS": str(ca)},
        )
    client = JsClient(process, log)
    try:
        async with programs.background(client._listen):
            yield client
    finally:
        await programs.end(process, seconds=2.0)
        if process.stdout is not None:
            with trio.CancelScope(shield=True):  # closing a pipe does not block
                await process.stdout.aclose()
