"""Reach a node: connect, say whose connection it is, and put TLS on it as its line in the list says.

Resolving a name and trying its addresses side by side (RFC 8305) costs as much as the rest of a login. So health checks
do it, every other second, and a session is connected to the address that answered last. Only if that fails, or none is
known yet, the session resolves the name itself. Where name servers don't answer, checks go by the last address as well:
a node is not down because its name can't be looked up (decision 0052).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from cxfr_proxy import shortage
from cxfr_proxy.bounded import BoundedDict
from cxfr_proxy.cluster.addresses import Address, UnixAddress
from cxfr_proxy.cluster.health import Finding
from cxfr_proxy.cluster.nodes import NodeSpec, NodeTls
from cxfr_proxy.config.table import Limits, Timeouts
from cxfr_proxy.errors import ConfigError, DomainRefused, FaultList, NodeError, NoRoom
from cxfr_proxy.events import emit
from cxfr_proxy.net import proxy_protocol
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.node_tls import NodeCertificate, node_context, node_name, read_authorities
from cxfr_proxy.net.pem import Pem
from cxfr_proxy.net.proxy_protocol import ProxiedConnection
from cxfr_proxy.net.transport import PlainTransport, Verdict
from cxfr_proxy.net.waits import TRIO, Waits
from cxfr_proxy.session.commands import Dial
from cxfr_proxy.session.legs import NodeLeg
from cxfr_proxy.transfers.own_logins import OwnLogins
from cxfr_proxy.upstream.node_login import log_in_as
from cxfr_proxy.upstream.probe_stream import ProbeStream
from cxfr_proxy.xmpp.names import StreamCondition

_SocketAddress = tuple[int, Any]
"""An address family, and an address in the form that sockets of this family take."""

_FINDINGS: Final = {
    errno.ECONNREFUSED: Finding.REFUSED,
    errno.ENOENT: Finding.REFUSED,  # a unix socket that was taken away
    errno.ETIMEDOUT: Finding.SILENT,
    errno.EHOSTUNREACH: Finding.SILENT,
    errno.EHOSTDOWN: Finding.SILENT,
    errno.ENETUNREACH: Finding.SILENT,
}
"""By the system's answer to a connection: the finding about the node."""

_NO_ANSWER: Final = frozenset((socket.EAI_AGAIN, socket.EAI_FAIL))
"""The answers of a lookup for which no name server knew an answer, not even that there is no such name."""

_NAMES_KEPT: Final = 20_000
"""Names that are remembered at least: more than there are nodes in the largest list."""

_BREAKS: Final = (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)

_NO_TLS: Final = NodeTls.NONE
_NOBODY: Final = ProxiedConnection(None, None)
"""The connection in whose name a check is made."""

_MISMATCHES: Final = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""

_log = logging.getLogger(__name__)


def read_authorities_of(specs: Iterable[NodeSpec]) -> dict[str, str]:
    """Return the contents of the files with CA certificates that these nodes name, by path. Raises
    :class:`ConfigError` for all that are no good."""
    authorities: dict[str, str] = {}
    faults = FaultList()
    looked_at: set[str | None] = set()
    for spec in specs:
        if spec.uses_tls and spec.ca not in looked_at:
            looked_at.add(spec.ca)
            with faults:
                text = read_authorities(spec)
                node_context(spec, text)
                if spec.ca is not None and text is not None:
                    authorities[spec.ca] = text
    faults.check()
    return authorities


class Dialer:
    """Connects to nodes. TLS contexts are made once for each set of CA certificates, from the contents that
    :meth:`take` was given. ``certificate`` is the one for nodes; ``None``: there is none."""

    def __init__(self, timeouts: Timeouts, limits: Limits, certificate: NodeCertificate | None = None) -> None:
        self._timeouts = timeouts
        self._limits = limits
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._own_contexts: dict[str | None, ssl.SSLContext] = {}  # in which the proxy shows its certificate
        self.certificate = certificate if certificate is not None else NodeCertificate()
        self.authorities: Mapping[str, str] = {}
        """The contents of ``ca=`` files in use, by path."""
        self._answered: dict[Address, _SocketAddress] = {}  # where a name was last reached: sessions go there
        self._last: BoundedDict[Address, _SocketAddress] = BoundedDict(_NAMES_KEPT)
        """The same, kept for the time when no name server answers."""
        self.own_logins = OwnLogins()
        """The turns in which :meth:`log_in` goes on."""

    def take(self, authorities: Mapping[str, str]) -> None:
        """Take the contents of ``ca=`` files, which were found good (:func:`read_authorities_of`). Names are resolved
        anew."""
        self._contexts, self._own_contexts, self.authorities = {}, {}, authorities
        self._answered.clear()

    def use(self, timeouts: Timeouts, limits: Limits, certificate: NodeCertificate) -> None:
        """Dial with these from now on."""
        self._timeouts, self._limits = timeouts, limits
        self._own_contexts, self.certificate = {}, certificate

    async def dial(
        self,
        spec: NodeSpec,
        domain: str,
        client: ProxiedConnection | None,
        *,
        resolve: bool = False,
        certificate: Pem | None = None,
        waits: Waits = TRIO,
    ) -> Endpoint:
        """Return a connection to the node on which the client's stream can begin. The caller closes it.

        ``client`` is the client's connection, of which a PROXY header tells; ``None`` where there is none. If it has no
        IP addresses, the header names the ends of this one.
        ``resolve``: look the node's name up, whatever is remembered of it. ``certificate``: the one that the proxy
        shows; ``None``: none. Raises :class:`NodeError` where the node
        can't be reached in time, or doesn't do what its line says; its text names no address. Raises
        :class:`NoRoom` where this machine can't begin a connection. Nothing stays open when cancelled.
        """
        endpoint: Endpoint | None = None
        try:
            try:
                plain = await self._connect(spec.address, waits, resolve=resolve)
            except (OSError, RuntimeError) as exc:
                lack = _lack(exc)
                if lack is None:
                    raise
                why = f"this machine has no room for a connection: {lack}"
                raise NoRoom(StreamCondition.REMOTE_CONNECTION_FAILED, why) from exc
            endpoint = Endpoint(plain, waits)
            if spec.send_proxy is not None:
                told = (client or _NOBODY).or_between(*proxy_protocol.own_ends(plain))
                # The header has to come first, before TLS. A new socket takes it at once.
                await endpoint.send_all(proxy_protocol.header(spec.send_proxy, told))
            if spec.tls is not _NO_TLS:
                with waits.time_limit(self._timeouts.tls_handshake_timeout):
                    if spec.tls is NodeTls.STARTTLS:
                        await self.probe_stream(endpoint).ask_for_tls(domain)
                    context = self._context(spec, certificate)
                    await endpoint.start_tls(context, server_side=False, server_hostname=node_name(spec, domain))
        except BaseException as exc:
            if endpoint is not None:
                endpoint.close()
            # ConfigError: the file with the CA certificates, which may have gone bad since the nodes were read.
            # The client chose the name, so a mismatch is no fault of the node's: DomainRefused does not count against
            # it.
            if spec.verify_name is None and is_about_the_name(exc):
                raise DomainRefused(StreamCondition.REMOTE_CONNECTION_FAILED, _why(exc)) from exc
            if isinstance(exc, OSError | trio.TooSlowError | ValueError | ConfigError):
                raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, _why(exc)) from exc
            raise
        return endpoint

    async def log_in(
        self, spec: NodeSpec, dial: Dial, client: ProxiedConnection, waits: Waits = TRIO
    ) -> tuple[Endpoint, NodeLeg]:
        """Wait for a turn; return a connection to the node on which a user is logged in by the proxy's certificate, and
        the leg of it.

        The caller closes it. Raises as :meth:`dial` and :func:`~.node_login.log_in_as` do. Nothing stays open when
        cancelled.
        """
        domain, certificate = dial.header.to or "", self.certificate.content
        if certificate is None or not spec.migrates:
            raise NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "the proxy may not log in there as a user")
        await self.own_logins.take_turn(waits)
        try:
            endpoint = await self.dial(spec.for_migration, domain, client, certificate=certificate, waits=waits)
            try:
                return endpoint, await log_in_as(endpoint, dial, self._limits)
            except BaseException:
                endpoint.close()
                raise
        finally:
            self.own_logins.end_turn()

    def probe_stream(self, endpoint: Endpoint) -> ProbeStream:
        """Return a stream of the proxy's own on a connection to a node, which stays the caller's to close."""
        return ProbeStream(endpoint, self._limits)

    def _context(self, spec: NodeSpec, certificate: Pem | None = None) -> ssl.SSLContext:
        contexts = self._contexts if certificate is None else self._own_contexts
        context = contexts.get(spec.ca)
        if context is None:
            known = self.authorities.get(spec.ca) if spec.ca is not None else None
            # A node may be new since the files were read.
            text = known if known is not None else read_authorities(spec)
            context = contexts[spec.ca] = node_context(spec, text, certificate)
        return context

    async def _connect(self, address: Address | UnixAddress, waits: Waits, *, resolve: bool) -> PlainTransport:
        literal = _literal(address)
        if literal is not None:
            return await _connect_to(literal, self._timeouts, waits)
        assert isinstance(address, Address), "only these can be names"
        known = self._answered.get(address)
        if known is not None and not resolve:
            with contextlib.suppress(OSError):  # the name may stand for another address by now: it is resolved below
                return await _connect_to(known, self._timeouts, waits)
            self._answered.pop(address, None)  # the next one resolves it as well
        try:
            return await waits.in_trio(partial(self._look_up_and_connect, address))
        except BaseException:  # a check keeps it until then: sessions need not wait for its answer
            self._answered.pop(address, None)
            raise

    async def _look_up_and_connect(self, address: Address) -> PlainTransport:
        last = self._last.get(address)
        if last is not None:
            places = await self._places(address)
            if places is None or len(places) == 1:
                place = places[0] if places is not None else last
                transport = await _connect_to(place, self._timeouts, TRIO)
                self._answered[address] = self._last[address] = place
                return transport
        # Of several addresses trio tries one beside the other; it looks the name up once more, for few names have them.
        with trio.fail_after(self._timeouts.node_connect_timeout):
            stream = await trio.open_tcp_stream(address.host, address.port)
        # Out of trio's socket, which would be closed with its last reference.
        sock = socket.socket(fileno=stream.socket.detach())
        transport = PlainTransport.adopt(sock, self._timeouts.keepalive_timeout)
        try:
            self._answered[address] = self._last[address] = (transport.family, transport.getpeername())
        except OSError:
            transport.close()
            raise
        return transport

    async def _places(self, address: Address) -> Sequence[_SocketAddress] | None:
        """Return where the name leads by now; ``None``, and logged: no name server answers. They have half of the
        caller's time, since for the rest the node is looked for where it was reached last.

        Raises ``OSError`` where there is no such name.
        """
        now, why = trio.current_time(), "no answer in time"
        latest = min(now + self._timeouts.node_connect_timeout, trio.current_effective_deadline())
        try:
            with trio.move_on_at((now + latest) / 2):
                found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
                return [(family, place) for family, _, _, _, place in found]
        except socket.gaierror as exc:
            if exc.errno not in _NO_ANSWER:
                raise
            why = exc.strerror or str(exc)
        emit(_log, "name-not-resolved", level=logging.WARNING, name=address.host, reason=why)
        return None


# Each login asks it, and a name costs two exceptions.
@functools.lru_cache(maxsize=1024)
def _literal(address: Address | UnixAddress) -> _SocketAddress | None:
    """Return an IP address or a path; ``None`` for a name."""
    if isinstance(address, UnixAddress):
        return socket.AF_UNIX, address.path
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # not an address of that family
            socket.inet_pton(family, address.host)
            return family, (address.host, address.port)
    return None


def _lack(exc: OSError | RuntimeError) -> str | None:
    """Return what this machine lacks for the connection that failed by that exception; ``None``: nothing, as far as can
    be told."""
    if isinstance(exc, OSError):
        return shortage.of_connecting(_first(exc))
    return str(exc) if shortage.is_of_threads(exc) else None  # names are looked up in a thread


async def _connect_to(address: _SocketAddress, timeouts: Timeouts, waits: Waits) -> PlainTransport:
    await waits.check()  # there may be nothing to wait for below, and whoever waits may be cancelled already
    family, name = address
    transport = PlainTransport.unconnected(family, timeouts.keepalive_timeout)
    try:
        error = transport.connect_ex(name)
        if error == errno.EINPROGRESS:
            error = transport.connect_ex(name)  # a node on this machine has answered by now: this saves a task switch
        if error == errno.EALREADY:
            with waits.time_limit(timeouts.node_connect_timeout):
                while error == errno.EALREADY:
                    await waits.ready(transport, Verdict.WAIT_WRITABLE)
                    error = transport.connect_ex(name)
        if error not in (0, errno.EISCONN):
            raise OSError(error, os.strerror(error))
    except BaseException:
        transport.close()
        raise
    return transport


def is_about_the_name(exc: BaseException) -> bool:
    """Return whether a certificate is not for the name that was asked for, or that name can't be one. Any other
    fault of a certificate is the node's."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_code in _MISMATCHES
    return isinstance(exc, ValueError)


def _why(exc: BaseException) -> str:
    match exc:
        case trio.TooSlowError():
            return "the node did not answer in time"
        case ssl.SSLCertVerificationError():
            return f"the node's certificate was not accepted: {exc.verify_message}"
        case ssl.SSLError():
            return f"TLS with the node failed: {exc.reason or 'unknown reason'}"
        case ConfigError():
            return str(exc)
        case OSError():
            return f"no connection to the node: {_reason(exc)}"
        case _:
            return "the node's stream could not be read"


def _reason(exc: OSError) -> str:
    first = _first(exc)
    if isinstance(first, socket.gaierror) or first.errno is None:
        return first.strerror or "unknown reason"
    return os.strerror(first.errno)


def _first(exc: OSError) -> OSError:
    """Return the actual error. trio's own ``OSError`` and its text name the address; its cause is one error or a
    group, one for each of a name's addresses. Those that a node has answered go first: it was tried."""
    cause: BaseException | None = exc.__cause__
    while isinstance(cause, BaseExceptionGroup):
        tried = (each for each in cause.exceptions if not isinstance(each, OSError) or not shortage.of_connecting(each))
        cause = next(tried, cause.exceptions[0])
    return cause if isinstance(cause, OSError) else exc


def finding(error: NodeError) -> Finding:
    """Return what a failed :meth:`Dialer.dial` means for the node."""
    if isinstance(error, NoRoom):
        return Finding.UNTRIED
    match error.__cause__:
        case trio.TooSlowError():
            return Finding.SILENT
        case OSError() as exc:
            first = _first(exc)
            if isinstance(first, socket.gaierror):
                return Finding.FAILED
            return _FINDINGS.get(first.errno or 0, Finding.FAILED)
    return Finding.FAILED


def has_broken(exc: BaseException | None) -> bool:
    """Return whether this is the end of a connection that had been accepted, and no refusal: neither of the connection,
    nor a TLS alert."""
    return isinstance(exc, _BREAKS)
