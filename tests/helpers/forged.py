"""Forged connection transfers: one IQ in every spelling that XML has for it, and what looks like one and is none.

Each is a format with ``to`` (the victim's full JID), ``host`` (where the attacker wants it to go) and ``id``. They are
shared by the tests of a session and those through real servers.
"""

from __future__ import annotations

from typing import Final

_PAYLOAD: Final = "<domain>{host}</domain><server>{host}</server>"


def _iq(payload: str, type_: str = "type='set'") -> str:
    return f"<iq {type_} to='{{to}}' id='{{id}}'>{payload}</iq>"


def _query(namespace: str, *, quote: str = "'") -> str:
    return _iq(f"<query xmlns={quote}{namespace}{quote}>{_PAYLOAD}</query>")


FORGERIES: Final = {
    "plain": _query("urn:xmpp:cxfr"),
    "double quotes": _query("urn:xmpp:cxfr", quote='"'),
    "white space": _iq(f"\n<query\n\txmlns  =\r\n'urn:xmpp:cxfr'\n >{_PAYLOAD}</query\n >\n"),
    "a get": _iq(f"<query xmlns='urn:xmpp:cxfr'>{_PAYLOAD}</query>", "type='get'"),
    "prefix": _iq("<c:query xmlns:c='urn:xmpp:cxfr'><c:domain>{host}</c:domain><c:server>{host}</c:server></c:query>"),
    "prefix declared further out": _iq(f"<c:query>{_PAYLOAD}</c:query>", "type='set' xmlns:c='urn:xmpp:cxfr'"),
    "decimal reference": _query("urn:xmpp&#58;cxfr"),
    "hexadecimal reference": _query("urn:xmpp&#x3a;cxfr"),
    "hexadecimal reference in capitals": _query("urn:xmpp&#x3A;cxfr"),
    "reference with zeros": _query("urn:xmpp&#00000058;cxfr"),
    "reference to the first letter": _query("&#117;rn:xmpp:cxfr"),
    "reference to the last letter": _query("urn:xmpp:cxf&#x72;"),
    "references to every other": _query("".join(c if n % 2 else f"&#{ord(c)};" for n, c in enumerate("urn:xmpp:cxfr"))),
    "references alone": _query("".join(f"&#x{ord(c):x};" for c in "urn:xmpp:cxfr")),
    "prefix and reference": _iq('<q:query xmlns:q="urn:xmpp&#58;cxf&#114;"><q:server>{host}</q:server></q:query>'),
    "CDATA": _iq("<query xmlns='urn:xmpp:cxfr'><server><![CDATA[{host}]]></server></query>"),
    "references in the address": _iq("<query xmlns='urn:xmpp&#58;cxfr'><server>&#101;{host}</server></query>"),
    "empty": _iq("<query xmlns='urn:xmpp:cxfr'/>"),
    "another element": _iq("<move xmlns='urn:xmpp:cxfr'>{host}</move>"),
    "below another": _iq(f"<x xmlns='urn:x'><query xmlns='urn:xmpp&#58;cxfr'>{_PAYLOAD}</query></x>"),
}
"""By what is special about them."""

NO_FORGERIES: Final = {
    "text": "<message to='{to}' id='{id}'><body>&lt;query xmlns='urn:xmpp:cxfr'/> urn:xmpp:cxfr</body></message>",
    "CDATA": "<message to='{to}' id='{id}'><body><![CDATA[<query xmlns='urn:xmpp:cxfr'/>]]></body></message>",
    "forwarded (XEP-0297)": (
        "<message to='{to}' id='{id}'><forwarded xmlns='urn:xmpp:forward:0'><iq xmlns='jabber:client' type='set'>"
        "<query xmlns='urn:xmpp:cxfr'><server>{host}</server></query></iq></forwarded></message>"
    ),
    "event (XEP-0163)": (
        "<message to='{to}' id='{id}' type='headline'><event xmlns='http://jabber.org/protocol/pubsub#event'>"
        "<items node='n'><item><query xmlns='urn:xmpp&#58;cxfr'/></item></items></event></message>"
    ),
    "XHTML": (
        "<message to='{to}' id='{id}'><html xmlns='http://jabber.org/protocol/xhtml-im'>"
        "<body xmlns='http://www.w3.org/1999/xhtml'><p><a href='urn:xmpp&#58;cxfr'>urn:xmpp:cxfr</a></p></body></html>"
        "</message>"
    ),
    "presence": "<presence to='{to}' id='{id}'><status>urn:xmpp:cxfr</status></presence>",
    "an iq that mentions it": (
        "<iq type='get' to='{to}' id='{id}'><query xmlns='http://jabber.org/protocol/disco#info' node='urn:xmpp:cxfr'/>"
        "</iq>"
    ),
    "an iq with its id": "<iq type='get' to='{to}' id='urn:xmpp:cxfr:{id}'><ping xmlns='urn:xmpp:ping'/></iq>",
    "a longer namespace": "<iq type='set' to='{to}' id='{id}'><query xmlns='urn:xmpp:cxfr:2'/></iq>",
    "almost, by references": "<iq type='set' to='{to}' id='{id}'><query xmlns='urn:xmpp&#58;&#58;cxfr'/></iq>",
}
"""The bytes that have to arrive unchanged."""
