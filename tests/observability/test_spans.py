"""What every sink gets of a span: whose it is, by work, parent or baggage, and no secret."""

from collections.abc import Sequence

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from devtools_platform.core.errors import Away
from devtools_platform.kit.telemetry import TaskScope, current_scope
from devtools_platform.observability import service
from devtools_platform.observability.interfaces import SpanRow
from devtools_platform.observability.service import StoreExporter
from devtools_platform.observability.spans import Origin, TaskStamp

ORIGIN = Origin("staging", "1.2", "a" * 40)


class Memory:
    """Keeps rows; is away as often as it is told."""

    def __init__(self, away: int = 0) -> None:
        self.rows: list[SpanRow] = []
        self.away = away

    def write(self, spans: Sequence[SpanRow]) -> None:
        if self.away:
            self.away -= 1
            raise Away("not now")
        self.rows += spans


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def tracer(memory: Memory) -> trace.Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(TaskStamp())
    provider.add_span_processor(SimpleSpanProcessor(StoreExporter(memory, ORIGIN)))
    return provider.get_tracer("test")


def test_a_span_belongs_to_the_work_its_parent_or_the_baggage_and_else_is_not_kept(
    memory: Memory, tracer: trace.Tracer
) -> None:
    context = baggage.set_baggage("session.id", "t3", baggage.set_baggage("user.id", "cicd", Context()))
    with tracer.start_as_current_span("of nobody"):
        pass
    with tracer.start_as_current_span("by baggage", context=context):
        pass
    reset = current_scope.set(TaskScope("t1", "feature-dev"))
    with tracer.start_as_current_span("by work"):
        current_scope.reset(reset)
        with tracer.start_as_current_span("by parent"):
            pass

    owners = {row.name: (row.task_id, row.agent) for row in memory.rows}
    assert owners == {
        "by baggage": ("t3", "cicd"),
        "by work": ("t1", "feature-dev"),
        "by parent": ("t1", "feature-dev"),
    }
    assert memory.rows[0].attributes["langfuse.release"] == "a" * 40
    assert memory.rows[0].attributes["langfuse.environment"] == "staging"


@pytest.mark.parametrize(
    "secret",
    [
        "ghp_" + "a1B2" * 9,
        "sk-lf-" + "0" * 36,
        "postgresql://u:hunter22@db/x",
        "Authorization: Bearer abcdefghijklmnop",
    ],
)
def test_no_secret_reaches_a_sink(memory: Memory, tracer: trace.Tracer, secret: str) -> None:
    attributes = {"session.id": "t", "user.id": "cicd", "gen_ai.input.messages": f'[{{"text": "{secret}"}}]'}

    def fail() -> None:
        with tracer.start_as_current_span("x", attributes=attributes) as span:
            span.set_attribute("listed", ["plain", secret])
            raise ValueError(f"no: {secret}")

    with pytest.raises(ValueError, match="no"):
        fail()
    (row,) = memory.rows
    hidden = secret.partition("@")[0].rpartition(":")[2].removeprefix(" Bearer ")
    assert hidden not in str(row)
    assert "***" in row.attributes["gen_ai.input.messages"]
    assert row.attributes["langfuse.observation.status_message"].startswith("ValueError: no: ")


def test_spans_wait_for_a_database_that_is_away_and_are_counted_when_it_stays_away(
    monkeypatch: pytest.MonkeyPatch, memory: Memory, tracer: trace.Tracer
) -> None:
    lost = service.SPANS_LOST.labels("store")
    before = lost._value.get()
    memory.away = 1
    with tracer.start_as_current_span("late", attributes={"session.id": "t", "user.id": "cicd"}):
        pass
    assert [row.name for row in memory.rows] == ["late"]
    monkeypatch.setattr(service, "PATIENCE_S", 0.0)
    memory.away = 1
    with tracer.start_as_current_span("lost", attributes={"session.id": "t", "user.id": "cicd"}):
        pass
    assert len(memory.rows) == 1
    assert lost._value.get() == before + 1
