"""The user that logs in, mechanism by mechanism; and that nothing a client can write is worse than not being known."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening.login import UNKNOWN, Login, read_login

DOMAIN = "example.org"


def encoded(message: str | bytes) -> str:
    return base64.b64encode(message if isinstance(message, bytes) else message.encode()).decode()


def auth(mechanism: str, text: str) -> str:
    return f"<auth xmlns='{names.SASL}' mechanism='{mechanism}'>{text}</auth>"


def authenticate(mechanism: str, text: str, inline: str = "") -> str:
    first = f"<initial-response>{text}</initial-response>" if text else ""
    return f"<authenticate xmlns='{names.SASL2}' mechanism='{mechanism}'>{first}{inline}</authenticate>"


def read(element: str) -> Login:
    return read_login(stanza.parse(element.encode()), DOMAIN)


@pytest.mark.parametrize(
    ("mechanism", "message", "user"),
    [
        ("PLAIN", "\0juliet\0secret", "juliet@example.org"),
        ("plain", "\0juliet\0secret", "juliet@example.org"),
        ("PLAIN", "\0Juliet@Example.ORG\0secret", "juliet@example.org"),
        ("PLAIN", "romeo\0juliet\0secret", "romeo@example.org"),
        ("PLAIN", "romeo@example.net\0juliet\0secret", "romeo@example.net"),
        ("PLAIN", "\0juliet@example.org/balcony\0secret", "juliet@example.org"),
        ("PLAIN", "\0ŻÓŁW\0secret", "żółw@example.org"),
        ("PLAIN", "\0juliet", None),
        ("PLAIN", "\0juliet\0sec\0ret", None),
        ("PLAIN", "\0\0secret", None),
        ("PLAIN", "\0@example.org\0secret", None),
        ("PLAIN", "\0" + "x" * 4000 + "\0secret", None),
        ("PLAIN", b"\0juliet\xff\0secret", None),
        ("PLAIN", b"\0juliet\0secr\xff", None),
        ("X-OAUTH2", "\0juliet\0token", "juliet@example.org"),
        ("SCRAM-SHA-1", "n,,n=juliet,r=nonce", "juliet@example.org"),
        ("SCRAM-SHA-256-PLUS", "p=tls-exporter,,n=juliet,r=nonce", "juliet@example.org"),
        ("SCRAM-SHA-256", "y,a=romeo,n=juliet,r=nonce", "romeo@example.org"),
        ("SCRAM-SHA-256", "n,,n=a=2Cb=3Dc=3D2C,r=nonce", "a,b=c=2c@example.org"),
        ("SCRAM-SHA-256", "n,,m=x,n=juliet,r=nonce", "juliet@example.org"),
        ("SCRAM-SHA-256", "c=biws,r=nonce,p=proof", None),
        ("SCRAM-SHA-256", "n,,r=nonce", None),
        ("SCRAM-SHA-256", "n,,n=,r=nonce", None),
        ("HT-SHA-256-NONE", b"juliet\0\xff\xfe\x00hash", "juliet@example.org"),
        ("HT-SHA-256-NONE", b"juliet", None),
        ("HT-SHA-256-NONE", b"\xff\0hash", None),
        ("OAUTHBEARER", "n,a=juliet@example.org,\1host=h\1auth=Bearer t\1\1", "juliet@example.org"),
        ("OAUTHBEARER", "n,a=a=2Cb@example.org,\1auth=Bearer t\1\1", "a,b@example.org"),
        ("OAUTHBEARER", "n,,\1auth=Bearer t\1\1", None),
        ("OAUTHBEARER", "auth=Bearer t", None),
        ("OAUTHBEARER", b"n,a=\xff,\1auth=Bearer t\1\1", None),
        ("DIGEST-MD5", "\0juliet\0secret", None),
        ("CRAM-MD5", "juliet hash", None),
        ("EXTERNAL", "juliet@example.org", None),
        ("ANONYMOUS", "juliet", None),
        ("", "\0juliet\0secret", None),
    ],
)
def test_whom_a_first_message_names(mechanism: str, message: str | bytes, user: str | None) -> None:
    assert read(auth(mechanism, encoded(message))) == Login(user)
    assert read(authenticate(mechanism, encoded(message))) == Login(user)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "AGp1bGlldABzZWNyZX",  # cut
        "AGp1bGlldABzZWNyZXR=",  # not canonical
        "AGp1bGlldABz*ZWNyZXQ=",
        "żółw",
        "A" * 8000 + "B",
        "AGp1bGlldAA<b/>",
    ],
)
def test_what_is_no_base64_names_nobody(text: str) -> None:
    assert read(auth("PLAIN", text)) == UNKNOWN
    assert read(authenticate("PLAIN", text)) == UNKNOWN


def test_lines_in_base64() -> None:
    text = encoded("\0juliet\0secret")
    assert read(auth("PLAIN", f"\n {text[:7]}\r\n{text[7:]} ")).user == "juliet@example.org"


def test_two_initial_responses_name_nobody() -> None:
    first = f"<initial-response>{encoded('0juliet0a')}</initial-response>"
    assert read(f"<authenticate xmlns='{names.SASL2}' mechanism='PLAIN'>{first}{first}</authenticate>") == UNKNOWN


@pytest.mark.parametrize(
    ("inline", "previd"),
    [
        ("<resume xmlns='urn:xmpp:sm:3' previd='sm1' h='4'/>", "sm1"),
        ("<resume xmlns='urn:xmpp:sm:2' previd='sm1' h='4'/>", "sm1"),
        ("<user-agent id='a'/><resume xmlns='urn:xmpp:sm:3' previd='&lt;1&gt;'/>", "<1>"),
        ("<resume xmlns='urn:xmpp:sm:3' previd=''/>", None),
        ("<resume xmlns='urn:xmpp:sm:3' h='4'/>", None),
        ("<resume previd='sm1'/>", None),
        ("<bind xmlns='urn:xmpp:bind:0'><resume xmlns='urn:xmpp:sm:3' previd='sm1'/></bind>", None),
    ],
)
def test_what_it_wants_to_resume(inline: str, previd: str | None) -> None:
    text = encoded("\0juliet\0secret")
    assert read(authenticate("PLAIN", text, inline)) == Login("juliet@example.org", previd)
    assert read(authenticate("OAUTHBEARER", "", inline)) == Login(None, previd)


@pytest.mark.parametrize(
    "element",
    [
        "<iq xmlns='jabber:client' type='get' id='1'/>",
        f"<response xmlns='{names.SASL}'>AGEAYg==</response>",
        f"<abort xmlns='{names.SASL2}'/>",
        "<auth mechanism='PLAIN'>AGEAYg==</auth>",
        "<resume xmlns='urn:xmpp:sm:3' previd='sm1' h='4'/>",
    ],
)
def test_other_elements_name_nobody(element: str) -> None:
    assert read(element) == UNKNOWN


@given(st.sampled_from(["PLAIN", "SCRAM-SHA-1", "HT-SHA-256-NONE", "OAUTHBEARER"]), st.binary(max_size=60))
def test_no_message_raises(mechanism: str, message: bytes) -> None:
    user = read(auth(mechanism, encoded(message))).user
    assert user is None or user.index("@") > 0


def test_a_login_keeps_no_secret() -> None:
    login = read(authenticate("PLAIN", encoded("\0juliet\0secret"), "<resume xmlns='urn:xmpp:sm:3' previd='sm1'/>"))
    assert repr(login) == "Login(user='juliet@example.org', previd='sm1')"
