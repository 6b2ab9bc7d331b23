"""A client's WebSocket connection as a transport: what is read and written is the RFC 6120 stream inside (RFC 7395).

So the opening, the pump and the session know nothing of WebSocket. It holds the transport beneath, plain or TLS, and a
:class:`~cxfr_proxy.xmpp.websocket.stream.WebSocketStream`, which knows the frames.

*Bytes that the socket does not take.* A frame that was begun has to go out whole before anything else, so what is left
  of it waits here, in ``_rest``. The caller is told that the bytes of the stream it was made of were not taken, as many
  of them as are left of the frame. So the caller waits for the socket as it does for any other, stops reading the other
  side, and comes with them again; by then they are in frames, and are skipped. Nothing can pile up here: there is no
  second write before the first is out, and of pongs and pings only the last ones wait.
"""

from __future__ import annotations

from cxfr_proxy.net.transport import Bytes, ReadInto, Transport, TransportFault, Verdict, Write
from cxfr_proxy.xmpp.framing.framer import Framer
from cxfr_proxy.xmpp.websocket.hot_path import HotPath
from cxfr_proxy.xmpp.websocket.stream import WebSocketStream
from cxfr_proxy.xmpp.websocket.translation import StreamContext


class _NoStreamBytes(BlockingIOError):
    """The bytes that came were of frames alone."""


class WebSocketTransport:
    """:class:`~cxfr_proxy.net.transport.Transport` over ``inner``, which is its own from now on.

    It begins behind the handshake. ``received``: what came behind that, and was read with it. ``max_message_bytes``:
    the longest message of the whole connection, ``None`` for no limit; what may be sent before a login is the lane's to
    say. ``max_depth`` counts the stream element as 1.
    """

    __slots__ = (
        "_ends",
        "_fast_in",
        "_fast_out",
        "_fault_told",
        "_inner",
        "_owed",
        "_ready",
        "_received",
        "_rest",
        "_stream",
    )

    def __init__(
        self, inner: Transport, *, received: bytes = b"", max_message_bytes: int | None, max_depth: int
    ) -> None:
        self._inner = inner
        self._stream = WebSocketStream(max_message_bytes=max_message_bytes, max_depth=max_depth)
        self._received = received
        self._ready = b""  # bytes of the stream for which there was no room
        self._fault_told = False
        self._rest = b""  # of frames, which the socket has not taken
        self._owed = 0  # bytes of the stream that are in frames, though the caller was told that they were not taken
        self._fast_in: tuple[HotPath, Framer, int] | None = None  # what the next read may do
        self._fast_out: tuple[HotPath, Framer, StreamContext] | None = None  # and the next write
        self._ends = False  # the output ends when all is out

    # --- what is asked of it beside bytes

    @property
    def is_encrypted(self) -> bool:
        return self._inner.is_encrypted

    def fileno(self) -> int:
        return self._inner.fileno()

    def version(self) -> str | None:
        return self._inner.version()

    def getsockname(self) -> object:
        return self._inner.getsockname()

    @property
    def see_other_uri(self) -> str | None:
        """Where the stream's end sends the client, if it comes from here; see :class:`WebSocketStream`."""
        return self._stream.see_other_uri

    @see_other_uri.setter
    def see_other_uri(self, uri: str | None) -> None:
        self._stream.see_other_uri = uri

    @property
    def close_code(self) -> int | None:
        """The code in the client's close frame; ``None`` where it has none, or none came."""
        return self._stream.close_code

    @property
    def close_reason(self) -> str:
        return self._stream.close_reason

    def ping(self) -> None:
        """Send a ping, behind what waits. Raises nothing, as :meth:`write_own`."""
        self._stream.ping()
        self.write_own()

    @property
    def awaits_pong(self) -> bool:
        """Whether nothing at all has come since the last ping."""
        return self._stream.awaits_pong

    # --- reading

    def read_now(self, most: int, /) -> bytes:
        stream = self._stream
        while True:
            if self._ready:
                data, self._ready = self._ready[:most], self._ready[most:]
                self._fast_in = stream.fast_in() if not self._ready and not self._received else None
                return data
            if stream.fault is not None and not self._fault_told:
                self._fault_told = True
                raise TransportFault(stream.fault.condition, stream.fault.text)
            if stream.is_over:
                return b""
            if self.wants_write:
                raise _NoStreamBytes
            raw, self._received = self._received, b""
            if not raw:
                raw = self._inner.read_now(min(most, stream.most_bytes))
                if not raw:
                    return b""
            self._take(raw)
            if not self._waits_inside() and not self._inner.pending():
                raise _NoStreamBytes

    def _take(self, raw: bytes, before: bytes = b"") -> None:
        """Have all that has come read, behind what was read of it ``before``."""
        stream = self._stream
        self._fast_in = None
        self._ready = before + stream.receive(raw)
        if stream.has_own:
            self.write_own()
        if stream.is_closed:
            self._fast_out = None

    def read_into_now(self, most: int, buffer: memoryview, /) -> int:
        data = self.read_now(min(most, len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def _waits_inside(self) -> bool:
        """Return whether the next read has something to give without another byte from the socket."""
        stream = self._stream
        if self._ready or self._received or stream.is_over or self.wants_write:
            return True
        return stream.fault is not None and not self._fault_told

    def pending(self) -> int:
        return len(self._ready) or self._waits_inside() or self._inner.pending()

    # --- writing

    @property
    def wants_write(self) -> bool:
        if self._owed:
            return self._inner.wants_write  # the caller waits for the socket with what it was not rid of
        return bool(self._rest) or self._stream.has_own or self._inner.wants_write

    def write_now(self, data: Bytes, /) -> int:
        self._write_rest()
        self._rest = self._framed(data)
        self._owed = 0
        try:
            self._write_rest()
        except OSError as exc:
            if self.judge(exc, Verdict.WAIT_WRITABLE) is Verdict.OVER:
                self._rest = b""
                raise
            self._owed = min(len(data), len(self._rest))
            if self._owed == len(data):
                raise
        return len(data) - self._owed

    def _framed(self, data: Bytes) -> bytes:
        """Return the frames for what is not in frames yet, and those that are due besides."""
        fast, stream = self._fast_out, self._stream
        if fast is None or self._owed or not isinstance(data, bytes):
            frames = stream.send(bytes(memoryview(data)[self._owed :]))
        else:
            native, framer, context = fast
            frames, at, begun = native.put(framer, data, 0, context.default, context.prefixes, context.lang)
            if at == len(data):
                return frames
            frames = stream.go_on(frames, data, at, begun)
        self._fast_out = stream.fast_out()
        return frames + stream.own()

    def _write_rest(self) -> None:
        """Write what waits. Raises ``OSError`` where some of it has to wait on."""
        while self._rest:
            sent = self._inner.write_now(self._rest)
            self._rest = self._rest[sent:]

    def write_own(self) -> None:
        if self._inner.wants_write:
            self._inner.write_own()
        try:
            self._write_rest()
            self._rest = self._stream.own()
            self._write_rest()
        except OSError as exc:
            if self.judge(exc, Verdict.WAIT_WRITABLE) is not Verdict.OVER:
                return
            self._rest = b""
        if self._ends:
            self._ends = False
            self._inner.end_output()

    def end_output(self, *, silently: bool = False) -> None:
        if silently:
            self._inner.end_output(silently=True)
            return
        self._stream.end()
        self._ends = True
        self._fast_out = None
        self.write_own()

    def close(self) -> None:
        self._inner.close()

    def judge(self, exc: OSError, doing: Verdict) -> Verdict:
        if isinstance(exc, _NoStreamBytes):
            return doing
        if isinstance(exc, TransportFault):
            return Verdict.OVER
        return self._inner.judge(exc, doing)

    # --- for the switchboard, which is told None where the pump has to look, or to wait

    def native_calls(self) -> tuple[ReadInto, Write]:
        return self._read_into, self._write_some

    def _read_into(self, most: int, buffer: memoryview, /) -> int | None:
        if self._fast_in is None:
            return self._read_slowly_into(most, buffer)
        native, framer, limit = self._fast_in
        try:
            size = self._inner.read_into_now(most, buffer)
        except OSError as exc:
            return 0 if self.judge(exc, Verdict.WAIT_READABLE) is Verdict.OVER else None
        self._stream.awaits_pong = False
        elements, at, wrong, used, ended = native.take(framer, buffer[:size], 0, limit)
        if at == size and wrong is None:
            buffer[: len(elements)] = elements
            return len(elements)
        if wrong is not None:
            self._stream.take_back(wrong, used, ended=bool(ended))
        self._take(bytes(buffer[at:size]), elements)
        return None

    def _read_slowly_into(self, most: int, buffer: memoryview) -> int | None:
        if self._waits_inside():
            return None
        try:
            data = self.read_now(most)
        except TransportFault:
            self._fault_told = False
            return None
        except OSError as exc:
            return 0 if self.judge(exc, Verdict.WAIT_READABLE) is Verdict.OVER else None
        if self._waits_inside() or self._inner.pending():
            self._ready, self._fast_in = data + self._ready, None
            return None
        buffer[: len(data)] = data
        return len(data)

    def _write_some(self, data: bytes, /) -> int | None:
        try:
            return self.write_now(data)
        except OSError as exc:
            return 0 if self.judge(exc, Verdict.WAIT_WRITABLE) is Verdict.OVER else None
