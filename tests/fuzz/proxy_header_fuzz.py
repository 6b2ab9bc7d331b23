"""A fuzzer for the reader of PROXY headers: whatever comes, it is a header, not whole yet, or refused.

Run it from the checkout's root; the same seed and number of inputs give the same inputs again::

    python tests/fuzz/proxy_header_fuzz.py --inputs 10000000 --seed 1

Inputs are headers of all kinds, changed a few times: bits, bytes, lengths, pieces of others. What holds of each:

* nothing is raised but :class:`~cxfr_proxy.net.incoming_header.MalformedProxyHeader`;
* how it was cut makes no difference: of a header's beginning the reader says that it is not whole, and of one that is
  refused it says either that or refuses it; what follows a header changes nothing;
* the demo node's reader, which shares no code with it, finds the same addresses in version 2.
"""

from __future__ import annotations

import ipaddress
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from fuzz_loop import fuzz, new_parser

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from cxfr_proxy.demo import proxy_header as demo
from cxfr_proxy.net.incoming_header import IncomingHeader, MalformedProxyHeader, crc32c, parse

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(body: bytes, family: int, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def checked(data: bytes) -> bytes:
    """With a checksum at its end that is right."""
    blank = data[:14] + struct.pack("!H", len(data) - 16 + 7) + data[16:] + tlv(3, bytes(4))
    return blank[:-4] + struct.pack("!I", crc32c(blank))


ADDRESSES: Final = (bytes(range(12)), bytes(range(36)), bytes(216))
TLVS: Final = (
    b"",
    tlv(2, b"example.org") + tlv(5, b"id") + tlv(0x20, b"\1\0\0\0\1" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"cn")),
    tlv(1, b"xmpp-client") + tlv(4, bytes(3)) + tlv(0xEA, b"\1vpce"),
)
SEEDS: Final = (
    b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 5222\r\n",
    b"PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 1 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff::1 x 1 2\r\n",
    *(
        v2(addresses + tlvs, family)
        for addresses, family in zip(ADDRESSES, (0x11, 0x21, 0x31), strict=True)
        for tlvs in TLVS
    ),
    *(checked(v2(ADDRESSES[0] + tlvs, 0x11)) for tlvs in TLVS),
    v2(b"", 0, 0x20),
    v2(TLVS[1], 0),
)
TOKENS: Final = (
    b"PROXY ",
    b"TCP4",
    b"TCP6",
    b"UNKNOWN",
    b"\r\n",
    b" ",
    b"0",
    b"65536",
    b":",
    b"::",
    b".",
    b"%eth0",
    SIGNATURE,
)

Change = Callable[[random.Random, bytearray], None]


def flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def put(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(TOKENS)


def remove(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 9)]


def splice(rng: random.Random, data: bytearray) -> None:
    other, at = rng.choice(SEEDS), rng.randrange(len(data) + 1)
    data[at:] = other[rng.randrange(len(other)) :]


def length(rng: random.Random, data: bytearray) -> None:
    """Version 2's, so that what follows is looked at."""
    if len(data) >= 16:
        data[14:16] = struct.pack("!H", (len(data) - 16 + rng.choice((0, 0, 0, -1, 1))) & 0xFFFF)


CHANGES: Final[tuple[Change, ...]] = (flip, flip, put, insert, remove, splice, length, length)


class Case(NamedTuple):
    """``cut``: where it is cut once."""

    data: bytes
    cut: int


def outcome(data: bytes) -> IncomingHeader | str | None:
    """What is said of it; the text of a refusal."""
    try:
        return parse(data)
    except MalformedProxyHeader as exc:
        return str(exc)


class Judge:
    """Counts what the inputs were."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()

    def new_case(self, chance: random.Random) -> Case:
        data = bytearray(chance.choice(SEEDS))
        for _ in range(chance.randrange(4)):
            if data:
                chance.choice(CHANGES)(chance, data)
        return Case(bytes(data), chance.randrange(len(data) + 1))

    def keep(self, case: Case) -> None:
        """Not this one: the parser has no branches in C that would be counted."""

    def summary(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))

    def difference(self, case: Case) -> str | None:
        data, cut = case
        whole, part = outcome(data), outcome(data[:cut])
        if isinstance(whole, IncomingHeader):
            self._kinds["headers"] += 1
            return unstable(data, cut, whole, part) or disagreement(data[: whole.size], whole)
        self._kinds["not whole" if whole is None else "refused"] += 1
        if whole is None and part is not None:
            return f"cut at {cut} it is {part}, and whole nothing yet"
        if isinstance(part, IncomingHeader):
            return f"cut at {cut} it is {part}, and whole {whole}"
        return None


def unstable(data: bytes, cut: int, whole: IncomingHeader, part: IncomingHeader | str | None) -> str | None:
    """In what a header depends on where it is cut, or on what follows it."""
    if not 0 < whole.size <= len(data):
        return f"a size of {whole.size}"
    if part != (whole if cut >= whole.size else None):
        return f"cut at {cut} it is {part}, not {whole}"
    if outcome(data[: whole.size] + b"\r\nx") != whole:
        return "what follows changes it"
    return None


def disagreement(data: bytes, found: IncomingHeader) -> str | None:
    """In what the demo's reader differs, of what both read."""
    told = found.connection
    if told is None or told.source is None or told.target is None or not data.startswith(SIGNATURE):
        return None
    other = demo._parse_v2(data[:16], data[16:])
    for mine, theirs in ((told.source, other.source), (told.target, other.destination)):
        address = ipaddress.ip_address(theirs.host)
        plain = getattr(address, "ipv4_mapped", None) or address
        if mine != (str(plain), theirs.port):
            return f"{mine} is {theirs}"
    return None


if __name__ == "__main__":
    sys.exit(fuzz(Judge(), new_parser(__doc__).parse_args()))
