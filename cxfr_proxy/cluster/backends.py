"""The source of the list of nodes, as the operator gives it with ``--backends``.

A path is a file; all else is a URL::

    nodes.txt
    dns+srv://_xmpp-client._tcp.example.org?tls=starttls&ca=/etc/ssl/nodes.pem
    dns+srv://10.0.0.53:5353/_xmpp-client._tcp.example.org
    etcds://proxy@etcd1:2379,etcd2:2379/cxfr?ca=/etc/ssl/etcd.pem&password-file=/etc/cxfr/etcd

Behind ``?`` there are options of all nodes from DNS, by the table of ``nodes.txt``, or options of the connection to
etcd. No password stands in a URL: command lines can be read by everybody on the machine. An error never repeats a URL,
since somebody may have written one there all the same.

This module only reads values; :mod:`.sources` uses them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

import msgspec

from cxfr_proxy.cluster.addresses import Address, parse_address
from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls
from cxfr_proxy.cluster.nodes_file import parse_common
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import dns_name

SCHEMES: Final = ("dns+srv", "etcd", "etcds")

DNS_PORT: Final = 53
ETCD_PORT: Final = 2379
"""IANA's ``etcd-client``."""
PASSWORD_VARIABLE: Final = "CXFR_ETCD_PASSWORD"

_SERVICE: Final = re.compile(r"_[A-Za-z0-9-]{1,62}\._(tcp|udp)(\.[A-Za-z0-9_-]{1,63})+\.?", re.IGNORECASE)
"""RFC 2782: ``_service._proto.name``."""
_DIRECT_TLS: Final = "_xmpps-client."
"""XEP-0368."""
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_USER: Final = re.compile(r"[^\s:@/]+")


class FileBackends(msgspec.Struct, frozen=True, tag=True):
    """The lines of the file with that path."""

    path: str

    def __str__(self) -> str:
        return self.path


class SrvBackends(msgspec.Struct, frozen=True, tag=True):
    """The targets of the SRV records of ``name``. ``server`` is the name server to ask; ``None``: the system's.
    ``common`` has the options of all nodes."""

    name: str
    server: Address | None
    options: tuple[str, ...]
    common: NodeSpec

    def __str__(self) -> str:
        server = f"{self.server}/" if self.server is not None else ""
        return f"dns+srv://{server}{self.name}{'?' * bool(self.options)}{'&'.join(self.options)}"


class EtcdBackends(msgspec.Struct, frozen=True, tag=True):
    """Keys below ``prefix`` in etcd, reached through any of ``endpoints``. ``ca`` is the path of the certificates to
    verify etcd's with, ``None``: the system's. ``user`` ``None``: etcd needs no login. ``password_file`` ``None``:
    the password is in the environment."""

    endpoints: tuple[Address, ...]
    prefix: str
    tls: bool = False
    ca: str | None = None
    user: str | None = None
    password_file: str | None = None

    def __str__(self) -> str:
        options = [f"{key}={value}" for key, value in (("ca", self.ca), ("password-file", self.password_file)) if value]
        user = f"{self.user}@" if self.user is not None else ""
        hosts = ",".join(map(str, self.endpoints))
        return f"etcd{'s' * self.tls}://{user}{hosts}{self.prefix}{'?' * bool(options)}{'&'.join(options)}"


Backends = FileBackends | SrvBackends | EtcdBackends


def parse_url(text: str) -> SrvBackends | EtcdBackends:
    """Read what the operator wrote. Raises :class:`ConfigError`, without the URL in it."""
    scheme, _, _ = text.partition("://")
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise ConfigError(f"expected a file's path, or a URL with {known}; found one with {scheme!r:.40}")
    if "#" in text or not text.isprintable() or " " in text:
        raise ConfigError(f"expected a URL with {scheme}:// without spaces and '#'")
    # Not by urllib: of several hosts in one URL, which etcd's own tools take as well, it refuses those in brackets.
    rest, _, query = text.removeprefix(f"{scheme}://").partition("?")
    authority, slash, path = rest.partition("/")
    if authority.count("[") != authority.count("]"):
        raise ConfigError(f"expected a URL with {scheme}:// whose brackets match")
    options = tuple(_options(query))
    if scheme == "dns+srv":
        return _srv(authority, slash + path, options)
    return _etcd(authority, slash + path, options, tls=scheme == "etcds")


def _options(query: str) -> Iterator[str]:
    """Read ``key=value`` pairs. Not ``parse_qsl``, since a plus sign is one."""
    return (unquote(option) for option in query.split("&") if option)


# --- DNS


def _srv(authority: str, path: str, options: tuple[str, ...]) -> SrvBackends:
    server, name = (authority, path[1:]) if path.strip("/") else ("", authority)
    if not name.isascii():
        with suppress(ValueError):
            name = dns_name(name)
    if not _SERVICE.fullmatch(name):
        raise ConfigError(
            "expected dns+srv://_xmpp-client._tcp.example.org, with [SERVER[:PORT]/] before the name if need be, "
            f"found the name {name!r:.80}"
        )
    name = name.removesuffix(".").lower()
    given = options
    if name.startswith(_DIRECT_TLS) and not any(option.startswith("tls=") for option in options):
        given = (f"tls={NodeTls.DIRECT}", *options)
    return SrvBackends(name, _server(server) if server else None, options, parse_common(given, f"dns+srv://{name}"))


def _server(text: str) -> Address:
    """Read an IP address: a name could not be looked up without this server."""
    address = _address(text, DNS_PORT, "dns+srv://", zone=True)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise ConfigError(f"expected the IP address of a name server, found {address.host!r:.80}") from None
    return address


# --- etcd


def _etcd(authority: str, path: str, options: tuple[str, ...], *, tls: bool) -> EtcdBackends:
    scheme = "etcds" if tls else "etcd"
    login, _, hosts = authority.rpartition("@")
    if ":" in login:
        raise ConfigError(
            f"expected no password in {scheme}://, where everybody can read it: put it into the environment as "
            f"{PASSWORD_VARIABLE}, or into a file that ?password-file= names"
        )
    if login and not _USER.fullmatch(login):
        raise ConfigError(f"expected {scheme}://USER@HOST, found the user {login!r:.80}")
    if not _PREFIX.fullmatch(path.removesuffix("/")):
        raise ConfigError(f"expected {scheme}://HOST:PORT/PREFIX, as in {scheme}://etcd1:2379/cxfr, found {path!r:.80}")
    endpoints = tuple(_address(host, ETCD_PORT, f"{scheme}://") for host in hosts.split(","))
    given = dict(_etcd_option(option, scheme) for option in options)
    if "ca" in given and not tls:
        raise ConfigError("ca= has no effect without TLS: expected etcds://")
    if "password-file" in given and not login:
        raise ConfigError(f"password-file= has no effect without a user: expected {scheme}://USER@HOST")
    return EtcdBackends(
        endpoints, path.removesuffix("/"), tls, given.get("ca"), unquote(login) or None, given.get("password-file")
    )


def _etcd_option(option: str, scheme: str) -> tuple[str, str]:
    key, _, path = option.partition("=")
    if key not in ("ca", "password-file"):
        raise ConfigError(f"expected ca= or password-file= behind {scheme}://, found {key!r:.40}")
    if not path.startswith("/"):
        raise ConfigError(f"expected an absolute path after {key}=")
    return key, path


def _address(text: str, port: int, scheme: str, *, zone: bool = False) -> Address:
    written = re.search(r":[0-9]+$", text.rpartition("]")[2])
    try:
        return parse_address(text if written else f"{text}:{port}", scheme, zone=zone)
    except ConfigError as exc:
        raise ConfigError(f"behind {scheme}: {exc.message}") from None
