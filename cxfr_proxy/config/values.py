"""How an operator writes a value, and how the proxy writes it back.

A :class:`ValueType` is a row's column, not a row: settings (:mod:`cxfr_proxy.config.table`) and the arguments of
commands (:mod:`cxfr_proxy.admin.commands.table`) share them, so that a time is written the same way on a flag, in
the settings file and in a request on the control socket. All three arrive here as text; what a refusal says
is made here as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, Generic, TypeVar, cast
from urllib.parse import urlsplit

from cxfr_proxy.cluster.addresses import (
    MAX_UNIX_PATH_BYTES,
    PublicAddress,
    WebSocketUrl,
    read_public_address,
    read_websocket_url,
)
from cxfr_proxy.cluster.backends import Backends, FileBackends, parse_url
from cxfr_proxy.cluster.placement import PlacementPolicy
from cxfr_proxy.cluster.targets import HostPattern
from cxfr_proxy.cluster.words import Word
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.units import read_quantity, read_seconds
from cxfr_proxy.xmpp import jid

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class ValueType(Generic[T]):
    """One way to write a value.

    ``expected`` completes "expected …" in an error; ``metavar`` stands for the value in ``--help``; ``read``
    raises ``ValueError`` for what it can't use; ``show`` gives text that ``read`` takes back to the same
    value.
    """

    expected: str
    metavar: str
    read: Callable[[str], T]
    show: Callable[[T], str] = str

    def parse(self, text: str) -> T:
        """Read the text. Raises :class:`ConfigError`, without a place: the caller knows where the text stood."""
        try:
            return self.read(text)
        except ValueError as exc:
            raise ConfigError(f"expected {self.expected}, found {text!r}") from exc

    @property
    def or_none(self) -> ValueType[T | None]:
        """The same for a setting that need not have a value: ``None`` is neither read nor shown."""
        return cast("ValueType[T | None]", self)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. ``host`` is an IP address without brackets, or a name; ``None`` means every address of
    the machine, IPv4 and IPv6. ``port`` 0 lets the system choose one."""

    host: str | None
    port: int

    def __str__(self) -> str:
        host = "*" if self.host is None else f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect there, as far as the host's spelling tells."""
        try:
            return self.host is not None and ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class ListenPath:
    """A unix socket on which to listen. ``user`` and ``group`` are names or numbers; ``None``: the proxy's own."""

    path: str
    mode: int = 0o660
    user: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        owner = "".join(f",{name}={value}" for name, value in (("user", self.user), ("group", self.group)) if value)
        return f"{self.path},mode={self.mode:03o}{owner}"


@dataclass(frozen=True, slots=True)
class PeerNetwork:
    """Where a connection may come from. ``network`` is an IP network in its canonical spelling; ``None``: a program on
    this machine, by a unix socket."""

    network: str | None

    def __str__(self) -> str:
        return self.network if self.network is not None else _UNIX_PEERS


class Trait(StrEnum):
    """A trait by which a client can be recognised."""

    CAPS = "caps"
    """The beginning of its capabilities, ``node#ver`` (XEP-0115)."""
    RESOURCE = "resource"
    """The beginning of the resource of its JID."""
    AGENT = "agent"
    """The software of its user agent (XEP-0388), whole."""
    DOMAIN = "domain"
    """The domain of its JID."""


@dataclass(frozen=True, slots=True)
class ClientMatch:
    """Some of the clients: those whose ``trait`` is, or begins with, ``text``."""

    trait: Trait
    text: str

    def __str__(self) -> str:
        return f"{self.trait}={self.text}"


@dataclass(frozen=True, slots=True)
class DomainPolicy:
    """A policy for the users of ``domain``; ``None``: of all domains that have no policy of their own."""

    domain: str | None
    policy: PlacementPolicy

    def __str__(self) -> str:
        return str(self.policy) if self.domain is None else f"{self.domain}={self.policy}"


@dataclass(frozen=True, slots=True)
class DomainRedirect:
    """A domain that is served elsewhere, and the address that its clients are sent to."""

    domain: str
    target: PublicAddress

    def __str__(self) -> str:
        return f"{self.domain}={self.target}"


_LISTEN = re.compile(
    r"(?:\[(?P<v6>[^\]]+)\]|(?P<any>\*?)|(?P<host>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?))"
    r":(?P<port>[0-9]{1,5})"
)


def read_listen_address(text: str) -> ListenAddress:
    """Read ``ADDRESS:PORT``. Raises ``ValueError``."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ValueError(text)
    host = match["v6"] or match["host"] or None
    if match["v6"]:
        address = IPv6Address(match["v6"])
        host = str(address.ipv4_mapped or address)
    elif host and not re.search("[A-Za-z]", host):
        host = str(IPv4Address(host))
    return ListenAddress(host, int(match["port"]))


def read_listen_path(text: str) -> ListenPath:
    """``PATH[,mode=660][,user=NAME][,group=NAME]``. Raises ``ValueError``."""
    path, *options = text.split(",")
    if not path.startswith("/") or not path.isprintable() or len(path.encode()) > MAX_UNIX_PATH_BYTES:
        raise ValueError(text)
    given: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in ("mode", "user", "group") or name in given or not value:
            raise ValueError(text)
        given[name] = value
    mode = given.get("mode", "660")
    if not re.fullmatch("0?[0-7]{3}", mode):
        raise ValueError(text)
    return ListenPath(path, int(mode, 8), given.get("user"), given.get("group"))


_UNIX_PEERS: Final = "unix"
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
"""IPv4 addresses as a socket for both families shows them (RFC 4291 section 2.5.5.2)."""


def read_peer_network(text: str) -> PeerNetwork:
    """Read ``ADDRESS``, ``ADDRESS/BITS`` or ``unix``. Raises ``ValueError``, and :class:`ConfigError` for a network
    that is written by an address within it."""
    if text == _UNIX_PEERS:
        return PeerNetwork(None)
    address, slash, bits = text.partition("/")
    if "%" in text or (slash and not re.fullmatch("[0-9]{1,3}", bits)):
        raise ValueError(text)
    network = ip_network(text, strict=False)
    if network.network_address != ip_address(address):
        raise ConfigError(f"expected the network's first address, as in {network}, found {text!r}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        return PeerNetwork(f"{mapped}/{network.prefixlen - _MAPPED.prefixlen}")
    return PeerNetwork(str(network))


_BYTES: Final = {"": 1.0, "B": 1.0, "KiB": 1024.0, "MiB": 1048576.0}


def seconds(*, zero: bool) -> ValueType[float]:
    """Make a kind for a duration; ``zero`` says whether 0 means something."""

    def read(text: str) -> float:
        value = read_seconds(text)
        if value == 0 and not zero:
            raise ValueError(text)
        return value

    least = "" if zero else " above 0"
    return ValueType(f"a time{least} like 10, 10s, 500ms, 2m or 1h", "TIME", read, lambda value: f"{value:g}s")


def size(*, minimum: int) -> ValueType[int]:
    """Make a kind for a number of bytes, never below ``minimum``."""

    def read(text: str) -> int:
        value = read_quantity(text, _BYTES)
        if value < minimum or value != int(value):
            raise ValueError(text)
        return int(value)

    def show(value: int) -> str:
        if value % 1048576 == 0:
            return f"{value // 1048576}MiB"
        return f"{value // 1024}KiB" if value % 1024 == 0 else str(value)

    return ValueType(f"a size of at least {minimum} bytes like 262144, 256KiB or 1MiB", "SIZE", read, show)


def whole(*, minimum: int, maximum: int | None = None) -> ValueType[int]:
    """Make a kind for a whole number; ``maximum`` ``None``: without limit."""

    digits = 9 if maximum is None else len(str(maximum))

    def read(text: str) -> int:
        if re.fullmatch(f"[0-9]{{1,{digits}}}", text) is None or int(text) < minimum:
            raise ValueError(text)
        if maximum is not None and int(text) > maximum:
            raise ValueError(text)
        return int(text)

    extent = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    return ValueType(f"a whole number {extent}", "N", read)


def _read_maximum(text: str) -> int | None:
    if text == "none":
        return None
    if re.fullmatch("[0-9]{1,9}", text) is None:
        raise ValueError(text)
    return int(text) or None


def _read_rate(text: str) -> float:
    value = read_quantity(text, {"": 1.0, "/s": 1.0})
    if value == 0:
        raise ValueError(text)
    return value


def _read_rate_limit(text: str) -> float | None:
    return None if text in ("none", "0") else _read_rate(text)


def _read_share(text: str) -> float:
    value = read_quantity(text, {"": 1.0, "%": 1.0})
    if not 0 < value <= 100:
        raise ValueError(text)
    return value


def _read_jid(text: str) -> str:
    jid.split(text)
    return text


def _read_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text)


def _read_backends(text: str) -> Backends:
    return parse_url(text) if "://" in text else FileBackends(str(_read_path(text)))


def _read_domain(text: str) -> str:
    """Read a domain (RFC 7622 section 3.2): a trailing dot is no part of it, and case is not significant. An
    international one stays in the form in which it is written: a node may know itself by that form alone."""
    key = domain_key(text)
    if not key or not key.isprintable() or re.search(r"[\s/@<>\"'&]", key):
        raise ValueError(text)
    return text.removesuffix(".").lower()


def _read_client_match(text: str) -> ClientMatch:
    trait, equals, rest = text.partition("=")
    if not equals or not rest:
        raise ValueError(text)
    return ClientMatch(Trait(trait), domain_key(_read_domain(rest)) if trait == Trait.DOMAIN else rest)


def _read_policy(text: str) -> DomainPolicy:
    domain, equals, policy = text.rpartition("=")
    return DomainPolicy(domain_key(_read_domain(domain)) if equals else None, PlacementPolicy(policy))


def _read_redirect(text: str) -> DomainRedirect:
    domain, _, target = text.partition("=")
    try:
        return DomainRedirect(_read_domain(domain), read_public_address(Word(target, "", 1, 1)))
    except ConfigError as exc:
        raise ValueError(text) from exc


def _read_websocket_url(text: str) -> WebSocketUrl:
    try:
        return read_websocket_url(Word(text, "", 1, 1))
    except ConfigError as exc:
        raise ValueError(text) from exc


_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_OPAQUE_ORIGIN: Final = "null"


def _read_origin(text: str) -> str:
    """Read the origin of web pages as browsers write it: in lower case, without the scheme's own port and without a
    path (RFC 6454 section 6.2)."""
    origin = text.lower().removesuffix("/")
    if origin != _OPAQUE_ORIGIN and not _ORIGIN.fullmatch(origin):
        raise ValueError(text)
    usual = {"https://": ":443", "http://": ":80"}
    return next((origin.removesuffix(port) for scheme, port in usual.items() if origin.startswith(scheme)), origin)


def _read_websocket_path(text: str) -> str | None:
    if text == "none":
        return None
    if not re.fullmatch(r"/(?:[A-Za-z0-9._~:/@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+", text) or "/.well-known/" in text:
        raise ValueError(text)
    return text


def _read_lookup_url(text: str) -> str:
    """Return the URL with ``{jid}`` in it, as a parameter at the end unless it was written elsewhere. The host is
    never taken from a user's name."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.username is not None or "{" in url.netloc:
        raise ValueError(text)
    if url.fragment or not text.isascii() or not text.isprintable() or " " in text or url.port == 0:
        raise ValueError(text)
    return text if "{jid}" in text else f"{text}{'&' if url.query else '?'}jid={{jid}}"


def _read_bare_jid(text: str) -> str:
    parts = jid.split(text)
    if parts.local is None or parts.resource is not None or not text.isprintable():
        raise ValueError(text)
    return text


def _read_text(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def one_of(enum: type[E]) -> ValueType[E]:
    """Make a kind for the values of an enumeration."""
    names = [member.value for member in enum]
    return ValueType(" or ".join(names), "{" + ",".join(names) + "}", enum)


PATH: Final = ValueType("a file's path", "FILE", _read_path)
DIRECTORY: Final = ValueType("a directory's path", "DIR", _read_path)
BACKENDS: Final[ValueType[Backends]] = ValueType("a file's path or a URL", "FILE|URL", _read_backends)
LISTEN: Final = ValueType(
    "ADDRESS:PORT with an IPv6 address in brackets like [::1]:5222, or *:PORT for every address",
    "ADDRESS:PORT",
    read_listen_address,
)
LISTEN_PATH: Final = ValueType(
    f"an absolute path of at most {MAX_UNIX_PATH_BYTES} bytes, as in /run/cxfr-proxy/clients or "
    "/run/cxfr-proxy/clients,mode=660,user=root,group=haproxy",
    "PATH[,mode=M][,user=U][,group=G]",
    read_listen_path,
)
PEER_NETWORK: Final = ValueType(
    "an IP address or network like 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32, or unix for unix sockets",
    "NETWORK",
    read_peer_network,
)
DOMAIN: Final = ValueType("a domain like example.org", "DOMAIN", _read_domain)
HOST_PATTERN: Final = ValueType(
    "a host like xmpp1.example.org or [2001:db8::1], or *.example.org for all names below it",
    "HOST",
    HostPattern.parse,
)
RATE: Final = ValueType("a number per second above 0", "N", _read_rate, lambda value: f"{value:g}/s")
RATE_LIMIT: Final = ValueType(
    "a number per second, or none (0 is the same) for no limit",
    "N",
    _read_rate_limit,
    lambda value: "none" if value is None else RATE.show(value),
)
SHARE: Final = ValueType("a percentage above 0 and up to 100", "PERCENT", _read_share, lambda value: f"{value:g}%")
TEXT: Final = ValueType("a word", "TEXT", _read_text)
NODE_COMMAND: Final = ValueType("a command", "'CMD {node}'", _read_text)
REASON: Final = ValueType("a reason", "REASON", _read_text)
SETTING_NAME: Final = ValueType("a setting's name", "SETTING", _read_text)
NODE_NAME: Final = ValueType("a node's name", "NODE", _read_text)
JID: Final = ValueType("a user's address like juliet@example.org, or a client's with its resource", "JID", _read_jid)
MAXIMUM: Final = ValueType(
    "a whole number, or none (0 is the same) for no limit",
    "N",
    _read_maximum,
    lambda value: "none" if value is None else str(value),
)
CLIENTS: Final = ValueType(
    "caps=…, resource=…, agent=… or domain=… and what it begins with",
    "TRAIT=TEXT",
    _read_client_match,
)
PLACEMENT: Final = ValueType(
    f"{', '.join(PlacementPolicy)}, or one of these for a domain like example.org={PlacementPolicy.LEAST_SESSIONS}",
    "[DOMAIN=]POLICY",
    _read_policy,
)
REDIRECT: Final = ValueType(
    "a domain and a host like old.example.org=new.example.net or old.example.org=new.example.net:5222",
    "DOMAIN=HOST[:PORT]",
    _read_redirect,
)
LOOKUP_URL: Final = ValueType(
    "a URL like http://127.0.0.1:8080/node or https://example.org/node/{jid}", "URL", _read_lookup_url
)
WEBSOCKET_PATH: Final[ValueType[str | None]] = ValueType(
    "a path like /xmpp-websocket, or none", "PATH", _read_websocket_path, lambda value: value or "none"
)
WEBSOCKET_URL: Final = ValueType("a URL like wss://example.org/xmpp-websocket", "URL", _read_websocket_url)
ORIGIN: Final = ValueType("the origin of web pages like https://chat.example.org", "ORIGIN", _read_origin)
BARE_JID: Final = ValueType("a bare JID like kim@example.org", "JID", _read_bare_jid)
