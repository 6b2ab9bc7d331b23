"""One key for one account, whoever writes it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from precis_i18n import get_profile

from cxfr_proxy.spellings import address_range, domain_key, user_key


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        ("juliet@example.org", ["Juliet@EXAMPLE.org", "juliet@example.org.", "\uff2auliet@\uff45xample\uff0eorg"]),
        ("jos\u00e9@example.org", ["jose\u0301@example.org", "JOS\u00c9@example.org", "JOSE\u0301@EXAMPLE.ORG."]),
        ("kim@b\u00fccher.example", ["Kim@xn--bcher-kva.Example", "kim@BU\u0308CHER\u3002example"]),
        ("\u0391\u03b8\u03ae\u03bd\u03b1@x".lower(), ["\u0391\u0398\u0389\u039d\u0391@x"]),
        ("b\u00fccher.example", ["xn--BCHER-KVA.example."]),
    ],
)
def test_all_spellings_have_one_key(key: str, spellings: list[str]) -> None:
    assert {user_key(spelling) for spelling in spellings} == {key}


@pytest.mark.parametrize(
    "user",
    ["a b@example.org", "\u2603@example.org", "\u00e9\u0000@x", "@", "", "k@a..\u00e9", "k@xn--\u00e9", "k@xn--zzzzzz"],
)
def test_who_is_no_user_still_has_a_key(user: str) -> None:
    assert user_key(user) == user


def test_a_name_of_any_length_has_a_key_and_costs_little() -> None:
    assert user_key("\u00c9" * 3000 + "@x") == "\u00e9" * 3000 + "@x"


def test_two_accounts_have_two_keys() -> None:
    users = ["a@b", "b@b", "a@b.b", "stra\u00dfe@b", "strasse@b", "a.@b", "a@b.c"]
    assert len(set(map(user_key, users))) == len(users)


@given(st.text(min_size=1, max_size=12))
def test_what_precis_takes_has_its_key(local: str) -> None:
    local = local.partition("@")[0]
    try:
        expected = get_profile("UsernameCaseMapped").enforce(local)
    except UnicodeEncodeError:
        return
    assert user_key(f"{local}@example.org") == f"{expected}@example.org"


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8))
def test_forms_and_case_of_a_domain_do_not_matter(label: str) -> None:
    forms = (unicodedata.normalize(form, label) for form in ("NFC", "NFD", "NFKC"))
    assert {domain_key(f"{form}.EXAMPLE.") for form in forms} == {domain_key(f"{label}.example")}


@given(st.text(max_size=20))
def test_the_key_of_a_key_is_the_key(user: str) -> None:
    assert user_key(user_key(user)) in (user_key(user), user_key(user).removesuffix("."))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_a_client_chooses_its_address_from_a_range(address: str, expected: str) -> None:
    assert address_range(address) == expected
