"""A server that answers some calls later (MCP's tasks extension), on the official SDK, which does not have it.

Its tools are those the official conformance suite looks for, and three for our own tests: `long_text`, `endless_job`,
and `list_states`, which says how the calls so far stand.

python long_work.py (--port N | --stdio)
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import mcp_types as mcp
import uvicorn
from mcp.server.context import CallNext, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from pydantic import ConfigDict, Field

MODERN = frozenset({"2026-07-28"})
TASKS = "io.modelcontextprotocol/tasks"
TTL_MS = 60_000
POLL_MS = 100
Context = ServerRequestContext[Any, Any]
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class TaskParams(mcp.RequestParams):
    model_config = ConfigDict(extra="allow", alias_generator=None)
    taskId: str  # noqa: N815 - as it is on the wire
    inputResponses: dict[str, Any] = Field(default_factory=dict)  # noqa: N815


class Work:
    """One task, as long as this process lives."""

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.created = now()
        self.state: dict[str, Any] = {"status": "working"}
        self.questions: dict[str, asyncio.Future[Any]] = {}
        self.asked: dict[str, Any] = {}
        self.job: asyncio.Task[None] | None = None

    def shown(self, result_type: str) -> dict[str, Any]:
        """Without what belongs to its state, for the answer that makes it."""
        fields = {"createdAt": self.created, "lastUpdatedAt": now(), "ttlMs": TTL_MS, "pollIntervalMs": POLL_MS}
        state = self.state if result_type == "complete" else {"status": self.state["status"]}
        return {"resultType": result_type, "taskId": self.id, **fields, **state}

    async def ask(self, *messages: str) -> list[Any]:
        loop = asyncio.get_running_loop()
        keys = [f"{self.id}-{number}" for number, _ in enumerate(messages, len(self.questions))]
        self.questions |= {key: loop.create_future() for key in keys}
        self.asked = {key: elicit(message) for key, message in zip(keys, messages, strict=True)}
        self._wait()
        answers = [await self.questions[key] for key in keys]
        self.state = {"status": "working"}
        return answers

    def _wait(self) -> None:
        self.state = {"status": "input_required", "inputRequests": self.asked}

    def answer(self, given: Mapping[str, Any]) -> None:
        for key, value in given.items():
            if self.asked.pop(key, None) is not None:
                self.questions[key].set_result(value)
                self._wait()

    async def run(self, work: Callable[["Work"], Awaitable[dict[str, Any]]]) -> None:
        try:
            self.state = {"status": "completed", "result": await work(self)}
        except MCPError as error:
            self.state = {"status": "failed", "error": {"code": error.error.code, "message": error.error.message}}
        except asyncio.CancelledError:
            self.state = {"status": "cancelled"}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text(value: str, *, is_error: bool = False) -> dict[str, Any]:
    return {"resultType": "complete", "content": [{"type": "text", "text": value}], "isError": is_error}


def elicit(message: str) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": NAME}}


class LongWork(Extension):
    identifier = TASKS

    def __init__(self) -> None:
        self.work: dict[str, Work] = {}

    def methods(self) -> list[MethodBinding]:
        made = {"tasks/get": self.get, "tasks/update": self.update, "tasks/cancel": self.cancel}
        return [MethodBinding(name, TaskParams, handler, MODERN) for name, handler in made.items()]

    def find(self, ctx: Context, params: TaskParams) -> Work:
        need_extension(ctx)
        if params.taskId not in self.work:
            raise MCPError(mcp.INVALID_PARAMS, "Task not found")
        return self.work[params.taskId]

    async def get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        return self.find(ctx, params).shown("complete")

    async def update(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        self.find(ctx, params).answer(params.inputResponses)
        return {"resultType": "complete"}

    async def cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        job = self.find(ctx, params).job
        if job is not None:
            job.cancel()
        return {"resultType": "complete"}

    async def intercept_tool_call(self, params: mcp.CallToolRequestParams, ctx: Context, _: CallNext) -> Any:
        given = params.arguments or {}
        if params.name == "greet":
            return text(f"Hello, {given.get('name')}!")
        if params.name == "list_states":
            return text(" ".join(work.state["status"] for work in self.work.values()))
        if params.name == "slow_compute" and not declares(ctx):
            await asyncio.sleep(float(given.get("seconds", 0)))
            return text("computed at once")
        if params.name == "test_tool_with_task":
            name = ((ctx.params or {}).get("inputResponses") or {}).get("user_name")
            if name is None:
                return {"resultType": "input_required", "inputRequests": {"user_name": elicit("Your name?")}}
            return await self.later(ctx, lambda _: answer(f"Hello, {name['content']['name']}!"))
        jobs: dict[str, Callable[[Work], Awaitable[dict[str, Any]]]] = {
            "slow_compute": lambda _: compute(given),
            "long_text": lambda _: answer("x" * int(given.get("length", 1))),
            "failing_job": lambda _: answer("The job failed.", is_error=True),
            "protocol_error_job": lambda _: break_off(),
            "endless_job": lambda _: compute({"seconds": TTL_MS}),
            "confirm_delete": confirm,
            "multi_input": ask_two,
        }
        return await self.later(ctx, jobs[params.name])

    async def later(self, ctx: Context, job: Callable[[Work], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        need_extension(ctx)
        work = Work(f"work {len(self.work) + 1}")
        self.work[work.id] = work
        work.job = asyncio.create_task(work.run(job))
        return work.shown("task")


def declares(ctx: Context) -> bool:
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and TASKS in (capabilities.extensions or {}))


def need_extension(ctx: Context) -> None:
    if not declares(ctx):
        data = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
        raise MCPError(-32021, "Missing required client capability", data)


async def answer(value: str, *, is_error: bool = False) -> dict[str, Any]:
    return text(value, is_error=is_error)


async def compute(given: Mapping[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(float(given.get("seconds", 0)))
    return text(f"computed {given.get('label', '')}")


async def break_off() -> dict[str, Any]:
    raise MCPError(mcp.INTERNAL_ERROR, "The job broke off.")


async def confirm(work: Work) -> dict[str, Any]:
    (said,) = await work.ask("Delete it?")
    return text(f"{said['action']} {said.get('content', {}).get('name', '')}".strip())


async def ask_two(work: Work) -> dict[str, Any]:
    said = await work.ask("First name?", "Last name?")
    return text(" ".join(str(answer.get("content", {}).get("name")) for answer in said))


async def nothing() -> None:
    """Never called: the extension answers."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--stdio", action="store_true")
    options = parser.parse_args()
    server = MCPServer("long-work", extensions=[LongWork()])
    names = ("greet", "slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input")
    for name in (*names, "test_tool_with_task", "long_text", "endless_job", "list_states"):
        server.add_tool(nothing, name=name, description=f"Fixture {name}.", structured_output=False)
    if options.stdio:
        server.run("stdio")
        return
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    sys.exit(main())
