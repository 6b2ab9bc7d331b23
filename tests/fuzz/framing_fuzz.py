"""A fuzzer for one property: the native framing engine, the one on expat, and lxml agree, however the input is cut.

Run it from the checkout's root; the same seed and number of inputs give the same inputs again::

    python tests/fuzz/framing_fuzz.py --seconds 300 --seed 1

It builds ``_scan.c`` anew, with address and undefined-behaviour sanitizers and a hook at every branch (``coverage.c``),
into a temporary directory, and starts itself again with that engine. Inputs that reach a branch, or reach one another
number of times, join the corpus; the next ones are mutations of those. The first fault of memory ends the run with the
sanitizer's report. ``--tests`` runs the framing tests with that engine instead.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import random
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fuzz_loop import fuzz, new_parser

ROOT: Final = Path(__file__).parents[2]
SCANNER: Final = "cxfr_proxy.xmpp.framing._scan"
SANITIZE: Final = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def compiler() -> str | None:
    """A C compiler with what is needed here (gcc has it), or ``None``."""
    return shutil.which("gcc")


def build(directory: Path, flags: Iterable[str] = (), *, source: str = "cxfr_proxy/xmpp/framing/_scan.c") -> Path:
    """An engine with sanitizers and branch hooks. Raises ``CalledProcessError`` with the compiler's words."""
    target, hook = directory / Path(source).with_suffix(".so").name, directory / "coverage.o"
    common = [compiler() or "gcc", "-g", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*common, "-c", str(ROOT / "tests/fuzz/coverage.c"), "-o", str(hook)], check=True)
    include = f"-I{sysconfig.get_paths()['include']}"
    traced = [*common, *SANITIZE, "-fsanitize-coverage=trace-pc", *flags]
    subprocess.run([*traced, "-shared", include, str(ROOT / source), str(hook), "-o", str(target)], check=True)
    return target


def sanitized(script: str, arguments: Iterable[str]) -> int:
    """Run a file in an interpreter that can load a sanitized engine; its exit status."""
    gcc = compiler() or "gcc"
    libraries = [
        subprocess.run([gcc, f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    with tempfile.TemporaryDirectory() as directory:
        told = Path(directory, "options.so")
        subprocess.run([gcc, "-shared", "-fPIC", str(ROOT / "tests/fuzz/options.c"), "-o", str(told)], check=True)
        environment = os.environ | {
            "LD_PRELOAD": " ".join((str(told), *libraries)),
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # or the sanitizer doesn't see where objects end
        }
        return subprocess.run([sys.executable, script, *arguments], env=environment, cwd=ROOT).returncode


def load(extension: Path, name: str = SCANNER) -> None:
    """Make the engine in that file the one that is imported from here on."""
    spec = importlib.util.spec_from_file_location(name, extension)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {extension}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


# --- inputs


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes behind a stream's header, cut into pieces of these sizes in turn."""

    body: bytes
    sizes: tuple[int, ...]
    limit: int | None = None  # bytes of an element
    stepwise: bool = False


END: Final = b"</s:s>"
TOKENS: Final = (
    *(b"<iq>|</iq>|<iq/>|<message>|</message>|<a b='|<x:y |</x:y>|<\xc3\xa9/>|<a>|</a>|</|<|>|/>|'|\"".split(b"|")),
    *(b"&amp;|&lt;|&#65;|&#x41|&#x0;|&#xD800;|&#x110000;|&x;|&nbsp;|&|#|;|=|a|b|x|:|1|-|_|.|/|]|]]|]]>".split(b"|")),
    *(
        b"<![CDATA[|<!--|-->|<!|<?|?>|<?xml version='1.0'?>|<!DOCTYPE a>|xmlns='u'| a='1'| b=\"2\" | a = '1'".split(
            b"|"
        )
    ),
    *(b" |\n|\t|\r|\0|\x01|\x7f|\xc3|\xa9|\xc0\x80|\xe2\x82\xac|\xed\xa0\x80|\xef\xbf\xbe|\xcc\x80".split(b"|")),
    *(b"\xf0\x9f\x99\x82|\xf4\x90\x80\x80|\xc3\xa9|urn:xmpp:cxfr|urn:xmpp:|cxfr|<urn:xmpp:cxfr/>".split(b"|")),
    *(b"&#58;|&#x3a;|&#117;|&#x72;|&#00114;|urn:xmpp&#58;cxfr|&#x75;rn:xmpp:cxf|cxf&#114;|urn:xmp|p:cxfr".split(b"|")),
    *(b" xmlns='urn:xmpp&#58;cxfr'| a='urn:xmpp:|&#x75;&#114;&#x6e;:xmpp:cxfr|ur|n:x".split(b"|")),
    b"".join(b" a%d='%d'" % (n, n) for n in range(9)),
    b"".join(b" b%d='%d'" % (n, n) for n in range(98)),
    b"hello world, hello relay; " * 6,
    b"<b>" * 9,
    b"<" + b"n" * 300 + b">",
    b"</" + b"n" * 300 + b">",
    b"u" * 70 + b"r" * 20,
    END,
)
SEEDS: Final = (
    b"<message to='a@b/c' id=\"1'2\"><body>hi &amp; ho, \xc3\xa9</body><x xmlns='urn:xmpp:cxfr'/></message> <iq/>",
    b"<iq><![CDATA[]]x]]]></iq>\n<r xmlns='urn:xmpp:sm:3'/><other a = 'b' >&#x20;]]</other >" + END + b"junk",
    b"<iq><a><b><c/></b></a></iq><!-- no -->",
    b"<presence/><x:iq xmlns:x='u'/><a xmlns='urn:xmpp:sm:3' h='1'/><x:a/><a h='2'></a ><b/><message/>",
    b"<iq><query xmlns='urn:xmpp&#58;cxfr'/></iq><iq a=\"&#x75;rn:xmpp:cx&#102;r, \xc3\xa9\"/>",
    b"<message><body>" + b"long " * 40 + b"urn:xmpp:cxfr" + b" text" * 20 + b"</body></message>",
)


def mutate(chance: random.Random, corpus: list[bytes]) -> bytes:
    """A new body: one of the corpus with parts put in, cut out, doubled or changed, or spliced with another."""
    body = bytearray(chance.choice(corpus)) if chance.random() < 0.8 else bytearray()
    for _ in range(chance.choice((1, 1, 2, 3, 6, 12))):
        at = chance.randrange(len(body) + 1)
        end = min(len(body), at + chance.choice((1, 2, 5, 30)))
        match chance.randrange(8):
            case 0 if body:
                body[chance.randrange(len(body))] = chance.randrange(256)
            case 1:
                del body[at:end]
            case 2:
                body[at:at] = body[at:end]
            case 3:
                other = chance.choice(corpus)
                body[at:] = other[chance.randrange(len(other) + 1) :]
            case 4:
                body += chance.choice(TOKENS)
            case _:
                body[at:at] = chance.choice(TOKENS)
    if chance.random() < 0.2:
        body[:0], body[len(body) :] = b"<iq>", b"</iq><message/>"
    return bytes(body[:2000])


# --- the property


class Outcome(NamedTuple):
    """``condition`` is the failure's, "" if there was none; ``ack`` the last ``<a/>``."""

    boundary: int
    reported: list[tuple[int, int, str]]
    stanzas: int
    condition: str
    ack: bytes | None


class Judge:
    """Imports the package when it is made: by then the engine under test is in place."""

    def __init__(self) -> None:
        from lxml import etree

        from cxfr_proxy.xmpp.framing import framer
        from cxfr_proxy.xmpp.framing._expat import ExpatFramer
        from cxfr_proxy.xmpp.framing._scan import Scanner

        self._corpus = list(SEEDS)
        self._header = b"<s:s xmlns='jabber:client' xmlns:s='u'>"
        self._framing, self._expat, self._native, self._etree = framer, ExpatFramer, Scanner, etree

    def new_case(self, chance: random.Random) -> Case:
        sizes = tuple(
            chance.choice((chance.randint(1, 8), chance.randint(1, 300))) for _ in range(chance.randint(1, 4))
        )
        limit = chance.choice((None, None, None, 20, 60, 400))
        return Case(mutate(chance, self._corpus), sizes, limit, chance.random() < 0.3)

    def keep(self, case: Case) -> None:
        if len(case.body) < 1200:
            self._corpus.append(case.body)

    def summary(self) -> str:
        return f"corpus of {len(self._corpus)}"

    def difference(self, case: Case) -> str | None:
        """Return the point on which the engines, or one cut and another, or lxml do not agree; ``None``: they agree."""
        native, expat = self._read(case, native=True), self._read(case, native=False)
        if native[:3] != expat[:3] or native.ack != expat.ack or (expat.condition and not native.condition):
            return f"native {native}, expat {expat}"
        for sizes in ((1,), (len(case.body) or 1,)):
            again = self._read(Case(case.body, sizes, case.limit, case.stepwise), native=True)
            if again[:3] != native[:3] or bool(again.condition) != bool(native.condition):
                return f"native {native}, cut into {sizes} {again}"
        return self._difference_from_lxml(case, native.boundary, native.reported, native.condition)

    def _read(self, case: Case, *, native: bool) -> Outcome:
        base = len(self._header)
        if native:
            reader: object = self._native(b"s:s", base, case.limit, 8)
        else:
            reader = self._expat(max_element_bytes=None, max_depth=8)
            reader.step(self._header)
            reader.events.clear()
            reader.max_element_bytes = case.limit
        assert isinstance(reader, (self._native, self._expat))
        reader.acks = case.limit is None
        at, turn = 0, 0
        while at < len(case.body) and not any(not isinstance(n, self._framing.WholeElement) for n in reader.events):
            piece = case.body[at : at + case.sizes[turn % len(case.sizes)]]
            at, turn = at + len(piece), turn + 1
            while piece and case.stepwise:
                kept, reader.events = reader.events, []
                piece = piece[reader.step(piece) :]
                reader.events = kept + reader.events
                if kept != reader.events and not isinstance(reader.events[-1], self._framing.WholeElement):
                    break
            while piece and not case.stepwise:
                before = reader.position
                reader.scan(piece)
                piece = piece[reader.position - before :]  # it stops where much is reported
        reported, condition = [], ""
        for event in reader.events:
            if isinstance(event, self._framing.StreamFault):
                condition = event.condition
            else:
                name = event.name if isinstance(event, self._framing.WholeElement) else ""
                reported.append((event.start - base, event.end - base, name))
        ack = b"" if case.stepwise and reader.ack else reader.ack  # how much of it is at hand differs then
        return Outcome(reader.boundary - base, reported, reader.stanzas, condition, ack)

    def _difference_from_lxml(
        self, case: Case, boundary: int, reported: list[tuple[int, int, str]], condition: str
    ) -> str | None:
        ended = any(name == "" for _, _, name in reported)
        read = self._tree(case.body[:boundary] + (b"" if ended else END))
        if read is None or any(not isinstance(node.tag, str) for node in read.iter()):
            return f"lxml does not take what lies before {boundary}"
        # Values that say the watched bytes, however they spell them: nothing that holds one passes unnoticed.
        said = [any("urn_xmpp_cxfr" in v.replace(":", "_") for e in top.iter() for v in e.values()) for top in read]
        if sum(said) > len(reported):
            return f"{sum(said)} elements say the watched bytes, {len(reported)} were reported"
        hidden = b"<![CDATA[" in case.body or b"&#" in case.body  # as text, in lxml's eyes
        if not condition or condition == "policy-violation" or hidden or not case.body.isascii():
            return None  # names beyond ASCII: lxml goes by XML's fifth edition
        # What failed is not, after all, a stream of elements and white space.
        whole = self._tree(case.body + END)
        if whole is None or any(not isinstance(node.tag, str) for node in whole.iter()):
            return None
        texts = [whole.text or "", *(node.tail or "" for node in whole)]
        return None if any(text.strip(" \t\r\n") for text in texts) else f"lxml takes what failed: {condition}"

    def _tree(self, stream: bytes):  # type: ignore[no-untyped-def]  # lxml's stubs name its trees by private names
        """The stream without namespaces, of which lxml wants more than XML does: "_" may stand wherever ":" may."""
        plain = (b"<s:s>" + stream).replace(b":", b"_").replace(b"xmlns", b"xml_s")
        try:
            return self._etree.fromstring(plain, self._etree.XMLParser(resolve_entities=False))
        except self._etree.XMLSyntaxError:
            return None


# --- running


def main() -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--tests", action="store_true", help="run the framing tests instead")
    parser.add_argument("--flags", default="", help="for the compiler, such as --flags=-DPLAIN_C")
    parser.add_argument("--extension", type=Path, help="a built engine: don't build one, and run in this process")
    options = parser.parse_args()
    if options.extension is None:
        if compiler() is None:
            parser.error("needs gcc")
        with tempfile.TemporaryDirectory() as directory:
            extension = build(Path(directory), shlex.split(options.flags))
            return sanitized(__file__, ["--extension", str(extension), *sys.argv[1:]])
    sys.path.insert(0, str(ROOT))
    load(options.extension)
    if options.tests:
        import pytest

        # Not the one that asks about 130,000 names: they take one path, slowly.
        files = (f"tests/xmpp/test_xmpp_framing{part}.py" for part in ("", "_built", "_native"))
        chosen = [*files, "-k", "native and not which_characters"]
        return pytest.main(["-q", "-p", "no:cacheprovider", *chosen])
    return fuzz(Judge(), options, ctypes.CDLL(str(options.extension)).coverage_gained)


if __name__ == "__main__":
    sys.exit(main())
