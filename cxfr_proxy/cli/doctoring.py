"""``cxfr-proxy doctor``: examine the nodes, and print what is wrong with them."""

from __future__ import annotations

import getpass
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from cxfr_proxy.cli.checking import read_nodes
from cxfr_proxy.cli.exit_codes import FAULTS, OK
from cxfr_proxy.cluster.words import did_you_mean
from cxfr_proxy.config.table import Config
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.files import read_secret
from cxfr_proxy.xmpp import jid

if TYPE_CHECKING:
    from cxfr_proxy.doctor.examining.client import Account

_MOST_PASSWORD_BYTES: Final = 4096


def examine_nodes(config: Config, flags: Mapping[str, object]) -> int:
    """Examine the nodes of these settings, print the report, and return the exit code. Raises :class:`ConfigError`."""
    from cxfr_proxy.cluster.sources.named import open_source
    from cxfr_proxy.doctor.examining.cluster import examine
    from cxfr_proxy.doctor.report import DoctorReport

    config.check_serving()
    assert config.backends is not None, "check_serving() has seen to it"
    ignoring = _rules(flags.get("ignore"))
    account = _account(config, flags.get("log_in_as"), flags.get("password_file"))
    nodes = read_nodes(open_source(config.backends, config.redirection))
    report = DoctorReport.of(trio.run(examine, config, nodes, account), ignoring)
    if flags.get("json"):
        print(report.as_json())
    else:
        for line in report.lines(shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
            print(line)
    return FAULTS if report.needs_mending else OK


def _rules(names: object) -> frozenset[str]:
    """Return the names of rules. Raises :class:`ConfigError` for one that there is not."""
    from cxfr_proxy.doctor.rules import RULES

    known = [rule.name for rule in RULES]
    chosen = [str(name) for name in names] if isinstance(names, list) else []
    for name in chosen:
        if name not in known:
            hint = did_you_mean(name, known) or "; docs/doctor.md has their names"
            raise ConfigError(f"--ignore: there is no finding {name!r:.80}{hint}")
    return frozenset(chosen)


def _account(config: Config, user: object, password_file: object) -> Account | None:
    from cxfr_proxy.doctor.examining.client import Account

    if user is None:
        if password_file is not None:
            raise ConfigError("--password-file: expected --user as well")
        return None
    try:
        local, domain, resource = jid.split(str(user))
    except jid.JidError as exc:
        raise ConfigError(f"--user: {exc}") from exc
    if local is None or resource is not None:
        raise ConfigError("--user: expected a JID like doctor@example.org")
    return Account(local, domain, _password(config, str(user), password_file))


def _password(config: Config, user: str, file: object) -> str | None:
    """Read the password; ``None``: there is none, and the certificate for nodes has to do."""
    if file is not None:
        try:
            text = read_secret(str(file), max_bytes=_MOST_PASSWORD_BYTES).decode()
        except UnicodeDecodeError:
            raise ConfigError("expected a password in UTF-8", file=str(file)) from None
        # An editor ends the line; a password may end in a space.
        password = text.removesuffix("\n").removesuffix("\r")
        if not password:
            raise ConfigError("expected a password, found nothing", file=str(file))
        return password
    asked = _ask(user) if sys.stdin.isatty() else None
    if asked is None and config.node_certificate is None:
        raise ConfigError("--user: expected --password-file, --node-certificate, or a terminal to ask for the password")
    return asked


def _ask(user: str) -> str | None:
    try:
        return getpass.getpass(f"Password of {user}: ") or None
    except EOFError:  # CTRL-D
        return None
