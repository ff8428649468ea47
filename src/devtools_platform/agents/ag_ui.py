"""Each agent for AG-UI front ends: `POST /agents/NAME/ag-ui`, a run in, its events out.

The agent calls its own tools, so tools and state of the front end are passed over; what comes is text. A run's events
begin at once and are kept alive while the agent works.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from devtools_platform.agents.chat import Ask, ChatAnswer, Role, Said, new_session
from devtools_platform.agents.types import Definition
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import DevToolsError, UnknownAgent

KEEP_ALIVE_S = 10.0
MAX_MESSAGES = 500
SESSION = "Dev-Tools-Session"
"""The header that names the session under which the run's model calls stand in the cost ledger."""
PROTOCOL = "1.0"
NO_BUFFER = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


class _Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class Part(_Camel):
    type: str
    text: str = ""


class RunMessage(_Camel):
    """Tool results and front-end activities are somebody else's: they are passed over."""

    role: Literal["system", "developer", "user", "assistant", "tool", "activity", "reasoning"]
    content: str | list[Part] | dict[str, Any] | None = None

    def said(self) -> Said | None:
        role = _ROLES.get(self.role)
        if role is None or not isinstance(self.content, str | list):
            return None
        text = self.content if isinstance(self.content, str) else "\n".join(p.text for p in self.content if p.text)
        return Said(role, text) if text else None


class RunInput(_Camel):
    thread_id: str = Field(max_length=200)
    run_id: str = Field(max_length=200)
    messages: list[RunMessage] = Field(min_length=1, max_length=MAX_MESSAGES)


def add_ag_ui(app: FastAPI, definitions: Mapping[AgentName, Definition], ask: Ask) -> None:
    """The route, on the agents' app: behind its tokens and limits."""

    @app.post("/agents/{name}/ag-ui", tags=["agents"])
    async def run(name: str, given: RunInput) -> StreamingResponse:
        if name not in definitions:
            known = ", ".join(definitions)
            raise UnknownAgent(f"There is no agent {name!r}.", hint=f"The agents are: {known}.")
        said = [one for message in given.messages if (one := message.said()) is not None]
        session, pieces = new_session(), asyncio.Queue[str | None]()
        work = asyncio.ensure_future(ask(name, said, session, pieces.put_nowait))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        headers = {**NO_BUFFER, SESSION: session}
        return StreamingResponse(_events(work, pieces, given), media_type="text/event-stream", headers=headers)

    _ = run


async def _events(
    work: asyncio.Task[ChatAnswer], pieces: asyncio.Queue[str | None], given: RunInput
) -> AsyncGenerator[str]:
    """Whoever hangs up ends the work."""
    ids = {"threadId": given.thread_id, "runId": given.run_id}
    message, has_begun = f"msg_{uuid.uuid4().hex}", False
    try:
        yield _event("RUN_STARTED", **ids, protocolVersion=PROTOCOL)
        while True:
            try:
                piece = await asyncio.wait_for(pieces.get(), KEEP_ALIVE_S)
            except TimeoutError:
                yield ": still working\n\n"
                continue
            if piece is None:
                break
            if piece and not has_begun:
                yield _event("TEXT_MESSAGE_START", messageId=message, role="assistant")
                has_begun = True
            if piece:
                yield _event("TEXT_MESSAGE_CONTENT", messageId=message, delta=piece)
        if has_begun:
            yield _event("TEXT_MESSAGE_END", messageId=message)
        try:
            work.result()
        except DevToolsError as error:
            yield _event("RUN_ERROR", message=f"{error} {error.hint}".strip(), code=error.code)
            return
        yield _event("RUN_FINISHED", **ids)
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, DevToolsError):
            await work


def _event(kind: str, **fields: Any) -> str:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n"
