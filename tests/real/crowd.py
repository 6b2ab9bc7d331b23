"""A crowd of slixmpp and aioxmpp clients behind the proxy, half over STARTTLS and half over direct TLS.

The taps tell which client is on which node: the node on which the client's newest bound connection is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio
from waiting import PATIENCE_SECONDS, until

from real.accounting import Balance, balance
from real.clients.fleet import Fleet, Library, Tls, open_fleet
from real.programs import DOMAIN
from real.tap import Tap
from real.wire import Recording

_RESOURCE: Final = "r"


def crowd_users(each: int) -> dict[Library, list[str]]:
    """``each`` users for each library."""
    return {library: [f"{library.value[0]}{n}" for n in range(1, each + 1)] for library in Library}


class Crowd:
    """All clients of all libraries, by user name."""

    def __init__(self, fleets: Mapping[Library, Fleet], users: Mapping[Library, Sequence[str]]) -> None:
        self.fleets = fleets
        self.by_library = users
        self.users = [user for names in users.values() for user in names]

    @staticmethod
    def jid(user: str) -> str:
        return f"{user}@{DOMAIN}/{_RESOURCE}"

    async def connect(self, port: int) -> None:
        """Log all in; returns when all are bound."""
        async with trio.open_nursery() as nursery:
            for library, fleet in self.fleets.items():
                nursery.start_soon(self._connect_fleet, fleet, self.by_library[library], port)

    async def _connect_fleet(self, fleet: Fleet, users: Sequence[str], port: int) -> None:
        half = len(users) // 2
        await fleet.connect(users[:half], port=port, tls=Tls.STARTTLS, resource=_RESOURCE)
        await fleet.connect(users[half:], port=port, tls=Tls.DIRECT, resource=_RESOURCE)

    async def chat(
        self, groups: Iterable[Sequence[str]], *, tag: str, rate: float = 30.0, count: int | None = None
    ) -> None:
        """Everybody sends to the others of their group in turn. Without ``count``, until :meth:`hush`."""
        plan = {
            user: [self.jid(other) for other in group if other != user] or [self.jid(user)]
            for group in groups
            for user in group
        }
        async with trio.open_nursery() as nursery:
            for library, fleet in self.fleets.items():
                own = {user: plan[user] for user in self.by_library[library] if user in plan}
                nursery.start_soon(lambda f, p: f.send(p, tag=tag, rate=rate, count=count), fleet, own)

    async def hush(self) -> None:
        """Stop chatting."""
        for fleet in self.fleets.values():
            await fleet.stop_sending()

    def marks(self) -> dict[Library, int]:
        """Where each fleet's events stand now, for :meth:`wait_back`."""
        return {library: len(fleet.events) for library, fleet in self.fleets.items()}

    async def wait_back(self, users: Iterable[str], *, since: Mapping[Library, int]) -> None:
        """Until each of ``users`` was connected again after ``since``, and is."""
        names = set(users)
        async with trio.open_nursery() as nursery:
            for library, fleet in self.fleets.items():
                own = names & set(self.by_library[library])
                nursery.start_soon(lambda f, o, s: f.wait_reconnected(o, since=s), fleet, own, since[library])

    async def wait_received(self, tag: str, count: int) -> int:
        """Until ``count`` messages of that tag have been received in all, or the time is up; how many have been."""
        with suppress(AssertionError):  # the account will say more than that some are missing
            await until(lambda: self.received(tag) >= count, "messages received")
        return self.received(tag)

    def received(self, tag: str) -> int:
        events = (e for fleet in self.fleets.values() for e in fleet.of("message"))
        return sum(1 for e in events if (e["body"] or "").startswith(f"{tag} "))

    async def balance(self, taps: Sequence[Tap]) -> Balance:
        """The account of all clients together. Waits a while for what is still under way."""
        account = Balance()
        with trio.move_on_after(PATIENCE_SECONDS / 4):
            while True:
                account = await self._balance_now(taps)
                if not account.faults:
                    break
                await trio.sleep(0.2)
        return account

    async def _balance_now(self, taps: Sequence[Tap]) -> Balance:
        legs: dict[str | None, list[Recording]] = {}
        for tap in taps:
            for leg in tap.connections:
                legs.setdefault(leg.read_down().bound_jid, []).append(leg)
        account = Balance()
        for fleet in self.fleets.values():
            for user, connections in (await fleet.wire()).items():
                account += balance(self.jid(user), legs.get(self.jid(user), []), connections)
        return account

    async def assert_streams_whole(self) -> None:
        """No client ever read anything that is not XML, and no stream that was ended broke off in an element."""
        for fleet in self.fleets.values():
            for user, connections in (await fleet.wire()).items():
                for connection in connections:
                    down = connection.read_down()
                    assert down.fault is None, (user, down.fault)
                    assert down.ended_at is None or not down.inside, user


def homes(taps: Sequence[Tap]) -> dict[str, Tap]:
    """On which node each user is: that of the newest connection on which the user was bound."""
    newest: dict[str, tuple[float, Tap]] = {}
    for tap in taps:
        for leg in tap.connections:
            jid = leg.read_down().bound_jid
            if jid is not None and leg.opened_at >= newest.get(jid, (0.0, tap))[0]:
                newest[jid] = (leg.opened_at, tap)
    return {jid.partition("@")[0]: tap for jid, (_, tap) in newest.items()}


def users_on(tap: Tap, taps: Sequence[Tap]) -> list[str]:
    """Return the clients whose home is ``tap``'s node."""
    return sorted(user for user, home in homes(taps).items() if home is tap)


@asynccontextmanager
async def open_crowd(logs: Path, users: Mapping[Library, Sequence[str]]) -> AsyncIterator[Crowd]:
    """The client processes of a crowd; nobody is connected yet."""
    async with AsyncExitStack() as stack:
        fleets = {
            library: await stack.enter_async_context(open_fleet(library, logs / f"{library}.log")) for library in users
        }
        yield Crowd(fleets, users)
