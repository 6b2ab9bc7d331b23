"""The facts about sessions that can be resumed, for negotiations."""

from __future__ import annotations

from cxfr_proxy.xmpp.stream_management import Resumption


class KnownResumptions(dict[str, Resumption]):
    """By the id that a client has for its session."""

    def resumption(self, stream_management_id: str, /) -> Resumption | None:
        return self.get(stream_management_id)
