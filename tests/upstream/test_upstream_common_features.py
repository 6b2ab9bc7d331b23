"""When all nodes of a domain can be shown as one."""

from __future__ import annotations

import pytest

from cxfr_proxy.cluster.members import Cluster
from cxfr_proxy.cluster.nodes import AdminState, Health
from cxfr_proxy.cluster.nodes_file import parse_nodes
from cxfr_proxy.upstream import common_features as module
from cxfr_proxy.upstream.common_features import CommonFeatures
from cxfr_proxy.xmpp import names

PLAIN = f"<stream:features><mechanisms xmlns='{names.SASL}'><mechanism>PLAIN</mechanism></mechanisms></stream:features>"
OTHER = PLAIN.replace("PLAIN", "SCRAM-SHA-1")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(module, "emit", lambda logger, event, **fields: seen.append({"event": event} | fields))
    return seen


def cluster(**offered: str | None) -> Cluster:
    """Nodes with what each greets example.org with."""
    found = (
        Cluster()
        if not offered
        else Cluster(parse_nodes("".join(f"{name} 10.0.0.1:5222\n" for name in offered), "nodes.txt"))
    )
    for name, features in offered.items():
        if features is not None:
            found.get(name).features = {"example.org": features.encode()}
    return found


def shown(nodes: Cluster, domain: str = "example.org") -> bytes | None:
    return CommonFeatures(nodes, max_bytes=None).of(domain, offer_starttls=False)


def test_nodes_that_offer_the_same() -> None:
    found = shown(cluster(a=PLAIN, b=PLAIN.replace("'", '"')), "Example.ORG")
    assert found is not None
    assert b"PLAIN" in found


@pytest.mark.parametrize("offered", [{}, {"a": None}, {"a": PLAIN, "b": None}, {"a": "<stream:features/>"}])
def test_what_is_not_known_of_all_is_not_shown(offered: dict[str, str | None], events: list[dict[str, object]]) -> None:
    nodes = cluster(**offered)
    assert shown(nodes) is None
    CommonFeatures(nodes, max_bytes=None).compare()
    assert not events


def test_another_domain() -> None:
    assert shown(cluster(a=PLAIN), "example.net") is None


def test_an_international_domain_in_each_of_its_spellings() -> None:
    nodes = cluster(a=PLAIN)
    nodes.get("a").features = {**nodes.get("a").features, "bücher.example": PLAIN.encode()}
    assert {shown(nodes, domain) for domain in ("bücher.example", "Bücher.example.", "xn--bcher-kva.example")} == {
        shown(nodes)
    }


def test_only_nodes_that_take_users_now_count() -> None:
    nodes = cluster(a=PLAIN, b=OTHER, c=None)
    nodes.get("b").health = Health.DOWN
    nodes.get("c").set_admin_state(AdminState.DRAIN)
    assert shown(nodes) is not None
    nodes.get("a").health = Health.DOWN
    assert shown(nodes) is None, "nobody would take the login"


def test_a_difference_is_logged_once_and_again_when_it_changes(events: list[dict[str, object]]) -> None:
    nodes = cluster(a=PLAIN, b=OTHER, c=PLAIN)
    subject = CommonFeatures(nodes, max_bytes=None)
    for offer_starttls in (False, True):
        assert subject.of("example.org", offer_starttls=offer_starttls) is None
        subject.compare()
    assert [(each["event"], each["elements"], each["nodes"], each["unlike"]) for each in events] == [
        ("features-differ", "mechanisms", "b", "a")
    ]
    nodes.get("b").features = {"example.org": PLAIN.encode()}
    assert subject.of("example.org", offer_starttls=False) is not None
    subject.compare()
    subject.compare()
    assert [each["event"] for each in events] == ["features-differ", "features-agree"]
    nodes.get("c").features = {"example.org": OTHER.encode()}
    assert subject.of("example.org", offer_starttls=False) is None
    subject.compare()
    assert len(events) == 3
