"""The door for webhooks: whose it is is decided over the raw bytes, all else changes nothing and is counted."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from devtools_platform.app.serving import Serving, bind
from devtools_platform.core.errors import Away
from devtools_platform.integrations import signatures
from devtools_platform.integrations.adapters.sql import SqlInbox
from devtools_platform.integrations.api import MAX_BODY_BYTES, Receiver
from devtools_platform.integrations.inbox import Inbox, Intake
from devtools_platform.integrations.types import Delivery, Outcome, Received
from devtools_platform.kit import schema
from fakes import github_server, linear_server

EXAMPLES = json.loads((Path(__file__).parent / "octokit_examples.json").read_text())["examples"]


def receiver(inbox: SqlInbox, **more: Any) -> Receiver:
    given = {"github_secrets": (github_server.SECRET,), "linear_secrets": (linear_server.SECRET,), **more}
    return Receiver(Intake(inbox), lambda: None, **given)


def client(app: Receiver) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://hooks")


def refused(service: str, why: str) -> float:
    return REGISTRY.get_sample_value("devtools_webhooks_refused_total", {"service": service, "why": why}) or 0.0


def count_rows(inbox: SqlInbox) -> int:
    with inbox.database.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(schema.inbox)).scalar_one())


def session_event(age_s: float = 0.0) -> bytes:
    payload = linear_server.session_event("s1")
    payload["webhookTimestamp"] -= int(age_s * 1000)
    return linear_server.to_bytes(payload)


def test_githubs_published_signature_is_ours():
    body, secret = b"Hello, World!", "It's a Secret to Everybody"
    header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert signatures.is_from_github([secret], body, header)
    assert not signatures.is_from_github([secret], body + b" ", header)
    assert not signatures.is_from_github([""], body, f"sha256={signatures.sign('', body)}")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["event"])
async def test_githubs_own_example_payloads_are_taken(inbox: SqlInbox, example: dict[str, Any]):
    body = json.dumps(example["payload"]).encode()
    async with client(receiver(inbox)) as http:
        headers = github_server.signed(body, example["event"], "d1")
        response = await http.post("/webhooks/github", content=body, headers=headers)
    assert (response.status_code, response.json()) == (202, {"is_new": True})
    [stored] = await inbox.take(10)
    assert (stored.event, json.loads(stored.body)) == (example["event"], example["payload"])


async def test_a_delivery_is_taken_once_by_its_id_and_by_its_body(inbox: SqlInbox):
    body = b'{"action": "opened"}'
    async with client(receiver(inbox)) as http:

        async def post(delivery: str) -> bool:
            headers = github_server.signed(body, "issues", delivery)
            return (await http.post("/webhooks/github", content=body, headers=headers)).json()["is_new"]

        assert await post("d1")
        assert not await post("d1")
        assert not await post("d2")  # GitHub does not sign the id: the same body under another is a replay
    assert count_rows(inbox) == 1


GOOD = b'{"action": "opened"}'
HOSTILE: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "unsigned": ("github", GOOD, {"X-GitHub-Event": "issues", "X-GitHub-Delivery": "d"}, 401, "unsigned"),
    "wrongly signed": ("github", GOOD, github_server.signed(GOOD, "issues", "d", "guess"), 401, "wrong_signature"),
    "another body": ("github", GOOD + b" ", github_server.signed(GOOD, "issues", "d"), 401, "wrong_signature"),
    "not ASCII": ("github", GOOD, {**github_server.signed(GOOD, "issues", "d"),
                                   "X-Hub-Signature-256": "sha256=\xe9"}, 401, "wrong_signature"),
    "sha1 only": ("github", GOOD, {"X-Hub-Signature": "sha1=00", "X-GitHub-Event": "issues"}, 401, "unsigned"),
    "no delivery id": ("github", GOOD, github_server.signed(GOOD, "issues", ""), 400, "malformed"),
    "not JSON": ("github", b"{", github_server.signed(b"{", "issues", "d"), 400, "malformed"),
    "a list": ("github", b"[]", github_server.signed(b"[]", "issues", "d"), 400, "malformed"),
    "deep": ("github", b"[" * 100_000, github_server.signed(b"[" * 100_000, "issues", "d"), 400, "malformed"),
    "Linear, unsigned": ("linear", session_event(), {}, 401, "unsigned"),
    "Linear, GitHub's signature": ("linear", GOOD, github_server.signed(GOOD, "issues", "d"), 401, "unsigned"),
    "Linear, no time": ("linear", GOOD, linear_server.signed(GOOD), 401, "replayed"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE, ids=str)
async def test_what_is_not_in_order_changes_nothing_and_is_counted(inbox: SqlInbox, case: str):
    service, body, headers, status, why = HOSTILE[case]
    before = refused(service, why)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    async with client(receiver(inbox)) as http:
        response = await http.post(f"/webhooks/{service}", content=body, headers=raw)
    assert (response.status_code, response.json()["message"]) == (status, why)
    assert refused(service, why) == before + 1
    assert count_rows(inbox) == 0


@pytest.mark.parametrize(("age_s", "status"), [(0, 202), (50, 202), (70, 401), (-70, 401)])
async def test_linears_signed_time_bounds_a_replay(inbox: SqlInbox, age_s: float, status: int):
    body = session_event(age_s)
    # The header is not signed, so it must not count.
    headers = {**linear_server.signed(body), "Linear-Timestamp": str(int(time.time() * 1000))}
    async with client(receiver(inbox)) as http:
        assert (await http.post("/webhooks/linear", content=body, headers=headers)).status_code == status


async def test_a_captured_linear_webhook_is_known_within_its_minute(inbox: SqlInbox):
    body = session_event()
    async with client(receiver(inbox)) as http:
        first = await http.post("/webhooks/linear", content=body, headers=linear_server.signed(body, "d1"))
        again = await http.post("/webhooks/linear", content=body, headers=linear_server.signed(body, "d2"))
    assert (first.json()["is_new"], again.json()["is_new"]) == (True, False)


async def test_a_service_without_a_secret_has_no_door(inbox: SqlInbox):
    async with client(receiver(inbox, linear_secrets=(), github_secrets=("",))) as http:
        body = session_event()
        assert (
            await http.post("/webhooks/linear", content=body, headers=linear_server.signed(body))
        ).status_code == 404
        empty = github_server.signed(GOOD, "issues", "d", "")
        assert (await http.post("/webhooks/github", content=GOOD, headers=empty)).status_code == 401


async def test_both_secrets_count_while_one_is_replaced(inbox: SqlInbox):
    async with client(receiver(inbox, github_secrets=("new", github_server.SECRET))) as http:
        for secret in ("new", github_server.SECRET):
            body = json.dumps({"by": secret}).encode()
            headers = github_server.signed(body, "issues", secret, secret)
            assert (await http.post("/webhooks/github", content=body, headers=headers)).status_code == 202


async def test_an_oversized_body_is_refused_with_and_without_a_length(inbox: SqlInbox):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield b"x" * 2**20

    before = refused("github", "too_large")
    async with client(receiver(inbox)) as http:
        headers = github_server.signed(GOOD, "issues", "d")
        told = await http.post("/webhooks/github", content=b"x" * (MAX_BODY_BYTES + 1), headers=headers)
        streamed = await http.post("/webhooks/github", content=chunks(), headers=headers)
    assert (told.status_code, streamed.status_code) == (413, 413)
    assert refused("github", "too_large") == before + 2


async def test_a_body_that_drips_is_given_up(inbox: SqlInbox):
    async with served(receiver(inbox, read_s=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=0\r\n"
                     b"Content-Length: 100\r\n\r\n{")  # fmt: skip
        answer = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert b" 408 " in answer


class Gone(SqlInbox):
    async def put(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        raise Away("The database does not answer.")


async def test_a_database_that_is_away_means_not_acknowledged(inbox: SqlInbox):
    async with client(receiver(Gone(inbox.database))) as http:
        headers = github_server.signed(GOOD, "issues", "d")
        assert (await http.post("/webhooks/github", content=GOOD, headers=headers)).status_code == 503


@asynccontextmanager
async def served(app: Receiver) -> AsyncIterator[int]:
    sock: socket.socket = bind("127.0.0.1", 0, "none")
    serving = Serving()
    await serving.serve(app, sock)
    yield sock.getsockname()[1]
    await serving.stop()


@pytest.mark.alone
async def test_a_thousand_webhooks_at_once_are_acknowledged_fast_and_worked_once(inbox: SqlInbox):
    worked: list[str] = []

    async def work(received: Received) -> Outcome:
        worked.append(received.id)
        return Outcome("done")

    box = Inbox(inbox, {"github": work}, poll_s=0.05)
    app = Receiver(Intake(inbox), box.wake, github_secrets=(github_server.SECRET,))
    running = asyncio.create_task(box.run())
    example = next(e for e in EXAMPLES if e["event"] == "issue_comment")
    bodies = [json.dumps({**example["payload"], "nth": n}).encode() for n in range(1000)]
    # Every tenth is delivered twice, as GitHub does when it is unsure.
    order = iter([*range(1000), *range(0, 1000, 10)])
    times: list[float] = []
    async with served(app) as port:
        await asyncio.gather(*(_post_all(port, order, bodies, times) for _ in range(100)))
    async with asyncio.timeout(30):
        while len(worked) < 1000:  # noqa: ASYNC110 - what is watched is a list
            await asyncio.sleep(0.01)
    running.cancel()
    assert sorted(worked) == sorted({f"d{n}" for n in range(1000)})
    assert sorted(times)[int(len(times) * 0.99)] < 1.0


async def _post_all(port: int, order: Iterator[int], bodies: list[bytes], times: list[float]) -> None:
    """One connection. By hand: a client library takes more of the processor than what it measures."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for n in order:
        headers = {**github_server.signed(bodies[n], "issue_comment", f"d{n}"), "Content-Length": str(len(bodies[n]))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        began = time.perf_counter()
        writer.write(f"POST /webhooks/github HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + bodies[n])
        answer = await reader.readuntil(b"}")
        times.append(time.perf_counter() - began)
        assert b" 202 " in answer
    writer.close()


async def test_a_delivery_whose_work_fails_for_now_is_worked_again(inbox: SqlInbox):
    answers: list[Callable[[], Outcome]] = [_raise(Away("database")), lambda: Outcome("done")]

    async def work(received: Received) -> Outcome:
        return answers.pop(0)()

    box = Inbox(inbox, {"github": work})
    async with client(receiver(inbox)) as http:
        await http.post("/webhooks/github", content=GOOD, headers=github_server.signed(GOOD, "issues", "d"))
    async with asyncio.timeout(10):
        while answers:
            await box.work_due()
    assert list(await inbox.take(10)) == []


def _raise(error: Exception) -> Callable[[], Outcome]:
    def act() -> Outcome:
        raise error

    return act
