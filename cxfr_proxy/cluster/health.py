"""What one look at a node can find, and what follows for its health."""

from __future__ import annotations

from enum import StrEnum


class Finding(StrEnum):
    """What came of one look at a node."""

    OK = "ok"
    REFUSED = "refused"
    """Nobody listens there: the first thing a server does that stops, while its sessions live on."""
    SILENT = "silent"
    """Nothing came, within the time there was."""
    FAILED = "failed"
    """It answered, and not as it should."""
