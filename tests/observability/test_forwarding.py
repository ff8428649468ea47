"""Sinks on both stores: what they refuse, miss or take slowly waits, is counted, and is sent when they are back."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sqlalchemy as sa
import yaml

from devtools_platform.core.errors import BadInput, Unavailable
from devtools_platform.kit import schema
from devtools_platform.kit.telemetry import trace_id_for
from devtools_platform.observability.adapters.otlp import OtlpSink, langfuse_sink, otlp_sink
from devtools_platform.observability.adapters.otlp.langfuse import LangfuseReader
from devtools_platform.observability.adapters.sql import SqlSpanStore
from devtools_platform.observability.adapters.sql.outbox import SqlOutbox
from devtools_platform.observability.forwarding import Forwarder, SinkState
from devtools_platform.observability.interfaces import SpanRow
from fakes.langfuse import FakeLangfuse

CONTRACT = Path(__file__).parents[3] / "shared" / "contracts" / "langfuse.openapi.yml"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def langfuse() -> Iterator[FakeLangfuse]:
    with FakeLangfuse() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _empty(database: sa.Engine) -> None:
    with database.begin() as connection:
        connection.execute(sa.delete(schema.span_outbox))


def sink_of(langfuse: FakeLangfuse, secret: str | None = None) -> OtlpSink:
    return langfuse_sink(langfuse.base_url, langfuse.public_key, secret or langfuse.secret_key)


def spans(task_id: str, number: int, **more: Any) -> list[SpanRow]:
    attributes = {"session.id": task_id, "user.id": "cicd", "tags": ["a", "b"], "deep": [{"n": 1}], "n": 2, "x": 0.5}
    return [
        SpanRow(
            trace_id_for(task_id), f"{n + 1:016x}", None, f"span {n}", "client", NOW, NOW + timedelta(seconds=n),
            "error" if n == 0 else "unset", {**attributes, **more}, task_id, "cicd",
        )
        for n in range(number)
    ]  # fmt: skip


def store(database: sa.Engine, number: int, **more: Any) -> list[SpanRow]:
    rows = spans(secrets.token_hex(4), number, **more)
    SqlSpanStore(database, ["langfuse"]).write(rows)
    return rows


@asynccontextmanager
async def forwarding(database: sa.Engine, sink: OtlpSink) -> AsyncIterator[SinkState]:
    forwarder = Forwarder(SqlOutbox(database), [sink], first_wait_s=0.02)
    work = asyncio.create_task(forwarder.run())
    try:
        yield forwarder.states[sink.name]
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def until(state: SinkState, name: str, value: Any) -> None:
    await eventually(lambda: getattr(state, name) == value)


async def eventually(look: Callable[[], bool]) -> None:
    """Polls: what changes it is a thread of the fake."""
    async with asyncio.timeout(10):
        while not look():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture
def contract() -> Any:
    if not CONTRACT.is_file():
        pytest.skip("the official contracts are not beside this repository")
    return yaml.safe_load(CONTRACT.read_text())


async def test_more_spans_than_one_batch_arrive_once_each(database: sa.Engine, langfuse: FakeLangfuse) -> None:
    rows = store(database, 450)
    SqlSpanStore(database, ["langfuse"]).write(rows[:3])  # as after a write whose answer was lost
    async with forwarding(database, sink_of(langfuse)) as state:
        await until(state, "sent", 450)
        await until(state, "pending", 0)
    assert [len(r["resourceSpans"][0]["scopeSpans"][0]["spans"]) for r in langfuse.requests] == [200, 200, 50]
    assert {o.id for o in langfuse.of_session(str(rows[0].task_id))} == {row.span_id for row in rows}


async def test_a_wrong_key_is_shown_and_nothing_is_lost(database: sa.Engine, langfuse: FakeLangfuse) -> None:
    store(database, 3)
    async with forwarding(database, sink_of(langfuse, "sk-lf-wrong")) as state:
        await eventually(lambda: langfuse.refused >= 3)
        assert "401" in str(state.last_error)
        assert (state.sent, state.lost, state.pending) == (0, 0, 3)
    async with forwarding(database, sink_of(langfuse)) as state:
        await until(state, "sent", 3)
        assert state.last_error is None


async def test_a_dead_port_is_tried_again(database: sa.Engine) -> None:
    with FakeLangfuse() as gone:
        sink = sink_of(gone)
    store(database, 2)
    async with forwarding(database, sink) as state:
        await eventually(lambda: state.last_error is not None)
        assert (state.sent, state.lost, state.pending) == (0, 0, 2)


async def test_a_batch_that_is_refused_loses_only_the_span_that_spoils_it(
    database: sa.Engine, langfuse: FakeLangfuse
) -> None:
    rows = store(database, 9)
    langfuse.poison = "span 5"
    async with forwarding(database, sink_of(langfuse)) as state:
        await until(state, "sent", 8)
        assert state.lost == 1
    assert {o.id for o in langfuse.observations.values()} == {row.span_id for row in rows if row.name != "span 5"}


async def test_spans_that_retention_took_are_counted_as_lost(database: sa.Engine, langfuse: FakeLangfuse) -> None:
    rows = store(database, 4)
    with database.begin() as connection:
        gone = sa.delete(schema.spans).where(schema.spans.c.span_id.in_([rows[0].span_id, rows[1].span_id]))
        connection.execute(gone.where(schema.spans.c.trace_id == rows[0].trace_id))
    async with forwarding(database, sink_of(langfuse)) as state:
        await until(state, "sent", 2)
        assert state.lost == 2


async def test_a_slow_sink_keeps_nobody_from_storing(database: sa.Engine, langfuse: FakeLangfuse) -> None:
    langfuse.delay_s = 0.5
    store(database, 1)
    async with forwarding(database, sink_of(langfuse)) as state:
        async with asyncio.timeout(0.4):
            await asyncio.to_thread(store, database, 50)
        assert state.sent == 0
        await until(state, "sent", 51)


async def test_what_is_sent_has_the_shape_of_langfuse_s_contract(
    database: sa.Engine, langfuse: FakeLangfuse, contract: Any
) -> None:
    (row, *_) = store(database, 2, **{"service.name": "dev-tools"})
    async with forwarding(database, sink_of(langfuse)) as state:
        await until(state, "sent", 2)

    operation = contract["paths"]["/api/public/otel/v1/traces"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    nullable = json_schema({**body, "components": contract["components"]})
    request = as_contract(langfuse.requests[0])
    jsonschema.validate(request, nullable)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 1}]}]}]}, nullable)
    (first, second) = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert first["name"] == row.name
    assert first["status"]["code"] == "STATUS_CODE_ERROR"
    assert int(second["endTimeUnixNano"]) - int(second["startTimeUnixNano"]) == 1_000_000_000


def json_schema(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(node, list):
        return [json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: json_schema(value) for key, value in node.items() if key != "nullable"}
    if node.get("nullable") and "type" in plain:
        plain["type"] = [plain["type"], "null"]
    return plain


def as_contract(node: Any) -> Any:
    """OTLP's own JSON, in the two points in which protobuf's differs: enumerations and 64-bit numbers."""
    kinds = {"SPAN_KIND_INTERNAL": 1, "SPAN_KIND_SERVER": 2, "SPAN_KIND_CLIENT": 3}
    if isinstance(node, list):
        return [as_contract(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: as_contract(value) for key, value in node.items()}
    if "kind" in plain:
        plain["kind"] = kinds[plain["kind"]]
    if "intValue" in plain:
        plain["intValue"] = int(plain["intValue"])
    return plain


async def test_langfuse_is_asked_page_by_page(database: sa.Engine, langfuse: FakeLangfuse) -> None:
    rows = store(database, 230)
    async with forwarding(database, sink_of(langfuse)) as state:
        await until(state, "sent", 230)
    reader = LangfuseReader(langfuse.base_url, langfuse.public_key, langfuse.secret_key)
    assert await reader.read_ids(rows[0].trace_id) == {row.span_id for row in rows}
    with pytest.raises(Unavailable, match="401"):
        await replace(reader, secret_key="sk-lf-wrong").read_ids(rows[0].trace_id)


def test_headers_of_opentelemetry_s_own_setting_are_read_and_a_wrong_one_is_refused() -> None:
    sink = otlp_sink("http://collector:4318/", "api-key=a%20b, x=1")
    assert (sink.url, sink.headers) == ("http://collector:4318/v1/traces", {"api-key": "a b", "x": "1"})
    with pytest.raises(BadInput, match="no list of name=value"):
        otlp_sink("http://collector:4318", "api-key")
