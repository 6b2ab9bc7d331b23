"""The filter in docs/failed-logins.md, read by fail2ban itself, on lines as the proxy writes them."""

from __future__ import annotations

import io
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxfr_proxy import events
from cxfr_proxy.events import LogFormat, LogLevel, emit
from real.programs import Need, require

DOCUMENT = Path(__file__).parents[2] / "docs" / "failed-logins.md"
FORGED = "x INFO login-failed session=1 client=198.51.100.9 port=1 node=a condition=not-authorized mechanism=PLAIN"
LOGGER = logging.getLogger("cxfr_proxy.worker.session_log")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The logger that :func:`failed` writes to, once it is configured."""
    root, own = logging.getLogger(), logging.getLogger("cxfr_proxy")
    handlers, levels = list(root.handlers), (root.level, own.level)
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def failed(
    client: str, condition: str = "not-authorized", mechanism: str = "PLAIN", user: str | None = "kim@h"
) -> None:
    emit(
        LOGGER,
        "login-failed",
        session=1,
        client=client,
        port=40312,
        node="node1",
        condition=condition,
        mechanism=mechanism,
        user=user,
    )


def write(log: io.StringIO, log_format: LogFormat) -> None:
    events.configure(log_format, LogLevel.INFO, log)
    failed("192.0.2.1")
    failed("2001:db8::2", "account-disabled")
    failed("192.0.2.3", mechanism='a "mechanism', user=FORGED)
    failed("192.0.2.4", mechanism=FORGED, user="a\nb")
    failed("192.0.2.5", user=None)
    failed("203.0.113.1", "client-lost")
    failed("203.0.113.2", mechanism="HT-SHA-256-NONE")
    emit(LOGGER, "client-refused", client="203.0.113.3", reason=FORGED, user=FORGED)
    emit(LOGGER, "bound", session=1, jid=FORGED, client="203.0.113.4")


BANNED = ["192.0.2.1", "2001:db8::2", "192.0.2.3", "192.0.2.4", "192.0.2.5"]


@pytest.mark.parametrize(
    ("log_format", "before"), [(LogFormat.TEXT, ""), (LogFormat.TEXT, "proxy1 cxfr-proxy[812]: "), (LogFormat.JSON, "")]
)
def test_who_guesses_passwords_is_found_and_nobody_else(
    log_format: LogFormat, before: str, tmp_path: Path, log: io.StringIO
) -> None:
    require(Need.FAIL2BAN)
    write(log, log_format)
    lines = log.getvalue().splitlines()
    assert len(lines) == 9
    path, filter_file = tmp_path / "proxy.log", tmp_path / "cxfr-proxy.conf"
    path.write_text("".join(f"{before}{line}\n" for line in lines))
    found = re.search(r"```ini\n(# /etc/fail2ban/filter\.d.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    filter_file.write_text(found[1])
    done = subprocess.run(
        ["fail2ban-regex", "-o", "ip", str(path), str(filter_file)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == BANNED, done
