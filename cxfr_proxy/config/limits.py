"""The settings that are sizes: what one client or node may cost. A part of the table (:mod:`.table`)."""

from __future__ import annotations

from dataclasses import dataclass

from cxfr_proxy.config import values
from cxfr_proxy.config.settings import Group, Reload, setting


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what one client or node may cost."""

    max_element_negotiating: int = setting(
        Group.SIZES,
        Reload.NEW,
        values.size(minimum=10_000),
        32_768,
        "longest element before a resource is bound",
        "The client is unknown yet, so little is kept for it. Tokens that replace passwords have up to some 20 KB. "
        "RFC 6120 section 13.12 forbids less than 10000 bytes.",
    )
    max_element_up: int = setting(
        Group.SIZES,
        Reload.NEW,
        values.size(minimum=10_000),
        262_144,
        "longest element from a client",
        "Servers accept as much from clients by default. RFC 6120 section 13.12 forbids less than 10000 bytes.",
    )
    max_element_down: int = setting(
        Group.SIZES,
        Reload.NEW,
        values.size(minimum=10_000),
        1_048_576,
        "longest element from a node that is held back until it is complete; longer ones are cut through, that is, "
        "passed on in pieces",
        "Only whole elements leave a client's stream intact when a node dies. Large rosters and archives fit. This "
        "much memory may be held for each session.",
    )
    max_depth: int = setting(
        Group.SIZES,
        Reload.NEW,
        values.whole(minimum=8),
        64,
        "deepest nesting of elements",
        "A forwarded, encrypted, archived message nests about 10 deep. Parsers that recurse fail at some hundreds.",
    )
    connections_per_address: int | None = setting(
        Group.SIZES,
        Reload.NEW,
        values.MAXIMUM,
        1000,
        "most connections from one client address at a time; none (or 0) for no limit",
        "An office or a mobile carrier may have hundreds of users behind one address. A thousand idle connections "
        "cost less than 20 MB. Behind a balancer, trusted-proxies makes them known; where that can't be, set none.",
    )
    max_unacknowledged: int = setting(
        Group.SIZES,
        Reload.NEW,
        values.size(minimum=10_000),
        65_536,
        "most bytes of a client's stanzas that are kept because the node has not acknowledged them "
        "(--node-stream-management); a client that sends more is not read meanwhile",
        "A node nearby acknowledges within milliseconds. This much memory may be held for each session, and one "
        "element more.",
    )
