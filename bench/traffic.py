"""Traffic down an XMPP stream, in four kinds. The same bytes in every run."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

HEADER: Final = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
    b"id='bench' from='example.org' version='1.0' xml:lang='en'>"
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Top-level elements, one after the other."""

    name: str
    stanzas: Sequence[bytes]

    def cut(self, size: int | None) -> list[bytes]:
        """All of it in pieces of ``size`` bytes; ``None``: one stanza each."""
        if size is None:
            return list(self.stanzas)
        whole = b"".join(self.stanzas)
        return [whole[at : at + size] for at in range(0, len(whole), size)]


def _text(rng: random.Random, length: int) -> str:
    letters = "etaoin shrdlu etaoin shrdlu cmfwyp ETAO.,'"
    return "".join(rng.choice(letters) for _ in range(length)).replace("'", "&apos;")


def _chat(rng: random.Random) -> bytes:
    return (
        f"<message from='juliet@example.org/phone' to='romeo@example.org/laptop' type='chat' "
        f"id='{rng.getrandbits(64):x}'><body>{_text(rng, rng.randint(20, 180))}</body>"
        "<active xmlns='http://jabber.org/protocol/chatstates'/>"
        "<request xmlns='urn:xmpp:receipts'/></message>"
    ).encode()


def _presence(rng: random.Random) -> bytes:
    version = base64.b64encode(rng.randbytes(20)).decode()
    return (
        f"<presence from='user{rng.randint(0, 999)}@example.org/phone' to='romeo@example.org/laptop'><show>away</show>"
        "<priority>5</priority><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' "
        f"node='https://example.org/client' ver='{version}'/><x xmlns='vcard-temp:x:update'>"
        f"<photo>{rng.randbytes(20).hex()}</photo></x></presence>"
    ).encode()


def _archived(rng: random.Random) -> bytes:
    body = _text(rng, rng.randint(20, 180))
    return (
        "<message from='romeo@example.org' to='romeo@example.org/laptop'><result xmlns='urn:xmpp:mam:2' queryid='q1' "
        f"id='{rng.getrandbits(64)}'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' "
        "stamp='2024-05-01T12:00:00Z'/><message xmlns='jabber:client' from='juliet@example.org/phone' "
        f"to='romeo@example.org' type='chat' id='{rng.getrandbits(64):x}'><body>{body}</body>"
        f"<origin-id xmlns='urn:xmpp:sid:0' id='{rng.getrandbits(64):x}'/><stanza-id xmlns='urn:xmpp:sid:0' "
        f"by='romeo@example.org' id='{rng.getrandbits(64)}'/></message></forwarded></result></message>"
    ).encode()


def _avatar(rng: random.Random) -> bytes:
    return (
        f"<iq from='juliet@example.org' to='romeo@example.org/laptop' type='result' id='{rng.getrandbits(64):x}'>"
        "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:xmpp:avatar:data'>"
        f"<item id='{rng.randbytes(20).hex()}'><data xmlns='urn:xmpp:avatar:data'>"
        f"{base64.b64encode(rng.randbytes(rng.randint(8_000, 30_000))).decode()}</data></item></items></pubsub></iq>"
    ).encode()


def _make() -> tuple[Traffic, ...]:
    rng = random.Random(51)  # of no meaning, but always the same
    return (
        Traffic("chat", [_chat(rng) for _ in range(200)]),
        Traffic("presence", [_presence(rng) for _ in range(200)]),
        Traffic("MAM page", [_archived(rng) for _ in range(100)]),
        Traffic("avatar", [_avatar(rng) for _ in range(20)]),
    )


TRAFFIC: Final = _make()
