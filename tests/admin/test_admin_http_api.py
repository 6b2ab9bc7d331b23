"""The API: paths, arguments, roles and statuses, in front of a fake console."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
import trio
from fake_console import FakeConsole
from fake_site import SECRETS, FakeBody, FakeSite, json_of
from trio.testing import MockClock

from cxfr_proxy.admin.commands.callers import Role
from cxfr_proxy.admin.commands.table import COMMANDS, Command
from cxfr_proxy.admin.commands.views import VIEWS
from cxfr_proxy.admin.http import api
from cxfr_proxy.admin.http.exchange import HttpAnswer, PageRequest
from cxfr_proxy.admin.http.paths import BASE, path_of
from cxfr_proxy.admin.http.tokens import TokenList
from cxfr_proxy.admin.rows.filters import SessionFilter
from cxfr_proxy.admin.rows.order_rows import RestartProgress
from cxfr_proxy.config.table import Config

ASKED = {"show session": "?id=1"}
"""What a view has to be asked for."""


def orders(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(each, "cxfr_proxy_fields") for each in caplog.records if each.message == "order"]  # noqa: B009


def problem_of(answer: HttpAnswer) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json"
    found = json_of(answer)
    assert isinstance(found, dict)
    assert found["status"] == answer.status.value
    assert found["title"] == answer.status.phrase
    return found


# --- looking


@pytest.mark.parametrize("view", VIEWS)
async def test_every_view_is_what_json_prints(view: str) -> None:
    path = f"{BASE}/show/{view}{ASKED.get(f'show {view}', '')}"
    site = FakeSite()
    answer = await site.answer(path, role_="view")
    assert (answer.status, answer.content_type) == (HTTPStatus.OK, "application/json")
    found = json_of(answer)
    assert found["notes"] == []
    rows = [found["result"]] if VIEWS[view].is_single else found["result"]
    if VIEWS[view].is_single:
        assert isinstance(found["result"], dict)
    assert {row["kind"] for row in rows} <= {VIEWS[view].row.__struct_config__.tag}
    for row in rows:
        msgspec.convert(row, VIEWS[view].row)
    assert (await site.answer(path, "HEAD", role_="view")).status is HTTPStatus.OK


async def test_filters_are_the_query() -> None:
    site = FakeSite(FakeConsole(sessions_count=5))
    answer = await site.answer(f"{BASE}/show/sessions?limit=2&node=node1&address=192.0.2.0%2F24", role_="view")
    found = json_of(answer)
    assert [row["id"] for row in found["result"]] == [1, 2]
    assert found["notes"] == ["2 of 5 sessions are shown"]
    ((_, wanted),) = site.fake.calls
    assert isinstance(wanted, SessionFilter)
    assert (wanted.node, wanted.address, wanted.user) == ("node1", "192.0.2.0/24", None)


@pytest.mark.parametrize(
    ("target", "status", "detail"),
    [
        ("show/sessions?limit=0", 400, "show sessions: limit: expected a whole number of at least 1, found '0'"),
        ("show/sessions?limit=1&limit=2", 400, "show sessions: 'limit': expected it once"),
        ("show/sessions?colour=red", 400, "show sessions: unknown argument 'colour'"),
        ("show/sessions?user=%ff", 400, "expected a query like"),
        ("show/info?what=sessions", 400, "show info: unknown argument 'what'"),
        ("show/sessions?" + "&".join(["a=b"] * 101), 400, "expected a query like"),
        ("show/session", 400, "show session: id: expected the number of a session, found nothing"),
        ("show/session?id=99", 404, "there is no session 99"),
        ("show/weather", 404, "there is no such command"),
        ("show", 404, "there is no such command"),
        ("drain/node1", 404, "there is no such command"),
        ("show%2Fnodes", 404, "there is no such command"),
    ],
)
async def test_what_is_asked_wrongly(target: str, status: int, detail: str) -> None:
    answer = await FakeSite().answer(f"{BASE}/{target}", role_="admin")
    assert answer.status == status
    assert problem_of(answer)["detail"].startswith(detail)


async def test_a_partial_answer_names_the_worker() -> None:
    site = FakeSite(FakeConsole(missing=["worker 2 has not answered"]))
    found = await site.answer(f"{BASE}/show/nodes", role_="view")
    assert (found.status, json_of(found)["notes"]) == (HTTPStatus.OK, ["worker 2 has not answered"])
    found = await site.answer(f"{BASE}/show/session?id=99", role_="view")
    assert found.status is HTTPStatus.GATEWAY_TIMEOUT, "that worker may have it"
    assert problem_of(found)["notes"] == ["worker 2 has not answered"]


@pytest.mark.parametrize(
    ("missing", "command", "given", "status"),
    [
        ([], "kick", {"jid": "kim@example.org"}, 404),
        (["worker 2 has not answered"], "kick", {"jid": "kim@example.org"}, 504),
        (["worker 2 has not answered"], "kick", {"jid": ""}, 400),
        (["worker 2 has not answered"], "drain", {"node": "node9"}, 409),
    ],
)
async def test_a_worker_that_hangs_may_have_what_was_not_found(
    missing: list[str], command: str, given: object, status: int
) -> None:
    """Of sessions; the nodes are known here."""
    answer = await FakeSite(FakeConsole(missing=missing, sessions_count=0)).order(f"{BASE}/{command}", given)
    assert answer.status == status
    assert problem_of(answer).get("notes", []) == (missing if status != 400 else [])


async def test_a_question_has_its_time(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    site = FakeSite()
    monkeypatch.setattr(site.fake, "hangs", True)
    began = trio.current_time()
    answer = await site.answer(f"{BASE}/show/session?id=1", role_="view")
    assert answer.status is HTTPStatus.GATEWAY_TIMEOUT
    assert trio.current_time() - began == api.LOOK_SECONDS
    assert problem_of(answer)["detail"] == "no answer within 10 s"


# --- orders


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.mutates], ids=lambda each: each.name)
async def test_nothing_is_changed_by_get(command: Command) -> None:
    site = FakeSite()
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await site.answer(path_of(command), method, role_="admin")
        assert (answer.status, answer.headers) == (HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "POST"),))
    assert site.fake.calls == []


async def test_a_look_takes_no_post() -> None:
    answer = await FakeSite().order(f"{BASE}/show/nodes", {}, Role.ADMIN)
    assert (answer.status, answer.headers) == (HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "GET, HEAD"),))


async def test_an_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = FakeSite()
    answer = await site.order(f"{BASE}/drain", {"node": "node1", "deadline": "2m", "rate": 5})
    assert answer.status is HTTPStatus.OK
    assert json_of(answer) == {"result": {"kind": "message", "message": "node1 is being drained"}, "notes": []}
    assert site.fake.calls == [("drain", "node1", None, 120.0, 5.0)]
    (order,) = orders(caplog)
    assert (order["by"], order["role"], order["way"]) == ("operateer", "operate", "http")
    assert (order["address"], order["outcome"]) == ("192.0.2.1", "done")
    assert order["arguments"] == "node=node1 deadline=2m rate=5"


async def test_an_order_without_arguments_needs_no_body() -> None:
    answer = await FakeSite(FakeConsole()).answer(f"{BASE}/restart-workers", "POST", role_="admin")
    assert json_of(answer)["result"] == {"kind": "message", "message": "the workers are being replaced"}


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (b"", 400, "expected an object of JSON"),
        (b"{", 400, "expected an object of JSON"),
        (b"\xff", 400, "expected an object of JSON"),
        (b"[" * 60_000, 400, "expected an object of JSON"),
        (b"9" * 10_000, 400, "expected an object of JSON"),
        (b"[1]", 400, 'expected an object of JSON like {"node": "node1"}, found [1]'),
        (b'{"node": "node1", "node": "node2"}', 400, "'node': expected it once"),
        (b"{}", 400, "drain: node: expected a node's name, found nothing"),
        (b'{"node": {}}', 400, "drain: node: expected a node's name, found {}"),
        (b'{"node": "node1", "rate": NaN}', 400, "drain: rate: expected a number per second above 0, found 'nan'"),
        (b'{"node": "node1", "force": "yes"}', 400, "drain: force: expected true or false, found 'yes'"),
        (b'{"node": "node1", "plan": true, "wait": true}', 400, "drain: with plan nothing begins"),
        (b'{"nodes": ["node1"]}', 400, "drain: unknown argument 'nodes'"),
        (b'{"node": "node9"}', 409, "unknown node 'node9'; known are node1, node2"),
    ],
)
async def test_what_is_ordered_wrongly(body: bytes, status: int, detail: str, caplog: pytest.LogCaptureFixture) -> None:
    site = FakeSite()
    answer = await site.answer(f"{BASE}/drain", "POST", body, role_="operate", content_type="application/json")
    assert answer.status == status
    assert problem_of(answer)["detail"].startswith(detail)
    assert site.fake.calls == []
    assert all(order["outcome"] == "refused" for order in orders(caplog))


@pytest.mark.parametrize("name", ["node", "colour"])
async def test_however_deep_a_value_is_it_is_refused_and_in_the_log(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for deep in range(10, 1000, 10):
        caplog.clear()
        body = b'{"%s": %s%s}' % (name.encode(), b"[" * deep, b"]" * deep)
        answer = await FakeSite().answer(
            f"{BASE}/drain", "POST", body, role_="operate", content_type="application/json"
        )
        assert answer.status is HTTPStatus.BAD_REQUEST
        if not problem_of(answer)["detail"].startswith("expected an object of JSON"):
            assert [order["outcome"] for order in orders(caplog)] == ["refused"]


class BodyDuringWhich(FakeBody):
    """Something happens while it is read."""

    def __init__(self, data: bytes, happens: Callable[[], None]) -> None:
        super().__init__(data)
        self._happens = happens

    async def read_body(self, max_bytes: int) -> bytes:
        self._happens()
        return await super().read_body(max_bytes)


async def test_a_token_that_is_taken_away_while_its_order_comes() -> None:
    site = FakeSite()
    body = BodyDuringWhich(b'{"node": "node1"}', lambda: site.access.use(site.config, TokenList()))
    headers = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {SECRETS[Role.ADMIN]}",
        "content-type": "application/json",
    }
    answer = await site.site.answer(PageRequest("POST", f"{BASE}/drain", headers, "192.0.2.1", body))
    assert isinstance(answer, HttpAnswer)
    assert answer.status is HTTPStatus.UNAUTHORIZED
    assert site.fake.calls == []


async def test_what_would_be_an_outage_is_refused() -> None:
    answer = await FakeSite(FakeConsole(refused="every login")).order(f"{BASE}/drain", {"node": "node1"})
    assert (answer.status, problem_of(answer)["detail"]) == (HTTPStatus.CONFLICT, "nothing is done")


async def test_a_reload_that_is_refused() -> None:
    answer = await FakeSite().answer(f"{BASE}/reload", "POST", role_="admin")
    assert answer.status is HTTPStatus.CONFLICT
    assert problem_of(answer)["detail"].startswith("nodes.txt:3:7: expected a host\nunknown setting 'x'")


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
async def test_what_a_form_can_send_is_no_order(content_type: str) -> None:
    site = FakeSite()
    body = json.dumps({"node": "node1"}).encode()
    answer = await site.answer(f"{BASE}/drain", "POST", body, role_="admin", content_type=content_type)
    assert answer.status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    assert (await site.answer(f"{BASE}/drain?node=node1", "POST", role_="admin")).status is HTTPStatus.BAD_REQUEST
    assert site.fake.calls == []


async def test_a_command_is_for_the_command_line_to_run() -> None:
    answer = await FakeSite().order(f"{BASE}/roll", {"nodes": ["node1"], "run": True})
    assert answer.status is HTTPStatus.BAD_REQUEST
    assert problem_of(answer)["detail"] == "roll: run: only the command line takes it"


async def test_one_that_goes_on_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    site = FakeSite()
    answer = await site.order(f"{BASE}/drain", {"node": "node1", "wait": True})
    assert answer.status is HTTPStatus.ACCEPTED
    result = json_of(answer)["result"]
    assert (result["kind"], result["left"], result["finished"]) == ("drain-progress", 3, False)
    assert site.fake.waits_ended == ["node1"]
    assert [order["outcome"] for order in orders(caplog)] == ["begun"]


async def test_one_that_is_over_at_once_has_a_result() -> None:
    done = RestartProgress(1, 1, 0, 0, 0, finished=True, failure=None)
    site = FakeSite(FakeConsole(restart=(done,), interrupt=False))
    answer = await site.order(f"{BASE}/restart-workers", {"wait": True}, Role.ADMIN)
    assert answer.status is HTTPStatus.OK
    assert json_of(answer)["result"]["replaced"] == 1


# --- who may what


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each.name)
async def test_each_command_takes_its_role(command: Command, caplog: pytest.LogCaptureFixture) -> None:
    for role in Role:
        site = FakeSite()
        if command.mutates:
            answer = await site.order(path_of(command), {}, role)
        else:
            answer = await site.answer(path_of(command) + ASKED.get(command.name, ""), role_=role)
        if role.may(command.role):
            assert answer.status not in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED)
        else:
            assert answer.status is HTTPStatus.FORBIDDEN
            assert f"it takes the role {command.role}" in problem_of(answer)["detail"]
            assert f'scope="{command.role}"' in dict(answer.headers)["WWW-Authenticate"]
            assert site.fake.calls == []
            assert orders(caplog)[-1]["outcome"] == "denied"


@pytest.mark.parametrize("path", ["", "/show/nodes", "/drain", "/events", "/weather", "/openapi.json"])
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("", ""),
        ("Bearer x", "invalid_token"),
        ("Bearer ", "invalid_token"),
        ("Bearer x, Bearer y", "invalid_token"),
        ("Basic eDp5", "invalid_token"),
        ("Bearer \xe4", "invalid_token"),
    ],
)
async def test_without_a_token_there_is_nothing_to_see(path: str, given: str, error: str) -> None:
    site = FakeSite()
    answer = await site.answer(BASE + path, authorization=given)
    assert answer.status is HTTPStatus.UNAUTHORIZED
    challenge = dict(answer.headers)["WWW-Authenticate"]
    assert challenge.startswith('Bearer realm="cxfr-proxy"')
    assert (error in challenge) if error else ("error" not in challenge)
    assert site.fake.calls == []


async def test_a_wrong_token_is_logged_without_it(caplog: pytest.LogCaptureFixture) -> None:
    await FakeSite().answer(BASE, authorization="Bearer hunter2")
    (record,) = caplog.records
    assert record.message == "http-denied"
    fields = getattr(record, "cxfr_proxy_fields")  # noqa: B009
    assert fields == {"client": "192.0.2.1", "reason": "unknown token"}


async def test_the_word_bearer_has_no_case() -> None:
    site = FakeSite()
    for word in ("bearer", "BEARER", "Bearer  "):
        assert (await site.answer(BASE, authorization=f"{word} {SECRETS[Role.VIEW]}")).status is HTTPStatus.OK


async def test_without_a_file_there_is_no_api() -> None:
    site = FakeSite(tokens=None)
    for path in (BASE, f"{BASE}/show/nodes", f"{BASE}/drain", f"{BASE}/events"):
        answer = await site.answer(path, role_="admin")
        assert answer.status is HTTPStatus.NOT_FOUND
        assert "--http-tokens" in problem_of(answer)["detail"]
    assert (await FakeSite(tokens=TokenList()).answer(BASE, role_="admin")).status is HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9222", 200),
        ("[::1]:9222", 200),
        ("[2001:db8::1]", 200),
        ("203.0.113.5", 200),
        ("localhost:9222", 200),
        ("LOCALHOST.", 200),
        (socket.gethostname(), 200),
        ("proxy.example.org:443", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9222", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1:9222@evil.example", 421),
        ("127.0.0.1, evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_the_names_by_which_it_is_asked(host: str, status: int) -> None:
    """A name that somebody else has made lead here is none of the proxy's."""
    site = FakeSite(config=Config(http_host=("proxy.example.org",)))
    assert (await site.answer(f"{BASE}/show/nodes", role_="view", host=host)).status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:9222"}, 200),
        ({"origin": "https://127.0.0.1:9222"}, 200),
        ({"origin": "http://127.0.0.1:9222", "sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": "http://127.0.0.1:9223"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
async def test_no_other_sites_page_asks(headers: dict[str, str], status: int) -> None:
    site = FakeSite()
    assert (await site.answer(f"{BASE}/show/nodes", role_="view", **headers)).status == status
    answer = await site.order(f"{BASE}/undrain", {"node": "node1"}, **headers)
    assert answer.status == status
    assert bool(site.fake.calls) == (status == 200)
    assert not any(name.lower().startswith("access-control") for name, _ in answer.headers)


# --- what there is


async def test_the_overview_lists_all_commands() -> None:
    found = json_of(await FakeSite().answer(f"{BASE}/", role_="operate"))
    assert (found["name"], found["role"], found["events"]) == ("operateer", "operate", f"{BASE}/events")
    listed = {each["command"]: each for each in found["commands"]}
    assert set(listed) == {command.name for command in COMMANDS}
    assert listed["drain"]["allowed"]
    assert not listed["reload"]["allowed"]
    assert listed["show nodes"]["path"] == f"{BASE}/show/nodes"
    assert {each["name"] for each in listed["roll"]["arguments"]} >= {"nodes", "continue"}
    assert "run" not in {each["name"] for each in listed["roll"]["arguments"]}
    (node,) = [each for each in listed["drain"]["arguments"] if each["name"] == "node"]
    assert (node["required"], node["many"], node["switch"]) == (True, False, False)
