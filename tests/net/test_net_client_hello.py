"""The name in a client's first TLS message, and a name that is none."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
from certificates import served
from hypothesis import given
from hypothesis import strategies as st
from relay_tools import tcp_pair, write_pem

from cxfr_proxy.config.table import KeyPair
from cxfr_proxy.net.client_hello import server_name
from cxfr_proxy.net.endpoint import Endpoint
from cxfr_proxy.net.transport import PlainTransport


def hello(name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(["xmpp-client"])
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["example.org", "a.b", "x" * 60 + ".example", None])
def test_what_openssl_writes_is_read(name: str | None, version: ssl.TLSVersion) -> None:
    assert server_name(hello(name, version)) == (name.encode() if name is not None else None)


def test_an_odd_name_is_told_as_it_is() -> None:
    assert server_name(hello("aaaa.example").replace(b"aaaa", b"\xff\0\n\xc3")) == b"\xff\0\n\xc3.example"


def test_a_part_of_it_says_nothing() -> None:
    whole = hello("example.org")
    for end in range(len(whole)):
        assert server_name(whole[:end]) in (None, b"example.org")
    assert server_name(b"") is None
    assert server_name(b"<stream:stream>") is None


@given(st.binary(max_size=40), st.integers(0, 600))
def test_no_bytes_are_too_odd(junk: bytes, at: int) -> None:
    whole = _HELLO[:at] + junk + _HELLO[at + len(junk) :]
    found = server_name(whole)
    assert found is None or found in whole


_HELLO = hello("example.org")


@pytest.mark.parametrize("domain", [None, "unknown.example", "second.example"])
async def test_a_name_that_is_none_is_one_that_nobody_knows(tmp_path: Path, domain: str | None) -> None:
    """RFC 6066 section 3: go on. OpenSSL would end the handshake for Python, and that write a traceback."""
    pairs = [KeyPair(path, path) for path in (write_pem(tmp_path, f"{each}.example") for each in ("first", "second"))]
    certificates = served(pairs)
    message = hello("aaaa.example").replace(b"aaaa", b"\xff\xfe\xc3\n")
    here, there = tcp_pair()
    endpoint = Endpoint(PlainTransport.adopt(here))
    there.sendall(message)
    with there, trio.fail_after(60):
        context = certificates.context_for(domain, await endpoint.server_name())
        assert await endpoint.receive_some() == message, "it was left unread"
    endpoint.close()
    arrived, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    arrived.write(message)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(arrived, answer, server_side=True).do_handshake()
    assert answer.read()[:1] == b"\x16", "a ServerHello, and no alert"


async def test_who_goes_away_before_it_names_nobody() -> None:
    here, there = tcp_pair()
    endpoint = Endpoint(PlainTransport.adopt(here))
    there.close()
    assert await endpoint.server_name() is None
    endpoint.close()
