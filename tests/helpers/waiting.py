"""Wait for what happens elsewhere, for as long as it takes."""

from __future__ import annotations

from collections.abc import Callable

import trio

PATIENCE_SECONDS = 120.0
"""Only a test that fails waits for so long: on a machine that is very busy a proxy takes a minute to start."""


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the sockets work until it holds."""
    with trio.move_on_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens beyond sockets, in no task of ours
            await trio.sleep(0.005)
        return
    raise AssertionError(f"did not happen: {what}")


def patient_line(line: str) -> str:
    """Return a node's line with which checks that were answered too late never take the node out, unless the line says
    how often they look: a busy machine is slow as a whole."""
    return line if "inter=" in line or "check=none" in line else f"{line} fall=1000"
