"""The client's address, and whether it has TLS, by what HTTP proxies have written into a request: ``X-Forwarded-For``
and ``X-Forwarded-Proto``, or ``Forwarded`` (RFC 7239), which has both.

Each proxy adds its own peer's address at the end. So the list is walked from the right, hop by hop, for as long as the
hop that wrote an entry is trusted: the first address that is not is the client's. Entries to the left of it were
written by the client, or by a hop that is not trusted, and are not even looked at: the list is cut at its last comma,
so that no quote which a client has opened reaches what others have added.

``Forwarded`` tells of TLS in the same entry as of the client. ``X-Forwarded-Proto`` has no entries that would go with
addresses, since most proxies overwrite it and some add to it: one ``http`` in it means that the client has no TLS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cxfr_proxy.config.choices import ForwardingHeader
from cxfr_proxy.net.proxy_protocol import Peer, address_of
from cxfr_proxy.net.trusted_proxies import IpAddress, TrustedProxies, read_ip


class ForwardedClient(NamedTuple):
    """The client of a request. ``peer`` is ``None`` for a program on this machine, and its port is 0 where nobody told.

    ``via`` is the address of the hop nearest to here, ``local`` for a unix socket; ``None``: nobody is believed.
    ``fault`` says what was wrong with an entry that should have named a hop's peer. That hop counts as the client then.
    ``on_tls`` is ``None`` where nobody has told.
    """

    peer: Peer | None
    via: str | None = None
    fault: str | None = None
    on_tls: bool | None = None


def forwarded_client(
    peer: Peer | None,
    values: Sequence[str],
    header: ForwardingHeader,
    trusted: TrustedProxies,
    schemes: Sequence[str] = (),
) -> ForwardedClient:
    """Return whose request it is that ``peer`` has sent.

    ``values`` are those of all headers of that name, in their order (RFC 9110 section 5.3); ``schemes`` the members of
    ``X-Forwarded-Proto``, which means something beside ``X-Forwarded-For`` only. Raises nothing.
    """
    if not trusted.trust(peer[0] if peer is not None else None):
        return ForwardedClient(peer)
    client, fault, scheme = peer, None, None
    read, via = _READERS[header], address_of(peer)
    for text in _from_the_right(values):
        try:
            entry = read(text)
        except ValueError:
            fault, scheme = f"{header} has an entry that is no address: {text[:_SHOWN]}", None
            break
        scheme = entry.scheme
        if entry.address is None:
            break
        client = (str(entry.address), entry.port)
        if not trusted.trust_ip(entry.address):
            break
    said = schemes if header is ForwardingHeader.X_FORWARDED_FOR else filter(None, [scheme])
    return ForwardedClient(client, via, fault, _are_tls(said))


_SHOWN: Final = 64
"""Characters of a faulty entry for the log: an address with its port and zone has fewer."""
_CLEAR: Final = frozenset(("http", "ws"))
_TLS: Final = frozenset(("https", "wss"))


def _are_tls(schemes: Iterable[str]) -> bool | None:
    """Return whether all connections with these schemes have TLS; ``None``: it is not told."""
    said = {scheme.lower() for scheme in schemes}
    return None if not said & (_CLEAR | _TLS) else not said & _CLEAR


class _Entry(NamedTuple):
    """The word of one hop on its peer. ``None``, and port 0: it is not told."""

    address: IpAddress | None
    port: int = 0
    scheme: str | None = None


def _from_the_right(values: Sequence[str]) -> Iterator[str]:
    """Yield the elements of a list (RFC 9110 section 5.6.1), last one first, empty ones left out."""
    for value in reversed(values):
        yield from filter(None, _elements(value))


def _elements(value: str) -> Iterator[str]:
    """Cut at commas that are in no quoted string, from the right."""
    quoted, end = False, len(value)
    for at in range(len(value) - 1, -1, -1):
        if value[at] == '"' and not _is_escaped(value, at):
            quoted = not quoted
        elif value[at] == "," and not quoted:
            yield value[at + 1 : end].strip(" \t")
            end = at
    yield value[:end].strip(" \t")


def _is_escaped(text: str, at: int) -> bool:
    """Return whether so many backslashes stand before it that the last one belongs to it."""
    before = at
    while before and text[before - 1] == "\\":
        before -= 1
    return (at - before) % 2 == 1


_PORT: Final = r"(?::(?P<port>[0-9]{1,5}))?"
_IPV4: Final = re.compile(rf"(?P<address>[0-9.]{{7,15}}){_PORT}")
_BRACKETED: Final = re.compile(rf"\[(?P<address>[0-9A-Fa-f:.]{{2,45}})\]{_PORT}")
_BARE_IPV6: Final = re.compile("(?P<address>[0-9A-Fa-f:.]{2,45})")
_UNKNOWN: Final = "unknown"
"""The word of a proxy that does not know its peer's address (RFC 7239 section 6.2); Squid writes it everywhere."""


def _read_x_forwarded_for(entry: str) -> _Entry:
    """Read ``192.0.2.1``, ``2001:db8::1``, or with brackets and port as some write it."""
    if entry.lower() == _UNKNOWN:
        return _Entry(None)
    return _address(_IPV4.fullmatch(entry) or _BRACKETED.fullmatch(entry) or _BARE_IPV6.fullmatch(entry), entry)


_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PAIR: Final = re.compile(rf"(?P<name>{_TOKEN})=(?P<value>{_TOKEN}|{_QUOTED})[ \t]*(?:;[ \t]*|$)")
_OBFUSCATED: Final = re.compile(rf"(?:{_UNKNOWN}|_[A-Za-z0-9._-]+)(?::(?:[0-9]{{1,5}}|_[A-Za-z0-9._-]+))?")
_HIDDEN_PORT: Final = re.compile(r":_[A-Za-z0-9._-]+$")


def _read_forwarded(entry: str) -> _Entry:
    """Read ``for=192.0.2.1;proto=https``, ``for="[2001:db8::1]:4711"`` (RFC 7239 section 4)."""
    told: dict[str, str] = {}
    at = 0
    while at < len(entry):
        pair = _PAIR.match(entry, at)
        if pair is None:
            raise ValueError(entry)
        name = pair["name"].lower()
        if name in told:
            raise ValueError(entry)  # each parameter once
        told[name] = _unquoted(pair["value"])
        at = pair.end()
    node, scheme = told.get("for"), told.get("proto")
    if node is None or _OBFUSCATED.fullmatch(node):
        return _Entry(None, scheme=scheme)
    node = _HIDDEN_PORT.sub("", node)
    return _address(_IPV4.fullmatch(node) or _BRACKETED.fullmatch(node), entry)._replace(scheme=scheme)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _address(match: re.Match[str] | None, entry: str) -> _Entry:
    if match is None:
        raise ValueError(entry)
    port = int(match.groupdict().get("port") or 0)
    if port > 65535:
        raise ValueError(entry)
    return _Entry(read_ip(match["address"]), port)


_READERS: Final[Mapping[ForwardingHeader, Callable[[str], _Entry]]] = {
    ForwardingHeader.X_FORWARDED_FOR: _read_x_forwarded_for,
    ForwardingHeader.FORWARDED: _read_forwarded,
}
