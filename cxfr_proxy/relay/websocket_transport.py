"""A client's WebSocket connection as a transport: what is read and written is the RFC 6120 stream inside (RFC 7395).

So the opening, the pump and the session know nothing of WebSocket. It holds the transport beneath, plain or TLS, and a
:class:`~cxfr_proxy.xmpp.websocket.stream.WebSocketStream`, which knows the frames.

*Bytes that the socket does not take.* A frame that was begun has to go out whole before anything else, so what is left
  of it waits here, in ``_rest``. The caller is told that the bytes of the stream it was made of were not taken, as many
  of them as are left of the frame. So the caller waits for the socket as it does for any other, stops reading the other
  side, and comes with them again; by then they are in frames, and are skipped. Nothing can pile up here: there is no
  second write before the first is out, and of pongs and pings only the last ones wait.

*The switchboard* reads and writes the socket beneath by itself, and takes frames off and puts them on, while nothing
  unusual is under way: no message that has begun, nothing that waits. It is told so after everything that happens here
  (:meth:`WebSocketTransport._show`), and hands over what it can't do (:meth:`WebSocketTransport.take_on`,
  :meth:`WebSocketTransport.put_on`).
"""

from __future__ import annotations

from cxfr_proxy.net.transport import Bytes, ReadInto, Transport, TransportFault, Verdict, Write
from cxfr_proxy.xmpp.websocket.hot_path import NativeFrames
from cxfr_proxy.xmpp.websocket.stream import WebSocketStream


class _NoStreamBytes(BlockingIOError):
    """The bytes that came were of frames alone."""


class WebSocketTransport(NativeFrames):
    """:class:`~cxfr_proxy.net.transport.Transport` over ``inner``, which is its own from now on.

    It begins behind the handshake. ``received``: what came behind that, and was read with it. ``max_message_bytes``:
    the longest message of the whole connection, ``None`` for no limit; what may be sent before a login is the lane's to
    say. ``max_depth`` is the client's, and counts the stream element as 1.
    """

    __slots__ = (
        "_ends",
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
        self.heard = False
        self._ready = b""  # bytes of the stream for which there was no room
        self._fault_told = False
        self._rest = b""  # of frames, which the socket has not taken
        self._owed = 0  # bytes of the stream that are in frames, though the caller was told that they were not taken
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
        self.heard = False
        self.write_own()

    @property
    def awaits_pong(self) -> bool:
        """Whether nothing at all has come since the last ping."""
        return self._stream.awaits_pong and not self.heard

    # --- reading

    def read_now(self, most: int, /) -> bytes:
        try:
            return self._read(most)
        finally:
            self._show()

    def _read(self, most: int) -> bytes:
        stream = self._stream
        while True:
            if self._ready:
                data, self._ready = self._ready[:most], self._ready[most:]
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

    def _take(self, raw: bytes) -> None:
        """Have all that has come read."""
        self._ready += self._stream.receive(raw)
        if self._stream.has_own:
            self.write_own()

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
        unframed = bytes(memoryview(data)[self._owed :]) if self._owed else bytes(data)
        return self._send(self._stream.send(unframed), len(data))

    def _send(self, frames: bytes, size: int) -> int:
        """Write the frames of so many bytes of the stream, and return how many of them the caller is rid of."""
        self._rest, self._owed = frames + self._stream.own(), 0
        try:
            self._write_rest()
        except OSError as exc:
            if self.judge(exc, Verdict.WAIT_WRITABLE) is Verdict.OVER:
                self._rest = b""
                raise
            self._owed = min(size, len(self._rest))
            if self._owed == size:
                raise
        finally:
            self._show()
        return size - self._owed

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
        finally:
            self._show()
        if self._ends:
            self._ends = False
            self._inner.end_output()

    def end_output(self, *, silently: bool = False) -> None:
        if silently:
            self._inner.end_output(silently=True)
            return
        self._stream.end()
        self._ends = True
        self.write_own()

    def close(self) -> None:
        self._inner.close()

    def judge(self, exc: OSError, doing: Verdict) -> Verdict:
        if isinstance(exc, _NoStreamBytes):
            return doing
        if isinstance(exc, TransportFault):
            return Verdict.OVER
        return self._inner.judge(exc, doing)

    # --- with the switchboard

    @property
    def native_read(self) -> ReadInto | None:
        return self._inner.native_read

    @property
    def native_write(self) -> Write | None:
        return self._inner.native_write

    def _show(self) -> None:
        """Tell the switchboard what it may do by itself until something happens here again."""
        stream = self._stream
        nothing_waits = not self._rest and not self._owed
        self.let_read(stream.fast_in() if nothing_waits and not self._waits_inside() else None, stream.limit)
        self.let_write(*((stream.fast_out() if nothing_waits else None) or (None, None)))

    def take_on(self, elements: bytes, raw: bytes, wrong: bytes | None, used: int, ended: int, /) -> None:
        """Take over what the switchboard has read and can't go on with: the next read gives it.

        ``elements`` were taken out of their frames; ``raw`` was not yet. ``wrong``: a message between the two that is
        no element, as :meth:`HotPath.take` has it with what follows.
        """
        self._ready = elements
        if wrong is not None:
            self._stream.take_back(wrong, used, ended=bool(ended))
        self._take(raw)
        self._show()

    def put_on(self, frames: bytes, data: bytes, at: int, begun: int, /) -> int | None:
        """Write ``data``, of which the switchboard has put ``data[:at]`` into frames, and read ``begun`` bytes more.

        ``frames``: those that are not out. Returns how many bytes were taken, as :data:`Write` does.
        """
        try:
            if not frames and not at and not begun:
                return self.write_now(data)
            return self._send(self._stream.go_on(frames, data, at, begun), len(data))
        except OSError as exc:
            return 0 if self.judge(exc, Verdict.WAIT_WRITABLE) is Verdict.OVER else None
