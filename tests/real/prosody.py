"""A real Prosody as a node: own folder, own port on loopback, users written straight into its storage.

It starts in about 0.1 s. Two of these for one domain know nothing of each other: no common sessions, no s2s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import trio

from real import programs
from real.certs import Certificate
from real.programs import DOMAIN, HOST, PASSWORD

_BASE: Final = """\
run_as_root = true
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
certificates = "certs"
interfaces = {{ "{host}" }}
c2s_ports = {{ {port} }}
c2s_direct_tls_ports = {{ {direct_tls_port} }}
s2s_ports = {{ }}
modules_disabled = {{ "s2s", "s2s_auth_certs", "offline" }}
modules_enabled = {{ "roster", "saslauth", "disco", "ping"{modules} }}
c2s_require_encryption = {require_encryption}
{settings}allow_unencrypted_plain_auth = true
authentication = "internal_plain"
storage = "internal"
log = {{ debug = "{folder}/prosody.log" }}
VirtualHost "{domain}"
"""

_TLS: Final = """\
ssl = {{ certificate = "{certificate}", key = "{key}" }}
c2s_direct_tls_ssl = {{ certificate = "{certificate}", key = "{key}" }}
"""


class ProsodyNode:
    """``async with ProsodyNode(folder, users=...)``: running inside the block, ended after it whatever happens.

    ``stream_management`` loads XEP-0198. With ``certificate`` the node demands TLS of its clients: STARTTLS on
    ``port``, TLS from the first byte on ``direct_tls_port`` (``None`` without one). All users have
    ``programs.PASSWORD``. ``modules`` and ``settings`` are further ones, the latter lines of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Iterable[str],
        domain: str = DOMAIN,
        stream_management: bool = False,
        certificate: Certificate | None = None,
        modules: Iterable[str] = (),
        settings: Iterable[str] = (),
    ) -> None:
        self.folder = folder
        self.host = HOST
        self.port = programs.free_port()
        self.direct_tls_port = programs.free_port() if certificate is not None else None
        self.domain = domain
        self.log = folder / "prosody.log"
        self.process: trio.Process | None = None
        self._output = folder / "output.log"
        (folder / "certs").mkdir(parents=True)
        (folder / "prosody.cfg.lua").write_text(
            self._config(stream_management, certificate, modules, settings), "utf-8"
        )
        self._register(users)

    def _config(
        self,
        stream_management: bool,
        certificate: Certificate | None,
        further: Iterable[str],
        settings: Iterable[str],
    ) -> str:
        modules = [*(["smacks"] if stream_management else []), *(["tls"] if certificate is not None else []), *further]
        config = _BASE.format(
            folder=self.folder,
            host=self.host,
            port=self.port,
            direct_tls_port=self.direct_tls_port or "",
            modules="".join(f', "{module}"' for module in modules),
            require_encryption="true" if certificate is not None else "false",
            domain=self.domain,
            settings="".join(f"{line}\n" for line in settings),
        )
        if certificate is not None:
            config += _TLS.format(certificate=certificate.certificate, key=certificate.key)
        return config

    def _register(self, users: Iterable[str]) -> None:
        """Prosody's internal storage is one Lua file a user; the folder is the domain, percent-encoded."""
        encoded = "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in self.domain)
        accounts = self.folder / "data" / encoded / "accounts"
        accounts.mkdir(parents=True)
        for user in users:
            (accounts / f"{user}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}"; }};\n', "utf-8")

    def lacks(self, module: str) -> bool:
        """Whether it has found no such module when it started."""
        return f"module '{module}'" in self.log.read_text("utf-8", "replace").lower()

    @property
    def version(self) -> tuple[int, ...]:
        """As ``(13, 0, 1)``; of one that was built from the tip of its development, nothing."""
        found = re.search(r"Prosody version ([0-9.]+)", self.log.read_text("utf-8", "replace"))
        return tuple(int(part) for part in found[1].strip(".").split(".")) if found is not None else ()

    async def start(self) -> None:
        """Start and wait until it accepts. Also after :meth:`stop` and :meth:`kill`, with the same users and ports."""
        self.process = await programs.start(
            ["prosody", "-F", "--config", self.folder / "prosody.cfg.lua"], output=self._output, cwd=self.folder
        )
        for port in (self.port, self.direct_tls_port):  # Prosody 13 opens the second later
            if port is not None:
                await programs.wait_accepting(self.host, port, self.process, self._output, self.log)

    async def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        await programs.end(self.process)

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
