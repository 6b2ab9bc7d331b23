"""The results of reading the proxy's files: for the log, for metrics, and for the operator who asked.

A faulty file changes nothing, which is easily missed: the proxy runs on as if nothing were wrong until it is started
again. So each reading leaves behind whether it worked, and when one worked last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from cxfr_proxy.errors import ConfigError, FileFaults
from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)


class ReloadPart(StrEnum):
    """A file or source that is read; ``what`` of the event ``reload-failed``, and a label."""

    NODES = "nodes"
    USER_MAP = "user-map"
    CERTIFICATES = "certificates"
    SETTINGS = "settings"
    HTTP_TOKENS = "http-tokens"


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """Whether reading it worked last; ``worked_at``: when it did, in seconds since 1970, ``None`` if it never has."""

    worked: bool
    worked_at: float | None


class Reloads:
    """Keeps the outcome of each reading."""

    def __init__(self) -> None:
        self.outcomes: dict[ReloadPart, ReloadOutcome] = {}
        """By what was read, as far as there is such a file."""

    @contextmanager
    def noted(self, part: ReloadPart) -> Iterator[None]:
        """Note what becomes of the reading within. Its :class:`ConfigError` goes on to the caller."""
        try:
            yield
        except ConfigError:
            before = self.outcomes.get(part)
            self.outcomes[part] = ReloadOutcome(
                worked=False, worked_at=before.worked_at if before is not None else None
            )
            raise
        self.outcomes[part] = ReloadOutcome(worked=True, worked_at=time.time())

    def collected(self, part: ReloadPart, faults: Faults, *, noting: bool = True) -> Collected:
        """Note it, and add faults to those that were found in other parts."""
        return Collected(self.noted(part) if noting else nullcontext(), part, faults)


class Collected:
    """A reading whose :class:`ConfigError` ends it and goes no further; see :meth:`Reloads.collected`."""

    def __init__(self, noted: AbstractContextManager[None], part: ReloadPart, faults: Faults) -> None:
        self._noted = noted
        self._part = part
        self._faults = faults

    def __enter__(self) -> None:
        self._noted.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._noted.__exit__(kind, exc, traceback)
        if isinstance(exc, ConfigError):
            self._faults.append((self._part, exc))
            return True
        return False


Faults = list[tuple[ReloadPart, ConfigError]]
"""The faults that were found in the parts."""


class ReloadRefused(FileFaults):
    """Nothing was taken, for something is wrong. ``by_part``: what, and in what."""

    def __init__(self, by_part: Faults) -> None:
        self.by_part = tuple(by_part)
        super().__init__(error for _, exc in by_part for error in exc.errors)

    def log(self) -> None:
        """Log it, where nobody waits for the answer."""
        for part, exc in self.by_part:
            log_faults(part, exc)


def log_faults(part: ReloadPart, exc: ConfigError) -> None:
    """Log each fault that was found in that part."""
    for error in exc.errors:
        emit(_log, "reload-failed", level=logging.ERROR, what=str(part), error=str(error))
