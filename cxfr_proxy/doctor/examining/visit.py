"""Look at one node without logging in: as the proxy connects to it, and where that fails, in other ways as well."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeGuard, TypeVar

import trio

from cxfr_proxy.cluster.addresses import XMPP_PORT, Address
from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls, ProxyProtocol
from cxfr_proxy.doctor.examining.handshake import certificate_of, shake_hands
from cxfr_proxy.doctor.examining.together import together
from cxfr_proxy.doctor.facts import Failure, LookStage, NodeFacts, NodeTlsFacts, OtherWay, PublicFacts
from cxfr_proxy.doctor.offer import Offer, read_offer
from cxfr_proxy.errors import DomainRefused, NodeError
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.node_tls import node_name
from cxfr_proxy.net.proxy_protocol import Peer, own_ends
from cxfr_proxy.upstream.dial import Dialer, has_broken, is_about_the_name
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.names import StreamCondition

T = TypeVar("T")

_NOBODY: Final = "cxfr-proxy-doctor"
"""The localpart in the header where no user was named: some servers offer SASL2 and FAST to those alone who say who
they are (ejabberd, Prosody)."""
_OTHERS: Final = (None, ProxyProtocol.V2, ProxyProtocol.V1)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Looks at nodes by that dialer. ``seconds`` are for each connection, up to the greeting. ``user`` is the localpart
    in whose name a node is asked; ``None``: nobody's."""

    dialer: Dialer
    seconds: float
    user: str | None = None

    async def visit(self, spec: NodeSpec, domain: str | None) -> tuple[NodeFacts, tuple[Peer, Peer] | None]:
        """Return what was seen, and the two ends of the connection; ``None``: there was none."""
        facts = NodeFacts(spec, domain)
        if domain is None:
            return await self._connect_only(facts)
        try:
            ends, tls, offer = await self._greet(spec, domain)
        except NodeError as exc:
            return await self._explain(facts, domain, exc), None
        looks = {"named": partial(self._named_offer, spec, domain)}
        if spec.tls is NodeTls.NONE and offer.starttls:
            looks["behind_tls"] = partial(self._offer_behind_tls, spec, domain)
        others = await _all(looks)
        facts = replace(facts, tls=tls, offer=offer, named=others.get("named"), behind_tls=others.get("behind_tls"))
        return facts, ends

    async def public(self, spec: NodeSpec, domain: str) -> PublicFacts | None:
        """Look where clients of that node are sent; ``None``: nowhere."""
        if spec.public is None:
            return None
        place = Address(spec.public.host, spec.public.port or XMPP_PORT)
        reasons = []
        for tls in (NodeTls.STARTTLS, NodeTls.DIRECT):
            try:
                endpoint = await self._dial_blindly(NodeSpec(spec.name, place, tls=tls), domain, domain)
            except NodeError as exc:
                reasons.append(exc.text)
                continue
            with closing(endpoint):
                return PublicFacts(certificate_of(endpoint))
        return PublicFacts(reason=reasons[0])  # STARTTLS's: it is what most clients try

    # --- in the way of its line

    async def _connect_only(self, facts: NodeFacts) -> tuple[NodeFacts, tuple[Peer, Peer] | None]:
        try:
            endpoint = await self._dial(replace(facts.spec, tls=NodeTls.NONE), "")
        except NodeError as exc:
            return replace(facts, failure=Failure(LookStage.CONNECT, exc.text)), None
        with closing(endpoint):
            return facts, _ends(endpoint)

    async def _greet(self, spec: NodeSpec, domain: str) -> tuple[tuple[Peer, Peer], NodeTlsFacts | None, Offer]:
        endpoint = await self._dial(spec, domain)
        with closing(endpoint):
            certificate = certificate_of(endpoint)
            version = endpoint.transport.version()
            tls = NodeTlsFacts(version, certificate) if version is not None else None
            return _ends(endpoint), tls, await self._open(endpoint, domain)

    async def _named_offer(self, spec: NodeSpec, domain: str) -> Offer:
        endpoint = await self._dial(spec, domain)
        with closing(endpoint):
            return await self._open(endpoint, domain, self.user or _NOBODY)

    async def _offer_behind_tls(self, spec: NodeSpec, domain: str) -> Offer:
        endpoint = await self._dial_blindly(replace(spec, tls=NodeTls.STARTTLS), domain, node_name(spec, domain))
        with closing(endpoint):
            return await self._open(endpoint, domain, self.user or _NOBODY)

    # --- in other ways

    async def _explain(self, facts: NodeFacts, domain: str, exc: NodeError) -> NodeFacts:
        spec, stage = facts.spec, await self._stage(facts.spec, domain, exc)
        facts = replace(facts, failure=Failure(stage, exc.text))
        if stage is LookStage.CERTIFICATE:
            tls = await self._refused_certificate(spec, domain, exc)
            return replace(facts, tls=tls, failure=Failure(LookStage.CERTIFICATE if tls else LookStage.TLS, exc.text))
        # Where no connection comes about, or the name alone is wrong, no other way leads further.
        if stage not in (LookStage.TLS, LookStage.GREETING):
            return facts
        # One option is changed at a time: a way that differs in both would not say which of them is wrong.
        ways = [OtherWay(header, spec.tls) for header in _OTHERS if header is not spec.send_proxy]
        ways += [OtherWay(spec.send_proxy, tls) for tls in NodeTls if tls is not spec.tls]
        found = await _all(
            {
                way: partial(self._blind_offer, replace(spec, send_proxy=way.send_proxy, tls=way.tls), domain)
                for way in ways
            }
        )
        good = (way for way in ways if way in found and found[way].dead_end is None)
        return replace(facts, other_ways=tuple(good))

    async def _stage(self, spec: NodeSpec, domain: str, exc: NodeError) -> LookStage:
        if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
            return LookStage.CERTIFICATE
        if isinstance(exc, DomainRefused):
            return LookStage.DOMAIN
        if isinstance(exc, _NoGreeting):
            return LookStage.TLS if _is_alert(exc.__cause__) else LookStage.GREETING
        if spec.tls is NodeTls.NONE:
            return LookStage.CONNECT
        # The dialler tells both in the same words. Where connecting works by itself, it was TLS.
        with suppress(NodeError):
            (await self._dial(replace(spec, tls=NodeTls.NONE), domain)).close()
            return LookStage.TLS
        return LookStage.CONNECT

    async def _refused_certificate(self, spec: NodeSpec, domain: str, exc: NodeError) -> NodeTlsFacts | None:
        cause = exc.__cause__
        assert isinstance(cause, ssl.SSLCertVerificationError), "it is the stage of this one"
        with suppress(NodeError):
            endpoint = await self._dial_blindly(spec, domain, node_name(spec, domain))
            with closing(endpoint):
                certificate = certificate_of(endpoint)
                if certificate is not None:
                    version = endpoint.transport.version()
                    return NodeTlsFacts(version, certificate, cause.verify_message, is_about_the_name(cause))
        return None

    async def _blind_offer(self, spec: NodeSpec, domain: str) -> Offer:
        endpoint = await self._dial_blindly(spec, domain, node_name(spec, domain))
        with closing(endpoint):
            return await self._open(endpoint, domain)

    # --- connections

    async def _dial(self, spec: NodeSpec, domain: str) -> Endpoint:
        try:
            with trio.fail_after(self.seconds):
                return await self.dialer.dial(spec, domain, None, resolve=True)
        except trio.TooSlowError as exc:
            raise _fault("the node did not answer in time") from exc

    async def _dial_blindly(self, spec: NodeSpec, domain: str, name: str) -> Endpoint:
        """Dial as the line says, but believe any certificate."""
        endpoint = await self._dial(replace(spec, tls=NodeTls.NONE), domain)
        try:
            with trio.fail_after(self.seconds):
                if spec.tls is NodeTls.STARTTLS:
                    await self.dialer.probe_stream(endpoint).ask_for_tls(domain)
                if spec.tls is not NodeTls.NONE:
                    await shake_hands(endpoint, name)
        except BaseException as exc:
            endpoint.close()
            if isinstance(exc, OSError | trio.TooSlowError | ValueError):
                raise _fault("TLS with the node failed") from exc
            raise
        return endpoint

    async def _open(self, endpoint: Endpoint, domain: str, user: str | None = None) -> Offer:
        """Open a stream on the connection, and read what the node offers. Raises :class:`NodeError`."""
        stream = self.dialer.probe_stream(endpoint)
        opening = stanza.stream_header(to=domain, from_=f"{user}@{domain}" if user else None, stream_id=None)
        try:
            with trio.fail_after(self.seconds):
                greeting = await stream.open(domain, opening)
            with suppress(OSError):  # it has greeted, however the stream ends
                await stream.close()
        except trio.TooSlowError as exc:
            raise _NoGreeting("the node did not answer in time") from exc
        except OSError as exc:
            text = f"TLS with the node failed: {exc.reason}" if _is_alert(exc) else "the node broke the connection"
            raise _NoGreeting(text) from exc
        except DomainRefused:
            raise
        except NodeError as exc:
            raise _NoGreeting(exc.text) from exc
        return read_offer(greeting.parsed)


def _ends(endpoint: Endpoint) -> tuple[Peer, Peer]:
    assert isinstance(endpoint.transport, socket.socket), "nodes are connected to by sockets"
    return own_ends(endpoint.transport)


def _is_alert(exc: BaseException | None) -> TypeGuard[ssl.SSLError]:
    """Return whether a node has refused this client in TLS. In TLS 1.3 one that wants a certificate of clients does so
    behind the handshake."""
    return isinstance(exc, ssl.SSLError) and not has_broken(exc)


class _NoGreeting(NodeError):
    """The connection was there, and the node has not greeted."""

    def __init__(self, text: str) -> None:
        super().__init__(StreamCondition.REMOTE_CONNECTION_FAILED, text)


def _fault(text: str) -> NodeError:
    return NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, text)


async def _all(looks: Mapping[T, Callable[[], Awaitable[Offer]]]) -> dict[T, Offer]:
    """Look in all these ways side by side, and return what was seen where something was."""
    found: dict[T, Offer] = {}

    async def try_(key: T, look: Callable[[], Awaitable[Offer]]) -> None:
        with suppress(NodeError):
            found[key] = await look()

    await together(partial(try_, key, look) for key, look in looks.items())
    return found
