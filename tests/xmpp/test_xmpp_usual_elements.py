"""Elements of a login read at a glance: the same as lxml reads, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.errors import ClientError, NodeError
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening import sasl, usual_elements
from cxfr_proxy.xmpp.opening.header import read_header
from cxfr_proxy.xmpp.opening.negotiation import Negotiation
from cxfr_proxy.xmpp.opening.usual_elements import UsualAuth, UsualBind, is_success, read_auth, read_bind
from cxfr_proxy.xmpp.opening.usual_header import CONTEXT

SASL = f"xmlns='{names.SASL}'"
BIND = f"xmlns='{names.BIND}'"
HEADER = CONTEXT.replace(b">", b" to='example.org' version='1.0'>")

AUTHS = [
    f"<auth {SASL} mechanism='PLAIN'>AGEAYg==</auth>",
    f"<auth mechanism='PLAIN' {SASL}>AGEAYg==</auth>",
    f'<auth xmlns="{names.SASL}" mechanism="SCRAM-SHA-1">biwsbj1hLHI9Yg==</auth>',
    f"<auth {SASL} mechanism='SCRAM-SHA-256-PLUS'>=</auth>",
    f"<auth {SASL} mechanism='X-OAUTH2'></auth>",
    f"<auth {SASL} mechanism='PLAIN'>cm9tZW8AanVsaWV0AHg=</auth>",  # somebody else's authzid
    f"<auth {SASL} mechanism='PLAIN'>AGEAYg=</auth>",
    f"<auth {SASL} mechanism='EXTERNAL'>=</auth>",
]
SUCCESSES = [f"<success {SASL}/>", f"<success {SASL}></success>", f'<success xmlns="{names.SASL}">dj1hYmM=</success>']
BINDS = [
    f"<iq type='set' id='b1'><bind {BIND}/></iq>",
    f'<iq id="b1" type="set"><bind xmlns="{names.BIND}"><resource>balcony of hers</resource></bind></iq>',
    f"<iq type='get'><bind {BIND}></bind></iq>",
    f"<iq><bind {BIND}/></iq>",
    f"<iq type='result' id='b1'><bind {BIND}><jid>juliet@example.org/balcony</jid></bind></iq>",
    f"<iq type='result' id='b1' to='example.org/x'><bind {BIND}><jid></jid></bind></iq>",
    f"<iq type='result' from='example.org' xml:lang='en'><bind {BIND}><jid>juliet</jid></bind></iq>",
    f"<iq type='error' id='b1'><bind {BIND}/></iq>",
    f"<iq to=' type=' from=' id=' type='set' id='b1'><bind {BIND}/></iq>",
    f"<iq type='set' id='b1' to=' type=' from=' id='><bind {BIND}/></iq>",
]
ODD = [
    f"<auth {SASL} mechanism='PLAIN' a='b'>AGEAYg==</auth>",
    f"<auth {SASL} mechanism='plain'>AGEAYg==</auth>",
    f"<auth {SASL} mechanism='PLAIN'>AGEA\nYg==</auth>",
    f"<auth {SASL} mechanism='PLAIN'>AGEA&#89;g==</auth>",
    f"<auth {SASL} mechanism='PLAIN'/>",
    "<auth mechanism='PLAIN'>AGEAYg==</auth>",
    f"<x:auth xmlns:x='{names.SASL}' mechanism='PLAIN'>AGEAYg==</x:auth>",
    f"<authenticate {SASL} mechanism='PLAIN'>AGEAYg==</authenticate>",
    f"<auth xmlns='{names.SASL2}' mechanism='PLAIN'>AGEAYg==</auth>",
    f"<success xmlns='{names.SASL2}'/>",
    "<success/>",
    f"<success {SASL}><x/></success>",
    f"<iq type='set' id='b1'><bind {BIND}/><x/></iq>",
    f"<iq type='set' id='b&#49;'><bind {BIND}/></iq>",
    f"<iq xmlns='urn:x' type='set' id='b1'><bind {BIND}/></iq>",
    "<iq type='set' id='b1'><bind/></iq>",
    f"<iq type='result'><bind {BIND}><jid>jos\u00e9@example.org/x</jid></bind></iq>",
    f"<iq type='result'><bind {BIND}><jid xmlns='urn:x'>a@b/c</jid></bind></iq>",
    f"<iq type='set'><bind {BIND}><resource>x</resource><resource>y</resource></bind></iq>",
    f"<message type='set'><bind {BIND}/></message>",
]


def is_usual(text: str) -> bool:
    data = text.encode()
    return read_auth(data) is not None or is_success(data) or read_bind(data) is not None


def agree_on(text: str) -> None:
    """lxml reads everything that is read at a glance."""
    data = text.encode()
    element = stanza.parse(data, CONTEXT)
    if (auth := read_auth(data)) is not None:
        assert stanza.name_of(element) == (names.SASL, "auth")
        assert auth == UsualAuth(element.get("mechanism", ""), element.text or "")
        assert sasl.request_of(auth) == sasl.read_request(element)
    if is_success(data):
        assert stanza.name_of(element) == (names.SASL, "success")
    if (bind := read_bind(data)) is not None:
        assert stanza.name_of(element) == (names.CLIENT, "iq")
        (child,) = element
        assert child.tag == stanza.qualified(names.BIND, "bind")
        said = child.findtext(stanza.qualified(names.BIND, "jid")) or None
        assert bind == UsualBind(element.get("type"), element.get("id"), said)


@pytest.mark.parametrize("text", AUTHS + SUCCESSES + BINDS)
def test_usual(text: str) -> None:
    assert is_usual(text)
    assert not is_usual(text + " ")
    assert not is_usual(text[:-1])
    agree_on(text)


@pytest.mark.parametrize("text", ODD)
def test_odd(text: str) -> None:
    """For lxml to judge."""
    assert not is_usual(text)


def test_no_password_is_shown() -> None:
    assert "AGEAYg" not in repr(read_auth(AUTHS[0].encode()))


values = st.text(alphabet="abAB01=/+-@. <>&'\"\u00e4\t#x;", max_size=8)
quotes = st.sampled_from("'\"")
attributes = st.lists(
    st.builds(
        lambda space, name, quote, value: f"{space}{name}={quote}{value}{quote}",
        st.sampled_from([" ", " ", "  ", "\n"]),
        st.sampled_from(["type", "id", "to", "from", "xml:lang", "mechanism", "other", "xmlns"]),
        quotes,
        values | st.sampled_from(["PLAIN", "set", "result", names.SASL, names.BIND, names.CLIENT]),
    ),
    max_size=4,
    unique_by=lambda each: each.split("=")[0].strip(),
)
contents = values | st.builds(
    lambda name, inner, more: f"<bind {BIND}><{name}>{inner}</{name}>{more}</bind>",
    st.sampled_from(["jid", "resource", "x"]),
    values,
    st.sampled_from(["", "", "<jid>a@b/c</jid>"]),
)


@given(st.sampled_from(["auth", "success", "iq"]), attributes, contents)
def test_what_is_taken_for_usual_is_what_lxml_reads(name: str, said: list[str], inner: str) -> None:
    text = f"<{name}{''.join(said)}>{inner}</{name}>"
    if is_usual(text):
        agree_on(text)


@pytest.mark.parametrize("inner", [*AUTHS, *BINDS, *SUCCESSES])
@pytest.mark.parametrize("of_client", [True, False])
def test_the_verdict_is_the_same_either_way(inner: str, of_client: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    client, node = read_header(HEADER, ClientError), read_header(HEADER, NodeError)

    def verdicts() -> list[object]:
        subject = Negotiation()
        elements = [(True, AUTHS[0]), (False, SUCCESSES[0]), (True, BINDS[0]), (of_client, inner)]
        found: list[object] = []
        for is_up, element in elements:
            data = element.encode()
            found.append(subject.from_client(data, client) if is_up else subject.from_node(data, node, "example.org"))
            found += [subject.attempt, subject.proved, subject.full_jid, subject.warnings]
        return found

    at_a_glance = verdicts()
    monkeypatch.setattr(usual_elements, "read_auth", lambda data: None)
    monkeypatch.setattr(usual_elements, "read_bind", lambda data: None)
    monkeypatch.setattr(usual_elements, "is_success", lambda data: False)
    assert verdicts() == at_a_glance
