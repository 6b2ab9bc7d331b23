"""The nodes as an operator writes them down; the live list made of it is in :mod:`.members`.

The file holds one node a line, ``name address [key=value ...]``, blank lines and ``#`` comments between::

    # name   address            options
    node1    10.0.0.11:5222     public=node1.example.org weight=2
    node2    10.0.0.12:5223     tls=direct ca=/etc/ssl/nodes.pem send-proxy=v2 public=[2001:db8::12]:5222
    node3    unix:/run/xmpp/c2s state=drain

Rules of the grammar: words are separated by white space and hold none; a ``#`` starts a comment only where a
word could start, and inside a word it is an error rather than a guess; an option stands once; an option that
would have no effect is an error. All errors of a file are reported together, so that one look is enough to
mend it.

Read it in this order: the values, the options' table, the reader.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.cluster.tokens import FileFaults, Token, did_you_mean, tokens_of
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.units import read_seconds

# --- the values ----------------------------------------------------------------------------------------------


class AdminState(StrEnum):
    """What the operator wants of a node."""

    READY = "ready"
    DRAIN = "drain"
    """The node takes nobody new, and its sessions are to leave."""
    MAINT = "maint"
    """Like ``drain``; being down is no surprise."""


class Health(StrEnum):
    """What checks see. A node nobody has checked yet counts as up."""

    UP = "up"
    DOWN = "down"


class SessionOutlook(StrEnum):
    """What checks expect of the sessions that a node has."""

    GOOD = "good"
    """They are served, as far as anybody is sure."""
    FAILING = "failing"
    """The node is down beyond doubt, and may serve them for a while yet: they should leave in good order."""
    DEAD = "dead"
    """It answers nothing at all, and nothing more is to be expected of it."""


class Check(StrEnum):
    """How far a check goes."""

    STREAM = "stream"
    """Up to the stream features."""
    TCP = "tcp"
    """A connection, with TLS where that comes first."""
    NONE = "none"
    """No check. Reports of sessions hold for a while."""


class NodeTls(StrEnum):
    """How the proxy secures the stream to a node."""

    NONE = "none"
    STARTTLS = "starttls"
    DIRECT = "direct"


class Resume(StrEnum):
    """Where a session of a node's can be resumed (XEP-0198)."""

    OWN = "own"
    """On this node only."""
    SHARED = "shared"
    """On every node that says so: they fetch each other's sessions, as the nodes of an ejabberd cluster do."""


class ProxyProtocol(StrEnum):
    """The PROXY protocol's version that tells a node the client's address."""

    V1 = "v1"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Address:
    """Where the proxy dials: ``host`` is a name or an IP address without brackets. A dot at a name's end says that it
    is complete (RFC 1034 section 3.1), and keeps the resolver from trying others."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where the proxy dials on its own machine."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where a client is sent. ``port`` is ``None`` if the client is to use its default."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return _bracketed(self.host) if self.port is None else f"{_bracketed(self.host)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node as its source describes it."""

    name: str
    address: Address | UnixAddress
    public: PublicAddress | None = None
    """``None``: the client is told to reconnect to the domain, and comes back to the proxy."""
    weight: int = 1
    """Its share of users relative to the other nodes', 0 to 256; 0 takes no new users and keeps those it has."""
    priority: int = 0
    """Users are placed on the nodes with the lowest number of which one is usable; the others stand by."""
    tls: NodeTls = NodeTls.NONE
    ca: str | None = None
    """Path of the certificates the node's is verified against; ``None`` means the system's."""
    verify_name: str | None = None
    """The name in the node's certificate; ``None`` leaves the choice to the dialler."""
    send_proxy: ProxyProtocol | None = None
    """``None``: no PROXY header."""
    resume: Resume = Resume.OWN
    max_sessions: int | None = None
    """With so many sessions it takes nobody new while another node has room; ``None``: any number."""
    domain: tuple[str, ...] = ()
    """The domains it serves, by :func:`~cxfr_proxy.spellings.domain_key`; empty: all."""
    check: Check = Check.STREAM
    inter: float = 2.0
    """Seconds between two checks, and the longest that one may take."""
    fast_inter: float | None = None
    """Seconds between two checks while its health is in doubt; ``None``: as always."""
    rise: int = 2
    """Good checks in a row after which it is up."""
    fall: int = 3
    """Bad checks in a row after which it is down."""
    slowstart: float = 0.0
    """Warm-up: seconds in which its weight grows to the full value, once it is up again."""
    admin_state: AdminState = AdminState.READY

    def serves(self, domain: str | None) -> bool:
        """Return whether users of that domain (its key; ``None``: of some domain) may be placed on it."""
        return domain is None or not self.domain or domain in self.domain


class NodesFileError(FileFaults):
    """A list that cannot be used, with all of its faults."""


# --- words, and what can stand in them -----------------------------------------------------------------------

MAX_WEIGHT: Final = 256
"""HAProxy's highest weight, so that numbers can be carried over."""
MAX_PRIORITY: Final = 65535
"""The highest priority of an SRV record (RFC 2782)."""
MAX_SESSIONS: Final = 10_000_000
"""More sessions than any node holds: a larger number is a typing error."""
MAX_COUNT: Final = 1000
"""Most checks in a row: more would be a typing error."""
LEAST_SECONDS: Final = 0.05
"""Least seconds between two checks: more frequent ones are nothing but load."""
MOST_SECONDS: Final = 3600.0
"""Most seconds of a time: nobody would wait longer for a check, or for a node to be full."""
XMPP_PORT: Final = 5222
"""RFC 6120 section 14.7, ``xmpp-client``."""
XMPPS_PORT: Final = 5223
"""The usual port of direct TLS; XEP-0368 leaves it to DNS, which this file stands in for."""
MAX_UNIX_PATH_BYTES: Final = 107
"""``sun_path`` holds 108 with its closing NUL, unix(7)."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""RFC 1123 section 2.1, and the underscore that container networks put into host names."""
_NUMBER: Final = re.compile(r"[0-9]{1,8}")

_ADDRESSES: Final = "host:port, [ipv6]:port or unix:/path"


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(kind: type[_Choice], word: Token) -> _Choice:
    try:
        return kind(word.text)
    except ValueError:
        fault = word.expected(_one_of(kind))
        raise word.fault(fault.message + did_you_mean(word.text, kind)) from None


def _one_of(kind: type[StrEnum]) -> str:
    *others, last = kind
    return f"{', '.join(others)} or {last}"


def _number(word: Token, low: int, high: int, what: str) -> int:
    if not _NUMBER.fullmatch(word.text) or not low <= int(word.text) <= high:
        raise word.expected(f"{what} from {low} to {high}")
    return int(word.text)


def _seconds(word: Token, low: float) -> float:
    try:
        seconds = read_seconds(word.text)
    except ValueError:
        seconds = -1.0
    if not low <= seconds <= MOST_SECONDS:
        raise word.expected(f"a time from {low:g}s to {MOST_SECONDS:g}s like 2, 2s, 500ms or 1m")
    return seconds


def _path(word: Token) -> str:
    """Read an absolute path: operators should not have to know a daemon's working directory."""
    if not word.text.startswith("/") or not word.text.isprintable():
        raise word.expected("an absolute path")
    return word.text


def _ipv6(word: Token, *, zone: bool) -> str:
    """``zone``: whether ``%eth0`` may follow; it means something on this machine only. What stands for an IPv4 address
    is that one."""
    try:
        address = ipaddress.IPv6Address(word.text)
    except ValueError:
        raise word.expected("an IPv6 address") from None
    if address.scope_id is not None and not zone:
        raise word.expected("an IPv6 address without a zone")
    return str(address.ipv4_mapped or address)


def _host(word: Token) -> str:
    """A host name, with a dot at its end or without, or an IPv4 address. A last label of digits is never a name (RFC
    1123 section 2.1)."""
    text = word.text
    if not text.isascii():
        raise word.expected("a host name in ASCII (an international one in its xn-- form)")
    labels = text.removesuffix(".").split(".")
    if labels[-1].isdigit():
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise word.expected("an IPv4 address or a host name") from None
    if len(text.removesuffix(".")) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise word.expected("a host name or an IP address")
    return text


def _host_or_ip(word: Token) -> str:
    """Read a name as a certificate has it: without brackets, and without a dot at the end."""
    if ":" not in word.text:
        return _host(word).removesuffix(".")
    bracketed = word.text.startswith("[") and word.text.endswith("]")
    return _ipv6(word.part(1, -1) if bracketed else word, zone=False)


def _host_port(word: Token, *, zone: bool) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``; the port is ``None`` where none is written."""
    text = word.text
    if "://" in text:
        raise word.expected("host:port without a scheme before it")
    if text.startswith("["):
        end = text.find("]")
        if end < 0:
            raise word.expected("']' after the IPv6 address that '[' begins")
        host, rest = _ipv6(word.part(1, end), zone=zone), word.part(end + 1)
        if rest.text and not rest.text.startswith(":"):
            raise rest.expected("':port' or nothing after ']'")
    else:
        end = text.find(":")
        rest = word.part(end if end >= 0 else len(text))
        if ":" in rest.text[1:]:
            raise word.expected("host:port, or an IPv6 address in brackets as in [2001:db8::1]:5222")
        host = _host(word.part(0, end if end >= 0 else None))
    return host, _number(rest.part(1), 1, 65535, "a port") if rest.text else None


def read_public_address(word: Token) -> PublicAddress:
    """Read an address for clients. It has to be what all of them take for a name: its last part begins with a letter
    (RFC 1123 section 2.1). Raises :class:`ConfigError`."""
    host, port = _host_port(word, zone=False)
    host = host.removesuffix(".")  # which is no part of a domain (RFC 7622 section 3.2)
    last = host.rpartition(".")[2]
    if ":" not in host and not last.isdigit() and not last[:1].isalpha():
        raise word.expected("a public name whose last part begins with a letter")
    return PublicAddress(host, port)


def _domains(word: Token) -> tuple[str, ...]:
    """Read domains, by their keys, each once. Domains of JIDs (RFC 7622 section 3.2), written as there or in ASCII."""
    domains: list[str] = []
    start = 0
    for text in word.text.split(","):
        part = word.part(start, start + len(text))
        start += len(text) + 1
        domain = domain_key(text)
        if not domain or not domain.isprintable() or re.search(r"[/@<>\"'&]", domain):
            raise part.expected("a domain like example.org")
        if domain in domains:
            raise part.fault(f"expected each domain once, found {domain} again")
        domains.append(domain)
    return tuple(domains)


# --- the options ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the options' table. ``expects`` says how a value looks, for messages and documentation; ``read``
    makes of a spec the same spec with the option set. ``single``: it means something for one node, not for many.
    """

    expects: str
    read: Callable[[NodeSpec, Token], NodeSpec]
    needs_tls: bool = False
    needs_check: bool = False
    single: bool = False


_A_TIME: Final = "a time like 2, 2s, 500ms or 1m"
_A_COUNT: Final = f"a whole number from 1 to {MAX_COUNT}"


OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        "public": Option(
            "host, host:port or [ipv6]:port",
            lambda spec, value: replace(spec, public=read_public_address(value)),
            single=True,
        ),
        "weight": Option(
            f"a whole number from 0 to {MAX_WEIGHT}",
            lambda spec, value: replace(spec, weight=_number(value, 0, MAX_WEIGHT, "a whole number")),
            single=True,
        ),
        "priority": Option(
            f"a whole number from 0 to {MAX_PRIORITY}",
            lambda spec, value: replace(spec, priority=_number(value, 0, MAX_PRIORITY, "a whole number")),
            single=True,
        ),
        "tls": Option(_one_of(NodeTls), lambda spec, value: replace(spec, tls=_choice(NodeTls, value))),
        "ca": Option("an absolute path", lambda spec, value: replace(spec, ca=_path(value)), needs_tls=True),
        "verify-name": Option(
            "a host name or an IP address",
            lambda spec, value: replace(spec, verify_name=_host_or_ip(value)),
            needs_tls=True,
        ),
        "send-proxy": Option(
            _one_of(ProxyProtocol),
            lambda spec, value: replace(spec, send_proxy=_choice(ProxyProtocol, value)),
        ),
        "domain": Option(
            "a domain, or several with commas between",
            lambda spec, value: replace(spec, domain=_domains(value)),
        ),
        "max-sessions": Option(
            f"a whole number from 1 to {MAX_SESSIONS}",
            lambda spec, value: replace(spec, max_sessions=_number(value, 1, MAX_SESSIONS, "a whole number")),
        ),
        "resume": Option(_one_of(Resume), lambda spec, value: replace(spec, resume=_choice(Resume, value))),
        "check": Option(_one_of(Check), lambda spec, value: replace(spec, check=_choice(Check, value))),
        "inter": Option(
            _A_TIME, lambda spec, value: replace(spec, inter=_seconds(value, LEAST_SECONDS)), needs_check=True
        ),
        "fast-inter": Option(
            _A_TIME, lambda spec, value: replace(spec, fast_inter=_seconds(value, LEAST_SECONDS)), needs_check=True
        ),
        "rise": Option(
            _A_COUNT,
            lambda spec, value: replace(spec, rise=_number(value, 1, MAX_COUNT, "a whole number")),
            needs_check=True,
        ),
        "fall": Option(
            _A_COUNT,
            lambda spec, value: replace(spec, fall=_number(value, 1, MAX_COUNT, "a whole number")),
            needs_check=True,
        ),
        "slowstart": Option(_A_TIME, lambda spec, value: replace(spec, slowstart=_seconds(value, 0.0))),
        "state": Option(
            _one_of(AdminState), lambda spec, value: replace(spec, admin_state=_choice(AdminState, value)), single=True
        ),
    }
)
"""Every option of a node's line, by the name it has there."""

# --- the reader ----------------------------------------------------------------------------------------------


def parse_nodes(text: str, file: str, targets: RedirectTargets = ANYWHERE) -> tuple[NodeSpec, ...]:
    """Read a whole list; ``file`` is its path for the messages, ``targets`` what may be a public address.

    Raises :class:`NodesFileError` with every fault found; a list without nodes is one.
    """
    specs: list[NodeSpec] = []
    faults: list[ConfigError] = []
    names: dict[str, Token] = {}
    # Not splitlines(): it also splits where no editor counts a line. White space takes care of a "\r".
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        words = tokens_of(line, file, number)
        if words:
            spec, found = _read_node(words, names)
            found += _target_faults(spec, words, targets)
            specs.append(spec)
            faults += sorted(found, key=lambda fault: fault.column or 0)
    if not specs:
        faults.append(ConfigError("expected a node ('name address [key=value ...]'), found none", file=file))
    if faults:
        raise NodesFileError(faults)
    return tuple(specs)


def parse_node(name: str, text: str, place: str, targets: RedirectTargets = ANYWHERE) -> NodeSpec:
    """Read one node that is kept under its name: ``text`` is its line without it. ``place`` is where, for messages.

    Raises :class:`NodesFileError`.
    """
    words = [Token(name, place, 1, 1), *tokens_of(text, place, 1)]
    spec, faults = _read_node(words, {})
    faults += _target_faults(spec, words, targets)
    if faults:
        raise NodesFileError(faults)
    return spec


def parse_common(options: Iterable[str], place: str) -> NodeSpec:
    """Read a node without name and address that has these options (``key=value`` each), for others to be made of.

    ``place`` is where they stand, for messages. Raises :class:`NodesFileError`, also for options of a single node.
    """
    words = [Token(option, place, 1, 1) for option in options]
    spec, faults = _read_options(NodeSpec("", _NO_ADDRESS), words)
    for word in words:
        key = word.text.partition("=")[0]
        if key in OPTIONS and OPTIONS[key].single:
            faults.append(word.fault(f"{key}= is for one node, and these options are for all"))
    if faults:
        raise NodesFileError([ConfigError(fault.message, file=place) for fault in faults])
    return spec


def parse_address(text: str, place: str, *, zone: bool = False) -> Address:
    """Read ``host:port`` as it stands elsewhere than in this file. Raises :class:`ConfigError`."""
    word = Token(text, place, 1, 1)
    host, port = _host_port(word, zone=zone)
    if port is None:
        raise word.expected("host:port")
    return Address(host, port)


_NO_ADDRESS: Final = UnixAddress("/")
"""Stands in while the options are read, which decide about the default port; and if there is no address."""


def _read_node(words: list[Token], names: dict[str, Token]) -> tuple[NodeSpec, list[ConfigError]]:
    """Return the line's node and all of its faults; with faults the node is of no use. ``names`` are the taken ones."""
    for word in words:
        if "#" in word.text:
            # A path cut short, or a comment taken for a value: both would go unnoticed.
            fault = word.part(word.text.index("#")).fault("expected white space before the '#' of a comment")
            return NodeSpec("", _NO_ADDRESS), [fault]
    name, *rest = words
    faults = _name_faults(name, names)
    address = rest.pop(0) if rest and not _is_option(rest[0]) else None
    spec, found = _read_options(NodeSpec(name.text, _NO_ADDRESS), rest)
    faults += found
    if address is None:
        missing = rest[0] if rest else name.part(len(name.text))
        faults.append(missing.expected(f"an address ({_ADDRESSES}) after the name"))
    else:
        try:
            spec = replace(spec, address=_read_address(address, spec.tls))
        except ConfigError as exc:
            faults.append(exc)
    return spec, faults


def _is_option(word: Token) -> bool:
    return "=" in word.text and not word.text.startswith("unix:")


def _name_faults(name: Token, names: dict[str, Token]) -> list[ConfigError]:
    if not NAME.fullmatch(name.text):
        # Not "-" or "." first: names are arguments of commands and parts of URLs.
        return [name.expected("a name (letters, digits, '.', '_', '-'; a letter or digit first)")]
    first = names.setdefault(name.text, name)
    if first is name:
        return []
    return [name.fault(f"expected another name, found '{name.text}' again (first on line {first.line})")]


def _target_faults(spec: NodeSpec, words: list[Token], targets: RedirectTargets) -> list[ConfigError]:
    if spec.public is None or targets.allow(spec.public.host):
        return []
    word = next(word for word in words if word.text.startswith("public="))
    return [word.part(len("public=")).expected(f"a host that redirect-targets allows ({targets})")]


def _read_options(spec: NodeSpec, words: list[Token]) -> tuple[NodeSpec, list[ConfigError]]:
    faults: list[ConfigError] = []
    seen: dict[str, Token] = {}
    for word in words:
        try:
            spec = _read_option(spec, word, seen)
        except ConfigError as fault:
            faults.append(fault)
        seen.setdefault(word.text.partition("=")[0], word)
    # With a tls= that is wrong itself, nobody knows what was meant: one message is enough.
    if spec.tls is NodeTls.NONE and ("tls" not in seen or seen["tls"].text == "tls=none"):
        faults.extend(
            word.fault(f"{key}= has no effect without TLS: expected tls=starttls or tls=direct as well")
            for key, word in seen.items()
            if key in OPTIONS and OPTIONS[key].needs_tls
        )
    if spec.check is Check.NONE:
        faults.extend(
            word.fault(f"{key}= has no effect with check=none: nobody looks at the node")
            for key, word in seen.items()
            if key in OPTIONS and OPTIONS[key].needs_check
        )
    return spec, faults


def _read_option(spec: NodeSpec, word: Token, seen: Collection[str]) -> NodeSpec:
    key, equals, text = word.text.partition("=")
    option = OPTIONS.get(key)
    if option is None:
        hint = did_you_mean(key, OPTIONS) or f" (known: {', '.join(OPTIONS)})"
        raise word.fault(word.expected("an option (key=value)").message + hint)
    if key in seen:
        raise word.fault(f"expected {key}= once, found it again")
    value = word.part(len(key) + len(equals))
    if not text:
        raise value.expected(f"{option.expects} after '{key}='")
    return option.read(spec, value)


def _read_address(word: Token, tls: NodeTls) -> Address | UnixAddress:
    if word.text.startswith("unix:"):
        path = _path(word.part(len("unix:")))
        if len(path.encode()) > MAX_UNIX_PATH_BYTES:
            raise word.part(len("unix:")).expected(f"a socket's path of at most {MAX_UNIX_PATH_BYTES} bytes")
        return UnixAddress(path)
    host, port = _host_port(word, zone=True)
    if port is None:
        port = XMPPS_PORT if tls is NodeTls.DIRECT else XMPP_PORT
    return Address(host, port)
