"""The garbage collector of a process that holds many sessions.

Sessions are freed by reference counts; the collector is there for the cycles that errors leave (a traceback holds the
frame that holds the exception). What it costs is the time in which nothing is served: a full collection looks at every
object there is.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Call it once, when all is loaded: what there is now stays for good, and is looked at no more."""
    gc.collect()
    gc.freeze()
