"""The nodes as an operator writes them down: one table, with a row for each option.

A node is a :class:`NodeSpec`, and each of its fields that :func:`option` makes is an option of a node's line in
``nodes.txt``: how it is written, what may stand in it, its default, and when it would have no effect. To add an option,
add a field; the grammar (:mod:`.nodes_file`), ``check``'s messages and the other sources of nodes take it from here.
The live list made of the specs is in :mod:`.members`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from cxfr_proxy.cluster.addresses import (
    ADDRESS_FORMS,
    XMPPS_PORT,
    Address,
    PublicAddress,
    UnixAddress,
    WebSocketUrl,
    read_address,
    read_host_or_ip,
    read_path,
    read_public_address,
    read_websocket_url,
    read_whole_number,
)
from cxfr_proxy.cluster.words import Word, did_you_mean
from cxfr_proxy.spellings import domain_key
from cxfr_proxy.units import read_seconds

# ruff: noqa: RUF009 - the calls in the dataclass make fields, as dataclasses.field() does

# --- what options can be -------------------------------------------------------------------------------------


class AdminState(StrEnum):
    """The state that the operator wants for a node."""

    READY = "ready"
    DRAIN = "drain"
    """The node takes nobody new, and its sessions are to leave."""
    MAINT = "maint"
    """Like ``drain``; being down is no surprise."""


class Health(StrEnum):
    """The health of a node as checks see it. A node that was not checked yet counts as up."""

    UP = "up"
    DOWN = "down"


class SessionOutlook(StrEnum):
    """The outlook, by checks, for the sessions that a node has."""

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


class Migrate(StrEnum):
    """How the proxy may take sessions to a node, and from it, while their clients notice nothing."""

    NONE = "none"
    """Not at all."""
    EXTERNAL = "external"
    """It logs in as the session's user by SASL EXTERNAL, with a certificate of its own, and resumes the session."""


class ProxyProtocol(StrEnum):
    """The PROXY protocol's version that tells a node the client's address."""

    V1 = "v1"
    V2 = "v2"


# --- how their values are read -------------------------------------------------------------------------------

MAX_WEIGHT: Final = 256
"""HAProxy's highest weight, so that numbers can be carried over."""
MAX_PRIORITY: Final = 65535
"""The highest priority of an SRV record (RFC 2782)."""
MAX_SESSIONS: Final = 10_000_000
"""More sessions than any node holds: a larger number is a typing error."""
SHARED_SETTLE_SECONDS: Final = 3.0
"""The usual time to settle where nodes share sessions. MongooseIM looks at the session that a new one has replaced for
two seconds, and the new one crashes if the node of the old one has stopped by then; one more for clocks and reports."""
MAX_COUNT: Final = 1000
"""Most checks in a row: more would be a typing error."""
LEAST_SECONDS: Final = 0.05
"""Least seconds between two checks: more frequent ones are nothing but load."""
MOST_SECONDS: Final = 3600.0
"""Most seconds of a time: nobody would wait longer for a check, or for a node to be full."""

T = TypeVar("T")
_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """How the value of an option is written: what is expected, for messages and documentation, and how it is read.

    ``read`` raises :class:`~cxfr_proxy.errors.ConfigError` with the word's place.
    """

    expects: str
    read: Callable[[Word], T]


def _one_of(choices: type[_Choice]) -> Form[_Choice]:
    *others, last = choices
    expects = f"{', '.join(others)} or {last}"

    def read(word: Word) -> _Choice:
        try:
            return choices(word.text)
        except ValueError:
            fault = word.expected(expects)
            raise word.fault(fault.message + did_you_mean(word.text, choices)) from None

    return Form(expects, read)


def _whole_number(low: int, high: int) -> Form[int]:
    what = "a whole number"
    return Form(f"{what} from {low} to {high}", partial(read_whole_number, low=low, high=high, what=what))


def _time(low: float) -> Form[float]:
    """Read a time of at least ``low`` seconds."""

    def read(word: Word) -> float:
        try:
            seconds = read_seconds(word.text)
        except ValueError:
            seconds = -1.0
        if not low <= seconds <= MOST_SECONDS:
            raise word.expected(f"a time from {low:g}s to {MOST_SECONDS:g}s like 2, 2s, 500ms or 1m")
        return seconds

    return Form("a time like 2, 2s, 500ms or 1m", read)


def _read_domains(word: Word) -> tuple[str, ...]:
    """Read domains of JIDs (RFC 7622 section 3.2), written as there or in ASCII; return their keys, each once."""
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


PUBLIC: Final = Form("host, host:port or [ipv6]:port", read_public_address)
PUBLIC_WS: Final = Form("a URL like wss://example.org/xmpp-websocket", read_websocket_url)
PATH: Final = Form("an absolute path", read_path)
TLS_ADDRESS: Final = Form(ADDRESS_FORMS, partial(read_address, usual_port=XMPPS_PORT))
HOST: Final = Form("a host name or an IP address", read_host_or_ip)
DOMAINS: Final = Form("a domain, or several with commas between", _read_domains)
COUNT: Final = _whole_number(1, MAX_COUNT)

# --- the table -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Option:
    """A row of the table. ``field`` is the field of :class:`NodeSpec` that the option sets; the other arguments are
    those of :func:`option`."""

    field: str
    form: Form[Any]  # the field's own type, or what stands for "nothing" as well
    needs_tls: bool
    needs_check: bool
    single: bool


def option(
    form: Form[Any],
    default: T,
    *,
    name: str | None = None,
    needs_tls: bool = False,
    needs_check: bool = False,
    single: bool = False,
) -> T:
    """Make a field of :class:`NodeSpec` an option, which is named like the field unless by ``name``.

    ``needs_tls`` and ``needs_check``: without TLS, or with ``check=none``, it would have no effect. ``single``: it
    means something for one node, and not for all that come from one place.
    """
    row = {"name": name, "form": form, "needs_tls": needs_tls, "needs_check": needs_check, "single": single}
    return field(default=default, metadata=row)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node as its source describes it."""

    name: str
    address: Address | UnixAddress
    public: PublicAddress | None = option(PUBLIC, None, single=True)
    """``None``: the client is told to reconnect to the domain, and comes back to the proxy."""
    public_ws: WebSocketUrl | None = option(PUBLIC_WS, None, single=True)
    """``None``: a client on WebSocket is told to reconnect as it did."""
    weight: int = option(_whole_number(0, MAX_WEIGHT), 1, single=True)
    """Its share of users relative to the other nodes'; 0 takes no new users and keeps those it has."""
    priority: int = option(_whole_number(0, MAX_PRIORITY), 0, single=True)
    """Users are placed on the nodes with the lowest number of which one is usable; the others stand by."""
    tls: NodeTls = option(_one_of(NodeTls), NodeTls.NONE)
    ca: str | None = option(PATH, None, needs_tls=True)
    """Path of the certificates the node's is verified against; ``None`` means the system's."""
    verify_name: str | None = option(HOST, None, needs_tls=True)
    """The name in the node's certificate; ``None`` leaves the choice to the dialler."""
    send_proxy: ProxyProtocol | None = option(_one_of(ProxyProtocol), None)
    """``None``: no PROXY header."""
    resume: Resume = option(_one_of(Resume), Resume.OWN)
    migrate: Migrate = option(_one_of(Migrate), Migrate.NONE)
    migrate_address: Address | UnixAddress | None = option(TLS_ADDRESS, None, single=True)
    """Where the proxy logs in as sessions' users, by direct TLS; ``None``: where clients' streams go."""
    max_sessions: int | None = option(_whole_number(1, MAX_SESSIONS), None)
    """With so many sessions it takes nobody new while another node has room; ``None``: any number."""
    domain: tuple[str, ...] = option(DOMAINS, ())
    """The domains it serves, by :func:`~cxfr_proxy.spellings.domain_key`; empty: all."""
    check: Check = option(_one_of(Check), Check.STREAM)
    inter: float = option(_time(LEAST_SECONDS), 2.0, needs_check=True)
    """Seconds between two checks."""
    fast_inter: float | None = option(_time(LEAST_SECONDS), None, needs_check=True)
    """Seconds between two checks while its health is in doubt; ``None``: as always."""
    check_timeout: float | None = option(_time(LEAST_SECONDS), None, needs_check=True)
    """Seconds that a check may take; ``None``: as many as there are between two."""
    rise: int = option(COUNT, 2, needs_check=True)
    """Good checks in a row after which it is up."""
    fall: int = option(COUNT, 3, needs_check=True)
    """Bad checks in a row after which it is down."""
    slowstart: float = option(_time(0.0), 0.0)
    """Warm-up: seconds in which its weight grows to the full value, once it is up again."""
    settle: float | None = option(_time(0.0), None)
    """Seconds for which it must not be stopped once its last session has moved away; ``None``: as
    :attr:`settle_seconds` has it."""
    admin_state: AdminState = option(_one_of(AdminState), AdminState.READY, name="state", single=True)

    def serves(self, domain: str | None) -> bool:
        """Return whether users of that domain (its key; ``None``: of some domain) may be placed on it."""
        return domain is None or not self.domain or domain in self.domain

    @property
    def settle_seconds(self) -> float:
        """Return for how long it has to go on once its last session has left, so that none dies with it.

        A node that shares no sessions has nothing to do with one that has left.
        """
        if self.settle is not None:
            return self.settle
        return SHARED_SETTLE_SECONDS if self.resume is Resume.SHARED else 0.0

    @property
    def check_seconds(self) -> float:
        """Return how many seconds a check may take."""
        return self.inter if self.check_timeout is None else self.check_timeout

    @property
    def uses_tls(self) -> bool:
        """Whether any of its connections is encrypted."""
        return self.tls is not NodeTls.NONE or self.migrate_address is not None

    @property
    def migrates(self) -> bool:
        """Whether sessions can be taken to it, and from it, by the proxy."""
        return self.migrate is not Migrate.NONE and self.resume is Resume.SHARED and self.uses_tls

    @property
    def for_migration(self) -> NodeSpec:
        """The node as the proxy reaches it to log in as a session's user."""
        if self.migrate_address is None:
            return self
        return replace(self, address=self.migrate_address, tls=NodeTls.DIRECT)


OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        each.metadata["name"] or each.name.replace("_", "-"): Option(
            each.name, **{key: value for key, value in each.metadata.items() if key != "name"}
        )
        for each in fields(NodeSpec)
        if each.metadata
    }
)
"""Every option of a node's line, by the name it has there."""
