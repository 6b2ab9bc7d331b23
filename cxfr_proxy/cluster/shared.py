"""The state that several proxies share, in a store of keys and values: its layout, and its meaning.

=================== =========================================== ====================================================
key below a prefix  value                                       says
=================== =========================================== ====================================================
``nodes/NAME``      ``10.0.0.11:5222 weight=2``                 a line of ``nodes.txt`` without the name
``states/NAME``     ``drain``, or JSON (:class:`Directive`)      what the operator wants of that node
``pins/BARE JID``   ``NAME``                                    the node of a user who was pinned to it
``proxies/ID``      JSON (:class:`ProxyState`)                  a proxy that lives; the key goes when it dies
=================== =========================================== ====================================================

Everything here follows from the keys alone, and not from the order in which a proxy came to know them: a proxy that
starts today reads the same as one that has seen every change. So a node's admin state is a function of two values: the
directive's, as long as the node's line still says the ``state=`` that it said when the directive was given, and the
line's own otherwise.

A value that is wrong is a fault that names its key, and it costs nothing else: a node stays as it was last read, and a
directive or a pin counts as absent.

The fleet has one pace, and each proxy has a share of it. All compute the shares from the same published numbers, so
that their sum is 1. Most of the pace is divided by how many clients each proxy has to move, so that all finish at the
same time; a tenth is divided evenly, for a proxy whose need is not known yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

from cxfr_proxy.cluster.nodes import AdminState, NodeSpec
from cxfr_proxy.cluster.nodes_file import NodesFileError, parse_node
from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.errors import ConfigError

EVEN_SHARE: Final = 0.1
"""The part of the pace that is divided evenly."""
_LONGEST_VALUE: Final = 64 << 10
"""Most characters of a value that is read as JSON: a directive has 200 bytes."""
_MOST: Final = 1 << 53
"""The largest number: up to it a float is exact. The limit keeps out values that are not finite."""


class Section(StrEnum):
    """The first part of a key, below the prefix."""

    NODES = "nodes"
    STATES = "states"
    PINS = "pins"
    PROXIES = "proxies"


@dataclass(frozen=True, slots=True)
class Directive:
    """The state that the operator wants for a node, as given to one proxy for all of them.

    Times are in seconds since the epoch, ``None`` if there is none;
    :class:`~cxfr_proxy.transfers.drain_stages.Schedule` has the same by another clock.
    """

    admin_state: AdminState
    grace_end: float | None = None
    halfway: float | None = None
    deadline: float | None = None
    rate: float | None = None
    """Clients to move per second, of the whole fleet; ``None``: the usual one."""
    aborted: bool = False
    against: AdminState | None = None
    """The node's own ``state=`` at that time: the directive is void when that changes. ``None``: it always counts."""
    rebalance: bool = True
    """Whether users who belong on a node that is ready again may be moved there for that."""
    to_restart: bool = False
    """A roll has still to restart it."""

    def holds(self, spec: NodeSpec) -> bool:
        return self.against is None or self.against is spec.admin_state

    def encode(self) -> str:
        """Return it as a value of the store."""
        return _encode(self)


@dataclass(frozen=True, slots=True)
class ProxyState:
    """A proxy's report of itself to the others. ``to_move``: clients that are to be moved now; ``left``: how many it
    still has on each node that is being emptied, which shows that it knows of that; ``settling``: those of them that it
    has emptied so lately that they must not be stopped yet."""

    sessions: int = 0
    to_move: int = 0
    left: Mapping[str, int] = field(default_factory=dict)
    settling: tuple[str, ...] = ()

    def encode(self) -> str:
        """Return it as a value of the store."""
        return _encode(self)


def _encode(value: Directive | ProxyState) -> str:
    pairs = {each.name: getattr(value, each.name) for each in fields(value)}
    return json.dumps({name: each for name, each in pairs.items() if each is not None})


def read_directive(text: str) -> Directive:
    """Read an admin state as somebody writes it by hand, or JSON. Raises :class:`ConfigError`."""
    if text.strip() in list(AdminState):
        return Directive(AdminState(text.strip()))
    value = _object(text)
    return Directive(
        admin_state=_admin_state(value.get("admin_state")),
        grace_end=_number(value, "grace_end"),
        halfway=_number(value, "halfway"),
        deadline=_number(value, "deadline"),
        rate=_number(value, "rate", positive=True),
        aborted=value.get("aborted") is True,
        rebalance=value.get("rebalance") is not False,
        to_restart=value.get("to_restart") is True,
        against=None if value.get("against") is None else _admin_state(value["against"]),
    )


def read_proxy(text: str) -> ProxyState:
    """Read a proxy's state. Raises :class:`ConfigError`."""
    value = _object(text)
    left = value.get("left", {})
    if not isinstance(left, dict):
        raise ConfigError(f"expected numbers by node as left, found {left!r:.60}")
    settling = value.get("settling", [])
    if not isinstance(settling, list) or not all(isinstance(name, str) for name in settling):
        raise ConfigError(f"expected names of nodes as settling, found {settling!r:.60}")
    counts = {name: _count(left, name) for name in left}
    return ProxyState(_count(value, "sessions"), _count(value, "to_move"), counts, tuple(settling))


def _count(value: Mapping[str, object], name: str) -> int:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _MOST:
        raise ConfigError(f"expected a whole number as {name}, found {found!r:.60}")
    return found


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text) if len(text) <= _LONGEST_VALUE else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"expected {', '.join(AdminState)} or a JSON object, found {text!r:.60}")
    return value


def _admin_state(value: object) -> AdminState:
    if not isinstance(value, str) or value not in list(AdminState):
        raise ConfigError(f"expected {', '.join(AdminState)} as an admin state, found {value!r:.60}")
    return AdminState(value)


def _number(value: Mapping[str, object], name: str, *, positive: bool = False) -> float | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= _MOST:
        raise ConfigError(f"expected a number as {name}, found {found!r:.60}")
    if positive and not found:
        raise ConfigError(f"expected a {name} above 0")
    return float(found)


def share_of(own: str, proxies: Mapping[str, ProxyState]) -> float:
    """Return that proxy's part of the common pace, 0 to 1; all of it if it is not among them, or alone."""
    if own not in proxies or len(proxies) == 1:
        return 1.0
    needs = sum(each.to_move for each in proxies.values())
    even = 1 / len(proxies)
    return EVEN_SHARE * even + (1 - EVEN_SHARE) * (proxies[own].to_move / needs if needs else even)


# --- the keys, as they are now


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value. ``revision``: the store's when it was written, which never comes twice."""

    value: str
    revision: int


_T = TypeVar("_T")


@dataclass(slots=True)
class Keys:
    """The keys below ``prefix``; ``targets``: what may be a public address."""

    prefix: str
    targets: RedirectTargets = ANYWHERE
    _entries: dict[Section, dict[str, Entry]] = field(default_factory=lambda: {section: {} for section in Section})
    _specs: dict[str, NodeSpec] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Faults, by key."""

    def key(self, section: Section, name: str) -> str:
        return f"{self.prefix}/{section}/{name}"

    def entry(self, section: Section, name: str) -> Entry | None:
        return self._entries[section].get(name)

    def put(self, key: str, entry: Entry | None) -> Section | None:
        """Take over a key's new value; ``None``: it is gone. The section it is in, if it is in one."""
        section, name = self._split(key)
        if section is None:
            return None
        self.faults.pop(key, None)
        if entry is None:
            self._entries[section].pop(name, None)
        else:
            self._entries[section][name] = entry
        return section

    def replace(self, entries: Iterable[tuple[str, Entry]]) -> None:
        """Replace all entries."""
        self._entries = {section: {} for section in Section}
        self.faults.clear()
        for key, entry in entries:
            self.put(key, entry)

    def _split(self, key: str) -> tuple[Section | None, str]:
        section, _, name = key.removeprefix(f"{self.prefix}/").partition("/")
        known = key.startswith(f"{self.prefix}/") and section in list(Section) and name
        return (Section(section) if known else None), name

    # --- what they say

    def read_nodes(
        self, pending: Mapping[str, Directive] = MappingProxyType({})
    ) -> tuple[tuple[NodeSpec, ...], dict[str, Directive]]:
        """Return the nodes by name, each with the admin state that holds for it, and the directives that hold.

        ``pending`` are directives that were given here and are not in the store yet. Raises :class:`ConfigError` where
        there are no nodes.
        """
        self._specs = {
            name: spec
            for name, entry in sorted(self._entries[Section.NODES].items())
            if (spec := self._spec(name, entry)) is not None
        }
        if not self._specs:
            first = next(iter(self.faults.items()), None)
            found = f"{first[0]}: {first[1]}" if first is not None else "none"
            raise ConfigError(
                f"expected a node ('address [key=value ...]') as {self.key(Section.NODES, 'NAME')}, found {found}"
            )
        directives = {
            name: directive for name, spec in self._specs.items() if (directive := self._directive(name, spec, pending))
        }
        return tuple(
            replace(spec, admin_state=directives[name].admin_state) if name in directives else spec
            for name, spec in self._specs.items()
        ), directives

    def own_admin_state(self, name: str) -> AdminState | None:
        """Return what the node's line says; ``None`` if there is none."""
        spec = self._specs.get(name)
        return spec.admin_state if spec is not None else None

    def _spec(self, name: str, entry: Entry) -> NodeSpec | None:
        """Return the entry as it was last read well, if it is wrong now."""
        key = self.key(Section.NODES, name)
        try:
            return parse_node(name, entry.value, key, self.targets)
        except NodesFileError as exc:
            self.faults[key] = "; ".join(f"column {fault.column}: {fault.message}" for fault in exc.errors)
            return self._specs.get(name)

    def _directive(self, name: str, spec: NodeSpec, pending: Mapping[str, Directive]) -> Directive | None:
        directive = pending.get(name) or self._read(Section.STATES, name, read_directive)
        return directive if directive is not None and directive.holds(spec) else None

    def proxies(self) -> dict[str, ProxyState]:
        """Return the proxies that live, by their ids."""
        found = {name: self._read(Section.PROXIES, name, read_proxy) for name in self._entries[Section.PROXIES]}
        # One that can't be understood (it may be newer) lives all the same.
        return {name: state if state is not None else ProxyState() for name, state in found.items()}

    def pins(self) -> dict[str, str]:
        """Return the pins: nodes by bare JID."""
        return {user: entry.value.strip() for user, entry in self._entries[Section.PINS].items()}

    def _read(self, section: Section, name: str, read: Callable[[str], _T]) -> _T | None:
        entry = self._entries[section].get(name)
        if entry is None:
            return None
        try:
            return read(entry.value)
        except ConfigError as exc:
            self.faults[self.key(section, name)] = exc.message
            return None
