"""A stream becomes messages: an element each, and each stands alone.

Its input is what a lane has released: whole elements, but for those that are cut through. Such an element goes out
as it comes, in fragments of one message, so that nothing here grows with it. Only a start tag that is not whole waits:
what it leaves unsaid has to be put into the first fragment.

White space between elements is dropped. It keeps a connection alive, which over WebSocket is what pings do (RFC 7395
section 3.8).
"""

from __future__ import annotations

import re
from typing import Final

from cxfr_proxy.errors import NodeError
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.framing.framer import (
    ANY_DEPTH,
    Framer,
    FramerEvent,
    StreamEnd,
    StreamFault,
    behind_header,
    behind_usual_header,
    new_framer,
)
from cxfr_proxy.xmpp.framing.tag_ends import TagEnds
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.websocket.frames import Opcode, frame
from cxfr_proxy.xmpp.websocket.hot_path import HotPath, hot_path
from cxfr_proxy.xmpp.websocket.translation import StreamContext, close, opening, standing_alone

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_BEGINS_STREAM: Final = re.compile(rb"<(?:\?|(?:[^\s/>:]+:)?stream[\s/>])")
_NAME_BEGINS: Final = re.compile(rb"<(?!\?)[^\s/>]*")
"""All there is: what follows may make another name of it."""


class MessageWriter:
    """Turns one stream after the other into frames.

    Raises :class:`NodeError` for what is no stream; whoever lets that through has made a mistake.
    """

    __slots__ = (
        "_begun",
        "_context",
        "_framer",
        "_hot_path",
        "_inside",
        "_waiting",
        "ended",
        "see_other_uri",
    )

    def __init__(self) -> None:
        self.see_other_uri: str | None = None
        """Where the next ``<close/>`` sends the client."""
        self.ended = False
        """``<close/>`` was written: nothing follows it."""
        self._framer: Framer | None = None  # None: a header comes first
        self._hot_path: HotPath | None = None
        self._context: StreamContext
        self._waiting = b""  # of something of which it is not known yet what it is, or of a header
        self._begun = b""  # of an element whose start tag is not whole
        self._inside = False  # a fragment of an element has gone out

    def send(self, data: bytes) -> bytes:
        """Return the frames that go out for these bytes of the stream."""
        if self._waiting:
            data, self._waiting = self._waiting + data, b""
        return self._send_from(data, 0, [])

    @property
    def hot_path(self) -> tuple[Framer, StreamContext] | None:
        """The arguments of :meth:`HotPath.put` for the next element, if it is whole; ``None``: it can't be put so."""
        if self._hot_path is None or self._framer is None or self._inside or self._begun or self._waiting or self.ended:
            return None
        return self._framer, self._context

    def go_on(self, ready: bytes, data: bytes, at: int, begun: int) -> bytes:
        """Return the frames for ``data``, where :meth:`HotPath.put` has answered the other three for it.

        ``ready`` may be what of them was not sent.
        """
        frames = [ready]
        return self._send_from(data, self._take_begun(data, at, begun, frames), frames)

    def _send_from(self, data: bytes, at: int, frames: list[bytes]) -> bytes:
        while at < len(data) and not self.ended:
            if self._hot_path is not None and not self._inside and not self._begun:
                before, at = at, self._put_whole(self._hot_path, data, at, frames)
                if at > before:
                    continue  # there may be more of the same
            at = self._go_on(data, at, frames)
        return b"".join(frames)

    def _go_on(self, data: bytes, at: int, frames: list[bytes]) -> int:
        """Return the offset behind what was turned into frames, or waits."""
        if self._inside or self._begun:
            return self._take_element(data, at, frames)
        space = _SPACE.match(data, at)
        assert space is not None, "it matches nothing as well"
        at = space.end()
        if at == len(data):
            return at
        if _NAME_BEGINS.fullmatch(data, at):
            self._waiting = data[at:]
            return len(data)
        if _BEGINS_STREAM.match(data, at):
            return self._take_header(data[at:], at, frames)
        return self._take_element(data, at, frames)

    def _put_whole(self, native: HotPath, data: bytes, at: int, frames: list[bytes]) -> int:
        """Put elements that are whole into frames; return the offset behind what is read."""
        framer, context = self._framer, self._context
        assert framer is not None, "the hot path goes with one"
        ready, at, begun = native.put(framer, data, at, context)
        frames.append(ready)
        return self._take_begun(data, at, begun, frames)

    def _take_begun(self, data: bytes, at: int, begun: int, frames: list[bytes]) -> int:
        """Go on behind ``begun`` bytes that the framer has read of an element that is not whole, if any."""
        if begun:
            assert self._framer is not None, "it has read them"
            if self._framer.events:
                _refuse_fault(self._framer.events.pop())
            self._begin_element(data[at : at + begun], frames, whole=False)
        return at + begun

    def _take_header(self, data: bytes, at: int, frames: list[bytes]) -> int:
        framer = behind_usual_header(data, max_element_bytes=None, max_depth=ANY_DEPTH)
        if framer is None:
            framer = new_framer(max_element_bytes=None, max_depth=ANY_DEPTH)
            used = framer.step(data)
            if not framer.events:
                self._waiting = data
                return at + len(data)
            _refuse_fault(framer.events.pop())
            framer = behind_header(framer, stanza.tag_name(data[:used]), max_depth=ANY_DEPTH)
        end = framer.boundary
        begun = opening(data[:end])
        self._framer, self._context, self._hot_path = framer, begun.context, hot_path(framer)
        frames.append(frame(Opcode.TEXT, begun.message))
        return at + end

    def _take_element(self, data: bytes, at: int, frames: list[bytes]) -> int:
        framer = self._framer
        if framer is None:
            raise NodeError(StreamCondition.BAD_FORMAT, "expected a stream's header")
        rest = data[at:] if at else data
        used = framer.step(rest)
        event = framer.events.pop() if framer.events else None
        _refuse_fault(event)
        piece = rest[:used]
        if isinstance(event, StreamEnd):
            self.ended = True
            frames.append(frame(Opcode.TEXT, close(self.see_other_uri)))
        elif self._inside:
            self._inside = event is None
            frames.append(frame(Opcode.CONTINUATION, piece, final=event is not None))
        else:
            self._begin_element(self._begun + piece, frames, whole=event is not None)
        return at + used

    def _begin_element(self, element: bytes, frames: list[bytes], *, whole: bool) -> None:
        tag_end = TagEnds().next(element, 0)
        if not whole and tag_end == len(element) and element[-1] != ord(">"):
            self._begun = element
            return
        self._begun = b""
        self._inside = not whole
        place, unsaid = standing_alone(element, tag_end, self._context, whole=whole)
        frames.append(frame(Opcode.TEXT, element[:place] + unsaid + element[place:], final=whole))


def _refuse_fault(event: FramerEvent | None) -> None:
    if isinstance(event, StreamFault):
        raise NodeError(event.condition, event.text)
