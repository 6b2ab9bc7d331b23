"""Get a FAST token (XEP-0484) on each node, and try it on the next one. No token is left valid on a node that does what
it is asked for: one that was not spent there is spent where it is from."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from cxfr_proxy.doctor.examining.client import SaslProfile
from cxfr_proxy.doctor.examining.doors import FAULTS, Doors, Place, why
from cxfr_proxy.doctor.examining.scram import MECHANISMS
from cxfr_proxy.doctor.examining.together import together
from cxfr_proxy.doctor.facts import TokenFacts
from cxfr_proxy.doctor.offer import Offer
from cxfr_proxy.xmpp import names
from cxfr_proxy.xmpp.stanza import qualified

_TOKEN_LOGIN: Final = "HT-SHA-256-NONE"
"""The one without channel binding, which is all that can pass a proxy."""
_LONGEST_TOKEN: Final = 4096
_AT_A_TIME: Final = 4


async def try_tokens(doors: Doors, places: Sequence[tuple[Place, Offer]]) -> list[TokenFacts]:
    """Return what came of each node's token on the next of those nodes that have tokens."""
    having = [(place, mechanism) for place, offer in places if (mechanism := _scram_of(offer)) is not None]
    if len(having) < 2 or doors.account.password is None:
        return []
    found: dict[int, TokenFacts] = {}

    async def try_one(number: int) -> None:
        (origin, mechanism), (target, _) = having[number], having[(number + 1) % len(having)]
        agent = str(uuid.uuid4())
        token = await _issue(doors, origin, mechanism, agent)
        if token is None:
            return
        is_spent = False
        with suppress(*FAULTS):  # nothing is known then: it was no answer to the token
            refused = await _use(doors, target, token, agent)
            is_spent = refused is None
            found[number] = TokenFacts(origin.spec.name, target.spec.name, doors.account.domain, refused)
        if not is_spent:
            with suppress(*FAULTS):
                await _use(doors, origin, token, agent)

    await together((partial(try_one, number) for number in range(len(having))), at_a_time=_AT_A_TIME)
    return [found[number] for number in sorted(found)]


def _scram_of(offer: Offer) -> str | None:
    """Return the mechanism by which a token can be had there; ``None``: there are no tokens, or not in this way."""
    if _TOKEN_LOGIN not in offer.tokens:
        return None
    return next((each for each in MECHANISMS if each in offer.sasl2), None)


async def _issue(doors: Doors, place: Place, mechanism: str, agent: str) -> str | None:
    """Log in and return a new token; ``None``: the login has failed, or there was none in the answer."""
    wanted = f"<request-token xmlns='{names.FAST}' mechanism='{_TOKEN_LOGIN}'/>"
    text = ""
    with suppress(*FAULTS):  # a login that fails is a fault of its own; a token is valid however its stream ends
        async with doors.reach(place) as client:
            _, success = await client.log_in_by_scram(mechanism, SaslProfile(names.SASL2, _agent(agent) + wanted))
            token = success.find(qualified(names.FAST, "token"))
            text = token.get("token", "") if token is not None else ""
    return text if 0 < len(text) <= _LONGEST_TOKEN else None


async def _use(doors: Doors, place: Place, token: str, agent: str) -> str | None:
    """Log in by the token, for the last time, and return why that failed. Raises one of :data:`FAULTS` where the node
    could not be asked, or was too slow."""
    proof = hmac.digest(token.encode(), b"Initiator", "sha256")
    profile = SaslProfile(names.SASL2, f"{_agent(agent)}<fast xmlns='{names.FAST}' invalidate='true'/>")
    async with doors.reach(place) as client:
        try:
            answer = await client.ask(profile.begin(_TOKEN_LOGIN, doors.account.local.encode() + b"\0" + proof))
            profile.expect(answer, "success")
        except FAULTS as exc:
            return why(exc)
        return None


def _agent(number: str) -> str:
    return f"<user-agent id='{number}'><software>cxfr-proxy doctor</software></user-agent>"
