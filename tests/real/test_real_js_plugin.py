"""``cxfr.js``: its rules held against those in Python, and its adapters with the libraries they are for.

xmpp.js speaks TCP in Node, so it is moved by the real proxy, from one built-in node to the other. strophe.js and
stanza.js speak WebSocket: a small server in this process says to them what the proxy would, and keeps what they send.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from waiting import until

from cxfr_proxy.demo.node import DemoNode
from cxfr_proxy.demo.stream import NodeOffers
from cxfr_proxy.plugins.rules import Move, Situation, judge
from cxfr_proxy.session.client_software import Software, name_of
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.connection_transfer import Server, TransferSyntaxError, mentions_support
from cxfr_proxy.xmpp.opening import client_identity
from real.certs import Authority
from real.js import MODULE, Js, JsClient, install, open_js
from real.programs import DOMAIN, HOST, Need, background, require
from real.prosody import ProsodyNode
from real.proxy import ProxyProcess, open_proxy
from real.tap import open_silence, open_tap
from real.websocket_node import WebSocketNode, open_websocket_node

pytestmark = pytest.mark.real

USER: Final = "juliet"
JID: Final = f"{USER}@{DOMAIN}/r"
STANZA_ERRORS: Final = f"{{{names.STANZA_ERRORS}}}"


@pytest.fixture(scope="session")
def folder(request: pytest.FixtureRequest) -> Path:
    """Drivers and libraries."""
    assert request.config.cache is not None
    return install(request.config.cache)


# -- the rules, beside those in Python -------------------------------------------------------------------------------


class Twin:
    """``judge.mjs``: a question a line, an answer a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **question: object) -> Any:  # Any: JSON
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    require(Need.NODE)
    program = Path(__file__).resolve().parents[1] / "js" / "judge.mjs"
    with subprocess.Popen(
        ["node", str(program), MODULE.as_uri()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Twin(process)


WORDS: Final = """
    a node2 example.org xn--a a_b - . : :: [ ] % @ / 1 10.0.0.1 255 256 01 0 65535 65536 5222 0x7f 1e3
    2001:db8 fe80 ::1 [::1] [::ffff:1.2.3.4] [1:2:3:4:5:6:7:8] \u00fc \u0663 \u3002
"""
PIECES: Final = [*WORDS.split(), "x" * 63, "x" * 64, " ", "\t", "\n", "\u00a0"]
SERVERS: Final = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]:5222"),
    st.ip_addresses(v=4).map(str),
    st.text(max_size=8),
)
LOOP: Final = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@LOOP
@given(text=SERVERS)
def test_a_server_is_read_as_python_reads_it(twin: Twin, text: str) -> None:
    try:
        text.encode()
        expected: Server | None = Server.parse(text)
    except UnicodeEncodeError:
        return
    except TransferSyntaxError:
        expected = None
    read = twin.ask(server=text)
    if read is not None and ":" in read["host"]:
        read["host"] = ip_address(read["host"]).compressed
    assert read == (None if expected is None else {"host": expected.host, "port": expected.port})


def test_a_long_name_has_an_end(twin: Twin) -> None:
    name = ".".join(["a" * 49] * 5)
    assert twin.ask(server=f"{name}.abc")["host"] == f"{name}.abc"
    assert twin.ask(server=f"{name}.abcd") is None
    with pytest.raises(TransferSyntaxError):
        Server.parse(f"{name}.abcd")


@LOOP
@given(
    sender=st.sampled_from([None, "", DOMAIN, DOMAIN.upper(), "evil.test", f"{DOMAIN}/r", f"a@{DOMAIN}", JID]),
    domain=st.sampled_from([DOMAIN, "other.test", "evil.test", "", f"{DOMAIN}:1", "a@b"]),
    server=st.sampled_from([DOMAIN, "other.test", f"{DOMAIN}:5222", "10.0.0.1", "[::1]:6222", "::1", "", "a:0"]),
    tls=st.booleans(),
    moves=st.integers(3, 6),
    id=st.sampled_from(["", "t1"]),
)
def test_a_request_is_judged_as_python_judges_it(
    twin: Twin, sender: str | None, domain: str, server: str, tls: bool, moves: int, id: str
) -> None:
    addresses = f" to='{JID}'" + (f" from='{sender}'" if sender is not None else "")
    request = stanza.parse(
        f"<iq xmlns='jabber:client' type='set' id='{id}'{addresses}><query xmlns='urn:xmpp:cxfr'>"
        f"<domain>{domain}</domain><server>{server}</server></query></iq>".encode()
    )
    verdict = judge(request, Situation(JID, tls=tls, moves=moves, domains=["other.test"]))
    answer = twin.ask(
        request={"id": id, "from": sender, "domain": domain, "server": server},
        situation={"jid": JID, "tls": tls, "moves": moves, "domains": ["other.test"]},
    )
    if isinstance(verdict, Move):
        goes_to = None if verdict.server is None else {"host": verdict.server.host, "port": verdict.server.port}
        assert answer == {"id": verdict.id, "domain": verdict.domain, "server": goes_to}
    else:
        assert (answer["condition"], answer["type"]) == (verdict.condition, verdict.condition.type)


# -- xmpp.js over TCP, through the proxy -----------------------------------------------------------------------------


def tls_context(authority: Authority, *names: str) -> ssl.SSLContext:
    files = authority.issue(*names)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    return context


@dataclass(slots=True)
class Site:
    nodes: list[DemoNode]
    proxy: ProxyProcess
    client: JsClient

    async def drain(self) -> DemoNode:
        """Drain the node the client is on; the other."""
        here, there = sorted(self.nodes, key=lambda node: not node.sessions)
        done = await self.proxy.drain(here.name)
        assert done.code == 0, done.output
        return there


@asynccontextmanager
async def open_site(
    tmp_path: Path,
    logs: Path,
    folder: Path,
    authority: Authority,
    scheme: str,
    certified: str,
    *,
    starttls_only: bool = False,
    elsewhere: str | None = None,
) -> AsyncIterator[Site]:
    """``certified``: the name in the nodes' certificates. ``starttls_only``: clients are sent to no direct TLS.
    ``elsewhere``: they are sent to this address.
    """
    with trio.fail_after(300):
        async with AsyncExitStack() as stack:
            context = tls_context(authority, certified)
            # Stream management off: a client that has it is cut, not asked.
            nodes = [
                DemoNode(
                    name,
                    DOMAIN,
                    public_tls=context,
                    offers=NodeOffers(starttls=context, sasl2=False, stream_management=False),
                )
                for name in ("node1", "node2")
            ]
            lines = []
            for node in nodes:
                await stack.enter_async_context(background(node.serve))
                assert node.public_address is not None
                public = node.address if starttls_only else node.public_address
                tls = f"tls=starttls ca={authority.file} verify-name={certified}"
                lines.append(f"{node.name} {node.address} public={elsewhere or public} {tls}")
            proxy = await stack.enter_async_context(open_proxy(tmp_path, lines, authority.issue(DOMAIN, HOST)))
            client = await stack.enter_async_context(
                open_js(
                    Js.XMPPJS,
                    folder,
                    logs / "xmppjs.log",
                    service=f"{scheme}://{HOST}:{proxy.port}",
                    user=USER,
                    ca=authority.file,
                )
            )
            await client.wait("online")
            yield Site(nodes, proxy, client)


@pytest.mark.parametrize("scheme", ["xmpp", "xmpps"])
async def test_xmppjs_is_moved_by_the_iq_alone(
    scheme: str, tmp_path: Path, logs: Path, folder: Path, authority: Authority
) -> None:
    """The node's certificate has the domain and not the address: who goes by the address does not get in."""
    async with open_site(tmp_path, logs, folder, authority, scheme, DOMAIN) as site:
        there = await site.drain()
        await site.client.wait("moved")
        await site.client.wait("online", 2)
        assert [session.full_jid for session in there.sessions] == [JID]
        (transfer,) = await site.proxy.show("transfers")
        assert (transfer["rung"], transfer["outcome"]) == ("cxfr", "moved")
        assert await site.proxy.show("sessions") == []
        assert not site.client.of("failed")


async def test_xmppjs_goes_to_no_other_certificate(
    tmp_path: Path, logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_site(tmp_path, logs, folder, authority, "xmpp", "elsewhere.test") as site:
        there = await site.drain()
        assert "elsewhere.test" in (await site.client.wait("failed"))["reason"]
        await site.client.wait("online", 2)
        (session,) = await site.proxy.show("sessions")
        assert session["node"] == there.name, "it is back, by way of the proxy"


async def test_xmppjs_finds_out_how_a_node_begins_tls(
    tmp_path: Path, logs: Path, folder: Path, authority: Authority
) -> None:
    """It came by direct TLS, and is sent to a port where only STARTTLS is spoken."""
    async with open_site(tmp_path, logs, folder, authority, "xmpps", DOMAIN, starttls_only=True) as site:
        there = await site.drain()
        await site.client.wait("moved")
        assert [session.full_jid for session in there.sessions] == [JID]
        assert await site.proxy.show("sessions") == []


async def test_xmppjs_does_not_log_in_without_tls(
    tmp_path: Path, logs: Path, folder: Path, authority: Authority
) -> None:
    """At a server that would take a SCRAM login in plaintext, which the library would do."""
    require(Need.PROSODY)
    async with (
        ProsodyNode(tmp_path / "prosody", users=[USER]) as prosody,
        open_tap(prosody.port) as tap,
        open_site(tmp_path, logs, folder, authority, "xmpp", DOMAIN, elsewhere=tap.address) as site,
    ):
        await site.drain()
        await site.client.wait("failed")
        await site.client.wait("online", 2)
        assert any(b"SCRAM-SHA-1" in connection.down for connection in tap.connections)
        assert not any(connection.read_up().elements for connection in tap.connections)


# -- strophe.js and stanza.js (and xmpp.js) over WebSocket -----------------------------------------------------------


@dataclass(slots=True)
class Stage:
    first: WebSocketNode
    second: WebSocketNode
    client: JsClient

    @property
    def there(self) -> str:
        return f"{HOST}:{self.second.port}"

    async def refused(self, server: str, **request: str) -> str:
        """The condition that the client refuses this request with."""
        await self.first.ask(JID, server, id="refused", **request)
        await until(lambda: self.first.answer("refused") is not None, "an answer")
        answer = self.first.answer("refused")
        assert answer is not None
        assert answer.get("type") == "error"
        (condition,) = [
            str(part.tag).removeprefix(STANZA_ERRORS)
            for part in answer.iter(f"{STANZA_ERRORS}*")
            if part.tag != f"{STANZA_ERRORS}text"
        ]
        return condition


@asynccontextmanager
async def open_stage(
    library: Js,
    logs: Path,
    folder: Path,
    authority: Authority,
    *,
    tls: bool = True,
    certified: str = HOST,
    serves: str = DOMAIN,
    delay: float = 0.0,
    parting: int = 0,
    **options: object,
) -> AsyncIterator[Stage]:
    """``certified``: the name in the second node's certificate; ``serves``: its domain."""
    with trio.fail_after(300):
        async with (
            open_websocket_node(tls_context(authority, HOST) if tls else None) as first,
            open_websocket_node(tls_context(authority, certified) if tls else None, serves) as second,
            open_js(
                library,
                folder,
                logs / f"{library}.log",
                service=first.url,
                user=USER,
                ca=authority.file,
                delay=delay,
                parting=parting,
                options=options,
            ) as client,
        ):
            await client.wait("online")
            yield Stage(first, second, client)


every_library = pytest.mark.parametrize("library", list(Js))


@every_library
async def test_over_websocket_answers_closes_and_goes_there(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_stage(library, logs, folder, authority) as stage:
        await stage.first.ask(JID, stage.there)
        await stage.client.wait("moved")
        answer = stage.first.answer("t1")
        assert answer is not None
        assert answer.get("type") == "result"
        assert stage.first.closed == 1, "the stream was not closed"
        assert list(stage.second.sessions) == [JID]
        assert stage.second.paths == stage.first.paths, "path and query are kept"
        assert len(stage.client.of("online")) == 2
        # Strophe's application hears of the new session, not of the old one's end.
        assert not {6, 7} & {each["status"] for each in stage.client.of("status")}


@every_library
async def test_over_websocket_the_application_may_delay(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_stage(library, logs, folder, authority, delay=0.3) as stage:
        await stage.first.ask(JID, stage.there)
        await until(lambda: stage.first.answer("t1") is not None, "the answer, at once")
        assert list(stage.first.sessions) == [JID]
        await stage.first.ask(JID, stage.there, id="t2")
        await until(lambda: stage.first.answer("t2") is not None, "an answer to the impatient")
        second = stage.first.answer("t2")
        assert second is not None
        assert second.find(f".//{STANZA_ERRORS}unexpected-request") is not None
        await stage.client.wait("moved")
        assert len(stage.client.of("requested")) == 1


def messages(node: WebSocketNode) -> list[str | None]:
    return [each.get("id") for each in node.received if str(each.tag).endswith("}message")]


@every_library
async def test_over_websocket_what_is_sent_while_it_leaves_goes_out_on_the_next_stream(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    """Once, in order, and nothing of it on the stream that is closed."""
    sent = [f"parting-{number}" for number in range(20)]
    async with open_stage(library, logs, folder, authority, parting=len(sent)) as stage:
        await stage.first.ask(JID, stage.there)
        await stage.client.wait("moved")
        await until(lambda: len(messages(stage.second)) >= len(sent), "the messages")
        assert messages(stage.second) == sent
        assert not messages(stage.first)
        assert not stage.client.of("unsent")


async def test_what_is_sent_while_it_leaves_goes_home_where_it_is_not_let_in(
    logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_stage(Js.XMPPJS, logs, folder, authority, parting=3, certified="elsewhere.test") as stage:
        await stage.first.ask(JID, stage.there)
        await stage.client.wait("failed")
        await until(lambda: len(messages(stage.first)) >= 3, "the messages")
        assert messages(stage.first) == ["parting-0", "parting-1", "parting-2"]


async def test_xmppjs_says_by_its_capabilities_that_it_knows_requests(
    logs: Path, folder: Path, authority: Authority
) -> None:
    """In its first presence; by a hash of exactly what it answers when it is asked."""
    async with open_stage(Js.XMPPJS, logs, folder, authority) as stage:

        def presences() -> list[etree._Element]:
            return [each for each in stage.first.received if str(each.tag).endswith("}presence")]

        await until(lambda: bool(presences()), "its presence")
        said = client_identity.caps(presences()[0])
        assert said is not None
        node, _, ver = said.rpartition("#")
        assert node.endswith("+xep-0051")
        assert name_of(Software(said)) == "xmpp.js"
        await stage.first.sessions[JID].send_message(
            f"<iq xmlns='jabber:client' type='get' id='d1' from='{DOMAIN}' to='{JID}'>"
            f"<query xmlns='{names.DISCO_INFO}' node='{said}'/></iq>"
        )
        await until(lambda: stage.first.answer("d1") is not None, "its features")
        answer = stage.first.answer("d1")
        assert answer is not None
        assert mentions_support(answer, said)
        (identity,) = answer.iter(f"{{{names.DISCO_INFO}}}identity")
        features = sorted(each.get("var", "") for each in answer.iter(f"{{{names.DISCO_INFO}}}feature"))
        text = "".join(f"{each}<" for each in (f"client/{identity.get('type')}//", *features))
        assert ver == base64.b64encode(hashlib.sha1(text.encode()).digest()).decode()


@every_library
async def test_over_websocket_home_where_the_certificate_is_wrong(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_stage(library, logs, folder, authority, certified="elsewhere.test") as stage:
        await stage.first.ask(JID, stage.there)
        await stage.client.wait("failed")
        await stage.client.wait("online", 2)
        assert list(stage.first.sessions) == [JID]
        assert not stage.second.paths


@every_library
async def test_over_websocket_home_from_where_nobody_answers(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_silence() as port, open_stage(library, logs, folder, authority, connectSeconds=0.5) as stage:
        await stage.first.ask(JID, f"{HOST}:{port}")
        await stage.client.wait("failed")
        await stage.client.wait("online", 2)
        assert list(stage.first.sessions) == [JID]
        await stage.first.ask(JID, stage.there, id="t2")
        await stage.client.wait("moved")
        assert list(stage.second.sessions) == [JID]


@every_library
async def test_over_websocket_round_and_round_and_home(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    """Two moves in a row are allowed here. "Simply reconnect" leads to where the application had connected."""
    async with open_stage(library, logs, folder, authority, maxMoves=2) as stage:
        await stage.first.ask(JID, stage.there)
        await stage.client.wait("moved")
        await stage.client.wait("online", 2)
        await until(lambda: JID in stage.second.sessions, "a session there")
        await stage.second.ask(JID, DOMAIN, id="t2")
        await stage.client.wait("moved", 2)
        assert list(stage.first.sessions) == [JID]
        assert await stage.refused(stage.there) == "resource-constraint"


@every_library
async def test_over_websocket_to_a_domain_that_the_application_allows(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    async with open_stage(library, logs, folder, authority, serves="other.test", domains=["other.test"]) as stage:
        await stage.first.ask(JID, f"{HOST}:1", domain="other.test")
        await stage.client.wait("failed")
        await stage.client.wait("online", 2)
        assert list(stage.first.sessions) == [JID], "as whom it was before"
        await stage.first.ask(JID, stage.there, domain="other.test", id="t2")
        await stage.client.wait("moved")
        assert list(stage.second.sessions) == [f"{USER}@other.test/r"]
        assert stage.client.of("online")[-1]["jid"] == f"{USER}@other.test/r"


@every_library
async def test_over_websocket_refuses(library: Js, logs: Path, folder: Path, authority: Authority) -> None:
    async with open_stage(library, logs, folder, authority) as stage:
        assert await stage.refused(stage.there, sender="evil.test") == "not-allowed"
        stage.first.received.clear()
        assert await stage.refused(stage.there, domain="evil.test") == "not-acceptable"
        stage.first.received.clear()
        assert await stage.refused("::1") == "bad-request"
        assert not stage.second.paths
        assert not stage.client.of("requested")


@pytest.mark.parametrize("library", [Js.XMPPJS, Js.STANZA])
async def test_support_is_announced(library: Js, logs: Path, folder: Path, authority: Authority) -> None:
    """Strophe has no service discovery of its own."""
    async with open_stage(library, logs, folder, authority) as stage:
        await stage.first.sessions[JID].send_message(
            f"<iq xmlns='{names.CLIENT}' type='get' id='disco' from='{DOMAIN}' to='{JID}'>"
            f"<query xmlns='{names.DISCO_INFO}'/></iq>"
        )
        await until(lambda: stage.first.answer("disco") is not None, "an answer")
        answer = stage.first.answer("disco")
        assert answer is not None
        assert mentions_support(answer)


@pytest.mark.parametrize("library", [Js.STROPHE, Js.STANZA])
async def test_over_websocket_without_tls_nobody_goes_elsewhere(
    library: Js, logs: Path, folder: Path, authority: Authority
) -> None:
    """xmpp.js is left out: it takes loopback for secure."""
    async with open_stage(library, logs, folder, authority, tls=False) as stage:
        assert await stage.refused(stage.there) == "not-acceptable"
        await stage.first.ask(JID, DOMAIN)
        await stage.client.wait("moved")
        assert list(stage.first.sessions) == [JID]
        assert not stage.second.paths
