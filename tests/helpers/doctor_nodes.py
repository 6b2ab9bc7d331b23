"""Nodes that answer by a script, each with the faults it is told to have, over real sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from xml.sax.saxutils import quoteattr

import trio

from cxfr_proxy.demo.proxy_header import BadProxyHeader, ProxyHeader, read_proxy_header
from cxfr_proxy.demo.wire import Connection, EndOfFile, Malformed, StreamClosed, StreamOpened
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.stanza import Element, child

DOMAIN = "example.org"
USER = "doctor"
PASSWORD = "secret"
SASL = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}</mechanisms>"
TOKENS = "HT-SHA-256-NONE"
SASL2 = (
    f"<authentication xmlns='{names.SASL2}'><mechanism>SCRAM-SHA-1</mechanism><inline>"
    f"<fast xmlns='{names.FAST}'><mechanism>{TOKENS}</mechanism></fast></inline></authentication>"
)


def offering(*mechanisms: str) -> str:
    return SASL.format("".join(f"<mechanism>{each}</mechanism>" for each in mechanisms))


@dataclass
class SharedMemory:
    """What the nodes of a cluster know together: sessions that can be resumed, and tokens."""

    sessions: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)


@dataclass
class ScriptedNode:
    """One node, and its faults. ``challenge`` is added to SCRAM's, ``rounds`` are those of its hash, and ``proves``: it
    proves that it knows the password. ``chatter``: so many messages come before each answer."""

    memory: SharedMemory = field(default_factory=SharedMemory)
    features: str = offering("SCRAM-SHA-1", "PLAIN")
    password: str = PASSWORD
    challenge: str = ""
    rounds: int = 64
    proves: bool = True
    chatter: int = 0
    managed: bool = True
    resumable: bool = True
    ahead_seconds: float = 0.0
    version: str = "Prosody"
    tells_address: bool = True
    expects_header: bool = False
    ignores_header: bool = False
    tls: ssl.SSLContext | None = None
    starttls: ssl.SSLContext | None = None
    behind_tls: str = ""
    """Further features once STARTTLS is done."""
    domain: str = DOMAIN
    lets_anybody_in: bool = False
    """By SASL EXTERNAL, without a certificate."""
    logins: list[str] = field(default_factory=list)
    """The mechanisms of those that worked."""
    refusals: list[str] = field(default_factory=list)
    """The mechanisms of those that did not."""

    async def serve(self, raw: trio.SocketStream) -> None:
        async with raw:
            header: ProxyHeader | None = None
            try:
                if self.expects_header:
                    header = await read_proxy_header(raw)
                transport: trio.abc.Stream = raw
                if self.tls is not None:
                    tls = trio.SSLStream(raw, self.tls, server_side=True, https_compatible=True)
                    await tls.do_handshake()
                    transport = tls
                await _Talk(self, transport, raw, header).run()
            except (BadProxyHeader, trio.BrokenResourceError, trio.ClosedResourceError):
                return


class _Talk:
    def __init__(
        self, node: ScriptedNode, transport: trio.abc.Stream, raw: trio.SocketStream, header: ProxyHeader | None
    ) -> None:
        self.node = node
        self.connection = Connection(transport)
        self.peer = raw.socket.getpeername()[:2]
        if header is not None and not node.ignores_header:
            assert header.source is not None
            self.peer = header.source
        self.user = self.secure = False
        self.session: str | None = None
        self.proof = ""

    async def say(self, text: str) -> None:
        await self.connection.transport.send_all(text.encode())

    async def run(self) -> None:
        while True:
            match await self.connection.read():
                case EndOfFile():
                    return
                case StreamClosed():
                    if self.session is not None:
                        self.node.memory.sessions.discard(self.session)
                    await self.say("</stream:stream>")
                    return
                case Malformed():
                    await self.say("<stream:error><not-well-formed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>")
                    return
                case StreamOpened(to=to):
                    await self.open(to)
                case element:
                    await self.handle(element)

    async def open(self, to: str | None) -> None:
        await self.say(stanza.stream_header(to=None, from_=self.node.domain, stream_id="1").decode())
        if to != self.node.domain:
            await self.say(stanza.stream_error("host-unknown").decode() + "</stream:stream>")
        elif not self.user:
            await self.say(f"<stream:features>{self.features}</stream:features>")
        else:
            managed = f"<sm xmlns='{names.SM}'/>" if self.node.managed else ""
            await self.say(f"<stream:features><bind xmlns='{names.BIND}'/>{managed}</stream:features>")

    @property
    def features(self) -> str:
        if self.secure:
            return self.node.features + self.node.behind_tls
        offered = f"<starttls xmlns='{names.TLS}'/>" if self.node.starttls is not None else ""
        return self.node.features + offered

    async def handle(self, element: Element) -> None:
        namespace, local = stanza.name_of(element)
        if local in ("auth", "authenticate"):
            await self.log_in(element, namespace or "")
        elif local == "starttls":
            await self.upgrade()
        elif local == "enable":
            self.session = f"s{id(self)}"
            self.node.memory.sessions.add(self.session)
            resume = f" id='{self.session}' resume='true'" if self.node.resumable else ""
            await self.say(f"<enabled xmlns='{names.SM}'{resume}/>")
        elif local == "resume":
            await self.resume(element.get("previd", ""))
        elif local == "iq":
            await self.answer(element)

    async def upgrade(self) -> None:
        if self.node.starttls is None:
            await self.say(f"<failure xmlns='{names.TLS}'/>")
            return
        await self.say(f"<proceed xmlns='{names.TLS}'/>")
        tls = trio.SSLStream(self.connection.transport, self.node.starttls, server_side=True, https_compatible=True)
        await tls.do_handshake()
        self.secure = True
        self.connection.upgrade(tls)

    async def resume(self, session: str) -> None:
        if session in self.node.memory.sessions:
            self.session = session
            await self.say(f"<resumed xmlns='{names.SM}' h='0' previd='{session}'/>")
        else:
            error = f"<item-not-found xmlns='{names.STANZA_ERRORS}'/>"
            await self.say(f"<failed xmlns='{names.SM}'>{error}</failed>")

    # --- logging in

    async def log_in(self, element: Element, namespace: str) -> None:
        mechanism = element.get("mechanism", "")
        if mechanism == TOKENS:
            accepted = self.knows_token(element)
        elif mechanism == "EXTERNAL":
            accepted = self.node.lets_anybody_in
        else:
            initial = element.text if namespace == names.SASL else element.findtext(f"{{{namespace}}}initial-response")
            accepted = await self.scram(base64.b64decode(initial or "").decode(), namespace)
        if not accepted:
            self.node.refusals.append(mechanism)
            await self.say(f"<failure xmlns='{namespace}'><not-authorized xmlns='{names.SASL}'/></failure>")
            return
        self.node.logins.append(mechanism)
        self.user = True
        if namespace == names.SASL:
            await self.say(f"<success xmlns='{namespace}'>{self.proof}</success>")
            self.connection.restart()
            return
        token = ""
        if child(element, names.FAST, "request-token") is not None:
            agent = element.find(f"{{{namespace}}}user-agent")
            assert agent is not None
            secret = f"token{len(self.node.memory.tokens)}"
            self.node.memory.tokens[agent.get("id", "")] = secret
            token = f"<token xmlns='{names.FAST}' token='{secret}' expiry='2030-01-01T00:00:00Z'/>"
        data = f"<additional-data>{self.proof}</additional-data>" if mechanism != TOKENS else ""
        await self.say(
            f"<success xmlns='{namespace}'>{data}<authorization-identifier>{USER}@{DOMAIN}</authorization-identifier>"
            f"{token}</success>"
        )

    def knows_token(self, element: Element) -> bool:
        agent = element.find(f"{{{names.SASL2}}}user-agent")
        fast = child(element, names.FAST, "fast")
        assert agent is not None
        assert fast is not None
        tokens = self.node.memory.tokens
        secret = tokens.get(agent.get("id", ""), "")
        said = base64.b64decode(element.findtext(f"{{{names.SASL2}}}initial-response") or "")
        expected = USER.encode() + b"\0" + hmac.digest(secret.encode(), b"Initiator", "sha256")
        if secret and said == expected:
            if fast.get("invalidate") == "true":
                del tokens[agent.get("id", "")]
            return True
        return False

    async def scram(self, first: str, namespace: str) -> bool:
        bare = first.removeprefix("n,,")
        nonce = bare.partition("r=")[2] + "node"
        challenge = f"r={nonce},s={base64.b64encode(b'salt').decode()},i={self.node.rounds}{self.node.challenge}"
        await self.say(f"<challenge xmlns='{namespace}'>{base64.b64encode(challenge.encode()).decode()}</challenge>")
        response = await self.connection.read()
        if not isinstance(response, Element):
            return False  # it has had enough
        last = base64.b64decode(response.text or "").decode()
        without, _, proof = last.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac("sha1", self.node.password.encode(), b"salt", 64)
        key = hmac.digest(salted, b"Client Key", "sha1")
        said = f"{bare},{challenge},{without}".encode()
        signature = hmac.digest(hashlib.sha1(key).digest(), said, "sha1")
        signed = hmac.digest(hmac.digest(salted, b"Server Key", "sha1"), said, "sha1")
        self.proof = base64.b64encode(b"v=" + base64.b64encode(signed if self.node.proves else key)).decode()
        return base64.b64decode(proof) == bytes(a ^ b for a, b in zip(key, signature, strict=True))

    # --- questions

    async def answer(self, element: Element) -> None:
        number = quoteattr(element.get("id", ""))
        payload = self.payload(stanza.name_of(element[0])[0] or "")
        kind = "error" if payload is None else "result"
        await self.say("<message><body>psst</body></message>" * self.node.chatter)
        await self.say(f"<iq type='{kind}' id={number}>{payload or ''}</iq>")

    def payload(self, namespace: str) -> str | None:
        if namespace == names.BIND:
            return f"<bind xmlns='{namespace}'><jid>{USER}@{DOMAIN}/x</jid></bind>"
        if namespace == "jabber:iq:version":
            return f"<query xmlns='{namespace}'><name>{self.node.version}</name><version>1</version></query>"
        if namespace == "urn:xmpp:time":
            now = datetime.now(UTC) + timedelta(seconds=self.node.ahead_seconds)
            return f"<time xmlns='{namespace}'><tzo>+00:00</tzo><utc>{now:%Y-%m-%dT%H:%M:%SZ}</utc></time>"
        if namespace == "urn:xmpp:sic:1" and self.node.tells_address:
            ip, port = self.peer
            return f"<address xmlns='{namespace}'><ip>::ffff:{ip}</ip><port>{port}</port></address>"
        return None


@asynccontextmanager
async def serving(*nodes: ScriptedNode) -> AsyncIterator[list[str]]:
    """Serve them on loopback; their addresses."""
    async with trio.open_nursery() as nursery:
        addresses = []
        for node in nodes:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(partial(trio.serve_listeners, node.serve, listeners))
            addresses.append(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        yield addresses
        nursery.cancel_scope.cancel()
