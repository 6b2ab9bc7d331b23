"""The framing engine on top of the standard library's expat.

Expat says where the token of the current event *starts*. That is enough for boundaries:

* an end tag ends at the first ``>`` after its start (an end tag holds no other);
* for an empty element (``<a/>``) expat, when it has handlers for both, reports start and end from one token and moves
  the index past the token between the two calls, so the index *is* the end.

The two are told apart for a top-level element without children and text: the bytes before the index are ``/>`` only
in the second case (in ``<a></a>`` the tag before it can't end in ``/>``). Text such as ``<a>/></a>`` would fool that,
hence the handler that notes the presence of text.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final
from xml.parsers import expat
from xml.parsers.expat import ExpatError, XMLParserType

from cxfr_proxy.xmpp.framing.events import (
    MAX_ATTRIBUTES,
    MAX_EVENTS_PER_SCAN,
    STANZAS,
    USUAL,
    WATCHED,
    FramerEvent,
    StreamEnd,
    StreamFault,
    StreamStart,
    WholeElement,
)
from cxfr_proxy.xmpp.framing.tag_ends import TagEnds
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.opening.usual_header import TAG as USUAL_TAG

_SPACE: Final = b" \t\r\n"
_HEAD_BYTES: Final = 4
_OTHER_ENCODINGS: Final = (b"\xfe\xff", b"\xff\xfe", b"Lo\xa7\x94")
"""The beginnings of documents in UTF-16 with a byte-order mark, and in EBCDIC (XML 1.0, appendix F)."""
_NO_MARK: Final = "\ufeff".encode()
_RENEW_BYTES: Final = 262_144
"""A parser is replaced after about so many bytes: it keeps every name it has seen, at 24 times the name's size
(measured)."""
_ONLY_UTF8: Final = "only UTF-8 is supported"
_TAIL: Final = len(WATCHED)
_WATCHED_TEXT: Final = WATCHED.decode()
_RESTRICTED: Final = frozenset(
    code
    for message in (
        expat.errors.XML_ERROR_UNDEFINED_ENTITY,
        expat.errors.XML_ERROR_RECURSIVE_ENTITY_REF,
        expat.errors.XML_ERROR_MISPLACED_XML_PI,
    )
    for code in (expat.errors.codes[message],)
)


class _Refused(Exception):
    """Raised inside an expat handler to stop parsing where a rule was broken."""

    def __init__(self, condition: StreamCondition, text: str) -> None:
        super().__init__(text)
        self.condition = condition
        self.text = text


class _Enough(Exception):
    """Raised inside an expat handler once a scan has found as many events as it may."""


class ExpatFramer:
    """A :class:`.framer.Framer` in Python: the reference, and the engine if nothing was compiled."""

    __slots__ = (
        "_base",
        "_childless",
        "_data",
        "_depth",
        "_max_depth",
        "_name",
        "_parser",
        "_renewed",
        "_reported",
        "_shift",
        "_spelt",
        "_start",
        "_state_over",
        "_stepping",
        "_tag",
        "_tag_ends",
        "_tail",
        "_text",
        "_watched_at",
        "ack",
        "acks",
        "boundary",
        "events",
        "every",
        "held",
        "max_element_bytes",
        "position",
        "stanzas",
    )

    def __init__(self, *, max_element_bytes: int | None, max_depth: int) -> None:
        self.max_element_bytes = max_element_bytes
        self.boundary = self.position = 0
        self.events: list[FramerEvent] = []
        self.held: bytes | bytearray = b""
        self.stanzas = 0
        self.ack: bytes | None = None
        self._max_depth = max_depth
        self._base = 0  # the stream offset of _data[0]
        self._data = b""  # what is being parsed now
        self._tail = b""  # the end of what was parsed before: enough to recognise a watched string cut in two
        self._depth = 0
        self._start = 0  # of the current top-level element
        self._name = ""
        self._childless = False
        self._text = False
        self.every = self.acks = False
        self._stepping = False
        self._reported = 0  # in this scan
        self._state_over = False  # the stream has ended or failed
        self._watched_at: list[int] = []  # offsets of watched bytes in elements that have not ended
        self._spelt = False  # a value in the current element says the watched bytes, perhaps by references
        self._tag = ""  # of the stream
        self._tag_ends: TagEnds | None = TagEnds()  # None: not followed, while scanning
        self._shift = 0  # what expat's offsets are short of the stream's
        self._renewed = 0
        self._parser: XMLParserType | None = None  # made when something comes that needs one

    @classmethod
    def behind_usual_header(cls, header: bytes, *, max_element_bytes: int | None, max_depth: int) -> ExpatFramer:
        """Return a framer that has read a header of the usual form, and reported it."""
        framer = cls(max_element_bytes=max_element_bytes, max_depth=max_depth)
        framer._tag, framer._depth = USUAL_TAG.decode(), 1
        framer.position = framer.boundary = len(header)
        framer._tail = header[-_TAIL:]
        return framer

    def _new_parser(self, opening: bytes = b"") -> XMLParserType:
        """Return a parser at its document's beginning, or inside the element that ``opening`` opens."""
        # The encoding overrides what a declaration says; _on_declaration judges that.
        parser = expat.ParserCreate("UTF-8")
        if opening:
            parser.Parse(opening)
        parser.XmlDeclHandler = _on_declaration
        parser.CommentHandler = _on_comment
        parser.ProcessingInstructionHandler = _on_processing_instruction
        parser.StartDoctypeDeclHandler = _on_doctype
        if hasattr(parser, "SetReparseDeferralEnabled"):  # since expat 2.6
            # With deferral, expat may wait for more bytes before it reports a whole token, and boundaries come late.
            parser.SetReparseDeferralEnabled(False)
        return parser

    def _renew_parser(self) -> XMLParserType:
        """Go on with another parser: expat keeps every name it has seen, and would grow for ever on new names."""
        if not self._tag:
            self._parser = self._new_parser()
            return self._parser
        opening = f"<{self._tag}>".encode()
        self._parser = self._new_parser(opening)
        self._shift = self.position - len(opening)
        self._renewed = self.position
        return self._parser

    @property
    def _index(self) -> int:
        """Where in the stream expat's current event begins."""
        assert self._parser is not None
        return self._parser.CurrentByteIndex + self._shift

    # --- feeding

    def scan(self, data: bytes) -> int:
        self._stepping = False
        self._reported = 0
        self._tag_ends = None
        base = self.position
        self._parse(data)
        return max(0, self.boundary - base)

    def step(self, data: bytes) -> int:
        self._stepping = True
        offset = 0
        while offset < len(data) and not self.events:
            # An element ends where a tag does, so pieces that end there never reach beyond an element.
            end = self._tag_end(data, offset)
            self._parse(data[offset:end])
            offset = end
        return offset

    def _tag_end(self, data: bytes, offset: int) -> int:
        if self._tag_ends is None and self.position == self.boundary:
            self._tag_ends = TagEnds()
        if self._tag_ends is None:  # in the middle of what was scanned so far
            return data.find(b">", offset) + 1 or len(data)
        return self._tag_ends.next(data, offset)

    def _parse(self, data: bytes) -> None:
        if self._state_over:
            self.position += len(data)
            return
        if not data:
            return
        fault = _fault_of((self._tail + data)[:_HEAD_BYTES]) if self.position < _HEAD_BYTES else None
        if fault is not None:
            self.position += len(data)
            self._fail(*fault)
            return
        parser = self._parser
        old = self.position - self._renewed > _RENEW_BYTES and self.position == self.boundary
        if parser is None or old:
            parser = self._renew_parser()
        self._base = self.position
        self._data = data
        self._watch(data)
        # Set for this call only: parser and framer would otherwise form a reference cycle.
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        parser.CharacterDataHandler = self._on_text
        try:
            parser.Parse(data)
        except _Enough:
            # Expat can't stop here and go on later. Another parser will read the rest again.
            self._parser = None
            self._watched_at.clear()
            self._data = data = data[: self.boundary - self._base]
        except _Refused as refused:
            self._fail_unless_over(refused.condition, refused.text)
        except ExpatError as error:
            self._fail_unless_over(*_condition(error))
        finally:
            parser.StartElementHandler = parser.EndElementHandler = parser.CharacterDataHandler = None
        self.position = self._base + len(data)
        if not self._state_over:
            self._settle()
        self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]
        self._data = b""

    def _settle(self) -> None:
        """Pass on white space behind the last element of a chunk at once, and apply the limits to the rest."""
        rest = self._cross_space()
        if rest and not rest.startswith(b"<"):
            self._fail(StreamCondition.BAD_FORMAT, "text between elements")
            return
        limit = self.max_element_bytes
        if limit is not None and self.position - self.boundary > limit:
            self._fail(StreamCondition.POLICY_VIOLATION, f"element longer than {limit} bytes")

    def _cross_space(self) -> bytes:
        """Move the boundary behind the white space that follows it; return what comes after that in this chunk."""
        if self._depth != 1 or self.boundary < self._base:
            return b""
        rest = self._data[self.boundary - self._base :]
        after = rest.lstrip(_SPACE)
        self.boundary += len(rest) - len(after)
        return after

    def _watch(self, data: bytes) -> None:
        """Remember where the watched bytes begin, also when they are cut by the edge of the chunk."""
        if self.position > self.boundary:
            reach = len(WATCHED) - 1
            if WATCHED in self._tail[-reach:] + data[:reach]:
                self._watched_at.append(self._base - 1)
        at = data.find(WATCHED)
        while at >= 0:
            self._watched_at.append(self._base + at)
            at = data.find(WATCHED, at + 1)

    def _take_watched(self, end: int) -> bool:
        """Return whether watched bytes lie before ``end``, in the element that ends there."""
        spelt, self._spelt = self._spelt, False
        hits = self._watched_at
        if not hits or hits[0] >= end:
            return spelt
        del hits[: bisect_left(hits, end)]
        return True

    def _fail_unless_over(self, condition: StreamCondition, text: str) -> None:
        """Report a fault, unless it is junk behind the stream's end, which is of no interest."""
        if not self._state_over:
            self._fail(condition, text)

    def _fail(self, condition: StreamCondition, text: str) -> None:
        self._state_over = True
        self._cross_space()
        self.events.append(StreamFault(self.boundary, self.boundary, condition, text))

    # --- handlers for expat

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if len(attributes) > MAX_ATTRIBUTES:
            raise _Refused(StreamCondition.POLICY_VIOLATION, f"more than {MAX_ATTRIBUTES} attributes")
        if attributes and _WATCHED_TEXT in "\0".join(attributes.values()):
            self._spelt = True
        if self._depth > 2:
            self._childless = False
            if self._depth > self._max_depth:
                raise _Refused(StreamCondition.POLICY_VIOLATION, f"more than {self._max_depth} levels deep")
            return
        index = self._index
        if self._depth == 1:
            self._tag = name
            self._on_header()
            return
        self._cross_gap(index)
        self._start = index
        self._name = name
        self._childless = True
        self._text = False

    def _on_header(self) -> None:
        # Headers are only ever read by step(), whose pieces end where a tag does.
        self.boundary = self._base + len(self._data)
        self._take_watched(self.boundary)
        self._check_size(0, self.boundary)
        self.events.append(StreamStart(0, self.boundary))

    def _on_text(self, text: str) -> None:
        self._text = True

    def _on_end(self, name: str) -> None:
        self._depth -= 1
        if self._depth > 1:
            return
        index = self._index
        if self._depth == 0:
            self._on_stream_end(index)
            return
        end = index if self._is_empty_element(index) else self._end_of_tag(index)
        self._check_size(self._start, end)
        self.boundary = end
        watched = self._take_watched(end)
        local = self._name.rpartition(":")[2]
        self.stanzas += local in STANZAS
        if local == "a":
            # The bytes of an earlier chunk, or of an earlier piece of one that is stepped through, are gone.
            self.ack = self._data[self._start - self._base : end - self._base] if self._start >= self._base else b""
        usual = self._name in STANZAS or (self._name in USUAL and not self.acks)
        if not usual or self.every or self._stepping or watched:
            self.events.append(WholeElement(self._start, end, self._name, self.stanzas))
            self._reported += 1
            if self._reported == MAX_EVENTS_PER_SCAN and not self._stepping:
                raise _Enough

    def _on_stream_end(self, index: int) -> None:
        self._cross_gap(index)
        if not self._name and self._is_before(index, b"/>"):
            raise _Refused(StreamCondition.BAD_FORMAT, "empty stream element")
        start, self.boundary = self.boundary, self._end_of_tag(index)
        self._state_over = True
        self.events.append(StreamEnd(start, self.boundary))

    # --- arithmetic on the current chunk

    def _is_empty_element(self, index: int) -> bool:
        return self._childless and not self._text and self._is_before(index, b"/>")

    def _is_before(self, index: int, two: bytes) -> bool:
        offset = index - self._base
        if offset >= 2:
            return self._data[offset - 2 : offset] == two
        return (self._tail + self._data[: max(0, offset)])[: len(self._tail) + offset][-2:] == two

    def _end_of_tag(self, index: int) -> int:
        return self._base + self._data.index(b">", max(0, index - self._base)) + 1

    def _cross_gap(self, index: int) -> None:
        """Move the boundary behind what lies between two top-level elements: white space, or nothing."""
        if index == self.boundary:
            return
        # White space at the end of a chunk has moved the boundary along, so a gap that began in an earlier chunk began
        # with something else.
        gap = self._data[self.boundary - self._base : index - self._base] if self.boundary >= self._base else b"<"
        rest = gap.lstrip(_SPACE)
        if rest:
            self.boundary += len(gap) - len(rest)
            raise _Refused(StreamCondition.BAD_FORMAT, "text between elements")
        self.boundary = index

    def _check_size(self, start: int, end: int) -> None:
        limit = self.max_element_bytes
        if limit is not None and end - start > limit:
            raise _Refused(StreamCondition.POLICY_VIOLATION, f"element longer than {limit} bytes")


def _fault_of(head: bytes) -> tuple[StreamCondition, str] | None:
    """Return the fault of a document that begins so, if expat would not report it."""
    # Expat would change to another encoding, whatever it was told, and its offsets would count other bytes. In UTF-8,
    # NUL is not a character that XML allows.
    if b"\0" in head or head.startswith(_OTHER_ENCODINGS):
        return StreamCondition.UNSUPPORTED_ENCODING, _ONLY_UTF8
    # Expat would skip a byte-order mark. A stream has none (RFC 6120 section 11.6): this is the character U+FEFF.
    if head.startswith(_NO_MARK):
        return StreamCondition.NOT_WELL_FORMED, "a character in front of the stream"
    return None


def _on_declaration(version: str, encoding: str | None, standalone: int) -> None:
    if encoding is not None and encoding.upper() != "UTF-8":
        raise _Refused(StreamCondition.UNSUPPORTED_ENCODING, _ONLY_UTF8)


def _on_comment(text: str) -> None:
    raise _Refused(StreamCondition.RESTRICTED_XML, "comments are not allowed")


def _on_processing_instruction(target: str, data: str) -> None:
    raise _Refused(StreamCondition.RESTRICTED_XML, "processing instructions are not allowed")


def _on_doctype(name: str, system_id: str | None, public_id: str | None, has_internal_subset: bool) -> None:
    raise _Refused(StreamCondition.RESTRICTED_XML, "document types are not allowed")


def _condition(error: ExpatError) -> tuple[StreamCondition, str]:
    if error.code in _RESTRICTED:
        return StreamCondition.RESTRICTED_XML, expat.ErrorString(error.code)
    return StreamCondition.NOT_WELL_FORMED, expat.ErrorString(error.code)
