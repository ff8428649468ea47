"""The one choke point of model calls: every call is retried within bounds, timed, counted, priced and recorded."""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal

from prometheus_client import Counter, Histogram
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from devtools_platform.agents.interfaces import ModelLedger
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.telemetry import current_scope

CALLS = Counter("devtools_llm_calls_total", "Model calls", ["agent", "outcome"])
TOKENS = Counter("devtools_llm_tokens_total", "Tokens", ["agent", "direction"])
UNPRICED = Counter("devtools_llm_unpriced_calls_total", "Model calls without a known price", ["agent"])
TIME = Histogram(
    "devtools_llm_request_duration_seconds",
    "Model call time",
    ["agent"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
)

MAX_ATTEMPTS = 4
MAX_WAIT_S = 60.0

IsRetryable = Callable[[Exception], float | None]
"""Seconds to wait before trying again, or None when trying again cannot help."""
Explain = Callable[[Exception], DevToolsError]
"""What a person should read about an error; also picklable, which provider errors are not."""
Price = Callable[[int, int], Decimal | None]


class MeteredModel(WrapperModel):
    """Wraps the model that talks to the endpoint. Calls outside a task are not recorded: there is nobody to bill."""

    def __init__(
        self,
        wrapped: Model,
        ledger: ModelLedger,
        *,
        is_retryable: IsRetryable,
        explain: Explain,
        price: Price,
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        super().__init__(wrapped)
        self._ledger = ledger
        self._is_retryable = is_retryable
        self._explain = explain
        self._price = price
        self._attempts = attempts

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._request_once(messages, model_settings, model_request_parameters)
            except Exception as error:
                wait = self._is_retryable(error)
                if wait is None or attempt == self._attempts:
                    raise self._explain(error) from error
                await asyncio.sleep(min(wait * attempt, MAX_WAIT_S))
        raise AssertionError("the last attempt returned or raised")

    def _start_request_deadline(self, model_settings: ModelSettings | None, *, stream: bool) -> None:
        """None for the whole: the agent would end the first attempt's time limit on all of them, waits included."""
        return

    async def _request_once(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        started = time.perf_counter()
        try:
            deadline = self.wrapped._start_request_deadline(settings, stream=False)  # noqa: SLF001 - as its own wrappers do
            with deadline.enforce() if deadline is not None else nullcontext():
                response = await self.wrapped.request(messages, settings, parameters)
        except Exception as error:
            await self._record(None, time.perf_counter() - started, redact_text(f"{type(error).__name__}: {error}"))
            raise
        await self._record(response, time.perf_counter() - started, None)
        return response

    async def _record(self, response: ModelResponse | None, duration_s: float, error: str | None) -> None:
        scope = current_scope.get()
        if scope is None:
            return
        used = response.usage if response else None
        has_count = used is not None and used.input_tokens + used.output_tokens > 0
        cost = self._price(used.input_tokens, used.output_tokens) if used and has_count else None
        CALLS.labels(scope.agent, "error" if error else "ok").inc()
        TIME.labels(scope.agent).observe(duration_s)
        if used and has_count:
            TOKENS.labels(scope.agent, "input").inc(used.input_tokens)
            TOKENS.labels(scope.agent, "output").inc(used.output_tokens)
        if response and cost is None:
            UNPRICED.labels(scope.agent).inc()
        await self._ledger.record_call(
            task_id=scope.task_id,
            agent=scope.agent,
            input_tokens=used.input_tokens if used and has_count else None,
            output_tokens=used.output_tokens if used and has_count else None,
            cost_usd=cost,
            duration_s=duration_s,
            error=error[:1000] if error else None,
        )
