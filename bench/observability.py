"""What tracing, metrics and ledger cost in CPU for one model call, beside the same agent without them.

`python bench/observability.py`: an agent whose model answers at once makes calls in one process against an SQLite
file: bare, with what the embedded default has on, with a budget and a sink as well. CPU time of the process, threads
included; rounds take turns and the least counts, since whatever else runs on the machine only ever adds. Each call is a
run of its own, so all that a run's spans cost is in it. A thread that waited for a busy disk comes back to cold caches,
which is CPU time too: `TMPDIR=/dev/shm` leaves that out.
"""

import asyncio
import math
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
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents.metered import MeteredModel
from devtools_platform.agents.spans import agent_span, tell_output
from devtools_platform.app.ledger import LedgerBridge, Pricing
from devtools_platform.app.models import ServedModel
from devtools_platform.core.errors import Unavailable
from devtools_platform.core.tasks import ModelInfo
from devtools_platform.kit.database import connect, migrate
from devtools_platform.kit.telemetry import task_span
from devtools_platform.observability.adapters.sql import SqlLedger, SqlSpanStore
from devtools_platform.observability.budgets import Budgets
from devtools_platform.observability.interfaces import SpanRow, SpanStore
from devtools_platform.observability.prices import Price, PriceFile
from devtools_platform.observability.service import Tracing
from devtools_platform.observability.spans import Origin

CALLS = 50
ROUNDS = 8
LIMIT_MS = 2.0
SINKS = ("langfuse",)
SPAN = ("bench", "feature-dev", "bench/feature-dev/1")


async def answer(_: list[ModelMessage], __: AgentInfo) -> ModelResponse:
    return ModelResponse(parts=[TextPart("done")], usage=RequestUsage(input_tokens=1000, output_tokens=100))


@dataclass
class Switch:
    """A process has one tracer provider, so what is behind it is exchanged."""

    now: SpanStore

    def write(self, spans: Sequence[SpanRow]) -> None:
        self.now.write(spans)


class Nowhere:
    """The bare agent has one span of ours around it, which nobody keeps."""

    def write(self, spans: Sequence[SpanRow]) -> None:
        pass


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


def measure(model: Model, tracing: Tracing) -> float:
    """CPU milliseconds a call."""
    agent = Agent(model, name="feature-dev", instructions="You are a program that measures.")
    prompt = "Say what you would do. " * 40

    async def run() -> None:
        for _ in range(CALLS):
            with (
                agent_span(*SPAN)
                if isinstance(model, MeteredModel)
                else task_span("bench", "feature-dev", "run") as span
            ):
                output = (await agent.run(prompt)).output
                if isinstance(model, MeteredModel):
                    tell_output(span, output)

    began = time.process_time()
    asyncio.run(run())
    tracing.flush()
    return (time.process_time() - began) * 1000 / CALLS


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(f"sqlite:///{Path(folder) / 'bench.db'}")
        migrate(engine)
        store = Switch(SqlSpanStore(engine))
        tracing = Tracing(store, Origin("test", "bench", None))
        no_limits, limited = Budgets(), Budgets(task_usd=Decimal(10**6), month_usd=Decimal(10**6))
        rows: dict[str, tuple[Model, SpanStore]] = {
            "bare": (FunctionModel(answer), Nowhere()),
            "embedded default": (metered(SqlLedger(engine, no_limits), no_limits), SqlSpanStore(engine)),
            "budget and sink": (metered(SqlLedger(engine, limited), limited), SqlSpanStore(engine, SINKS)),
        }
        least = dict.fromkeys(rows, math.inf)
        for _ in range(ROUNDS):
            for name, (model, store.now) in rows.items():
                least[name] = min(least[name], measure(model, tracing))
        tracing.close()
        engine.dispose()
    for name, value in least.items():
        print(f"{name:<18} {value:6.2f} ms CPU a call  (+{value - least['bare']:.2f})")
    print(f"limit: +{LIMIT_MS:.2f} ms a call; {CALLS} calls a round, the least of {ROUNDS} rounds that took turns")


if __name__ == "__main__":
    main()
