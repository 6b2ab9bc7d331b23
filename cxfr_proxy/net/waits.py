"""How code that opens a connection waits: in a trio task, or without one.

Code that reads and writes a connection by an :class:`~.endpoint.Endpoint` says ``await``, and does not know what
carries it on. Checks and the doctor run in trio tasks (:data:`TRIO`). Clients' connections open without, and so do the
proxy's own to nodes that are to resume a session (:mod:`cxfr_proxy.relay.openings`): a task, its cancel scopes and its
turns in trio's loop cost more than they give there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

import trio

from cxfr_proxy.net.transport import Transport, Verdict

T = TypeVar("T")

_WAITS: Final = {
    Verdict.WAIT_READABLE: trio.lowlevel.wait_readable,
    Verdict.WAIT_WRITABLE: trio.lowlevel.wait_writable,
}


class Waits(Protocol):
    """Waits for one piece of code, which may be given up wherever it waits."""

    async def call(
        self, transport: Transport, operation: Callable[[], T], doing: Verdict, *, at_once: bool = False
    ) -> T:
        """Repeat the call until it does not block, and return what it returns.

        ``doing`` is what it usually waits for. Others get their turn even if it never blocks: a peer that is faster
        than we are would keep us from everybody else, and our own deadlines from us. ``at_once``: something has
        probably arrived already; for the few reads of a connection of which the caller knows that. Raises the call's
        ``OSError`` where to wait would be in vain.
        """
        ...

    def ready(self, transport: Transport, verdict: Verdict) -> Awaitable[None]:
        """Wait until the socket can be read, or written."""
        ...

    async def check(self) -> None:
        """Wait for nothing, but give up here if that was asked for."""
        ...

    def goes_on(self, before: Transport, after: Transport) -> None:
        """Note that ``after`` has taken over the descriptor of ``before``, which was not closed in between."""
        ...

    def time_limit(self, seconds: float) -> AbstractContextManager[object]:
        """Raise ``trio.TooSlowError`` if the block takes longer."""
        ...

    async def in_trio(self, serve: Callable[[], Awaitable[T]]) -> T:
        """Return what ``serve`` returns, or raise what it raises, where it needs a trio task."""
        ...


class _TrioWaits:
    """Waits in the running task."""

    async def call(
        self, transport: Transport, operation: Callable[[], T], doing: Verdict, *, at_once: bool = False
    ) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            try:
                result = operation()
                break
            except OSError as exc:
                verdict = transport.judge(exc, doing)
                if verdict is Verdict.OVER:
                    raise
            await self.ready(transport, verdict)
            if transport.wants_write:
                transport.write_own()
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    async def ready(self, transport: Transport, verdict: Verdict) -> None:
        await _WAITS[verdict](transport)

    async def check(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    def goes_on(self, before: Transport, after: Transport) -> None:
        pass

    def time_limit(self, seconds: float) -> AbstractContextManager[object]:
        return trio.fail_after(seconds)

    async def in_trio(self, serve: Callable[[], Awaitable[T]]) -> T:
        return await serve()


TRIO: Final[Waits] = _TrioWaits()
