"""The gateway's pages: servers and tools, what waits in quarantine, the call log, and a place to try a tool."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from devtools_platform.console.pages import Door, Form, Pages, get, name_of, post, read_form
from devtools_platform.console.types import Answer, GatewayTool
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound

CALLS = 50
MAX_ARGUMENTS = 100_000
MAX_ANSWER = 50_000
"""Characters of an answer that are shown."""


class GatewayPages(Pages):
    def doors(self) -> Sequence[Door]:
        return (
            get("/gateway", self.gateway),
            get("/gateway/tools/{name}", self.tool),
            post("/gateway/tools/{name}/call", self.call),
            post("/gateway/quarantine/approve", self.approve, role="admin"),
        )

    async def gateway(self, request: Request) -> Response:
        tools = await self.stack.gateway.tools()
        by_server: defaultdict[str, list[GatewayTool]] = defaultdict(list)
        for tool in tools:
            by_server[tool.server].append(tool)
        return await self.show(
            request,
            "gateway.html",
            servers=await self.stack.gateway.servers(),
            tools=by_server,
            held=await self.stack.gateway.quarantine(),
            calls=await self.stack.gateway.calls(CALLS),
        )

    async def tool(self, request: Request, name: str) -> Response:
        return await self._one(request, await self._find(name))

    async def call(self, request: Request, name: str) -> Response:
        """Call a tool as the person who is signed in. What changes something needs a second yes."""
        form = await read_form(request)
        tool = await self._find(name)
        try:
            answer = await self.stack.gateway.call_tool(
                name,
                _read_arguments(form.get("arguments", "")),
                is_confirmed=form.get("confirmed") == "yes",
                by=name_of(request),
            )
        except DevToolsError as error:
            return await self._one(request, tool, form=form, error=error)
        return await self._one(request, tool, form=form, answer=answer)

    async def approve(self, request: Request) -> Response:
        form = await read_form(request)
        await self.stack.gateway.approve_tool(
            form.get("server", ""),
            form.get("tool", ""),
            form.get("digest", ""),
            accept_findings=form.get("findings") == "accept",
            by=name_of(request),
        )
        return RedirectResponse("/gateway", status_code=303)

    async def _find(self, name: str) -> GatewayTool:
        for tool in await self.stack.gateway.tools():
            if tool.name == name:
                return tool
        raise NotFound(f"There is no tool {name!r}.", hint="The gateway's page lists those there are.")

    async def _one(
        self,
        request: Request,
        tool: GatewayTool,
        *,
        form: Form | None = None,
        error: DevToolsError | None = None,
        answer: Answer | None = None,
    ) -> Response:
        return await self.show(
            request,
            "tool.html",
            status=error.status if error else 200,
            tool=tool,
            schema=json.dumps(tool.input_schema, indent=2, ensure_ascii=False),
            arguments=(form or {}).get("arguments") or _example(tool.input_schema),
            error=error,
            answer=answer,
            text=_clip(answer.text) if answer else "",
        )


def _read_arguments(text: str) -> dict[str, object]:
    if len(text) > MAX_ARGUMENTS:
        raise BadInput(f"Arguments have at most {MAX_ARGUMENTS} characters, these {len(text)}.", hint="Send less.")
    try:
        given: Any = json.loads(text or "{}")
    except ValueError as error:
        raise BadInput(f"The arguments are no JSON: {error}.", hint="Mend them below and call again.") from None
    if not isinstance(given, dict):
        raise BadInput("The arguments must be a JSON object.", hint='For example {"path": "README.md"}.')
    return cast("dict[str, object]", given)


def _example(schema: Mapping[str, object]) -> str:
    """The object a person starts from: every required name with an empty value of its type."""
    properties = cast("Mapping[str, Mapping[str, object]]", schema.get("properties") or {})
    empty: dict[object, object] = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": []}
    required = cast("Sequence[str]", schema.get("required") or ())
    start: dict[str, object] = {name: empty.get(properties.get(name, {}).get("type")) for name in required}
    return json.dumps(start, indent=2)


def _clip(text: str) -> str:
    return text if len(text) <= MAX_ANSWER else f"{text[:MAX_ANSWER]}… ({len(text) - MAX_ANSWER:,} more characters)"
