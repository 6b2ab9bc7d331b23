"""Log the faults of a node that sessions notice and its operator should know, each of them once.

The text may hold words of the node's own, so there can be any number of different ones. Two bounds keep that harmless,
and neither silences a node for good: only the last :data:`REMEMBERED` texts count as logged, so one that was forgotten
may be logged again; and the log sums up what one node causes in a short time (:mod:`cxfr_proxy.log_sums`).
"""

from __future__ import annotations

import logging
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.events import emit

REMEMBERED: Final = 1000
"""Most texts that are remembered, of all nodes together."""

_log = logging.getLogger(__name__)


class NodeWarnings:
    """Logs ``node-warning``, with the ``node`` and the ``reason``."""

    def __init__(self) -> None:
        self._logged: BoundedDict[tuple[str, str], None] = BoundedDict(REMEMBERED)

    def warn(self, node: str, text: str) -> None:
        """Log that text about the node, unless it was logged before."""
        known = (node, text) in self._logged
        self._logged[node, text] = None  # moved to the end: a fault that persists is not forgotten
        if not known:
            emit(_log, "node-warning", level=logging.WARNING, node=node, reason=text)
