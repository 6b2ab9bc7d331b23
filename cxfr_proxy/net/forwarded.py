"""The client's address by what HTTP proxies have written into a request: ``X-Forwarded-For``, or ``Forwarded``
(RFC 7239).

Each proxy adds its own peer's address at the end. So the list is walked from the right, hop by hop, for as long as the
hop that wrote an entry is trusted: the first address that is not is the client's. Entries to the left of it were
written by the client, or by a hop that is not trusted, and are not even looked at: the list is cut at its last comma,
so that no quote which a client has opened reaches what others have added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cxfr_proxy.config.choices import ForwardingHeader
from cxfr_proxy.net.proxy_protocol import Peer
from cxfr_proxy.net.trusted_proxies import IpAddress, TrustedProxies, read_ip


class ForwardedClient(NamedTuple):
    """The client of a request. ``peer`` is ``None`` for a program on this machine, and its port is 0 where nobody told.

    ``via`` is the address of the hop nearest to here, ``local`` for a unix socket; ``None``: nobody is believed.
    ``fault`` says what was wrong with an entry that should have named a hop's peer. That hop counts as the client then.
    """

    peer: Peer | None
    via: str | None = None
    fault: str | None = None


def forwarded_client(
    peer: Peer | None, values: Sequence[str], header: ForwardingHeader, trusted: TrustedProxies
) -> ForwardedClient:
    """Return whose request it is that ``peer`` has sent.

    ``values`` are those of all headers of that name, in their order (RFC 9110 section 5.3). Raises nothing.
    """
    if not trusted.trust(peer[0] if peer is not None else None):
        return ForwardedClient(peer)
    client = peer
    read, via = _READERS[header], peer[0] if peer is not None else "local"
    for entry in _from_the_right(values):
        try:
            found = read(entry)
        except ValueError:
            return ForwardedClient(client, via, f"{header} has an entry that is no address: {entry[:_SHOWN]}")
        if found is None:
            break
        address, port = found
        client = (str(address), port)
        if not trusted.trust_ip(address):
            break
    return ForwardedClient(client, via)


_SHOWN: Final = 64
"""Characters of a faulty entry for the log: an address with its port and zone has fewer."""

_Found = tuple[IpAddress, int]
"""Port 0: it is not told."""


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


def _read_x_forwarded_for(entry: str) -> _Found | None:
    """Read ``192.0.2.1``, ``2001:db8::1``, or with brackets and port as some write it. ``None``: it is not told."""
    if entry.lower() == _UNKNOWN:
        return None
    return _address(_IPV4.fullmatch(entry) or _BRACKETED.fullmatch(entry) or _BARE_IPV6.fullmatch(entry), entry)


_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_PAIR: Final = re.compile(rf"(?P<name>{_TOKEN})=(?P<value>{_TOKEN}|{_QUOTED})[ \t]*(?:;[ \t]*|$)")
_OBFUSCATED: Final = re.compile(rf"(?:{_UNKNOWN}|_[A-Za-z0-9._-]+)(?::(?:[0-9]{{1,5}}|_[A-Za-z0-9._-]+))?")
_HIDDEN_PORT: Final = re.compile(r":_[A-Za-z0-9._-]+$")


def _read_forwarded(entry: str) -> _Found | None:
    """Read ``for=192.0.2.1;proto=https``, ``for="[2001:db8::1]:4711"`` (RFC 7239 section 4). ``None``: it is not
    told."""
    node: str | None = None
    at = 0
    while at < len(entry):
        pair = _PAIR.match(entry, at)
        if pair is None:
            raise ValueError(entry)
        if pair["name"].lower() == "for":
            if node is not None:
                raise ValueError(entry)  # each parameter once
            node = _unquoted(pair["value"])
        at = pair.end()
    if node is None or _OBFUSCATED.fullmatch(node):
        return None
    node = _HIDDEN_PORT.sub("", node)
    return _address(_IPV4.fullmatch(node) or _BRACKETED.fullmatch(node), entry)


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _address(match: re.Match[str] | None, entry: str) -> _Found:
    if match is None:
        raise ValueError(entry)
    port = int(match.groupdict().get("port") or 0)
    if port > 65535:
        raise ValueError(entry)
    return read_ip(match["address"]), port


_READERS: Final[Mapping[ForwardingHeader, Callable[[str], _Found | None]]] = {
    ForwardingHeader.X_FORWARDED_FOR: _read_x_forwarded_for,
    ForwardingHeader.FORWARDED: _read_forwarded,
}
