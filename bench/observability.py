"""What tracing, metrics and ledger cost in CPU for one model call, beside the same agent without them.

`python bench/observability.py`: an agent whose model answers at once makes calls in one process against an SQLite
file: bare, then with what the embedded default has on, then with a budget and a sink as well. CPU time of the process,
threads included.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents.metered import MeteredModel
from devtools_platform.app.ledger import LedgerBridge, Pricing
from devtools_platform.app.models import ServedModel
from devtools_platform.core.errors import Unavailable
from devtools_platform.core.tasks import ModelInfo
from devtools_platform.kit.database import connect, migrate
from devtools_platform.kit.telemetry import task_span
from devtools_platform.observability.adapters.sql import SqlLedger, SqlSpanStore
from devtools_platform.observability.budgets import Budgets
from devtools_platform.observability.interfaces import SpanRow
from devtools_platform.observability.prices import Price, PriceFile
from devtools_platform.observability.service import Tracing
from devtools_platform.observability.spans import Origin

CALLS = 100
ROUNDS = 3
LIMIT_MS = 2.0


async def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("done")], usage=RequestUsage(input_tokens=1000, output_tokens=100))


@dataclass
class Switch:
    """A process has one tracer provider, so what is behind it is exchanged."""

    now: SqlSpanStore

    def write(self, spans: Sequence[SpanRow]) -> None:
        self.now.write(spans)


class NoTimeline:
    async def append_event(self, *_: object) -> int:
        return 0


def metered(ledger: SqlLedger, budgets: Budgets) -> Model:
    served = ServedModel(None, ModelInfo(name="m", provider="p", tier="standard"))
    price = Decimal(1) if budgets.is_limited else Decimal(0)
    file = PriceFile(prices=(Price(model="m", input_usd=price, output_usd=price, source="bench"),))
    bridge = LedgerBridge(
        ledger, NoTimeline(), Pricing(served, file), budgets, environment="test", action="ask", output_limit=1000
    )
    return MeteredModel(
        FunctionModel(answer), bridge, is_retryable=lambda _: None, explain=lambda e: Unavailable(str(e))
    )


def measure(model: Model, *, flush: Tracing | None) -> float:
    """CPU milliseconds a call."""
    agent = Agent(model, name="feature-dev", instructions="You are a program that measures.")
    prompt = "Say what you would do. " * 40

    async def run() -> None:
        for _ in range(CALLS):
            with task_span("bench", "feature-dev", "run feature-dev"):
                await agent.run(prompt)

    began = time.process_time()
    asyncio.run(run())
    if flush is not None:
        flush.flush()
    return (time.process_time() - began) * 1000 / CALLS


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(f"sqlite:///{Path(folder) / 'bench.db'}")
        migrate(engine)
        no_limits, limited = Budgets(), Budgets(task_usd=Decimal(10**6), month_usd=Decimal(10**6))
        results: dict[str, list[float]] = {"bare": [], "embedded default": [], "budget and sink": []}
        for _ in range(ROUNDS):
            results["bare"].append(measure(FunctionModel(answer), flush=None))
        store = Switch(SqlSpanStore(engine))
        tracing = Tracing(store, Origin("test", "bench", None))
        Agent.instrument_all(
            InstrumentationSettings(tracer_provider=tracing.provider, include_model_request_parameters=False)
        )
        for name, budgets, sinks in (
            ("embedded default", no_limits, ()),
            ("budget and sink", limited, ("langfuse",)),
        ):
            store.now = SqlSpanStore(engine, sinks)
            for _ in range(ROUNDS):
                results[name].append(measure(metered(SqlLedger(engine, budgets), budgets), flush=tracing))
        tracing.close()
        engine.dispose()
    bare = statistics.median(results["bare"])
    for name, values in results.items():
        middle = statistics.median(values)
        print(f"{name:<18} {middle:6.2f} ms CPU a call  (+{middle - bare:.2f})")
    print(f"limit: +{LIMIT_MS:.2f} ms a call; {CALLS} calls, median of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
