"""The live sessions of one process, and its connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol

from cxfr_proxy.cluster.plan import Placed
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.session.commands import BoundTo, Event, NodeChanged
from cxfr_proxy.transfers.client_news import AnyClientNews
from cxfr_proxy.transfers.counts import SessionCounts
from cxfr_proxy.transfers.memory import ClientMemory
from cxfr_proxy.transfers.relayed import Relayed, user_of


class RegistryListener(Protocol):
    """Reports to the supervisor the sessions that a process has."""

    def changed(self) -> None:
        """Note that sessions, connections or their counts have changed."""

    def session_noted(self, relayed: Relayed, *, resumed: bool = False) -> None:
        """Note that the session has begun, was bound, or is with another node now. ``resumed``: it was bound to a
        session that was there before."""

    def session_removed(self, relayed: Relayed) -> None:
        """Note that this session has ended."""

    def client_news(self, news: AnyClientNews) -> None:
        """Note news of a client that other processes have to know."""


class _Expected:
    """See :meth:`Registry.expecting`. By hand: each login comes through here, and a generator takes four times as
    long."""

    __slots__ = ("_node", "_registry")

    def __init__(self, registry: Registry, node: str) -> None:
        self._registry = registry
        self._node = node

    def __enter__(self) -> None:
        self._registry.expect(self._node, 1)

    def __exit__(self, *_: object) -> None:
        self._registry.expect(self._node, -1)


class Registry:
    """The live sessions of one process. ``counts`` has the counts of sessions and moves, ``memory`` remembers clients.

    ``listener`` is told what there is to report. ``redirect_window`` and ``client_software`` are those of
    :class:`~.memory.ClientMemory`. Each process has a registry of its own. Its ids begin at ``first_id`` and are
    ``id_step`` apart; :meth:`note_elsewhere` and ``addresses_elsewhere`` have the latest known numbers of the others.
    """

    def __init__(
        self,
        listener: RegistryListener,
        *,
        redirect_window: float,
        client_software: ClientSoftware | None = None,
        first_id: int = 1,
        id_step: int = 1,
    ) -> None:
        self._listener = listener
        self.counts = SessionCounts()
        known = client_software if client_software is not None else ClientSoftware()
        self.memory = ClientMemory(redirect_window, known)
        self._live: dict[int, Relayed] = {}
        self._logging_in: dict[int, Relayed] = {}
        self._on_node: dict[str, dict[int, Relayed]] = {}
        self._addresses: Counter[str] = Counter()
        self.connections = 0
        """Bound or not."""
        self.last_id = first_id - id_step
        self._id_step = id_step
        self._everywhere: Counter[str] = Counter()  # sessions by node, in all processes, and those about to begin
        self._elsewhere: dict[str, int] = {}  # of these, the others'
        self.addresses_elsewhere: dict[str, int] = {}
        self.sessions_before: dict[str, int] = {}
        """Those of other processes that are in one whose number is lower than this one's."""

    def note(self, relayed: Relayed, event: Event, now: float) -> None:
        """Take in an event that a session reports."""
        match event:
            case BoundTo(_, resumed):
                self._logging_in.pop(relayed.id, None)
                self._listener.session_noted(relayed, resumed=resumed)
            case NodeChanged(before, after):
                self._leave(relayed, before)
                self._enter(relayed, after)
                self._listener.session_noted(relayed)
                self._listener.changed()
        for news in self.memory.note(relayed, event, now):
            self._listener.client_news(news)
        self.counts.note(relayed, event, now)

    def spread(self, news: AnyClientNews, now: float) -> None:
        """Remember news here, and have other processes know them."""
        self.memory.apply(news, now)
        self._listener.client_news(news)

    def changed(self) -> None:
        """Note that sessions, connections or their counts have changed."""
        self._listener.changed()

    # --- coming and going

    def new_id(self) -> int:
        """Return an id that no other session has, in any process."""
        self.last_id += self._id_step
        return self.last_id

    def add(self, relayed: Relayed) -> None:
        """Keep a session, which has a node and has not logged in yet."""
        self._live[relayed.id] = self._logging_in[relayed.id] = relayed
        self._enter(relayed, relayed.session.node)
        self._listener.session_noted(relayed)
        self.changed()

    def remove(self, relayed: Relayed) -> None:
        """Forget a session that has ended; nothing if it was forgotten before."""
        self._logging_in.pop(relayed.id, None)
        self.memory.forget(relayed.id)
        self.counts.forget(relayed.id)
        if self._live.pop(relayed.id, None) is not None:
            self._leave(relayed, relayed.session.node)
            self._listener.session_removed(relayed)
            self.changed()

    def _enter(self, relayed: Relayed, name: str) -> None:
        """Count the session as that node's."""
        self._on_node.setdefault(name, {})[relayed.id] = relayed
        counts = self.counts.of_node(name)
        counts.sessions += 1
        counts.entered += 1
        self._everywhere[name] += 1

    def _leave(self, relayed: Relayed, name: str) -> None:
        """Count the session as that node's no more."""
        there = self._on_node[name]
        del there[relayed.id]
        if not there:
            del self._on_node[name]
        self.counts.of_node(name).sessions -= 1
        self._everywhere[name] -= 1

    def get(self, session_id: int) -> Relayed | None:
        """Return the session with that id; ``None``: it has ended, or is another process's."""
        return self._live.get(session_id)

    def __iter__(self) -> Iterator[Relayed]:
        # A copy: moving one session may end another.
        return iter(list(self._live.values()))

    def logging_in(self, node: str | None = None) -> list[Relayed]:
        """Return the sessions that have not reported a resource yet, of all nodes or of one."""
        if node is None:
            return list(self._logging_in.values())
        # The smaller one is gone through: thousands of sessions, or thousands of logins, may be in the other.
        few, many = sorted((self._on_node.get(node, {}), self._logging_in), key=len)
        return [relayed for number, relayed in few.items() if number in many]

    def __len__(self) -> int:
        return len(self._live)

    def on_node(self, name: str) -> list[Relayed]:
        """Return the sessions that node has here."""
        return list(self._on_node.get(name, {}).values())

    def sessions_on(self, node: str) -> int:
        """Return how many sessions that node has here."""
        return len(self._on_node.get(node, ()))

    def sessions_by_node(self) -> Counter[str]:
        """Return how many sessions each node has in all processes, as far as is known here, with those that are about
        to begin. Callers may read it and must not change it; it stays true."""
        return self._everywhere

    def note_elsewhere(self, sessions: Mapping[str, int]) -> None:
        """Note how many sessions the other processes have on each of these nodes by now; other nodes stay as they
        were."""
        for name, number in sessions.items():
            self._everywhere[name] += number - self._elsewhere.pop(name, 0)
            if number:
                self._elsewhere[name] = number

    def expecting(self, node: str) -> _Expected:
        """Count a session that is about to begin there, as long as the block runs: a burst of logins must not all take
        the node that was empty before."""
        return _Expected(self, node)

    def expect(self, node: str, change: int) -> None:
        """Count so many more sessions, or less, that are about to begin there."""
        self.counts.of_node(node).logins_waiting += change
        self._everywhere[node] += change

    def snapshot(self, now: float, node: str | None = None) -> list[Placed]:
        """Return all sessions, or those of one node, for a plan."""
        sessions = self._live if node is None else self._on_node.get(node, {})
        return [
            Placed(
                relayed.id,
                user_of(relayed.session),
                relayed.session.node,
                now - relayed.last_active,
                relayed.session.inactive,
                relayed.session.domain,
                relayed.session.stays_down,
                relayed.session.can_migrate,
            )
            for relayed in sessions.values()
        ]

    # --- connections, bound or not

    def connected(self, address: str, limit: int | None) -> bool:
        """Count a connection from that address. Return false, and count nothing, if it would exceed ``limit``."""
        others = self.addresses_elsewhere.get(address, 0)
        if limit is not None and self._addresses[address] + others >= limit:
            return False
        self._addresses[address] += 1
        self.connections += 1
        self.changed()
        return True

    def disconnected(self, address: str) -> None:
        """Count one connection less from that address."""
        self._addresses[address] -= 1
        self.connections -= 1
        if not self._addresses[address]:
            del self._addresses[address]
        self.changed()

    def busy_addresses(self, least: int) -> dict[str, int]:
        """Return the addresses with at least so many connections here, and how many those have."""
        return {address: count for address, count in self._addresses.items() if count >= least}
