"""docs/connection-transfer.md says what the code does: its listings are read, its tables compared."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import cxfr_proxy
from cxfr_proxy.plugins.rules import MAX_MOVES, Condition, Move, Refusal, Situation, judge
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.connection_transfer import ConnectionTransfer, answer, is_transfer, mentions_support

ROOT: Final = Path(cxfr_proxy.__file__).parents[1]
PAGE: Final = (ROOT / "docs" / "connection-transfer.md").read_text("utf-8")
HEADER: Final = b"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
ME: Final = "juliet@xmpp.test/r"


def spoken(who: str) -> list[stanza.Element]:
    """The IQs of one side in the traces."""
    return [stanza.parse(iq.encode(), HEADER) for iq in re.findall(rf"^{who}: (<iq .*</iq>|<iq .*/>)$", PAGE, re.M)]


def test_the_traces_are_what_the_code_reads_and_says() -> None:
    requests = [each for each in spoken("S") if is_transfer(each)]
    ours, *forged = requests
    transfer = ConnectionTransfer.parse(ours)
    assert transfer.to_bytes().decode() in PAGE, "the proxy writes it to the letter"
    assert judge(ours, Situation(ME, tls=True)) == Move(transfer.id, transfer.domain, transfer.server)
    support, accepted, *refused = spoken("C")
    assert mentions_support(support)
    said = answer(accepted)
    assert said is not None
    assert said.accepted
    for request, error in zip(forged, refused, strict=True):
        verdict = judge(request, Situation(ME, tls=True))
        assert isinstance(verdict, Refusal)
        (told,) = error
        assert told.get("type") == verdict.condition.type
        assert [str(part.tag).rpartition("}")[2] for part in told] == [verdict.condition, "text"]
        assert told[1].text == verdict.text


def test_the_listing_of_the_specification_is_followed() -> None:
    listing = re.search(r"```xml\n(.*?)```", PAGE, re.S)
    assert listing is not None
    request = stanza.parse(listing[1].strip().encode(), HEADER)
    verdict = judge(request, Situation("user@jabber.org/r", tls=True))
    assert isinstance(verdict, Move)
    assert str(verdict.server) == "server3.jabber.org:6222"


def test_every_refusal_is_in_the_table() -> None:
    table = re.findall(r"\| `([a-z-]+)` \| `([a-z]+)` \|", PAGE)
    assert table == [(condition.value, condition.type) for condition in Condition]


def test_both_plugins_agree_on_the_numbers() -> None:
    module = (ROOT / "cxfr_proxy" / "plugins" / "js" / "cxfr.js").read_text("utf-8")
    assert f"MAX_MOVES = {MAX_MOVES};" in module
    package = json.loads((ROOT / "cxfr_proxy" / "plugins" / "js" / "package.json").read_text("utf-8"))
    assert package["version"] == cxfr_proxy.__version__
