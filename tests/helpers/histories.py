"""Random histories, each told by its seed: one that fails says which."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar


class Told(Protocol):
    """One history, made by ``rng``: events happen until it ends, and then the sums have to be right."""

    rng: random.Random

    def act(self) -> None:
        """Have the next thing happen."""

    def finish(self) -> None:
        """Come to an end, and do the sums."""


H = TypeVar("H", bound=Told)


def histories(tell: Callable[[random.Random], H], count: int, steps: range) -> Iterator[H]:
    """Yield so many histories, each told to its end, of as many steps as the range allows."""
    for seed in range(count):
        history = tell(random.Random(seed))
        try:
            for _ in range(history.rng.randrange(steps.start, steps.stop)):
                history.act()
            history.finish()
        except AssertionError as exc:
            exc.add_note(f"{type(history).__name__}, seed {seed}")
            raise
        yield history
