"""The state that a proxy keeps for its next start: orders, pins, a roll, and what was learned of client software.

It is one JSON object::

    {"format": "cxfr-proxy state", "version": 1,
     "nodes": {NAME: what the operator wants of that node, as in :class:`~.shared.Directive`},
     "pins": {BARE JID: NAME}, "roll": a :class:`~.roll.RollRecord`, or nothing,
     "software": {CAPABILITIES: {"knows_cxfr": true, "learned_at": 1767225600.0}}}

A newer program adds fields and leaves ``version``, as long as an older one that ignores them does nothing wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from cxfr_proxy.cluster.assigned import MAX_PINS
from cxfr_proxy.cluster.roll import RollRecord
from cxfr_proxy.cluster.shared import Directive, read_directive
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import user_key

FORMAT: Final = "cxfr-proxy state"
VERSION: Final = 1
MAX_SOFTWARE: Final = 1000
"""Most capabilities hashes, the latest. A large server sees some hundreds of programs and versions."""
MAX_CAPS: Final = 512
"""Most characters of one of them: ``node#ver``, a URI and a hash."""
MAX_STATE_BYTES: Final = 64 << 20
"""Pins of the longest JIDs there can be have half of it."""
SOFTWARE_SECONDS: Final = 30 * 86400.0
"""Seconds for which a lesson counts. A program that only seemed not to know the request is asked again some day."""


class LearnedSoftware(msgspec.Struct, frozen=True):
    """Whether clients with some capabilities know the request, and since when that is known, in seconds since the
    epoch."""

    knows_cxfr: bool
    learned_at: float


class _Head(msgspec.Struct):
    format: str
    version: int


class _Document(msgspec.Struct, omit_defaults=True):
    format: str = msgspec.field(default_factory=lambda: FORMAT)  # not as a default, which is omitted
    version: int = msgspec.field(default_factory=lambda: VERSION)
    nodes: dict[str, msgspec.Raw] = {}
    pins: dict[str, str] = {}
    roll: RollRecord | None = None
    software: dict[str, LearnedSoftware] = {}


@dataclass(slots=True)
class KeptState:
    """``orders`` by node, ``pins`` by the user's key, ``software`` by capabilities, the latest last; ``roll`` is
    ``None`` where none goes on."""

    orders: dict[str, Directive] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    roll: RollRecord | None = None
    software: dict[str, LearnedSoftware] = field(default_factory=dict)

    def encode(self) -> bytes:
        nodes = {name: msgspec.Raw(order.encode().encode()) for name, order in self.orders.items()}
        return (
            msgspec.json.encode(_Document(nodes=nodes, pins=self.pins, roll=self.roll, software=self.software)) + b"\n"
        )

    def learn(self, known: Mapping[str, bool], now: float) -> None:
        """Keep what is known of software by now; ``now`` in seconds since the epoch."""
        latest = [(caps, knows) for caps, knows in known.items() if len(caps) <= MAX_CAPS][-MAX_SOFTWARE:]
        before, self.software = self.software, {}
        for caps, knows in latest:
            kept = before.get(caps)
            same = kept is not None and kept.knows_cxfr is knows
            self.software[caps] = kept if kept is not None and same else LearnedSoftware(knows, now)

    def software_known(self, now: float) -> dict[str, bool]:
        """Return what still counts of what was learned."""
        return {
            caps: each.knows_cxfr for caps, each in self.software.items() if now - each.learned_at < SOFTWARE_SECONDS
        }


def read_state(data: bytes) -> KeptState:
    """Read what :meth:`KeptState.encode` has written. Raises :class:`ConfigError` with the place of the fault."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ConfigError(f"expected a state file of cxfr-proxy: {exc}") from exc
    if head.format != FORMAT:
        raise ConfigError(f"expected a state file of cxfr-proxy, found one of {head.format!r:.60}")
    if head.version != VERSION:
        raise ConfigError(f"expected version {VERSION}, found {head.version}: another version of cxfr-proxy wrote it")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ConfigError(f"expected the state as cxfr-proxy keeps it: {exc}") from exc
    _limit("pins", document.pins, MAX_PINS)
    _limit("software", document.software, MAX_SOFTWARE)
    pins = {user_key(user): node for user, node in document.pins.items()}
    return KeptState(dict(_orders(document)), pins, document.roll, document.software)


def _orders(document: _Document) -> Iterable[tuple[str, Directive]]:
    for name, text in document.nodes.items():
        try:
            yield name, read_directive(bytes(text).decode())
        except ConfigError as exc:
            raise ConfigError(f"nodes: {name!r:.80}: {exc.message}") from exc


def _limit(what: str, found: Mapping[str, object], most: int) -> None:
    if len(found) > most:
        raise ConfigError(f"{what}: expected at most {most}, found {len(found)}")
