"""The settings that are times: how long the proxy waits for clients and nodes. A part of the table (:mod:`.table`)."""

from __future__ import annotations

from dataclasses import dataclass

from cxfr_proxy.config import values
from cxfr_proxy.config.settings import Group, Reload, setting


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the proxy waits, in seconds."""

    cxfr_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        10.0,
        "how long a client may take to answer the connection-transfer request before the next rung is tried",
        "A client that knows the request answers within a round trip, even on a slow mobile link. Some clients never "
        "answer what they don't know, and a drain waits this long for each of them.",
    )
    migrate_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        5.0,
        "how long a session may take to leave its node, where the proxy takes it to another one (migrate= of the "
        "nodes), before the next rung is tried",
        "The client notices nothing meanwhile. A login takes milliseconds, or a second or two in a storm of logins.",
    )
    see_other_host_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        5.0,
        "how long a client may take to leave after a stream error (such as see-other-host) before it is cut",
        "RFC 6120 section 4.4 lets each side wait for the other's closing tag. A client that hasn't sent it after a "
        "few round trips won't.",
    )
    node_connect_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        5.0,
        "how long a node may take to accept a connection before another one is tried",
        "Nodes are near. Five seconds leave room for a lost SYN, which Linux repeats after 1 and 3 seconds.",
    )
    node_greeting_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        10.0,
        "how long a node may take to greet a client (header and features) before another one is tried",
        "Nodes greet within milliseconds, or within seconds in a storm of logins. Clients give up after ten to thirty "
        "seconds.",
    )
    lookup_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        1.0,
        "how long a login waits for user-lookup before the user is placed without it",
        "A nearby endpoint answers in milliseconds. Users notice a second, but don't complain about it.",
    )
    node_close_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        5.0,
        "how long a node may take to send what it still has, and its closing tag, after its stream was closed",
        "Everything that arrives in this time is still delivered, so it is long. But the client waits without a "
        "session meanwhile.",
    )
    tls_handshake_timeout: float = setting(
        Group.TIMES,
        Reload.NEW,
        values.seconds(zero=False),
        10.0,
        "how long a TLS handshake may take",
        "A handshake takes two round trips and a signature. Ten seconds allow for lost packets, and limit the cost of "
        "a silent connection.",
    )
    negotiation_timeout: float = setting(
        Group.TIMES,
        Reload.NEW,
        values.seconds(zero=False),
        60.0,
        "how long a client may take from its stream header to a bound resource",
        "Users may be asked for a password in between. Connections that never log in are what a flood is made of.",
    )
    admission_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        30.0,
        "how long a login may wait for its turn where logins-per-second holds it back, before the client is told to "
        "try again",
        "Most clients wait half a minute or longer for an answer. After that, a login waits for a client that has "
        "left.",
    )
    write_stall_timeout: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=False),
        30.0,
        "how long a client or node that doesn't read may hold up the bytes for it before the session ends",
        "A phone that changes networks is back, or gone, well before. Until then the other side is not read either.",
    )
    keepalive_timeout: float = setting(
        Group.TIMES,
        Reload.NEW,
        values.seconds(zero=True),
        150.0,
        "how long the machine of a client or node may be silent before the proxy gives its connection up. TCP probes "
        "it after three fifths of this time, and then every tenth; 0 leaves it to the system",
        "A client that vanishes without a word (a phone without a signal) holds a session, and messages to it go "
        "nowhere. A probe every minute and a half lets a phone's radio sleep in between. The system's own default is "
        "two hours.",
    )
    websocket_ping: float = setting(
        Group.TIMES,
        Reload.NEW,
        values.seconds(zero=True),
        45.0,
        "after how much silence, in both directions, a client on WebSocket gets a ping; if it does not answer in the "
        "same time again, its session ends as if its connection had broken. 0: no pings",
        "nginx gives up a WebSocket after 60 silent seconds, and other balancers after as many or a few hundred, "
        "without a word to the page. TCP's own probes do not reach through them.",
    )
    hard_stop_after: float = setting(
        Group.TIMES,
        Reload.AT_ONCE,
        values.seconds(zero=True),
        30.0,
        "how long a stopping proxy, or a worker that is replaced, moves its clients away before it cuts the remaining "
        "ones; 0 cuts at once",
        "Service managers kill programs that don't stop by themselves; systemd does after 90 seconds.",
    )
