"""Read the log of a proxy that runs in processes of its own.

A thread in each of its processes writes the log, so a line may come long after what it tells of, and the lines of two
processes come in any order. A look at what is there proves nothing but that it is there. Hence the interface: what has
to be in the log is waited for (:meth:`LoggingProcess.event`, :meth:`LoggingProcess.logged`), and nobody can count what
happens to be in it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import trio
from waiting import PATIENCE_SECONDS, until

Row = dict[str, Any]  # Any: decoded JSON


class LoggingProcess:
    """A proxy whose log goes to a pipe, which :meth:`read_log` has to read all the time.

    ``log`` is every line so far, decoded; what is no JSON is ``{"raw": line}``. While ``reading`` is not set, nobody
    reads it.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.log: list[Row] = []
        self.reading = trio.Event()
        self.reading.set()
        self._read_to_the_end = trio.Event()

    async def event(self, name: str, count: int = 1) -> list[Row]:
        """Wait until there are ``count`` events of that name, and return the fields of all that are there by then."""
        return await self.logged(name, lambda found: len(found) >= count)

    async def logged(self, name: str, condition: Callable[[list[Row]], object]) -> list[Row]:
        """Wait until the condition holds of the fields of all events of that name, and return them."""

        def over() -> object:
            return self._read_to_the_end.is_set() or condition(self.so_far(name))

        with contextlib.suppress(AssertionError):
            await until(over)
        found = self.so_far(name)
        assert condition(found), f"the log does not come to it: {name}: {found}"
        return found

    def silent_about(self, *names: str) -> bool:
        """Whether the log has shown no such event so far."""
        return not any(map(self.so_far, names))

    async def ended(self) -> int:
        """Wait until the process has ended, and all that it and its workers have logged is there; its exit code."""
        with trio.fail_after(PATIENCE_SECONDS):
            code = await self.process.wait()
            await self._read_to_the_end.wait()
        return code

    def so_far(self, name: str) -> list[Row]:
        """Return the fields of the events of that name that are there. For a loop that looks again."""
        return [line["fields"] for line in self.log if line.get("event") == name]

    async def read_log(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until all who write have ended."""
        task_status.started()
        assert self.process.stderr is not None
        pending = b""
        async for data in self.process.stderr:
            *lines, pending = (pending + data).split(b"\n")
            self.log += map(_decoded, lines)
            await self.reading.wait()
        if pending:
            self.log.append(_decoded(pending))
        self._read_to_the_end.set()


def _decoded(line: bytes) -> Row:
    with contextlib.suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return {"raw": line.decode("utf-8", "replace")}
