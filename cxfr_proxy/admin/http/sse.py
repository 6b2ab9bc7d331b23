"""Server-sent events, as they are written (WHATWG HTML section 9.2)."""

from __future__ import annotations

from typing import Final

RETRY_SECONDS: Final = 2.0
"""After how long a client that has lost the stream connects again."""
HEARTBEAT: Final = b": still here\n\n"
"""A comment: it shows that the connection lives, and means nothing."""
BEGINNING: Final = b"retry: %d\n\n" % int(RETRY_SECONDS * 1000)


def sse_event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """Return one event. ``data`` is on one line, as JSON of :func:`~cxfr_proxy.admin.rows.codec.encode` is;
    ``event_id`` is what a client names that connects again, ``None`` leaves it as it was."""
    first = f"id: {event_id}\n" if event_id is not None else ""
    return f"{first}event: {name}\ndata: ".encode() + data + b"\n\n"
