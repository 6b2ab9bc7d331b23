"""A worker's way to its supervisor: messages that go at once, and what is reported soon after it has changed."""

from __future__ import annotations

import trio

from cxfr_proxy.ipc.channel import Channel
from cxfr_proxy.ipc.messages import Message, News
from cxfr_proxy.transfers.client_news import AnyClientNews
from cxfr_proxy.transfers.relayed import Relayed
from cxfr_proxy.worker.session_changes import SessionChanges


class Reporter:
    """Over ``channel``. A :class:`~cxfr_proxy.transfers.registry.RegistryListener`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._dirty = trio.Event()
        self.sessions = SessionChanges()
        """Which have come and gone since the last report."""

    def post(self, message: Message) -> None:
        """Send the message; see :meth:`~cxfr_proxy.ipc.channel.Channel.post`."""
        self._channel.post(message)

    async def wait_changed(self) -> None:
        """Wait until there is something to report; another call waits for what comes then."""
        await self._dirty.wait()
        self._dirty = trio.Event()

    # --- what the registry tells

    def changed(self) -> None:
        self._dirty.set()

    def session_noted(self, relayed: Relayed, *, resumed: bool = False) -> None:
        self.sessions.note(relayed, resumed=resumed)

    def session_removed(self, relayed: Relayed) -> None:
        self.sessions.note_end(relayed)

    def client_news(self, news: AnyClientNews) -> None:
        self.post(News(news))
