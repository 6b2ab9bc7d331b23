"""One end of the connection between supervisor and worker.

Sending never blocks: what is posted is written by the channel's own task, in order. So whoever has something to say
can say it in the middle of handling an event. What the other end does not take is kept up to :data:`MAX_UNSENT_BYTES`;
an end that lets that much pile up does not work any more, and the channel is broken for both.

A channel that is broken says so once, by the end of :meth:`Channel.run`; what is posted afterwards is dropped, since
nobody is there to hear it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from cxfr_proxy.process.messages import BadMessage, Message, decode, encode

MAX_UNSENT_BYTES: Final = 64 << 20
"""Whoever has a lot to say lets it go out piece by piece (:meth:`Channel.flush`). So this is what comes to pass while
the other end stands still, and a worker is killed when it has done so for half a minute."""
MAX_LINE_BYTES: Final = 16 << 20
"""The longest message is a worker's counts of all its nodes: a megabyte for ten thousand. What there may be more of is
told in pieces."""
_READ_BYTES: Final = 65_536


class Lines:
    """Bytes in, messages out. A line is kept only until it is complete, and never more of it than is allowed."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Raises :class:`BadMessage`; nothing can be read afterwards."""
        begin = len(self._received)
        self._received += data
        messages: list[Message] = []
        start = 0
        while (end := self._received.find(b"\n", max(start, begin))) >= 0:
            if end - start > self._max_bytes:
                raise BadMessage("a line that is too long")
            messages.append(decode(bytes(self._received[start:end])))
            start = end + 1
        del self._received[:start]
        if len(self._received) > self._max_bytes:
            raise BadMessage("a line that is too long")
        return messages


class Channel:
    """``stream`` belongs to it from now on; ``receiver`` is called for each message, in order, and must not block."""

    def __init__(self, stream: trio.abc.Stream, receiver: Callable[[Message], None]) -> None:
        self._stream = stream
        self._receiver = receiver
        self._unsent = bytearray()
        self._something = trio.Event()
        self._writing = False
        self._emptied = trio.lowlevel.ParkingLot()
        self.broken = False

    def post(self, message: Message) -> None:
        """Say it as soon as possible."""
        if self.broken:
            return
        self._unsent += encode(message)
        self._something.set()
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self._break()

    def _break(self) -> None:
        self.broken = True
        self._unsent.clear()
        self._something.set()

    async def flush(self) -> None:
        """Wait until all that was posted is out, or nobody is there to hear it."""
        while (self._unsent or self._writing) and not self.broken:
            await self._emptied.park()

    async def run(self) -> None:
        """Until the other end has closed. Raises :class:`BadMessage` for one that speaks another language, and whatever
        ``receiver`` raises. On cancel the stream is closed."""
        fault: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                try:
                    await self._read()
                except Exception as exc:
                    fault = exc  # as it is, not in a group
                nursery.cancel_scope.cancel()
        finally:
            self._break()
            self._emptied.unpark_all()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await trio.aclose_forcefully(self._stream)
        if fault is not None:
            raise fault

    async def _read(self) -> None:
        lines = Lines()
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                for message in lines.feed(bytes(data)):
                    self._receiver(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _write(self, everything: trio.CancelScope) -> None:
        while not self.broken:
            await self._something.wait()
            self._something = trio.Event()
            data, self._unsent = self._unsent, bytearray()
            try:
                self._writing = True
                if data:
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # reading says when it is over, after what the other end has sent before
            finally:
                self._writing = False
                self._emptied.unpark_all()
        everything.cancel()
