"""The table of settings: every row can be given by flag and by file, is documented, and means what it
says."""

from __future__ import annotations

import socket
from dataclasses import fields
from pathlib import Path

import pytest
from other_values import OTHER

from cxfr_proxy.cluster.placement import PlacementPolicies, PlacementPolicy
from cxfr_proxy.config.control_places import control_places, find_control
from cxfr_proxy.config.hints import config_hints
from cxfr_proxy.config.settings import Setting, parse_settings, read_settings_file, render_markdown
from cxfr_proxy.config.table import (
    SETTINGS,
    Config,
    CxfrUnknown,
    KeyPair,
    Limits,
    ListenAddress,
    StartTls,
    Timeouts,
)
from cxfr_proxy.config.values import (
    read_listen_address,
)
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.events import LogFormat, LogLevel

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"


def from_file(text: str, **flags: object) -> Config:
    return Config.from_sources(flags, parse_settings(text, "proxy.toml", SETTINGS))


def test_the_defaults() -> None:
    config = Config.from_sources({})
    assert config == Config()
    assert config.backends is None
    assert config.listen == (ListenAddress(None, 5222),)
    assert (config.domain, config.certificate, config.key) == ((), (), ())
    assert config.starttls is StartTls.REQUIRED
    assert config.transfer_rate == 100
    assert config.redirect_window == 60
    assert config.cxfr_unknown is CxfrUnknown.TRY
    assert (config.log_format, config.log_level) == (LogFormat.TEXT, LogLevel.INFO)
    assert config.timeouts == Timeouts(10, 5, 5, 5, 10, 1, 5, 10, 60, 30, 30, 150, 45, 30)
    assert config.limits == Limits(32768, 262144, 1048576, 64, 1000)


def value_of(config: Config, setting: Setting) -> object:
    owner: object = getattr(config, setting.section) if setting.section else config
    return getattr(owner, setting.attribute)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_by_flag_and_by_file(setting: Setting) -> None:
    text, value = OTHER[setting.name]
    given: object = [text] if setting.row.repeatable else text
    certificates: dict[str, dict[str, object]] = {
        "key": {"certificate": ["a.pem"]},
        "http-key": {"http_certificate": "a.pem"},
        "node-key": {"node_certificate": "a.pem"},
        "node-stream-management": {"node_certificate": "a.pem"},
    }
    also = certificates.get(setting.name, {})
    by_flag = Config.from_sources({setting.attribute: given, **also})
    assert value_of(by_flag, setting) == value
    assert value != value_of(Config(), setting)
    by_file = from_file(f"{setting.name} = {text!r}", **also)
    assert by_file == by_flag


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_says_why_and_shows_a_default_that_can_be_given(setting: Setting) -> None:
    assert len(setting.row.help) > 10
    assert len(setting.row.reason) > 10
    if setting.row.default is None:
        read = setting.read([setting.default] if setting.row.repeatable else setting.default, "")
        assert read == value_of(Config(), setting)


def test_every_attribute_is_a_setting() -> None:
    attributes = {each.name for owner in (Config, Timeouts, Limits) for each in fields(owner)}
    assert attributes - {"timeouts", "limits"} == {setting.attribute for setting in SETTINGS}


def test_the_document_is_the_table() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render_markdown(SETTINGS)


@pytest.mark.parametrize(
    ("redirects", "error"),
    [
        (["old.example"], "expected a domain and a host like"),
        (["old.example="], "expected a domain and a host like"),
        (["=new.example"], "expected a domain and a host like"),
        (["old.example=new.example:0"], "expected a domain and a host like"),
        (["old.example=OLD.example"], "its clients would come back here"),
        (["a.example=b.example", "b.example=c.example"], "its clients would come back here"),
        (["old.example=served.example"], "its clients would come back here"),
        (["served.example=new.example"], "expected a domain that is not served here too"),
        (["old.example=a.example", "old.example=b.example"], "expected each domain once"),
        (["old.example=new.other"], "expected a host that redirect-targets allows"),
    ],
)
def test_a_domain_that_has_moved_has_moved_away(redirects: list[str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        Config.from_sources(
            {"redirect_domain": redirects, "domain": ["served.example"], "redirect_targets": ["*.example"]}
        )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/x",
        "ftp://example.org/x",
        "http:///x",
        "http://kim:secret@example.org/x",
        "http://{jid}.example.org/x",
        "http://example.org/x#{jid}",
        "http://example.org/ x",
        "http://example.org:99999/x",
    ],
)
def test_where_to_look_users_up_is_a_fixed_place(url: str) -> None:
    with pytest.raises(ConfigError, match="--user-lookup: expected a URL like"):
        Config.from_sources({"user_lookup": url})
    assert Config.from_sources({"user_lookup": "https://h/{jid}/n"}).user_lookup == "https://h/{jid}/n"


def test_toml_values_may_be_numbers_and_lists() -> None:
    config = from_file(
        'cxfr-timeout = 2\ntransfer-rate = 0.5\nmax-depth = 16\nlisten = ["*:1", ":2"]\ndomain = "a.example"\n'
    )
    assert (config.timeouts.cxfr_timeout, config.transfer_rate, config.limits.max_depth) == (2.0, 0.5, 16)
    assert config.listen == (ListenAddress(None, 1), ListenAddress(None, 2))
    assert config.domain == ("a.example",)


def test_flags_win_over_the_file() -> None:
    config = from_file('log-level = "debug"\nlisten = ["*:1", "*:2"]', listen=["*:3"])
    assert config.listen == (ListenAddress(None, 3),)
    assert config.log_level is LogLevel.DEBUG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ntransfer-rat = 1", "proxy.toml:2: unknown setting 'transfer-rat'; did you mean 'transfer-rate'?"),
        ("max_depth = 9", "proxy.toml:1: unknown setting 'max_depth'; did you mean 'max-depth'?"),
        ("zzz = 1", "proxy.toml:1: unknown setting 'zzz'"),
        ("[limits]\nmax-depth = 9", "proxy.toml:1: unknown setting 'limits'"),
        ("\n\nmax-depth = 7", "proxy.toml:3: max-depth: expected a whole number of at least 8, found '7'"),
        ("max-depth = true", "proxy.toml:1: max-depth: expected a whole number of at least 8, found True"),
        ("max-depth = [9]", "proxy.toml:1: max-depth: expected a whole number of at least 8, found a list"),
        ("backends = 1979-05-27", "proxy.toml:1: backends: expected a file's path or a URL, found 1979-05-27"),
        ("max-depth = ", "proxy.toml:1: Invalid value"),
        ("max-depth = 9\nmax-depth = x\n", "proxy.toml:2:13: Invalid value"),
        ('a = "', "proxy.toml:1: Unterminated string"),
        ("max-depth = 9\nmax-depth = 9", "proxy.toml:2: Cannot overwrite a value"),
        ("a = " + "[" * 100_000, "proxy.toml: lists or tables are nested too deep"),
    ],
    ids=lambda value: value[:30],
)
def test_mistakes_in_a_file_have_a_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(text)
    assert str(caught.value).startswith(message)


def test_reading_files(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_settings_file(str(path), SETTINGS)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="expected UTF-8"):
        read_settings_file(str(path), SETTINGS)
    path.write_text("max-depth = 9", "utf-8-sig")
    assert read_settings_file(str(path), SETTINGS).values == {"max-depth": 9}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("transfer_rate", "0"),
        ("transfer_rate", "-1"),
        ("transfer_rate", "nan"),
        ("transfer_rate", "inf"),
        ("transfer_rate", "9" * 400),
        ("cxfr_timeout", "0"),
        ("cxfr_timeout", "0s"),
        ("cxfr_timeout", "10 parsecs"),
        ("cxfr_timeout", "٣"),
        ("cxfr_timeout", ""),
        ("workers", "0"),
        ("workers", "257"),
        ("workers", "2000"),
        ("max_element_up", "9999"),
        ("max_element_negotiating", "8KiB"),
        ("max_element_up", "0.0001MiB"),
        ("max_element_up", "10001.5"),
        ("max_depth", "1_000"),
        ("connections_per_address", "-1"),
        ("connections_per_address", "None"),
        ("starttls", "yes"),
        ("backends", ""),
        ("backends", "a\0b"),
        ("websocket_path", ""),
        ("websocket_path", "/"),
        ("websocket_path", "ws"),
        ("websocket_path", "/ws?x"),
        ("websocket_path", "/ws#x"),
        ("websocket_path", "/w s"),
        ("websocket_path", "/%zz"),
        ("websocket_path", "/.well-known/host-meta"),
        ("websocket_ping", "-1"),
    ],
)
def test_what_a_flag_refuses(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^--{name.replace('_', '-')}: expected .*, found '"):
        Config.from_sources({name: text})


@pytest.mark.parametrize(
    "text",
    ["", "chat.example.org", "https://", "https://chat.example.org/path", "https://a b", "*", "https://*.example.org"],
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ConfigError, match="--websocket-origin: expected the origin"):
        Config.from_sources({"websocket_origin": [text]})


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("null", "null"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://chat.example.org:80", "http://chat.example.org"),
        ("https://[::1]:443", "https://[::1]"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origins(text: str, origin: str) -> None:
    assert Config.from_sources({"websocket_origin": [text]}).websocket_origin == (origin,)


def test_host_meta_needs_http() -> None:
    with pytest.raises(ConfigError, match=r"^host-meta: expected a websocket-path"):
        Config.from_sources({"host_meta": ["wss://example.org/"], "websocket_path": "none"})
    with pytest.raises(ConfigError, match="--host-meta: expected a URL like wss"):
        Config.from_sources({"host_meta": ["ws://example.org/"]})


@pytest.mark.parametrize("text", ["", ".", "a b", "a/b", "a@b", "<a>", "a\nb"])
def test_what_is_no_domain(text: str) -> None:
    with pytest.raises(ConfigError, match="--domain: expected a domain"):
        Config.from_sources({"domain": [text]})


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("*:5222", ListenAddress(None, 5222), "*:5222"),
        (":5222", ListenAddress(None, 5222), "*:5222"),
        ("127.0.0.1:0", ListenAddress("127.0.0.1", 0), "127.0.0.1:0"),
        ("[::]:5222", ListenAddress("::", 5222), "[::]:5222"),
        ("[2001:DB8:0::1]:65535", ListenAddress("2001:db8::1", 65535), "[2001:db8::1]:65535"),
        ("[fe80::1%eth0]:5222", ListenAddress("fe80::1%eth0", 5222), "[fe80::1%eth0]:5222"),
        ("localhost:5222", ListenAddress("localhost", 5222), "localhost:5222"),
    ],
)
def test_listen_addresses(text: str, address: ListenAddress, shown: str) -> None:
    assert read_listen_address(text) == address
    assert str(address) == shown
    assert read_listen_address(shown) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5222",
        "*",
        "::1:5222",
        "[::1]",
        "[::1]5222",
        "[1.2.3.4]:1",
        "[]:1",
        "1.2.3:1",
        "256.0.0.1:1",
        "a:65536",
        "a:-1",
        "a:",
        "a b:1",
        "a:1\n",
        "[*]:1",
        "a:٣",
    ],
)
def test_what_is_no_listen_address(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some come from ipaddress; the operator sees Kind.expected
        read_listen_address(text)


def test_certificates_and_keys_are_paired_in_order() -> None:
    config = Config.from_sources({"certificate": ["a", "b", "c"], "key": ["x"]})
    assert config.key_pairs == (
        KeyPair(Path("a"), Path("x")),
        KeyPair(Path("b"), Path("b")),
        KeyPair(Path("c"), Path("c")),
    )
    with pytest.raises(ConfigError, match=r"found 2 keys for 1 certificate$"):
        Config.from_sources({"certificate": ["a"], "key": ["x", "y"]})


def test_what_serving_needs() -> None:
    with pytest.raises(ConfigError, match="--backends FILE is needed"):
        Config.from_sources({"certificate": ["a"]}).check_serving()
    with pytest.raises(ConfigError, match="at least one"):
        from_file("listen = []", backends="n").check_serving()


@pytest.mark.parametrize("flags", [{"backends": "n"}, {"backends": "n", "starttls": "off"}])
def test_a_certificate_is_not_needed(flags: dict[str, object]) -> None:
    Config.from_sources(flags).check_serving()


@pytest.mark.parametrize(
    ("environ", "uid", "first"),
    [
        ({"CXFR_PROXY_CONTROL": "/a", "RUNTIME_DIRECTORY": "/b", "XDG_RUNTIME_DIR": "/c"}, 0, "/a"),
        ({"RUNTIME_DIRECTORY": "/b:/x", "XDG_RUNTIME_DIR": "/c"}, 5, "/b/control.sock"),
        ({"XDG_RUNTIME_DIR": "/c"}, 5, "/c/cxfr-proxy.sock"),
        ({}, 0, "/run/cxfr-proxy.sock"),
        ({}, 5, "/t/cxfr-proxy-5/control.sock"),
        ({"CXFR_PROXY_CONTROL": "", "RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": ""}, 0, "/run/cxfr-proxy.sock"),
    ],
)
def test_where_the_control_socket_is(environ: dict[str, str], uid: int, first: str) -> None:
    assert control_places(environ, uid, Path("/t"))[0] == Path(first)


def test_a_command_finds_the_socket_on_which_a_proxy_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was left behind is passed over; where there is none, the message says where there could be one."""
    for name, directory in (("RUNTIME_DIRECTORY", "a"), ("XDG_RUNTIME_DIR", "b")):
        (tmp_path / directory).mkdir()
        monkeypatch.setenv(name, str(tmp_path / directory))
    monkeypatch.delenv("CXFR_PROXY_CONTROL", raising=False)
    first, second = tmp_path / "a" / "control.sock", tmp_path / "b" / "cxfr-proxy.sock"
    with pytest.raises(ConfigError, match=rf"{first} or {second} or .*control-listening"):
        find_control()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(first))
    assert find_control() == first
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(second))
        listening.listen(0)
        assert find_control() == second, "it answers, the other one does not"
        assert find_control() == second, "its queue is full: nobody has taken the one who asked before"
    assert find_control() == first


def test_placement_by_domain() -> None:
    config = from_file('placement = ["least-sessions", "a.org=rendezvous", "a.org=first-available"]')
    assert config.policies == PlacementPolicies(
        PlacementPolicy.LEAST_SESSIONS, {"a.org": PlacementPolicy.FIRST_AVAILABLE}
    )
    assert Config().policies == PlacementPolicies()


# --- hints


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('trusted-proxies = ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "192.0.2.0/24", "2001:db8:a::/48"]', []),
        ('trusted-proxies = ["0.0.0.0/0"]', ["0.0.0.0/0: whoever"]),
        ('trusted-proxies = ["::/0", "10.0.0.1", "0.0.0.0/1"]', ["::/0: whoever", "0.0.0.0/1: whoever"]),
        ('trusted-proxies = ["198.51.0.0/16", "10.0.0.0/7"]', ["198.51.0.0/16: whoever", "10.0.0.0/7: whoever"]),
        ('trusted-proxies = ["unix"]', ["unix has no effect without listen-unix"]),
        ('trusted-proxies = ["unix"]\nlisten-unix = ["/run/c"]', []),
        ('trusted-proxies = ["unix"]\nlisten-unix = ["/run/c,mode=666"]', ["/run/c,mode=666: everybody"]),
        ('listen-unix = ["/run/c,mode=666"]', []),
        ('proxy-header = "optional"', ["proxy-header has no effect without trusted-proxies"]),
    ],
)
def test_hints(text: str, words: list[str]) -> None:
    found = list(config_hints(from_file(text)))
    assert len(found) == len(words)
    assert all(word in line for word, line in zip(words, found, strict=True))


@pytest.mark.parametrize(
    "text",
    ["run/c", "", "/" + "x" * 107, "/c,", "/c,mode=9", "/c,mode=66", "/c,mode=600,mode=600", "/c,x=1", "/c,user="],
)
def test_what_is_no_path_to_listen_on(text: str) -> None:
    with pytest.raises(ConfigError, match="listen-unix: expected an absolute path"):
        Config.from_sources({"listen_unix": [text]})
