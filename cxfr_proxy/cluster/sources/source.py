"""The interface of a source of the list of nodes.

A source gives readings: :meth:`NodeSource.read` one now, :meth:`NodeSource.next_reading` the next one that differs. It
never touches the live :class:`~cxfr_proxy.cluster.members.Cluster`, so a reading that fails changes nothing. A source
whose origin is away has no new readings. It logs that once (``source-lost``), goes on trying, and logs when it is back
(``source-back``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import trio

from cxfr_proxy.cluster.nodes import NodeSpec
from cxfr_proxy.cluster.shared import Directive, ProxyState
from cxfr_proxy.cluster.targets import RedirectTargets
from cxfr_proxy.events import emit

FIRST_RETRY_SECONDS: Final = 1.0
LAST_RETRY_SECONDS: Final = 10.0
"""The pause between two attempts to reach an origin that is away: the first one, which doubles, and the longest."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """The nodes as they are to be. ``directives`` are those that hold, by node, whichever proxy they were given to;
    their admin states are in ``specs`` already. ``faults``: what was wrong and left out, with its place."""

    specs: tuple[NodeSpec, ...]
    directives: Mapping[str, Directive] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


class NodeSource(Protocol):
    """See the module."""

    @property
    def name(self) -> str:
        """As the operator wrote it, for messages."""

    @property
    def status(self) -> SourceStatus: ...

    @property
    def shared(self) -> Shared | None:
        """The state that is shared with peer proxies; ``None`` if only the list is."""

    async def read(self) -> Reading:
        """Read it now. Raises :class:`~cxfr_proxy.errors.ConfigError`."""

    async def next_reading(self) -> Reading:
        """Wait for another reading than the last one. Raises :class:`~cxfr_proxy.errors.ConfigError` for one that is
        no good; the next call waits for the next. Cancelling loses nothing."""

    def unread(self) -> None:
        """Have :meth:`next_reading` return what was read last: it was not taken, since something else was wrong."""

    def allow(self, targets: RedirectTargets) -> None:
        """Let public addresses be within these, from the next reading on."""

    async def aclose(self) -> None:
        """Close the source: no more readings are wanted."""


class Shared(Protocol):
    """The state that several proxies share, other than the list of nodes.

    ``pins`` are nodes by bare JID. ``on_share`` is called with this proxy's part of the pace when it changes,
    ``on_pins`` when a pin does.
    """

    on_share: Callable[[float], None]
    on_pins: Callable[[], None]

    @property
    def id(self) -> str:
        """This proxy's, among ``proxies``."""

    @property
    def pins(self) -> Mapping[str, str]: ...

    @property
    def proxies(self) -> Mapping[str, ProxyState]:
        """The proxies that live, as they have reported."""

    @property
    def pending(self) -> int:
        """Orders and pins that the others haven't heard of yet."""

    async def run(self) -> None:
        """Keep up with the store until cancelled; then the others know at once that this proxy is gone."""

    def set_directive(self, node: str, directive: Directive) -> None:
        """Share a directive with all proxies. If the store is away, that is done when it is back, unless somebody
        else has given another one meanwhile."""

    def set_pin(self, user: str, node: str | None) -> None:
        """Set a pin, as :meth:`set_directive` does; ``None`` takes it away."""

    def report(self, state: ProxyState) -> None:
        """Set this proxy's report; the others get it about once a second."""


@dataclass(frozen=True, slots=True)
class _Since:
    at: float
    reason: str


class SourceState(StrEnum):
    """Of a source."""

    WELL = "well"
    FAULTY = "faulty"
    """It can be read, but its content is no good: everything is as it was read last."""
    LOST = "lost"
    """It can't be reached, or is gone: the same."""


class SourceStatus:
    """The state of a source: whether it can be reached, and whether its content is good. ``name`` is the source's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lost: _Since | None = None
        self._faulty: _Since | None = None
        self._pause = FIRST_RETRY_SECONDS

    @property
    def state(self) -> SourceState:
        return SourceState.LOST if self._lost else SourceState.FAULTY if self._faulty else SourceState.WELL

    @property
    def lost_at(self) -> float | None:
        """When it was lost, by trio's clock; ``None`` while it can be reached."""
        return self._lost.at if self._lost is not None else None

    @property
    def since(self) -> float | None:
        """When it was lost, or was found faulty, by trio's clock; ``None`` while all is well."""
        trouble = self._lost or self._faulty
        return trouble.at if trouble is not None else None

    @property
    def reason(self) -> str | None:
        """Why it is lost or faulty; ``None`` while all is well."""
        trouble = self._lost or self._faulty
        return trouble.reason if trouble is not None else None

    def lost(self, reason: str) -> None:
        """Note that it can't be reached; logged the first time."""
        before, now = self._lost, trio.current_time()
        self._lost = _Since(before.at if before is not None else now, reason)
        if before is None:
            emit(_log, "source-lost", level=logging.ERROR, source=self._name, reason=reason)

    def well(self) -> None:
        """Note that it was reached."""
        self._pause = FIRST_RETRY_SECONDS
        if self._lost is not None:
            seconds = trio.current_time() - self._lost.at
            self._lost = None
            emit(_log, "source-back", source=self._name, seconds=round(seconds, 1))

    def refused(self, reason: str) -> None:
        """Note that its content is no good. The reader logs it."""
        before, now = self._faulty, trio.current_time()
        self._faulty = _Since(before.at if before is not None else now, reason)

    def taken(self) -> None:
        """Note that its content holds."""
        self._faulty = None

    def next_pause(self) -> float:
        """Return the seconds until the next attempt; longer each time."""
        pause, self._pause = self._pause, min(2 * self._pause, LAST_RETRY_SECONDS)
        return pause
