"""Wait for what happens elsewhere, for as long as it takes."""

from __future__ import annotations

from collections.abc import Callable

import trio

PATIENCE_SECONDS = 60.0
"""Only a test that fails waits for so long: the machine may be slow, and busy."""


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the sockets work until it holds."""
    with trio.move_on_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens beyond sockets, in no task of ours
            await trio.sleep(0.005)
        return
    raise AssertionError(f"did not happen: {what}")
