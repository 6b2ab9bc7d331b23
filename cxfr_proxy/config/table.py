"""Every setting, with its default and the reason for it: one table.

The table *is* the three dataclasses below: a field is a row. Its name with dashes is the flag
(``--transfer-rate``) and the key in the settings file (``transfer-rate = 100``); its :class:`Row` says how
the value is written, what it does and why the default is what it is (:mod:`cxfr_proxy.config.settings`). ``--help``,
``docs/configuration.md`` and the checks are drawn from it, so a setting that isn't here doesn't exist, and
one that is here is documented.

A flag wins over the file, and the file over the default; a repeatable flag replaces the file's whole list.
All here is pure, but for the default of ``control``, which depends on the environment and the user
(:func:`~cxfr_proxy.config.control_places.default_control`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from cxfr_proxy.cluster.placement import Policies, Policy
from cxfr_proxy.cluster.targets import HostPattern, RedirectTargets
from cxfr_proxy.config import values
from cxfr_proxy.config.choices import (
    CxfrUnknown,
    OnNodeDown,
    RebalanceMode,
    Route,
    SaslAuthzid,
    SmAfterTransfer,
    StartTls,
    TrustNodeRedirects,
    WrongNode,
)
from cxfr_proxy.config.control_places import default_control
from cxfr_proxy.config.settings import Group, Row, SettingsFile, repeatable, setting, settings_of
from cxfr_proxy.config.values import Backends, ClientMatch, DomainPolicy, DomainRedirect, Kind, ListenAddress
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import LogFormat, LogLevel
from cxfr_proxy.spellings import domain_key

__all__ = [
    "SETTINGS",
    "Config",
    "CxfrUnknown",
    "KeyPair",
    "Limits",
    "ListenAddress",
    "OnNodeDown",
    "RebalanceMode",
    "Route",
    "SaslAuthzid",
    "SmAfterTransfer",
    "StartTls",
    "Timeouts",
    "TrustNodeRedirects",
    "WrongNode",
]

# ruff: noqa: RUF009 - the calls in the dataclasses make fields, as dataclasses.field() does


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One certificate chain and its private key; the same file where one file holds both."""

    certificate: Path
    key: Path


def _control_field() -> Path:
    row = Row(
        Group.OPERATING,
        values.PATH,
        "unix socket that listens for this program's commands (drain, show, reload, …)",
        "The places where a system service, a user's service and a test run may write, and where only root "
        "or the user who runs the proxy can speak to it.",
        repeatable=False,
        default="$CXFR_PROXY_CONTROL, else $RUNTIME_DIRECTORY/control.sock, else $XDG_RUNTIME_DIR/cxfr-proxy.sock, "
        "else /run/cxfr-proxy.sock for root, else a private directory for temporary files",
    )
    value: Path = field(default_factory=default_control, metadata={"row": row})
    return value


MAX_WORKERS: Final = 256
"""More than there are cores gain nothing, while each takes memory, and hears what all others tell: beyond this many, a
number was mistyped."""


def default_workers() -> int:
    """As many as there are cores that this process may use."""
    return min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def _workers_field() -> int:
    row = Row(
        Group.SERVING,
        values.whole(minimum=1, maximum=MAX_WORKERS),
        f"processes that serve clients, {MAX_WORKERS} at most; with 1 everything is done in one process",
        "One process uses one core; more than there are cores gain nothing, while each takes memory and hears what all "
        "others tell. Each has its own sessions and can be lost without the others; what the operator sees and orders, "
        "the transfer rate among it, is the proxy's.",
        repeatable=False,
        default="the number of cores",
    )
    value: int = field(default_factory=default_workers, metadata={"row": row})
    return value


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the proxy waits, in seconds."""

    cxfr_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        10.0,
        "how long a client may take to answer the connection-transfer request before it is moved another way",
        "A client that knows the request answers within a round trip, also on a slow mobile link; some "
        "clients never answer anything they don't know, and a drain waits this long for each of them.",
    )
    see_other_host_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        5.0,
        "how long a client may take to leave after a stream error, see-other-host among them, before it is cut",
        "RFC 6120 section 4.4 lets each side wait for the other's closing tag; one that hasn't sent it "
        "after a few round trips won't.",
    )
    node_connect_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        5.0,
        "how long a node may take to accept a connection before another one is tried",
        "Nodes are near; five seconds leave room for a lost SYN, which Linux repeats after 1 and 3 seconds.",
    )
    node_greeting_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        10.0,
        "how long a node may take to greet a client (header and features) before another one is tried",
        "Nodes greet within milliseconds, in a storm of logins within seconds; clients give up after ten to thirty.",
    )
    lookup_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        1.0,
        "how long a login waits for user-lookup before the user is placed without it",
        "An endpoint next door answers in milliseconds; a second is noticed and not complained about.",
    )
    node_close_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        5.0,
        "how long a node may take to send what it still has, and its closing tag, once its stream was closed",
        "What arrives in this time is still delivered to the client, so it is long; but the client waits "
        "for it without a session.",
    )
    tls_handshake_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        10.0,
        "how long a TLS handshake may take",
        "Two round trips and a signature; ten seconds allow for lost packets, and bound what a silent "
        "connection costs.",
    )
    negotiation_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        60.0,
        "how long a client may take from its stream header to a bound resource",
        "People may be asked for a password in the middle of it; connections that never log in are what a "
        "flood is made of.",
    )
    admission_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        30.0,
        "how long a login may wait for its turn where logins-per-second holds it back, before it is told to try again",
        "Most clients wait half a minute or longer for an answer; behind that one waits for somebody who has left.",
    )
    write_stall_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=False),
        30.0,
        "how long a side that doesn't read may hold up the bytes for it before its session ends",
        "A phone that changes networks is back, or gone, well before; until then the other side is not read either.",
    )
    keepalive_timeout: float = setting(
        Group.TIMES,
        values.seconds(zero=True),
        150.0,
        "how long the machine of a client or node may be silent before its connection is given up: TCP asks it after "
        "three fifths of this time, and then every tenth; 0 leaves it to the system",
        "Who vanishes without a word (a phone without a signal) holds a session, and messages are sent to nobody. "
        "Asked every minute and a half, a phone's radio sleeps in between; the system's own default is two hours.",
    )
    hard_stop_after: float = setting(
        Group.TIMES,
        values.seconds(zero=True),
        30.0,
        "how long a stopping proxy, or a worker that is replaced, moves its clients away before it cuts those that are "
        "left; 0 cuts at once",
        "Service managers kill what hasn't stopped by itself; systemd does after 90 seconds.",
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client or node may cost."""

    max_element_negotiating: int = setting(
        Group.SIZES,
        values.size(minimum=10_000),
        32_768,
        "longest element before a resource is bound",
        "Nobody is known yet, so little is kept for them; tokens in the place of passwords have up to some 20 KB. "
        "RFC 6120 section 13.12 forbids less than 10000 bytes.",
    )
    max_element_up: int = setting(
        Group.SIZES,
        values.size(minimum=10_000),
        262_144,
        "longest element from a client",
        "What servers themselves accept from clients by default. RFC 6120 section 13.12 forbids less than 10000 bytes.",
    )
    max_element_down: int = setting(
        Group.SIZES,
        values.size(minimum=10_000),
        1_048_576,
        "longest element from a node that is held back until it is complete; a longer one is passed on in pieces",
        "Only whole elements leave a client's stream intact when a node dies; large rosters and archives "
        "fit. This much memory may be held for each session.",
    )
    max_depth: int = setting(
        Group.SIZES,
        values.whole(minimum=8),
        64,
        "deepest nesting of elements",
        "A forwarded, encrypted, archived message nests about 10 deep; parsers that recurse fail at some hundreds.",
    )
    connections_per_address: int | None = setting(
        Group.SIZES,
        values.MAXIMUM,
        1000,
        "most connections from one client address at a time; none (or 0) for no limit",
        "An office or a mobile carrier may have hundreds of users behind one address; a thousand idle ones "
        "cost under 20 MB. Set none where another proxy in front hides the clients' addresses.",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one proxy. ``None`` is explained where it may stand."""

    backends: Backends | None = setting(
        Group.SERVING,
        cast("Kind[Backends | None]", values.BACKENDS),
        None,
        "where the nodes come from: a file that names them, one a line; SRV records, as in "
        "dns+srv://[SERVER/]_xmpp-client._tcp.example.org; or etcd, which several proxies share, as in "
        "etcd://[USER@]HOST[:PORT][,HOST...]/PREFIX, by TLS etcds://",
        "There is no sensible guess. `check` reads them and says what is wrong.",
        shown="none: required to serve",
    )
    """``None`` in every command that doesn't serve."""
    listen: tuple[ListenAddress, ...] = repeatable(
        Group.SERVING,
        values.LISTEN,
        (ListenAddress(None, 5222),),
        "where clients connect; a host of * (or none) is every address, an IPv6 address stands in brackets",
        "5222 is the port that is registered for XMPP clients (RFC 6120 section 14.7).",
    )
    domain: tuple[str, ...] = repeatable(
        Group.SERVING,
        values.DOMAIN,
        (),
        "domain that is served; clients that ask for another one are refused",
        "The nodes know their domains and refuse others themselves.",
        shown="any: what the client asks for is passed on to the node",
    )
    certificate: tuple[Path, ...] = repeatable(
        Group.SERVING,
        values.PATH,
        (),
        "PEM file with a certificate chain, and its key if no --key goes with it; shown to clients of the domains that "
        "it names, and of two for one domain, RSA and ECDSA, the one that a client can verify",
        "No certificate can be made up that clients would accept; one to try things with can.",
        shown="none: a self-signed one for the domains, made anew at each start",
    )
    key: tuple[Path, ...] = repeatable(
        Group.SERVING,
        values.PATH,
        (),
        "PEM file with the private key of the certificate that stands at the same place in the order",
        "Many tools write both into one file.",
        shown="the certificate's file",
    )
    starttls: StartTls = setting(
        Group.SERVING,
        values.one_of(StartTls),
        StartTls.REQUIRED,
        "whether clients must, may or cannot encrypt by STARTTLS",
        "A client that isn't made to encrypt can be kept from it by anybody in between (RFC 7590 section 3.1).",
    )
    sasl_authzid: SaslAuthzid = setting(
        Group.SERVING,
        values.one_of(SaslAuthzid),
        SaslAuthzid.SAME,
        "whether a client may name somebody else as whom to log in (the authzid of PLAIN, X-OAUTH2 and SCRAM)",
        "Hardly anybody needs it, and some servers let everybody do it: ejabberd before 26.07 does for PLAIN.",
    )
    route: Route = setting(
        Group.SERVING,
        values.one_of(Route),
        Route.LOGIN,
        "when a client gets its node: once it has begun to log in, shown features that all nodes have in common until "
        "then; or as it connects, by the from of its header, else where there are the fewest sessions",
        "Most clients say who they are only in their login. Where nodes offer different features, or none has been "
        "asked for them yet, it is connect all the same.",
    )
    placement: tuple[DomainPolicy, ...] = repeatable(
        Group.SERVING,
        values.PLACEMENT,
        (DomainPolicy(None, Policy.RENDEZVOUS),),
        "by what users are placed: rendezvous gives each a node of his own, least-sessions and first-available don't; "
        "for all domains, or for one",
        "A user's clients meet on one node, where his roster and archive are in memory already, and a node that joins "
        "or leaves moves only its share of users.",
    )
    user_map: Path | None = setting(
        Group.SERVING,
        cast("Kind[Path | None]", values.PATH),
        None,
        "file that says on which node users belong, one 'jid node' a line; others are placed by the policy",
        "For those whose data is on one node; a file because somebody else knows, and it outlives restarts.",
        shown="none",
    )
    user_lookup: str | None = setting(
        Group.SERVING,
        cast("Kind[str | None]", values.LOOKUP_URL),
        None,
        "HTTP endpoint that is asked on which node a user belongs who is in no user-map; {jid} stands for him, else "
        "?jid= is added",
        "For those who keep it in a database. See docs/placement.md for the answers.",
        shown="none",
    )
    lookup_cache: float = setting(
        Group.SERVING,
        values.seconds(zero=False),
        60.0,
        "how long an answer of user-lookup holds, also that it has none",
        "A client that reconnects does so within a minute; who is moved in the database should not wait longer.",
    )
    workers: int = _workers_field()
    transfer_rate: float = setting(
        Group.MOVING,
        values.RATE,
        100.0,
        "clients told to move per second, over all drains and whatever else moves them",
        "Each of them logs in again within seconds, and a login is the most expensive thing a node does. "
        "10,000 clients move in 100 seconds.",
    )
    logins_per_second: float | None = setting(
        Group.SERVING,
        values.RATE_LIMIT,
        None,
        "logins per second to each node; who comes faster waits for his turn, at most admission-timeout. none for no "
        "limit",
        "What a node and its database can take is known to who runs them; those who come back after a node was lost "
        "come all at once.",
    )
    on_node_down: OnNodeDown = setting(
        Group.MOVING,
        values.one_of(OnNodeDown),
        OnNodeDown.TRANSFER,
        "what becomes of the sessions that a node has when checks find it down, if there is another one to take them: "
        "transfer them at the transfer rate, close them all at once, or keep them",
        "Who is connected to a node that hangs gets nothing, and mostly does not notice; one that has closed its "
        "listener is about to end its sessions anyway. If it is up again in time, the rest stays.",
    )
    cxfr_unknown: CxfrUnknown = setting(
        Group.MOVING,
        values.one_of(CxfrUnknown),
        CxfrUnknown.TRY,
        "ask clients of which nothing is known by connection transfer (XEP-0051) first, or skip to the next way",
        "A client that doesn't know the request answers with an error and loses nothing; one that does "
        "moves without a gap.",
    )
    sm_after_transfer: SmAfterTransfer = setting(
        Group.MOVING,
        values.one_of(SmAfterTransfer),
        SmAfterTransfer.END,
        "what becomes of a stream with XEP-0198 that was asked by connection transfer, once its client leaves: end it "
        "on the node; or wrap, which gives all clients ids by which they can resume through this proxy only",
        "The node has counted fewer stanzas than the client, and might believe a wrong count, and lose one, if the "
        "client resumed it by another way. With wrap nobody can resume what was begun before the proxy was restarted.",
    )
    cxfr_allow: tuple[ClientMatch, ...] = repeatable(
        Group.MOVING,
        values.CLIENTS,
        (),
        "clients that are known to understand connection transfer (XEP-0051), by a trait",
        "What clients say and answer is learned while they are served; this is for those that say nothing.",
        shown="none but those that say so",
    )
    cxfr_deny: tuple[ClientMatch, ...] = repeatable(
        Group.MOVING,
        values.CLIENTS,
        (),
        "clients never to ask by connection transfer (XEP-0051), by a trait",
        "A client that doesn't know the request loses nothing by being asked, but the time it takes to answer.",
        shown="none",
    )
    wrong_node: WrongNode = setting(
        Group.MOVING,
        values.one_of(WrongNode),
        WrongNode.TRANSFER,
        "transfer a client whose user has a node of his own, and that has logged in on another one; or keep it there",
        "Where a user belongs may be known only when he has logged in; he would stay apart from his other clients "
        "for as long as he is connected.",
    )
    rebalance: RebalanceMode = setting(
        Group.MOVING,
        values.one_of(RebalanceMode),
        RebalanceMode.AUTO,
        "whether users who come to belong elsewhere, as a node joins, is back or has another weight, are moved there "
        "by themselves, or only by the command rebalance",
        "A node that joins would stay empty until people happen to log in anew. They are moved at transfer-rate, "
        "and only those who have to.",
    )
    redirect_window: float = setting(
        Group.MOVING,
        values.seconds(zero=True),
        60.0,
        "within this time nobody is redirected to another host twice, nor moved twice to where he belongs",
        "Two proxies that disagree would send a client to and fro; clients give up after 2 to 5 redirects in a row.",
    )
    redirect_targets: tuple[HostPattern, ...] = repeatable(
        Group.MOVING,
        values.HOST_PATTERN,
        (),
        "host that clients may be sent to, *.example.org for all below it; a public= that is none of these is an error",
        "The nodes file says where clients are sent, and may be written by a program or another team than this.",
        shown="any",
    )
    redirect_domain: tuple[DomainRedirect, ...] = repeatable(
        Group.MOVING,
        values.REDIRECT,
        (),
        "domain that is not served here any more: over TLS its clients are told the address by see-other-host",
        "A domain that moves to other servers keeps its users; DNS takes its time, and some clients have the address "
        "written down.",
        shown="none",
    )
    trust_node_redirects: TrustNodeRedirects = setting(
        Group.MOVING,
        values.one_of(TrustNodeRedirects),
        TrustNodeRedirects.NO,
        "pass a node's see-other-host on to its client, over TLS and within redirect-targets; else it is replaced",
        "A node's redirect leads around the proxy, and one that was broken into could lead anywhere.",
    )
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
    control: Path = _control_field()
    http: ListenAddress | None = setting(
        Group.OPERATING,
        cast("Kind[ListenAddress | None]", values.LISTEN),
        None,
        "where /metrics, /livez and /readyz are answered by HTTP, without TLS or password: best a loopback address "
        "like 127.0.0.1:9222",
        "Nothing can be changed there and no client is named, but how the nodes are is nobody else's business.",
        shown="none: no HTTP",
    )
    """``None``: not at all."""
    log_format: LogFormat = setting(
        Group.OPERATING,
        values.one_of(LogFormat),
        LogFormat.TEXT,
        "how the log's lines are written",
        "A person reads it first; a log collector is told to.",
    )
    log_level: LogLevel = setting(
        Group.OPERATING,
        values.one_of(LogLevel),
        LogLevel.INFO,
        "least severe events that are logged",
        "One line for each session that comes, moves and goes; debug adds what leads there.",
    )

    @classmethod
    def from_sources(cls, flags: Mapping[str, object], file: SettingsFile | None = None) -> Config:
        """Settings from parsed flags (``vars()`` of a namespace) and a settings file.

        ``flags`` maps attribute names to text, or to a list of texts for a repeatable setting; what is
        missing or ``None`` was not given, and names that are no setting's are passed over. Raises
        :class:`ConfigError`.
        """
        given: dict[str, dict[str, Any]] = {"": {}, "timeouts": {}, "limits": {}}
        for row in SETTINGS:
            value = flags.get(row.attribute)
            if value is not None:
                given[row.section][row.attribute] = row.read(value, f"--{row.name}")
            elif file is not None and row.name in file.values:
                given[row.section][row.attribute] = file.read(row)
        config = cls(timeouts=Timeouts(**given["timeouts"]), limits=Limits(**given["limits"]), **given[""])
        if len(config.key) > len(config.certificate):
            raise ConfigError(
                f"--key: expected at most one for each --certificate, found {len(config.key)} keys "
                f"for {len(config.certificate)} certificates"
            )
        config._check_redirects()
        return config

    def _check_redirects(self) -> None:
        """Nobody is sent in a circle, or where the operator has said that nobody is sent."""
        moved = [domain_key(each.domain) for each in self.redirect_domain]
        served = set(map(domain_key, self.domain))
        for each in self.redirect_domain:
            domain, host, label = domain_key(each.domain), domain_key(each.target.host), f"redirect-domain: {each}"
            if moved.count(domain) > 1:
                raise ConfigError(f"{label}: expected each domain once")
            if domain in served:
                raise ConfigError(f"{label}: expected a domain that is not served here too")
            if host in moved or host in served:
                raise ConfigError(f"{label}: expected a host elsewhere; its clients would come back here")
            if not self.redirection.allow(each.target.host):
                raise ConfigError(f"{label}: expected a host that redirect-targets allows ({self.redirection})")

    def differences(self, other: Config) -> list[str]:
        """The names of the settings that have another value there."""
        return [row.name for row in SETTINGS if row.value_in(self) != row.value_in(other)]

    @property
    def key_pairs(self) -> tuple[KeyPair, ...]:
        """The certificates in the order given, each with its key."""
        keys = self.key + self.certificate[len(self.key) :]
        return tuple(map(KeyPair, self.certificate, keys))

    @property
    def policies(self) -> Policies:
        """By what the users of each domain are placed; of two for the same, the later one counts."""
        by_domain = {each.domain: each.policy for each in self.placement if each.domain is not None}
        usual = next((each.policy for each in reversed(self.placement) if each.domain is None), Policy.RENDEZVOUS)
        return Policies(usual, by_domain)

    @property
    def redirection(self) -> RedirectTargets:
        """To which hosts clients may be sent."""
        return RedirectTargets(self.redirect_targets)

    def check_serving(self) -> None:
        """Raises :class:`ConfigError` if what serving needs is missing; files are not opened."""
        if self.backends is None:
            raise ConfigError("--backends FILE is needed: it names the nodes (try --help, or the command demo)")
        if not self.listen:
            raise ConfigError("listen: expected at least one ADDRESS:PORT")


SETTINGS: Final = settings_of({"": Config, "timeouts": Timeouts, "limits": Limits})
