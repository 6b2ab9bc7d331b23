"""A part of the proxy with the engine that a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from cxfr_proxy.engines import EngineChoice

N = TypeVar("N")


@contextmanager
def using(choice: EngineChoice[N], name: str) -> Iterator[str]:
    """Use that engine in the context, and the one that was chosen before it afterwards. Yields its name."""
    before = choice.chosen
    choice.use(name)
    try:
        yield name
    finally:
        choice.use(before)
