"""The offer that clients get before they log in: the same on all nodes, and nothing that breaks behind a proxy."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from cxfr_proxy.cluster.addresses import Address
from cxfr_proxy.cluster.nodes import NodeTls
from cxfr_proxy.doctor.facts import ClusterFacts, NodeFacts
from cxfr_proxy.doctor.findings import PROXY, DoctorRule, Severity, Symptom
from cxfr_proxy.doctor.offer import Offer
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.xmpp.opening.node_features import differing

_SCRAM_PLUS: Final = ("SCRAM-", "-PLUS")
_TLS_CODES: Final[Mapping[str, str]] = {"0301": "1.0", "0302": "1.1", "0303": "1.2", "0304": "1.3"}
"""XEP-0515's words for the versions of TLS."""
_COMPARED_ELSEWHERE: Final = frozenset(("mechanisms", "authentication"))


def _greeted(facts: ClusterFacts) -> Iterator[tuple[NodeFacts, Offer]]:
    """Yield the nodes whose features are known, with the richest that they have shown."""
    for node in facts.nodes:
        offer = node.named or node.offer
        if offer is not None and offer.dead_end is None:
            yield node, offer


def _compared(facts: ClusterFacts) -> Iterator[tuple[str, list[tuple[NodeFacts, Offer]]]]:
    """Yield each domain that several nodes serve, with them."""
    for domain, nodes in facts.by_domain():
        known = [(node, offer) for node in nodes if (offer := node.named or node.offer) is not None]
        lead = [(node, offer) for node, offer in known if offer.dead_end is None and offer.passes]
        if len(lead) > 1:
            yield domain, lead


def _missing(facts: ClusterFacts, items: Callable[[Offer], frozenset[str]]) -> Iterator[Symptom]:
    """Yield the nodes that lack some item that others of their domain have."""
    for domain, nodes in _compared(facts):
        have = Counter(item for _, offer in nodes for item in items(offer))
        for node, offer in nodes:
            lacking = sorted(have.keys() - items(offer))
            if lacking:
                having = next(other.spec.name for other, its in nodes if lacking[0] in items(its))
                yield Symptom(f"it lacks {', '.join(lacking)}, which {having} offers", node.spec.name, domain)


def _sasl2_parts(offer: Offer) -> frozenset[str]:
    return offer.inline | {"SASL2"} if offer.sasl2 else frozenset()


def _mechanisms_differ(facts: ClusterFacts) -> Iterator[Symptom]:
    yield from _missing(facts, lambda offer: offer.passing)


def _sasl2_differs(facts: ClusterFacts) -> Iterator[Symptom]:
    yield from _missing(facts, _sasl2_parts)


def _features_differ(facts: ClusterFacts) -> Iterator[Symptom]:
    for domain, nodes in _compared(facts):
        (first, reference), *others = nodes
        for node, offer in others:
            unlike = {*_unlike(reference, offer), *_unlike(first.offer, node.offer)} - _COMPARED_ELSEWHERE
            if unlike:
                yield Symptom(f"{', '.join(sorted(unlike))}: not as on {first.spec.name}", node.spec.name, domain)


def _unlike(one: Offer | None, other: Offer | None) -> tuple[str, ...]:
    return differing(one.shown, other.shown) if one is not None and other is not None else ()


def _sasl2_lost(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, offer in _greeted(facts):
        if node.behind_tls is not None:
            lost = sorted(_sasl2_parts(node.behind_tls) - _sasl2_parts(offer))
            if lost:
                yield Symptom(
                    f"behind STARTTLS it offers {', '.join(lost)}, on the plain leg not", node.spec.name, node.domain
                )


def _channel_binding(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, offer in _greeted(facts):
        plus = sorted(
            each for each in offer.mechanisms if each.startswith(_SCRAM_PLUS[0]) and each.endswith(_SCRAM_PLUS[1])
        )
        if plus and offer.passes:
            types = f", with {', '.join(sorted(offer.bindings))}" if offer.bindings else ""
            yield Symptom(f"it offers {', '.join(plus)}{types}", node.spec.name, node.domain)


def _downgrade_protection(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, offer in _greeted(facts):
        if node.session is not None and "h" in node.session.scram and offer.edited:
            cut = ", ".join([*sorted(offer.mechanisms - offer.passing), *sorted(offer.bindings)])
            yield Symptom(
                f"its SCRAM challenge has a hash of its list, out of which the proxy takes {cut}",
                node.spec.name,
                node.domain,
            )


def _tls_told(facts: ClusterFacts) -> Iterator[Symptom]:
    for node in facts.nodes:
        told = node.session.told_tls if node.session is not None else None
        if told is not None:
            version = _TLS_CODES.get(told, told)
            yield Symptom(f"its SCRAM challenge says that TLS is {version}", node.spec.name, node.domain)


def _tls_old(facts: ClusterFacts) -> Iterator[Symptom]:
    for node in facts.nodes:
        version = node.tls.version if node.tls is not None else None
        if version not in (None, "TLSv1.3"):
            yield Symptom(f"the proxy's connection to it has {version}", node.spec.name, node.domain)


def _in_the_open(facts: ClusterFacts) -> Iterator[Symptom]:
    for node, offer in _greeted(facts):
        address = node.spec.address
        if node.queue is not None:
            continue  # its listener is on this machine, so nobody is on the way
        if node.spec.tls is NodeTls.NONE and isinstance(address, Address) and _is_public(address.host):
            passwords = ", and PLAIN is on offer" if "PLAIN" in offer.mechanisms else ""
            yield Symptom(f"{address} is a public address, tls=none{passwords}", node.spec.name, node.domain)


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_global
    except ValueError:
        return False  # a name: where it leads may change


RULES: Final = (
    DoctorRule(
        "mechanisms-differ",
        Severity.WARNING,
        "Nodes of a domain offer different mechanisms",
        "the same mechanisms on all nodes of a domain",
        "a client that has pinned a mechanism fails when it is moved to a node without it; and clients get their node "
        "before they have said who they are, so that users are not always on the node where they belong",
        {
            ServerSoftware.EJABBERD: "disable_sasl_mechanisms, auth_password_format: the same on all nodes",
            ServerSoftware.PROSODY: "disable_sasl_mechanisms, authentication, allow_unencrypted_plain_auth: the same",
            ServerSoftware.MONGOOSEIM: "auth.sasl_mechanisms, auth.password.format: the same on all nodes",
            ServerSoftware.OPENFIRE: "sasl.mechs: the same on all nodes",
        },
        _mechanisms_differ,
    ),
    DoctorRule(
        "sasl2-differs",
        Severity.WARNING,
        "Some nodes of a domain offer SASL2, Bind 2 or FAST, and others do not",
        "the same on all nodes of a domain",
        "a client that has logged in by SASL2, or has a token, has to begin anew when it is moved to a node without",
        {
            ServerSoftware.EJABBERD: "24.02 or later, allow_unencrypted_sasl2: true, mod_auth_fast, on all nodes",
            ServerSoftware.PROSODY: 'modules_enabled with "sasl2", "sasl2_bind2", "sasl2_sm", "sasl2_fast" on all',
            ServerSoftware.MONGOOSEIM: "modules.mod_sasl2, mod_bind2 (6.2 or later), mod_fast_auth_token (6.4 or "
            "later) on all nodes",
            ServerSoftware.OPENFIRE: "5.2 or later, xmpp.auth.sasl2 = true; xmpp.auth.sasl2.require-tls as on the "
            "others",
        },
        _sasl2_differs,
    ),
    DoctorRule(
        "features-differ",
        Severity.WARNING,
        "Nodes of a domain offer different features before login",
        "the same features on all nodes of a domain",
        "clients get their node before they have said who they are, so that users are not always on the node where "
        "they belong; and a client may find a feature gone after it was moved",
        {
            ServerSoftware.EJABBERD: "modules, and the listener's options: the same on all nodes",
            ServerSoftware.PROSODY: "modules_enabled, and limits: the same on all nodes",
            ServerSoftware.MONGOOSEIM: "modules: the same on all nodes",
            ServerSoftware.OPENFIRE: "the same version, plugins and system properties on all nodes",
        },
        _features_differ,
    ),
    DoctorRule(
        "sasl2-lost",
        Severity.WARNING,
        "SASL2, Bind 2 or FAST is lost because the leg to the node is plain",
        "the same offer on the plain leg as behind TLS",
        "clients log in by the old way, with more round trips, and get no FAST tokens",
        {
            ServerSoftware.EJABBERD: "allow_unencrypted_sasl2: true on the listener (24.02 or later)",
            ServerSoftware.PROSODY: "c2s_require_encryption = false",
            ServerSoftware.MONGOOSEIM: "none: it offers SASL2 on TLS legs only, where channel-binding has its price",
            ServerSoftware.OPENFIRE: "xmpp.auth.sasl2.require-tls = false (5.2 or later)",
        },
        _sasl2_lost,
    ),
    DoctorRule(
        "channel-binding",
        Severity.ERROR,
        "A node offers SCRAM with channel binding, which cannot pass a proxy that ends TLS",
        "no mechanism whose name ends in -PLUS",
        "the node refuses clients that say that they could have bound to the channel (y,, in SCRAM: Profanity)",
        {
            PROXY: "nodes.txt: tls=none, on a network that you trust; a plain leg has no channel to bind to",
            ServerSoftware.EJABBERD: "starttls: false on a listener for the proxy. With TLS it refuses y,, even with "
            "disable_sasl_mechanisms: [scram-sha-1-plus, scram-sha-256-plus, scram-sha-512-plus]",
            ServerSoftware.PROSODY: "c2s_require_encryption = false, and tls=none. With TLS it refuses y,, even with "
            "disable_sasl_mechanisms",
            ServerSoftware.MONGOOSEIM: "auth.sasl_mechanisms without those that end in _plus",
            ServerSoftware.OPENFIRE: "sasl.mechs without SCRAM-SHA-1-PLUS (5.1 or later has it)",
        },
        _channel_binding,
    ),
    DoctorRule(
        "downgrade-protection",
        Severity.ERROR,
        "A node protects its list of mechanisms against editing (XEP-0474), and the proxy has to edit it",
        "a list that the proxy can pass on as it is",
        "clients that check the hash refuse to log in: go-sendxmpp, Monal",
        {
            PROXY: "nodes.txt: tls=none, on a network that you trust: behind TLS there is more that has to go",
            ServerSoftware.EJABBERD: "disable_sasl_mechanisms with all that has to go, such as [digest-md5]; or "
            "disable_sasl_scram_downgrade_protection: true",
            ServerSoftware.PROSODY: "no sasl_ssdp in modules_enabled, or disable_sasl_mechanisms with what has to go",
        },
        _downgrade_protection,
    ),
    DoctorRule(
        "tls-version-told",
        Severity.ERROR,
        "A node tells clients the version of TLS on the proxy's connection (XEP-0515)",
        "no such attribute: the node cannot know what TLS its clients have with the proxy",
        "clients that check it, and have another version of TLS with the proxy, must refuse to log in",
        {PROXY: "nodes.txt: tls=none, on a network that you trust: without TLS there is no version to tell"},
        _tls_told,
    ),
    DoctorRule(
        "tls-version-old",
        Severity.NOTE,
        "The leg to a node has an older version of TLS than most clients have with the proxy",
        "TLS 1.3 on both legs",
        "none by itself; it matters where the node tells the version (XEP-0515)",
        {
            ServerSoftware.EJABBERD: "c2s_protocol_options without no_tlsv1_3",
            ServerSoftware.PROSODY: 'ssl, c2s_ssl: protocol = "tlsv1_2+"',
            ServerSoftware.MONGOOSEIM: 'tls.versions with "tlsv1.3" in [[listen.c2s]]',
            ServerSoftware.OPENFIRE: "xmpp.socket.ssl.client.protocols with TLSv1.3",
        },
        _tls_old,
    ),
    DoctorRule(
        "plain-in-the-open",
        Severity.ERROR,
        "The leg to a node is plain, and leads to a public address",
        "TLS on the leg, or an address of a private network",
        "everybody on the way can read the messages, and passwords where PLAIN is used",
        {
            PROXY: "nodes.txt: tls=starttls or tls=direct with ca=, or a private address",
            ServerSoftware.EJABBERD: "starttls: true on the listener",
            ServerSoftware.PROSODY: "mod_tls",
            ServerSoftware.MONGOOSEIM: "tls in [[listen.c2s]]",
            ServerSoftware.OPENFIRE: "xmpp.client.tls.policy = required",
        },
        _in_the_open,
    ),
)
