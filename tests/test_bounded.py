"""The dictionary that forgets."""

from __future__ import annotations

from cxfr_proxy.bounded import BoundedDict


def test_the_oldest_goes_first() -> None:
    latest: BoundedDict[str, int] = BoundedDict(3)
    for number, key in enumerate("abcad"):
        latest[key] = number
    assert list(latest.items()) == [("c", 2), ("a", 3), ("d", 4)]
    latest["c"] = 5
    latest["e"] = 6
    assert list(latest) == ["d", "c", "e"]
