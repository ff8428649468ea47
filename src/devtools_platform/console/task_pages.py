"""The pages about tasks: home, list, one task, its live events, and the two forms that change something."""

import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

from devtools_platform.console.diff import view_changes
from devtools_platform.console.interfaces import StackReader, TaskReader, TaskWriter
from devtools_platform.console.plan import view_plan
from devtools_platform.console.render import Renderer
from devtools_platform.console.sessions import Session, has_csrf
from devtools_platform.console.timeline import make_entry
from devtools_platform.console.words import STATUS_WORDS, is_running
from devtools_platform.core.agents import WORKING_AGENTS
from devtools_platform.core.errors import BadInput, DevToolsError, Forbidden, Unavailable
from devtools_platform.core.tasks import Status, TaskRequest, TaskResult
from devtools_platform.kit.http import MAX_BODY_BYTES

log = logging.getLogger(__name__)

MAX_LISTED = 200
RECENT = 8
MAX_ENTRIES = 500
"""Events a task's page shows at first: the newest. A link shows all."""

Form = Mapping[str, str]


class TaskPages:
    """The handlers. Each gets a request the gate has let through, so a session is there."""

    def __init__(self, reader: TaskReader, writer: TaskWriter, stack: StackReader, renderer: Renderer) -> None:
        self.reader = reader
        self.writer = writer
        self.stack = stack
        self.renderer = renderer

    async def home(self, request: Request) -> Response:
        return await self._home(request)

    async def tasks(self, request: Request, status: str = "") -> Response:
        if status and status not in STATUS_WORDS:
            raise BadInput(f"{status!r} is not a status.", hint=f"Choose one of {', '.join(STATUS_WORDS)}.")
        newest = await self.reader.list_tasks(MAX_LISTED)
        shown = [task for task in newest if not status or task.status == cast("Status", status)]
        return self.renderer.page(
            "tasks.html",
            session=_session(request),
            tasks=shown,
            chosen=status,
            is_cut=len(newest) == MAX_LISTED,
            max_listed=MAX_LISTED,
        )

    async def task(self, request: Request, id_: str, events: Literal["newest", "all"] = "newest") -> Response:
        view = await self._view(request, id_)
        happened = view.pop("events")
        shown = happened if events == "all" else happened[-MAX_ENTRIES:]
        return self.renderer.page(
            "task.html",
            entries=[make_entry(event) for event in shown],
            earlier=len(happened) - len(shown),
            last_seq=happened[-1].seq if happened else 0,
            **view,
        )

    async def panels(self, request: Request, id_: str) -> Response:
        """What of a task's page changes beside its timeline; the script swaps it in."""
        return self.renderer.page("task_panels.html", **await self._view(request, id_))

    async def events(self, request: Request, id_: str, after: int = 0) -> Response:
        """The timeline as server-sent events, each a rendered entry. `Last-Event-ID` wins over `after`."""
        last = request.headers.get("last-event-id", str(after))
        if not last.isdecimal():
            raise BadInput(f"Last-Event-ID is {last!r}, expected an event's number.", hint="Reload the page.")
        await self.reader.get_task(id_)
        return EventSourceResponse(self._stream(id_, int(last)))

    async def create(self, request: Request) -> Response:
        form = await _read_form(request)
        try:
            id_ = await self.writer.create_task(_read_request(form), form.get("key") or None)
        except DevToolsError as error:
            return await self._home(request, form=form, error=error)
        return RedirectResponse(f"/tasks/{id_}", status_code=303)

    async def cancel(self, request: Request, id_: str) -> Response:
        await _read_form(request)
        await self.writer.cancel_task(id_)
        return RedirectResponse(f"/tasks/{id_}", status_code=303)

    async def _home(
        self, request: Request, *, form: Form | None = None, error: DevToolsError | None = None
    ) -> Response:
        tasks, trouble = await self._newest()
        typed = form or {}
        return self.renderer.page(
            "home.html",
            status=error.status if error else 200,
            session=_session(request),
            services=await self.stack.services(),
            agents=await self.stack.agents(),
            running=[task for task in tasks if is_running(task)],
            recent=[task for task in tasks if not is_running(task)][:RECENT],
            trouble=trouble,
            error=error,
            typed={name: typed.get(name, "") for name in ("text", "repo", "agent")},
            key=typed.get("key") or secrets.token_hex(16),
            repos=list(dict.fromkeys(task.repo for task in tasks)),
            choices=WORKING_AGENTS,
        )

    async def _newest(self) -> tuple[Sequence[TaskResult], Unavailable | None]:
        """The newest tasks. Home is where one looks when the state service is down, so it does without."""
        try:
            return await self.reader.list_tasks(MAX_LISTED), None
        except Unavailable as error:
            return (), error

    async def _view(self, request: Request, id_: str) -> dict[str, Any]:
        # The task before its events: what happens in between, the stream that starts after them brings.
        task = await self.reader.get_task(id_)
        events = await self.reader.list_events(id_, 0)
        findings = task.review.findings if task.review else ()
        return {
            "session": _session(request),
            "task": task,
            "events": events,
            "plan": view_plan(task, events),
            "changes": view_changes(await self.reader.diff(id_), findings),
        }

    async def _stream(self, id_: str, after: int) -> AsyncIterator[ServerSentEvent]:
        try:
            async for event in self.reader.follow_events(id_, after):
                html = self.renderer.fragment("entry.html", entry=make_entry(event))
                yield ServerSentEvent(html, event="entry", id=str(event.seq))
        except DevToolsError as error:
            # The answer has begun: all that is left is to hang up. The browser comes back with its last id.
            log.warning("Events of task %s broke off: %s", id_, error)
        else:
            yield ServerSentEvent("", event="end")


async def _read_form(request: Request) -> Form:
    """The fields of a form this session was given. Raises `Forbidden` for any other."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadInput(f"A form is at most {MAX_BODY_BYTES} bytes.", hint="Put long text into the repository.")
    form = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
    if not has_csrf(_session(request), form.get("csrf", "")):
        raise Forbidden(
            "This form does not belong to your session, so nothing was done.",
            hint="Go back, reload the page and send it again.",
        )
    return form


def _read_request(form: Form) -> TaskRequest:
    repo = form.get("repo", "").strip()
    if not PurePosixPath(repo).is_absolute():
        raise BadInput(
            f"The repository is {repo!r}, expected an absolute path on the machine the stack runs on.",
            hint="`git rev-parse --show-toplevel` prints it.",
        )
    try:
        fields = {"text": form.get("text", "").strip(), "repo": repo, "agent": form.get("agent") or None}
        return TaskRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = {"text": "The task", "agent": "The agent"}.get(str(first["loc"][0]), "The form")
        raise BadInput(f"{name}: {first['msg']}.", hint="Mend it and send the form again.") from None


def _session(request: Request) -> Session:
    return request.state.session
