"""Exit codes tell the outcome to scripts; docs/exit-codes.md has them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OK: Final = 0
UNFINISHED: Final = 1
FAULTS: Final = 1
MISTAKE: Final = 2
NO_PROXY: Final = 3
INTERRUPTED: Final = 130
"""Exit code that shells give a program that SIGINT ended."""
UNREAD: Final = 141
"""The same for SIGPIPE."""

MEANINGS: Final[Mapping[int, str]] = {
    OK: "done; with --wait: the node can be stopped, all workers are replaced, or all who had to move were asked; "
    "roll: all nodes are restarted; upgrade: a new process is the proxy; check: no faults; doctor: nothing to mend",
    UNFINISHED: "with --wait: not empty at the deadline, not all replaced, or not all asked; roll: it has stopped on "
    "its way; upgrade: the old process goes on; --plan: logins would be refused; check, reload: there are faults; "
    "doctor: there are errors or warnings",
    MISTAKE: "a mistake: usage, settings, an unknown node, or an order that was refused; one line says which",
    NO_PROXY: "no proxy runs here, or the one that runs does not answer",
    INTERRUPTED: "interrupted; what was started goes on",
    UNREAD: "the output can't be written any more, or nobody reads it; what was started goes on",
}
