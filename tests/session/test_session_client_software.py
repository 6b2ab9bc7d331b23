"""The knowledge of software: the table against what the measured clients send, and how more is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxfr_proxy.config.values import CLIENTS, ClientMatch, Trait
from cxfr_proxy.session import client_software as module
from cxfr_proxy.session.client_software import (
    MEASURED,
    SILENCES,
    SILENCES_BEHIND_YES,
    ClientSoftware,
    Software,
    habit_of,
    name_of,
)
from cxfr_proxy.session.ladder import Rung

SENT = {
    "xmpp.js": Software(resource="x7f3", agent="xmpp.js"),
    "slixmpp": Software("http://slixmpp.com/ver/1.8.5#OErK4nBtx6JV2uK05xyCf47ioT0=", "3741"),
    "aioxmpp": Software("http://aioxmpp.zombofant.net/#abc="),
    "Gajim": Software("https://gajim.org#abc=", "gajim.5XKQ2Z8H"),
    "Profanity": Software("https://profanity-im.github.io#abc=", "profanity.Ab1z"),
    "QXmpp": Software("https://github.com/qxmpp-project/qxmpp#abc=", "QXmpp"),
    "mcabber": Software("http://mcabber.com/caps#abc=", "mcabber.00c4f0a2"),
    "go-sendxmpp": Software(resource="go-sendxmpp.5f0c2a1b"),
    "Converse": Software("https://conversejs.org#abc=", "converse.js-29140752"),
}
"""By the table's name, what such a client says about itself."""
UNMEASURED = Software("https://unmeasured.example#1", "phone", "Unmeasured")
CAPS = "https://unmeasured.example#1"
DOMAIN = "example.org"


def asks(subject: ClientSoftware, software: Software = UNMEASURED, said: bool | None = None) -> bool | None:
    return subject.knows_cxfr(software, DOMAIN, said)


@pytest.mark.parametrize("habit", MEASURED, ids=lambda habit: habit.name)
def test_each_row_is_of_one_software(habit: module.Habit) -> None:
    software = SENT[habit.name]
    assert [row.name for row in MEASURED if row.fits(software)] == [habit.name]
    assert name_of(software) == habit.name
    assert asks(ClientSoftware(), software) is (None if habit.answers else False)


def test_only_who_never_answers_is_not_asked() -> None:
    assert {habit.name for habit in MEASURED if not habit.answers} == {"Profanity", "Converse"}


def test_a_refusal_in_its_own_words_is_enough() -> None:
    assert name_of(Software(refusal="No handlers registered for this request.")) == "slixmpp"


@pytest.mark.parametrize("name", ["mcabber", "go-sendxmpp"])
def test_who_would_stay_down_is_moved_only_if_forced(name: str) -> None:
    """Or if it knows the request after all, so that nothing of it ends that it does not end itself."""
    subject, software = ClientSoftware(), SENT[name]
    assert subject.stays_down(software, DOMAIN, None)
    assert not subject.stays_down(software, DOMAIN, True)
    assert not subject.stays_down(replace(software, caps=SENT["Gajim"].caps), DOMAIN, None), "the first row that fits"
    for habit in MEASURED:
        assert subject.stays_down(SENT[habit.name], DOMAIN, None) is habit.stays_down
    assert not subject.stays_down(UNMEASURED, DOMAIN, False)


@pytest.mark.parametrize("name", [name for name, software in SENT.items() if software.caps])
def test_capabilities_are_enough(name: str) -> None:
    assert name_of(Software(SENT[name].caps)) == name


@pytest.mark.parametrize("name", ["Gajim", "Profanity", "QXmpp", "mcabber", "go-sendxmpp", "Converse"])
def test_a_resource_that_the_software_chose_is_enough(name: str) -> None:
    assert name_of(Software(resource=SENT[name].resource)) == name


def test_rungs() -> None:
    assert {habit.name: habit.rungs for habit in MEASURED if habit.rungs} == {
        "xmpp.js": (Rung.SEE_OTHER_HOST,),
        "slixmpp": (Rung.SEE_OTHER_HOST,),
        "QXmpp": (Rung.CUT,),
    }
    assert [habit.name for habit in MEASURED if habit.redirected_home] == ["slixmpp"]


def test_names_of_what_was_not_measured() -> None:
    assert habit_of(UNMEASURED) is None
    assert name_of(UNMEASURED) == name_of(Software(agent="x")) == "other"
    assert name_of(Software()) == name_of(Software(resource="phone")) == "unknown"


# --- who decides


@pytest.mark.parametrize(
    "client", ["caps=https://unmeasured.example", "resource=pho", "agent=Unmeasured", "domain=EXAMPLE.org."]
)
def test_the_operator_decides_by_any_trait(client: str) -> None:
    listed = [CLIENTS.parse(client)]
    assert asks(ClientSoftware(allow=listed), said=False) is True
    assert asks(ClientSoftware(deny=listed), said=True) is False
    assert asks(ClientSoftware(allow=listed, deny=listed)) is False


@pytest.mark.parametrize("client", ["caps=unmeasured", "resource=hone", "agent=Unmeas", "domain=org"])
def test_whom_the_operator_does_not_mean(client: str) -> None:
    assert asks(ClientSoftware(deny=[CLIENTS.parse(client)]), said=True) is True


def test_somebody_who_says_nothing_is_meant_by_nobody_but_the_domain() -> None:
    every = [ClientMatch(trait, "x") for trait in Trait]
    assert ClientSoftware(allow=every).knows_cxfr(Software(), DOMAIN, None) is None
    assert ClientSoftware(allow=every).knows_cxfr(Software(), "X", None) is True


def test_what_the_session_has_said_counts_before_what_others_did() -> None:
    subject = ClientSoftware()
    subject.learn(CAPS, False)
    assert asks(subject) is False
    assert asks(subject, said=True) is True


def test_what_others_have_said_counts_before_the_table() -> None:
    """slixmpp with a plugin, say: its features make another hash."""
    subject, slixmpp = ClientSoftware(), SENT["slixmpp"]
    assert slixmpp.caps is not None
    subject.learn(slixmpp.caps, True)
    assert asks(subject, slixmpp) is True
    assert asks(subject, Software("http://slixmpp.com/ver/1.8.5#another")) is None


# --- learning


def test_nothing_is_known_of_software_that_was_not_met() -> None:
    assert asks(ClientSoftware()) is None


def test_the_last_answer_counts() -> None:
    subject = ClientSoftware()
    for answer in (True, False, True):
        assert subject.is_news(CAPS, answer)
        subject.learn(CAPS, answer)
        assert asks(subject) is answer
        assert not subject.is_news(CAPS, answer)
        assert subject.is_news(CAPS, None) is answer, "nobody is surprised by the silence of who says no"
    assert asks(subject, Software("https://unmeasured.example#2")) is None


def test_silence_counts_when_it_was_met_often_enough() -> None:
    subject = ClientSoftware()
    for _ in range(SILENCES):
        assert asks(subject) is None
        assert subject.is_news(CAPS, None)
        subject.learn(CAPS, None)
    assert asks(subject) is False
    assert subject.learned() == {CAPS: False}


@pytest.mark.parametrize("interrupted", [False, True])
def test_many_silences_in_a_row_turn_a_yes(interrupted: bool) -> None:
    subject = ClientSoftware()
    subject.learn(CAPS, True)
    for _ in range(SILENCES_BEHIND_YES - 1):
        subject.learn(CAPS, None)
    assert asks(subject) is True
    if interrupted:
        assert subject.is_news(CAPS, True)
        subject.learn(CAPS, True)
        assert not subject.is_news(CAPS, True)
    assert subject.is_news(CAPS, None)
    subject.learn(CAPS, None)
    assert asks(subject) is interrupted
    assert subject.learned() == {CAPS: interrupted}
    subject.learn(CAPS, True)
    assert asks(subject) is True, "the next who answers puts it right"


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    subject = ClientSoftware()
    for name in ("a", "b", "c"):
        subject.learn(name, True)
    subject.learn("a", None)
    subject.learn("d", False)
    assert subject.learned() == {"c": True, "a": True, "d": False}
