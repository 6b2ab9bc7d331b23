"""What sessions notice about a node that its operator should know, logged once for each thing noticed.

The text may hold words of the node's own, so there can be any number of different ones. Two bounds keep that harmless,
and neither silences a node for good: only the last :data:`REMEMBERED` texts count as said, so one that was forgotten
may be said again; and the log sums up what one node causes in a short time (:mod:`cxfr_proxy.log_sums`).
"""

from __future__ import annotations

import logging
from typing import Final

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.events import emit

REMEMBERED: Final = 1000
"""Texts, of all nodes together."""

_log = logging.getLogger(__name__)


class NodeWarnings:
    """Logs ``node-warning``, with the ``node`` and the ``reason``."""

    def __init__(self) -> None:
        self._said: BoundedDict[tuple[str, str], None] = BoundedDict(REMEMBERED)

    def warn(self, node: str, text: str) -> None:
        """Say that of the node, unless it was said before."""
        known = (node, text) in self._said
        self._said[node, text] = None  # the latest again: what keeps coming up is not forgotten
        if not known:
            emit(_log, "node-warning", level=logging.WARNING, node=node, reason=text)
