"""The log: one line per event, for people (``key=value``) or for programs (JSON).

An event is a noun and its fields: ``emit(logger, "transfer", session=7, rung="cxfr", outcome="moved")``.
Rules:

- **One event, one line, whatever a remote party wrote into it.** In text, a value that isn't plain is quoted
  and every character that could end the line, end the quote or move a terminal's cursor is escaped; JSON
  escapes all but ASCII.
- A field's *name* and the event's are this program's own words, never data.
- A value longer than :data:`MAX_VALUE_CHARS` is cut, so that nobody can fill a disk one stanza at a time.
- Secrets are not logged, so nothing here looks for them.
- What other libraries log becomes the event ``log`` with the field ``message``; a traceback becomes a field.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

Value = str | int | float | bool | None

MAX_VALUE_CHARS: Final = 1000
"""A full JID may have 3071 bytes (RFC 7622 section 3.1); real ones and reasons stay far below this."""
MAX_TRACEBACK_CHARS: Final = 20_000
"""Tracebacks are this program's own words, and their end is what counts: about 200 frames."""

_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")
"""Printable ASCII without space, quote, equals sign and backslash: nearly every value."""
_RECORD_ATTRIBUTE: Final = "cxfr_proxy_fields"


class LogFormat(StrEnum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severity that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def emit(
    logger: logging.Logger,
    event: str,
    /,
    *,
    level: int = logging.INFO,
    exc_info: BaseException | None = None,
    **fields: Value,
) -> None:
    """Log one event. A field that is ``None`` is left out of text and ``null`` in JSON; ``exc_info`` adds a
    traceback."""
    if logger.isEnabledFor(level):
        # By hand: Logger.log() would look for the line that has called it, which is never written.
        exception = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info is not None else None
        record = logging.LogRecord(logger.name, level, "", 0, event, None, exception)
        setattr(record, _RECORD_ATTRIBUTE, fields)
        logger.handle(record)


def quoted(value: str) -> str:
    """``value`` as one token of a ``key=value`` line: as it is where that is unmistakable, in quotes
    otherwise.

    ``str.isprintable`` is false for line and paragraph separators, for control and format characters
    (terminal escapes, text direction) and for lone surrogates, which no stream could encode.
    """
    if _PLAIN.fullmatch(value):
        return value
    if value and value.isprintable() and not any(char in ' "=\\' for char in value):
        return value
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _cut(value: Value) -> Value:
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
        return value[:MAX_VALUE_CHARS] + "…"
    return value


def _text_value(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return quoted(str(value))


@functools.lru_cache(maxsize=2)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _EventFormatter(logging.Formatter):
    def event_of(self, record: logging.LogRecord) -> tuple[str, dict[str, Value]]:
        """The event's name and fields; a record that :func:`emit` didn't make is the event ``log``."""
        given: dict[str, Value] | None = getattr(record, _RECORD_ATTRIBUTE, None)
        if given is None:
            event, fields = "log", {"source": record.name, "message": _cut(record.getMessage())}
        else:
            event, fields = str(record.msg), {name: _cut(value) for name, value in given.items()}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)[-MAX_TRACEBACK_CHARS:]
        return event, fields

    @staticmethod
    def time_of(record: logging.LogRecord) -> str:
        """UTC, milliseconds: ``2026-01-31T12:00:00.000Z``."""
        milliseconds = int(record.created * 1000)
        return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


class TextFormatter(_EventFormatter):
    """``TIME LEVEL event key=value …``"""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self.event_of(record)
        pairs = [f"{name}={_text_value(value)}" for name, value in fields.items() if value is not None]
        return " ".join([self.time_of(record), record.levelname, event, *pairs])


class JsonFormatter(_EventFormatter):
    """One object a line: ``time``, ``level``, ``logger``, ``event``, ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self.event_of(record)
        return json.dumps(
            {
                "time": self.time_of(record),
                "level": record.levelname,
                "logger": record.name,
                "event": event,
                "fields": fields,
            }
        )


class _EventHandler(logging.StreamHandler[TextIO]):
    """A type of its own, so that :func:`configure` finds what it installed before."""


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO) -> None:
    """Send the process's log to ``stream``; a second call replaces what the first set up.

    ``level`` is for this package alone. Of other libraries only warnings are written: their debug lines may
    hold what they carried, passwords included.
    """
    handler = _EventHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, _EventHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("cxfr_proxy").setLevel(level.upper())
