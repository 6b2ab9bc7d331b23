"""The settings that a session needs, and its questions to the rest of the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.config.table import Limits, Timeouts
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.stream_management import Resumption


class Surroundings(Protocol):
    """The knowledge that all sessions share."""

    @property
    def client_software(self) -> ClientSoftware:
        """The knowledge of client programs."""

    def new_token(self) -> str:
        """Return text that nobody can guess."""

    def resumption(self, stream_management_id: str, /) -> Resumption | None:
        """Return what is known of a session that can be resumed (XEP-0198), by the id that its client has."""

    def redirected_lately(self, user: str | None, now: float) -> bool:
        """Return whether that user (a bare JID) was sent to another address not long before that time."""

    def takes_sessions(self, node: str) -> bool:
        """Return whether the proxy may log in at that node as its users, and resume their sessions there."""

    def is_elsewhere(self, login: Login, domain: str, node: str) -> bool:
        """Return whether the user of that login at that domain belongs on another node."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings for all sessions. ``wrap_resumable_ids``: clients get ids of the proxy's own for their resumable
    sessions. ``stands_in``: the proxy speaks XEP-0198 with nodes in the place of clients that don't."""

    timeouts: Timeouts
    limits: Limits
    surroundings: Surroundings
    try_unknown: bool
    wrap_resumable_ids: bool = False
    trust_node_redirects: bool = False
    redirect_targets: RedirectTargets = ANYWHERE
    check_authzid: bool = True
    stands_in: bool = False
