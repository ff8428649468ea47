"""A model whose replies are written down beforehand, for tests and rehearsals of a whole stack.

Stateless on purpose: which reply comes next is read off the run's own history, so a process that was killed
and started again goes on where the history ends. It knows nothing of tools or tasks; what it says is in its
file.
"""

import json
import math
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import BadInput, ModelRefused

CHARACTERS_PER_TOKEN = 4


def count_tokens(characters: int) -> int:
    """Tokens of a scripted call: characters / 4, rounded up. A plain rule, since no tokenizer is involved."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Call(_Strict):
    """One tool call of a reply. Neither name nor arguments are checked: a script may be wrong on purpose."""

    tool: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)


class Reply(_Strict):
    """What the model says in one turn: exactly one of the three."""

    text: str | None = None
    calls: tuple[Call, ...] = ()
    output: dict[str, JsonValue] | None = None
    """The final structured output, in the shape of the schema the request declares."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.text is not None) + bool(self.calls) + (self.output is not None) != 1:
            raise ValueError("a reply has exactly one of `text`, `calls` (not empty) and `output`")
        return self


class Rule(_Strict):
    """The replies of one agent, for the runs whose first user prompt matches `when`."""

    agent: AgentName
    when: str | None = None
    """A regular expression searched in the first user prompt; without one the rule fits every run."""
    turns: tuple[Reply, ...] = Field(min_length=1)

    @field_validator("when")
    @classmethod
    def _is_a_regex(cls, when: str | None) -> str | None:
        try:
            re.compile(when or "")
        except re.error as error:
            raise ValueError(f"{when!r} is not a regular expression: {error}") from None
        return when

    def is_for(self, agent: str, first_prompt: str) -> bool:
        return self.agent == agent and (self.when is None or re.search(self.when, first_prompt) is not None)

    def __str__(self) -> str:
        condition = "" if self.when is None else f" when {self.when!r}"
        return f"{self.agent}{condition}: {len(self.turns)} turn(s)"


class Script:
    """The rules of one file. The first rule that fits a run gives all its replies."""

    def __init__(self, rules: Sequence[Rule], *, name: str = "script") -> None:
        self.rules = tuple(rules)
        self.name = name

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a YAML or JSON file. Raises `BadInput` saying which rule is wrong and why."""
        try:
            data = _parse(path)
        except OSError as error:
            raise BadInput(f"Cannot read the model script {str(path)!r}: {error.strerror}.") from error
        except ValueError as error:
            raise BadInput(f"The model script {str(path)!r} cannot be read as YAML or JSON: {error}.") from error
        return cls.parse(data, name=str(path))

    @classmethod
    def parse(cls, data: object, *, name: str = "script") -> Self:
        """The same for data that is already loaded: a list of rules."""
        try:
            rules = TypeAdapter(tuple[Rule, ...]).validate_python(data)
        except ValidationError as error:
            raise BadInput(
                f"The model script {name!r} is wrong: {_first_problem(error)}.",
                hint="A script is a list of rules: agent, optional when, and turns of text, calls or output.",
            ) from None
        return cls(rules, name=name)

    def reply(self, agent: str, first_prompt: str, turn: int) -> Reply:
        """The reply for turn `turn` (from 0) of a run. Raises `ModelRefused` when the script has none."""
        rule = next((rule for rule in self.rules if rule.is_for(agent, first_prompt)), None)
        if rule is None:
            raise self._no_reply(agent, turn, f"no rule fits a first prompt that starts {first_prompt[:80]!r}")
        if turn >= len(rule.turns):
            raise self._no_reply(agent, turn, f"its rule ({rule}) is used up")
        return rule.turns[turn]

    def _no_reply(self, agent: str, turn: int, why: str) -> ModelRefused:
        rules = "; ".join(f"{number}. {rule}" for number, rule in enumerate(self.rules, 1)) or "none"
        return ModelRefused(
            f"Model script {self.name!r} has no reply for {agent!r} at turn {turn}: {why}. Rules: {rules}.",
            hint="Add a rule or a turn to the file that DEV_TOOLS_MODEL_SCRIPT names.",
        )


def _parse(path: Path) -> object:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]]
    return f"rules{''.join(where)}: {first['msg']}"


class ScriptedModel(Model[Any]):
    """A pydantic-ai model that speaks one agent's part of a script. Keeps no state between requests."""

    def __init__(self, script: Script, agent: AgentName) -> None:
        super().__init__(profile=ModelProfile(supports_json_schema_output=True, supports_json_object_output=True))
        self.script = script
        self.agent: AgentName = agent

    @property
    def model_name(self) -> str:
        return "scripted"

    @property
    def system(self) -> str:
        return "scripted"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        return self._respond(messages, parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        response = self._respond(messages, parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=parameters, replay_events=True)

    def _respond(self, messages: list[ModelMessage], parameters: ModelRequestParameters) -> ModelResponse:
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        reply = self.script.reply(self.agent, _first_prompt(messages), turn)
        parts = self._parts(reply, turn, parameters)
        read = sum(map(len, _texts(messages, parameters)))
        return ModelResponse(
            parts=parts,
            usage=RequestUsage(input_tokens=count_tokens(read), output_tokens=count_tokens(sum(map(_length, parts)))),
            model_name=self.model_name,
            provider_name=self.system,
            finish_reason="tool_call" if any(isinstance(part, ToolCallPart) for part in parts) else "stop",
        )

    def _parts(self, reply: Reply, turn: int, parameters: ModelRequestParameters) -> list[ModelResponsePart]:
        if reply.text is not None:
            return [TextPart(reply.text)]
        if reply.output is None:
            return [
                # Ids are the same in every replay, so a resumed run cannot tell the difference.
                ToolCallPart(call.tool, dict(call.arguments), tool_call_id=f"scripted-{turn}-{index}")
                for index, call in enumerate(reply.calls)
            ]
        if parameters.output_object is not None:
            return [TextPart(json.dumps(reply.output))]
        schemas = {tool.name: tool.parameters_json_schema for tool in parameters.output_tools}
        tool = choose_output_tool(schemas, reply.output)
        if tool is None:
            raise BadInput(
                f"The script's turn {turn} of {self.agent!r} is an `output`, but the request declares none "
                f"of its shape ({', '.join(schemas) or 'it wants text'}).",
                hint="Use `text`, or `calls` with the output tool's name.",
            )
        return [ToolCallPart(tool, dict(reply.output), tool_call_id=f"scripted-{turn}-0")]


def choose_output_tool(schemas: dict[str, dict[str, Any]], output: dict[str, JsonValue]) -> str | None:
    """The output tool meant by `output`: the only one, or the first of several whose fields it fills."""
    if len(schemas) == 1:
        return next(iter(schemas))
    for name, schema in schemas.items():
        if set(schema.get("required", ())) <= output.keys() <= set(schema.get("properties", ())):
            return name
    return None


def _first_prompt(messages: list[ModelMessage]) -> str:
    for message in messages:
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                return _text(part.content)
    return ""


def _text(content: str | Sequence[UserContent]) -> str:
    if isinstance(content, str):
        return content
    pieces = [item.content if isinstance(item, TextContent) else item for item in content]
    return "\n".join(piece for piece in pieces if isinstance(piece, str))


def _texts(messages: list[ModelMessage], parameters: ModelRequestParameters) -> Iterator[str]:
    """Everything a model would read: instructions, prompts, its own replies, tool results."""
    yield from (part.content for part in parameters.instruction_parts or ())
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, SystemPromptPart | UserPromptPart):
                    yield _text(part.content)
                elif isinstance(part, ToolReturnPart):
                    yield part.model_response_str()
        else:
            yield from (_said(part) for part in message.parts)


def _said(part: ModelResponsePart) -> str:
    if isinstance(part, ToolCallPart):
        return part.tool_name + part.args_as_json_str()
    return part.content if isinstance(part, TextPart) else ""


def _length(part: ModelResponsePart) -> int:
    return len(_said(part))
