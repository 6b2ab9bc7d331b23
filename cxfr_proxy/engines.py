"""The choice between an engine in C and the one in Python that does the same.

Two parts of the proxy are written twice, the framer and the relay's hot path: in C where there is a compiler, and in
Python. Both give the same answers, so that nobody but a bench has to know which one runs.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

NATIVE: Final = "native"

N = TypeVar("N")


class EngineChoice(Generic[N]):
    """The engines of one part. ``compiled`` is the one in C, ``None`` where it was not compiled; ``other`` is the name
    of the one in Python."""

    def __init__(self, part: str, compiled: N | None, *, other: str) -> None:
        self._part = part
        self.compiled: Final = compiled
        self.names: Final = (NATIVE, other) if compiled is not None else (other,)
        """The engines that there are, the fastest first."""
        self.chosen = self.names[0]
        self.native = compiled
        """The one in C where it is chosen; ``None``: the one in Python is. A field, and no property of ``chosen``:
        every login reads it."""

    def use(self, name: str) -> None:
        """Use that engine for what begins from now on. Raises :class:`ValueError` where there is no such engine."""
        if name not in self.names:
            raise ValueError(f"no {self._part} engine '{name}' here, only {', '.join(self.names)}")
        self.chosen = name
        self.native = self.compiled if name == NATIVE else None
