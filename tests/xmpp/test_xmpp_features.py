"""Stream features when TLS ends at the proxy: what is taken out, what stays, what is said about it."""

from __future__ import annotations

import base64

import pytest
from lxml import etree

from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.opening import features
from cxfr_proxy.xmpp.stanza import Element

STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
BINDING = (
    "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>"
)
LIMITS = "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>10000</max-bytes></limits>"
IQ_AUTH = "<auth xmlns='http://jabber.org/features/iq-auth'/>"
PASSING = (
    "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
    "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session>"
    "<sm xmlns='urn:xmpp:sm:3'/><csi xmlns='urn:xmpp:csi:0'/><ver xmlns='urn:xmpp:features:rosterver'/>"
    "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='n' ver='v'/>"
    "<register xmlns='http://jabber.org/features/iq-register'/>"
    "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>1</max-bytes></limits>"
    "<starttls xmlns='urn:other'/><mechanisms xmlns='urn:other'><mechanism>EXTERNAL</mechanism></mechanisms>"
    "<invented xmlns='urn:tomorrow' tls-0rtt='true'>text<a/>tail</invented>"
)


def sasl(*mechanisms: str) -> str:
    entries = "".join(f"<mechanism>{name}</mechanism>" for name in mechanisms)
    return f"<mechanisms xmlns='{names.SASL}'>{entries}</mechanisms>"


def sasl2(*mechanisms: str, inline: str = "") -> str:
    entries = "".join(f"<mechanism>{name}</mechanism>" for name in mechanisms)
    return f"<authentication xmlns='{names.SASL2}'>{entries}<inline>{inline}</inline></authentication>"


def fast(*mechanisms: str, attributes: str = "") -> str:
    entries = "".join(f"<mechanism>{name}</mechanism>" for name in mechanisms)
    return f"<fast xmlns='{names.FAST}' {attributes}>{entries}</fast>"


def read(content: str) -> Element:
    return stanza.parse(
        f"<stream:features xmlns:stream='{names.STREAM}' xmlns='jabber:client'>{content}</stream:features>".encode()
    )


def canonical(element: Element) -> bytes:
    return etree.tostring(element, method="c14n2")


def assert_rewritten(before: str, after: str, *, offer_starttls: bool = False) -> None:
    element = read(before)
    changed = features.rewrite(element, offer_starttls=offer_starttls)
    assert canonical(element) == canonical(read(after))
    assert changed == (before != after)


@pytest.mark.parametrize(
    "content",
    [
        "",
        PASSING,
        sasl("SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN", "ANONYMOUS", "OAUTHBEARER", "X-OAUTH2", "X-NEW"),
        sasl2("SCRAM-SHA-1", inline=fast("HT-SHA-256-NONE") + "<sm xmlns='urn:xmpp:sm:3'/>"),
        # Not the proxy's doing, so not the proxy's to repair.
        sasl(),
        sasl2(inline=fast()),
        "\n <bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>\n",
    ],
)
def test_the_rest_passes_untouched(content: str) -> None:
    element = read(content)
    before = stanza.serialize(element)
    assert not features.rewrite(element)
    assert stanza.serialize(element) == before


@pytest.mark.parametrize(
    "gone",
    [
        STARTTLS,
        "<x:starttls xmlns:x='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<compression xmlns='http://jabber.org/features/compress'><method>zlib</method></compression>",
        "<bidi xmlns='urn:xmpp:features:bidi'/>",
        BINDING,
        "<future-name xmlns='urn:xmpp:sasl-cb:0'/>",
        STARTTLS + STARTTLS,
    ],
)
def test_features_of_the_connection_are_stripped(gone: str) -> None:
    assert_rewritten(gone + PASSING, PASSING)
    assert_rewritten(PASSING + gone, PASSING)
    assert_rewritten(gone, "")


REFUSED = [
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-512-PLUS",
    "SCRAM-SHA3-512-PLUS",
    "GS2-KRB5-PLUS",
    "GS2-KRB5",
    "EXTERNAL",
    "GSSAPI",
    "GSS-SPNEGO",
    "KERBEROS_V4",
    "DIGEST-MD5",
    "HT-SHA-256-EXPR",
    "HT-SHA-256-UNIQ",
    "HT-SHA-512-ENDP",
    " EXTERNAL\n",
    "external",
]


@pytest.mark.parametrize("name", REFUSED)
def test_mechanisms_that_need_the_connection_are_stripped(name: str) -> None:
    assert features.refusal(name)
    assert_rewritten(sasl("PLAIN", name, "SCRAM-SHA-1"), sasl("PLAIN", "SCRAM-SHA-1"))
    assert_rewritten(sasl2(name, "SCRAM-SHA-1", name), sasl2("SCRAM-SHA-1"))


@pytest.mark.parametrize(
    "name", ["PLAIN", "SCRAM-SHA-1", "PLUS", "-PLUS", "EXTERNALS", "HT-SHA-256-NONE", "GS2", "", "X-EXPR"]
)
def test_near_misses_stay(name: str) -> None:
    assert features.refusal(name) is None


def test_each_row_has_a_reason() -> None:
    assert all(row.reason for row in (*features.STRIPPED, *features.REFUSED_MECHANISMS))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (fast("HT-SHA-256-NONE", "HT-SHA-256-ENDP"), fast("HT-SHA-256-NONE")),
        (fast("HT-SHA-256-NONE", attributes="tls-0rtt='true'"), fast("HT-SHA-256-NONE")),
        (fast("HT-SHA-256-EXPR", "HT-SHA-256-UNIQ", attributes="tls-0rtt='true'"), ""),
        (BINDING, ""),
    ],
)
def test_sasl2_inline(before: str, after: str) -> None:
    stay = "<bind xmlns='urn:xmpp:bind:0'/>"
    assert_rewritten(sasl2("SCRAM-SHA-1", inline=before + stay), sasl2("SCRAM-SHA-1", inline=after + stay))


def test_everything_in_one_offer_is_looked_at() -> None:
    entries = "<mechanism>PLAIN</mechanism>", "<mechanism>EXTERNAL</mechanism>" + BINDING
    form = f"<authentication xmlns='{names.SASL2}'>{{}}</authentication>"
    assert_rewritten(form.format("".join(entries)), form.format(entries[0]))


class TestEmptyLists:
    def test_an_empty_list_goes_with_what_hangs_on_it(self) -> None:
        assert_rewritten(
            sasl("PLAIN") + sasl2("EXTERNAL", inline=fast("HT-SHA-256-NONE")) + PASSING, sasl("PLAIN") + PASSING
        )
        assert_rewritten(sasl("EXTERNAL") + sasl2("SCRAM-SHA-1"), sasl2("SCRAM-SHA-1"))
        assert_rewritten(sasl("EXTERNAL") + IQ_AUTH, IQ_AUTH)

    def test_the_last_one_stays_empty_rather_than_look_like_the_end_of_negotiation(self) -> None:
        assert_rewritten(sasl("EXTERNAL"), sasl())
        assert_rewritten(sasl2("EXTERNAL"), sasl())
        assert_rewritten(sasl("EXTERNAL") + sasl2("SCRAM-SHA-1-PLUS") + BINDING + PASSING, PASSING + sasl())
        assert_rewritten(STARTTLS + sasl(), sasl())

    def test_after_login_none_is_invented(self) -> None:
        assert_rewritten(STARTTLS + PASSING, PASSING)

    def test_offers_login(self) -> None:
        assert features.offers_login(read(sasl("PLAIN")))
        assert features.offers_login(read(sasl2("PLAIN")))
        assert features.offers_login(read(IQ_AUTH))
        assert not features.offers_login(read(sasl() + sasl2() + PASSING))


def test_an_offer_of_tls_stands_in_front() -> None:
    own = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
    assert_rewritten(sasl("PLAIN"), own + sasl("PLAIN"), offer_starttls=True)
    assert_rewritten(sasl("PLAIN") + STARTTLS, own + sasl("PLAIN"), offer_starttls=True)
    element = read("")
    features.rewrite(element, offer_starttls=True)
    assert b'<starttls xmlns="urn:ietf:params:xml:ns:xmpp-tls"/>' in stanza.serialize(element)
    # Already as it will be, and still an edit: the node's offer and the proxy's are not one.
    assert features.rewrite(read(own), offer_starttls=True)


def test_rewriting_twice_changes_nothing_more() -> None:
    element = read(STARTTLS + sasl("PLAIN", *REFUSED) + sasl2(*REFUSED, inline=fast(*REFUSED)) + BINDING + PASSING)
    assert features.rewrite(element)
    once = canonical(element)
    assert not features.rewrite(element)
    assert canonical(element) == once


CONFIG_VERSION = "<config-version xmlns='urn:of:any:version'>abc</config-version>"


def test_a_hash_of_the_features_stays_as_long_as_they_do() -> None:
    """XEP-0509."""
    assert_rewritten(sasl("PLAIN") + CONFIG_VERSION, sasl("PLAIN") + CONFIG_VERSION)
    assert_rewritten(sasl("PLAIN", "EXTERNAL") + CONFIG_VERSION, sasl("PLAIN"))
    own = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
    assert_rewritten(sasl("PLAIN") + CONFIG_VERSION, own + sasl("PLAIN"), offer_starttls=True)
    assert_rewritten(STARTTLS + sasl2("PLAIN", inline=CONFIG_VERSION), sasl2("PLAIN"))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", features.NO_LOGIN),
        (LIMITS, features.NO_LOGIN),
        (STARTTLS, features.TLS_FIRST),
        (STARTTLS + LIMITS, features.TLS_FIRST),
        (STARTTLS + sasl("PLAIN"), None),
        (sasl2("SCRAM-SHA-1"), None),
        (sasl("EXTERNAL"), None),  # of no use here, and said so by warnings()
        (IQ_AUTH, None),
        ("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>", None),  # behind a login
        ("<invented xmlns='urn:tomorrow'/>", None),
    ],
)
def test_features_that_lead_nowhere(content: str, fault: str | None) -> None:
    assert features.dead_end(read(content)) == fault


class TestWarnings:
    @pytest.mark.parametrize(
        "content", ["", PASSING, sasl("PLAIN", "SCRAM-SHA-1"), STARTTLS + sasl("PLAIN"), sasl("PLAIN", "EXTERNAL")]
    )
    def test_nothing_to_say(self, content: str) -> None:
        assert features.warnings(read(content)) == ()

    def test_it_edits_nothing(self) -> None:
        element = read(sasl("EXTERNAL", "SCRAM-SHA-1-PLUS"))
        before = canonical(element)
        assert features.warnings(element)
        assert canonical(element) == before

    @pytest.mark.parametrize("content", [sasl("EXTERNAL", "GSSAPI"), sasl2("EXTERNAL", "GSSAPI")])
    def test_no_login_left(self, content: str) -> None:
        (line,) = features.warnings(read(content))
        assert "no login is left" in line
        assert "EXTERNAL, GSSAPI" in line

    @pytest.mark.parametrize("form", [sasl, sasl2])
    def test_a_node_that_could_bind(self, form: object) -> None:
        assert callable(form)
        (line,) = features.warnings(read(form("SCRAM-SHA-1", "SCRAM-SHA-1-PLUS")))
        assert "-PLUS" in line

    def test_downgrade_protection_over_an_edited_list(self) -> None:
        untouched, edited = read(sasl("SCRAM-SHA-1")), read(sasl("SCRAM-SHA-1", "EXTERNAL"))
        assert features.warnings(untouched, downgrade_protection=True) == ()
        (line,) = features.warnings(edited, downgrade_protection=True)
        assert "XEP-0474" in line
        # The hash covers the binding types too.
        (line,) = features.warnings(read(sasl("SCRAM-SHA-1") + BINDING), downgrade_protection=True)
        assert "XEP-0474" in line


@pytest.mark.parametrize("namespace", [names.SASL, names.SASL2])
@pytest.mark.parametrize(
    ("message", "protected"),
    [
        ("r=abc,s=QSXC,i=4096,h=G6k/rBLDqgOhRRaCuuatSDFkJ08=", True),
        ("r=abc,s=QSXC,i=4096", False),
        ("r=abch=,s=h=,i=4096", False),
        ("v=signature,h=x", False),
        ("", False),
    ],
)
def test_the_hash_is_seen_in_a_challenge(namespace: str, message: str, protected: bool) -> None:
    text = base64.b64encode(message.encode()).decode()
    for spelling in (text, f"\n  {text}\n"):
        challenge = stanza.parse(f"<challenge xmlns='{namespace}'>{spelling}</challenge>".encode())
        assert features.has_downgrade_protection(challenge) is protected


@pytest.mark.parametrize("text", ["=", "a", "é", "!!!!", "&lt;"])
def test_a_challenge_that_is_not_base64_has_none(text: str) -> None:
    assert not features.has_downgrade_protection(stanza.parse(f"<challenge>{text}</challenge>".encode()))


@pytest.mark.parametrize("version", [names.SM, names.SM2])
@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "<success xmlns='urn:xmpp:sasl:2'><bound xmlns='urn:xmpp:bind:0'>{}</bound></success>",
        "<success xmlns='urn:xmpp:sasl:2'>{}</success>",
    ],
)
def test_the_way_round_the_proxy_is_removed(version: str, around: str) -> None:
    with_location = around.format(f"<enabled xmlns='{version}' id='1' location='node1:5222' resume='true'/>")
    without = around.format(f"<enabled xmlns='{version}' id='1' resume='true'/>")
    element = stanza.parse(with_location.encode())
    assert features.strip_location(element)
    assert canonical(element) == canonical(stanza.parse(without.encode()))
    assert not features.strip_location(element)


@pytest.mark.parametrize(
    "other", ["<enabled xmlns='urn:other' location='a'/>", "<resumed xmlns='urn:xmpp:sm:3' location='a'/>"]
)
def test_other_locations_stay(other: str) -> None:
    assert not features.strip_location(stanza.parse(other.encode()))


class TestLimits:
    """XEP-0478: of two announcements the smaller one holds."""

    @pytest.mark.parametrize(
        ("announced", "shown"),
        [
            ("<max-bytes>300000</max-bytes>", "262144"),
            ("<max-bytes>10000</max-bytes>", "10000"),
            ("<max-bytes>262144</max-bytes>", "262144"),
            ("<idle-seconds>60</idle-seconds>", "262144"),
            ("<max-bytes>lots</max-bytes>", "262144"),
        ],
    )
    def test_the_smaller_one_is_shown(self, announced: str, shown: str) -> None:
        element = read(f"<limits xmlns='{names.LIMITS}'>{announced}</limits>")
        before = etree.tostring(element)
        changed = features.rewrite(element, max_bytes=262_144)
        assert element.findtext(f".//{{{names.LIMITS}}}max-bytes") == shown
        assert changed == (etree.tostring(element) != before)

    def test_none_are_made_up(self) -> None:
        assert not features.rewrite(read(""), max_bytes=262_144)
