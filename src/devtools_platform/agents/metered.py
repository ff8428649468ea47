"""The one choke point of model calls: each is reserved for, made, retried within bounds, timed, counted and recorded.

A call under a budget is asked for at most so many output tokens, so that what is reserved is what it may cost.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from opentelemetry.trace import Span
from prometheus_client import Counter, Histogram
from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings, merge_model_settings
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents.interfaces import ModelLedger
from devtools_platform.agents.spans import start_chat_span, tell_answer, tell_failure
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.telemetry import TaskScope, current_scope

CALLS = Counter("devtools_llm_calls_total", "Model calls", ["agent", "model", "outcome"])
TOKENS = Counter("devtools_llm_tokens_total", "Tokens", ["agent", "model", "direction"])
COST = Counter("devtools_llm_cost_usd_total", "What priced model calls cost in US dollars", ["agent", "model"])
UNPRICED = Counter("devtools_llm_unpriced_calls_total", "Answered model calls without a known price", ["model"])
TIME = Histogram(
    "devtools_llm_request_duration_seconds",
    "Model call time",
    ["agent"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
)

MAX_ATTEMPTS = 4
MAX_WAIT_S = 60.0
BYTES_PER_TOKEN = 3
"""Of a request's JSON, for reserving. English and code have about 4, so that what is reserved is rather too much."""

IsRetryable = Callable[[Exception], float | None]
"""Seconds to wait before trying again, or None when trying again cannot help."""
Explain = Callable[[Exception], DevToolsError]
"""What a person should read about an error; also picklable, which provider errors are not."""


class MeteredModel(WrapperModel):
    """Wraps the model that talks to the endpoint. Calls outside a task are not recorded: there is nobody to bill."""

    def __init__(
        self,
        wrapped: Model,
        ledger: ModelLedger,
        *,
        is_retryable: IsRetryable,
        explain: Explain,
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        super().__init__(wrapped)
        self._ledger = ledger
        self._is_retryable = is_retryable
        self._explain = explain
        self._attempts = attempts

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Raises `OverBudget` before a call that a budget does not cover; else what `explain` makes of failures."""
        for attempt in range(1, self._attempts + 1):
            call_id = uuid.uuid4().hex
            settings = await self._reserve(call_id, messages, model_settings, model_request_parameters)
            try:
                return await self._request_once(call_id, messages, settings, model_request_parameters)
            except Exception as error:
                wait = self._is_retryable(error)
                if wait is None or attempt == self._attempts:
                    raise self._explain(error) from error
                await asyncio.sleep(min(wait * attempt, MAX_WAIT_S))
        raise AssertionError("the last attempt returned or raised")

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """As `request`; what fails before the first word is tried again, what fails later is the caller's to see.

        An answer that was broken off may be charged: what was reserved for it counts as spent.
        """
        async with AsyncExitStack() as stack:
            call, stream = await self._open(stack, messages, model_settings, model_request_parameters, run_context)
            try:
                yield stream
            except BaseException as error:
                await self._record_failure(call, error, may_be_charged=True)
                if isinstance(error, Exception):
                    raise self._explain(error) from error
                raise
            await self._record_answer(call, messages, model_request_parameters, stream.get())

    async def _open(
        self,
        stack: AsyncExitStack,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None,
    ) -> tuple["_Call", StreamedResponse]:
        for attempt in range(1, self._attempts + 1):
            call_id = uuid.uuid4().hex
            settings = await self._reserve(call_id, messages, model_settings, parameters)
            call = self._begin(call_id, settings)
            try:
                opened = self.wrapped.request_stream(messages, settings, parameters, run_context)
                return call, await stack.enter_async_context(opened)
            except Exception as error:
                await self._record_failure(call, error, may_be_charged=ran_out_of_time(error))
                wait = self._is_retryable(error)
                if wait is None or attempt == self._attempts:
                    raise self._explain(error) from error
                await asyncio.sleep(min(wait * attempt, MAX_WAIT_S))
        raise AssertionError("the last attempt returned or raised")

    async def _reserve(
        self,
        call_id: str,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelSettings | None:
        """The settings to call with. Where no budget is set, nothing is reserved and nothing is bounded."""
        scope, most = current_scope.get(), self._ledger.max_output_tokens
        if scope is None or most is None:
            return settings
        settings = merge_model_settings(self.wrapped.settings, settings)
        output = min((settings or {}).get("max_tokens") or most, most)
        await self._ledger.reserve(
            call_id=call_id,
            task_id=scope.task_id,
            agent=scope.agent,
            input_tokens=estimate_input(messages, parameters),
            output_tokens=output,
        )
        return merge_model_settings(settings, ModelSettings(max_tokens=output))

    def _start_request_deadline(self, model_settings: ModelSettings | None, *, stream: bool) -> None:
        """None for the whole: the agent would end the first attempt's time limit on all of them, waits included."""
        return

    async def _request_once(
        self,
        call_id: str,
        messages: list[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> ModelResponse:
        call = self._begin(call_id, settings)
        try:
            deadline = self.wrapped._start_request_deadline(settings, stream=False)  # noqa: SLF001 - as its own wrappers do
            with deadline.enforce() if deadline is not None else nullcontext():
                response = await self.wrapped.request(messages, settings, parameters)
        except Exception as error:
            await self._record_failure(call, error, may_be_charged=ran_out_of_time(error))
            raise
        except BaseException as error:  # cancelled: whether it was charged is settled later, but the span ends here
            tell_failure(call.span, error)
            call.span.end()
            raise
        await self._record_answer(call, messages, parameters, response)
        return response

    def _begin(self, call_id: str, settings: ModelSettings | None) -> "_Call":
        return _Call(call_id, start_chat_span(self.wrapped, settings), time.perf_counter())

    async def _record_answer(
        self,
        call: "_Call",
        messages: list[ModelMessage],
        parameters: ModelRequestParameters,
        response: ModelResponse,
    ) -> None:
        try:
            await self._record(call, response.usage, None)
            tell_answer(call.span, messages, parameters, response)
        finally:
            call.span.end()

    async def _record_failure(self, call: "_Call", error: BaseException, *, may_be_charged: bool) -> None:
        text = redact_text(f"{type(error).__name__}: {error}")[:1000]
        try:
            tell_failure(call.span, error)
            await self._record(call, None, text, may_be_charged=may_be_charged)
        finally:
            call.span.end()

    async def _record(
        self, call: "_Call", usage: RequestUsage | None, error: str | None, *, may_be_charged: bool = False
    ) -> None:
        scope = current_scope.get()
        if scope is None:
            return
        duration_s = time.perf_counter() - call.started
        used = usage if usage is not None and usage.input_tokens + usage.output_tokens > 0 else None
        cost = await self._ledger.record_call(
            call_id=call.id,
            task_id=scope.task_id,
            agent=scope.agent,
            input_tokens=used.input_tokens if used else None,
            output_tokens=used.output_tokens if used else None,
            cached_tokens=used.cache_read_tokens if used else None,
            duration_s=duration_s,
            error=error,
            span_id=f"{call.span.get_span_context().span_id:016x}" if call.span.is_recording() else None,
            may_be_charged=may_be_charged,
        )
        self._count(scope, used, cost, duration_s, error)
        _describe(call, used, cost)

    def _count(
        self, scope: TaskScope, used: RequestUsage | None, cost: Decimal | None, duration_s: float, error: str | None
    ) -> None:
        model = self.wrapped.model_name
        CALLS.labels(scope.agent, model, "error" if error else "ok").inc()
        TIME.labels(scope.agent).observe(duration_s)
        if used is not None:
            TOKENS.labels(scope.agent, model, "input").inc(used.input_tokens)
            TOKENS.labels(scope.agent, model, "output").inc(used.output_tokens)
        if cost is not None:
            COST.labels(scope.agent, model).inc(float(cost))
        elif error is None:
            UNPRICED.labels(model).inc()


def estimate_input(messages: list[ModelMessage], parameters: ModelRequestParameters) -> int:
    """Input tokens of a request, rather too many than too few."""
    tools = [*parameters.function_tools, *parameters.output_tools]
    schemas = sum(len(json.dumps(tool.parameters_json_schema)) + len(tool.description or "") for tool in tools)
    return math.ceil((len(ModelMessagesTypeAdapter.dump_json(messages)) + schemas) / BYTES_PER_TOKEN)


def ran_out_of_time(error: BaseException) -> bool:
    """Whether the endpoint had the request and may go on, and charge, without us."""
    chain: BaseException | None = error
    while chain is not None:
        name = type(chain).__name__
        if isinstance(chain, TimeoutError) or ("Timeout" in name and "Connect" not in name and "Pool" not in name):
            return not isinstance(chain.__cause__, Exception) or "Connect" not in type(chain.__cause__).__name__
        chain = chain.__cause__
    return False


@dataclass(frozen=True)
class _Call:
    id: str
    span: Span
    started: float


def _describe(call: _Call, used: RequestUsage | None, cost: Decimal | None) -> None:
    """What Langfuse and our own check read off a model call's span, as the ledger has it.

    Langfuse adds up the conventions' token counts twice (its issue 16489) and knows no price of open models, so
    both are said outright. An answered call of unknown cost leaves no cost.
    """
    said: dict[str, str] = {"devtools.call.id": call.id}
    if used is not None:
        tokens = {"input": used.input_tokens - used.cache_read_tokens, "output": used.output_tokens}
        if used.cache_read_tokens:
            tokens["input_cached_tokens"] = used.cache_read_tokens
        said[USAGE] = json.dumps({**tokens, "total": sum(tokens.values())})
        if cost is not None:
            said[COST_DETAILS] = json.dumps({"total": float(cost)})
    call.span.set_attributes(said)


USAGE = "langfuse.observation.usage_details"
COST_DETAILS = "langfuse.observation.cost_details"
