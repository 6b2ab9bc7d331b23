"""A small XMPP world to watch the proxy in, behind ``cxfr-proxy demo``; the tests live in the same world.

=============== =====================================================================================
account         the books: which numbered message was lost, which came twice, and why that is certain
wire            XML in, bytes out, with a parser that is not the proxy's
browser         the same by WebSocket, as web clients connect
proxy_header    the PROXY protocol, as a node reads it
cluster         who is online where; XEP-0198 sessions between two streams
node            the XMPP server: where it listens, and how it stops
stream          one client's stream there, and by element what it answers:
node_logins     logins
node_resumption a node's half of XEP-0198
node_stanzas    stanzas
habits          kinds of XMPP client
client          a client's life, from its first login on
client_login    its way in
directions      where it goes when it is told to
resumption      its half of XEP-0198
certificate     for one domain and one day
screen          what is shown
progress        is it slow, or stuck?
proxy_beside    the proxy, as the story needs it
scenario        the story: log in, drain, judge
=============== =====================================================================================
"""

from __future__ import annotations

import resource
import sys

import trio

from cxfr_proxy.demo.proxy_beside import ProxyOpener, open_proxy
from cxfr_proxy.demo.scenario import DemoOptions, DemoTrigger, play
from cxfr_proxy.demo.screen import Screen

__all__ = ["DemoOptions", "DemoTrigger", "main"]


def main(options: DemoOptions, opener: ProxyOpener = open_proxy) -> int:
    """Run the demo on standard output.

    0: the node was emptied, and every message came once, unless the node ended by itself and took some along.
    1: otherwise. 130: interrupted.
    """
    _allow_descriptors()
    screen = Screen(sys.stdout, live=options.live)
    try:
        outcome = trio.run(play, options, screen, opener)
    except KeyboardInterrupt:
        return 130
    screen.conclude(outcome)
    return 0 if outcome.good else 1


def _allow_descriptors() -> None:
    """Raise the limit of descriptors: client, proxy twice and node, so four sockets a client, all in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
