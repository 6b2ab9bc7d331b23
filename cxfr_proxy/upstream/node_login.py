"""A login at a node in the name of a client that is bound elsewhere, so that its session can be resumed there.

The proxy has no passwords: it logs in by SASL EXTERNAL (RFC 4422 appendix A) and names the user for whom it acts. A
node lets it in if it trusts this very connection to speak for all its users, by a certificate say (XEP-0178); any
further conditions are the node's own business. Any other node refuses, and the client stays where it is.
"""

from __future__ import annotations

import base64

from cxfr_proxy.config.table import Limits
from cxfr_proxy.errors import NodeError
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.session.commands import Dial
from cxfr_proxy.session.legs import NodeLeg, node_lane
from cxfr_proxy.upstream.probe_stream import ProbeStream
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.stream_management import NAMESPACES


async def log_in_as(endpoint: Endpoint, dial: Dial, limits: Limits) -> NodeLeg:
    """Log that user in, and return the leg on which a session can be resumed. Everything that the node sent until then
    was read.

    ``endpoint`` stays the caller's. Raises :class:`NodeError`, also if the node lets nobody in this way, and
    ``OSError``; after them, or when cancelled, the connection can only be closed.
    """
    header, domain = dial.header, dial.header.to or ""
    leg = NodeLeg(dial.node, header, node_lane(max_element_bytes=limits.max_element_down))
    stream = ProbeStream(endpoint, limits, leg.lane)
    greeting = await stream.open(domain, header.raw)
    leg.open(header)
    offered = greeting.parsed.iterfind(f".//{stanza.qualified(names.SASL, 'mechanism')}")
    if "EXTERNAL" not in [mechanism.text for mechanism in offered]:
        raise _refusal("it does not offer SASL EXTERNAL")
    answer = await stream.ask(_auth(dial.user), greeting.header)
    if stanza.name_of(answer) != (names.SASL, "success"):
        raise _refusal("it does not let the proxy log in as a user")
    leg.restart()
    greeting = await stream.open(domain, header.raw)
    if all(stanza.child(greeting.parsed, namespace, "sm") is None for namespace in NAMESPACES):
        raise _refusal("it does not offer stream management")
    leg.open(header)
    leg.greet(greeting.header)
    return leg


def _auth(user: str) -> bytes:
    name = base64.b64encode(user.encode()).decode()
    return f"<auth xmlns='{names.SASL}' mechanism='EXTERNAL'>{name}</auth>".encode()


def _refusal(why: str) -> NodeError:
    return NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, why)
