"""A history with tool calls, as the plain chat a model without tools understands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)


def as_chat(messages: Sequence[ModelMessage], note: str = "") -> list[ModelMessage]:
    """Calls become the JSON the model wrote, results what the user says next; `note` is said last."""
    chat = [_say(message) for message in messages]
    if note:
        chat.append(ModelRequest(parts=[UserPromptPart(note)]))
    return chat


def _say(message: ModelMessage) -> ModelMessage:
    if isinstance(message, ModelRequest):
        return replace(message, parts=[_say_return(part) for part in message.parts])
    return replace(message, parts=[_say_call(part) for part in message.parts])


def _say_return(part: ModelRequestPart) -> ModelRequestPart:
    if isinstance(part, ToolReturnPart):
        return UserPromptPart(f"Result of {part.tool_name}:\n{part.model_response_str()}")
    return part


def _say_call(part: ModelResponsePart) -> ModelResponsePart:
    if isinstance(part, ToolCallPart):
        return TextPart(json.dumps({"tool": part.tool_name, "arguments": part.args_as_dict()}))
    return part


def list_calls(messages: Sequence[ModelMessage]) -> list[ToolCallPart]:
    """The tool calls of the run the last message belongs to."""
    run = messages[-1].run_id
    responses = [m for m in messages if isinstance(m, ModelResponse) and m.run_id == run]
    return [call for response in responses for call in response.tool_calls]


def count_calls(messages: Sequence[ModelMessage]) -> int:
    return sum(len(message.tool_calls) for message in messages if isinstance(message, ModelResponse))


def key_of(tool: str, arguments: Mapping[str, Any]) -> tuple[str, str]:
    """Equal for calls that ask for the same."""
    return tool, json.dumps(arguments, sort_keys=True)
