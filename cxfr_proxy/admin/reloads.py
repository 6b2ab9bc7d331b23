"""The results of reading the proxy's files: for the log, for metrics, and for the operator who asked.

A faulty file changes nothing, which is easily missed: the proxy runs on as if nothing were wrong until it is started
again. So each reading leaves behind whether it worked, and when one worked last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)


class ReloadPart(StrEnum):
    """A file or source that is read; ``what`` of the event ``reload-failed``, and a label."""

    NODES = "nodes"
    USER_MAP = "user-map"
    CERTIFICATES = "certificates"
    SETTINGS = "settings"


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

    @contextmanager
    def logged(self, part: ReloadPart) -> Iterator[None]:
        """Note it, where nobody waits for the answer: faults are logged."""
        try:
            with self.noted(part):
                yield
        except ConfigError as exc:
            for error in getattr(exc, "errors", (exc,)):
                emit(_log, "reload-failed", level=logging.ERROR, what=str(part), error=str(error))
