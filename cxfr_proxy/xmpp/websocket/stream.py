"""Both directions of a client's WebSocket connection: raw bytes in and out, and an RFC 6120 stream in between.

Frames of the proxy's own, pongs and the closing frame, are not mixed into what :meth:`send` returns: the writer knows
when a frame has gone out whole, and asks for them then (:meth:`WebSocketStream.own`).

Two kinds of fault:

* a broken frame (RFC 6455) fails the connection. The close frame says why, and all that is sent afterwards is dropped;
* a message that is no element (RFC 7395) is a fault of the stream. It is answered as any other: by a stream error and
  the stream's end, which go out as messages.

Either is found in :attr:`WebSocketStream.fault`. Nothing is read behind the first kind, and behind the second only the
close frame means anything.
"""

from __future__ import annotations

from typing import Final

from cxfr_proxy.errors import ClientError
from cxfr_proxy.xmpp.framing.framer import Framer
from cxfr_proxy.xmpp.websocket.frames import CloseCode, FrameFault, Opcode, close_frame, frame
from cxfr_proxy.xmpp.websocket.messages import MessageReader
from cxfr_proxy.xmpp.websocket.reader import FrameReader
from cxfr_proxy.xmpp.websocket.translation import StreamContext
from cxfr_proxy.xmpp.websocket.writer import MessageWriter

FAST_BYTES: Final = 65_536
SLOW_BYTES: Final = 4_096
"""In Python a frame costs some microseconds, and may be as short as six bytes."""


class WebSocketStream:
    """See the module. ``max_message_bytes``: ``None`` is no limit. ``max_depth`` is the client's, and counts the stream
    element as 1."""

    __slots__ = ("_close_due", "_closed", "_messages", "_ping_due", "_reader", "_unreadable", "_writer", "awaits_pong")

    def __init__(self, *, max_message_bytes: int | None, max_depth: int) -> None:
        self._messages = MessageReader(max_depth=max_depth)
        self._reader = FrameReader(self._messages, max_message_bytes=max_message_bytes)
        self._writer = MessageWriter()
        self._ping_due = False
        self.awaits_pong = False
        """Nothing at all has come since the last ping."""
        self._close_due: bytes | None = None
        self._closed = False  # our close frame is out, or due
        self._unreadable: FrameFault | None = None

    # --- in

    @property
    def most_bytes(self) -> int:
        """How much to give to :meth:`receive` at once, so that it does not take long."""
        return FAST_BYTES if self._messages.hot_path is not None else SLOW_BYTES

    def receive(self, data: bytes) -> bytes:
        """Read what has come in, and return what it comes to. Raises nothing: see :attr:`fault`."""
        if self._unreadable is not None or self.is_over:
            return b""
        self.awaits_pong = False
        ready: list[bytes] = []
        try:
            self._reader.receive(data, ready)
        except FrameFault as fault:
            self._unreadable = fault
            self._close(fault.code)
        if self._reader.closed:
            self._close(self._reader.close_code)
        return b"".join(ready)

    def fast_in(self) -> Framer | None:
        """Return what :meth:`HotPath.take` may read the next messages with, if they are plain elements; ``None``: only
        :meth:`receive` does. That holds until :meth:`receive` or :meth:`take_back` is called."""
        if self._unreadable is not None or self.is_over or not self._messages.is_plain:
            return None
        return self._messages.hot_path if self._reader.is_between_messages else None

    @property
    def limit(self) -> int:
        """Bytes of the longest message that may come, as :meth:`HotPath.take` wants it: -1 for no limit."""
        limit = self._reader.max_message_bytes
        return -1 if limit is None else limit

    def take_back(self, message: bytes, used: int, *, ended: bool) -> None:
        """Find the fault of a message that :meth:`HotPath.take` has found to be no element."""
        self._messages.refuse(message, used, ended=ended)

    @property
    def fault(self) -> ClientError | None:
        """The rule that the client has broken; what it sent before was returned. ``None``: none so far."""
        return self._messages.fault or self._unreadable

    @property
    def is_over(self) -> bool:
        """Whether the client has closed: nothing comes from it any more."""
        return self._reader.closed

    @property
    def close_code(self) -> int | None:
        """The code in the client's close frame; ``None`` where it has none, or none came."""
        return self._reader.close_code

    @property
    def close_reason(self) -> str:
        return self._reader.close_reason

    # --- out

    @property
    def see_other_uri(self) -> str | None:
        """Where the next ``<close/>`` sends the client (RFC 7395 section 3.6.1); ``None``: nowhere."""
        return self._writer.see_other_uri

    @see_other_uri.setter
    def see_other_uri(self, uri: str | None) -> None:
        self._writer.see_other_uri = uri

    def send(self, data: bytes) -> bytes:
        """Return the frames for these bytes of the stream; none once the connection was closed."""
        return self._writer.send(data) if not self._closed else b""

    def fast_out(self) -> tuple[Framer, StreamContext] | None:
        """Return what :meth:`HotPath.put` may put the next elements into frames with, if they are whole; ``None``: only
        :meth:`send` does. That holds until :meth:`send` or :meth:`go_on` is called, or the connection closed."""
        return self._writer.hot_path if not self._closed else None

    def go_on(self, ready: bytes, data: bytes, at: int, begun: int) -> bytes:
        """Return what :meth:`send` does, where :meth:`HotPath.put` has answered this for ``data``.

        ``ready`` may be what of the frames was not sent.
        """
        return self._writer.go_on(ready, data, at, begun)

    def ping(self) -> None:
        """Have the client show that it is there: :attr:`awaits_pong` until it has."""
        self._ping_due = self.awaits_pong = True

    def end(self) -> None:
        """Close the connection: its last frame is due, unless it was before."""
        self._close(CloseCode.NORMAL if self._writer.ended else CloseCode.GOING_AWAY)

    def _close(self, code: int | None) -> None:
        if not self._closed:
            self._closed = True
            self._close_due = close_frame(code)

    def own(self) -> bytes:
        """Return the frames that are due beside the stream. They go out behind a frame that is whole, and in full."""
        pings, self._reader.pings = self._reader.pings, ()
        closing, self._close_due = self._close_due, None
        if closing is None and self._closed:
            return b""  # behind a close frame comes none
        frames = b"".join(frame(Opcode.PONG, payload) for payload in pings)
        if self._ping_due:
            self._ping_due = False
            frames += frame(Opcode.PING, b"")
        return frames + (closing or b"")

    @property
    def has_own(self) -> bool:
        """Whether :meth:`own` would return anything."""
        return self._close_due is not None or (not self._closed and (self._ping_due or bool(self._reader.pings)))
