"""The sockets on which clients connect: a set for each worker slot, bound or inherited, and kept open here.

So connections wait for a worker that is being replaced, and a slot without a worker can stop listening.

An address that this proxy binds has a socket for each slot. Of an inherited one there are as many as its giver has:
they are dealt out, and if they are fewer than the slots, some slots accept from the same one.
"""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cxfr_proxy.admin.control.socket_file import SocketFile, SocketUse, socket_file
from cxfr_proxy.config.choices import ReusePort
from cxfr_proxy.config.table import Config
from cxfr_proxy.config.values import ListenAddress, ListenPath
from cxfr_proxy.errors import ConfigError
from cxfr_proxy.net.inherited import InheritedSocket, InheritedSockets
from cxfr_proxy.net.listen import BACKLOG, bind_shared, listen_again, listen_no_more
from cxfr_proxy.supervisor.upgrading.handover import GivenSocket
from cxfr_proxy.supervisor.workers.slot import WorkerSlot


class ClientSockets:
    """The listening sockets of all slots; none before :meth:`bind`. ``inherited`` ones are used where they fit."""

    def __init__(self, inherited: InheritedSockets) -> None:
        self._inherited = inherited
        self._own: list[list[socket.socket]] = []
        """Of each slot: those that it alone has, and that may stop listening."""
        self._common: list[list[socket.socket]] = []
        """Of each slot: the others."""
        self.addresses: list[tuple[str, int]] = []
        """The addresses on which they listen."""
        self.paths: list[str] = []
        """Those of unix sockets."""
        self._lasting: set[int] = set()  # descriptors that a service manager keeps as well
        self._shared = False
        self._bound: list[SocketFile] = []
        self._files = ExitStack()

    def bind(self, config: Config, *, named: bool) -> None:
        """Have sockets for each worker of ``config``. ``named``: an operator has said where to listen; if not, and a
        service manager has handed over sockets, it is these.

        Raises :class:`ConfigError`; the caller calls :meth:`close` all the same.
        """
        self._own = [[] for _ in range(config.workers)]
        self._common = [[] for _ in range(config.workers)]
        if not named and (lasting := self._inherited.take_lasting()):
            self._deal_out(lasting)
        else:
            for address in config.listen:
                if not self._deal_out(self._inherited.take(address)):
                    self._bind(address, with_others=config.reuse_port is ReusePort.YES)
            for path in config.listen_unix:
                if not self._deal_out(self._inherited.take_path(path.path)):
                    self._bind_path(path)
        if unused := self._inherited.take_lasting():
            self._deal_out(unused)  # for close()
            raise ConfigError(
                f"{', '.join(map(str, unused))}: the service manager hands this over, but no listen or listen-unix "
                "names it (if there is neither, the proxy takes whatever is handed over)"
            )
        self._inherited.close()

    def _deal_out(self, sockets: Sequence[InheritedSocket]) -> bool:
        """Give each slot its share of them, and at least one of each address; return whether there are any."""
        places: dict[str | tuple[str, int], list[InheritedSocket]] = defaultdict(list)
        for each in sockets:
            places[each.path if each.is_unix else (each.host[1], each.port)].append(each)
        for place, there in places.items():
            if isinstance(place, str):
                self.paths.append(place)
            else:
                self.addresses.append(place)
            slots = len(self._own)
            for slot in range(slots):
                for each in there[slot::slots] or [there[slot % len(there)]]:
                    alone = len(there) >= slots and not each.lasting and not each.is_unix
                    (self._own if alone else self._common)[slot].append(each.listening)
                    if each.lasting:
                        self._lasting.add(each.listening.fileno())
        return bool(sockets)

    def _bind(self, address: ListenAddress, *, with_others: bool) -> None:
        bound = bind_shared([address], len(self._own), with_others=with_others)
        for own, sockets in zip(self._own, bound, strict=True):
            own.extend(sockets)
        self.addresses.extend(sock.getsockname()[:2] for sock in bound[0])

    def _bind_path(self, place: ListenPath) -> None:
        use = SocketUse("clients' socket", "--listen-unix", False, place.mode, place.user, place.group, BACKLOG)
        bound = self._files.enter_context(socket_file(Path(place.path), use))
        self._bound.append(bound)
        listening = bound.listening
        listening.setblocking(False)
        self.paths.append(place.path)
        for sockets in self._common:
            sockets.append(listening)

    def given(self) -> list[GivenSocket]:
        """Return all of them, for a process that inherits them."""
        descriptors = {sock.fileno() for sockets in (*self._own, *self._common) for sock in sockets}
        return [GivenSocket(each, lasting=each in self._lasting) for each in sorted(descriptors - {-1})]

    def share(self) -> None:
        """Have all of them listen, whatever becomes of a worker: another process has them as well. To stop listening
        would stop that one, too. Raises ``OSError``."""
        self._shared = True
        listen_again(sock for sockets in self._own for sock in sockets if sock.fileno() >= 0)

    def share_no_more(self) -> None:
        """Note that this process has them alone."""
        self._shared = False

    def give_away(self) -> None:
        """Close them, as far as this process goes: another one listens on them."""
        for bound in self._bound:
            bound.given_away = True
        self.close()

    def of(self, slot: WorkerSlot) -> list[socket.socket]:
        """Return the sockets that the slot's workers inherit."""
        return [*self._own[slot.number - 1], *self._common[slot.number - 1]]

    def rest(self, slot: WorkerSlot) -> None:
        """Stop listening: the kernel would give these sockets connections that nobody takes.

        Sockets that others have as well go on: somebody else accepts, or the service manager has clients wait.
        """
        if not self._shared:
            listen_no_more(self._own[slot.number - 1])

    def wake(self, slot: WorkerSlot) -> None:
        """Listen again; nothing happens if they do. Raises ``OSError``."""
        listen_again(self._own[slot.number - 1])

    def close(self) -> None:
        """Close all, those included that were inherited and not used."""
        for sock in [each for sockets in (*self._own, *self._common) for each in sockets]:
            sock.close()
        self._inherited.close()
        self._files.close()
