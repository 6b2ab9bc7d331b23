"""The hot path in C (``_frames.c``), where it was compiled, and where the native framer reads the stream.

It takes whole messages and whole elements, and stops in front of everything else, which is done in Python.
"""

from __future__ import annotations

from typing import Final, Protocol

from cxfr_proxy.xmpp.framing.framer import Framer, is_native


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

    def put(
        self,
        scanner: Framer,
        data: bytes,
        at: int,
        default: bytes,
        prefixes: tuple[tuple[bytes, bytes], ...],
        lang: bytes,
        /,
    ) -> tuple[bytes, int, int]:
        """Put the elements from ``at`` on into frames, as far as they are whole.

        The last arguments are those of :class:`~.translation.StreamContext`. Returns the frames, the offset behind the
        last element, and how many bytes behind that the scanner has read: of an element that is not whole, or at fault.
        """
        ...

    def unmask(self, data: bytes, mask: bytes, /) -> bytes:
        """Return ``data`` with the mask taken off."""
        ...


def _load() -> HotPath | None:
    try:
        from cxfr_proxy.xmpp.websocket import _frames
    except ImportError:
        return None  # it was not compiled here
    return _frames


_native: Final = _load()


def hot_path(framer: Framer) -> HotPath | None:
    """Return what goes with this framer; ``None``: all is done in Python."""
    return _native if is_native(framer) else None
