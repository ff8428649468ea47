"""What is told outside: in order, with patience, never twice, whatever happens in the middle."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.integrations.adapters.sql import SqlOutbox
from devtools_platform.integrations.interfaces import Refused, TryLater
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.integrations.types import Message, Parcel
from devtools_platform.kit import schema


@dataclass
class Wire:
    """A courier that keeps what it was given, and fails as it is told."""

    failures: list[Exception] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)
    seen: list[tuple[str, bool]] = field(default_factory=list)

    async def send(self, parcel: Parcel) -> str | None:
        self.seen.append((parcel.message.key, parcel.is_in_doubt))
        if self.failures:
            raise self.failures.pop(0)
        self.arrived.append(parcel.message.key)
        return f"remote-{parcel.message.key}"


def message(key: str, subject: str = "a", place: str | None = None) -> Message:
    return Message(key, subject, "github", "comment", {"text": key}, place)


async def send_all(box: Outbox, is_done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_done():
            await box.send_due()


def states(database: sa.Engine) -> dict[str, str]:
    with database.connect() as connection:
        rows = connection.execute(sa.select(schema.outbox.c.key, schema.outbox.c.state)).all()
    return {row.key: row.state for row in rows}


async def test_messages_of_a_subject_arrive_in_order_and_a_slow_subject_holds_up_no_other(outbox: SqlOutbox):
    wire = Wire([TryLater("not now")])
    box = Outbox(outbox, {"github": wire}, first_wait_s=0.01)
    await outbox.put([message("a1"), message("a2"), message("b1", "b"), message("a3")])
    await send_all(box, lambda: len(wire.arrived) == 4)
    assert [key for key in wire.arrived if key.startswith("a")] == ["a1", "a2", "a3"]
    assert wire.arrived[0] == "b1"


async def test_the_same_key_is_sent_once_however_often_it_is_put(outbox: SqlOutbox):
    wire = Wire()
    box = Outbox(outbox, {"github": wire})
    await outbox.put([message("a1")])
    await outbox.put([message("a1")])
    await box.send_due()
    await outbox.put([message("a1")])
    assert await box.send_due() == 0
    assert wire.arrived == ["a1"]


async def test_a_message_that_was_under_way_when_we_died_is_looked_for_before_it_is_sent_again(outbox: SqlOutbox):
    await outbox.put([message("a1"), message("a2")])
    assert [parcel.is_in_doubt for parcel in await outbox.take(10)] == [False]  # and here the process dies
    wire = Wire()
    box = Outbox(SqlOutbox(outbox.database, "us"), {"github": wire})
    assert await box.send_due() == 0  # nothing overtakes it
    assert await outbox.recover() == 1
    await send_all(box, lambda: len(wire.arrived) == 2)
    assert wire.seen == [("a1", True), ("a2", False)]


async def test_what_another_living_stack_is_sending_is_left_to_it(outbox: SqlOutbox):
    await outbox.put([message("a1")])
    await SqlOutbox(outbox.database, "them").take(10)
    assert await outbox.recover() == 0
    assert list(await outbox.take(10)) == []


async def test_a_lost_answer_puts_a_message_in_doubt_and_a_refused_connection_does_not(outbox: SqlOutbox):
    wire = Wire([TryLater("no connection"), TryLater("no answer", is_in_doubt=True)])
    box = Outbox(outbox, {"github": wire}, first_wait_s=0.01)
    await outbox.put([message("a1")])
    await send_all(box, lambda: bool(wire.arrived))
    assert [doubt for _, doubt in wire.seen] == [False, False, True]


async def test_a_rate_limit_stops_everything_for_that_service_until_it_is_over(outbox: SqlOutbox):
    wire, other = Wire([TryLater("limit", after_s=0.4)]), Wire()
    box = Outbox(outbox, {"github": wire, "linear": other})
    elsewhere = Message("l1", "l", "linear", "activity", {})
    began = time.monotonic()
    await outbox.put([message("a1")])
    await box.send_due()
    await outbox.put([message("b1", "b"), elsewhere])
    await box.send_due()
    assert (wire.arrived, other.arrived) == ([], ["l1"])
    assert len(wire.seen) == 1  # b1 was not tried: it would have been refused, and counted against us
    await send_all(box, lambda: len(wire.arrived) == 2)
    assert time.monotonic() - began >= 0.4


async def test_of_words_for_one_place_that_wait_only_the_newest_is_sent(outbox: SqlOutbox):
    wire = Wire()
    box = Outbox(outbox, {"github": wire})
    await outbox.put([message(f"a{n}", place="status") for n in range(5)])
    await send_all(box, lambda: bool(wire.arrived))
    assert wire.arrived == ["a4"]
    assert set(states(outbox.database).values()) == {"replaced", "done"}
    assert await outbox.find_remote("status") == "remote-a4"


async def test_a_newer_word_inherits_the_doubt_of_the_one_it_replaces(outbox: SqlOutbox):
    wire = Wire([TryLater("no answer", is_in_doubt=True)])
    box = Outbox(outbox, {"github": wire}, first_wait_s=0.01)
    await outbox.put([message("a1", place="status")])
    await box.send_due()
    await outbox.put([message("a2", place="status")])
    await send_all(box, lambda: bool(wire.arrived))
    assert wire.seen == [("a1", False), ("a2", True)]


async def test_what_is_refused_for_good_fails_and_the_rest_goes_on(outbox: SqlOutbox):
    wire = Wire([Refused("no such issue")])
    box = Outbox(outbox, {"github": wire})
    await outbox.put([message("a1"), message("a2")])
    await send_all(box, lambda: bool(wire.arrived))
    assert states(outbox.database) == {"a1": "failed", "a2": "done"}


async def test_a_bug_in_a_courier_loses_nothing(outbox: SqlOutbox):
    wire = Wire([KeyError("oops")])
    box = Outbox(outbox, {"github": wire}, first_wait_s=0.01)
    await outbox.put([message("a1")])
    await send_all(box, lambda: bool(wire.arrived))
    assert wire.seen == [("a1", False), ("a1", True)]


async def test_secrets_in_what_is_told_are_masked_before_they_are_stored(outbox: SqlOutbox):
    body: dict[str, Any] = {"text": f"token ghp_{'a' * 36}"}
    await outbox.put([Message("s", "s", "github", "comment", body)])
    parcels: Sequence[Parcel] = await outbox.take(1)
    assert parcels[0].message.body == {"text": "token ***"}


async def test_a_dead_stacks_message_is_taken_over_after_its_lease(outbox: SqlOutbox):
    await outbox.put([message("a1")])
    await SqlOutbox(outbox.database, "them").take(10)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    with outbox.database.begin() as connection:
        connection.execute(sa.update(schema.outbox).values(not_before=long_ago))
    assert [parcel.is_in_doubt for parcel in await outbox.take(10)] == [True]


@pytest.mark.parametrize("attempt", range(3))
async def test_two_senders_at_once_send_each_message_once(outbox: SqlOutbox, attempt: int):
    wire = Wire()
    boxes = [Outbox(SqlOutbox(outbox.database, name), {"github": wire}) for name in ("us", "them")]
    await outbox.put([message(f"m{n}", f"s{n % 7}") for n in range(28)])
    async with asyncio.timeout(20):
        while len(wire.arrived) < 28:
            await asyncio.gather(*(box.send_due() for box in boxes))
    assert sorted(wire.arrived) == sorted({f"m{n}" for n in range(28)})
