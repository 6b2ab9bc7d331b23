"""Addresses: the three parts of a JID, RFC 7622 section 3.1.

Only the cutting is done here. There is no PRECIS yet: nothing is case-folded or normalised, so two spellings of one
address differ until the code that compares them (placement, say) agrees on a form. No character is ever refused either:
the JIDs that arrive here were accepted by a node, which knows its own rules better than a proxy does. Two things *are*
refused: an empty part, which no rule allows, and a length that three parts cannot add up to.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

MAX_JID_BYTES: Final = 3 * 1023 + 2
"""Three parts of at most 1023 octets each, and their two separators: 3071 (RFC 7622 section 3.1)."""


class JidError(ValueError):
    """The text is no JID. The message never repeats it: it may be long, and it may be private."""


class Jid(NamedTuple):
    """``[local@]domain[/resource]`` taken apart; ``None`` is a part that is not there, never an empty one."""

    local: str | None
    domain: str
    resource: str | None


def split(jid: str) -> Jid:
    """Take a JID apart. The first ``/`` ends the bare JID; only before it does an ``@`` end the localpart.

    Raises :class:`JidError`.
    """
    # A character has at most four bytes, so few have to be counted. "surrogatepass": a lone surrogate is no reason for
    # another kind of exception than the documented one.
    if len(jid) > MAX_JID_BYTES // 4 and len(jid.encode("utf-8", "surrogatepass")) > MAX_JID_BYTES:
        raise JidError(f"a JID has at most {MAX_JID_BYTES} bytes")
    address, slash, resource = jid.partition("/")
    local, at, domain_part = address.partition("@")
    if not at:
        local, domain_part = "", address
    if at and not local:
        raise JidError("nothing stands before the '@' of a JID")
    if not domain_part:
        raise JidError("a JID has no domain")
    if slash and not resource:
        raise JidError("nothing follows the '/' of a JID")
    return Jid(local if at else None, domain_part, resource if slash else None)


@functools.lru_cache(maxsize=256)  # a login asks for the same one several times
def bare(jid: str) -> str:
    """Return the address without its resource. Raises :class:`JidError`."""
    local, domain_part, _ = split(jid)
    return domain_part if local is None else f"{local}@{domain_part}"


def domain(jid: str) -> str:
    """Return the domainpart, as written. Raises :class:`JidError`."""
    return split(jid).domain
