"""To which hosts clients may be sent."""

from __future__ import annotations

import pytest

from cxfr_proxy.cluster.nodes_file import NodesFileError, parse_nodes
from cxfr_proxy.cluster.targets import ANYWHERE, HostPattern, RedirectTargets


def targets(*patterns: str) -> RedirectTargets:
    return RedirectTargets(tuple(map(HostPattern.parse, patterns)))


@pytest.mark.parametrize(
    ("pattern", "host", "allowed"),
    [
        ("a.example.org", "a.example.org", True),
        ("a.example.org", "A.Example.ORG", True),
        ("A.Example.org.", "a.example.org", True),
        ("a.example.org", "a.example.org.", True),
        ("a.example.org", "b.a.example.org", False),
        ("bücher.example", "xn--bcher-kva.example", True),
        ("*.xn--bcher-kva.example", "xmpp.bücher.example", True),
        ("a.example.org", "a.example.org.evil", False),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "b.a.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "aexample.org", False),
        ("*.example.org", ".example.org.evil", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("2001:db8::1", "2001:DB8:0::1", True),
        ("[2001:DB8::1]", "2001:db8::1", True),
        ("[2001:db8::1]", "2001:db8::11", False),
        ("localhost", "localhost", True),
    ],
)
def test_patterns(pattern: str, host: str, allowed: bool) -> None:
    assert targets(pattern).allow(host) is allowed
    assert targets("other.example", pattern).allow(host) is allowed
    assert ANYWHERE.allow(host)
    assert HostPattern.parse(str(HostPattern.parse(pattern))) == HostPattern.parse(pattern)


BAD = ["", "*", "*.", "a.*", "*a.example.org", "a..b", "a b", "a/b", "10.0.0.256", "1.2", "*.1", "[::1", "::1]", "[a]"]


@pytest.mark.parametrize("text", [*BAD, "fe80::1%e", "a:5222", "a" * 254])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of this only the type is promised
        HostPattern.parse(text)


def test_a_public_address_that_is_not_allowed_is_an_error_with_its_place() -> None:
    text = "a h public=a.example.org:5222\nb h weight=2 public=evil.example:5222\nc h public=[2001:db8::1]\nd h\n"
    with pytest.raises(NodesFileError) as caught:
        parse_nodes(text, "n.txt", targets("*.example.org"))
    assert str(caught.value).splitlines() == [
        "n.txt:2:21: expected a host that redirect-targets allows (*.example.org), found 'evil.example:5222'",
        "n.txt:3:12: expected a host that redirect-targets allows (*.example.org), found '[2001:db8::1]'",
    ]
    assert len(parse_nodes(text, "n.txt", targets("*.example.org", "evil.example", "[2001:db8::1]"))) == 4


def test_a_public_address_that_can_not_be_read_is_one_fault() -> None:
    with pytest.raises(NodesFileError) as caught:
        parse_nodes("a h public=a:b:c", "n.txt", targets("x"))
    assert len(caught.value.errors) == 1
