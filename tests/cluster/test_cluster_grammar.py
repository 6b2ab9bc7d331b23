"""The grammar of nodes.txt: what is read, and what an operator is told where it cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxfr_proxy.cluster.addresses import Address, PublicAddress, UnixAddress, WebSocketUrl
from cxfr_proxy.cluster.nodes import (
    OPTIONS,
    SHARED_SETTLE_SECONDS,
    AdminState,
    Check,
    NodeSpec,
    NodeTls,
    ProxyProtocol,
    Resume,
)
from cxfr_proxy.cluster.nodes_file import NodesFileError, parse_nodes
from cxfr_proxy.cluster.targets import HostPattern, RedirectTargets
from cxfr_proxy.errors import ConfigError

SHIPPED_EXAMPLE = """\
# name   address            options
node1    10.0.0.11:5222     public=node1.example.org weight=2
node2    10.0.0.12:5223     tls=direct ca=/etc/ssl/nodes.pem send-proxy=v2 public=[2001:db8::12]:5222
node3    unix:/run/xmpp/c2s state=drain
"""


def faults(text: str) -> list[str]:
    with pytest.raises(NodesFileError) as caught:
        parse_nodes(text, "n.txt")
    return [str(error) for error in caught.value.errors]


def test_the_shipped_example() -> None:
    assert parse_nodes(SHIPPED_EXAMPLE, "nodes.txt") == (
        NodeSpec(
            name="node1",
            address=Address("10.0.0.11", 5222),
            public=PublicAddress("node1.example.org", None),
            weight=2,
            tls=NodeTls.NONE,
            ca=None,
            verify_name=None,
            send_proxy=None,
            admin_state=AdminState.READY,
        ),
        NodeSpec(
            name="node2",
            address=Address("10.0.0.12", 5223),
            public=PublicAddress("2001:db8::12", 5222),
            weight=1,
            tls=NodeTls.DIRECT,
            ca="/etc/ssl/nodes.pem",
            verify_name=None,
            send_proxy=ProxyProtocol.V2,
            admin_state=AdminState.READY,
        ),
        NodeSpec(name="node3", address=UnixAddress("/run/xmpp/c2s"), admin_state=AdminState.DRAIN),
    )


@pytest.mark.parametrize(
    ("written", "address", "shown"),
    [
        ("10.0.0.1", Address("10.0.0.1", 5222), "10.0.0.1:5222"),
        ("10.0.0.1 tls=starttls", Address("10.0.0.1", 5222), "10.0.0.1:5222"),
        ("10.0.0.1 tls=direct", Address("10.0.0.1", 5223), "10.0.0.1:5223"),
        ("host.example:1 tls=direct", Address("host.example", 1), "host.example:1"),
        ("my_container:65535", Address("my_container", 65535), "my_container:65535"),
        ("[2001:DB8::1]", Address("2001:db8::1", 5222), "[2001:db8::1]:5222"),
        ("[fe80::1%eth0]:5222", Address("fe80::1%eth0", 5222), "[fe80::1%eth0]:5222"),
        ("unix:/run/a=b:c", UnixAddress("/run/a=b:c"), "unix:/run/a=b:c"),
        ("unix:/" + "x" * 106, UnixAddress("/" + "x" * 106), "unix:/" + "x" * 106),
    ],
)
def test_addresses(written: str, address: Address | UnixAddress, shown: str) -> None:
    (spec,) = parse_nodes(f"a {written}", "n.txt")
    assert spec.address == address
    assert str(spec.address) == shown


@pytest.mark.parametrize(
    ("written", "public"),
    [
        ("h.example", PublicAddress("h.example", None)),
        ("h.example:443", PublicAddress("h.example", 443)),
        ("[2001:db8::1]", PublicAddress("2001:db8::1", None)),
        ("[2001:db8::1]:443", PublicAddress("2001:db8::1", 443)),
    ],
)
def test_a_public_address_is_shown_as_written(written: str, public: PublicAddress) -> None:
    (spec,) = parse_nodes(f"a h public={written}", "n.txt")
    assert spec.public == public
    assert str(public) == written


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("wss://h.example", WebSocketUrl("wss://h.example", "h.example", 443)),
        ("WSS://h.example./ws", WebSocketUrl("wss://h.example/ws", "h.example", 443)),
        ("wss://h.example:5443/ws?a=b%20c", WebSocketUrl("wss://h.example:5443/ws?a=b%20c", "h.example", 5443)),
        ("wss://[2001:DB8::1]:1?x=/", WebSocketUrl("wss://[2001:db8::1]:1?x=/", "2001:db8::1", 1)),
    ],
)
def test_where_websocket_clients_are_sent(written: str, url: WebSocketUrl) -> None:
    (spec,) = parse_nodes(f"a h public-ws={written}", "n.txt")
    assert spec.public_ws == url
    assert parse_nodes(f"a h public-ws={url}", "n.txt")[0].public_ws == url


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("h.example", "n:1:15: expected a URL like wss://example.org/xmpp-websocket, found 'h.example'"),
        ("ws://h.example/", "n:1:15: expected a URL like wss://example.org/xmpp-websocket, found 'ws://h.example/'"),
        ("wss://", "n:1:21: expected a host name or an IP address, found nothing"),
        ("wss:///ws", "n:1:21: expected a host name or an IP address, found nothing"),
        ("wss://me@h/ws", "n:1:21: expected a host name or an IP address, found 'me@h'"),
        ("wss://h:0/ws", "n:1:23: expected a port from 1 to 65535, found '0'"),
        ("wss://h/<x>", "n:1:22: expected a path of a URL (RFC 3986), without '#', found '/<x>'"),
        ("wss://h/%2", "n:1:22: expected a path of a URL (RFC 3986), without '#', found '/%2'"),
        (
            "wss://evil.example/",
            "n:1:15: expected a host that redirect-targets allows (h), found 'wss://evil.example/'",
        ),
    ],
)
def test_where_websocket_clients_are_not_sent(written: str, fault: str) -> None:
    with pytest.raises(NodesFileError) as caught:
        parse_nodes(f"a h public-ws={written}", "n", RedirectTargets((HostPattern("h"),)))
    assert str(caught.value) == fault


def test_every_option_with_its_other_values() -> None:
    (spec,) = parse_nodes(
        "a h weight=0 tls=starttls ca=/c.pem verify-name=x.example send-proxy=v1 resume=shared state=maint", "n.txt"
    )
    assert spec == NodeSpec(
        "a",
        Address("h", 5222),
        weight=0,
        tls=NodeTls.STARTTLS,
        ca="/c.pem",
        verify_name="x.example",
        send_proxy=ProxyProtocol.V1,
        resume=Resume.SHARED,
        admin_state=AdminState.MAINT,
    )
    assert parse_nodes("a h weight=256 tls=none state=ready", "n.txt")[0].weight == 256
    assert parse_nodes("a h tls=direct verify-name=2001:DB8::1", "n.txt")[0].verify_name == "2001:db8::1"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_white_space_comments_and_the_editors_marks(end: str) -> None:
    text = f"\ufeff# first{end}{end}  \ta\th weight=2\t# tail # more{end}#b h{end}c h{end}   "
    assert [(spec.name, spec.weight) for spec in parse_nodes(text, "n.txt")] == [("a", 2), ("c", 1)]


# Each line of the file, then place and message of every fault in it.
FAULTS: list[tuple[str, list[str]]] = [
    ("a", ["1:2: expected an address (host:port, [ipv6]:port or unix:/path) after the name, found nothing"]),
    (
        "a weight=2 state=x",
        [
            "1:3: expected an address (host:port, [ipv6]:port or unix:/path) after the name, found 'weight=2'",
            "1:18: expected ready, drain or maint, found 'x'",
        ],
    ),
    ("-a h", ["1:1: expected a name (letters, digits, '.', '_', '-'; a letter or digit first), found '-a'"]),
    ("n\u00f6 h", ["1:1: expected a name (letters, digits, '.', '_', '-'; a letter or digit first), found 'nö'"]),
    # ports
    ("a h:0", ["1:5: expected a port from 1 to 65535, found '0'"]),
    ("a h:65536", ["1:5: expected a port from 1 to 65535, found '65536'"]),
    ("a h:", ["1:5: expected a port from 1 to 65535, found nothing"]),
    ("a h:http", ["1:5: expected a port from 1 to 65535, found 'http'"]),
    ("a h:\u0665", ["1:5: expected a port from 1 to 65535, found '٥'"]),
    ("a [::1]:x", ["1:9: expected a port from 1 to 65535, found 'x'"]),
    # hosts
    ("a 10.0.0.256", ["1:3: expected an IPv4 address or a host name, found '10.0.0.256'"]),
    ("a 10.0.0", ["1:3: expected an IPv4 address or a host name, found '10.0.0'"]),
    ("a -h", ["1:3: expected a host name or an IP address, found '-h'"]),
    ("a h..b:1", ["1:3: expected a host name or an IP address, found 'h..b'"]),
    ("a :5222", ["1:3: expected a host name or an IP address, found nothing"]),
    ("a " + "x" * 64, ["1:3: expected a host name or an IP address, found '" + "x" * 60 + "...'"]),
    ("a b\u00fc.de", ["1:3: expected a host name in ASCII (an international one in its xn-- form), found 'bü.de'"]),
    ("a tcp://h:1", ["1:3: expected host:port without a scheme before it, found 'tcp://h:1'"]),
    # IPv6
    (
        "a 2001:db8::1",
        ["1:3: expected host:port, or an IPv6 address in brackets as in [2001:db8::1]:5222, found '2001:db8::1'"],
    ),
    ("a [::1", ["1:3: expected ']' after the IPv6 address that '[' begins, found '[::1'"]),
    ("a [::1]5222", ["1:8: expected ':port' or nothing after ']', found '5222'"]),
    ("a [10.0.0.1]", ["1:4: expected an IPv6 address, found '10.0.0.1'"]),
    ("a []", ["1:4: expected an IPv6 address, found nothing"]),
    ("a h public=[fe80::1%eth0]", ["1:13: expected an IPv6 address without a zone, found 'fe80::1%eth0'"]),
    # paths
    ("a unix:run/x", ["1:8: expected an absolute path, found 'run/x'"]),
    ("a unix:", ["1:8: expected an absolute path, found nothing"]),
    ("a unix:/a\0b", ["1:8: expected an absolute path, found '/a\\x00b'"]),
    (
        "a unix:/" + "x" * 107,
        ["1:8: expected a socket's path of at most 107 bytes, found '/" + "x" * 59 + "...'"],
    ),
    ("a h tls=direct ca=c.pem", ["1:19: expected an absolute path, found 'c.pem'"]),
    # options
    ("a h weight", ["1:11: expected a whole number from 0 to 256 after 'weight=', found nothing"]),
    ("a h weight=", ["1:12: expected a whole number from 0 to 256 after 'weight=', found nothing"]),
    ("a h weight=-1", ["1:12: expected a whole number from 0 to 256, found '-1'"]),
    ("a h weight=257", ["1:12: expected a whole number from 0 to 256, found '257'"]),
    ("a h check=ping", ["1:11: expected stream, tcp or none, found 'ping'"]),
    ("a h inter=0", ["1:11: expected a time from 0.05s to 3600s like 2, 2s, 500ms or 1m, found '0'"]),
    ("a h inter=2h", ["1:11: expected a time from 0.05s to 3600s like 2, 2s, 500ms or 1m, found '2h'"]),
    ("a h fast-inter=soon", ["1:16: expected a time from 0.05s to 3600s like 2, 2s, 500ms or 1m, found 'soon'"]),
    ("a h slowstart=-1s", ["1:15: expected a time from 0s to 3600s like 2, 2s, 500ms or 1m, found '-1s'"]),
    ("a h slowstart=", ["1:15: expected a time like 2, 2s, 500ms or 1m after 'slowstart=', found nothing"]),
    ("a h rise=0", ["1:10: expected a whole number from 1 to 1000, found '0'"]),
    ("a h fall=1001", ["1:10: expected a whole number from 1 to 1000, found '1001'"]),
    ("a h fall=3 check=none", ["1:5: fall= has no effect with check=none: nobody looks at the node"]),
    ("a h weight=1 weight=1", ["1:14: expected weight= once, found it again"]),
    ("a h wieght=1", ["1:5: expected an option (key=value), found 'wieght=1' (did you mean 'weight'?)"]),
    ("a h verify_name=b", ["1:5: expected an option (key=value), found 'verify_name=b' (did you mean 'verify-name'?)"]),
    (
        "a h 10.0.0.2",
        [f"1:5: expected an option (key=value), found '10.0.0.2' (known: {', '.join(OPTIONS)})"],
    ),
    ("a h tls=yes", ["1:9: expected none, starttls or direct, found 'yes'"]),
    ("a h tls=start-tls", ["1:9: expected none, starttls or direct, found 'start-tls' (did you mean 'starttls'?)"]),
    ("a h state=DRAIN", ["1:11: expected ready, drain or maint, found 'DRAIN' (did you mean 'drain'?)"]),
    ("a h resume=share", ["1:12: expected own or shared, found 'share' (did you mean 'shared'?)"]),
    ("a h send-proxy=2", ["1:16: expected v1 or v2, found '2' (did you mean 'v2'?)"]),
    ("a h public=unix:/x", ["1:17: expected a port from 1 to 65535, found '/x'"]),
    # options without effect
    (
        "a h migrate=external tls=direct",
        ["1:5: migrate=external has no effect without resume=shared: the session is resumed on the node"],
    ),
    (
        "a h resume=shared migrate=external",
        [
            "1:19: migrate=external has no effect without TLS: expected migrate-address=, tls=direct or tls=starttls as"
            " well"
        ],
    ),
    ("a h migrate-address=b:1", ["1:5: migrate-address= has no effect without migrate=external"]),
    ("a h migrate=yes", ["1:13: expected none or external, found 'yes'"]),
    ("a h ca=/c", ["1:5: ca= has no effect without TLS: expected tls=starttls or tls=direct as well"]),
    (
        "a h tls=none verify-name=b",
        ["1:14: verify-name= has no effect without TLS: expected tls=starttls or tls=direct as well"],
    ),
    ("a h ca=/c tls=dirct", ["1:15: expected none, starttls or direct, found 'dirct' (did you mean 'direct'?)"]),
    # comments
    ("a h state=drain#soon", ["1:16: expected white space before the '#' of a comment"]),
    ("a unix:/run/a#b", ["1:14: expected white space before the '#' of a comment"]),
    # the whole file
    ("a h\n\nb h\n a h:1", ["4:2: expected another name, found 'a' again (first on line 1)"]),
    (
        "a h:0 weight=x bogus=1 state=y\nb\n",
        [
            "1:5: expected a port from 1 to 65535, found '0'",
            "1:14: expected a whole number from 0 to 256, found 'x'",
            f"1:16: expected an option (key=value), found 'bogus=1' (known: {', '.join(OPTIONS)})",
            "1:30: expected ready, drain or maint, found 'y'",
            "2:2: expected an address (host:port, [ipv6]:port or unix:/path) after the name, found nothing",
        ],
    ),
]


@pytest.mark.parametrize(("text", "expected"), FAULTS)
def test_all_faults_are_told_with_their_places(text: str, expected: list[str]) -> None:
    assert faults(text) == [f"n.txt:{fault}" for fault in expected]


@pytest.mark.parametrize("text", ["", "\n\n", "# only this\n"])
def test_an_empty_list_is_an_error(text: str) -> None:
    assert faults(text) == ["n.txt: expected a node ('name address [key=value ...]'), found none"]


def test_the_error_of_a_file_is_a_config_error_with_one_line_a_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_nodes("a h:0\nb h:0\n", "n.txt")
    assert isinstance(caught.value, NodesFileError)
    assert str(caught.value).splitlines() == [str(error) for error in caught.value.errors]
    assert [(error.file, error.line, error.column) for error in caught.value.errors] == [
        ("n.txt", 1, 5),
        ("n.txt", 2, 5),
    ]
    assert (caught.value.file, caught.value.line, caught.value.column) == ("n.txt", 1, 5)


def test_every_field_of_a_spec_but_its_name_and_address_is_an_option() -> None:
    """One that is not in the table could not be written in a node's line."""
    fields = {option.field for option in OPTIONS.values()}
    assert fields | {"name", "address"} == set(NodeSpec.__dataclass_fields__)
    assert OPTIONS.keys() >= {"state", "verify-name", "max-sessions"}


_words = st.text(st.sampled_from("ab1.:=[]#/-% \t\n\r\0é\u2028"), max_size=30) | st.sampled_from(
    [*(f"{key}=" for key in OPTIONS), "unix:/x", "[::1]:1", "10.0.0.1", "tls=direct", "node1 "]
)


@given(st.lists(_words, max_size=12).map("".join) | st.lists(_words, max_size=12).map(" ".join))
def test_any_text_gives_nodes_or_errors_with_a_place_in_it(text: str) -> None:
    errors: tuple[ConfigError, ...] = ()
    specs: tuple[NodeSpec, ...] = ()
    try:
        specs = parse_nodes(text, "n.txt")
    except NodesFileError as exc:
        errors = exc.errors
    assert bool(specs) != bool(errors)
    assert len({spec.name for spec in specs}) == len(specs)
    lines = text.split("\n")
    for error in errors:
        if error.line is None:
            assert len(errors) == 1
        else:
            assert error.column is not None
            assert 1 <= error.column <= len(lines[error.line - 1]) + 1


_hosts = st.sampled_from(["h", "h.example", "10.0.0.1", "2001:db8::1"])
_specs = st.builds(
    NodeSpec,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
    address=st.builds(Address, _hosts, st.integers(1, 65535)) | st.just(UnixAddress("/run/x")),
    public=st.none() | st.builds(PublicAddress, _hosts, st.none() | st.integers(1, 65535)),
    public_ws=st.sampled_from([None, WebSocketUrl("wss://h.example:5443/ws", "h.example", 5443)]),
    weight=st.integers(0, 256),
    tls=st.just(NodeTls.DIRECT),
    ca=st.none() | st.just("/c.pem"),
    verify_name=st.none() | _hosts,
    send_proxy=st.none() | st.sampled_from(ProxyProtocol),
    resume=st.sampled_from(Resume),
    check=st.sampled_from([Check.STREAM, Check.TCP]),
    inter=st.integers(1, 3600).map(float),
    fast_inter=st.none() | st.integers(50, 9999).map(lambda milliseconds: milliseconds / 1000),
    check_timeout=st.none() | st.integers(50, 9999).map(lambda milliseconds: milliseconds / 1000),
    rise=st.integers(1, 1000),
    fall=st.integers(1, 1000),
    slowstart=st.integers(0, 3600).map(float),
    settle=st.none() | st.integers(0, 3600).map(float),
    admin_state=st.sampled_from(AdminState),
)


def _written(spec: NodeSpec) -> str:
    options = {
        "state": spec.admin_state,
        "ca": spec.ca,
        "public": spec.public,
        "public-ws": spec.public_ws,
        "weight": spec.weight,
        "send-proxy": spec.send_proxy,
        "verify-name": spec.verify_name,
        "resume": spec.resume,
        "check": spec.check,
        "inter": spec.inter,
        "fast-inter": spec.fast_inter,
        "check-timeout": spec.check_timeout,
        "rise": spec.rise,
        "fall": spec.fall,
        "slowstart": f"{spec.slowstart}s",
        "settle": spec.settle,
        "tls": spec.tls,
    }
    tail = " ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    return f"{spec.name} {spec.address} {tail}"


@given(st.lists(_specs, min_size=1, max_size=5, unique_by=lambda spec: spec.name))
def test_what_is_written_is_read_back(specs: list[NodeSpec]) -> None:
    assert parse_nodes("\n".join(map(_written, specs)), "n.txt") == tuple(specs)


def test_max_sessions() -> None:
    one, other = parse_nodes("a h max-sessions=2500000\nb h", "nodes.txt")
    assert (one.max_sessions, other.max_sessions) == (2_500_000, None)
    for wrong in ("0", "-1", "1e6", "100000000"):
        with pytest.raises(NodesFileError, match=r"n:1:18: expected a whole number from 1 to 10000000"):
            parse_nodes(f"a h max-sessions={wrong}", "n")


def test_checks() -> None:
    (spec,) = parse_nodes("a h", "n.txt")
    assert (spec.check, spec.inter, spec.fast_inter, spec.rise, spec.fall, spec.slowstart) == (
        Check.STREAM,
        2.0,
        None,
        2,
        3,
        0.0,
    )
    (spec,) = parse_nodes("a h check=tcp inter=1m fast-inter=500ms rise=1 fall=1000 slowstart=0.5h", "n.txt")
    assert (spec.check, spec.inter, spec.fast_inter, spec.rise, spec.fall, spec.slowstart) == (
        Check.TCP,
        60.0,
        0.5,
        1,
        1000,
        1800.0,
    )
    assert parse_nodes("a h check=none slowstart=0", "n.txt")[0].check is Check.NONE


@pytest.mark.parametrize(
    ("options", "seconds"),
    [("", 0.0), ("resume=shared", SHARED_SETTLE_SECONDS), ("settle=500ms", 0.5), ("resume=shared settle=0", 0.0)],
)
def test_a_node_settles_where_sessions_are_shared_or_as_it_says(options: str, seconds: float) -> None:
    (spec,) = parse_nodes(f"a h {options}", "n.txt")
    assert spec.settle_seconds == seconds


def test_domains() -> None:
    (spec,) = parse_nodes("a h domain=Example.org,chat.example.org.", "nodes.txt")
    assert spec.domain == ("example.org", "chat.example.org")
    assert spec.serves("chat.example.org")
    assert spec.serves(None)
    assert not spec.serves("example.net")
    with pytest.raises(NodesFileError, match=r"nodes.txt:1:18: expected a domain like example.org, found nothing"):
        parse_nodes("a h domain=a.org,,b.org", "nodes.txt")
    with pytest.raises(NodesFileError, match=r"expected each domain once, found a.org again"):
        parse_nodes("a h domain=a.org,b,A.org", "nodes.txt")


def test_where_sessions_can_be_taken_to() -> None:
    text = """\
a 10.0.0.1 resume=shared migrate=external migrate-address=10.0.0.1 ca=/c
b 10.0.0.2 resume=shared migrate=external tls=starttls verify-name=b.example
c 10.0.0.3 resume=shared
"""
    a, b, c = parse_nodes(text, "n.txt")
    assert [node.migrates for node in (a, b, c)] == [True, True, False]
    assert (a.for_migration.address, a.for_migration.tls) == (Address("10.0.0.1", 5223), NodeTls.DIRECT)
    assert (a.address, a.tls) == (Address("10.0.0.1", 5222), NodeTls.NONE), "clients' streams go where they went"
    assert b.for_migration == b
