"""The parts of the running proxy that an operator's commands need, each as small as what commands need of it.

The list of nodes, the rebalances and the pins are the real ones, which stand below this room. The parts above it (those
that ask the workers, keep the drains, speak with peer proxies) are known here by these protocols.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cxfr_proxy.admin.rows.filters import FoundSessions, SessionFilter
from cxfr_proxy.admin.rows.live_rows import SummaryRow
from cxfr_proxy.admin.rows.order_rows import RestartProgress, UpgradeProgress
from cxfr_proxy.admin.rows.rows import (
    EventRow,
    InfoRow,
    ProxyRow,
    SessionDetailsRow,
    SettingRow,
    SourceRow,
    TransferRow,
    WorkerRow,
)
from cxfr_proxy.cluster.plan import DrainForecast
from cxfr_proxy.cluster.rebalance import RebalanceForecast as RebalanceForecast
from cxfr_proxy.cluster.roll import Roll
from cxfr_proxy.transfers.counts import NodeCounts
from cxfr_proxy.transfers.drains import Drain
from cxfr_proxy.transfers.move_window import WindowState
from cxfr_proxy.transfers.statistics import Totals, TransferStatistics


class SessionLists(Protocol):
    """Lists what workers know."""

    async def transfer_rows(self) -> list[TransferRow]:
        """Return running and recent transfers, newest last."""

    def omissions(self) -> list[str]:
        """Say in a sentence each what is missing from the answers that were given last."""


class Sessions(SessionLists, Protocol):
    """Where the sessions are."""

    @property
    def sessions(self) -> int:
        """How many there are."""

    @property
    def statistics(self) -> TransferStatistics:
        """All transfers there were."""

    def of_node(self, name: str) -> NodeCounts:
        """Return the node's counts as they are known by now."""

    def totals(self) -> Totals:
        """Return the totals as they are known by now."""

    def moves(self) -> WindowState:
        """Return how it stands with the sessions that the proxy takes to other nodes itself."""

    def worker_rows(self) -> list[WorkerRow]:
        """Return the workers by number; two of a number while one takes over from the other."""

    async def refresh(self) -> None:
        """Have the workers say what there is now, for :meth:`of_node` and :meth:`worker_rows`."""

    async def states(self) -> dict[str, int]:
        """Return how many sessions are in which state; refreshes, too."""

    async def find_sessions(self, filters: Sequence[SessionFilter]) -> list[FoundSessions]:
        """Return the sessions that match each of these filters, of which there are
        :data:`~cxfr_proxy.admin.rows.filters.MOST_AT_ONCE` at most."""

    async def session_details(self, session_id: int) -> SessionDetailsRow | None:
        """Return what is known of a session; ``None``: there is none."""

    async def pinned_sessions(self) -> Mapping[str, Mapping[str, int]]:
        """Return how many sessions pinned users have on which node, by the user's key; users without any are left
        out."""

    async def plan(self, node: str) -> DrainForecast:
        """Return what a drain of that node would come to."""

    async def plan_rebalance(self, max_share: float | None) -> RebalanceForecast:
        """Return what a rebalance would come to; ``max_share`` in percent, ``None`` for all."""

    async def move(self, jid: str, node: str) -> int:
        """Ask the clients of that JID, bare or full, to move to ``node`` at once; return how many there were."""

    async def kick(self, jid: str) -> int:
        """End the sessions of that JID's clients, bare or full, at once; return how many there were."""


class Drainer(Protocol):
    """Empties nodes."""

    @property
    def drains(self) -> Mapping[str, Drain]:
        """The drains by node."""

    @property
    def rate(self) -> float:
        """Clients a second, of this proxy and its peers together."""

    @property
    def share(self) -> float:
        """The part of the rate that is this proxy's, 0 to 1."""

    @property
    def paced_rate(self) -> float | None:
        """Clients a second that have moved when it was not the rate that bounded that; ``None``: it always was."""

    def drain(
        self, node: str, *, grace: float | None = None, deadline: float | None = None, rate: float | None = None
    ) -> None:
        """Begin a drain, or go on with one on new terms; ``None`` leaves a term as it is."""

    def abort(self, node: str) -> None:
        """Move nobody off the node any more."""

    def undrain(self, node: str) -> None:
        """Forget the drain, if there is one."""

    def left(self, node: str) -> int:
        """Return how many sessions are on the node."""

    def awaited(self, node: str) -> int:
        """Return how many clients that were cut from the node may still resume there."""

    def is_done(self, node: str) -> bool:
        """Return whether a drain has left nobody on the node, and it has settled; also where there is no drain."""


class Peers(Protocol):
    """The other proxies that share the node list, and the source of that list."""

    @property
    def caveat(self) -> str | None:
        """The addition to the answer of a command, such as that only this proxy knows of it; ``None``: none."""

    def share_directive(self, node: str, *, rebalance: bool = True) -> None:
        """Let peers know what the operator has said of that node; ``rebalance``: its return may move clients."""

    def share_pin(self, user: str, node: str | None) -> None:
        """Let peers know of a pin; ``None``: it is taken away."""

    def left_elsewhere(self, node: str) -> int | None:
        """Return how many clients peers have on a node that is drained; ``None``: not all have reported that they know
        of it."""

    def settles_elsewhere(self, node: str) -> bool:
        """Return whether a peer has emptied the node so lately that it must not be stopped yet."""

    def source_row(self) -> SourceRow: ...

    def proxy_rows(self) -> list[ProxyRow]: ...


class AutoRebalance(Protocol):
    """Begins a rebalance when users have come to belong elsewhere."""

    def excuse(self, node: str, *, excused: bool = True) -> None:
        """Let the return of that node be no reason for a rebalance; or be one after all."""

    def seconds_until_due(self) -> float | None:
        """Return the seconds until one begins, if there is a reason by then and nothing changes; ``None``: none begins
        by itself."""


class Restart(Protocol):
    """One replacing of all workers."""

    def progress(self) -> RestartProgress: ...


class Restarts(Protocol):
    """Replaces workers."""

    @property
    def last(self) -> Restart | None:
        """The one under way, or the last there was."""

    def begin(self) -> None:
        """Start replacing all workers, unless that is under way. Raises :class:`ConfigError` while the proxy stops,
        and where the only worker is in the supervisor's process."""


class ProxyUpgrade(Protocol):
    """One replacement of the proxy by a new process."""

    def progress(self) -> UpgradeProgress: ...


class ProxyUpgrades(Protocol):
    """Replaces the proxy by a new process."""

    @property
    def last(self) -> ProxyUpgrade | None:
        """The one under way, or the last there was."""

    async def until_decided(self) -> None:
        """Wait while it is not clear which process is the proxy."""

    def begin(self, other: str | None = None) -> None:
        """Begin one; ``other`` is the program to start, ``None``: the one that runs. Raises :class:`ConfigError`."""


class Roller(Protocol):
    """Restarts nodes, one after the other. Each method raises :class:`ConfigError` where it does not fit."""

    @property
    def last(self) -> Roll | None:
        """The roll that goes on or has stopped, or the last one that ended well."""

    @property
    def current(self) -> Roll | None:
        """The roll that goes on, or has stopped on its way; ``None``: there is none."""

    def begin(
        self, nodes: Sequence[str], *, rate: float | None = None, deadline: float | None = None, by_command: bool
    ) -> None:
        """Begin a roll of these nodes, in that order; return at once.

        ``rate`` in transfers per second and ``deadline`` in seconds are those of each drain, ``None``: the usual ones.
        ``by_command``: the command line restarts the nodes; otherwise somebody does.
        """

    def proceed(self, *, by_command: bool) -> None:
        """Go on with the roll where it has stopped; ``by_command`` as in :meth:`begin`, also for one that goes on."""

    def restarted(self, node: str) -> None:
        """Note that the node whose turn it is was restarted."""

    def fail(self, reason: str) -> None:
        """Stop the roll, since restarting the node whose turn it is has failed."""

    def abort(self) -> str:
        """Give the roll up; return the node at which it was."""

    def running_commands(self) -> AbstractContextManager[None]:
        """Have a command line restart nodes for the duration of the block."""


class Keeping(Protocol):
    """Keeps what operators have ordered for the next start of the proxy."""

    async def settle(self) -> str | None:
        """Wait until all there is to keep is on disk, or could not be written. Return ``None``, or why it is not, in a
        sentence."""


class Reloader(Protocol):
    """Reads the files again."""

    async def reload(self) -> str:
        """Read settings, nodes, user map, certificates and tokens again; return in a sentence what was done.

        Raises :class:`~.reloads.ReloadRefused` for all that is wrong, and then nothing has changed.
        """


class SettingsControl(Protocol):
    """Changes settings while the proxy runs. Each method returns in a sentence what was done, or raises
    :class:`ConfigError`, and then nothing has changed."""

    async def set(self, name: str, values: Sequence[str]) -> str:
        """Give a setting another value until the proxy is restarted; several for one that is a list."""

    async def unset(self, name: str) -> str:
        """Take back what was set."""

    def rows(self) -> list[SettingRow]:
        """Return all settings with their values."""


class About(Protocol):
    """Knows the proxy as a whole."""

    def summary(self) -> SummaryRow:
        """Return it in numbers, with the counts that workers have reported by themselves."""

    async def info(self) -> InfoRow:
        """Return what there is to know of it, with the workers' latest counts."""

    async def events(self) -> list[EventRow]:
        """Return the latest events of the log that are worth showing, of all processes, the newest last."""
