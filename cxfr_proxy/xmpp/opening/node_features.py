"""The features that a client is shown before it has a node: a node's own, as if that node had sent them through the
proxy.

The user is known only after the client has seen features, and the node only after that. So the features have to be true
of any node that it may become: they are shown if all nodes offer the same. :func:`differing` names those that are not
the same. The order of elements does not count, nor that of mechanisms: Prosody's changes with each start, and clients
choose by what they like best.

There are three more rules than for features that pass. XEP-0078's feature is taken out, since its digests need the
node's stream id. So is XEP-0509's hash, since another node may get the client. And features that lead to no login are
not shown at all, so that the client hears of it from the node.
"""

from __future__ import annotations

import functools
from collections import Counter

from lxml import etree

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening import features, usual_header
from cxfr_proxy.xmpp.stanza import Element

_Facet = tuple[str, tuple[tuple[str, str], ...], str, tuple["_Facet", ...]]
"""Name, attributes, text and children of an element, in an order of their own."""


@functools.lru_cache(maxsize=256)
def shown_features(offered: bytes, *, offer_starttls: bool, max_bytes: int | None) -> bytes | None:
    """Return the form in which ``offered`` is shown, a node's features before login in the namespaces of the usual
    header.

    The other arguments are :func:`~cxfr_proxy.xmpp.opening.features.rewrite`'s. ``None``: nobody could log in by them.
    """
    try:
        element = stanza.parse(offered, usual_header.CONTEXT)
    except stanza.MalformedElement:
        return None
    if element.tag != stanza.qualified(names.STREAM, "features"):
        return None
    features.rewrite(element, offer_starttls=offer_starttls, max_bytes=max_bytes)
    features.strip_config_version(element)
    for feature in element.findall(features.IQ_AUTH_FEATURE):
        element.remove(feature)
    return stanza.serialize(element) if features.offers_login(element) else None


@functools.lru_cache(maxsize=256)
def differing(one: bytes, other: bytes) -> tuple[str, ...]:
    """Return the local names of the features, of two nodes' shown ones, that are not the same in both."""
    mine, theirs = _facets(one), _facets(other)
    return tuple(sorted({etree.QName(name).localname for name, *_ in (mine - theirs) + (theirs - mine)}))


def _facets(shown: bytes) -> Counter[_Facet]:
    return Counter(map(_facet, stanza.parse(shown)))


def _facet(element: Element) -> _Facet:
    attributes = sorted((str(name), str(value)) for name, value in element.items())
    return (
        str(element.tag),
        tuple(attributes),
        (element.text or "").strip(),
        tuple(sorted(map(_facet, element))),
    )
