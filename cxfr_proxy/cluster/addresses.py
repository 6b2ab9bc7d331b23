"""Where the proxy dials a node, and where it sends clients: host names, IP addresses and ports as they are written.

Every function that reads a :class:`~.words.Word` raises :class:`~cxfr_proxy.errors.ConfigError` with its place.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from cxfr_proxy.cluster.words import Word

ADDRESS_FORMS: Final = "host:port, [ipv6]:port or unix:/path"
XMPP_PORT: Final = 5222
"""RFC 6120 section 14.7, ``xmpp-client``."""
XMPPS_PORT: Final = 5223
"""The usual port of direct TLS; XEP-0368 leaves it to DNS, which the node list stands in for."""
WSS_PORT: Final = 443
"""RFC 6455 section 3."""
MAX_UNIX_PATH_BYTES: Final = 107
"""``sun_path`` holds 108 with its closing NUL, unix(7)."""
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""RFC 1123 section 2.1, and the underscore that container networks put into host names."""
_NUMBER: Final = re.compile(r"[0-9]{1,8}")
_UNIX: Final = "unix:"
_PATH_AND_QUERY: Final = re.compile(r"(?:[A-Za-z0-9._~:/?@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
"""RFC 3986 sections 3.3 and 3.4."""


class Address(msgspec.Struct, frozen=True, tag=True):
    """Where the proxy dials: ``host`` is a name or an IP address without brackets. A dot at a name's end says that it
    is complete (RFC 1034 section 3.1), and keeps the resolver from trying others."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


class UnixAddress(msgspec.Struct, frozen=True, tag=True):
    """Where the proxy dials on its own machine."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where a client is sent. ``port`` is ``None`` if the client is to use its default."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return _bracketed(self.host) if self.port is None else f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class WebSocketUrl:
    """Where a client finds a WebSocket over TLS (RFC 7395): the URL, and the host and port in it."""

    text: str
    host: str
    port: int

    def __str__(self) -> str:
        return self.text


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# --- reading them


def read_address(word: Word, usual_port: int) -> Address | UnixAddress:
    """Read where a node listens; ``usual_port`` is meant where no port is written."""
    if is_unix(word):
        path = read_path(word.part(len(_UNIX)))
        if len(path.encode()) > MAX_UNIX_PATH_BYTES:
            raise word.part(len(_UNIX)).expected(f"a socket's path of at most {MAX_UNIX_PATH_BYTES} bytes")
        return UnixAddress(path)
    host, port = _read_host_port(word, zone=True)
    return Address(host, port if port is not None else usual_port)


def is_unix(word: Word) -> bool:
    """Return whether the text is meant as the path of a socket, which may hold characters that an option's value may
    not."""
    return word.text.startswith(_UNIX)


def parse_address(text: str, place: str, *, zone: bool = False) -> Address:
    """Read ``host:port`` as it stands elsewhere than in ``nodes.txt``; ``place`` is where, for messages.

    ``zone``: whether ``%eth0`` may follow an IPv6 address.
    """
    word = Word(text, place, 1, 1)
    host, port = _read_host_port(word, zone=zone)
    if port is None:
        raise word.expected("host:port")
    return Address(host, port)


def read_public_address(word: Word) -> PublicAddress:
    """Read where clients are sent.

    All of them have to take it for a name or an IP address, so a name's last part begins with a letter (RFC 1123
    section 2.1)."""
    host, port = _read_host_port(word, zone=False)
    host = host.removesuffix(".")  # which is no part of a domain (RFC 7622 section 3.2)
    last = host.rpartition(".")[2]
    if ":" not in host and not last.isdigit() and not last[:1].isalpha():
        raise word.expected("a public name whose last part begins with a letter")
    return PublicAddress(host, port)


def read_websocket_url(word: Word) -> WebSocketUrl:
    """Read ``wss://host[:port]/path``. Never ``ws://``: a page that came over TLS connects nowhere without it, and
    no client goes from the one to the other."""
    scheme, _, rest = word.text.partition("://")
    if scheme.lower() != "wss":
        raise word.expected("a URL like wss://example.org/xmpp-websocket")
    start = len(scheme) + len("://")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    address = read_public_address(word.part(start, start + len(authority)))
    path = word.part(start + len(authority))
    if not _PATH_AND_QUERY.fullmatch(path.text):
        raise path.expected("a path of a URL (RFC 3986), without '#'")
    return WebSocketUrl(f"wss://{address}{path.text}", address.host, address.port or WSS_PORT)


def read_host_or_ip(word: Word) -> str:
    """Read a host as a certificate has it: without brackets, and without a dot at the end."""
    if ":" not in word.text:
        return _host(word).removesuffix(".")
    bracketed = word.text.startswith("[") and word.text.endswith("]")
    return _ipv6(word.part(1, -1) if bracketed else word, zone=False)


def read_path(word: Word) -> str:
    """Read an absolute path: an operator should not have to know a daemon's working directory."""
    if not word.text.startswith("/") or not word.text.isprintable():
        raise word.expected("an absolute path")
    return word.text


def read_whole_number(word: Word, low: int, high: int, what: str) -> int:
    """Read a number from ``low`` to ``high``; ``what`` it is, for the message."""
    if not _NUMBER.fullmatch(word.text) or not low <= int(word.text) <= high:
        raise word.expected(f"{what} from {low} to {high}")
    return int(word.text)


def _ipv6(word: Word, *, zone: bool) -> str:
    """Read an IPv6 address. ``zone``: whether ``%eth0`` may follow; it means something on this machine only. An address
    that stands for an IPv4 address (RFC 4291 section 2.5.5.2) becomes that one."""
    try:
        address = ipaddress.IPv6Address(word.text)
    except ValueError:
        raise word.expected("an IPv6 address") from None
    if address.scope_id is not None and not zone:
        raise word.expected("an IPv6 address without a zone")
    return str(address.ipv4_mapped or address)


def _host(word: Word) -> str:
    """Read a host name, with a dot at its end or without, or an IPv4 address. A last label of digits is never a name
    (RFC 1123 section 2.1)."""
    text = word.text
    if not text.isascii():
        raise word.expected("a host name in ASCII (an international one in its xn-- form)")
    labels = text.removesuffix(".").split(".")
    if labels[-1].isdigit():
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise word.expected("an IPv4 address or a host name") from None
    if len(text.removesuffix(".")) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise word.expected("a host name or an IP address")
    return text


def _read_host_port(word: Word, *, zone: bool) -> tuple[str, int | None]:
    """Read ``host``, ``host:port``, ``[ipv6]`` or ``[ipv6]:port``; the port is ``None`` if none is written."""
    text = word.text
    if "://" in text:
        raise word.expected("host:port without a scheme before it")
    if text.startswith("["):
        end = text.find("]")
        if end < 0:
            raise word.expected("']' after the IPv6 address that '[' begins")
        host, rest = _ipv6(word.part(1, end), zone=zone), word.part(end + 1)
        if rest.text and not rest.text.startswith(":"):
            raise rest.expected("':port' or nothing after ']'")
    else:
        end = text.find(":")
        rest = word.part(end if end >= 0 else len(text))
        if ":" in rest.text[1:]:
            raise word.expected("host:port, or an IPv6 address in brackets as in [2001:db8::1]:5222")
        host = _host(word.part(0, end if end >= 0 else None))
    return host, read_whole_number(rest.part(1), 1, 65535, "a port") if rest.text else None
