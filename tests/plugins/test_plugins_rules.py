"""Which requests a client follows, and what it answers to the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.plugins.rules import Condition, Move, Refusal, Situation, judge
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.connection_transfer import ConnectionTransfer, Server

ME = "romeo@example.org/orchard"
HERE = Situation(jid=ME, tls=True)


def request(
    *,
    sender: str | None = "example.org",
    to: str | None = ME,
    id: str = "t1",
    domain: str = "example.org",
    server: str = "node2.example.org:5222",
) -> stanza.Element:
    addresses = "".join(f" {name}='{value}'" for name, value in (("from", sender), ("to", to)) if value is not None)
    return stanza.parse(
        (
            f"<iq xmlns='jabber:client' type='set' id='{id}'{addresses}><query xmlns='urn:xmpp:cxfr'>"
            f"<domain>{domain}</domain><server>{server}</server></query></iq>"
        ).encode()
    )


@pytest.mark.parametrize(
    ("server", "goes_to"),
    [
        ("node2.example.org:5222", Server("node2.example.org", 5222)),
        ("123.123.123.122", Server("123.123.123.122")),
        ("[2001:DB8::12]:6222", Server("2001:db8::12", 6222)),
        ("example.org:5223", Server("example.org", 5223)),
        ("example.org", None),
        ("EXAMPLE.org", None),
    ],
)
def test_goes_where_it_is_told(server: str, goes_to: Server | None) -> None:
    assert judge(request(server=server), HERE) == Move("t1", "example.org", goes_to)


@pytest.mark.parametrize("sender", [None, "example.org", "Example.ORG"])
@pytest.mark.parametrize("to", [None, ME, "romeo@example.org"])
@pytest.mark.parametrize("id", ["", "t1"])
def test_follows_the_server_as_the_listings_have_it(sender: str | None, to: str | None, id: str) -> None:
    verdict = judge(request(sender=sender, to=to, id=id), HERE)
    assert verdict == Move(id, "example.org", Server("node2.example.org", 5222))


@pytest.mark.parametrize(
    "sender",
    [
        "",
        "evil.example",
        "example.org.evil.example",
        "node2.example.org",
        "example.org/node2",
        "romeo@example.org",
        "romeo@example.org/other",
        ME,
        "admin@example.org",
    ],
)
def test_follows_nobody_else(sender: str) -> None:
    """Not even the user's other devices, nor the account: no server says such a thing in its name."""
    verdict = judge(request(sender=sender), HERE)
    assert isinstance(verdict, Refusal)
    assert verdict.condition is Condition.NOT_ALLOWED


def test_a_stranger_learns_nothing_else() -> None:
    """A stranger's request is refused as a stranger's, with any other fault."""
    verdict = judge(request(sender="evil.example", domain="", server="::"), replace(HERE, tls=False, moves=9))
    assert verdict == judge(request(sender="evil.example"), HERE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "::1"},
        {"server": ""},
        {"server": "node2.example.org:0"},
        {"server": "node2.example.org:65536"},
        {"domain": ""},
        {"domain": "example.org:5222"},
        {"domain": "romeo@example.org"},
    ],
)
def test_refuses_what_is_no_request(wrong: dict[str, str]) -> None:
    verdict = judge(request(**wrong), HERE)
    assert isinstance(verdict, Refusal)
    assert verdict.condition is Condition.BAD_REQUEST


def test_takes_its_password_to_no_other_domain() -> None:
    elsewhere = request(domain="example.com")
    verdict = judge(elsewhere, HERE)
    assert isinstance(verdict, Refusal)
    assert verdict.condition is Condition.NOT_ACCEPTABLE
    allowed = judge(elsewhere, replace(HERE, domains={"example.com"}))
    assert allowed == Move("t1", "example.com", Server("node2.example.org", 5222))


@pytest.mark.parametrize(
    ("domain", "server", "follows"),
    [
        ("example.org", "example.org", True),
        ("example.org", "node2.example.org", False),
        ("example.org", "example.org:5222", False),
        ("example.com", "example.com", False),
    ],
)
def test_without_tls_only_reconnects(domain: str, server: str, follows: bool) -> None:
    verdict = judge(request(domain=domain, server=server), replace(HERE, tls=False, domains={"example.com"}))
    if follows:
        assert verdict == Move("t1", "example.org", None)
    else:
        assert isinstance(verdict, Refusal)
        assert verdict.condition is Condition.NOT_ACCEPTABLE


def test_at_most_five_moves_in_a_row() -> None:
    assert isinstance(judge(request(), replace(HERE, moves=4)), Move)
    verdict = judge(request(), replace(HERE, moves=5))
    assert isinstance(verdict, Refusal)
    assert verdict.condition is Condition.RESOURCE_CONSTRAINT
    assert verdict.condition.type == "wait", "later it may be asked again"


def test_every_condition_has_its_type() -> None:
    assert {each.type for each in Condition} == {"cancel", "modify", "wait"}


@given(
    st.builds(
        ConnectionTransfer,
        id=st.text(st.sampled_from("abc:'<&0"), min_size=1),
        from_=st.just("example.org"),
        to=st.just(ME),
        domain=st.just("example.org"),
        server=st.builds(Server, st.sampled_from(["a.test", "10.0.0.1", "::1", "example.org"]), st.integers(1, 65535)),
    )
)
def test_follows_whatever_the_proxy_writes(transfer: ConnectionTransfer) -> None:
    assert judge(stanza.parse(transfer.to_bytes()), HERE) == Move(transfer.id, "example.org", transfer.server)


def test_leaves_the_request_as_it_is() -> None:
    original = request(sender=None, to=None)
    before = stanza.serialize(original)
    judge(original, HERE)
    assert stanza.serialize(original) == before
