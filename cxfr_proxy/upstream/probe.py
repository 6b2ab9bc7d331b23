"""Look at a node once: connect as a session is connected, and see how it greets a client."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, replace

import trio

from cxfr_proxy.cluster.health import Finding
from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls
from cxfr_proxy.errors import NodeError
from cxfr_proxy.upstream.dial import Dialer, finding
from cxfr_proxy.xmpp.opening.features import dead_end


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of a probe. ``reason`` is for the operator, ``None`` if nothing is wrong; ``features`` are ``None``
    if the node was not asked for them, or wrote them in a form that can't stand elsewhere."""

    finding: Finding
    reason: str | None = None
    features: bytes | None = None


async def probe(
    dialer: Dialer, spec: NodeSpec, domain: str | None, *, seconds: float, stream: bool = True
) -> ProbeResult:
    """Connect, and see how the node greets a client of that domain; without ``stream``, only connect.

    ``domain`` ``None``: it is not known yet which domains are served. Then no stream can be opened, and a certificate
    can only be checked against ``verify-name=``; so neither is tried. ``seconds`` are for everything until the greeting
    is there.
    """
    asks = stream and domain is not None
    if not asks and (spec.tls is NodeTls.STARTTLS or (domain is None and spec.verify_name is None)):
        # Without a domain there is no name to verify, and STARTTLS needs a stream to a domain.
        spec = replace(spec, tls=NodeTls.NONE)
    latest = trio.current_time() + seconds
    try:
        with trio.fail_at(latest):
            endpoint = await dialer.dial(spec, domain or "", None, resolve=True)
        with closing(endpoint):
            if not asks:
                return ProbeResult(Finding.OK)
            stream_to_node = dialer.probe_stream(endpoint)
            with trio.fail_at(latest):
                greeting = await stream_to_node.open(domain or "")
            with suppress(OSError):  # the node has greeted, so the check has passed however the stream ends
                await stream_to_node.close()
            wrong = dead_end(greeting.parsed)
            return ProbeResult(Finding.FAILED, wrong) if wrong else ProbeResult(Finding.OK, features=greeting.portable)
    except trio.TooSlowError:
        return ProbeResult(Finding.SILENT, "the node did not answer in time")
    except NodeError as exc:
        return ProbeResult(finding(exc), exc.text)
    except OSError:
        return ProbeResult(Finding.FAILED, "the node broke the connection")
