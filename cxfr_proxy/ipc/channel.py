"""One end of the channel that carries messages between the supervisor and a worker.

Posting never blocks: messages go out in order, by the channel's own task. So code can post in the middle of handling an
event, and is never called back from inside :meth:`Channel.post`.

A broken channel says so once, by the end of :meth:`Channel.run`. Later messages are dropped, since nobody is there to
take them.

There are two. :class:`StreamChannel` writes lines to another process, in a :class:`LineForm`: that of :mod:`.codec`, or
the one in which a proxy speaks with its successor. Bytes that the other end does not take are kept up to a limit; an
end that lets that much pile up does not work any more, and the channel is broken for both. :func:`in_memory` gives the
two ends of one within a process: objects, handed over as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import trio

from cxfr_proxy.ipc.messages import BadMessage, Message

_READ_BYTES: Final = 65_536

Receive = Callable[[Message], None]
"""Called with each message, in order. It must not block."""

M = TypeVar("M")


class Channel(Protocol):
    """One end of a channel."""

    broken: bool

    def post(self, message: Message) -> None:
        """Send the message as soon as possible."""

    async def flush(self) -> None:
        """Wait until everything that was posted is sent, or the channel is broken."""

    async def run(self, receive: Receive) -> None:
        """Carry messages until the other end has closed.

        Raises :class:`~.messages.BadMessage` for one that speaks another language, and whatever ``receive`` raises.
        The other end is closed when this returns, raises or is cancelled.
        """


# --- to another process


@dataclass(frozen=True, slots=True)
class LineForm(Generic[M]):
    """How messages are written as lines. ``encode`` returns a line with its end; ``decode`` takes one without it, and
    raises :class:`~.messages.BadMessage`.

    ``max_line_bytes``: the longest line that is read. ``max_unsent_bytes``: most bytes that wait for the other end.
    """

    encode: Callable[[M], bytes]
    decode: Callable[[bytes], M]
    max_line_bytes: int
    max_unsent_bytes: int


class Lines(Generic[M]):
    """Reads messages from bytes. A line is kept only until it is complete, and never more of it than is allowed."""

    def __init__(self, form: LineForm[M]) -> None:
        self._form = form
        self._received = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Return the messages that are complete now. Raises :class:`~.messages.BadMessage`; nothing can be read
        afterwards."""
        begin = len(self._received)
        self._received += data
        messages: list[M] = []
        start, longest = 0, self._form.max_line_bytes
        # From where the new bytes begin: a long line that comes in pieces is not searched again each time.
        while (end := self._received.find(b"\n", max(start, begin))) >= 0:
            if end - start > longest:
                raise BadMessage("a line that is too long")
            messages.append(self._form.decode(bytes(self._received[start:end])))
            start = end + 1
        del self._received[:start]
        if len(self._received) > longest:
            raise BadMessage("a line that is too long")
        return messages


class StreamChannel(Generic[M]):
    """A channel of messages in that ``form`` over ``stream``, which belongs to it from now on; one of the supervisor's
    and workers' messages is a :class:`Channel`."""

    def __init__(self, stream: trio.abc.Stream, form: LineForm[M]) -> None:
        self._stream = stream
        self._form = form
        self._unsent = bytearray()
        self._something = trio.Event()
        self._writing = False
        self._emptied = trio.lowlevel.ParkingLot()
        self.broken = False

    def post(self, message: M) -> None:
        if self.broken:
            return
        self._unsent += self._form.encode(message)
        self._something.set()
        if len(self._unsent) > self._form.max_unsent_bytes:
            self._break()

    @property
    def unsent_bytes(self) -> int:
        """How much waits, beside what is on its way."""
        return len(self._unsent)

    def _break(self) -> None:
        self.broken = True
        self._unsent.clear()
        self._something.set()

    async def flush(self) -> None:
        while (self._unsent or self._writing) and not self.broken:
            await self._emptied.park()

    async def run(self, receive: Callable[[M], None]) -> None:
        fault: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                try:
                    await self._read(receive)
                except Exception as exc:
                    fault = exc  # raised below, since the nursery would put it into a group
                nursery.cancel_scope.cancel()
        finally:
            self._break()
            self._emptied.unpark_all()
            # Shielded, or a cancelled channel would leave the socket open, and the other end would wait for ever.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await trio.aclose_forcefully(self._stream)
        if fault is not None:
            raise fault

    async def _read(self, receive: Callable[[M], None]) -> None:
        lines = Lines(self._form)
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                for message in lines.feed(bytes(data)):
                    receive(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other end was killed, or this one was closed: an end like any other

    async def _write(self, everything: trio.CancelScope) -> None:
        while not self.broken:
            await self._something.wait()
            self._something = trio.Event()
            data, self._unsent = self._unsent, bytearray()
            try:
                # The bytes are out of _unsent, and not sent yet: flush() must not return in between.
                self._writing = True
                if data:
                    await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # _read() ends the channel, behind what the other end has sent before
            finally:
                self._writing = False
                self._emptied.unpark_all()
        # Reached only when the channel was broken from this side; reading would wait on.
        everything.cancel()


# --- within a process


def in_memory() -> tuple[MemoryChannel, MemoryChannel]:
    """Return the two ends of one."""
    one, other = MemoryChannel(), MemoryChannel()
    one.other, other.other = other, one
    return one, other


class MemoryChannel:
    """A :class:`Channel` to ``other``, its other end. Both must know each other: see :func:`in_memory`."""

    other: MemoryChannel

    def __init__(self) -> None:
        self._arrived: deque[Message] = deque()
        self._something = trio.Event()
        self._taken = trio.lowlevel.ParkingLot()
        self.broken = False

    def post(self, message: Message) -> None:
        if not self.broken:
            self.other._arrived.append(message)
            self.other._something.set()

    async def flush(self) -> None:
        while self.other._arrived and not self.broken:
            await self.other._taken.park()

    async def run(self, receive: Receive) -> None:
        try:
            while not self.broken or self._arrived:  # messages that were posted before the other end closed still count
                await self._something.wait()
                self._something = trio.Event()
                while self._arrived:
                    receive(self._arrived.popleft())
                self._taken.unpark_all()
        finally:
            self.close()

    def close(self) -> None:
        """Close this end and the other one."""
        self._close()
        self.other._close()

    def _close(self) -> None:
        self.broken = True
        self._something.set()
        self._taken.unpark_all()
