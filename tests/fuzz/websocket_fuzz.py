"""A fuzzer for one property: WebSocket's hot path in C does what Python does, however the input is cut.

Run it from the checkout's root; the same seed and number of inputs give the same inputs again::

    python tests/fuzz/websocket_fuzz.py --seconds 300 --seed 1

As ``framing_fuzz.py``, which says more: the native engines are built anew with sanitizers and a hook at every branch,
and inputs that reach new ones are mutated on. Half of the inputs are frames from a client, half are a stream for one.
With and without the hot path the same has to come out of each chunk, to the byte: the stream, the frames, pongs, close
frames and faults.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from framing_fuzz import ROOT, SCANNER, TOKENS, build, compiler, load, mutate, sanitized

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
    """``data`` in pieces of these sizes in turn: frames from a client, or (``is_out``) a stream for one."""

    data: bytes
    sizes: tuple[int, ...]
    is_out: bool


def frame(chance: random.Random, first: int, payload: bytes) -> bytes:
    """One of a client's, whose length is in its shortest form nearly always."""
    mask = chance.randbytes(4) if chance.random() < 0.8 else bytes(4)
    size = len(payload)
    form = 126 if size > 125 or chance.random() < 0.02 else size
    form = 127 if size > 65_535 or chance.random() < 0.01 else form
    length = {126: size.to_bytes(2), 127: size.to_bytes(8)}.get(form, b"") if form > 125 else b""
    covered = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
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


def new_case(chance: random.Random, corpus: dict[bool, list[bytes]]) -> Case:
    is_out = chance.random() < 0.5
    sizes = tuple(chance.choice((chance.randint(1, 9), 60, 3000)) for _ in range(chance.randint(1, 3)))
    if corpus[is_out] and chance.random() < 0.4:
        return Case(mutate(chance, corpus[is_out]), sizes, is_out)
    if is_out:
        parts = [HEADER if chance.random() < 0.9 else OTHER_HEADER]
        parts += [chance.choice(STREAM_PARTS) for _ in range(chance.randint(1, 8))]
        if chance.random() < 0.3:
            parts.insert(chance.randint(1, len(parts)), chance.choice(TOKENS))
        return Case(b"".join(parts), sizes, is_out=True)
    wire = [message(chance, b"<open %s to='a'/>" % FRAMING)] if chance.random() < 0.97 else []
    for _ in range(chance.randint(1, 6)):
        body = chance.choice(ELEMENTS)
        if chance.random() < 0.2:
            at = chance.randrange(len(body) + 1)
            body = body[:at] + chance.choice((*BAD_TEXT, chance.choice(TOKENS))) + body[at:]
        if chance.random() < 0.05:
            body += chance.choice(ELEMENTS)
        if chance.random() < 0.05:
            body = chance.choice((b"", b" ", b"<close %s/>" % FRAMING, b"<open %s/>" % FRAMING, body[:-1], b" " + body))
        wire.append(message(chance, body))
        if chance.random() < 0.1:
            wire.append(frame(chance, chance.choice((0x88, 0x89, 0x8A, 0x82, 0x80, 0x09, 0xC1)), b"\x03\xe8"))
    data = bytearray(b"".join(wire))
    if chance.random() < 0.2:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return Case(bytes(data), sizes, is_out=False)


class Judge:
    """Imports the package when it is made: by then the engines under test are in place."""

    def __init__(self) -> None:
        from cxfr_proxy.errors import NodeError
        from cxfr_proxy.xmpp.websocket import hot_path
        from cxfr_proxy.xmpp.websocket.stream import WebSocketStream

        assert hot_path._native is not None
        self._stream, self._refused, self._hot_path = WebSocketStream, NodeError, hot_path
        self._native = hot_path._native

    def difference(self, case: Case) -> str | None:
        """What is not the same with the hot path and without; ``None``: all is."""
        native, python = self._tell(case, native=True), self._tell(case, native=False)
        return None if native == python else f"native {native}\n  python {python}"

    def _tell(self, case: Case, *, native: bool) -> list[object]:
        self._hot_path._native = self._native if native else None  # type: ignore[misc]  # it is Final to others
        stream = self._stream(max_message_bytes=LIMIT, max_depth=8)
        seen: list[object] = []
        at, turn = 0, 0
        while at < len(case.data):
            piece = case.data[at : at + case.sizes[turn % len(case.sizes)]]
            at, turn = at + len(piece), turn + 1
            try:
                seen.append(self._do(stream, piece, is_out=case.is_out))
            except self._refused as refused:
                seen.append(str(refused))
                break
        return seen

    def _do(self, stream: WebSocketStream, piece: bytes, *, is_out: bool) -> object:
        if is_out:
            return stream.send(piece)
        return stream.receive(piece), str(stream.fault), stream.own(), stream.is_over


def fuzz(*, seed: int, inputs: int | None, seconds: float, gained: Callable[[], int]) -> int:
    """Judge inputs until there were so many or the time is over; how many differences were found."""
    chance, judge = random.Random(seed), Judge()
    corpus: dict[bool, list[bytes]] = {False: [], True: []}
    began, tried, differences = time.monotonic(), 0, 0
    while (inputs is None or tried < inputs) and time.monotonic() - began < seconds:
        case = new_case(chance, corpus)
        tried += 1
        found = judge.difference(case)
        if gained() and len(case.data) < 1200:
            corpus[case.is_out].append(case.data)
        if found is not None:
            differences += 1
            print(f"DIFFERENCE {case}\n  {found}", flush=True)
        if differences == 10:
            break
    print(f"seed {seed}: {tried} inputs, {differences} differences, corpus of {sum(map(len, corpus.values()))}")
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="at most so long (default: 60)")
    parser.add_argument("--inputs", type=int, help="so many inputs, if the time is enough (default: any number)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", type=Path, help="where they are: don't build them, and run in this process")
    options = parser.parse_args()
    if options.engines is None:
        if compiler() is None:
            parser.error("needs gcc")
        with tempfile.TemporaryDirectory() as directory:
            for source in SOURCES:
                build(Path(directory), source=source)
            return sanitized(__file__, ["--engines", directory, *sys.argv[1:]])
    sys.path.insert(0, str(ROOT))
    engines = [options.engines / Path(source).with_suffix(".so").name for source in SOURCES]
    for extension, name in zip(engines, (SCANNER, FRAMES), strict=True):
        load(extension, name)
    counters = [ctypes.CDLL(str(extension)).coverage_gained for extension in engines]
    return (
        1
        if fuzz(
            seed=options.seed,
            inputs=options.inputs,
            seconds=options.seconds,
            gained=lambda: sum(counter() for counter in counters),
        )
        else 0
    )


if __name__ == "__main__":
    sys.exit(main())
