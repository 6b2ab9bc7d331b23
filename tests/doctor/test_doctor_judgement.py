"""The rules, without a connection: three sound clusters have no findings, and each fault that is planted in one of them
is called by its name, and by no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from cxfr_proxy.cluster.addresses import Address, PublicAddress
from cxfr_proxy.cluster.nodes import AdminState, Migrate, NodeSpec, NodeTls, ProxyProtocol, Resume
from cxfr_proxy.doctor.facts import (
    ClusterFacts,
    Failure,
    LookStage,
    MoveFacts,
    NodeFacts,
    NodeTlsFacts,
    OtherWay,
    OwnFacts,
    PublicFacts,
    QueueFacts,
    SeenCertificate,
    SessionFacts,
    TokenFacts,
)
from cxfr_proxy.doctor.findings import PROXY
from cxfr_proxy.doctor.judgement import judge
from cxfr_proxy.doctor.offer import Offer, read_offer
from cxfr_proxy.doctor.questions import open_questions
from cxfr_proxy.doctor.report import DoctorReport
from cxfr_proxy.doctor.rules import RULES
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.opening import usual_header

DOMAIN = "example.org"
NOW = 1_800_000_000.0
DAY = 86_400.0
GOOD = SeenCertificate((DOMAIN, "*.nodes.example.org"), NOW - DAY, NOW + 80 * DAY)
QUEUE = QueueFacts("10.0.0.11:5222", 1024, 0)
SASL = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{}</mechanisms>"
SASL2 = (
    "<authentication xmlns='urn:xmpp:sasl:2'>{}<inline><bind xmlns='urn:xmpp:bind:0'/><sm xmlns='urn:xmpp:sm:3'/>"
    "<fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-NONE</mechanism></fast></inline></authentication>"
)
STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
BINDING = (
    "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'><channel-binding type='tls-exporter'/></sasl-channel-binding>"
)
EJABBERD = "<c xmlns='http://jabber.org/protocol/caps' node='http://www.process-one.net/en/ejabberd/' ver='1'/>"
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-1")


def mechanisms(*names: str) -> str:
    return "".join(f"<mechanism>{name}</mechanism>" for name in names)


def offer(*parts: str) -> Offer:
    """What a node with such features offers."""
    return read_offer(
        stanza.parse(f"<stream:features>{''.join(parts)}</stream:features>".encode(), usual_header.CONTEXT)
    )


PLAIN_OFFER = offer(SASL.format(mechanisms(*SCRAM, "PLAIN")))
RICH_OFFER = offer(SASL.format(mechanisms(*SCRAM)), SASL2.format(mechanisms(*SCRAM)), EJABBERD)


def spec(number: int, **options: object) -> NodeSpec:
    return NodeSpec(f"node{number}", Address(f"10.0.0.1{number}", 5222), **options)  # type: ignore[arg-type]


def prosodies() -> ClusterFacts:
    """Two nodes that share nothing, on plain legs."""
    session = SessionFacts(
        mechanism="SCRAM-SHA-1", managed=True, resumable=True, version="Prosody 0.12.3", ahead=0.4, ahead_slack=1.0
    )
    node = NodeFacts(spec(1), DOMAIN, offer=PLAIN_OFFER, named=PLAIN_OFFER, session=session, queue=QUEUE)
    return ClusterFacts(
        (node, replace(node, spec=spec(2))),
        OwnFacts((replace(GOOD, label="a.pem"),), (), (DOMAIN,), (QueueFacts("0.0.0.0:5222", 1024, 3),), 4096),
        (MoveFacts("node1", "node2", DOMAIN, "item-not-found"), MoveFacts("node2", "node1", DOMAIN, "item-not-found")),
        now=NOW,
    )


def ejabberds() -> ClusterFacts:
    """A cluster with PROXY headers, migration and downgrade protection, on plain legs."""

    def node(number: int) -> NodeFacts:
        listed = spec(
            number,
            send_proxy=ProxyProtocol.V2,
            resume=Resume.SHARED,
            migrate=Migrate.EXTERNAL,
            migrate_address=Address(f"10.0.0.1{number}", 5226),
        )
        told = ("10.0.0.5", 9)
        session = SessionFacts(
            mechanism="SCRAM-SHA-256",
            scram=frozenset("rsih"),
            managed=True,
            resumable=True,
            version="ejabberd 24.12",
            ahead=-0.7,
            ahead_slack=1.0,
            seen_address=told,
            told_address=told,
        )
        return NodeFacts(
            listed,
            DOMAIN,
            offer=PLAIN_OFFER,
            named=RICH_OFFER,
            session=session,
            external="",
            open_door=False,
            queue=QUEUE,
        )

    moves = (
        MoveFacts("node1", "node2", DOMAIN, None, by_certificate=True),
        MoveFacts("node2", "node1", DOMAIN, None, by_certificate=True),
    )
    tokens = (TokenFacts("node1", "node2", DOMAIN, None),)
    return ClusterFacts((node(1), node(2)), OwnFacts(most_queued=4096), moves, tokens, NOW)


def mongooses() -> ClusterFacts:
    """A cluster of another domain each, on TLS legs without channel binding, with addresses for clients."""

    def node(number: int, domain: str) -> NodeFacts:
        listed = spec(number, tls=NodeTls.DIRECT, public=PublicAddress(f"n{number}.nodes.example.org", 5223))
        return NodeFacts(
            listed,
            domain,
            tls=NodeTlsFacts("TLSv1.3", replace(GOOD, names=(domain,))),
            offer=RICH_OFFER,
            named=RICH_OFFER,
            public=PublicFacts(replace(GOOD, names=(domain, "*.nodes.example.org"))),
        )

    return ClusterFacts((node(1, DOMAIN), node(2, DOMAIN), node(3, "example.net")), now=NOW)


SOUND = (prosodies, ejabberds, mongooses)


@pytest.mark.parametrize("cluster", SOUND)
def test_a_sound_cluster_has_no_findings(cluster: Callable[[], ClusterFacts]) -> None:
    assert judge(cluster()) == ()


def with_node(cluster: ClusterFacts, **changes: object) -> ClusterFacts:
    """Change the second node."""
    first, second, *others = cluster.nodes
    return replace(cluster, nodes=(first, replace(second, **changes), *others))  # type: ignore[arg-type]


def with_spec(cluster: ClusterFacts, **changes: object) -> ClusterFacts:
    return with_node(cluster, spec=replace(cluster.nodes[1].spec, **changes))  # type: ignore[arg-type]


def with_session(cluster: ClusterFacts, **changes: object) -> ClusterFacts:
    session = cluster.nodes[1].session
    assert session is not None
    return with_node(cluster, session=replace(session, **changes))  # type: ignore[arg-type]


def failed(cluster: ClusterFacts, stage: LookStage, *ways: OtherWay) -> ClusterFacts:
    return with_node(cluster, failure=Failure(stage, "why"), other_ways=ways, offer=None, named=None, session=None)


def with_offer(cluster: ClusterFacts, *parts: str) -> ClusterFacts:
    return with_node(cluster, offer=offer(*parts), named=offer(*parts))


def both_offer(cluster: ClusterFacts, *parts: str) -> ClusterFacts:
    shown = offer(*parts)
    return replace(cluster, nodes=tuple(replace(each, offer=shown, named=shown) for each in cluster.nodes))


def with_certificate(cluster: ClusterFacts, refused: str | None = None, **changes: object) -> ClusterFacts:
    certificate = replace(GOOD, **changes)  # type: ignore[arg-type]
    return with_node(cluster, tls=NodeTlsFacts("TLSv1.3", certificate, refused, refused == "mismatch"))


def with_public(cluster: ClusterFacts, **changes: object) -> ClusterFacts:
    certificate = replace(GOOD, names=(DOMAIN, "*.nodes.example.org"))
    return with_node(cluster, public=PublicFacts(replace(certificate, **changes)))  # type: ignore[arg-type]


V1, V2 = ProxyProtocol.V1, ProxyProtocol.V2
NONE, DIRECT = NodeTls.NONE, NodeTls.DIRECT
PLANTED: list[tuple[str, ClusterFacts]] = [
    ("unreachable", failed(prosodies(), LookStage.CONNECT)),
    ("proxy-header-missing", failed(prosodies(), LookStage.GREETING, OtherWay(V2, NONE), OtherWay(V1, NONE))),
    ("proxy-header-unexpected", failed(ejabberds(), LookStage.GREETING, OtherWay(None, NONE))),
    ("proxy-header-unexpected", failed(ejabberds(), LookStage.GREETING, OtherWay(V1, NONE))),
    ("tls-mode", failed(mongooses(), LookStage.TLS, OtherWay(None, NONE))),
    ("tls-failed", failed(mongooses(), LookStage.TLS)),
    ("tls-required", with_offer(prosodies(), STARTTLS)),
    ("no-login", with_offer(prosodies(), "<register xmlns='http://jabber.org/features/iq-register'/>")),
    ("no-login-passes", with_offer(prosodies(), SASL.format(mechanisms("EXTERNAL", "GSSAPI")))),
    ("domain-unknown", failed(prosodies(), LookStage.DOMAIN)),
    ("no-greeting", failed(prosodies(), LookStage.GREETING)),
    ("node-certificate-expired", with_certificate(mongooses(), "expired", not_after=NOW - DAY)),
    ("node-certificate-expired", with_certificate(mongooses(), "not yet valid", not_before=NOW + DAY)),
    ("node-certificate-name", with_certificate(mongooses(), "mismatch", names=("example.com",))),
    ("node-certificate-name", with_certificate(mongooses(), "mismatch", names=("*.org",))),
    ("node-certificate-name", with_certificate(mongooses(), "self-signed certificate", names=("example.com",))),
    ("node-certificate-untrusted", with_certificate(mongooses(), "self-signed certificate")),
    (
        "node-certificate-untrusted",
        with_spec(with_certificate(mongooses(), "self-signed certificate", names=()), verify_name="10.0.0.12"),
    ),
    (
        "node-certificate-expires-soon",
        with_certificate(mongooses(), not_before=NOW - 87 * DAY, not_after=NOW + 3 * DAY),
    ),
    ("public-unseen", with_node(mongooses(), public=PublicFacts(reason="no connection to the node: refused"))),
    ("public-certificate-expired", with_public(mongooses(), not_after=NOW - DAY)),
    ("public-certificate-host", with_public(mongooses(), names=(DOMAIN,))),
    ("public-certificate-name", with_public(mongooses(), names=("*.nodes.example.org",))),
    ("own-certificate", replace(prosodies(), own=OwnFacts((), ("no certificate is for example.org",)))),
    ("own-certificate-expires-soon", replace(prosodies(), own=OwnFacts((replace(GOOD, not_after=NOW + 1),)))),
    ("mechanisms-differ", with_offer(prosodies(), SASL.format(mechanisms("SCRAM-SHA-1", "PLAIN")))),
    ("sasl2-differs", with_node(ejabberds(), named=offer(SASL.format(mechanisms(*SCRAM)), EJABBERD))),
    (
        "features-differ",
        with_offer(prosodies(), SASL.format(mechanisms(*SCRAM, "PLAIN")), "<ver xmlns='urn:xmpp:features:rosterver'/>"),
    ),
    ("sasl2-lost", with_node(prosodies(), behind_tls=RICH_OFFER)),
    ("channel-binding", both_offer(mongooses(), SASL.format(mechanisms(*SCRAM, "SCRAM-SHA-1-PLUS")), BINDING)),
    ("downgrade-protection", both_offer(ejabberds(), SASL.format(mechanisms(*SCRAM, "DIGEST-MD5")))),
    ("tls-version-told", with_session(ejabberds(), told_tls="0303")),
    ("tls-version-old", with_node(mongooses(), tls=NodeTlsFacts("TLSv1.2", GOOD))),
    ("plain-in-the-open", with_node(with_spec(prosodies(), address=Address("198.41.0.4", 5222)), queue=None)),
    ("login-refused", with_node(prosodies(), session=SessionFacts(refused="it refuses the login: not-authorized"))),
    ("stream-management", with_session(prosodies(), managed=False, resumable=False)),
    ("stream-management", with_session(prosodies(), resumable=False)),
    ("resume-not-shared", replace(ejabberds(), moves=(MoveFacts("node1", "node2", DOMAIN, "item-not-found"),))),
    ("resume-shared-unsaid", replace(prosodies(), moves=(MoveFacts("node1", "node2", DOMAIN, None),))),
    ("migrate-refused", with_node(ejabberds(), external="it does not offer SASL EXTERNAL")),
    ("migrate-open", with_node(ejabberds(), open_door=True)),
    ("token-local", replace(ejabberds(), tokens=(TokenFacts("node1", "node2", DOMAIN, "not-authorized"),))),
    ("clock", with_session(prosodies(), ahead=-90.0)),
    ("address-hidden", with_session(ejabberds(), seen_address=("10.0.0.5", 40_000))),
    ("node-queue", with_node(prosodies(), queue=QueueFacts("127.0.0.1:5222", 5, 0))),
    ("own-queue", replace(prosodies(), own=OwnFacts(queues=(QueueFacts("0.0.0.0:5222", 128, 0),)))),
    ("own-queue", replace(prosodies(), own=OwnFacts(most_queued=128))),
]


@pytest.mark.parametrize(
    ("name", "facts"), PLANTED, ids=[f"{name}-{number}" for number, (name, _) in enumerate(PLANTED)]
)
def test_a_planted_fault_is_called_by_its_name(name: str, facts: ClusterFacts) -> None:
    findings = judge(facts)
    assert {each.rule.name for each in findings} == {name}
    assert {each.symptom.node for each in findings} <= {None, "node1", "node2", "node3"}
    assert all(each.expected and each.rule.effect and each.remedies for each in findings)


def test_every_rule_has_a_planted_fault() -> None:
    assert {rule.name for rule in RULES} == {name for name, _ in PLANTED}
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_remedies_are_of_known_programs() -> None:
    known = {PROXY, *ServerSoftware}
    assert all(rule.remedies.keys() <= known for rule in RULES)


def test_the_worst_comes_first() -> None:
    cluster = with_node(with_session(prosodies(), ahead=-90.0), queue=QueueFacts("127.0.0.1:5222", 5, 0))
    both = replace(cluster, own=OwnFacts((), ("no certificate is for example.org",)))
    assert [each.rule.name for each in judge(both)] == ["own-certificate", "clock", "node-queue"]


def test_only_the_settings_of_the_nodes_own_program_are_shown() -> None:
    [finding] = judge(with_session(prosodies(), managed=False, resumable=False))
    assert finding.remedies.keys() == {"Prosody"}
    [finding] = judge(with_node(mongooses(), public=PublicFacts(reason="refused")))
    assert "ejabberd" in finding.remedies, "said by its capabilities"
    assert "Prosody" not in finding.remedies
    [finding] = judge(with_node(failed(prosodies(), LookStage.CONNECT)))
    assert set(ServerSoftware) <= finding.remedies.keys(), "nothing is known of it"


def test_a_fault_of_several_domains_is_one_finding() -> None:
    first, second = prosodies().nodes
    down = replace(second, failure=Failure(LookStage.CONNECT, "refused"), offer=None, named=None, session=None)
    facts = ClusterFacts((first, down, replace(down, domain="example.net")), now=NOW)
    [finding] = judge(facts)
    assert finding.domains == (DOMAIN, "example.net")
    first_line = next(DoctorReport.of(facts).lines())
    assert first_line.startswith("error: node2 (10.0.0.12:5222) for example.org, example.net: unreachable: ")


def test_a_certificate_that_the_proxy_accepts_is_for_the_right_name() -> None:
    """OpenSSL takes a common name without a dot, and an IPv6 address, which are no names of a domain."""
    assert judge(with_certificate(mongooses(), names=())) == ()


def test_a_plain_leg_on_this_machine_is_in_nobodys_hearing() -> None:
    cluster = with_spec(prosodies(), address=Address("198.41.0.4", 5222))
    assert judge(with_node(cluster, queue=QueueFacts("198.41.0.4:5222", 1024, 0))) == ()
    assert judge(with_node(cluster, queue=None)) != ()


def test_a_login_that_the_doctor_does_not_try_is_no_fault() -> None:
    facts = with_node(prosodies(), session=SessionFacts(refused="it offers no mechanism", tried=False))
    assert judge(facts) == ()
    assert ("node2",) in [each.nodes for each in open_questions(facts)]


def test_a_node_in_maintenance_may_be_down() -> None:
    facts = with_spec(failed(prosodies(), LookStage.CONNECT), admin_state=AdminState.MAINT)
    assert judge(facts) == ()


def test_a_note_is_nothing_to_mend() -> None:
    moved = replace(prosodies(), moves=(MoveFacts("node1", "node2", DOMAIN, None),))
    assert not DoctorReport.of(moved).needs_mending
    assert DoctorReport.of(with_session(prosodies(), ahead=-90.0)).needs_mending


def test_nobody_is_praised_for_what_was_not_seen() -> None:
    facts = replace(ejabberds(), moves=())
    unseen = replace(facts, nodes=tuple(replace(each, session=None, external=None, queue=None) for each in facts.nodes))
    open_ones = open_questions(unseen)
    assert [each.nodes for each in open_ones[:4]] == [("node1", "node2")] * 4
    assert {each.question for each in open_ones} >= {"whether resume=shared is true", "whether migrate=external works"}
    assert open_questions(prosodies()) == ()


def test_what_a_node_says_is_cut() -> None:
    facts = with_node(prosodies(), session=SessionFacts(refused="x" * 60_000))
    report = DoctorReport.of(facts)
    assert max(map(len, report.lines())) < 1000
    assert len(report.as_json()) < 10_000


def test_what_a_node_says_moves_no_cursor() -> None:
    facts = with_node(prosodies(), session=SessionFacts(refused="\x1b[2J\u202e"))
    report = DoctorReport.of(facts)
    text = "\n".join([*report.lines(), *report.lines(40)])
    assert "\\u001b[2J\\u202e" in text
    assert "\x1b" not in text + report.as_json()


def test_what_is_ignored_is_only_named() -> None:
    facts = both_offer(mongooses(), SASL.format(mechanisms(*SCRAM, "SCRAM-SHA-1-PLUS")), BINDING)
    report = DoctorReport.of(facts, ["channel-binding", "clock"])
    assert (report.findings, report.ignored, report.needs_mending) == ((), ("channel-binding",), False)
    assert list(report.lines())[-1] == "3 nodes examined: no findings; ignored: channel-binding"
    assert json.loads(report.as_json())["ignored"] == ["channel-binding"]
    assert DoctorReport.of(facts, ["clock"]).needs_mending


@pytest.mark.parametrize("room", [10, 40, 80, 200])
def test_lines_are_folded_between_words(room: int) -> None:
    """No word is lost or cut, and a setting can be copied from the screen."""
    report = DoctorReport.of(failed(ejabberds(), LookStage.GREETING, OtherWay(None, NONE)))
    folded = list(report.lines(room))
    assert " ".join(folded).split() == " ".join(report.lines()).split()
    assert all(len(line) <= max(room, 26) or " " not in line.strip() for line in folded)
    assert not any(line.startswith("   ") and not line.startswith(" " * 11) for line in folded)


def test_a_certificate_that_lives_for_a_day_ends_soon_when_its_renewal_has_failed() -> None:
    """An authority of one's own may give it for 24 hours, to be renewed when a third is left."""
    day = with_certificate(mongooses(), not_before=NOW - 0.7 * DAY, not_after=NOW + 0.3 * DAY)
    assert judge(day) == ()
    late = with_certificate(mongooses(), not_before=NOW - 0.8 * DAY, not_after=NOW + 0.2 * DAY)
    assert [each.rule.name for each in judge(late)] == ["node-certificate-expires-soon"]
