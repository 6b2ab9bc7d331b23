"""What the operator decided, as far as a session needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cxfr_proxy.cluster.targets import ANYWHERE, RedirectTargets
from cxfr_proxy.config.table import Limits, Timeouts
from cxfr_proxy.session.client_software import ClientSoftware
from cxfr_proxy.xmpp.opening.login import Login
from cxfr_proxy.xmpp.stream_management import Resumption


def _nowhere_else(login: Login, domain: str, node: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Policy:
    """One for all sessions.

    ``token`` makes unguessable text. ``resumption`` tells what is known of a session that can be resumed (XEP-0198), by
    the id that its client has; ``client_software``, what is known of client programs. ``wrap_resumable_ids``: clients
    get ids of the proxy's own. ``redirected_lately``: whether that user (a bare JID) was sent to another address not
    long before that time. ``elsewhere`` says whether the one who logs in so at that domain belongs on another node.
    """

    timeouts: Timeouts
    limits: Limits
    try_unknown: bool
    token: Callable[[], str]
    resumption: Callable[[str], Resumption | None]
    client_software: ClientSoftware
    wrap_resumable_ids: bool = False
    trust_node_redirects: bool = False
    redirect_targets: RedirectTargets = ANYWHERE
    redirected_lately: Callable[[str | None, float], bool] = lambda user, now: False
    check_authzid: bool = True
    elsewhere: Callable[[Login, str, str], bool] = _nowhere_else
