"""Ask an HTTP endpoint on which node a user belongs, before the user is placed.

The lookup may help and never hinders: if anything goes wrong, the user is placed as if nobody had been asked, after the
timeout at most. So requests about the same user are one, only so many are under way at a time, and an endpoint that
keeps failing is left alone for a while.

``GET URL`` has the user's bare JID in it, in the one spelling for all that it has
(:func:`~cxfr_proxy.spellings.user_key`). The answers:

========================================== =========================================================
200, ``text/plain``: the node's name       the user belongs there
200, ``application/json``: ``{"node": …}`` the same; ``null``: as 404
404                                        the endpoint has no opinion
a node that is not in the list             counted and logged; as 404
anything else, and silence                 a failure: counted and logged, nothing is remembered
========================================== =========================================================

Only the operator decides where to ask: redirects are not followed, the environment's proxies are not used, and nothing
that a client says can leave its place in the URL.
"""

from __future__ import annotations

import json
import logging
import math
import ssl
from collections import Counter
from collections.abc import Container
from enum import StrEnum
from typing import Final
from urllib.parse import quote, urlsplit

import httpx2
import trio

from cxfr_proxy import __version__
from cxfr_proxy.cluster.assigned import Answers, Assigned
from cxfr_proxy.cluster.nodes_file import NAME
from cxfr_proxy.events import emit
from cxfr_proxy.spellings import user_key
from cxfr_proxy.tasks import Task, isolated

MAX_REQUESTS: Final = 64
"""Most requests under way at a time, in each worker; a further one waits, until its timeout at most."""
MAX_ANSWER_BYTES: Final = 4096
"""Most bytes of an answer: a name and some JSON around it."""
MAX_NAME_CHARACTERS: Final = 255
FAILURES_IN_A_ROW: Final = 10
"""Failures in a row after which the endpoint is not asked for :data:`REST_SECONDS`: one that is down delays few
logins."""
REST_SECONDS: Final = 5.0
_SECONDS_BETWEEN_WARNINGS: Final = 60.0

_log = logging.getLogger(__name__)


class LookupOutcome(StrEnum):
    """The result of a request."""

    FOUND = "found"
    NO_OPINION = "no-opinion"
    UNKNOWN_NODE = "unknown-node"
    FAILED = "failed"


class _Failure(Exception):
    """The fault of an answer."""


class UserLookup:
    """``url`` has ``{jid}`` in the user's place; ``timeout`` in seconds. Answers are noted in ``assigned``, which has
    to have room for them; ``nodes`` are the names of those there are. ``transport`` is for tests."""

    def __init__(
        self,
        url: str,
        timeout: float,
        assigned: Assigned,
        nodes: Container[str],
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        assert assigned.answers is not None
        self.url = url
        # In TLS, a name has no dot at its end (RFC 6066 section 3).
        self._tls_name = {"sni_hostname": (urlsplit(url).hostname or "").removesuffix(".")}
        self.timeout = timeout
        self._assigned = assigned
        self._answers: Answers = assigned.answers
        self._nodes = nodes
        self._transport = transport
        self._client: httpx2.AsyncClient | None = None  # while it runs
        self._under_way: dict[str, trio.Event] = {}
        self._room = trio.Semaphore(MAX_REQUESTS)
        self._failures_in_a_row = 0
        self._rests_until = -math.inf
        self._next_warning = -math.inf
        self.outcomes: Counter[LookupOutcome] = Counter()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep connections to the endpoint until cancelled; nobody is asked before and afterwards."""
        async with httpx2.AsyncClient(
            timeout=None,  # find() has one for the whole request
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context() if self.url.startswith("https:") else False,
            limits=httpx2.Limits(max_connections=MAX_REQUESTS, max_keepalive_connections=MAX_REQUESTS),
            headers={
                "User-Agent": f"cxfr-proxy/{__version__}",
                "Accept": "text/plain, application/json",
                "Accept-Encoding": "identity",
            },
            transport=self._transport,
        ) as self._client:
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._client = None

    def knows(self, user: str) -> bool:
        """Return whether :meth:`find` would ask nobody."""
        return self._knows(user_key(user))

    def _knows(self, key: str) -> bool:
        return self._assigned.operators_choice(key) is not None or self._answers.knows(key)

    async def find(self, user: str) -> None:
        """Note in ``assigned`` where that user (a bare JID) belongs, if the endpoint says so within the timeout.

        On cancellation the request is given up; others that wait for the same one ask again.
        """
        key = user_key(user)
        if self._knows(key):
            return
        asking = False
        with trio.move_on_after(self.timeout) as scope:
            # Again and again: the one that asked may have been cancelled, and another may ask before we do.
            while key in self._under_way:
                await self._under_way[key].wait()
            if self._answers.knows(key) or not self._may_ask():
                return
            asking = True
            with isolated(Task.LOOKUP) as turn:
                await self._ask_alone(key)
            if turn.fault is not None:
                self._fail(type(turn.fault).__name__)
        # A login that only waited for another's request has not seen the endpoint fail.
        if asking and scope.cancelled_caught:
            self._fail(f"no answer within {self.timeout:g} s")

    def _may_ask(self) -> bool:
        if self._failures_in_a_row < FAILURES_IN_A_ROW:
            return True
        # After the rest, one request at a time may try.
        return trio.current_time() >= self._rests_until and not self._under_way

    async def _ask_alone(self, key: str) -> None:
        client = self._client
        if client is None:
            return
        ended = self._under_way[key] = trio.Event()
        try:
            async with self._room:
                await self._ask(client, key)
        except _Failure as exc:
            self._fail(str(exc))
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as exc:
            self._fail(type(exc).__name__)  # its text may hold the URL, and so the user
        finally:
            del self._under_way[key]
            ended.set()

    async def _ask(self, client: httpx2.AsyncClient, key: str) -> None:
        url = self.url.replace("{jid}", quote(key, safe=""))
        async with client.stream("GET", url, extensions=self._tls_name) as response:
            if response.status_code == httpx2.codes.NOT_FOUND:
                node = None
            elif response.status_code == httpx2.codes.OK:
                node = _read_answer(await _body(response), response.headers.get("Content-Type", ""))
            else:
                raise _Failure(f"status {response.status_code}")
        self._failures_in_a_row = 0
        if node is not None and node not in self._nodes:
            self.outcomes[LookupOutcome.UNKNOWN_NODE] += 1
            self._warn("a node that is not in the list")
            node = None
        else:
            self.outcomes[LookupOutcome.FOUND if node is not None else LookupOutcome.NO_OPINION] += 1
        self._answers.note(key, node)

    def _fail(self, reason: str) -> None:
        self.outcomes[LookupOutcome.FAILED] += 1
        self._failures_in_a_row += 1
        self._rests_until = trio.current_time() + REST_SECONDS  # if it fails so often
        self._warn(reason)

    def _warn(self, reason: str) -> None:
        """Log failures once in a while; the counts say how often they happened."""
        now = trio.current_time()
        if now >= self._next_warning:
            self._next_warning = now + _SECONDS_BETWEEN_WARNINGS
            emit(
                _log,
                "lookup-failed",
                level=logging.WARNING,
                reason=reason,
                failed=self.outcomes[LookupOutcome.FAILED],
                unknown=self.outcomes[LookupOutcome.UNKNOWN_NODE],
                answered=self.outcomes[LookupOutcome.FOUND] + self.outcomes[LookupOutcome.NO_OPINION],
            )


async def _body(response: httpx2.Response) -> bytes:
    """Read the answer to its end, even if it is too long: the timeout bounds that, and httpx2 has generators that
    want to be exhausted."""
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece[: MAX_ANSWER_BYTES + 1 - len(body)]
    if len(body) > MAX_ANSWER_BYTES:
        raise _Failure(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _read_answer(body: bytes, content_type: str) -> str | None:
    """Return the node's name. Raises :class:`_Failure`, which never repeats the answer's content."""
    if content_type.partition(";")[0].strip().lower() == "application/json":
        try:
            value = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise _Failure("an answer that is no JSON") from exc
        if not isinstance(value, dict) or not isinstance(value.get("node", 0), str | None):
            raise _Failure('an answer that is no object with a "node"')
        name: str | None = value["node"]
    else:
        name = body.decode("ascii", "replace").strip()
    if name is not None and (len(name) > MAX_NAME_CHARACTERS or not NAME.fullmatch(name)):
        raise _Failure("an answer that is no node's name")
    return name
