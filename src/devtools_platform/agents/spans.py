"""The spans of agents: a run, each model call, each tool call, in the words of OpenTelemetry's GenAI conventions.

Ours, not pydantic-ai's instrumentation: half of what that computes for a call nobody keeps (decision 84). A call's span
is made where the call is made, inside its durable step, so a step that is replayed leaves no second one. What was said
is written as pydantic-ai writes it.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.settings import ModelSettings
from pydantic_core import to_json

from devtools_platform.kit.telemetry import task_span, tracer

_WORDS = InstrumentationSettings(include_binary_content=False, include_model_request_parameters=False)
_SETTINGS = ("max_tokens", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")

_written: ContextVar[dict[int, Any] | None] = ContextVar("devtools_written_messages", default=None)
"""A run's messages as JSON already: each call says the whole conversation again."""


@contextmanager
def agent_span(task_id: str, agent: str, run: str) -> Generator[Span]:
    """One run of an agent; its calls are inside."""
    attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "gen_ai.agent.call.id": run,
        "gen_ai.conversation.id": task_id,
    }
    reset = _written.set({})
    try:
        with task_span(task_id, agent, f"invoke_agent {agent}", attributes) as span:
            yield span
    finally:
        _written.reset(reset)


def tell_output(span: Span, output: object) -> None:
    """What the run came to."""
    if span.is_recording():
        text = output if isinstance(output, str) else to_json(output, serialize_unknown=True).decode()
        span.set_attribute("final_result", text)


def start_chat_span(model: Model, settings: ModelSettings | None) -> Span:
    """A model call, not yet answered. The caller ends it: a stream ends where its reader is."""
    name = model.model_name
    attributes: dict[str, str | float] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": model.system,
        "gen_ai.provider.name": model.system,
        "gen_ai.request.model": name,
    }
    for key in _SETTINGS if settings else ():
        if isinstance(value := (settings or {}).get(key), (int, float)):
            attributes[f"gen_ai.request.{key}"] = value
    return tracer.start_span(f"chat {name}", kind=SpanKind.CLIENT, attributes=attributes)


def tell_answer(
    span: Span, messages: Sequence[ModelMessage], parameters: ModelRequestParameters, answer: ModelResponse
) -> None:
    """What was asked and answered."""
    if not span.is_recording():
        return
    _WORDS.handle_messages(list(messages), answer, span, parameters, message_json_cache=_written.get())
    told: dict[str, Any] = answer.usage.opentelemetry_attributes()
    if answer.model_name is not None:
        told["gen_ai.response.model"] = answer.model_name
    if answer.provider_response_id is not None:
        told["gen_ai.response.id"] = answer.provider_response_id
    if answer.finish_reason is not None:
        told["gen_ai.response.finish_reasons"] = [answer.finish_reason]
    span.set_attributes(told)


def tell_failure(span: Span, error: BaseException) -> None:
    """Why there is no answer."""
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


@contextmanager
def tool_span(name: str, arguments: Mapping[str, Any], key: str) -> Generator[Span]:
    """One tool call, as the agent sees it; the gateway's own span is below it."""
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.call.id": key}
    with tracer.start_as_current_span(f"execute_tool {name}", attributes=attributes, record_exception=False) as span:
        if span.is_recording():
            span.set_attribute("gen_ai.tool.call.arguments", to_json(arguments, serialize_unknown=True).decode())
        yield span
