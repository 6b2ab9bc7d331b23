"""The audit of orders: a line in the log for each command that changes something, whichever way it has come.

The line is written as soon as it is known whether the order is carried out. It does not wait for the end of what goes
on behind it: a drain of hours is in the log from its beginning.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from enum import StrEnum
from types import TracebackType
from typing import Final

import trio

from cxfr_proxy.admin.commands.callers import Caller
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import emit, quoted

_log = logging.getLogger(__name__)

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)
"""The caller has gone, or takes nothing of what is told of the order."""


class OrderOutcome(StrEnum):
    """The outcome of an order."""

    DONE = "done"
    BEGUN = "begun"
    """It goes on, and the caller waits for its end."""
    REFUSED = "refused"
    DENIED = "denied"
    """The caller's role does not suffice."""
    FAILED = "failed"
    """By a defect, which has a line of its own."""
    UNKNOWN = "unknown"
    """The caller went away, or the time was over, before there was an answer."""


class AuditedOrder:
    """``with AuditedOrder(caller, "drain", given) as order:`` writes the line of an order that is carried out within.

    Exceptions go on to the caller.
    """

    def __init__(self, caller: Caller, command: str, given: Mapping[str, object]) -> None:
        self._caller = caller
        self._command = command
        self._given = given
        self._is_written = False

    def begun(self) -> None:
        """Note that it is carried out, and goes on."""
        self.ended(OrderOutcome.BEGUN)

    def ended(self, outcome: OrderOutcome, reason: str | None = None) -> None:
        """Write the line, unless it is written already."""
        if self._is_written:
            return
        self._is_written = True
        caller = self._caller
        emit(
            _log,
            "order",
            level=logging.INFO if outcome in (OrderOutcome.DONE, OrderOutcome.BEGUN) else logging.WARNING,
            command=self._command,
            arguments=_arguments_text(self._given),
            by=caller.name,
            role=str(caller.role),
            way=str(caller.way),
            address=caller.address,
            pid=caller.pid,
            outcome=str(outcome),
            reason=reason,
        )

    def __enter__(self) -> AuditedOrder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            self.ended(OrderOutcome.DONE)
        elif isinstance(exc, ConfigError):
            self.ended(OrderOutcome.REFUSED, str(exc))
        elif isinstance(exc, Exception) and not isinstance(exc, _GONE):
            self.ended(OrderOutcome.FAILED)
        else:
            self.ended(OrderOutcome.UNKNOWN)


def _arguments_text(given: Mapping[str, object]) -> str | None:
    """Return the arguments as one text, without those that were not given; ``None``: there are none."""
    named = [f"{quoted(name)}={_shown(value)}" for name, value in given.items() if not _is_left_out(value)]
    return " ".join(named) or None


def _is_left_out(value: object) -> bool:
    return value is None or value is False or value == []  # 0 is a value


def _shown(value: object) -> str:
    try:
        return _value_text(value)
    except RecursionError:  # no argument is like that
        return quoted("(nested too deeply)")


def _value_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_value_text, value))
    return quoted(value if isinstance(value, str) else json.dumps(value))
