"""The wrapping model. It also keeps a small model from going in circles: repeats and endless turns end."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_ai import RunContext
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import (
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from devtools_platform.agents.adapters.schema_tools.branches import (
    Branch,
    Enums,
    describe,
    describe_values,
    flatten,
    join_schemas,
    list_branches,
)
from devtools_platform.agents.adapters.schema_tools.chat import as_chat, count_calls, key_of, list_calls

MAX_TURNS = 12
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Answer:
    """What the model chose."""

    branch: Branch
    arguments: Mapping[str, Any]
    response: ModelResponse


class SchemaToolModel(WrapperModel):
    """`wrapped` with tools and structured output carried by JSON schemas.

    `enums` narrows string arguments to what exists. A call made before in the same run is not made again,
    unless a tool for which `changes` is true ran since (after an edit, running the tests again makes sense).
    After `max_turns` tool calls only a final answer is offered. The profile of `wrapped` must have
    `supports_json_schema_output`. Raises `UnexpectedModelBehavior` for an answer that is cut off or not the
    JSON asked for.
    """

    def __init__(
        self,
        wrapped: Model,
        *,
        enums: Enums = lambda _tool, _argument: None,
        changes: Callable[[str], bool] = lambda _tool: False,
        max_turns: int = MAX_TURNS,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__(wrapped)
        self._enums = enums
        self._changes = changes
        self._max_turns = max_turns
        self._max_tokens = max_tokens

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        parameters = model_request_parameters.with_default_output_mode("tool")
        # A model that may loop inside a string needs an end to its answer.
        settings = cast(ModelSettings, {"max_tokens": self._max_tokens, **(model_settings or {})})
        if not (parameters.declared_function_tools or parameters.output_tools):
            return await self.wrapped.request(as_chat(messages), settings, parameters)
        turn = _Turn(self.wrapped, messages, settings, parameters, list_branches(parameters, self._enums))
        answer = await self._answer(turn, list_calls(messages))
        part = _to_part(answer, count_calls(messages) + 1)
        reason = "tool_call" if isinstance(part, ToolCallPart) else "stop"
        return replace(answer.response, parts=[part], usage=turn.usage, finish_reason=reason)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The whole answer at once: half a JSON object is of use to nobody."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)

    async def _answer(self, turn: "_Turn", calls: Sequence[ToolCallPart]) -> Answer:
        """Ask up to three times, each time offering less."""
        final = [branch for branch in turn.branches if branch.is_final]
        if len(calls) >= self._max_turns:
            return await turn.ask(final, "No turns are left. Give the final answer now.")
        done = self._list_done(calls)
        offered = [b for b in turn.branches if b.takes_arguments or key_of(b.name, {}) not in done]
        answer = await turn.ask(offered)
        if not _is_repeat(answer, done):
            return answer
        name, arguments = key_of(answer.branch.name, answer.arguments)
        answer = await turn.ask(
            offered, f"You already called {name} with {arguments}; its result is above. Do something else."
        )
        if not _is_repeat(answer, done):
            return answer
        return await turn.ask(final, "Everything you asked for is above. Give the final answer now.")

    def _list_done(self, calls: Sequence[ToolCallPart]) -> set[tuple[str, str]]:
        """The calls that would only repeat what is known."""
        done: set[tuple[str, str]] = set()
        for call in calls:
            if self._changes(call.tool_name):
                done.clear()
            done.add(key_of(call.tool_name, call.args_as_dict()))
        return done


class _Turn:
    """One request and everything asked for it."""

    def __init__(
        self,
        wrapped: Model,
        messages: Sequence[ModelMessage],
        settings: ModelSettings,
        parameters: ModelRequestParameters,
        branches: Sequence[Branch],
    ) -> None:
        self.branches = branches
        self.usage = RequestUsage()
        self._wrapped = wrapped
        self._messages = messages
        self._settings = settings
        self._parameters = parameters
        # A lone structured output is asked for by its own schema: there is nothing to choose.
        self._is_choice = len(branches) > 1

    async def ask(self, offered: Sequence[Branch], note: str = "") -> Answer:
        parameters = replace(
            self._parameters,
            function_tools=[],
            output_tools=[],
            output_mode="native",
            output_object=self._output(offered),
            allow_text_output=True,
            instruction_parts=self._instructions(),
        )
        words = "\n".join(text for text in (describe_values(offered), note) if text)
        response = await self._wrapped.request(as_chat(self._messages, words), self._settings, parameters)
        self.usage += response.usage
        value = _read_object(response)
        return self._choose(value, offered, response) if self._is_choice else Answer(offered[0], value, response)

    def _output(self, offered: Sequence[Branch]) -> OutputObjectDefinition:
        if self._is_choice:
            return OutputObjectDefinition(json_schema=join_schemas(offered), name="next_step", strict=False)
        only = offered[0]
        return OutputObjectDefinition(json_schema=flatten(only.schema), name=only.name, strict=False)

    def _instructions(self) -> list[InstructionPart]:
        """The agent's fixed instructions, the catalogue, then what changes: a stable prefix stays cached."""
        given = self._parameters.instruction_parts
        if given is None:
            texts = [message.instructions for message in self._messages if isinstance(message, ModelRequest)]
            given = [InstructionPart(content=text) for text in texts[-1:] if text]
        if not self._is_choice:
            return given
        return InstructionPart.sorted([*given, InstructionPart(content=describe(self.branches))])

    @staticmethod
    def _choose(value: dict[str, Any], offered: Sequence[Branch], response: ModelResponse) -> Answer:
        tool, arguments = value.get("tool"), value.get("arguments")
        branch = next((branch for branch in offered if branch.name == tool), None)
        if branch is None or not isinstance(arguments, dict):
            names = ", ".join(branch.name for branch in offered)
            raise UnexpectedModelBehavior(
                f"The model answered tool {tool!r} with arguments {arguments!r}; it was offered {names}"
            )
        return Answer(branch, cast(dict[str, Any], arguments), response)


def _is_repeat(answer: Answer, done: set[tuple[str, str]]) -> bool:
    return not answer.branch.is_final and key_of(answer.branch.name, answer.arguments) in done


def _read_object(response: ModelResponse) -> dict[str, Any]:
    text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
    if response.finish_reason == "length":
        raise UnexpectedModelBehavior("The model's answer was cut off before its JSON was complete", text)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UnexpectedModelBehavior(
            f"The model's answer is not JSON ({error}); does its endpoint enforce `response_format`?", text
        ) from error
    if not isinstance(value, dict):
        raise UnexpectedModelBehavior("The model's answer is JSON but not an object", text)
    return cast(dict[str, Any], value)


def _to_part(answer: Answer, position: int) -> ModelResponsePart:
    match answer.branch.kind:
        case "text":
            return TextPart(str(answer.arguments["text"]))
        case "object":
            return TextPart(json.dumps(answer.arguments))
        case "tool" | "output_tool":
            return ToolCallPart(answer.branch.name, dict(answer.arguments), tool_call_id=f"call_{position}")
