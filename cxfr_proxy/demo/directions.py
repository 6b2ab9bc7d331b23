"""The places that a demo client is told to go to: by a connection transfer (XEP-0051), or by a stream error."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxfr_proxy.demo.habits import Ending, Habits, Security, SeenRung, Target
from cxfr_proxy.demo.wire import HostPort
from cxfr_proxy.xmpp import names, stanza
from cxfr_proxy.xmpp.names import StreamCondition
from cxfr_proxy.xmpp.stanza import Element, qualified


@dataclass(frozen=True, slots=True)
class Directions:
    """``home`` is where the client connects by itself. Directions that make no sense are noted in ``faults``."""

    domain: str
    home: Target
    habits: Habits
    faults: list[str] = field(default_factory=list)

    def transfer(self, query: Element) -> Target | None:
        """Return where a connection transfer leads; ``None``: nowhere, it is at fault."""
        server = query.findtext(qualified(names.CXFR, "server")) or self.domain
        try:
            return self._named(server, Security.DIRECT_TLS)
        except ValueError:
            self.faults.append(f"bad server {server!r}")
            return None

    def stream_error(self, error: Element) -> Ending:
        """Return how the stream ends by that error, and where the client goes then."""
        condition = stanza.stream_condition(error)
        if condition != StreamCondition.SEE_OTHER_HOST:
            return Ending(SeenRung.RESET)
        place = error.findtext(qualified(names.STREAM_ERRORS, condition)) or self.domain
        if not self.habits.follows_redirect:
            return Ending(SeenRung.SEE_OTHER_HOST)
        try:
            return Ending(SeenRung.SEE_OTHER_HOST, self._named(place, self.home.security))
        except ValueError:
            self.faults.append(f"bad see-other-host {place!r}")
            return Ending(SeenRung.SEE_OTHER_HOST)

    def _named(self, server: str, security: Security) -> Target:
        """Return where a name leads: home, if it is the domain. Raises :class:`ValueError`."""
        if server == self.domain:
            return self.home
        encrypted = self.home.security is not Security.NONE
        return Target(HostPort.parse(server), security if encrypted else Security.NONE)
