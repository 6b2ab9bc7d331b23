"""A fuzzer for WebSocket's framing: the hot path in C does what Python does, and what comes out is what it should be.

Run it from the checkout's root; the same seed and number of inputs give the same inputs again::

    python tests/fuzz/websocket_fuzz.py --seconds 300 --seed 1
    python tests/fuzz/websocket_fuzz.py --inputs 10000000 --seed 2 --installed

As ``framing_fuzz.py``, which says more: the native engines are built anew with sanitizers and a hook at every branch,
and inputs that reach new ones are mutated on. ``--installed`` takes those that the package has, without either: it is
several times as fast. Half of the inputs are frames from a client, half are some of a stream for one; each goes to a
connection on which others went before, as long as these have left it between two messages. What holds of each:

* with and without the hot path the same comes out of each piece, to the byte: the stream, the frames, pongs, close
  frames and faults;
* frames from a client come to a stream that expat takes, and to no other one where they are cut elsewhere;
* a stream comes to frames that are well-formed, each message a document that expat takes, and to the same messages
  where it is cut elsewhere.
"""

from __future__ import annotations

import ctypes
import random
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.parsers import expat

from framing_fuzz import ROOT, SCANNER, TOKENS, build, compiler, load, mutate, sanitized
from fuzz_loop import fuzz, new_parser

if TYPE_CHECKING:
    from cxfr_proxy.xmpp.websocket.stream import WebSocketStream

FRAMES: Final = "cxfr_proxy.xmpp.websocket._frames"
SOURCES: Final = ("cxfr_proxy/xmpp/framing/_scan.c", "cxfr_proxy/xmpp/websocket/_frames.c")
LIMIT: Final = 700
HEADER: Final = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    b"id='1' xml:lang='en'>"
)
OTHER_HEADER: Final = b"<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams' xmlns:x='urn:x'>"
FRAMING: Final = b"xmlns='urn:ietf:params:xml:ns:xmpp-framing'"
ELEMENTS: Final = (
    b"<message to='a@b/c'><body>hi &amp; ho, \xc3\xa9</body></message>",
    b"<iq xmlns='jabber:client' xml:lang='de'/>",
    b"<presence a=\" xmlns='x' >\"/>",
    b"<r xmlns='urn:xmpp:sm:3'/>",
    b"<stream:features><x/></stream:features>",
    b"<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>",
    b"<x:y><stream:z/></x:y>",
    b"<iq\n\txmlns = 'jabber:client'\r\n/>",
    b"<a>" + b"word " * 30 + b"</a>",
    b"<a>" + b"word " * 120 + b"\xf0\x9f\x99\x82</a>",
    b"<open/>",
    b"<closed/>",
    b"<stream:stream/>",
    b"<upstream/>",
)
STREAM_PARTS: Final = (*ELEMENTS, *ELEMENTS, b" ", b"\n", HEADER, OTHER_HEADER, b"</stream:stream>", b"</s:stream>")
BAD_TEXT: Final = (
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc3",
    b"\xff",
    b"\xef\xbf\xbe",
    b"\0",
    b"<",
    b"</a>",
)


@dataclass(frozen=True, slots=True)
class Case:
    """``data`` in pieces of these sizes in turn: frames from a client, or (``is_out``) a stream for one. ``begins``:
    they go to a new connection, which begins with this."""

    data: bytes
    sizes: tuple[int, ...]
    is_out: bool
    begins: bytes | None


def frame(chance: random.Random, first: int, payload: bytes) -> bytes:
    """One of a client's, whose length is in its shortest form nearly always."""
    mask = chance.randbytes(4) if chance.random() < 0.8 else bytes(4)
    size = len(payload)
    form = 126 if size > 125 or chance.random() < 0.02 else size
    form = 127 if size > 65_535 or chance.random() < 0.01 else form
    length = {126: size.to_bytes(2), 127: size.to_bytes(8)}.get(form, b"") if form > 125 else b""
    long_mask = (mask * (size // 4 + 1))[:size]
    covered = (int.from_bytes(payload) ^ int.from_bytes(long_mask)).to_bytes(size)
    return bytes((first, 0x80 | form)) + length + mask + covered


def message(chance: random.Random, body: bytes) -> bytes:
    """In one frame, or in fragments with control frames between them."""
    if chance.random() < 0.8:
        return frame(chance, 0x81, body)
    cuts = sorted(chance.randrange(len(body) + 1) for _ in range(chance.randint(1, 3)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    frames = []
    for index, piece in enumerate(pieces):
        frames.append(frame(chance, (0x80 if index == len(pieces) - 1 else 0) | (index == 0), piece))
        if chance.random() < 0.2:
            frames.append(frame(chance, chance.choice((0x89, 0x8A)), b"ping"))
    return b"".join(frames)


def new_sizes(chance: random.Random, size: int) -> tuple[int, ...]:
    """Where that many bytes are cut: nowhere, in a few places, or everywhere."""
    kind = chance.random()
    if kind < 0.4:
        return (1 << 20,)
    if kind < 0.9:
        return tuple(chance.randint(1, max(1, size)) for _ in range(chance.randint(1, 3)))
    return tuple(chance.randint(1, 9) for _ in range(chance.randint(1, 3)))


def new_stream(chance: random.Random) -> bytes:
    parts = [chance.choice(STREAM_PARTS) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
    if chance.random() < 0.01:
        parts.append(b"<a/>" * chance.choice((63, 64, 65, 130)))
    if chance.random() < 0.1:
        parts.insert(chance.randint(0, len(parts)), chance.choice(TOKENS))
    return b"".join(parts)


def new_frames(chance: random.Random) -> bytes:
    wire = []
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        body = chance.choice(ELEMENTS)
        if chance.random() < 0.1:
            at = chance.randrange(len(body) + 1)
            body = body[:at] + chance.choice((*BAD_TEXT, chance.choice(TOKENS))) + body[at:]
        if chance.random() < 0.02:
            body += chance.choice(ELEMENTS)
        if chance.random() < 0.02:
            body = chance.choice((b"", b" ", b"<close %s/>" % FRAMING, b"<open %s/>" % FRAMING, body[:-1], b" " + body))
        wire.append(message(chance, body))
        if chance.random() < 0.1:
            wire.append(frame(chance, chance.choice((0x88, 0x89, 0x8A, 0x8A, 0x82, 0x80, 0x09, 0xC1)), b"\x03\xe8"))
    data = bytearray(b"".join(wire))
    if chance.random() < 0.1:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


# --- the properties

DECLARATION: Final = re.compile(rb" xml(?:ns(?::[a-z]+)?|:lang)=\"[^\"]*\"")
"""As the proxy puts them in. An element that is cut through may have more of them than it needs."""
XML: Final = b"<?xml version='1.0'?>"
_STREAM: Final = re.compile(rb"<\?xml version='1\.0'\?>(?=<stream:stream )")
"""Where a stream begins. A declaration in a client's CDATA is text."""


def messages(wire: bytes) -> list[bytes]:
    """Return the whole messages of what a server has sent. Raises ``ValueError`` for what no server may send."""
    whole: list[bytes] = []
    begun: list[bytes] = []
    at = 0
    while at < len(wire):
        first, size = wire[at : at + 2]
        at += 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, at, least = int.from_bytes(wire[at : at + width]), at + width, 126 if size == 126 else 65_536
            if size < least:
                raise ValueError("a length that is not in its shortest form")
        payload, at = wire[at : at + size], at + size
        if len(payload) < size or first & 0x7F != (0 if begun else 1):
            raise ValueError("a frame that is cut, or not the one that is due")
        begun.append(payload)
        if first & 0x80:
            whole.append(b"".join(begun))
            begun.clear()
    return whole


def misread(parser: expat.XMLParserType, text: bytes, *, final: bool) -> str | None:
    """What expat says of it; ``None``: it takes it."""
    try:
        parser.Parse(text, final)
    except expat.ExpatError as exc:
        return f"{exc}: {text!r}"
    return None


class Judge:
    """Imports the package when it is made: by then the engines under test are in place."""

    def __init__(self) -> None:
        from cxfr_proxy.errors import NodeError
        from cxfr_proxy.xmpp.websocket import hot_path
        from cxfr_proxy.xmpp.websocket.stream import WebSocketStream

        assert hot_path._native is not None
        self._stream, self._refused, self._hot_path = WebSocketStream, NodeError, hot_path
        self._native = hot_path._native
        self._corpus: dict[bool, list[bytes]] = {False: [], True: []}
        self._connections: dict[bool, Connection] = {}  # those that go on, by direction
        self._kinds: Counter[str] = Counter()

    def new_case(self, chance: random.Random) -> Case:
        is_out = chance.random() < 0.5
        if self._corpus[is_out] and chance.random() < 0.4:
            data = mutate(chance, self._corpus[is_out])
        else:
            data = new_stream(chance) if is_out else new_frames(chance)
        begins = None if is_out in self._connections else self._beginning(chance, is_out=is_out)
        return Case(data, new_sizes(chance, len(data)), is_out, begins)

    def _beginning(self, chance: random.Random, *, is_out: bool) -> bytes:
        if chance.random() < 0.02:
            return b""
        if is_out:
            return HEADER if chance.random() < 0.9 else OTHER_HEADER
        return message(chance, b"<open %s to='a'/>" % FRAMING)

    def keep(self, case: Case) -> None:
        if len(case.data) < 1200:
            self._corpus[case.is_out].append(case.data)

    def summary(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._kinds.items()))
        return f"{kinds}; corpus of {sum(map(len, self._corpus.values()))}"

    def difference(self, case: Case) -> str | None:
        connection = self._connections.pop(case.is_out, None) or Connection(self)
        if case.begins is not None:
            connection.feed(Case(case.begins, (1 << 20,), case.is_out, None))
            self._kinds["connections"] += 1
        found = connection.feed(case)
        self._kinds["for clients" if case.is_out else "from clients"] += 1
        if found is not None:
            return f"{found}\n  behind {connection.history}"
        if connection.goes_on(is_out=case.is_out):
            self._connections[case.is_out] = connection
        else:
            self._kinds["refused, cut or closed"] += 1
        return None

    def new_stream(self, *, native: bool) -> WebSocketStream:
        self._hot_path._native = self._native if native else None  # type: ignore[misc]  # it is Final to others
        return self._stream(max_message_bytes=LIMIT, max_depth=8)

    def tell(self, stream: WebSocketStream, case: Case, *, native: bool = True, whole: bool = False) -> list[object]:
        """Return what comes out of each piece."""
        self._hot_path._native = self._native if native else None  # type: ignore[misc]  # it is Final to others
        if whole or case.sizes[0] >= len(case.data):
            return [self._told(stream, case.data, is_out=case.is_out)]
        seen: list[object] = []
        at, turn = 0, 0
        while at < len(case.data) and not (seen and isinstance(seen[-1], str)):
            piece = case.data[at : at + case.sizes[turn % len(case.sizes)]]
            at, turn = at + len(piece), turn + 1
            seen.append(self._told(stream, piece, is_out=case.is_out))
        return seen

    def _told(self, stream: WebSocketStream, piece: bytes, *, is_out: bool) -> object:
        """A text: the stream was refused."""
        if not is_out:
            return stream.receive(piece), str(stream.fault), stream.own(), stream.is_over
        try:
            return stream.send(piece)
        except self._refused as refused:
            return str(refused)


class Connection:
    """The same connection three times: with the hot path, without it, and with it and never cut."""

    def __init__(self, judge: Judge) -> None:
        self.history: list[Case] = []
        """What it was fed; the last one is what is judged."""
        self._judge = judge
        self._native, self._python, self._whole = (judge.new_stream(native=native) for native in (True, False, True))
        self._parser: expat.XMLParserType | None = None
        self._refused = False

    def goes_on(self, *, is_out: bool) -> bool:
        """Whether it stands between two messages, or elements, and was not refused."""
        if self._refused or len(self.history) > 50:
            return False
        streams = (self._native, self._whole)
        return all((each.fast_out() if is_out else each.fast_in()) is not None for each in streams)

    def feed(self, case: Case) -> str | None:
        """Return what does not hold of it."""
        self.history.append(case)
        native = self._judge.tell(self._native, case)
        python = self._judge.tell(self._python, case, native=False)
        if native != python:
            return f"native {native}\n  python {python}"
        whole = self._judge.tell(self._whole, case, whole=True)
        return self._written(native, whole) if case.is_out else self._read(native, whole)

    def _read(self, told: list[object], whole: list[object]) -> str | None:
        """What is wrong with what a client's frames have come to, here and in one piece."""
        found, again = (b"".join(entry[0] for entry in each if isinstance(entry, tuple)) for each in (told, whole))
        fault = any(isinstance(entry, tuple) and entry[1] != "None" for entry in told)
        if not (found.startswith(again) if fault else found == again):
            return f"in pieces {found!r}\n  in one {again!r}"
        before, *streams = _STREAM.split(found)
        for text in (before, *(XML + stream for stream in streams)):
            if self._parser is None or text.startswith(XML):
                self._parser = expat.ParserCreate("utf-8")
            if text and (said := misread(self._parser, text, final=False)) is not None:
                return said
        return None

    def _written(self, told: list[object], whole: list[object]) -> str | None:
        """What is wrong with what a stream has come to, here and in one piece."""
        self._refused = any(isinstance(entry, str) for entry in (*told, *whole))
        try:
            found, again = (messages(b"".join(e for e in each if isinstance(e, bytes))) for each in (told, whole))
        except ValueError as exc:
            return str(exc)
        for text in found:
            if (said := misread(expat.ParserCreate("utf-8"), text, final=True)) is not None:
                return said
        if self._refused or found == again:
            return None
        plain, other = ([DECLARATION.sub(b"", text) for text in each] for each in (found, again))
        return None if plain == other else f"in pieces {plain}\n  in one {other}"


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--installed", action="store_true", help="the package's own engines, without sanitizers")
    parser.add_argument("--engines", type=Path, help="where they are: don't build them, and run in this process")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.installed:
        return fuzz(Judge(), options)
    if options.engines is None:
        if compiler() is None:
            parser.error("needs gcc")
        with tempfile.TemporaryDirectory() as directory:
            for source in SOURCES:
                build(Path(directory), source=source)
            return sanitized(__file__, ["--engines", directory, *sys.argv[1:]])
    engines = [options.engines / Path(source).with_suffix(".so").name for source in SOURCES]
    for extension, name in zip(engines, (SCANNER, FRAMES), strict=True):
        load(extension, name)
    counters = [ctypes.CDLL(str(extension)).coverage_gained for extension in engines]
    return fuzz(Judge(), options, lambda: sum(counter() for counter in counters))


if __name__ == "__main__":
    sys.exit(main())
