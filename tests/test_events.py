"""One event is one line, whatever a stranger wrote into it."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxfr_proxy import events
from cxfr_proxy.events import MAX_VALUE_CHARS, LogFormat, LogLevel, adjust, configure, emit, quoted
from cxfr_proxy.log_latest import KEPT, LatestEvents
from cxfr_proxy.log_writer import WHOLE_BYTES

LOGGER = logging.getLogger("cxfr_proxy.test")
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("cxfr_proxy")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:], root.level, package.level = before


def log(log_format: LogFormat, level: LogLevel = LogLevel.INFO) -> io.StringIO:
    stream = io.StringIO()
    configure(log_format, level, stream)
    return stream


def test_text() -> None:
    stream = log(LogFormat.TEXT)
    emit(LOGGER, "transfer", session=7, rung="cxfr", moved=True, seconds=0.25, target=None, text="two words")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO transfer "
        r'session=7 rung=cxfr moved=yes seconds=0\.25 text="two words"\n',
        stream.getvalue(),
    )


def test_json() -> None:
    stream = log(LogFormat.JSON)
    emit(LOGGER, "transfer", level=logging.WARNING, session=7, target=None, moved=True, text="é\n")
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "cxfr_proxy.test",
        "event": "transfer",
        "fields": {"session": 7, "target": None, "moved": True, "text": "é\n"},
    }


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch) -> LatestEvents:
    latest = LatestEvents()
    monkeypatch.setattr(events, "latest", latest)
    return latest


def test_the_latest_events_are_kept_of_each_kind(latest: LatestEvents) -> None:
    """One that comes all the time pushes no other out, and a traceback is its last line."""
    events.open_log(LogFormat.TEXT, LogLevel.INFO, None)
    emit(LOGGER, "transfer", outcome="moved")
    emit(LOGGER, "no-node", level=logging.ERROR, domain="\x1b[2J", seconds=0.5, user=None)
    for number in range(3 * KEPT):
        emit(LOGGER, "node-down", level=logging.WARNING, node=f"node{number}")
    try:
        raise ValueError("x" * 1000)
    except ValueError as exc:
        emit(LOGGER, "fault", level=logging.ERROR, exc_info=exc)
    first, *downs, fault = latest.entries()
    assert (first.event, first.level, first.total) == ("no-node", logging.ERROR, 1)
    assert first.details == 'domain="\\u001b[2J" seconds=0.5'
    assert [each.details for each in downs] == [f"node=node{number}" for number in range(2 * KEPT, 3 * KEPT)]
    assert downs[-1].total == 3 * KEPT
    assert fault.details.startswith('exception="ValueError: xxx')
    assert len(fault.details) <= events.MAX_DETAIL_CHARS + 1


def test_a_finalizer_may_log_in_the_middle_of_a_note() -> None:
    """At each place in turn: nobody waits for themselves."""
    latest = LatestEvents()

    def note(place: int) -> None:
        places = iter(range(place + 1))

        def on_call(*_: object) -> None:
            if next(places, -1) == place:
                latest.note(0.0, logging.WARNING, "unraisable", "inner")

        sys.setprofile(on_call)
        latest.note(0.0, logging.WARNING, "fault", "outer")
        latest.entries()
        sys.setprofile(None)

    for place in range(10):
        thread = threading.Thread(target=note, args=(place,), daemon=True)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    assert {each.event for each in latest.entries()} == {"fault", "unraisable"}


@pytest.mark.parametrize("level", LogLevel)
def test_events_worth_showing_are_kept_whatever_the_log_holds(latest: LatestEvents, level: LogLevel) -> None:
    events.open_log(LogFormat.TEXT, level, None)
    emit(LOGGER, "transfer", outcome="moved")
    emit(LOGGER, "node-up", node="node1")
    assert [(each.event, each.level, each.details) for each in latest.entries()] == [
        ("node-up", logging.INFO, "node=node1")
    ]


HOSTILE = [
    "\n2026-01-01T00:00:00.000Z INFO transfer session=1 outcome=moved",
    '" outcome="moved',
    "a outcome=moved",
    "a\\",
    "\r\x1b[2J\x00\x7f\x85\u2028\u202e\ud800\U000e0001",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("log_format", LogFormat)
def test_nobody_forges_a_line(log_format: LogFormat, value: str) -> None:
    stream = log(log_format)
    emit(LOGGER, "refused", reason=value, end=1)
    assert stream.getvalue().isprintable() is False  # because of the one newline at the end
    assert stream.getvalue()[:-1].isprintable()
    assert stream.getvalue().encode().endswith(b"\n")


def unquoted(token: str) -> str:
    """An independent reader of quoted tokens: a token in quotes is a Python literal without its own
    quotes."""
    if not token.startswith('"'):
        return token
    value = ast.literal_eval(token)
    assert isinstance(value, str)
    return value


@given(st.text())
@example(HOSTILE[4])
def test_quoting_is_one_token_and_loses_nothing(value: str) -> None:
    token = quoted(value)
    assert token.isprintable()
    assert re.fullmatch(r'[^\s"=\\]+|"(?:[^"\\]|\\.)*"', token)
    assert unquoted(token) == value


@pytest.mark.parametrize("log_format", LogFormat)
def test_long_values_are_cut(log_format: LogFormat) -> None:
    stream = log(log_format)
    emit(LOGGER, "refused", reason="x" * 1_000_000)
    assert MAX_VALUE_CHARS < len(stream.getvalue()) < MAX_VALUE_CHARS + 200


def test_a_traceback_is_a_field() -> None:
    stream = log(LogFormat.TEXT)
    try:
        raise KeyError("a\nb")
    except KeyError as exc:
        emit(LOGGER, "defect", level=logging.ERROR, exc_info=exc, session=3)
    assert stream.getvalue().count("\n") == 1
    assert 'ERROR defect session=3 exception="Traceback' in stream.getvalue()


@pytest.mark.parametrize("causes", [10, 100])
def test_a_long_traceback_keeps_its_end(causes: int) -> None:
    stream, fault = log(LogFormat.JSON), Exception("a")
    for number in range(causes):
        try:
            raise ValueError(number) from fault
        except ValueError as exc:
            fault = exc
    emit(LOGGER, "defect", level=logging.ERROR, exc_info=fault)
    traceback = json.loads(stream.getvalue())["fields"]["exception"]
    assert len(traceback) > MAX_VALUE_CHARS
    assert traceback.endswith(f"ValueError: {causes - 1}")
    assert len(stream.getvalue()) <= WHOLE_BYTES


def test_other_libraries_cannot_make_events() -> None:
    stream = log(LogFormat.TEXT)
    logging.getLogger("other").warning("transfer session=%s", "1\n2")
    assert stream.getvalue().count("\n") == 1
    assert ' WARNING log source=other message="transfer session=1\\n2"' in stream.getvalue()


def test_levels() -> None:
    stream = log(LogFormat.TEXT, LogLevel.DEBUG)
    emit(LOGGER, "detail", level=logging.DEBUG)
    logging.getLogger("other").info("a password")
    assert stream.getvalue().endswith(" DEBUG detail\n")
    assert stream.getvalue().count("\n") == 1


def test_configuring_again_replaces() -> None:
    first = log(LogFormat.TEXT)
    second = log(LogFormat.TEXT, LogLevel.ERROR)
    emit(LOGGER, "one", level=logging.ERROR)
    emit(LOGGER, "two")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_another_format_and_level_hold_from_then_on() -> None:
    stream = log(LogFormat.TEXT)
    emit(LOGGER, "before", level=logging.DEBUG)
    adjust(LogFormat.JSON, LogLevel.DEBUG)
    emit(LOGGER, "after", level=logging.DEBUG)
    assert json.loads(stream.getvalue())["event"] == "after"


def test_a_log_of_somebody_else_stays_as_it_is() -> None:
    root, package = logging.getLogger(), logging.getLogger("cxfr_proxy")
    root.handlers[:], package.level = [logging.NullHandler()], logging.WARNING
    adjust(LogFormat.JSON, LogLevel.DEBUG)
    assert package.level == logging.WARNING
