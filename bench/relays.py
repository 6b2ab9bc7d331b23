"""The proxy and what it is compared with: each a process on the relay's core in front of a node of its own.

All are given what an operator would give them to carry XMPP, and nothing that only a bench would like: HAProxy and
nginx run with one thread or worker, in TCP mode; their defaults are left alone but for time limits and the number of
connections. A relay that listens with TLS speaks plain TCP to the node, as the proxy does. They have one certificate,
and read one configuration of OpenSSL: the same cipher, the same group, one session ticket after each handshake.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from bench import machine, programs
from bench.programs import HOST, PYTHON, Certificate, Failed, Folder, Missing, Program

_STREAM_MODULES: Final = (
    Path("/usr/lib/nginx/modules/ngx_stream_module.so"),
    Path("/usr/share/nginx/modules/ngx_stream_module.so"),
    Path("/usr/lib64/nginx/modules/ngx_stream_module.so"),
)
_OPENSSL: Final = """\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = tls
[tls]
Ciphersuites = TLS_AES_256_GCM_SHA384
Groups = X25519
NumTickets = 1
"""
"""The settings with which every relay's OpenSSL begins. The proxy sends one ticket anyhow; the others would send
two."""
_SPARE_DESCRIPTORS: Final = 200
"""Descriptors that a program opens beside its sessions, with room."""


class Kind(StrEnum):
    """``DIRECT`` is no relay: the load speaks to the node itself, plain."""

    DIRECT = "direct"
    BARE = "bare"
    HAPROXY = "haproxy"
    NGINX = "nginx"
    TRIO = "trio-websocket"
    PROXY = "proxy"

    @property
    def speaks_tls(self) -> bool:
        return self in (Kind.HAPROXY, Kind.NGINX, Kind.TRIO, Kind.PROXY)


@dataclass(frozen=True, slots=True)
class Setup:
    """``engine``, ``workers`` and ``options`` are for the proxy; ``certificate`` is there if ``tls`` is true.
    ``websocket``: clients speak it, and so does the node behind a relay that does not look inside."""

    tls: bool
    folder: Folder
    cores: machine.Cores
    certificate: Certificate | None = None
    engine: str = "native"
    workers: int = 1
    options: Sequence[str] = ()
    websocket: bool = False


@dataclass(frozen=True, slots=True)
class Relay:
    """A running one. ``port`` is the clients'; ``program`` is ``None`` where there is no relay in between."""

    kind: Kind
    name: str
    port: int
    program: Program | None
    nodes: list[Program] = field(default_factory=list)

    def pids(self) -> list[int]:
        """Of the relay with all its children."""
        return self.program.family() if self.program is not None else []


def max_sessions() -> int:
    """How many fit into one relay process: two descriptors each."""
    return (machine.descriptor_limit() - _SPARE_DESCRIPTORS) // 2


def describe(engine: str) -> dict[str, str]:
    """Versions; a program that is not here is not in it.

    Raises :class:`~bench.programs.Failed` if the proxy does not take that engine.
    """
    framer = _said([PYTHON, "-m", "cxfr_proxy", "--version"], {"CXFR_ENGINE": engine})
    if ("native" in framer) != (engine == "native"):
        raise Failed(f"the proxy was asked for the engine '{engine}', and says: {framer}")
    about = {"proxy": framer, "openssl": ssl.OPENSSL_VERSION}
    if (haproxy := _program("haproxy")) is not None:
        about["haproxy"] = _said([haproxy, "-v"])
    if (nginx := _program("nginx")) is not None:
        about["nginx"] = _said([nginx, "-v"])
    return about


def _said(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The first line of its stdout or stderr."""
    environment = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=programs.ROOT, env=environment)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def node(setup: Setup, port: int) -> Iterator[Program]:
    """A process of a cheap node; several may share the port. Raises :class:`Missing`."""
    command: list[str | Path] = [programs.compiled("node"), HOST, str(port)]
    with programs.started("node", command, setup.folder, cores={setup.cores.node}) as program:
        program.read_line()
        yield program


@contextlib.contextmanager
def relay(kind: Kind, setup: Setup) -> Iterator[Relay]:
    """A relay in front of a node of its own. Raises :class:`Missing` where this machine has none."""
    node_port = programs.free_port()
    with node(setup, node_port) as behind:
        if kind is Kind.DIRECT:
            yield Relay(kind, kind.value, node_port, None, [behind])
            return
        port = programs.free_port()
        with started(kind.value, command(kind, setup, port, node_port), setup) as program:
            programs.wait_for("listening", program, lambda: programs.accepts(port))
            yield Relay(kind, _name(kind, setup), port, program, [behind])


@contextlib.contextmanager
def started(name: str, command: Sequence[str | Path], setup: Setup) -> Iterator[Program]:
    """A relay's program, with what all relays are given."""
    environment = {"CXFR_ENGINE": setup.engine}
    if setup.tls:
        environment["OPENSSL_CONF"] = str(setup.folder.write("openssl.cnf", _OPENSSL))
    cores = setup.cores.relay
    with programs.started(name, command, setup.folder, cores=cores, environment=environment) as program:
        yield program


def _name(kind: Kind, setup: Setup) -> str:
    return f"proxy, {setup.engine}" if kind is Kind.PROXY and setup.engine != "native" else kind.value


# --- how each is started


def command(kind: Kind, setup: Setup, port: int, node_port: int) -> list[str | Path]:
    """That starts a relay. Raises :class:`Missing` where this machine has none."""
    return _COMMANDS[kind](setup, port, node_port)


def _bare(setup: Setup, port: int, node_port: int) -> list[str | Path]:
    return [programs.compiled("relay"), HOST, str(port), HOST, str(node_port)]


def _haproxy(setup: Setup, port: int, node_port: int) -> list[str | Path]:
    program = _program("haproxy")
    if program is None:
        raise Missing("HAProxy is not installed (Debian: haproxy)")
    secure = f" ssl crt {setup.certificate.both}" if setup.certificate is not None else ""
    # As root it would raise its limit to what maxconn needs, and fails where the system forbids that: so both are told.
    text = f"""\
global
  nbthread 1
  maxconn {max_sessions()}
  fd-hard-limit {machine.descriptor_limit()}
defaults
  mode tcp
  maxconn {max_sessions()}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen clients
  bind {HOST}:{port}{secure}
  server node {HOST}:{node_port}
"""
    return [program, "-db", "-f", setup.folder.write(f"haproxy-{port}.cfg", text)]


def _nginx(setup: Setup, port: int, node_port: int) -> list[str | Path]:
    program = _program("nginx")
    if program is None:
        raise Missing("nginx is not installed (Debian: nginx-light, libnginx-mod-stream)")
    secure = certificate = ""
    if setup.certificate is not None:
        secure = " ssl"
        certificate = (
            f"ssl_certificate {setup.certificate.certificate}; ssl_certificate_key {setup.certificate.key};"
            " ssl_protocols TLSv1.2 TLSv1.3;"
        )
    listen = f"listen {HOST}:{port}{secure} backlog=4096; {certificate}"
    if setup.websocket:
        carries = _NGINX_WEBSOCKET.format(listen=listen, node=f"{HOST}:{node_port}")
    else:
        carries = _load_stream_module(program) + _NGINX_STREAM.format(listen=listen, node=f"{HOST}:{node_port}")
    text = f"""\
{carries}
daemon off;
worker_processes 1;
worker_rlimit_nofile {machine.descriptor_limit()};
pid {setup.folder.path}/nginx-{port}.pid;
error_log stderr;
events {{ worker_connections {machine.descriptor_limit() - _SPARE_DESCRIPTORS // 2}; }}
"""
    return [program, "-c", setup.folder.write(f"nginx-{port}.conf", text)]


_NGINX_STREAM: Final = """
stream {{
  server {{
    {listen}
    proxy_timeout 1h;
    proxy_pass {node};
  }}
}}
"""
_NGINX_WEBSOCKET: Final = """\
http {{
  access_log off;
  server {{
    {listen}
    location /xmpp-websocket {{
      proxy_pass http://{node};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }}
  }}
}}
"""


def _load_stream_module(program: str) -> str:
    """The line that loads TCP proxying, empty where it is built in. Raises :class:`Missing`."""
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stderr
    if re.search(r"--with-stream(\s|$)", built):
        return ""
    for path in _STREAM_MODULES:
        if path.exists():
            return f"load_module {path};"
    raise Missing("nginx is here, but not its stream module (Debian: libnginx-mod-stream)")


def _trio(setup: Setup, port: int, node_port: int) -> list[str | Path]:
    secure = [setup.certificate.certificate, setup.certificate.key] if setup.certificate is not None else []
    return [PYTHON, "-m", "bench.trio_relay", HOST, str(port), str(node_port), *map(str, secure)]


def _proxy(setup: Setup, port: int, node_port: int) -> list[str | Path]:
    nodes = setup.folder.write(f"nodes-{port}.txt", f"a {HOST}:{node_port}\n")
    return proxy_command(setup, port, nodes, setup.folder.path / f"control-{port}")


def proxy_command(setup: Setup, port: int, nodes: Path, control: Path) -> list[str | Path]:
    """The proxy as an operator runs it; only its limit on connections from one address is lifted,
    and it moves nobody by itself."""
    command: list[str | Path] = [PYTHON, "-m", "cxfr_proxy", "--workers", str(setup.workers)]
    command += ["--backends", nodes, "--listen", f"{HOST}:{port}", "--control", control]
    command += ["--connections-per-address", "none", "--wrong-node", "keep", "--rebalance", "manual"]
    if setup.certificate is not None:
        command += ["--certificate", setup.certificate.certificate, "--key", setup.certificate.key]
    else:
        command += ["--starttls", "off"]
    return [*command, *setup.options]


_COMMANDS: Final[dict[Kind, Callable[[Setup, int, int], list[str | Path]]]] = {
    Kind.BARE: _bare,
    Kind.HAPROXY: _haproxy,
    Kind.NGINX: _nginx,
    Kind.TRIO: _trio,
    Kind.PROXY: _proxy,
}
