"""Make one key for all spellings of an account, and of a domain; and for all addresses of a client.

``Juliet@EXAMPLE.org`` and ``juliet@example.org`` are one account on every server, and so are the ways in which Unicode
can spell ``josé``. Everything that looks a user up (the hash, pins, the user map) uses this key, so all of them agree.
Everything that compares two domains (which are served, who may log in as whom, a certificate's names) compares their
keys. :func:`dns_name` returns a domain's name where only ASCII is allowed: in TLS and in certificates.

The rules are RFC 7622's: the localpart is prepared by the profile UsernameCaseMapped of PRECIS (RFC 8265 section 3.3),
the domainpart by IDNA, in lower case and without a trailing dot (section 3.2). Older servers prepare localparts by
nodeprep (RFC 3920), which folds a little more (``ß`` and ``ss``). A user there may have two keys, and so two homes, if
their clients spell the name in two ways.

Everything that bounds what one client may take goes by :func:`address_range`, and not by the address.

Nobody is refused: a name that these rules don't allow is folded as well as possible, and the node judges it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from ipaddress import IPv6Address, IPv6Network
from typing import Final

_MAX_CHARACTERS: Final = 1023
"""Bytes of each part, RFC 7622 sections 3.2.1 and 3.3.1. A longer one belongs to nobody and is not worth the time."""
_MAX_DNS_CHARACTERS: Final = 253
"""Characters of a name in DNS, RFC 1035 section 2.3.4: 255 octets with the lengths of its labels."""

_DNS_CHARACTERS: Final = re.compile("[a-z0-9_.:-]+")
"""Characters of a domain, with the underscore of services and container networks, and the colon of IPv6 addresses."""


def user_key(user: str) -> str:
    """Return the key of a bare JID."""
    # Nearly all are ASCII, where lower case is all there is to it; but for domains that hide Unicode (RFC 3492), or are
    # addresses.
    if user.isascii():
        key = user.lower()
        if "xn--" not in key and "[" not in key:
            return key[:-1] if key[-1:] == "." else key
    return _unicode_key(user)


@functools.lru_cache(maxsize=1024)  # a key may take 12 KB
def _unicode_key(user: str) -> str:
    local, at, domain = user.rpartition("@")
    return f"{_local_key(local)}{at}{domain_key(domain)}"


def domain_key(domain: str) -> str:
    """Return the key of a domain."""
    return _domain_key(domain) if len(domain) <= _MAX_CHARACTERS else domain.lower().removesuffix(".")


@functools.lru_cache(maxsize=128)  # a login asks four times, and a site has few domains; a key may take 50 KB
def _domain_key(domain: str) -> str:
    key = domain.lower()
    if not key.isascii():
        # All of IDNA's dots: the ideographic one is left by NFKC (UTS 46 section 2.3).
        key = _folded(domain).replace("\u3002", ".")
    key = key.removesuffix(".")
    if key.startswith("[") and key.endswith("]"):
        return _address_key(key)
    return key if key.isascii() and "xn--" not in key else ".".join(map(_label_key, key.split(".")))


def _address_key(literal: str) -> str:
    """Return the key of an IPv6 address in brackets, which may be a domain as well (RFC 7622 section 3.2)."""
    try:
        return f"[{IPv6Address(literal[1:-1])}]"
    except ValueError:
        return literal


def _local_key(local: str) -> str:
    if local.isascii():
        return local.lower()
    if len(local) <= _MAX_CHARACTERS:
        from precis_i18n import get_profile  # few programs ever meet such a name

        try:
            return str(get_profile("UsernameCaseMapped").enforce(local))
        except UnicodeEncodeError:
            pass
    return _folded(local)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def dns_name(domain: str) -> str:
    """Return a domain's name in DNS, in TLS (RFC 6066 section 3: no dot at the end) and in certificates.

    An IPv6 address comes without its brackets; a wildcard (``*.``) may stand first. Raises ``ValueError`` if no host
    can have that name.
    """
    key = domain_key(domain)
    if key.startswith("[") and key.endswith("]") and ":" in key:
        return key[1:-1]
    name = key if key.isascii() else ".".join(map(_ascii_label, key.split(".")))
    good = _DNS_CHARACTERS.fullmatch(name.removeprefix("*.")) and len(name) <= _MAX_DNS_CHARACTERS
    if not good or not all(0 < len(label) <= 63 for label in name.split(".")):
        raise ValueError("not a host's name")
    return name


def _label_key(label: str) -> str:
    if label.isascii() and not label.startswith("xn--"):
        return label
    import idna  # few programs ever meet such a name

    try:
        return idna.decode(label, uts46=True)
    except UnicodeError:
        return _old_label(label) if label.startswith("xn--") else label


def _old_label(label: str) -> str:
    """Return the key of a label from before IDNA 2008 that is still registered: one with a symbol in it."""
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
        is_its_own_key = _folded(decoded) == decoded and f"xn--{decoded.encode('punycode').decode()}" == label
    except UnicodeError:
        return label
    return decoded if is_its_own_key and not decoded.isascii() else label


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label
    import idna

    try:
        return idna.encode(label).decode()
    except UnicodeError:
        return f"xn--{label.encode('punycode').decode()}"


def address_range(address: str) -> str:
    """Return the range from which one client can choose its address: of IPv6 the /64 (RFC 7707), else the address
    itself. Text that is no address is returned as it is."""
    if ":" not in address:
        return address
    try:
        return str(IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
