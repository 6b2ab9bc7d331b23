"""Users whose node is assigned, and not left to the policy.

The sources are asked in this order, and the first one that knows the user decides:

======= =============================================================================================
pins    what the operator has said of one user while the proxy runs
listed  the user map, a file
answers what an HTTP endpoint has said lately; kept here, asked elsewhere
======= =============================================================================================

All of them use the key :func:`~cxfr_proxy.spellings.user_key`. None of them knows whether there is such a node, or
whether it takes users: :class:`~.placement.Placement` passes over a node that doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.cluster.user_map import UserMap
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import user_key

MAX_PINS: Final = 10_000
"""Most pins: each worker is told all of them when it begins. A user map is for more."""
MAX_ANSWERS: Final = 100_000
"""Most answers: some 30 MB when full. The oldest go first."""


class PinFollower(Protocol):
    """Has to know of each pin."""

    def pin_changed(self, key: str, node: str | None) -> None:
        """Note that the user with that key is pinned to that node now; ``None``: no more."""


class Pins:
    """``follower`` is told of each change; ``None``: nobody is."""

    def __init__(self, nodes: Mapping[str, str] | None = None, follower: PinFollower | None = None) -> None:
        self.nodes = dict(nodes) if nodes is not None else {}
        """By the user's key."""
        self._follower = follower

    def pin(self, user: str, node: str) -> None:
        """Pin a user. Raises :class:`ConfigError` if there are too many pins."""
        key = user_key(user)
        if key not in self.nodes and len(self.nodes) >= MAX_PINS:
            raise ConfigError(f"there are {MAX_PINS} pins already; a user-map can hold millions")
        self.set(key, node)

    def unpin(self, user: str) -> bool:
        """Return whether there was a pin."""
        key = user_key(user)
        there = key in self.nodes
        if there:
            self.set(key, None)
        return there

    def set(self, key: str, node: str | None) -> None:
        """Set the pin of the user with that key; ``None``: no pin."""
        if node is not None:
            self.nodes[key] = node
        else:
            self.nodes.pop(key, None)
        if self._follower is not None:
            self._follower.pin_changed(key, node)


class Answers:
    """The last answers about users. An answer is good for ``seconds``, and then until there is another one: a user
    who was placed by it still belongs there. ``clock`` is monotonic, in seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float], limit: int = MAX_ANSWERS) -> None:
        self.seconds = seconds
        self._clock = clock
        self._answers: BoundedDict[str, tuple[str | None, float]] = BoundedDict(limit)

    def __len__(self) -> int:
        return len(self._answers)

    def note(self, key: str, node: str | None) -> None:
        """Note an answer; ``None``: there is no opinion about that user."""
        self._answers[key] = node, self._clock() + self.seconds

    def knows(self, key: str) -> bool:
        """Return whether the last answer, or the answer that there is none, is young enough not to ask again."""
        answer = self._answers.get(key)
        return answer is not None and self._clock() < answer[1]

    def node_of(self, key: str) -> str | None:
        answer = self._answers.get(key)
        return answer[0] if answer is not None else None


class Assigned:
    """The three sources together; one that is ``None`` is not in use. ``listed`` is replaced when the file has
    changed."""

    def __init__(self, pins: Pins | None = None, answers: Answers | None = None) -> None:
        self.pins = pins if pins is not None else Pins()
        self.listed = UserMap()
        self.answers = answers

    def node_of(self, user: str) -> str | None:
        """Return the name of the node for a bare JID; ``None`` if none is assigned."""
        if not self.pins.nodes and not self.listed and not self.answers:
            return None
        key = user_key(user)
        node = self.operators_choice(key)
        return node if node is not None or self.answers is None else self.answers.node_of(key)

    def operators_choice(self, key: str) -> str | None:
        """Return the same for a user's key, without asking anybody outside."""
        return self.pins.nodes.get(key) or self.listed.node_of(key)
