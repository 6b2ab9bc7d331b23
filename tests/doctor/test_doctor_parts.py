"""The parts of the doctor that need no node: SCRAM, the kernel's queues, the proxy's own side, words of servers."""

from __future__ import annotations

import base64
import socket
import time
from pathlib import Path

import pytest
from relay_tools import write_pem

from cxfr_proxy.config.table import Config
from cxfr_proxy.config.values import ListenAddress
from cxfr_proxy.doctor.examining.own import own_facts, own_queues
from cxfr_proxy.doctor.examining.queues import ListeningSocket, accepting, listening_sockets
from cxfr_proxy.doctor.examining.scram import ScramClient, ScramFault
from cxfr_proxy.doctor.facts import ClusterFacts, OwnFacts
from cxfr_proxy.doctor.judgement import judge
from cxfr_proxy.doctor.offer import read_offer
from cxfr_proxy.doctor.software import ServerSoftware
from cxfr_proxy.xmpp import stanza
from cxfr_proxy.xmpp.opening import usual_header

RFC_5802 = (
    "SCRAM-SHA-1",
    "fyko+d2lbbFgONRv9qkxdawL",
    "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
    "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
    "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
)
RFC_7677 = (
    "SCRAM-SHA-256",
    "rOprNGfwEbeRWgbNEkqO",
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
)


@pytest.mark.parametrize(("mechanism", "nonce", "challenge", "answer", "proof"), [RFC_5802, RFC_7677])
def test_scram_as_in_its_specifications(mechanism: str, nonce: str, challenge: str, answer: str, proof: str) -> None:
    exchange = ScramClient(mechanism, "user", "pencil", nonce)
    assert exchange.first().decode() == f"n,,n=user,r={nonce}"
    exchange.read(challenge.encode())
    assert exchange.answer().decode() == answer
    exchange.check(proof.encode())
    with pytest.raises(ScramFault):
        exchange.check(b"v=" + base64.b64encode(b"another"))


def test_names_are_escaped() -> None:
    assert ScramClient("SCRAM-SHA-1", "a,b=c", "x", "n").first() == b"n,,n=a=2Cb=3Dc,r=n"


@pytest.mark.parametrize(
    "challenge",
    [b"", b"\xff", b"r=other,s=QQ==,i=1", b"r=n1,s=QQ==,i=1000001", b"r=n1,s=QQ==,i=-1", b"r=n1,s=!,i=1", b"r=n1,i=x"],
)
def test_a_challenge_that_is_none(challenge: bytes) -> None:
    with pytest.raises(ScramFault) as fault:
        ScramClient("SCRAM-SHA-1", "user", "pencil", "n").read(challenge)
    assert "pencil" not in str(fault.value)


# --- queues


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_room_in_a_queue_is_the_one_asked_for(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no such address")
        sock.listen(7)
        port = sock.getsockname()[1]
        with socket.create_connection((host, port)):
            seen = listening_sockets()
            if not seen:
                pytest.skip("the kernel does not tell")
            [mine] = accepting(seen, host, port)
    assert (mine.host, mine.most) == (host, 7)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.0.9", "10.0.0.9"),
        ("10.0.0.1", "0.0.0.0"),
        ("fe80::1%eth0", "::"),
        ("fd00::9", "fd00::9"),
    ],
)
def test_a_connection_goes_to_the_socket_that_is_meant_most(host: str, expected: str) -> None:
    """The proxy on all addresses, and nodes on one of their own on the same machine."""
    listening = [ListeningSocket(each, 5222, 1024, 0) for each in ("0.0.0.0", "::", "10.0.0.9", "fd00::9")]
    assert [each.host for each in accepting(listening, host, 5222)] == [expected]
    assert accepting(listening, host, 5223) == []


def test_a_socket_for_all_addresses_takes_both_kinds_unless_it_is_of_the_first() -> None:
    assert accepting([ListeningSocket("0.0.0.0", 5222, 5, 0)], "fd00::1", 5222) == []
    [both] = accepting([ListeningSocket("::", 5222, 5, 0)], "10.0.0.1", 5222)
    assert both.host == "::"


# --- the proxy's own side


def test_the_proxys_own_certificates(tmp_path: Path) -> None:
    """One that the proxy makes for trying things ends in 30 days."""
    config = Config(certificate=(write_pem(tmp_path, "example.org"),))
    facts = ClusterFacts((), own_facts(config, ["example.org"]), now=time.time())
    assert judge(facts) == ()
    soon = ClusterFacts((), facts.own, now=time.time() + 25 * 86_400)
    assert [each.rule.name for each in judge(soon)] == ["own-certificate-expires-soon"]
    other = ClusterFacts((), own_facts(config, ["example.com"]), now=time.time())
    [finding] = judge(other)
    assert finding.rule.name == "own-certificate"
    assert "no certificate is for example.com" in finding.symptom.seen


def test_only_the_proxys_own_listeners_are_its_own() -> None:
    listening = [
        ListeningSocket("0.0.0.0", 5222, 128, 3),
        ListeningSocket("10.0.0.9", 5222, 5, 0),
        ListeningSocket("0.0.0.0", 80, 5, 0),
    ]
    config = Config(listen=(ListenAddress(None, 5222),))
    own = OwnFacts(queues=own_queues(config, listening), most_queued=128)
    assert [queue.address for queue in own.queues] == ["0.0.0.0:5222"]
    [finding] = judge(ClusterFacts((), own))
    assert finding.rule.name == "own-queue"
    assert finding.symptom.seen == "0.0.0.0:5222: room for 128, 3 wait"


def test_a_program_that_asks_for_less_than_the_kernel_gives_is_not_the_proxy() -> None:
    """A server that clients still come to directly, on the port that the proxy is to have."""
    listening = [ListeningSocket("0.0.0.0", 5222, 128, 0)]
    own = OwnFacts(queues=own_queues(Config(listen=(ListenAddress(None, 5222),)), listening), most_queued=4096)
    assert judge(ClusterFacts((), own)) == ()


# --- words of servers


@pytest.mark.parametrize(
    ("said", "software"),
    [
        ("Prosody 0.12.3", ServerSoftware.PROSODY),
        ("ejabberd 24.12", ServerSoftware.EJABBERD),
        ("http://www.process-one.net/en/ejabberd/", ServerSoftware.EJABBERD),
        ("MongooseIM 6.3.0", ServerSoftware.MONGOOSEIM),
        ("https://www.igniterealtime.org/projects/openfire/", ServerSoftware.OPENFIRE),
        ("Tigase", None),
        ("", None),
        (None, None),
    ],
)
def test_servers_by_what_they_say(said: str | None, software: ServerSoftware | None) -> None:
    assert ServerSoftware.named(said) is software


def test_an_offer_without_end_is_read_in_part() -> None:
    names = "".join(f"<mechanism>M{number}</mechanism>" for number in range(1000))
    text = (
        f"<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{names}</mechanisms></stream:features>"
    )
    assert len(read_offer(stanza.parse(text.encode(), usual_header.CONTEXT)).sasl) == 64
