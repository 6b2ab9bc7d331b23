"""Nodes from SRV records (RFC 2782).

A record is a node: its name is the target's, with the port behind it where that is not the usual one (the last part of
a host's name is never a number, so no two nodes come to the same name); its address is target and port; its priority is
the record's. Weights count against others of the same priority only, so they are scaled to what a node can have by the
largest of them. A weight of 0 means "hardly ever" beside others, and nothing where all are 0: it becomes 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from cxfr_proxy.cluster.addresses import XMPP_PORT, XMPPS_PORT, parse_address
from cxfr_proxy.cluster.nodes import MAX_WEIGHT, NodeSpec, NodeTls
from cxfr_proxy.errors import ConfigError

LEAST_SECONDS: Final = 5.0
"""Least seconds between two queries, whatever the records' TTL: a TTL of 0 asks for one query per connection."""
MOST_SECONDS: Final = 300.0
"""Most seconds between two queries: somebody waits for a node that is to be emptied."""


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One record, with its target as text. A target of ``.`` says that the service is not offered (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


def specs_from(records: Iterable[SrvRecord], common: NodeSpec, place: str) -> tuple[NodeSpec, ...]:
    """Return nodes in a fixed order; ``common`` has the options of all.

    Raises :class:`~cxfr_proxy.errors.ConfigError` with ``place`` for a target that is no host, or no records.
    """
    offered = [replace(each, target=each.target.removesuffix(".").lower()) for each in records if each.target != "."]
    found = sorted(offered, key=lambda each: (each.priority, each.target, each.port, each.weight))
    if not found:
        raise ConfigError("expected SRV records, found none that offers the service", file=place)
    heaviest: dict[int, int] = {}
    for record in found:
        heaviest[record.priority] = max(record.weight, heaviest.get(record.priority, 0))
    specs: dict[str, NodeSpec] = {}
    for record in found:
        spec = _spec(record, heaviest[record.priority], common, place)
        specs.setdefault(spec.name, spec)  # twice the same: the one with the better priority
    return tuple(specs.values())


def _spec(record: SrvRecord, heaviest: int, common: NodeSpec, place: str) -> NodeSpec:
    target = record.target
    try:
        address = parse_address(f"{target}:{record.port}", place)
    except ConfigError as exc:
        raise ConfigError(f"the record of {target!r:.80}: {exc.message}", file=place) from exc
    usual = XMPPS_PORT if common.tls is NodeTls.DIRECT else XMPP_PORT
    return replace(
        common,
        name=target if record.port == usual else f"{target}.{record.port}",
        address=address,
        weight=max(1, round(record.weight * MAX_WEIGHT / heaviest)) if heaviest else 1,
        priority=record.priority,
    )


def next_query(ttl: float, chance: float) -> float:
    """Return the seconds until the records are to be looked up again; ``chance`` (0 to 1) keeps proxies from asking
    together."""
    return min(max(ttl, LEAST_SECONDS), MOST_SECONDS) * (1 + chance / 10)
