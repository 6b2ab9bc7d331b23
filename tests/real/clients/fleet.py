"""Many real clients of one library, from the side of the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import trio
from waiting import PATIENCE_SECONDS

from real import programs
from real.programs import DOMAIN, HOST, PASSWORD
from real.wire import Chunk, Recording

_TESTS: Final = Path(__file__).resolve().parents[2]

Event = dict[str, Any]  # Any: a JSON object; the package's docstring names the keys


class Library(StrEnum):
    SLIXMPP = "slixmpp"
    AIOXMPP = "aioxmpp"


class Tls(StrEnum):
    STARTTLS = "starttls"
    DIRECT = "direct"
    NONE = "none"


class Fleet:
    """The clients of one process. ``events`` is everything they reported, in order; see the package's docstring."""

    def __init__(self, library: Library, process: trio.Process, log: Path) -> None:
        self.library = library
        self.log = log
        self.events: list[Event] = []
        self.jids: dict[str, str] = {}
        self._process = process
        self._changed = trio.Event()

    async def connect(
        self,
        users: Iterable[str],
        *,
        port: int,
        host: str = HOST,
        tls: Tls = Tls.STARTTLS,
        ca: Path | None = None,
        stream_management: bool = False,
        resource: str = "r",
        domain: str = DOMAIN,
        transfer: Mapping[str, object] | None = None,
    ) -> None:
        """Connect these users, and wait until all are bound. ``transfer``: as in ``driver.Login``."""
        names = list(users)
        await self._say(
            do="connect",
            users=[(name, resource) for name in names],
            domain=domain,
            password=PASSWORD,
            host=host,
            port=port,
            tls=tls,
            ca=None if ca is None else str(ca),
            stream_management=stream_management,
            transfer=transfer,
        )
        await self.wait_connected(names)

    async def send(
        self,
        plan: Mapping[str, Sequence[str]],
        *,
        tag: str,
        rate: float = 20.0,
        count: int | None = None,
    ) -> None:
        """Each user of ``plan`` sends ``rate`` messages a second to its recipients in turn.

        With a ``count`` (each), returns when they are sent; without one, at once, until :meth:`stop_sending`.
        """
        seen = len(self.events)
        await self._say(do="send", plan=list(plan.items()), rate=rate, count=count, tag=tag)
        if count is not None:
            await self.wait_event("sending_done", since=seen)

    async def stop_sending(self) -> None:
        await self._say(do="stop_sending")

    async def wire(self) -> dict[str, list[Recording]]:
        """The bytes of every connection so far, by user, in the order of opening."""
        seen = len(self.events)
        await self._say(do="wire")
        connections = (await self.wait_event("wire", since=seen))["connections"]
        return {user: [_recording(c) for c in of_user] for user, of_user in connections.items()}

    async def wait_event(self, event: str, *, since: int = 0, seconds: float = PATIENCE_SECONDS) -> Event:
        """The first event of that name at or after index ``since``."""

        def found() -> Event | None:
            return next((e for e in self.events[since:] if e["event"] == event), None)

        await self._wait(lambda: found() is not None, seconds, event)
        result = found()
        assert result is not None
        return result

    async def wait_connected(self, users: Iterable[str], *, seconds: float = PATIENCE_SECONDS) -> None:
        """Until the last state change of each was to connected."""
        names = set(users)
        await self._wait(lambda: names <= self.connected(), seconds, f"{sorted(names)} connected")

    async def wait_reconnected(self, users: Iterable[str], *, since: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Until each was connected again after event number ``since``, and is."""
        names = set(users)

        def all_back() -> bool:
            again = {e["user"] for e in self.events[since:] if e["event"] == "connected"}
            return names <= again and names <= self.connected()

        await self._wait(all_back, seconds, f"{sorted(names)} reconnected")

    def connected(self) -> set[str]:
        """The clients that are connected now."""
        state = {e["user"]: e["event"] for e in self.events if e["event"] in ("connected", "disconnected")}
        return {user for user, event in state.items() if event == "connected"}

    def of(self, event: str, *, since: int = 0) -> list[Event]:
        """All events of that name."""
        return [e for e in self.events[since:] if e["event"] == event]

    async def _wait(self, condition: Any, seconds: float, what: str) -> None:
        with trio.move_on_after(seconds):
            while not condition():
                await self._changed.wait()
            return
        recent = "\n".join(str(e) for e in self.events[-20:] if e["event"] != "wire")
        raise AssertionError(f"{self.library}: not within {seconds} s: {what}\n{recent}\n{programs.tail(self.log)}")

    async def _say(self, **command: object) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")

    async def _listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        assert self._process.stdout is not None
        pending = b""
        async for data in self._process.stdout:
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        self._take({"event": "process_ended", "user": None})

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if event["event"] == "connected":
            self.jids[event["user"]] = event["jid"]
        self._changed.set()
        self._changed = trio.Event()

    async def quit(self) -> None:
        """Have the clients close their streams. The process ends."""
        if self._process.poll() is None:
            await self._say(do="quit")
            with trio.move_on_after(3):
                await self._process.wait()


def _recording(connection: Event) -> Recording:
    up, down = (
        [Chunk(at, text.encode("latin-1")) for at, text in connection[direction]] for direction in ("up", "down")
    )
    return Recording(connection["opened"], connection["closed"], up, down)


@asynccontextmanager
async def open_fleet(library: Library, log: Path) -> AsyncIterator[Fleet]:
    """A process for clients of ``library``; ended by its id at the end. Its stderr goes to ``log``."""
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", f"real.clients.use_{library}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(_TESTS)},
        )
    fleet = Fleet(library, process, log)
    try:
        async with programs.background(fleet._listen):
            yield fleet
            await fleet.quit()
    finally:
        await programs.end(process, seconds=2.0)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with trio.CancelScope(shield=True):  # closing a pipe does not block
                    await pipe.aclose()
