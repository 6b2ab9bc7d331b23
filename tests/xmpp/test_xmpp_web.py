"""HTTP on the port of the clients, without the port: one request, and what it comes to."""

from __future__ import annotations

import json
from http import HTTPStatus

import h11
import pytest
from lxml import etree
from wsproto.utilities import generate_accept_token

from cxfr_proxy.errors import ClientError, NodeError
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.web.pages import pages
from cxfr_proxy.xmpp.web.request import MAX_HEAD_BYTES, MAX_HEADERS, RequestRefused
from cxfr_proxy.xmpp.web.web_opening import PageServed, WebOpening, WebRules, WebSocketAsked, is_http

PATH = "/xmpp-websocket"
URL = "wss://example.org/xmpp-websocket?a=1&b='"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Host": "example.org",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY.decode(),
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "xmpp",
}


def opening(*origins: str, host_meta: tuple[str, ...] = (URL,)) -> WebOpening:
    return WebOpening(WebRules(websocket_path=PATH, origins=origins, pages=pages(PATH, host_meta)))


def request(path: str = PATH, method: str = "GET", version: str = "1.1", **changes: str | None) -> bytes:
    """A request for a WebSocket, with some headers changed, added or (``None``) left out."""
    given = {name.replace("_", "-").lower(): value for name, value in changes.items()}
    headers = {name.lower(): value for name, value in UPGRADE.items()} | given
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"{method} {path} HTTP/{version}\r\n{''.join(lines)}\r\n".encode("latin-1")


def read(answer: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """Return what another reader of HTTP makes of an answer, which has to be all there is."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data)
        body += event.data
    assert client.their_state is h11.MUST_CLOSE, "it says that it closes"
    return response, body


def refused(data: bytes, *origins: str) -> tuple[int, str, dict[bytes, bytes]]:
    """The status of a refusal, its text, and its headers."""
    subject = opening(*origins)
    with pytest.raises(RequestRefused) as caught:
        assert subject.receive(data) is not None
    method = data.split()[0].decode("latin-1")
    response, body = read(subject.refuse(caught.value), "HEAD" if method == "HEAD" else "GET")
    assert caught.value.condition == f"http-{response.status_code}"
    assert body.decode() == ("" if method == "HEAD" else f"{caught.value.text}\n")
    return response.status_code, caught.value.text, dict(response.headers)


def page(path: str, method: str = "GET") -> tuple[dict[bytes, bytes], bytes]:
    answered = opening().receive(request(path, method, upgrade=None, connection=None))
    assert isinstance(answered, PageServed)
    response, body = read(answered.reply, method)
    assert response.status_code == HTTPStatus.OK
    return dict(response.headers), body


# --- the upgrade


def test_becomes_a_websocket() -> None:
    asked = opening().receive(request())
    assert isinstance(asked, WebSocketAsked)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target=PATH, headers=list(UPGRADE.items())))
    client.send(h11.EndOfMessage())
    client.receive_data(asked.reply)
    answer = client.next_event()
    assert isinstance(answer, h11.InformationalResponse)
    assert dict(answer.headers) == {
        b"upgrade": b"websocket",
        b"connection": b"Upgrade",
        b"sec-websocket-accept": generate_accept_token(KEY),
        b"sec-websocket-protocol": b"xmpp",
    }
    assert asked.early == b""


def test_every_cut_of_a_request_and_what_comes_behind_it() -> None:
    whole, behind = request(x_padding="x" * 50), b"\x81\x85GET /more"
    for cut in range(len(whole + behind)):
        subject = opening()
        first = subject.receive((whole + behind)[:cut]) if cut else None
        if cut < len(whole):
            assert first is None
            first, early = subject.receive((whole + behind)[cut:]), behind
        else:
            early = (whole + behind)[len(whole) : cut]
        assert isinstance(first, WebSocketAsked)
        assert first.early == early


@pytest.mark.parametrize(
    "changes",
    [
        {"upgrade": "h2c, WebSocket"},
        {"connection": "UPGRADE"},
        {"sec_websocket_protocol": "soap,  xmpp , mqtt"},
        {"sec_websocket_extensions": "permessage-deflate; client_max_window_bits"},
        {"origin": "https://anywhere.example"},
        {"content_length": "0"},
    ],
)
def test_is_not_more_particular_than_it_has_to_be(changes: dict[str, str]) -> None:
    asked = opening().receive(request(**changes))
    assert isinstance(asked, WebSocketAsked)
    assert b"extensions" not in asked.reply.lower()


def test_a_query_means_nothing() -> None:
    assert isinstance(opening().receive(request(f"{PATH}?token=1")), WebSocketAsked)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (426, request(upgrade=None)),
        (426, request(upgrade="h2c")),
        (426, request(version="1.0")),
        (426, request(sec_websocket_version="8")),
        (426, request(sec_websocket_version=None)),
        (400, request(connection="keep-alive")),
        (400, request(sec_websocket_key=None)),
        (400, request(sec_websocket_key="c2hvcnQ=")),
        (400, request(sec_websocket_key="§" * 24)),
        (400, request(sec_websocket_key=f"{KEY.decode()}\r\nSec-WebSocket-Key: {KEY.decode()}")),
        (400, request(sec_websocket_protocol=None)),
        (400, request(sec_websocket_protocol="xmpp-framing")),
        (400, request(content_length="5") + b"hello"),
        (400, request(content_length="5")),
        (400, request(transfer_encoding="chunked") + b"0\r\n\r\n"),
        (400, request(host=None)),
        (405, request(method="POST")),
        (405, request(method="HEAD")),
        (404, request("/websocket")),
        (404, request(f"{PATH}/")),
        (404, request("//")),
        (404, request("*", "OPTIONS")),
        (405, request("/", "DELETE")),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET  /  HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: x\r\rx\n\n"),
        (400, b"HELO example.org\r\n\r\n"),
        (404, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"),
        (400, b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
def test_refuses(status: int, data: bytes) -> None:
    assert refused(data)[0] == status


def test_says_what_would_be_right() -> None:
    assert refused(request(upgrade=None))[2][b"upgrade"] == b"websocket"
    assert refused(request(sec_websocket_version="8"))[2][b"sec-websocket-version"] == b"13"
    assert refused(request(method="PUT"))[2][b"allow"] == b"GET"
    assert refused(request("/", "PUT"))[2][b"allow"] == b"GET, HEAD"


def test_nothing_of_the_request_is_in_the_answer() -> None:
    for data in (request("/secret"), request(sec_websocket_key="secret"), request(origin="https://secret.example")):
        subject = opening("https://example.org")
        with pytest.raises(RequestRefused) as caught:
            subject.receive(data)
        assert b"secret" not in subject.refuse(caught.value)


# --- limits


def with_headers(number: int) -> bytes:
    return request(**{f"x_{each}": "y" for each in range(number - len(UPGRADE))})


def test_a_hundred_headers_are_too_many() -> None:
    assert isinstance(opening().receive(with_headers(MAX_HEADERS)), WebSocketAsked)
    assert refused(with_headers(MAX_HEADERS + 1))[0] == 431
    assert refused(with_headers(100))[0] == 431


def test_a_head_without_end_is_refused_when_it_is_too_long() -> None:
    subject, begun = opening(), b"GET / HTTP/1.1\r\nX: "
    assert subject.receive(begun.ljust(MAX_HEAD_BYTES % 100, b"x")) is None
    for _ in range(MAX_HEAD_BYTES // 100):
        assert subject.receive(b"x" * 100) is None
    with pytest.raises(RequestRefused) as caught:
        subject.receive(b"x")
    assert caught.value.status == 431


# --- origins


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://chat.example.org", True),
        ("https://CHAT.example.org", True),
        (None, True),  # a program that is no browser
        ("https://evil.example", False),
        ("https://chat.example.org.evil.example", False),
        ("http://chat.example.org", False),
        ("https://chat.example.org:8443", False),
        ("null", False),
        ("https://chat.example.org\r\nOrigin: https://evil.example", False),
    ],
)
def test_origins(origin: str | None, allowed: bool) -> None:
    data = request(origin=origin)
    if allowed:
        assert isinstance(opening("https://chat.example.org").receive(data), WebSocketAsked)
    else:
        assert refused(data, "https://chat.example.org")[0] == 403


# --- pages


def test_a_page_says_what_this_is() -> None:
    headers, body = page("/")
    assert headers[b"content-type"] == b"text/html; charset=utf-8"
    assert b"XMPP" in body
    assert PATH.encode() in body


def test_head_gets_no_body() -> None:
    headers, body = page("/", "HEAD")
    assert body == b""
    assert int(headers[b"content-length"]) == len(page("/")[1])


def test_host_meta() -> None:
    headers, body = page("/.well-known/host-meta")
    assert headers[b"access-control-allow-origin"] == b"*"
    assert headers[b"content-type"].startswith(b"application/xrd+xml")
    (link,) = etree.fromstring(body)
    assert link.tag == "{http://docs.oasis-open.org/ns/xri/xrd-1.0}Link"
    assert dict(link.attrib) == {"rel": "urn:xmpp:alt-connections:websocket", "href": URL}


def test_host_meta_in_json() -> None:
    headers, body = page("https://example.org/.well-known/host-meta.json?x")
    assert headers[b"access-control-allow-origin"] == b"*"
    assert headers[b"content-type"] == b"application/json"
    assert json.loads(body) == {"links": [{"rel": "urn:xmpp:alt-connections:websocket", "href": URL}]}


def test_no_host_meta_unless_there_is_something_to_announce() -> None:
    subject = opening(host_meta=())
    with pytest.raises(RequestRefused) as caught:
        subject.receive(request("/.well-known/host-meta", upgrade=None))
    assert caught.value.status == 404


def test_a_second_request_gets_no_answer() -> None:
    two = request("/", upgrade=None) + request("/.well-known/host-meta", upgrade=None)
    answered = opening().receive(two)
    assert isinstance(answered, PageServed)
    _, body = read(answered.reply)  # and that is all
    assert b"<!doctype" in body


# --- errors that are not HTTP's


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ClientError(StreamCondition.SYSTEM_SHUTDOWN, "the proxy is stopping"), 503),
        (ClientError(StreamCondition.CONNECTION_TIMEOUT, "too slow"), 408),
        (ClientError(StreamCondition.POLICY_VIOLATION, "no"), 400),
        (NodeError(StreamCondition.REMOTE_CONNECTION_FAILED, "no node"), 503),
    ],
)
def test_tells_other_errors(error: ClientError, status: int) -> None:
    response, body = read(opening().refuse(error))
    assert (response.status_code, body.decode()) == (status, f"{error.text}\n")


def test_what_begins_like_http() -> None:
    assert [chr(byte) for byte in range(256) if is_http(byte)] == [chr(byte) for byte in range(65, 91)]
