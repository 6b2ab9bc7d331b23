"""The settings of how the proxy is operated and watched. A part of the table (:mod:`.table`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cxfr_proxy.config import values
from cxfr_proxy.config.control_places import default_control
from cxfr_proxy.config.settings import Group, Reload, Row, repeatable, setting
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.events import LogFormat, LogLevel

# ruff: noqa: RUF009 - the calls in the dataclass make fields, as dataclasses.field() does


def _control_field() -> Path:
    row = Row(
        Group.OPERATING,
        Reload.RESTART,
        values.PATH,
        "unix socket on which the proxy takes commands (drain, show, reload, …)",
        "A system service, a user's service and a test run may write there, and only root or the user who runs the "
        "proxy can use the socket.",
        repeatable=False,
        default="$CXFR_PROXY_CONTROL, else $RUNTIME_DIRECTORY/control.sock, else $XDG_RUNTIME_DIR/cxfr-proxy.sock, "
        "else /run/cxfr-proxy.sock for root, else a private directory for temporary files",
    )
    value: Path = field(default_factory=default_control, metadata={"row": row})
    return value


@dataclass(frozen=True)
class OperatingSettings:
    """How the proxy is operated. ``None`` is explained where it may stand."""

    control: Path = _control_field()
    http: ListenAddress | None = setting(
        Group.OPERATING,
        Reload.RESTART,
        values.LISTEN.or_none,
        None,
        "address that answers by HTTP, or by HTTPS (http-certificate): /metrics, /livez and /readyz to everybody, the "
        "API to those who have a token (http-tokens). Best a loopback address like 127.0.0.1:9222",
        "The open pages change nothing and name no client, but the nodes' state is nobody else's business.",
        shown="none: no HTTP",
    )
    """``None``: not at all."""
    http_certificate: Path | None = setting(
        Group.OPERATING,
        Reload.AT_ONCE,
        values.PATH.or_none,
        None,
        "PEM file with the certificate chain for HTTPS, and its key unless --http-key names another file; http speaks "
        "nothing else then. Both files are followed: a certificate that is renewed there is used by itself",
        "On one machine it protects nothing. Beyond that, tokens are passwords.",
        shown="none: HTTP without TLS",
    )
    """``None``: no TLS."""
    http_key: Path | None = setting(
        Group.OPERATING,
        Reload.AT_ONCE,
        values.PATH.or_none,
        None,
        "PEM file with the private key of --http-certificate",
        "Many tools write certificate and key into one file.",
        shown="the certificate's file",
    )
    http_tokens: Path | None = setting(
        Group.OPERATING,
        Reload.AT_ONCE,
        values.PATH.or_none,
        None,
        "file of the tokens that let somebody use the API by HTTP, one 'role name digest' per line as cxfr-proxy token "
        "makes it; nobody else may be able to read it",
        "Without it nobody is let in: no default can say who may drain a node.",
        shown="none: no API",
    )
    """``None``: nobody may use it."""
    http_host: tuple[str, ...] = repeatable(
        Group.OPERATING,
        Reload.AT_ONCE,
        values.DOMAIN,
        (),
        "name by which the API may be asked for, beside IP addresses, localhost, the machine's own name and those in "
        "http-certificate: that of a reverse proxy, for example",
        "A page of somebody else's could otherwise have its own name lead here (DNS rebinding).",
        shown="none",
    )
    state: Path | None = setting(
        Group.OPERATING,
        Reload.RESTART,
        values.PATH.or_none,
        None,
        "file in which drains, pins, a roll and what was learned of client software outlive the proxy",
        "Beside the control socket it outlives a restart, if the directory does; in /var/lib a reboot as well.",
        shown="beside the control socket: its path with `.state` behind it",
    )
    """``None``: beside the control socket."""
    log_format: LogFormat = setting(
        Group.OPERATING,
        Reload.AT_ONCE,
        values.one_of(LogFormat),
        LogFormat.TEXT,
        "how log lines are written",
        "People read it first; JSON is for log collectors.",
    )
    log_level: LogLevel = setting(
        Group.OPERATING,
        Reload.AT_ONCE,
        values.one_of(LogLevel),
        LogLevel.INFO,
        "the least severe events that are logged",
        "One line for each session that comes, moves and goes; debug adds what leads to them.",
    )

    @property
    def state_path(self) -> Path:
        """The file of ``state``."""
        return self.state if self.state is not None else Path(f"{self.control}.state")
