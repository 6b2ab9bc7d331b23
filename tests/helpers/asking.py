"""Ask a proxy that runs by its control socket: what the command line does, without a process for each question.

A test that is about the command line runs the command; the others have no use for the third of a second of a processor
that starting it takes.
"""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio
from waiting import PATIENCE_SECONDS

from cxfr_proxy.admin.control.client import Result, call
from cxfr_proxy.admin.rows.answers import Note


async def ask(control: Path, command: str, **arguments: object) -> Any:  # decoded JSON
    """Carry a command out and return its last answer. Raises :class:`ConfigError` where it is refused."""
    answer, _ = await _answers(control, command, arguments)
    return answer


async def show(control: Path, what: str, **arguments: object) -> Any:  # decoded JSON
    """Return what ``show WHAT --json`` prints, once no worker owes an answer: the proxy waits two seconds for each, and
    a machine may be slow to let it answer."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            answer, notes = await _answers(control, "show", {"what": what, **arguments})
            if not any("has not answered" in note for note in notes):
                return answer


async def _answers(control: Path, command: str, arguments: dict[str, object]) -> tuple[Any, list[str]]:
    """The last answer, and what was noted of it."""
    notes: list[str] = []
    async with aclosing(call(control, command, arguments, PATIENCE_SECONDS)) as answers:
        async for answer in answers:
            if isinstance(answer, Result):
                return answer.value, notes
            if isinstance(answer, Note):
                notes.append(answer.note)
    raise AssertionError("a call ends with a result or an error")
