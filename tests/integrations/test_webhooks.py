"""Webhooks out: what is told, once each, signed so that any library of the standard can check it."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.app.webhooks import Webhooks
from devtools_platform.core.errors import BadInput, Forbidden, NotFound, Unavailable
from devtools_platform.integrations.adapters.sql import SqlOutbox
from devtools_platform.integrations.adapters.webhooks import HookCourier, SqlHooks
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.integrations.webhooks import secret_of, signature_of
from devtools_platform.kit import schema

URL = "https://hooks.example.org/in"


@dataclass
class Receiver:
    """A program outside: keeps what came, answers what it is told to, and checks signatures as the standard says."""

    answers: list[int | Exception] = field(default_factory=list)
    came: list[httpx2.Request] = field(default_factory=list)

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.came.append(request)
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer)

    def told(self) -> list[tuple[str, str]]:
        bodies = [json.loads(request.content) for request in self.came]
        return [(body["type"], body["data"]["task_id"]) for body in bodies]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def webhooks(clean: sa.Engine, receiver: Receiver) -> Webhooks:
    with clean.begin() as connection:
        connection.execute(schema.webhooks.delete())
    hooks = SqlHooks(clean)
    store = SqlOutbox(clean, "hooks", ("webhook",))
    return Webhooks(hooks, store, Outbox(store, {"webhook": HookCourier(hooks, receiver, "s3cret")}, first_wait_s=0))


def happen(database: sa.Engine, task: str, *kinds: str, ended_ago: timedelta | None = None, **data: Any) -> None:
    """Events of a task, which is made with the first of them."""
    now = datetime.now(UTC)
    with database.begin() as connection:
        table = schema.tasks
        if connection.execute(sa.select(table.c.id).where(table.c.id == task)).scalar() is None:
            row = {"id": task, "text": "t", "repo": "/r", "status": "working", "trace_id": "0" * 32}
            connection.execute(sa.insert(table).values(row | {"ended_at": now - ended_ago if ended_ago else None}))
        events = schema.events
        last = connection.execute(sa.select(sa.func.max(events.c.seq)).where(events.c.task_id == task)).scalar() or 0
        for seq, kind in enumerate(kinds, last + 1):
            row = {"task_id": task, "seq": seq, "key": f"k{seq}", "kind": kind, "data": data, "agent": None}
            connection.execute(sa.insert(events).values(row | {"at": now + timedelta(milliseconds=seq)}))


async def tell(webhooks: Webhooks) -> None:
    for hook in await webhooks.hooks.list_hooks():
        await webhooks.tell(hook)
    while await webhooks.outbox.send_due():
        pass


async def test_what_happens_to_tasks_is_told_once_and_in_order(webhooks: Webhooks, receiver: Receiver) -> None:
    await webhooks.hooks.add(URL, [])
    happen(webhooks.hooks.database, "t1", "queued", "model_call", "plan")
    await tell(webhooks)
    await tell(webhooks)
    happen(webhooks.hooks.database, "t1", "finished")
    await tell(webhooks)
    assert receiver.told() == [("task.queued", "t1"), ("task.plan", "t1"), ("task.finished", "t1")]


async def test_each_message_is_signed_with_the_hooks_own_secret(webhooks: Webhooks, receiver: Receiver) -> None:
    hook = await webhooks.hooks.add(URL, [])
    happen(webhooks.hooks.database, "t1", "approval", tool="workspace_run_command", token="Bearer abcdefghijklmnop1234")
    await tell(webhooks)
    request = receiver.came[0]
    got = {name: request.headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature")}
    secret = secret_of("s3cret", hook.id)
    assert got["signature"] == signature_of(secret, got["id"], int(got["timestamp"]), request.content)
    assert got["signature"] != signature_of(secret_of("s3cret", "other"), got["id"], int(got["timestamp"]), b"")
    assert b"abcdefghijklmnop" not in request.content, "secrets are masked"


def test_the_signature_is_the_standards() -> None:
    """The example of the reference implementations."""
    secret, id_ = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert (
        signature_of(secret, id_, 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


async def test_what_is_not_taken_is_sent_again_under_the_same_id(webhooks: Webhooks, receiver: Receiver) -> None:
    await webhooks.hooks.add(URL, [])
    receiver.answers = [500, Unavailable("No answer.", hint=""), 302]
    happen(webhooks.hooks.database, "t1", "queued")
    await tell(webhooks)
    assert len(receiver.came) == 4
    assert len({request.headers["webhook-id"] for request in receiver.came}) == 1


async def test_a_receiver_that_is_gone_or_removed_hears_no_more(webhooks: Webhooks, receiver: Receiver) -> None:
    gone = await webhooks.hooks.add(URL, [])
    receiver.answers = [410]
    happen(webhooks.hooks.database, "t1", "queued", "plan")
    await tell(webhooks)
    assert len(receiver.came) == 1
    with pytest.raises(NotFound):
        await webhooks.hooks.end(gone.id, "again")

    other = await webhooks.hooks.add(URL, [])
    happen(webhooks.hooks.database, "t1", "commit")
    await webhooks.tell(other)
    await webhooks.hooks.end(other.id, "removed")
    await tell(webhooks)
    assert len(receiver.came) == 1


async def test_an_address_that_may_not_be_reached_is_given_up_at_once(webhooks: Webhooks, receiver: Receiver) -> None:
    await webhooks.hooks.add("http://127.0.0.1:1/x", [])
    receiver.answers = [Forbidden("A private address.", hint="")]
    happen(webhooks.hooks.database, "t1", "queued")
    await tell(webhooks)
    assert len(receiver.came) == 1


async def test_only_what_was_asked_for_and_happened_since_is_told(webhooks: Webhooks, receiver: Receiver) -> None:
    happen(webhooks.hooks.database, "old", "queued", "finished", ended_ago=timedelta(hours=1))
    await webhooks.hooks.add(URL, ["task.finished"])
    happen(webhooks.hooks.database, "new", "queued", "finished")
    await tell(webhooks)
    assert receiver.told() == [("task.finished", "new")]


@pytest.mark.parametrize(
    ("url", "events"),
    [("ftp://x", []), ("https://", []), ("https://u:p@x.org", []), ("javascript:1", []), (URL, ["task.model_call"])],
)
async def test_what_cannot_be_told_is_refused(webhooks: Webhooks, url: str, events: list[str]) -> None:
    with pytest.raises(BadInput):
        await webhooks.hooks.add(url, events)
    assert await webhooks.hooks.list_hooks() == []
