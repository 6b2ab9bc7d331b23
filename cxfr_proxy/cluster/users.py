"""One key for all spellings of an account.

``Juliet@EXAMPLE.org`` and ``juliet@example.org`` are one account on every server, and so are the ways in which Unicode
lets one write ``josé``. Whoever looks a user up (the hash, pins, the user map) does so by this key, so they agree.

The rules are RFC 7622's: the localpart is prepared by the profile UsernameCaseMapped of PRECIS (RFC 8265 section 3.3),
the domainpart is what IDNA makes of it, in lower case and without a trailing dot (section 3.2). Older servers prepare
localparts by nodeprep (RFC 3920), which folds a little more (``ß`` and ``ss``); such a user may have two keys, and with
them two homes, if his clients write him in two ways.

Nobody is refused: what is no name by these rules is folded as well as can be, and the node judges it.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Final

_MAX_CHARACTERS: Final = 1023
"""Of each part, RFC 7622 sections 3.2.1 and 3.3.1; a longer one is nobody's, and not worth the time that it takes."""


def user_key(user: str) -> str:
    """The key of a bare JID."""
    # Nearly all are ASCII, where lower case is all there is to it; but for domains that hide Unicode (RFC 3492).
    if user.isascii():
        key = user.lower()
        if "xn--" not in key:
            return key[:-1] if key[-1:] == "." else key
    return _unicode_key(user)


@functools.lru_cache(maxsize=1024)  # a key may take 12 KB
def _unicode_key(user: str) -> str:
    local, at, domain = user.rpartition("@")
    return f"{_local_key(local)}{at}{domain_key(domain)}"


def domain_key(domain: str) -> str:
    """The same for a domain alone."""
    key = domain.lower()
    if len(key) > _MAX_CHARACTERS:
        return key.removesuffix(".")
    if not key.isascii():
        # All of IDNA's dots: the ideographic one is left by NFKC (UTS 46 section 2.3).
        key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", domain).lower()).replace("\u3002", ".")
    key = key.removesuffix(".")
    return key if key.isascii() and "xn--" not in key else ".".join(map(_label_key, key.split(".")))


def _local_key(local: str) -> str:
    if local.isascii():
        return local.lower()
    if len(local) <= _MAX_CHARACTERS:
        from precis_i18n import get_profile  # few programs ever meet such a name

        try:
            return str(get_profile("UsernameCaseMapped").enforce(local))
        except UnicodeEncodeError:
            pass
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", local).lower())


def _label_key(label: str) -> str:
    if label.isascii() and not label.startswith("xn--"):
        return label
    import idna

    try:
        return idna.decode(label, uts46=True)
    except UnicodeError:
        return label
