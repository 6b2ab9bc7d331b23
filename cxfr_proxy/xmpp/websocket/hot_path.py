"""The hot path in C (``_frames.c``), where it was compiled, and where the native framer reads the stream.

It takes whole messages and whole elements, and stops in front of everything else, which is done in Python.

Bytes that Python has at hand go through :class:`HotPath`. Of a connection that the switchboard serves nothing comes to
Python while nothing unusual does: for that the transport is a :class:`NativeFrames`, which the switchboard knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from cxfr_proxy.xmpp.framing.framer import Framer, is_native
from cxfr_proxy.xmpp.websocket.translation import StreamContext


class HotPath(Protocol):
    """The functions of ``_frames.c``. Offsets are in ``data``; ``scanner`` stands between two elements."""

    def take(
        self, scanner: Framer, data: bytes | memoryview, at: int, limit: int, /
    ) -> tuple[bytes, int, bytes | None, int, int]:
        """Read frames from ``at`` on, as far as each is the whole of a message that is a plain element.

        ``limit``: the longest message; -1 for no limit. Returns the elements and the offset behind their frames; and of
        a last message that was read, and is no element: its text, how much of it the scanner has read, and whether an
        element has ended there. That text is ``None`` where there was no such message.
        """
        ...

    def put(self, scanner: Framer, data: bytes, at: int, context: StreamContext, /) -> tuple[bytes, int, int]:
        """Put the elements from ``at`` on into frames, as far as they are whole, and no more than a few dozen.

        Returns the frames, the offset behind the last element, and how many bytes behind that the scanner has read: of
        an element that is not whole, or at fault.
        """
        ...


def _load() -> HotPath | None:
    try:
        from cxfr_proxy.xmpp.websocket import _frames
    except ImportError:
        return None  # it was not compiled here
    return _frames


_native: Final = _load()

if TYPE_CHECKING or _native is not None:
    from cxfr_proxy.xmpp.websocket._frames import NativeFrames as NativeFrames
else:

    class NativeFrames:
        """Stands for the one in C where that was not compiled: nobody is there who would ask it."""

        __slots__ = ("heard",)

        def let_read(self, scanner: Framer | None, limit: int, /) -> None:
            """Do nothing."""

        def let_write(self, scanner: Framer | None, context: StreamContext | None, /) -> None:
            """Do nothing."""


def hot_path(framer: Framer) -> HotPath | None:
    """Return what goes with this framer; ``None``: all is done in Python."""
    return _native if is_native(framer) else None
