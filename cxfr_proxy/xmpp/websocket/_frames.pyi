from cxfr_proxy.xmpp.framing.framer import Framer

def take(
    scanner: Framer, data: bytes | memoryview, at: int, limit: int, /
) -> tuple[bytes, int, bytes | None, int, int]: ...
def put(
    scanner: Framer,
    data: bytes,
    at: int,
    default: bytes,
    prefixes: tuple[tuple[bytes, bytes], ...],
    lang: bytes,
    /,
) -> tuple[bytes, int, int]: ...
def unmask(data: bytes, mask: bytes, /) -> bytes: ...
