"""The rules of the door: they are looked at before anything that a request asks for.

1. The name by which the proxy was asked (``Host``) is one of its own. A page of somebody else's cannot have its own
   name lead here (DNS rebinding) and be taken for one of the proxy's.
2. No page of another origin asks. Without CORS it could not read an answer; an order would be carried out all the same.
3. A token is in the ``Authorization`` header, where no browser puts one by itself: there are no cookies.

Without a file of tokens nobody is let in.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from cxfr_proxy.admin.commands.callers import Caller, Role, Way
from cxfr_proxy.admin.http.certificate import HttpCertificate
from cxfr_proxy.admin.http.exchange import HttpProblem, PageRequest
from cxfr_proxy.admin.http.tokens import ApiToken, TokenList, read_token_file
from cxfr_proxy.config.hints import TOKENS_IN_THE_CLEAR
from cxfr_proxy.config.table import Config
from cxfr_proxy.events import emit

_log = logging.getLogger(__name__)

_CHALLENGE: Final = 'Bearer realm="cxfr-proxy"'
_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::[0-9]{1,5})?")
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
"""RFC 6750 section 2.1."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody who was let in, and the token by which."""

    caller: Caller
    token: ApiToken

    def check_role(self, needed: Role) -> None:
        """Raise :class:`HttpProblem` if the caller's role does not suffice."""
        if not self.caller.role.may(needed):
            challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{needed}"'
            raise HttpProblem(
                HTTPStatus.FORBIDDEN,
                f"it takes the role {needed}, and {self.caller.name} has the role {self.caller.role}",
                ("WWW-Authenticate", challenge),
            )


class Access:
    """The tokens, and the proxy's own names, as the settings and the certificate say.

    Raises :class:`ConfigError` where the file of tokens can't be used.
    """

    def __init__(self, config: Config, certificate: HttpCertificate) -> None:
        self.certificate = certificate
        self.tokens: TokenList | None = None
        """``None``: there is no file of them."""
        self._names: frozenset[str] = frozenset()
        self._shows_tokens = False
        self.use(config, self.prepare(config))

    @staticmethod
    def prepare(config: Config) -> TokenList | None:
        """Read the file of tokens that these settings name; ``None``: there is none. Raises :class:`ConfigError`."""
        return read_token_file(config.http_tokens) if config.http_tokens is not None else None

    def use(self, config: Config, tokens: TokenList | None) -> None:
        """Go by these from now on."""
        self.tokens = tokens
        own = [socket.gethostname(), socket.gethostname().partition(".")[0], "localhost", *config.http_host]
        if config.http is not None and config.http.host is not None:
            own.append(config.http.host)
        self._names = frozenset(name.lower().removesuffix(".") for name in own if name)
        if config.shows_tokens and not self._shows_tokens:
            emit(_log, "http-in-the-clear", level=logging.WARNING, address=str(config.http), reason=TOKENS_IN_THE_CLEAR)
        self._shows_tokens = config.shows_tokens

    @property
    def is_on(self) -> bool:
        """Whether somebody could be let in."""
        return self.tokens is not None

    def holds(self, admission: Admitted) -> bool:
        """Return whether that token still lets in."""
        return self.tokens is not None and admission.token in self.tokens.tokens

    def check_token(self, admission: Admitted) -> None:
        """Raise :class:`HttpProblem` if that token lets nobody in any more."""
        if not self.holds(admission):
            raise _not_known()

    def admit(self, request: PageRequest) -> Admitted:
        """Return who asks. Raises :class:`HttpProblem` for those who are not let in."""
        if self.tokens is None:
            raise HttpProblem(HTTPStatus.NOT_FOUND, "there is no API here: it takes --http-tokens FILE")
        self.check_origin(request)
        given = request.header("authorization")
        if not given:
            raise HttpProblem(
                HTTPStatus.UNAUTHORIZED,
                "expected a token, as Authorization: Bearer TOKEN",
                ("WWW-Authenticate", _CHALLENGE),
            )
        match = _BEARER.fullmatch(given)
        token = self.tokens.find(match[1]) if match is not None else None
        if token is None:
            emit(_log, "http-denied", level=logging.WARNING, client=request.address, reason="unknown token")
            raise _not_known()
        return Admitted(Caller(token.name, token.role, Way.HTTP, address=request.address or None), token)

    def check_origin(self, request: PageRequest) -> None:
        """Raise :class:`HttpProblem` for a request by another name than the proxy's, or of another site's page."""
        host = request.header("host")
        if not self._is_own(host):
            raise HttpProblem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "expected an IP address or one of this proxy's names in the URL (see the setting http-host)",
            )
        origin = request.header("origin")
        foreign = bool(origin) and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
        if foreign or request.header("sec-fetch-site") not in _OF_THIS_SITE:
            raise HttpProblem(HTTPStatus.FORBIDDEN, "no page of another site may ask here")

    def _is_own(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = (match["v6"] or match["name"]).lower().removesuffix(".")
        return name in self._names or self.certificate.names(name) or _is_address(name)


def _not_known() -> HttpProblem:
    return HttpProblem(
        HTTPStatus.UNAUTHORIZED,
        "this token is not known here",
        ("WWW-Authenticate", f'{_CHALLENGE}, error="invalid_token"'),
    )


_OF_THIS_SITE: Final[Sequence[str]] = ("", "none", "same-origin")
"""Values of ``Sec-Fetch-Site`` where no other site's page asks; empty: no browser, or an old one."""


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
