"""What all nodes of a domain have in common to show a client that has none yet.

Health checks leave each node's features with it (``Node.features``). Where those of all nodes that take users now come
to the same, a client may be shown them first and get its node by who it turns out to be. Where they differ, or one is
not known yet, it can't.
"""

from __future__ import annotations

import logging

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.events import emit
from cxfr_proxy.xmpp.template import differing, template

_log = logging.getLogger(__name__)


class Templates:
    """``max_bytes``: the longest element that is taken from a client. Where features differ, the log says so once."""

    def __init__(self, cluster: Cluster, *, max_bytes: int | None) -> None:
        self._cluster = cluster
        self._max_bytes = max_bytes
        self._told: dict[str, tuple[str, ...]] = {}  # by domain: which features differed when the log was told last

    def of(self, domain: str, *, offer_starttls: bool) -> bytes | None:
        """The features to show to a client of that domain; ``None``: its node has to be chosen first."""
        domain = domain.lower()
        shown: dict[Node, bytes] = {}
        for node in self._cluster.candidates(domain=domain):
            offered = node.features.get(domain)
            if not node.usable or offered is None:
                return None
            found = template(offered, offer_starttls=offer_starttls, max_bytes=self._max_bytes)
            if found is None:
                return None
            shown[node] = found
        if not shown:
            return None
        first = next(iter(shown.values()))
        unlike = {node.name: differing(first, other) for node, other in shown.items() if other != first}
        return first if self._agree(domain, next(iter(shown)).name, unlike) else None

    def _agree(self, domain: str, first: str, unlike: dict[str, tuple[str, ...]]) -> bool:
        elements = tuple(sorted({element for each in unlike.values() for element in each}))
        if elements == self._told.get(domain, ()):
            return not elements
        if elements:
            self._told[domain] = elements
            others = ",".join(name for name, found in unlike.items() if found)
            emit(
                _log,
                "features-differ",
                level=logging.WARNING,
                domain=domain,
                elements=",".join(elements),
                nodes=others,
                unlike=first,
                route="connect",
            )
        else:
            del self._told[domain]
            emit(_log, "features-agree", domain=domain, route="login")
        return not elements
