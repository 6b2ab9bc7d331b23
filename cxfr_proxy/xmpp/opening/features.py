"""The stream features that pass when TLS ends at the proxy: a table.

A node's ``<stream:features/>`` describes the connection between proxy and node; the client has another one. Features
that depend on the connection itself (its encryption, its compression, its TLS secrets, its certificate) are therefore
taken out, and those that depend on the account or the stream pass. :data:`STRIPPED` and :data:`REFUSED_MECHANISMS` have
the former with the reasons. **Everything that they don't name passes untouched**, known or not: a feature invented
tomorrow should work through this proxy tomorrow.

Edit as little as possible. A client may verify what it was shown: XEP-0474 hashes the list of mechanisms, and XEP-0440
clients give up if binding mechanisms and binding types don't match, so these two go together or stay together. It is
best to rewrite nothing, with a listener on the node that advertises the final list itself; :func:`warnings` tells the
operator so. ``rewrite`` returns whether it changed anything, so that the caller can forward the node's very bytes if
not.
"""

from __future__ import annotations

import base64
import binascii
import copy
import functools
import re
from dataclasses import dataclass
from typing import Final

from lxml import etree

from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.opening.sasl import LONGEST_NAME
from cxfr_proxy.xmpp.stanza import Element, qualified

_MECHANISMS: Final = qualified(names.SASL, "mechanisms")
_AUTHENTICATION: Final = qualified(names.SASL2, "authentication")
_INLINE: Final = qualified(names.SASL2, "inline")
_FAST: Final = qualified(names.FAST, "fast")
_ENABLED: Final = (qualified(names.SM, "enabled"), qualified(names.SM2, "enabled"))
_STREAM_MANAGEMENT: Final = (qualified(names.SM, "sm"), qualified(names.SM2, "sm"))
_STARTTLS: Final = qualified(names.TLS, "starttls")
CONFIG_VERSION: Final = "{*}config-version"
"""XEP-0509's hash of the features as the node wrote them, by which a client may skip reading them the next time. Of any
namespace: the specification is young, and its version is a part of that."""
IQ_AUTH_FEATURE: Final = "{http://jabber.org/features/iq-auth}auth"
"""XEP-0078's stream feature, another way to log in."""


@dataclass(frozen=True, slots=True)
class Stripped:
    """A feature that is taken out: its qualified name (``*`` is any local name), and why."""

    name: str
    reason: str


STRIPPED: Final = (
    Stripped(_STARTTLS, "TLS is the proxy's to offer; the node's would run inside it"),
    Stripped(qualified(names.COMPRESS, "compression"), "a compressed stream has no elements to inject between"),
    Stripped(qualified(names.BIDI, "bidi"), "for server-to-server streams, which this proxy does not carry"),
    Stripped(
        qualified(names.CHANNEL_BINDING, "*"),
        "the node's TLS secrets are not the client's; without -PLUS mechanisms the types would make clients abort",
    ),
)


@dataclass(frozen=True, slots=True)
class RefusedMechanism:
    """A kind of SASL mechanism that cannot work here: a pattern for its whole name, and why."""

    pattern: re.Pattern[str]
    reason: str


REFUSED_MECHANISMS: Final = (
    RefusedMechanism(re.compile(r".+-PLUS"), "binds to a TLS channel, and client and node share none"),
    RefusedMechanism(re.compile(r"HT-.+-(EXPR|UNIQ|ENDP)"), "XEP-0484 token bound to a TLS channel, likewise"),
    RefusedMechanism(re.compile(r"EXTERNAL"), "the node would see the proxy's certificate, not the client's"),
    RefusedMechanism(
        re.compile(r"GSSAPI|GSS-SPNEGO|KERBEROS_V4"),
        "may put a security layer round the stream, which would make it opaque",
    ),
    RefusedMechanism(re.compile(r"GS2-.+"), "Kerberos tickets are for one host's name, which the client cannot know"),
    RefusedMechanism(re.compile(r"DIGEST-MD5"), "may put a security layer round the stream; and obsolete (RFC 6331)"),
)


def refusal(mechanism: str) -> str | None:
    """Return why a SASL mechanism is not offered through the proxy; ``None`` where it is."""
    # Mechanism names are upper case (RFC 4422 section 3.1); a client that compares loosely gets no loophole.
    name = mechanism.strip().upper()
    return _reason_against(name) if len(name) <= LONGEST_NAME else _reason_against.__wrapped__(name)


@functools.lru_cache(maxsize=64)
def _reason_against(name: str) -> str | None:
    return next((row.reason for row in REFUSED_MECHANISMS if row.pattern.fullmatch(name)), None)


_LEADING_NOWHERE: Final = frozenset(
    (
        _STARTTLS,
        qualified(names.COMPRESS, "compression"),
        qualified(names.LIMITS, "limits"),
        qualified("http://jabber.org/protocol/caps", "c"),
        qualified("http://jabber.org/features/iq-register", "register"),
        qualified("urn:xmpp:features:rosterver", "ver"),
        qualified("urn:xmpp:features:pre-approval", "sub"),
    )
)
"""Features that stand before login and are no login, nor lead to one that the proxy would not see."""

TLS_FIRST: Final = (
    "it wants TLS before anything else: say tls=starttls on its line, or let its listener for the proxy do "
    "without (Prosody: c2s_require_encryption = false; ejabberd: starttls_required: false)"
)
NO_LOGIN: Final = (
    "it offers no way to log in: let its listener for the proxy offer SCRAM, or PLAIN without TLS "
    "(Prosody: allow_unencrypted_plain_auth = true)"
)


def rewrite(
    features: Element, *, offer_starttls: bool = False, max_bytes: int | None = None, managed: bool = False
) -> bool:
    """Edit a parsed ``<stream:features/>`` in place; return whether anything changed.

    ``offer_starttls`` puts an optional ``<starttls/>`` of the proxy's own in front. ``max_bytes`` is the longest
    element that the proxy takes from a client: limits that a node announces (XEP-0478) are lowered to it; ``None``:
    they stand. ``managed``: stream management is on already (inside SASL2's success). ejabberd offers it again all the
    same, and a client that enables it twice (xmpp.js) miscounts from then on.

    If the node offered only mechanisms that cannot work, none may be left. An empty list is no list (the schema of RFC
    6120 wants one mechanism at least), so it goes, and with it all that hangs on it: SASL2's inline features, FAST.
    **But not the last list.** Features without any way to log in read as "negotiation is complete" (RFC 6120 section
    4.3.2): clients then go on, unauthenticated, and wait for something that never comes, while an empty
    ``<mechanisms/>`` makes them say "no mechanism in common" and stop. So a client that has no other way is shown the
    empty list, and :func:`warnings` tells the operator.
    """
    # Before anything is taken out, or it would not be known any more.
    before_login = any(features.find(name) is not None for name in (_MECHANISMS, _AUTHENTICATION))
    changed = _strip(features) | _lower_limits(features, max_bytes) | (managed and _strip_stream_management(features))
    for mechanisms in features.findall(_MECHANISMS):
        changed |= _strip_mechanisms(mechanisms)
    for authentication in features.findall(_AUTHENTICATION):
        changed |= _rewrite_authentication(authentication)
    if changed:
        _drop_empty_lists(features)
        if before_login and not offers_login(features):
            etree.SubElement(features, _MECHANISMS, nsmap={None: names.SASL})
    if offer_starttls:
        features.insert(0, etree.Element(_STARTTLS, nsmap={None: names.TLS}))
    if changed or offer_starttls:
        strip_config_version(features)
    return changed or offer_starttls


def strip_config_version(features: Element) -> None:
    """Remove the hash from features that the node has not written so: it does not fit them."""
    for element in list(features.iter(CONFIG_VERSION)):
        parent = element.getparent()
        assert parent is not None, "features are no such element"
        parent.remove(element)


def _strip_stream_management(features: Element) -> bool:
    found = [element for name in _STREAM_MANAGEMENT for element in features.findall(name)]
    for element in found:
        features.remove(element)
    return bool(found)


def _strip(parent: Element) -> bool:
    found = [element for row in STRIPPED for element in parent.findall(row.name)]
    for element in found:
        parent.remove(element)
    return bool(found)


def _lower_limits(features: Element, max_bytes: int | None) -> bool:
    limits = features.find(qualified(names.LIMITS, "limits"))
    if limits is None or max_bytes is None:
        return False
    announced = limits.find(qualified(names.LIMITS, "max-bytes"))
    if announced is None:
        announced = etree.SubElement(limits, qualified(names.LIMITS, "max-bytes"))
    text = (announced.text or "").strip()
    # The node's own limit is lower already. Anything else is replaced, nonsense included.
    if text.isdecimal() and int(text) <= max_bytes:
        return False
    announced.text = str(max_bytes)
    return True


def _strip_mechanisms(parent: Element) -> bool:
    """Take the refused ones out of any list whose entries are ``<mechanism/>`` in the list's own namespace."""
    found = [element for element in _mechanisms(parent) if refusal(element.text or "")]
    for element in found:
        parent.remove(element)
    return bool(found)


def _rewrite_authentication(authentication: Element) -> bool:
    changed = _strip_mechanisms(authentication) | _strip(authentication)
    for inline in authentication.findall(_INLINE):
        changed |= _strip(inline)
        for fast in inline.findall(_FAST):
            changed |= _rewrite_fast(inline, fast)
    return changed


def _rewrite_fast(inline: Element, fast: Element) -> bool:
    changed = _strip_mechanisms(fast)
    if "tls-0rtt" in fast.attrib:
        # The proxy takes no early data: it could be replayed against it (XEP-0484 section 4.3).
        del fast.attrib["tls-0rtt"]
        changed = True
    if changed and not _mechanisms(fast):
        # A client that reads <fast/> asks for a token; there is no mechanism left to use one with.
        inline.remove(fast)
    return changed


def _drop_empty_lists(features: Element) -> None:
    for offer in (*features.findall(_MECHANISMS), *features.findall(_AUTHENTICATION)):
        if not _mechanisms(offer):
            features.remove(offer)


def _mechanisms(parent: Element) -> list[Element]:
    return parent.findall(qualified(etree.QName(parent).namespace or "", "mechanism"))


def offers_login(features: Element) -> bool:
    """Return whether a client finds a mechanism (SASL, SASL2) or XEP-0078 there."""
    offers = (*features.findall(_MECHANISMS), *features.findall(_AUTHENTICATION))
    return any(_mechanisms(offer) for offer in offers) or features.find(IQ_AUTH_FEATURE) is not None


def warnings(features: Element, *, downgrade_protection: bool = False) -> tuple[str, ...]:
    """Return what an operator should know about a node's features, as they were *before* :func:`rewrite`.

    ``downgrade_protection``: the node was seen to send XEP-0474's hash (:func:`has_downgrade_protection`). No feature
    shows it, only a SCRAM challenge, so the caller has to say.
    """
    if not offers_login(features):
        return ()
    # rewrite() edits in place, and the caller still has to show these.
    edited = copy.deepcopy(features)
    rewrite(edited)
    before, after = _offered(features), _offered(edited)
    found = []
    if not offers_login(edited):
        found.append(
            "no login is left: of " + ", ".join(sorted(before)) + " none can work where TLS ends at the proxy; "
            "enable SCRAM or PLAIN on the node's listener"
        )
    elif any(name.startswith("SCRAM-") and name.endswith("-PLUS") for name in before):
        # RFC 5802 section 6: the client saw no -PLUS and says "y"; the server did offer one, so somebody cut it out.
        found.append(
            "the node offers SCRAM with channel binding: clients that could bind are told otherwise by the proxy, "
            "say so, and the node must then refuse them; turn the -PLUS mechanisms off on the node's listener"
        )
    if downgrade_protection and (before != after or _binding_types(features)):
        found.append(
            "the node protects its mechanism list against editing (XEP-0474), and the proxy had to edit it: clients "
            "that check will refuse to log in; let the node's listener advertise the final list itself (ejabberd: "
            "disable_sasl_mechanisms: [digest-md5])"
        )
    return tuple(found)


def dead_end(features: Element) -> str | None:
    """Return what an operator has to mend if a node's features, shown before login, lead to no login: a client that is
    shown them waits for ever. ``None``: they lead on, or hold something unknown, which may.

    A node that wants TLS first (RFC 6120 section 5.3.1) may show other things beside: Prosody 13 its limits. A node
    that offers a login as well is believed to mean it.
    """
    if offers_login(features) or any(child.tag not in _LEADING_NOWHERE for child in features):
        return None
    return TLS_FIRST if features.find(_STARTTLS) is not None else NO_LOGIN


def _offered(features: Element) -> frozenset[str]:
    offers = (*features.findall(_MECHANISMS), *features.findall(_AUTHENTICATION))
    return frozenset((entry.text or "").strip().upper() for offer in offers for entry in _mechanisms(offer))


def _binding_types(features: Element) -> bool:
    return features.find(qualified(names.CHANNEL_BINDING, "*")) is not None


def has_downgrade_protection(challenge: Element) -> bool:
    """Return whether a ``<challenge/>`` is a SCRAM server-first message with the hash of XEP-0474 (``h=``)."""
    try:
        message = base64.b64decode("".join((challenge.text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    attributes = message.split(b",")
    return attributes[0].startswith(b"r=") and any(part.startswith(b"h=") for part in attributes)


def strip_location(enabled: Element) -> bool:
    """Remove the address that would lead a client around the proxy when it resumes; return whether there was one.

    Takes XEP-0198's ``<enabled location='…'/>``, or an element that holds it (SASL2's ``<success/>``, where it stands
    in Bind 2's ``<bound/>``).
    """
    changed = False
    for element in enabled.iter(*_ENABLED):
        if "location" in element.attrib:
            del element.attrib["location"]
            changed = True
    return changed
