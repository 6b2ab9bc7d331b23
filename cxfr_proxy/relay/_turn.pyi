from collections.abc import Callable

from cxfr_proxy.xmpp.framing.framer import Framer
from cxfr_proxy.xmpp.websocket.hot_path import NativeFrames

Receive = Callable[[int, memoryview], object]  # a number; typeshed has it otherwise
Send = Callable[[bytes], int | None]

class Switchboard:
    @property
    def serving(self) -> int: ...
    @property
    def received_0(self) -> int: ...
    @property
    def received_1(self) -> int: ...
    def __new__(
        cls, epoll: int, not_now: tuple[type[OSError], ...], broken: Callable[[], object], /
    ) -> Switchboard: ...
    def connect(
        self,
        fd: int,
        to: int,
        side: int,
        scanner: Framer,
        most: int,
        receive: Receive | None,
        send: Send | None,
        unframe: NativeFrames | None,
        frame: NativeFrames | None,
        /,
    ) -> None: ...
    def disconnect(self, fd: int, /) -> float: ...
    def heard(self, fd: int, /) -> float: ...
    def turn(
        self,
        now: float,
        seconds: float,
        ready: Callable[[int, int], None],
        ended: Callable[[int], None],
        scanned: Callable[[int, bytes, int, int], None],
        unsent: Callable[[int, bytes], None],
        /,
    ) -> None: ...
