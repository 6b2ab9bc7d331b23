"""The log: one line per event, for people (``key=value``) or for programs (JSON).

An event is a noun and its fields: ``emit(logger, "transfer", session=7, rung="cxfr", outcome="moved")``.
Rules:

- **One event, one line, whatever a remote party wrote into it.** In text, a value that isn't plain is quoted
  and every character that could end the line, end the quote or move a terminal's cursor is escaped; JSON
  escapes all but ASCII.
- A field's *name* and the event's are this program's own words, never data.
- A value longer than :data:`MAX_VALUE_CHARS` is cut, and so is a line that a pipe would not take whole
  (:data:`~cxfr_proxy.log_writer.WHOLE_BYTES`): of a traceback its end is kept.
- Nobody waits for the log to be written (:mod:`.log_writer`), and what one stranger can cause without end is summed up
  (:mod:`.log_sums`).
- Secrets are not logged, so nothing here looks for them.
- The journal is told how severe a line is, by a number in front of it (sd-daemon(3)).
- What other libraries log becomes the event ``log`` with the field ``message``; a traceback becomes a field.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

from msgspec import Struct

from cxfr_proxy.log_latest import SHOWN, LatestEvents, is_kept
from cxfr_proxy.log_sums import FieldValue, Sums
from cxfr_proxy.log_writer import WHOLE_BYTES, LineWriter

__all__ = [
    "FieldValue",
    "LogFormat",
    "LogLevel",
    "adjust",
    "configure",
    "emit",
    "escaped",
    "latest",
    "open_log",
    "quoted",
    "timestamp",
]

MAX_VALUE_CHARS: Final = 1000
"""A full JID may have 3071 bytes (RFC 7622 section 3.1); real ones, and reasons, stay far below this."""
_PLAIN: Final = re.compile(rf"[!#-<>-\[\]-~]{{1,{MAX_VALUE_CHARS}}}")
"""Printable ASCII without space, quote, equals sign and backslash, and not too long: nearly every value."""
MAX_DETAIL_CHARS: Final = 300
"""Of an event that is kept: it is shown as a row of a table."""
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""The least level for each of syslog's priorities."""
_DEBUG_PRIORITY: Final = 7
_LAST_SECONDS: Final = 1.0
"""The time to write the rest at the process's end."""

_RECORD_ATTRIBUTE: Final = "cxfr_proxy_fields"

_log = logging.getLogger(__name__)


class _Origin(Struct, frozen=True, gc=False):
    """Where an event comes from. ``at`` in seconds since the epoch."""

    at: float
    level: int
    logger: str


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
    **fields: FieldValue,
) -> None:
    """Log one event. A field that is ``None`` is left out of text and ``null`` in JSON; ``exc_info`` adds a
    traceback."""
    if logger.isEnabledFor(level):
        if _sums is None or _sums.admit(event, fields, (logger, level)):
            if _writer is not None and exc_info is None and not is_kept(event, level):
                _writer.write_event(logger.name, event, level, fields)
            else:
                _write(logger, event, level, exc_info, fields)
    elif event in SHOWN and _keeper is not None:
        _keeper.handle(_record(logger, event, level, exc_info, fields))


_sums: Sums | None = None
"""The sums of the process whose log :func:`open_log` has opened."""
_writer: _WriterHandler | None = None
"""The writer of that log. An event of a single client goes there at once: nobody else gets it, and each login has
one."""
_keeper: _EventKeeper | None = None
"""Keeps the latest events of that process, those included that are below the level of its log."""
latest: Final = LatestEvents()
"""The latest of that process's events that are worth showing to an operator."""


def _write(
    logger: logging.Logger, event: str, level: int, exc_info: BaseException | None, fields: Mapping[str, FieldValue]
) -> None:
    logger.handle(_record(logger, event, level, exc_info, fields))


def _record(
    logger: logging.Logger, event: str, level: int, exc_info: BaseException | None, fields: Mapping[str, FieldValue]
) -> logging.LogRecord:
    # By hand: Logger.log() would look for the line that has called it, which is never written.
    exception = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info is not None else None
    record = logging.LogRecord(logger.name, level, "", 0, event, None, exception)
    setattr(record, _RECORD_ATTRIBUTE, fields)
    return record


def quoted(value: str) -> str:
    """Return ``value`` as one token of a ``key=value`` line: as it is if that is unmistakable, otherwise in quotes.

    ``str.isprintable`` is false for line and paragraph separators, for control and format characters (terminal escapes,
    text direction) and for lone surrogates, which no stream could encode.
    """
    if _PLAIN.fullmatch(value):
        return value
    if value and value.isprintable() and not any(char in ' "=\\' for char in value):
        return value
    return '"' + "".join(escaped(char) for char in value) + '"'


def escaped(char: str) -> str:
    """Return a character as it stands in quotes: itself, or an escape if it is a quote, a backslash or does not
    print."""
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _cut(fields: Mapping[str, FieldValue]) -> Mapping[str, FieldValue]:
    """Return the fields with long values cut: to quote them takes time by the character. A traceback has its own limit,
    and its end says what it was."""
    return {name: _cut_value(name, value) if type(value) is str else value for name, value in fields.items()}


def _cut_value(name: str, value: FieldValue) -> FieldValue:
    if isinstance(value, str) and len(value) > MAX_VALUE_CHARS and name != "exception":
        return value[:MAX_VALUE_CHARS] + "…"
    return value


def _text_value(value: FieldValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return quoted(str(value))


def _pairs(fields: Mapping[str, FieldValue]) -> list[str]:
    pairs, is_plain = [], _PLAIN.fullmatch
    for name, value in fields.items():
        if value is not None:
            plain = type(value) is int or (type(value) is str and is_plain(value))
            pairs.append(f"{name}={value if plain else _text_value(_cut_value(name, value))}")
    return pairs


@functools.lru_cache(maxsize=2)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(seconds: float) -> str:
    """Return a time since the epoch in UTC with milliseconds: ``2026-01-31T12:00:00.000Z``."""
    milliseconds = int(seconds * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


class _EventFormatter(logging.Formatter):
    """``for_journal``: a line begins with its priority."""

    def __init__(self, *, for_journal: bool = False) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self.event_of(record)
        return self.line_of(_Origin(record.created, record.levelno, record.name), event, fields)

    def line_of(self, origin: _Origin, event: str, fields: Mapping[str, FieldValue]) -> str:
        """Return the line of an event, not longer than a pipe takes whole."""
        line = self._whole_line(origin, event, fields)
        if len(line) < WHOLE_BYTES // 4:
            return line  # nearly always
        fields = _cut(fields)
        while len(line) >= WHOLE_BYTES // 4 and (size := len(line.encode("utf-8", "replace")) + 1) > WHOLE_BYTES:
            name = max(fields, key=lambda name: len(str(fields[name])))
            value = str(fields[name])
            # As if all characters took as many bytes: what is too little is made up for the next time.
            keep = min(len(value) * WHOLE_BYTES // size, len(value) - 8)
            shorter = "…" + value[-keep:] if name == "exception" else value[:keep] + "…"
            fields = {**fields, name: shorter}
            line = self._whole_line(origin, event, fields)
        return line

    def _whole_line(self, origin: _Origin, event: str, fields: Mapping[str, FieldValue]) -> str:
        line = self.line(origin, event, fields)
        return f"<{_priority(origin.level)}>{line}" if self._for_journal else line

    def line(self, origin: _Origin, event: str, fields: Mapping[str, FieldValue]) -> str:
        raise NotImplementedError

    def event_of(self, record: logging.LogRecord) -> tuple[str, dict[str, FieldValue]]:
        """Return the event's name and fields; a record that :func:`emit` didn't make is the event ``log``."""
        given: dict[str, FieldValue] | None = getattr(record, _RECORD_ATTRIBUTE, None)
        if given is None:
            event, fields = "log", _foreign(record)
        else:
            event, fields = str(record.msg), dict(given)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)[-WHOLE_BYTES:]
        return event, fields


def _foreign(record: logging.LogRecord) -> dict[str, FieldValue]:
    """Return another library's message, even if its arguments don't fit its format."""
    try:
        message = record.getMessage()
    except Exception as exc:  # its arguments don't fit its text, or can't be written
        message = f"{record.msg!r} ({type(exc).__name__})"
    return {"source": record.name, "message": message}


class TextFormatter(_EventFormatter):
    """``TIME LEVEL event key=value …``"""

    def line(self, origin: _Origin, event: str, fields: Mapping[str, FieldValue]) -> str:
        return " ".join([timestamp(origin.at), logging.getLevelName(origin.level), event, *_pairs(fields)])


class JsonFormatter(_EventFormatter):
    """One object a line: ``time``, ``level``, ``logger``, ``event``, ``fields``."""

    def line(self, origin: _Origin, event: str, fields: Mapping[str, FieldValue]) -> str:
        return json.dumps(
            {
                "time": timestamp(origin.at),
                "level": logging.getLevelName(origin.level),
                "logger": origin.logger,
                "event": event,
                "fields": _cut(fields),
            }
        )


class _StreamHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once, and waits for it."""


def _is_journal(descriptor: int) -> bool:
    """Return whether it leads to the journal. systemd says where that is (systemd.exec(5)), and a program in between
    may have put something else there."""
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _WriterHandler(logging.Handler):
    """Hands lines to a :class:`LineWriter`. Repeated events of strangers are summed up, and so are other libraries'
    lines."""

    def __init__(self, descriptor: int, sums: Sums) -> None:
        super().__init__()
        self._sums = sums
        self.to_journal = _is_journal(descriptor)
        self.writer = LineWriter(descriptor, self._report_lost, self._emit_sums)
        self.formatter: _EventFormatter

    def emit(self, record: logging.LogRecord) -> None:
        foreign = getattr(record, _RECORD_ATTRIBUTE, None) is None
        if not foreign or self._sums.admit("log", {"source": record.name}, (_log, record.levelno)):
            self.writer.write(self.format(record))

    def write_event(self, logger: str, event: str, level: int, fields: Mapping[str, FieldValue]) -> None:
        """Write one of this program's own events, without a record of it."""
        self.writer.write(self.formatter.line_of(_Origin(time.time(), level, logger), event, fields))

    def _report_lost(self, lines: int) -> str:
        record = logging.LogRecord(_log.name, logging.WARNING, "", 0, "log-lost", None, None)
        setattr(record, _RECORD_ATTRIBUTE, {"lines": lines})
        return self.format(record)

    def _emit_sums(self, *, at_once: bool = False) -> float | None:
        for event, what, fields in self._sums.due(at_once=at_once):
            logger, level = what
            _write(logger, event, level, None, fields)
        return self._sums.next_due()

    def finish(self) -> None:
        """Write the remaining sums and lines at the process's end."""
        self._emit_sums(at_once=True)
        self.writer.flush(_LAST_SECONDS)


class _EventKeeper(logging.Handler):
    """Keeps what is worth showing in :data:`latest`; of a traceback the last line, which names the exception."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._reader = TextFormatter()

    def filter(self, record: logging.LogRecord) -> bool:
        # Asked before the lock is taken: most events are those of single clients, and are not kept.
        return is_kept(str(record.msg), record.levelno)

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = self._reader.event_of(record)
        if "exception" in fields:
            fields["exception"] = str(fields["exception"]).rstrip().rpartition("\n")[2]
        details = " ".join(_pairs(fields))
        if len(details) > MAX_DETAIL_CHARS:
            details = details[:MAX_DETAIL_CHARS] + "…"
        latest.note(record.created, record.levelno, event, details)


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO) -> None:
    """Send the process's log to ``stream``; a second call replaces what the first one set up.

    ``level`` applies to this package only. Of other libraries only warnings are written: their debug lines may hold
    what they carried, passwords included.
    """
    _install(_StreamHandler(stream), log_format, level)


def open_log(log_format: LogFormat, level: LogLevel, stream: TextIO | None) -> None:
    """Configure the log of a process that serves: a thread writes to ``stream``'s descriptor, and repeated events of
    strangers are summed up. ``None``: it was closed before the process began, so there is no log."""
    global _sums, _keeper  # one log, one process
    if _keeper is None:
        _keeper = _EventKeeper()
    logging.getLogger().addHandler(_keeper)
    if stream is None:
        _install(logging.NullHandler(), log_format, level)
        return
    _sums = Sums()
    handler = _WriterHandler(stream.fileno(), _sums)
    atexit.register(handler.finish)
    _install(handler, log_format, level)


def adjust(log_format: LogFormat, level: LogLevel) -> None:
    """Write what follows in that format, from that level on; does nothing where the log is not this module's."""
    ours = [each for each in logging.getLogger().handlers if isinstance(each, (_StreamHandler, _WriterHandler))]
    for handler in ours:
        handler.setFormatter(_formatter(log_format, handler))
    if ours:
        logging.getLogger("cxfr_proxy").setLevel(level.upper())


def _formatter(log_format: LogFormat, handler: logging.Handler) -> logging.Formatter:
    formatter = JsonFormatter if log_format is LogFormat.JSON else TextFormatter
    return formatter(for_journal=isinstance(handler, _WriterHandler) and handler.to_journal)


def _install(handler: logging.Handler, log_format: LogFormat, level: LogLevel) -> None:
    global _writer  # one log, one process
    handler.setFormatter(_formatter(log_format, handler))
    _writer = handler if isinstance(handler, _WriterHandler) else None
    # What no line of ours says is not looked up for each: see "Optimization" in the manual of logging.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, (_StreamHandler, _WriterHandler))]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("cxfr_proxy").setLevel(level.upper())
