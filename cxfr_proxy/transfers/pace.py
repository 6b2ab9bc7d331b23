"""The pace at which clients are asked to move: one for each token.

The pace protects the nodes to which the clients log in next, so one bucket serves all triggers. The supervisor
keeps it (:class:`OwnPace`) and grants its workers tokens; each worker's mover only sees a :class:`Pace`. The rate is
the setting's, or one that an operator has asked for, until nothing is left to move (:class:`Rate`).
"""

from __future__ import annotations

from typing import Protocol

import trio

from cxfr_proxy.transfers.token_bucket import TokenBucket


class Pace(Protocol):
    """The source of a mover's tokens: one for each session that it gives an order."""

    async def wait(self) -> None:
        """Return when a token is at hand; it stays until it is spent."""

    def spend(self) -> None:
        """Use the token."""

    def rest(self) -> None:
        """Give back the tokens at hand: no session is to be moved now."""

    def queued(self, *, lost: int, leaving: int, hurried: int, misplaced: int) -> None:
        """Note how many sessions wait to be moved: without a node, on one that is being emptied (``hurried`` of them
        can't wait for the others), and on one that is merely not theirs.

        Called whenever there are more, when a token was spent, and when none can be used for now.
        """


class OwnPace:
    """A token bucket by trio's clock. ``rate`` in clients a second."""

    def __init__(self, rate: float) -> None:
        self._bucket = TokenBucket(rate, _burst(rate))
        self._rate_changed = trio.Event()

    @property
    def burst(self) -> float:
        """Most tokens that may be used at once."""
        return self._bucket.burst

    async def wait(self) -> None:
        """Return when a token is at hand; it stays until it is spent."""
        await trio.lowlevel.checkpoint()
        while delay := self._bucket.delay(trio.current_time()):
            # A new rate, or a token that was put back, changes how long it takes: then the bucket is asked again.
            with trio.move_on_after(delay):
                await self._rate_changed.wait()

    def spend(self) -> None:
        """Use the token."""
        self._bucket.take(trio.current_time())

    def put_back(self) -> None:
        """Take back a token that was spent in vain."""
        self._bucket.put_back(trio.current_time())
        self._wake()

    def set_rate(self, rate: float) -> None:
        """Give ``rate`` tokens a second from now on."""
        self._bucket.set_rate(rate, trio.current_time(), _burst(rate))
        self._wake()

    def _wake(self) -> None:
        self._rate_changed.set()
        self._rate_changed = trio.Event()


def _burst(rate: float) -> float:
    """Return the tokens for half a second: enough not to be late, too few to be a storm."""
    return max(1.0, rate / 2)


class RateUser(Protocol):
    """A user of the rate, which may have asked for another one."""

    @property
    def busy(self) -> bool:
        """Whether there is still something to move."""


class Rate:
    """The rate at which sessions are moved: the usual one, or one that was asked for, until no user is busy."""

    def __init__(self, pace: OwnPace, usual: float) -> None:
        self._pace = pace
        self._usual = self.now = usual
        self.share = 1.0
        """The part of the rate that is this proxy's, if several proxies have one together."""
        self._users: list[RateUser] = []

    @property
    def asked(self) -> float | None:
        """The rate that was asked for in place of the usual one; ``None``: none was."""
        return self.now if self.now != self._usual else None

    def add_user(self, user: RateUser) -> None:
        """Keep a rate that was asked for as long as this user is busy, too."""
        self._users.append(user)

    def set_usual(self, rate: float) -> None:
        """Have another usual rate. One that was asked for stays until :meth:`restore`."""
        in_use, self._usual = self.now == self._usual, rate
        if in_use and rate != self.now:
            self.ask(rate)

    def ask(self, rate: float) -> None:
        """Replace the usual rate, in clients a second, until :meth:`restore`."""
        self.now = rate
        self._pace.set_rate(rate * self.share)

    def set_share(self, share: float) -> None:
        """Have this proxy use that part of the usual rate, and of any other; 0 to 1."""
        self.share = share
        self.ask(self.now)

    def restore(self) -> None:
        """Return to the usual rate, unless a user is still busy. Called by a user that has nothing left to move."""
        # Drains and a rebalance share one rate, so a rate that one asked for stays as long as any of them runs.
        if self.now != self._usual and not any(user.busy for user in self._users):
            self.ask(self._usual)
