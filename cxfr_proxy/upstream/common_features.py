"""Find the features that all nodes of a domain have in common, for clients that have no node yet.

Health checks leave each node's features with it (``Node.features``). If those of all nodes that take users now mean the
same, a client may be shown them first and get its node by the user it turns out to be. If they differ, or one node's
are not known yet, it can't.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final

from cxfr_proxy.cluster.members import Cluster, Node
from cxfr_proxy.cluster.nodes import Check
from cxfr_proxy.events import emit
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.xmpp.opening.node_features import differing, shown_features

_SHOWN_NODES: Final = 20
"""Most names of nodes in a log line."""
_DOMAINS_KEPT: Final = 64
"""Most domains that are kept: clients can make up any number of them."""

_log = logging.getLogger(__name__)


class CommonFeatures:
    """``max_bytes``: the longest element that is taken from a client.

    The part that serves clients calls :meth:`of`, the part that checks nodes :meth:`compare`.
    """

    def __init__(self, cluster: Cluster, *, max_bytes: int | None) -> None:
        self._cluster = cluster
        self._max_bytes = max_bytes
        self._logged: dict[str, tuple[str, ...]] = {}  # by domain: the differences that were logged last
        self._common: dict[tuple[str, bool], bytes | None] = {}
        self._common_of = -1  # the version of the cluster

    def set_max_bytes(self, max_bytes: int | None) -> None:
        """Take elements of that length from clients from now on."""
        self._max_bytes, self._common_of = max_bytes, -1

    def of(self, domain: str, *, offer_starttls: bool) -> bytes | None:
        """Return the features to show to a client of that domain; ``None``: its node has to be chosen first."""
        # Cleared as a whole: to find out which to keep would cost more than to work them out again.
        if self._common_of != self._cluster.version or len(self._common) >= _DOMAINS_KEPT:
            self._common_of = self._cluster.version
            self._common.clear()
        asked = domain_key(domain), offer_starttls
        if asked not in self._common:
            self._common[asked] = self._in_common(*asked)
        return self._common[asked]

    def _in_common(self, domain: str, offer_starttls: bool) -> bytes | None:
        shown = list(dict.fromkeys(self._shown(domain, offer_starttls=offer_starttls).values()))
        if not shown or any(differing(shown[0], other) for other in shown[1:]):
            return None
        return shown[0]

    def are_awaited(self, domain: str) -> bool:
        """Return whether some node of that domain has not been asked for its features yet, and will be."""
        key = domain_key(domain)
        nodes = self._cluster.candidates(domain=key)
        return any(node.spec.check is Check.STREAM and key not in node.features for node in nodes)

    def _shown(self, domain: str, *, offer_starttls: bool = False) -> dict[Node, bytes]:
        """Return what each node's clients would be shown; empty unless it is known of all."""
        shown: dict[Node, bytes] = {}
        for node in self._cluster.candidates(domain=domain):
            offered = node.features.get(domain)
            if not node.usable or offered is None:
                return {}
            found = shown_features(offered, offer_starttls=offer_starttls, max_bytes=self._max_bytes)
            if found is None:
                return {}
            shown[node] = found
        return shown

    def compare(self) -> None:
        """Log that the nodes' features have come to differ, or differ no more. Called after something has changed
        about nodes."""
        for domain in sorted({domain for node in self._cluster for domain in node.features}):
            shown = self._shown(domain)
            if shown:
                self._compare(domain, shown)

    def _compare(self, domain: str, shown: dict[Node, bytes]) -> None:
        first = next(iter(shown))
        unlike = {
            node.name: found
            for node, other in shown.items()
            if other != shown[first] and (found := differing(shown[first], other))
        }
        elements = tuple(sorted({element for found in unlike.values() for element in found}))
        if elements == self._logged.get(domain, ()):
            return
        self._logged[domain] = elements
        if elements:
            emit(
                _log,
                "features-differ",
                level=logging.WARNING,
                domain=domain,
                elements=",".join(elements),
                nodes=",".join(islice(unlike, _SHOWN_NODES)),
                count=len(unlike) if len(unlike) > _SHOWN_NODES else None,
                unlike=first.name,
                route="connect",
            )
        else:
            emit(_log, "features-agree", domain=domain, route="login")
