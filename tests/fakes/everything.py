"""An MCP server with what the official conformance suite looks for, in one era only, on the official SDK.

python everything.py --era modern|legacy (--port N | --stdio)
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import logging
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import mcp_types as mcp
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

MODERN = "2026-07-28"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="
KEY = b"a key of this fixture"
Context = ServerRequestContext[Any, Any]


class NeedInput(Exception):
    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__("input required")
        self.result = result


def is_modern(ctx: Context) -> bool:
    return ctx.protocol_version == MODERN


def sign(text: str) -> str:
    return f"{text}.{hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()}"


def read_state(ctx: Context) -> str | None:
    """The state a modern client brought back. Raises for one we did not sign."""
    state = (ctx.params or {}).get("requestState")
    if state is None:
        return None
    text = str(state).rpartition(".")[0]
    if not hmac.compare_digest(sign(text).encode(), str(state).encode()):
        raise MCPError(mcp.INVALID_PARAMS, "requestState was tampered with")
    return text


def has(ctx: Context, capability: str) -> bool:
    capabilities = ctx.session.client_capabilities
    return capabilities is not None and getattr(capabilities, capability) is not None


async def ask(ctx: Context, questions: Mapping[str, tuple[str, dict[str, Any]]], state: str | None = None) -> Any:
    """The client's answers: as a second round where there are rounds, in the middle of the call where not."""
    if is_modern(ctx):
        given = (ctx.params or {}).get("inputResponses") or {}
        answers = {key: given.get(key) for key in questions}
        if all(isinstance(answer, dict) for answer in answers.values()):
            return answers
        asked = {key: {"method": m, "params": p} for key, (m, p) in questions.items()}
        result: dict[str, Any] = {"resultType": "input_required", "inputRequests": asked}
        if state is not None:
            result["requestState"] = sign(state)
        raise NeedInput(result)
    answered = await asyncio.gather(*(_ask_now(ctx, key, m, p) for key, (m, p) in questions.items()))
    return dict(zip(questions, answered, strict=True))


async def _ask_now(ctx: Context, key: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    params = {**params, "_meta": {"dev-tools/input-key": key}}
    request, result = {
        "elicitation/create": (mcp.ElicitRequest, mcp.ElicitResult),
        "sampling/createMessage": (mcp.CreateMessageRequest, mcp.CreateMessageResult),
        "roots/list": (mcp.ListRootsRequest, mcp.ListRootsResult),
    }[method]
    question = request.model_validate({"method": method, "params": params})
    here = ServerMessageMetadata(related_request_id=ctx.request_id)  # on this call's stream, not the standing one
    answer = await ctx.session.send_request(question, result, metadata=here)
    return answer.model_dump(mode="json", by_alias=True, exclude_none=True)


def elicit(message: str, properties: dict[str, Any], required: list[str] | None = None) -> tuple[str, dict[str, Any]]:
    schema = {"type": "object", "properties": properties, "required": required or list(properties)}
    return "elicitation/create", {"mode": "form", "message": message, "requestedSchema": schema}


def sample(text: str, tokens: int = 100) -> tuple[str, dict[str, Any]]:
    message = {"role": "user", "content": {"type": "text", "text": text}}
    return "sampling/createMessage", {"messages": [message], "maxTokens": tokens}


ROOTS: tuple[str, dict[str, Any]] = ("roots/list", {})
NAME = {"name": {"type": "string"}}


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


def need(ctx: Context, capability: str) -> None:
    if not has(ctx, capability):
        data = {"requiredCapabilities": {capability: {}}}
        raise MCPError(-32021, f"The client has not declared {capability}", data)


async def log(ctx: Context, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)


async def with_logging(ctx: Context, _: Any) -> dict[str, Any]:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(ctx, words)
        await asyncio.sleep(0.05)
    return text("Done, with three log messages.")


async def with_progress(ctx: Context, _: Any) -> dict[str, Any]:
    for progress in (0, 50, 100):
        await ctx.session.report_progress(progress, 100)
        await asyncio.sleep(0.05)
    return text("Done, with progress.")


async def sampling(ctx: Context, arguments: Any) -> dict[str, Any]:
    need(ctx, "sampling")
    answers = await ask(ctx, {"q": sample(arguments.get("prompt", ""))})
    return text(f"LLM response: {answers['q']['content']['text']}")


async def elicitation(ctx: Context, arguments: Any) -> dict[str, Any]:
    need(ctx, "elicitation")
    fields = {"username": {"type": "string", "description": "User's response"}, "email": {"type": "string"}}
    answer = (await ask(ctx, {"q": elicit(arguments.get("message", ""), fields)}))["q"]
    return text(f"User response: action: {answer['action']}, content: {json.dumps(answer.get('content'))}")


def completed(answer: Any) -> dict[str, Any]:
    return text(f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content'))}")


async def defaults(ctx: Context, _: Any) -> dict[str, Any]:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return completed((await ask(ctx, {"q": elicit("Please confirm", fields, [])}))["q"])


async def enums(ctx: Context, _: Any) -> dict[str, Any]:
    values = [("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option")]
    titled = [{"const": const, "title": title} for const, title in values]
    options = ["option1", "option2", "option3"]
    fields = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    return completed((await ask(ctx, {"q": elicit("Please choose", fields, [])}))["q"])


async def ir_elicitation(ctx: Context, _: Any) -> dict[str, Any]:
    answers = await ask(ctx, {"user_name": elicit("What is your name?", NAME)})
    return text(f"Hello, {answers['user_name'].get('content', {}).get('name')}!")


async def ir_sampling(ctx: Context, _: Any) -> dict[str, Any]:
    answers = await ask(ctx, {"capital_question": sample("What is the capital of France?")})
    return text(answers["capital_question"]["content"]["text"])


async def ir_roots(ctx: Context, _: Any) -> dict[str, Any]:
    answers = await ask(ctx, {"client_roots": ROOTS})
    return text(", ".join(root["uri"] for root in answers["client_roots"]["roots"]))


CONFIRM = elicit("Please confirm", {"ok": {"type": "boolean"}})


async def ir_state(ctx: Context, _: Any) -> dict[str, Any]:
    state = read_state(ctx)
    await ask(ctx, {"confirm": CONFIRM}, state="confirming")
    return text("state-ok" if state == "confirming" or not is_modern(ctx) else "no state")


async def ir_multiple(ctx: Context, _: Any) -> dict[str, Any]:
    read_state(ctx)
    questions = {
        "user_name": elicit("What is your name?", NAME),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }
    answers = await ask(ctx, questions, state="asked three")
    return text(f"Got {', '.join(answers)}")


async def ir_rounds(ctx: Context, _: Any) -> dict[str, Any]:
    state = read_state(ctx)
    color = elicit("Step 2: What is your favorite color?", {"color": {"type": "string"}})
    if state is None or not is_modern(ctx):
        await ask(ctx, {"step1": elicit("Step 1: What is your name?", NAME)}, state="round1")
    if is_modern(ctx) and state == "round1":
        await ask(ctx, {"step1": elicit("Step 1: What is your name?", NAME)}, state="round1")
        asked = {"step2": {"method": color[0], "params": color[1]}}
        raise NeedInput({"resultType": "input_required", "inputRequests": asked, "requestState": sign("round2")})
    await ask(ctx, {"step2": color}, state="round2")
    return text("All rounds are done.")


async def ir_capabilities(ctx: Context, _: Any) -> dict[str, Any]:
    questions: dict[str, tuple[str, dict[str, Any]]] = {}
    if has(ctx, "elicitation"):
        questions["name"] = elicit("What is your name?", NAME)
    if has(ctx, "sampling"):
        questions["greeting"] = sample("Greet me")
    await ask(ctx, questions)
    return text("Asked what the client can answer.")


async def missing_capability(ctx: Context, _: Any) -> dict[str, Any]:
    need(ctx, "sampling")
    return text("The client has it.")


async def streaming_elicitation(ctx: Context, _: Any) -> dict[str, Any]:
    await ctx.session.report_progress(1, 2)
    await ask(ctx, {"q": elicit("Go on?", {"ok": {"type": "boolean"}})})
    return text("Went on.")


async def logging_tool(ctx: Context, _: Any) -> dict[str, Any]:
    await log(ctx, "a log message")
    return text("Logged.")


async def image(_: Context, __: Any) -> dict[str, Any]:
    return {"content": [{"type": "image", "data": PNG, "mimeType": "image/png"}]}


async def audio(_: Context, __: Any) -> dict[str, Any]:
    return {"content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]}


def resource(uri: str, kind: str, words: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": words}}


async def embedded(_: Context, __: Any) -> dict[str, Any]:
    return {"content": [resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")]}


async def mixed(_: Context, __: Any) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": "Multiple content types test:"},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]
    return {"content": parts}


async def simple(_: Context, __: Any) -> dict[str, Any]:
    return text("This is a simple text response for testing.")


async def failing(_: Context, __: Any) -> dict[str, Any]:
    return {**text("This tool intentionally returns an error for testing"), "isError": True}


async def whoami(ctx: Context, arguments: Any) -> dict[str, Any]:
    """Echoes what it was given, after a pause: for tests of crossed answers."""
    await asyncio.sleep(float(arguments.get("wait", 0)))
    return text(f"{arguments.get('who')}")


def worded(handler: Callable[[Context, Any], Awaitable[Any]]) -> Callable[[Context, Any], Awaitable[Any]]:
    """A handler's result with what the stateless revision adds to every one."""

    async def handle(ctx: Context, params: Any) -> Any:
        result = await handler(ctx, params)
        if is_modern(ctx) and isinstance(result, dict):
            hints = (
                {"ttlMs": 0, "cacheScope": "private"}
                if ctx.method.partition("/")[2] in {"list", "read", "templates/list"}
                else {}
            )
            return {"resultType": "complete", **hints, **result}
        return result

    return handle


Handler = Callable[[Context, Any], Awaitable[dict[str, Any]]]


class Everything:
    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.extra = 0
        self.tools: dict[str, Handler] = {
            "test_simple_text": simple,
            "test_image_content": image,
            "test_audio_content": audio,
            "test_embedded_resource": embedded,
            "test_multiple_content_types": mixed,
            "test_tool_with_logging": with_logging,
            "test_error_handling": failing,
            "test_tool_with_progress": with_progress,
            "test_sampling": sampling,
            "test_elicitation": elicitation,
            "test_elicitation_sep1034_defaults": defaults,
            "test_elicitation_sep1330_enums": enums,
            "test_input_required_result_elicitation": ir_elicitation,
            "test_input_required_result_sampling": ir_sampling,
            "test_input_required_result_list_roots": ir_roots,
            "test_input_required_result_request_state": ir_state,
            "test_input_required_result_multiple_inputs": ir_multiple,
            "test_input_required_result_multi_round": ir_rounds,
            "test_input_required_result_tampered_state": ir_state,
            "test_input_required_result_capabilities": ir_capabilities,
            "test_missing_capability": missing_capability,
            "test_streaming_elicitation": streaming_elicitation,
            "test_logging_tool": logging_tool,
            "test_trigger_tool_change": self.change_tools,
            "test_trigger_prompt_change": self.change_prompts,
            "whoami": whoami,
        }

    async def change_tools(self, ctx: Context, _: Any) -> dict[str, Any]:
        self.extra += 1
        await self.bus.publish(ToolsListChanged())
        if not is_modern(ctx):
            await ctx.session.send_tool_list_changed()
        return text("Changed.")

    async def change_prompts(self, ctx: Context, _: Any) -> dict[str, Any]:
        await self.bus.publish(PromptsListChanged())
        if not is_modern(ctx):
            await ctx.session.send_prompt_list_changed()
        return text("Changed.")

    async def list_tools(self, _: Context, __: Any) -> dict[str, Any]:
        names = [*self.tools, *(f"extra_{n}" for n in range(self.extra))]
        schema = {"type": "object", "properties": {}}
        return {"tools": [{"name": n, "description": f"Fixture {n}.", "inputSchema": schema} for n in names]}

    async def call_tool(self, ctx: Context, params: mcp.CallToolRequestParams) -> Any:
        handler = self.tools.get(params.name)
        if handler is None:
            raise MCPError(mcp.INVALID_PARAMS, f"Unknown tool {params.name}")
        try:
            return await handler(ctx, params.arguments or {})
        except NeedInput as asked:
            return asked.result

    async def list_prompts(self, _: Context, __: Any) -> dict[str, Any]:
        two = [{"name": n, "description": "x", "required": True} for n in ("arg1", "arg2")]
        uri = [{"name": "resourceUri", "description": "x", "required": True}]
        prompts: list[dict[str, Any]] = [
            {"name": "test_simple_prompt", "description": "Simple."},
            {"name": "test_prompt_with_arguments", "description": "With arguments.", "arguments": two},
            {"name": "test_prompt_with_embedded_resource", "description": "Embedded.", "arguments": uri},
            {"name": "test_prompt_with_image", "description": "Image."},
            {"name": "test_input_required_result_prompt", "description": "Asks."},
        ]
        return {"prompts": prompts}

    async def get_prompt(self, ctx: Context, params: mcp.GetPromptRequestParams) -> Any:
        given = params.arguments or {}
        contents: list[dict[str, Any]]
        if params.name == "test_simple_prompt":
            contents = [{"type": "text", "text": "This is a simple prompt for testing."}]
        elif params.name == "test_prompt_with_arguments":
            words = f"Prompt with arguments: arg1='{given.get('arg1')}', arg2='{given.get('arg2')}'"
            contents = [{"type": "text", "text": words}]
        elif params.name == "test_prompt_with_embedded_resource":
            held = resource(str(given.get("resourceUri")), "text/plain", "Embedded resource content for testing.")
            contents = [held, {"type": "text", "text": "Please process the embedded resource above."}]
        elif params.name == "test_prompt_with_image":
            picture = {"type": "image", "data": PNG, "mimeType": "image/png"}
            contents = [picture, {"type": "text", "text": "Please analyze the image above."}]
        elif params.name == "test_input_required_result_prompt":
            question = elicit("What context should the prompt use?", {"context": {"type": "string"}})
            try:
                answers = await ask(ctx, {"user_context": question})
            except NeedInput as asked:
                return asked.result
            contents = [{"type": "text", "text": str(answers["user_context"].get("content"))}]
        else:
            raise MCPError(mcp.INVALID_PARAMS, f"Unknown prompt {params.name}")
        return {"messages": [{"role": "user", "content": content} for content in contents]}

    async def list_resources(self, _: Context, __: Any) -> dict[str, Any]:
        uris = {"static-text": "text/plain", "static-binary": "image/png", "watched-resource": "text/plain"}
        found = [{"uri": f"test://{n}", "name": n, "description": n, "mimeType": m} for n, m in uris.items()]
        return {"resources": found}

    async def list_templates(self, _: Context, __: Any) -> dict[str, Any]:
        template = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
        return {"resourceTemplates": [template]}

    async def read_resource(self, _: Context, params: mcp.ReadResourceRequestParams) -> dict[str, Any]:
        uri = str(params.uri)
        if uri == "test://static-text":
            held = {"mimeType": "text/plain", "text": "This is the content of the static text resource."}
        elif uri == "test://static-binary":
            held = {"mimeType": "image/png", "blob": PNG}
        elif uri == "test://watched-resource":
            held = {"mimeType": "text/plain", "text": "watched"}
        elif uri.startswith("test://template/"):
            id_ = uri.split("/")[3]
            words = json.dumps({"id": id_, "templateTest": True, "data": f"Data for ID: {id_}"})
            held = {"mimeType": "application/json", "text": words}
        else:
            raise MCPError(mcp.INVALID_PARAMS, "Resource not found", {"uri": uri})
        return {"contents": [{"uri": uri, **held}]}

    async def complete(self, _: Context, __: Any) -> dict[str, Any]:
        return {"completion": {"values": ["paris", "park", "party"], "total": 3, "hasMore": False}}

    async def nothing(self, _: Context, __: Any) -> mcp.EmptyResult:
        return mcp.EmptyResult()

    def server(self, era: str) -> Server[Any]:
        more: dict[str, Any] = {}
        if era == "legacy":
            more = {
                "on_subscribe_resource": self.nothing,
                "on_unsubscribe_resource": self.nothing,
                "on_set_logging_level": self.nothing,
            }
        else:
            more = {"on_subscriptions_listen": ListenHandler(self.bus)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Server(
                "everything",
                version="1",
                on_list_tools=worded(self.list_tools),
                on_call_tool=worded(self.call_tool),
                on_list_prompts=worded(self.list_prompts),
                on_get_prompt=worded(self.get_prompt),
                on_list_resources=worded(self.list_resources),
                on_list_resource_templates=worded(self.list_templates),
                on_read_resource=worded(self.read_resource),
                on_completion=worded(self.complete),
                **more,
            )


class OneEra:
    """Answers requests of the other era as a server that has never heard of it."""

    def __init__(self, app: Any, era: str) -> None:
        self.app = app
        self.era = era

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            is_modern = dict(scope["headers"]).get(b"mcp-protocol-version") == MODERN.encode()
            if is_modern != (self.era == "modern"):
                error = {"code": -32600, "message": "Bad Request: Unsupported protocol version"}
                body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
                headers = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 400, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self.app(scope, receive, send)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--era", choices=["modern", "legacy"], required=True)
    parser.add_argument("--port", type=int)
    parser.add_argument("--stdio", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    server = Everything().server(options.era)
    if options.stdio:
        asyncio.run(_stdio(server))
        return
    app = OneEra(server.streamable_http_app(), options.era)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


async def _stdio(server: Server[Any]) -> None:
    changes = NotificationOptions(tools_changed=True, prompts_changed=True, resources_changed=True)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options(changes))


if __name__ == "__main__":
    main()
