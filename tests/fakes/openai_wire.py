"""The OpenAI chat API's shapes, as pure functions: requests in, bodies and stream events out.

Written after the installed `openai` package's types, against which its output is tested. It also refuses what
the real API refuses and lenient servers let pass, so that a request which works here works there.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from devtools_platform.agents.adapters.scripted import Reply, choose_output_tool, count_tokens

Json = dict[str, Any]

FAULT_ID = "call_fault_"
"""Starts the ids of calls that a fault made up. Their turns do not count as turns of the script."""

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_AGENT_LINE = re.compile(r"^Agent:\s*(\S+)\s*$", re.MULTILINE)
_PIECE = 12


class WireError(Exception):
    """An answer in the API's error shape."""

    def __init__(self, status: int, message: str, *, type_: str, code: str | None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": type_, "param": param, "code": code}}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> WireError:
    return WireError(400, message, type_="invalid_request_error", code=code, param=param)


@dataclass(frozen=True)
class WireCall:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class WireReply:
    """An assistant message, independent of how it is sent."""

    content: str | None = None
    calls: tuple[WireCall, ...] = ()

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.calls else "stop"

    @property
    def tokens(self) -> int:
        return count_tokens(len(self.content or "") + sum(len(call.name + call.arguments) for call in self.calls))


@dataclass(frozen=True)
class ChatRequest:
    """What the fake reads from a request body. Raises `WireError` 400 where the API would."""

    model: str
    messages: Sequence[Json]
    tools: Mapping[str, Json]
    """JSON schema of the parameters by name."""
    wants_json: bool
    is_stream: bool
    wants_usage: bool
    agent: str = field(init=False)
    first_prompt: str = field(init=False)
    turn: int = field(init=False)

    @classmethod
    def parse(cls, body: object) -> "ChatRequest":
        if not isinstance(body, dict):
            raise bad_request("We could not parse the JSON body of your request.")
        data = cast("Json", body)
        messages: list[Json] = data.get("messages") or []
        if not isinstance(data.get("model"), str):
            raise bad_request("you must provide a model parameter", param="model")
        if not messages:
            raise bad_request("'messages' must be a non-empty array.", param="messages")
        check_tool_order(messages)
        return cls(
            model=data["model"],
            messages=messages,
            tools=read_tools(data.get("tools") or []),
            wants_json=nested(data, "response_format").get("type") in {"json_schema", "json_object"},
            is_stream=data.get("stream") is True,
            wants_usage=nested(data, "stream_options").get("include_usage") is True,
        )

    def __post_init__(self) -> None:
        system = "\n".join(text_of(m) for m in self.messages if m.get("role") in {"system", "developer"})
        agent = _AGENT_LINE.search(system)
        if agent is None:
            raise bad_request("The fake needs a line `Agent: <name>` in the system prompt.", param="messages")
        object.__setattr__(self, "agent", agent[1])
        prompts = (text_of(message) for message in self.messages if message.get("role") == "user")
        object.__setattr__(self, "first_prompt", next(prompts, ""))
        object.__setattr__(self, "turn", sum(map(is_turn, self.messages)))

    @property
    def tokens(self) -> int:
        calls = [call["function"] for message in self.messages for call in message.get("tool_calls") or ()]
        return count_tokens(
            sum(len(text_of(message)) for message in self.messages)
            + sum(len(call["name"] + call["arguments"]) for call in calls)
        )


def nested(data: Json, key: str) -> Json:
    return data.get(key) or {}


def text_of(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def is_turn(message: Json) -> bool:
    made_up = any(call["id"].startswith(FAULT_ID) for call in message.get("tool_calls") or ())
    return message.get("role") == "assistant" and not made_up


def check_tool_order(messages: Sequence[Json]) -> None:
    """Every tool call is answered, at once and only there: the rule that histories break most easily."""
    open_ids: set[str] = set()
    for index, message in enumerate(messages):
        if message.get("role") == "tool":
            if message.get("tool_call_id") not in open_ids:
                raise bad_request(
                    "messages with role 'tool' must be a response to a preceding message with 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            break
        open_ids = {call["id"] for call in message.get("tool_calls") or ()}
    if open_ids:
        raise bad_request(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {sorted(open_ids)}",
            param="messages",
        )


def read_tools(tools: Sequence[Json]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for index, tool in enumerate(tools):
        name = tool.get("function", {}).get("name", "")
        if tool.get("type") != "function" or not _TOOL_NAME.fullmatch(name):
            raise bad_request(
                f"Invalid 'tools[{index}].function.name': expected a string that matches "
                f"'^[a-zA-Z0-9_-]+$' of at most 64 characters, got {name!r}.",
                param=f"tools[{index}].function.name",
                code="invalid_value",
            )
        found[name] = tool["function"].get("parameters") or {}
    return found


def to_wire(reply: Reply, request: ChatRequest, *, id_: str) -> WireReply:
    """A script's reply as the API would send it for this request."""
    if reply.text is not None:
        return WireReply(reply.text)
    if reply.output is None:
        calls = (
            WireCall(f"{id_}_{index}", call.tool, json.dumps(call.arguments)) for index, call in enumerate(reply.calls)
        )
        return WireReply(calls=tuple(calls))
    if request.wants_json:
        return WireReply(json.dumps(reply.output))
    # pydantic-ai names its output tools so; whoever names them otherwise scripts the call.
    schemas = {name: schema for name, schema in request.tools.items() if name.startswith("final_result")}
    tool = choose_output_tool(schemas, reply.output)
    if tool is None:
        raise bad_request(f"The script has an `output`, but the request declares none; tools: {list(request.tools)}.")
    return WireReply(calls=(WireCall(f"{id_}_0", tool, json.dumps(reply.output)),))


def with_bad_arguments(reply: WireReply, request: ChatRequest, *, id_: str) -> WireReply:
    """The same call, or one of the first tool, with arguments that stop in the middle."""
    name = reply.calls[0].name if reply.calls else next(iter(request.tools), "no_tool")
    return WireReply(calls=(WireCall(FAULT_ID + id_, name, '{"path": "src/'),))


def with_unknown_tool(reply: WireReply, *, id_: str) -> WireReply:
    return replace(reply, content=None, calls=(WireCall(FAULT_ID + id_, "no_such_tool", "{}"),))


def usage(request: ChatRequest, reply: WireReply) -> Json:
    return {
        "prompt_tokens": request.tokens,
        "completion_tokens": reply.tokens,
        "total_tokens": request.tokens + reply.tokens,
    }


def completion(request: ChatRequest, reply: WireReply, *, id_: str, created: int) -> Json:
    message: Json = {"role": "assistant", "content": reply.content, "refusal": None}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.calls
        ]
    return {
        "id": id_,
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}],
        "usage": usage(request, reply),
    }


def chunks(request: ChatRequest, reply: WireReply, *, id_: str, created: int) -> Iterator[Json]:
    """The stream's events: role, pieces, finish reason, and the usage if it was asked for."""
    head: Json = {"id": id_, "object": "chat.completion.chunk", "created": created, "model": request.model}
    # With usage asked for, every event but the last carries it as null.
    tail: Json = {"usage": None} if request.wants_usage else {}
    for delta in deltas(reply):
        yield {
            **head,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}],
            **tail,
        }
    last: Json = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reply.finish_reason}
    yield {**head, "choices": [last], **tail}
    if request.wants_usage:
        yield {**head, "choices": [], "usage": usage(request, reply)}


def deltas(reply: WireReply) -> Iterator[Json]:
    yield {"role": "assistant", "content": None if reply.calls else "", "refusal": None}
    for piece in pieces(reply.content or ""):
        yield {"content": piece}
    for index, call in enumerate(reply.calls):
        start = {
            "index": index,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": ""},
        }
        yield {"tool_calls": [start]}
        for piece in pieces(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]


def event(data: object) -> bytes:
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def model_list(names: Sequence[str], *, created: int) -> Json:
    models = [{"id": name, "object": "model", "created": created, "owned_by": "fake"} for name in names]
    return {"object": "list", "data": models}
