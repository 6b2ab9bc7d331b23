"""JIDs taken apart, RFC 7622 section 3.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.xmpp import jid


@pytest.mark.parametrize(
    ("text", "local", "domain", "resource"),
    [
        ("example.org", None, "example.org", None),
        ("user@example.org", "user", "example.org", None),
        ("user@example.org/res", "user", "example.org", "res"),
        ("example.org/res", None, "example.org", "res"),
        # The resource may hold both separators, and comes first.
        ("example.org/a@b/c", None, "example.org", "a@b/c"),
        ("user@example.org//", "user", "example.org", "/"),
        ("user@[::1]/x", "user", "[::1]", "x"),
        ("ü@münchen.example/☃ ", "ü", "münchen.example", "☃ "),
    ],
)
def test_split(text: str, local: str | None, domain: str, resource: str | None) -> None:
    assert jid.split(text) == (local, domain, resource)
    assert jid.bare(text) == (f"{local}@{domain}" if local else domain)
    assert jid.domain(text) == domain


@pytest.mark.parametrize("text", ["", "/", "@", "user@", "@example.org", "example.org/", "user@/res", "/res", "@/"])
def test_an_empty_part_is_refused(text: str) -> None:
    for function in (jid.split, jid.bare, jid.domain):
        with pytest.raises(jid.JidError):
            function(text)


def test_the_limit_counts_bytes() -> None:
    longest = "/".join(("@".join(("a" * 1023, "b" * 1023)), "c" * 1023))
    assert jid.split(longest).resource == "c" * 1023
    with pytest.raises(jid.JidError):
        jid.split(longest + "c")
    with pytest.raises(jid.JidError):
        jid.split("d/" + "ü" * 1535)  # 1537 characters, 3072 bytes


def test_an_error_does_not_repeat_the_address() -> None:
    with pytest.raises(jid.JidError) as caught:
        jid.split("secret" * 2000)
    assert "secret" not in str(caught.value)


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        local, domain, resource = jid.split(text)
    except jid.JidError:
        return
    assert "/" not in domain
    assert ("" if local is None else local + "@") + domain + ("" if resource is None else "/" + resource) == text
