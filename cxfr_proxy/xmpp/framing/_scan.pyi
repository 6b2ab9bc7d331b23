from cxfr_proxy.xmpp.framing.events import FramerEvent

MAX_ATTRIBUTES: int
MAX_EVENTS_PER_SCAN: int

api: object  # a capsule; see _scan.h

class Scanner:
    max_element_bytes: int | None
    every: bool
    acks: bool
    events: list[FramerEvent]
    held: bytes | bytearray
    @property
    def boundary(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def stanzas(self) -> int: ...
    @property
    def ack(self) -> bytes | None: ...
    def __new__(cls, tag: bytes, offset: int, max_element_bytes: int | None, max_depth: int) -> Scanner: ...
    def scan(self, data: bytes, /) -> int: ...
    def step(self, data: bytes, /) -> int: ...
