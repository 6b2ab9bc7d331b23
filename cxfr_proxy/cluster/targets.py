"""The hosts that clients may be sent to: by ``public=``, and by what a trusted node says.

A pattern is a host name, ``*.`` and a name for all names below that, or an IP address (IPv6 with or without brackets).
Ports don't matter: a host's owner has all of them. No patterns: any host.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from cxfr_proxy.spellings import dns_name

_NAME: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """Return the host in its canonical spelling: lower case and ASCII, IPv6 as RFC 5952 has it, without brackets."""

    text: str

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """Read a pattern. Raises ``ValueError``."""
        if ":" in text:
            return cls(_ipv6(text[1:-1] if text.startswith("[") and text.endswith("]") else text))
        host = _name(text)
        if not _NAME.fullmatch(host) or len(host) > 253:
            raise ValueError(text)
        if host.rpartition(".")[2].isdigit():
            ipaddress.IPv4Address(text)  # which has no dot at its end
        return cls(host)

    def __str__(self) -> str:
        return f"[{self.text}]" if ":" in self.text else self.text

    def matches(self, host: str) -> bool:
        """Return whether the pattern matches ``host``, a canonical one without brackets."""
        return host == self.text or (self.text.startswith("*.") and host.endswith(self.text[1:]))


def _name(text: str) -> str:
    """Return an international name in ASCII; a name that can't be one is as good as unknown."""
    with suppress(ValueError):
        return dns_name(text)
    return text.lower()


def _ipv6(text: str) -> str:
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError(text)
    return str(address.ipv4_mapped or address)


@dataclass(frozen=True, slots=True)
class RedirectTargets:
    """See the module."""

    patterns: tuple[HostPattern, ...] = ()

    def allow(self, host: str) -> bool:
        """Return whether clients may be sent there; an IPv6 address comes without brackets."""
        canonical = _ipv6(host) if ":" in host else _name(host)
        return not self.patterns or any(pattern.matches(canonical) for pattern in self.patterns)

    def __str__(self) -> str:
        return ", ".join(map(str, self.patterns)) or "any host"


ANYWHERE: Final = RedirectTargets()
"""Any host."""
