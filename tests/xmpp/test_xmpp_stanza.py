"""One element at a time: what is read, what is refused, what is written."""

from __future__ import annotations

import pytest
from lxml import etree

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StanzaCondition, StreamCondition

HEADER = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' xmlns:p='urn:p'>"


class TestParse:
    def test_an_element_uses_the_namespaces_of_the_header(self) -> None:
        assert stanza.parse(b"<iq><p:x/></iq>", HEADER)[0].tag == "{urn:p}x"
        assert stanza.parse(b"<stream:error/>", HEADER).tag == f"{{{names.STREAM}}}error"
        with pytest.raises(stanza.MalformedElement):
            stanza.parse(b"<iq><p:x/></iq>")

    @pytest.mark.parametrize(
        "header",
        [
            b"<?xml version='1.0'?>" + HEADER,
            b"<?xml version='1.0' encoding='UTF-8'?>\n" + HEADER,
            b"\xef\xbb\xbf<?xml version='1.0'?>" + HEADER,
            b"<stream xmlns='jabber:client'>",
            b"<s\nxmlns='jabber:client'\n>",
            # "?>" and ">" are ordinary characters of an attribute.
            HEADER[:-1] + b" id='?>'>",
            HEADER[:-1] + b" id='a>b'>",
            b"<?xml version='1.0'?>" + HEADER[:-1] + b" id='?>'>",
        ],
    )
    def test_headers(self, header: bytes) -> None:
        assert stanza.parse(b"<iq/>", header).tag == "{jabber:client}iq"

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_only_utf8_is_read(self, encoding: str) -> None:
        with pytest.raises(stanza.MalformedElement):
            stanza.parse("<a/>".encode(encoding))
        assert stanza.start_tag("<a>".encode(encoding), HEADER.decode().encode(encoding)) is None

    def test_a_declared_encoding_is_not_followed(self) -> None:
        with pytest.raises(stanza.MalformedElement):
            stanza.parse(b"<?xml version='1.0' encoding='ISO-8859-1'?><a b='\xe4'/>")

    @pytest.mark.parametrize("header", [b"", HEADER])
    @pytest.mark.parametrize(
        "element",
        [
            b"",
            b" ",
            b"text",
            b"<a>",
            b"</a>",
            b"<a/><b/>",
            b"text<a/>",
            b"<a/>text",
            b"<!-- c -->",
            b"<!-- c --><a/>",
            b"<a/><!-- c -->",
            b"<a><b><!-- c --></b></a>",
            b"<?pi x?><a/>",
            b"<a><?pi x?></a>",
            b"<!DOCTYPE a><a/>",
            b"<!DOCTYPE a [<!ENTITY e 'urn:xmpp:cxfr'>]><a b='&e;'/>",
            b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/hostname'>]><a>&e;</a>",
            b"<a>&undefined;</a>",
            b"<a b='1' b='2'/>",
            b"<q:a/>",
            b"<a>\xff</a>",
            b"<a>\x00</a>",
            b"<a>&#0;</a>",
            b"<a/></stream:stream>",
            b"<a/></stream:stream><stream:stream>",
        ],
    )
    def test_what_is_not_one_element_is_refused(self, element: bytes, header: bytes) -> None:
        with pytest.raises(stanza.MalformedElement):
            stanza.parse(element, header)

    @pytest.mark.parametrize("header", [b"garbage", b"<", b"<s", b"</s>", b"<?xml version='1.0'?>", b"<!-- c --><s>"])
    def test_a_header_that_is_none_is_refused(self, header: bytes) -> None:
        with pytest.raises(stanza.MalformedElement):
            stanza.parse(b"<a/>", header)

    def test_white_space_around_the_element_is_none_of_it(self) -> None:
        assert stanza.parse(b" \r\n<iq/>\t\n", HEADER).tag == "{jabber:client}iq"

    def test_character_references_and_cdata_are_text(self) -> None:
        assert stanza.parse(b"<a>&lt;&#x41;<![CDATA[<b>]]></a>").text == "<A<b>"


def test_a_serialized_element_stands_alone() -> None:
    element = stanza.parse(b"<iq id='1'><p:x/></iq> ", HEADER)
    alone = stanza.serialize(element)
    assert alone.endswith(b">")
    assert etree.tostring(stanza.parse(alone), method="c14n2") == etree.tostring(
        stanza.parse(stanza.serialize(element), HEADER), method="c14n2"
    )
    assert stanza.parse(alone)[0].tag == "{urn:p}x"


def test_stream_header() -> None:
    header = stanza.stream_header(to="a'b", from_='"<&>', stream_id="1\n2", lang=None)
    root = etree.fromstring(header + stanza.STREAM_END)
    assert root.tag == f"{{{names.STREAM}}}stream"
    assert dict(root.attrib) == {"version": "1.0", "to": "a'b", "from": '"<&>', "id": "1\n2"}
    assert root.nsmap[None] == names.CLIENT


class TestStreamError:
    def test_content_and_text_are_escaped(self) -> None:
        error = stanza.parse(stanza.stream_error(StreamCondition.SEE_OTHER_HOST, "a<b", content="[::1]:5222&"), HEADER)
        assert error[0].text == "[::1]:5222&"
        assert error[1].text == "a<b"
        assert stanza.stream_condition(error) == "see-other-host"

    def test_a_condition_alone(self) -> None:
        assert stanza.stream_error(StreamCondition.RESET) == (
            b"<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
        )

    @pytest.mark.parametrize(
        ("content", "condition"),
        [
            ("", "undefined-condition"),
            ("<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>x</text>", "undefined-condition"),
            ("<reset xmlns='urn:other'/>", "undefined-condition"),
            ("<x xmlns='urn:other'/><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", "conflict"),
            ("<!-- c --><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", "reset"),
        ],
    )
    def test_condition(self, content: str, condition: str) -> None:
        # etree reads it, not stanza.parse, which would refuse the comment before.
        assert stanza.stream_condition(etree.fromstring(f"<error>{content}</error>")) == condition


class TestErrorReply:
    @pytest.mark.parametrize(
        "silent",
        [
            b"<iq type='result' id='1'/>",
            b"<iq type='error' id='1'/>",
            b"<iq id='1'/>",
            b"<message type='error'/>",
            b"<presence/>",
            b"<presence type='probe'/>",
            b"<r xmlns='urn:xmpp:sm:3'/>",
        ],
    )
    def test_what_is_never_answered(self, silent: bytes) -> None:
        assert stanza.error_reply(stanza.parse(silent, HEADER), StanzaCondition.NOT_ALLOWED, "cancel", "no") is None

    @pytest.mark.parametrize("asking", [b"<iq type='set'", b"<iq type='get'", b"<message", b"<message type='chat'"])
    def test_the_sender_gets_it_back(self, asking: bytes) -> None:
        sent = stanza.parse(
            asking + b" id='&apos;&lt;1' to='b@d' from='a@d/&quot;r&apos;'><x/></" + asking[1:].split()[0] + b">",
            HEADER,
        )
        reply = stanza.error_reply(sent, StanzaCondition.RECIPIENT_UNAVAILABLE, "wait", "moved & gone")
        assert reply is not None
        read = stanza.parse(reply)
        assert read.tag == sent.tag
        assert dict(read.attrib) == {"type": "error", "id": "'<1", "from": "b@d", "to": "a@d/\"r'"}
        assert [child.tag for child in read] == ["{jabber:client}error"]
        assert read[0].get("type") == "wait"
        assert read[0][0].tag == f"{{{names.STANZA_ERRORS}}}recipient-unavailable"
        assert read[0][1].text == "moved & gone"

    def test_who_is_not_named_stays_unnamed(self) -> None:
        reply = stanza.error_reply(
            stanza.parse(b"<iq type='get' id='1'/>", HEADER), StanzaCondition.NOT_ALLOWED, "cancel", "no"
        )
        assert reply is not None
        assert dict(stanza.parse(reply).attrib) == {"type": "error", "id": "1"}
