"""The ladder as a table: what is known about a client, what was tried, what comes next."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cxfr_proxy.session.ladder import Order, Rung, Traits, Trigger, next_rung
from cxfr_proxy.xmpp.connection_transfer import Server

SERVER = Server("node2.example.org")
TLS = Traits(tls=True, resumable=False, full_jid_known=True, knows_cxfr=None)
PLAIN = replace(TLS, tls=False)
RESUMABLE = replace(TLS, resumable=True)
RESUMABLE_KNOWS = replace(RESUMABLE, knows_cxfr=True)
RESUMABLE_REFUSES = replace(RESUMABLE, knows_cxfr=False)
KNOWS = replace(TLS, knows_cxfr=True)
REFUSES = replace(TLS, knows_cxfr=False)
NAMELESS = replace(KNOWS, full_jid_known=False)
SLIXMPP = replace(REFUSES, preferred=(Rung.SEE_OTHER_HOST,))
SENT_HOME = replace(SLIXMPP, redirected_home=True)
MIGRATABLE = replace(RESUMABLE, migratable=True)
QXMPP = replace(REFUSES, preferred=(Rung.CUT,))
ORDER = Order(Trigger.DRAIN, "node2", SERVER)
ALONE = Order(Trigger.DRAIN, "node2", SERVER, resumes=False)
ALLOWED = replace(ORDER, migrates=True)
ALONE_NO_ADDRESS = Order(Trigger.DRAIN, "node2", resumes=False)
HURRIED = Order(Trigger.DRAIN, "node2", SERVER, hurried=True)
NO_ADDRESS = Order(Trigger.DRAIN, "node2")
C, S, R = Rung.CXFR, Rung.SEE_OTHER_HOST, Rung.RESET


@pytest.mark.parametrize(
    ("traits", "order", "try_unknown", "rungs"),
    [
        (TLS, ORDER, True, [C, S, R]),
        (MIGRATABLE, ALLOWED, True, [Rung.MIGRATE, Rung.CUT]),
        (replace(MIGRATABLE, knows_cxfr=True), ALLOWED, True, [Rung.MIGRATE, C, Rung.CUT]),
        (MIGRATABLE, ORDER, True, [Rung.CUT]),
        (RESUMABLE, ALLOWED, True, [Rung.CUT]),
        (MIGRATABLE, replace(ALLOWED, hurried=True), True, [Rung.CUT]),
        (TLS, ORDER, False, [S, R]),
        (TLS, NO_ADDRESS, True, [C, R]),
        (TLS, HURRIED, True, [S, R]),
        (PLAIN, ORDER, True, [C, R]),
        (PLAIN, HURRIED, True, [R]),
        (KNOWS, ORDER, False, [C, S, R]),
        (REFUSES, ORDER, True, [S, R]),
        (REFUSES, NO_ADDRESS, True, [R]),
        (NAMELESS, ORDER, True, [S, R]),
        (RESUMABLE, ORDER, True, [Rung.CUT]),
        (RESUMABLE_REFUSES, ORDER, True, [Rung.CUT]),
        (RESUMABLE_KNOWS, ORDER, False, [C, Rung.CUT]),
        (RESUMABLE_KNOWS, HURRIED, True, [Rung.CUT]),
        (RESUMABLE, ALONE, True, [Rung.CUT]),
        (SLIXMPP, ORDER, True, [S, R]),
        (replace(SLIXMPP, resumable=True), ALONE, True, [S, Rung.CUT]),
        (replace(SLIXMPP, resumable=True), ORDER, True, [Rung.CUT]),
        (replace(SLIXMPP, resumable=True), ALONE_NO_ADDRESS, True, [Rung.CUT]),
        (replace(SLIXMPP, resumable=True, tls=False), ALONE, True, [Rung.CUT]),
        (replace(SLIXMPP, knows_cxfr=True), ORDER, True, [C, S, R]),
        (SENT_HOME, NO_ADDRESS, True, [S, R]),
        (replace(SENT_HOME, tls=False), ORDER, True, [S, R]),
        (replace(SENT_HOME, resumable=True), ALONE_NO_ADDRESS, True, [S, Rung.CUT]),
        (replace(SENT_HOME, resumable=True), ORDER, True, [Rung.CUT]),
        (replace(SENT_HOME, knows_cxfr=None), ORDER, True, [C, S, R]),
        (QXMPP, ORDER, True, [Rung.CUT]),
        (QXMPP, NO_ADDRESS, True, [Rung.CUT]),
        (replace(QXMPP, knows_cxfr=True), ORDER, True, [C, Rung.CUT]),
    ],
)
def test_the_rungs_in_order(traits: Traits, order: Order, try_unknown: bool, rungs: list[Rung]) -> None:
    tried: list[Rung] = []
    for expected in rungs:
        assert next_rung(traits, order, tried, try_unknown=try_unknown) is expected
        tried.append(expected)


def test_there_is_always_a_rung_and_none_but_the_last_comes_twice() -> None:
    flags = [True, False]
    for tls, managed, known, hurried, try_unknown in itertools.product(flags, repeat=5):
        for knows, server in itertools.product([True, False, None], [SERVER, None]):
            for resumes, preferred in itertools.product(flags, [(), (S,), (Rung.CUT,)]):
                traits = Traits(tls, managed, known, knows, preferred)
                order = Order(Trigger.DRAIN, "n", server, hurried=hurried, resumes=resumes)
                tried: list[Rung] = []
                while (rung := next_rung(traits, order, tried, try_unknown=try_unknown)) not in (R, Rung.CUT):
                    assert rung not in tried
                    assert tls or rung is not S
                    tried.append(rung)
