"""The programs, and how each is got: from the distribution, from a registry, or by a compiler.

Software that has to be built or installed for one goes into a folder (``workshop``) that can be kept from one call to
the next.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from real.programs import DOMAIN, PASSWORD

import cxfr_proxy.plugins

_PROGRAMS: Final = Path(__file__).parent / "programs"
_JS: Final = Path(__file__).parents[1] / "js"
_PLUGIN: Final = Path(cxfr_proxy.plugins.__file__).parent / "js" / "cxfr.js"
_SYSTEM_PYTHON: Final = "/usr/bin/python3"
_INSTALL_SECONDS: Final = 300.0
_AIOXMPP: Final = "0.13.3"
_CONVERSE: Final = "14.0.0"


class Missing(Exception):
    """A program is not here, and why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client is to log in, and as whom. ``home`` is a folder of its own. ``ca`` certifies the proxy, for those
    that would go nowhere otherwise."""

    user: str
    host: str
    port: int
    home: Path
    ca: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CLIENT_JID": f"{self.user}@{DOMAIN}",
            "CLIENT_PASSWORD": PASSWORD,
            "CLIENT_HOST": self.host,
            "CLIENT_PORT": str(self.port),
            "HOME": str(self.home),
            "NODE_EXTRA_CA_CERTS": str(self.ca),
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program that is here. ``words`` are its command line at a place."""

    version: str
    words: Callable[[Place], list[str]]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """``user`` is its account's name. ``prepare`` gets it, or raises :class:`Missing`. ``files`` are what it reads in
    its home, by path: text with the fields of a :class:`Place`. ``quick``: it is here within a minute on a bare
    machine, and no web client, of which other tests have enough. ``stays_down``: nothing brings it back."""

    name: str
    user: str
    prepare: Callable[[Path], Prepared]
    quick: bool = True
    terminal: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    stays_down: bool = False

    def furnish(self, place: Place) -> None:
        """Write its files."""
        for path, text in self.files.items():
            file = place.home / path
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_text(
                text.format(user=place.user, host=place.host, port=place.port, domain=DOMAIN, password=PASSWORD)
            )
            file.chmod(0o600)


# --- how they are got


def _output_of(*command: str | Path, cwd: Path | None = None) -> str:
    """Its output. Raises :class:`Missing` where it does not end well."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "?").splitlines()[-1]
        raise Missing(f"{Path(command[0]).name}: {last}")
    return done.stdout + done.stderr


def _slixmpp(kind: str) -> Callable[[Path], Prepared]:
    def prepare(workshop: Path) -> Prepared:
        try:
            version = importlib.metadata.version("slixmpp")
        except importlib.metadata.PackageNotFoundError as error:
            raise Missing("pip install slixmpp") from error
        return Prepared(version, lambda place: [sys.executable, str(_PROGRAMS / "use_slixmpp.py"), kind])

    return prepare


def _aioxmpp(workshop: Path) -> Prepared:
    """In an environment of its own: it wants an lxml that is older than the proxy's."""
    python = workshop / "aioxmpp" / "bin" / "python"
    if not python.exists():
        _output_of(sys.executable, "-m", "venv", workshop / "aioxmpp")
    _output_of(python, "-m", "pip", "install", "--quiet", f"aioxmpp=={_AIOXMPP}", "pytz")
    version = _output_of(python, "-c", "import aioxmpp; print(aioxmpp.__version__)").splitlines()[0]
    return Prepared(version, lambda place: [str(python), str(_PROGRAMS / "use_aioxmpp.py")])


def _nbxmpp(workshop: Path) -> Prepared:
    version = _output_of(_SYSTEM_PYTHON, "-c", "import gi, nbxmpp.client; print(nbxmpp.__version__)").splitlines()[0]
    return Prepared(version, lambda place: [_SYSTEM_PYTHON, str(_PROGRAMS / "use_nbxmpp.py")])


def _js(package: str, script: str, *words: str) -> Callable[[Path], Prepared]:
    """A script with a library of npm's."""

    def prepare(workshop: Path) -> Prepared:
        folder = workshop / "js"
        folder.mkdir(exist_ok=True)
        for source in (_JS / "package.json", _JS / "package-lock.json", _PROGRAMS / script):
            shutil.copy(source, folder)
        if not (folder / "node_modules").exists():
            _output_of("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        manifest = json.loads((folder / "node_modules" / package / "package.json").read_text())
        return Prepared(manifest["version"], lambda place: ["node", str(folder / script), *words])

    return prepare


def _converse(workshop: Path) -> Prepared:
    if shutil.which("chromium") is None:
        raise Missing("apt-get install chromium")
    packages = workshop / "converse" / "node_modules"
    if not packages.exists():
        wanted = f"converse.js@{_CONVERSE}"
        # A bundle, which needs none of what it names.
        _output_of("npm", "pack", "--silent", "--pack-destination", workshop, wanted)
        folder = packages / "converse.js"
        folder.mkdir(parents=True)
        _output_of("tar", "-xzf", workshop / f"converse.js-{_CONVERSE}.tgz", "--strip-components=1", "-C", folder)
    words = [sys.executable, str(_PROGRAMS / "use_converse.py"), str(packages)]
    return Prepared(_CONVERSE, lambda place: words)


def _compiled(source: str, compiler: str, *packages: str) -> Callable[[Path], Prepared]:
    def prepare(workshop: Path) -> Prepared:
        flags = _output_of("pkg-config", "--cflags", "--libs", *packages).split()
        program = workshop / Path(source).stem
        _output_of(compiler, "-fPIC", "-o", program, _PROGRAMS / source, *flags)
        version = _output_of("pkg-config", "--modversion", packages[0]).strip()
        return Prepared(version, lambda place: [str(program)])

    return prepare


def _installed(asks: tuple[str, ...], version: str, words: Callable[[Place], list[str]]) -> Callable[[Path], Prepared]:
    """A program of the distribution's. ``version``: a pattern for it in what the command ``asks`` prints."""

    def prepare(workshop: Path) -> Prepared:
        if shutil.which(asks[0]) is None:
            raise Missing(f"apt-get install {asks[0]}")
        found = re.search(version, _output_of(*asks))
        return Prepared(found.group(1) if found is not None else "?", words)

    return prepare


_MCABBERRC: Final = """\
set jid = {user}@{domain}
set password = {password}
set server = {host}
set port = {port}
set tls = 1
set ssl_ignore_checks = 1
"""
_PROFRC: Final = """\
[connection]
reconnect=3
"""
_PROFANITY_ACCOUNTS: Final = """\
[{user}@{domain}]
enabled=true
jid={user}@{domain}
server={host}
port={port}
password={password}
tls.policy=trust
"""

PROGRAMS: Final = (
    Program("xmpp.js", "xmppjs", _js("@xmpp/client", "use_xmppjs.mjs", "plain")),
    Program("xmpp.js, cxfr.js", "xmppjsplugin", _js("@xmpp/client", "use_xmppjs.mjs", "plugin", _PLUGIN.as_uri())),
    Program("slixmpp", "slixmpp", _slixmpp("plain")),
    Program("slixmpp, reconnecting, XEP-0198", "slixmppsm", _slixmpp("reconnecting")),
    Program("slixmpp, plugin", "slixmppplugin", _slixmpp("plugin")),
    Program("aioxmpp", "aioxmpp", _aioxmpp),
    Program("nbxmpp (Gajim), reconnecting", "nbxmpp", _nbxmpp, quick=False),
    Program("libstrophe, reconnecting", "libstrophe", _compiled("use_libstrophe.c", "gcc", "libstrophe"), quick=True),
    Program(
        "Profanity",
        "profanity",
        _installed(
            ("profanity", "-v"),
            r"version (\S+)",
            lambda place: ["profanity", "-a", f"{place.user}@{DOMAIN}"],
        ),
        terminal=True,
        files={".config/profanity/profrc": _PROFRC, ".local/share/profanity/accounts": _PROFANITY_ACCOUNTS},
    ),
    Program(
        "QXmpp",
        "qxmpp",
        _compiled("use_qxmpp.cpp", "g++", "qxmpp", "Qt5Core", "Qt5Network", "Qt5Xml"),
        quick=False,
    ),
    Program(
        "mcabber",
        "mcabber",
        _installed(("mcabber", "-V"), r"MCabber (\S+)", lambda place: ["mcabber"]),
        terminal=True,
        files={".mcabber/mcabberrc": _MCABBERRC},
        stays_down=True,
    ),
    Program(
        "go-sendxmpp",
        "gosendxmpp",
        _installed(
            ("go-sendxmpp", "--version"),
            r"(?i)go-sendxmpp (\S+)",
            lambda place: [
                *("go-sendxmpp", "--listen", "--no-tls-verify", "-u", f"{place.user}@{DOMAIN}"),
                *("-p", PASSWORD, "-j", f"{place.host}:{place.port}"),
            ],
        ),
        stays_down=True,
    ),
    Program("xmpp.js by WebSocket", "xmppjsws", _js("@xmpp/client", "use_xmppjs.mjs", "websocket"), quick=False),
    Program("strophe.js, reconnecting", "strophe", _js("strophe.js", "use_strophe.mjs"), quick=False),
    Program("stanza.js, autoReconnect", "stanza", _js("stanza", "use_stanza.mjs"), quick=False),
    Program("Converse", "converse", _converse, quick=False),
)
"""Those of docs/connection-transfer.md. One that connects again by itself does so at its default interval, but
Profanity and those that are called reconnecting, which have no default."""
