"""The pages about tasks: the list with its box for a new one, one task, its live events, and what one does with it."""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse

from devtools_platform.console.approval_pages import view_approval
from devtools_platform.console.diff import view_changes
from devtools_platform.console.pages import Door, Form, Pages, get, name_of, post, read_form, read_form_of_many
from devtools_platform.console.plan import view_flow, view_plan
from devtools_platform.console.so_far import add_events
from devtools_platform.console.timeline import make_entry
from devtools_platform.console.types import Wanted
from devtools_platform.console.words import STATUS_WORDS, is_running
from devtools_platform.core.agents import AGENTS, WORKING_AGENTS
from devtools_platform.core.errors import BadInput, Conflict, DevToolsError
from devtools_platform.core.tasks import FINAL, MAX_TASK_TEXT, AskBefore, Event, Status, TaskRequest, TaskResult

log = logging.getLogger(__name__)

PAGE_SIZE = 50
MAX_ENTRIES = 500
"""Events a task's page shows at first: the newest. A link shows all."""
MAX_SHOWN_STEPS = 200
MAX_BULK = 200


class TaskPages(Pages):
    def doors(self) -> Sequence[Door]:
        return (
            get("/tasks", self.tasks),
            get("/tasks/{id_}", self.task),
            get("/tasks/{id_}/panels", self.panels),
            get("/tasks/{id_}/events", self.events),
            post("/tasks", self.create),
            post("/tasks/cancel", self.cancel_many),
            post("/tasks/{id_}/cancel", self.cancel),
            post("/tasks/{id_}/pause", self.pause),
            post("/tasks/{id_}/resume", self.resume),
            post("/tasks/{id_}/steer", self.steer),
            post("/tasks/{id_}/retry", self.retry),
            post("/tasks/{id_}/fork", self.fork),
        )

    # -- looking -------------------------------------------------------------------------------------------------

    async def tasks(
        self, request: Request, status: str = "", text: str = "", repo: str = "", agent: str = "", cursor: str = ""
    ) -> Response:
        wanted = Wanted(_read_status(status), text.strip() or None, repo.strip() or None, _read_agent(agent))
        return await self._list(request, wanted, cursor=cursor or None)

    async def task(self, request: Request, id_: str, events: Literal["newest", "all"] = "newest") -> Response:
        view = await self._view(id_)
        happened = view.pop("events")
        shown = happened if events == "all" else happened[-MAX_ENTRIES:]
        return await self.show(
            request,
            "task.html",
            entries=[make_entry(event) for event in shown],
            earlier=len(happened) - len(shown),
            last_seq=happened[-1].seq if happened else 0,
            **view,
        )

    async def panels(self, request: Request, id_: str) -> Response:
        """What of a task's page changes beside its timeline; the script swaps it in."""
        return await self.show(request, "task_panels.html", **await self._view(id_))

    async def events(self, request: Request, id_: str, after: int = 0) -> Response:
        """The timeline as server-sent events, each a rendered entry. `Last-Event-ID` wins over `after`."""
        last = request.headers.get("last-event-id", str(after))
        if not last.isdecimal():
            raise BadInput(f"Last-Event-ID is {last!r}, expected an event's number.", hint="Reload the page.")
        await self.stack.tasks.get_task(id_)
        return EventSourceResponse(self._stream(id_, int(last)))

    # -- acting --------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        form, points = await read_form_of_many(request, "ask")
        try:
            asked = _read_request(form, points)
            id_ = await self.stack.actions.create_task(asked, form.get("key") or None, name_of(request))
        except DevToolsError as error:
            return await self._list(request, Wanted(), form=form, points=points, error=error)
        return RedirectResponse(f"/tasks/{id_}", status_code=303)

    async def cancel_many(self, request: Request) -> Response:
        """Cancel the chosen tasks; those that have ended meanwhile are left alone."""
        _, chosen = await read_form_of_many(request, "id")
        if not chosen:
            raise BadInput("No task was chosen.", hint="Tick some in the list first.")
        for id_ in chosen[:MAX_BULK]:
            try:
                await self.stack.actions.cancel_task(id_, name_of(request))
            except Conflict:
                log.info("task %s had ended before it was cancelled", id_)
        return RedirectResponse("/tasks", status_code=303)

    async def cancel(self, request: Request, id_: str) -> Response:
        return await self._act(request, id_, self.stack.actions.cancel_task)

    async def pause(self, request: Request, id_: str) -> Response:
        return await self._act(request, id_, self.stack.actions.pause_task)

    async def resume(self, request: Request, id_: str) -> Response:
        return await self._act(request, id_, self.stack.actions.resume_task)

    async def steer(self, request: Request, id_: str) -> Response:
        form = await read_form(request)
        text = form.get("text", "").strip()
        if not 0 < len(text) <= MAX_TASK_TEXT:
            raise BadInput(
                f"The message has {len(text)} characters; 1 to {MAX_TASK_TEXT} are taken.",
                hint="Go back and say what the agent should know.",
            )
        await self.stack.actions.steer_task(id_, text, name_of(request))
        return RedirectResponse(f"/tasks/{id_}", status_code=303)

    async def retry(self, request: Request, id_: str) -> Response:
        form = await read_form(request)
        await self.stack.actions.retry_task(id_, _read_step(form), name_of(request))
        return RedirectResponse(f"/tasks/{id_}", status_code=303)

    async def fork(self, request: Request, id_: str) -> Response:
        form = await read_form(request)
        new = await self.stack.actions.fork_task(id_, _read_step(form), name_of(request))
        return RedirectResponse(f"/tasks/{new}", status_code=303)

    async def _act(self, request: Request, id_: str, action: Callable[[str, str], Awaitable[None]]) -> Response:
        await read_form(request)
        await action(id_, name_of(request))
        return RedirectResponse(f"/tasks/{id_}", status_code=303)

    # -- means ---------------------------------------------------------------------------------------------------

    async def _list(
        self,
        request: Request,
        wanted: Wanted,
        *,
        cursor: str | None = None,
        form: Form | None = None,
        points: Sequence[str] = (),
        error: DevToolsError | None = None,
    ) -> Response:
        page = await self.stack.tasks.list_tasks(PAGE_SIZE, wanted, cursor)
        given = {"status": wanted.status, "text": wanted.text, "repo": wanted.repo, "agent": wanted.agent}
        filters = {name: value for name, value in given.items() if value}
        return await self.show(
            request,
            "tasks.html",
            status=error.status if error else 200,
            tasks=page.items,
            has_running=any(is_running(task) for task in page.items),
            wanted=wanted,
            is_filtered=bool(filters),
            following=f"/tasks?{urlencode({**filters, 'cursor': page.next})}" if page.next else None,
            error=error,
            agents=AGENTS,
            **blank_form(page.items, form or {}, points),
        )

    async def _view(self, id_: str) -> dict[str, Any]:
        # The task before its events: what happens in between, the stream that starts after them brings.
        stored = await self.stack.tasks.get_task(id_)
        events = await self.stack.tasks.list_events(id_, 0)
        task = add_events(stored, events)
        pending = await self.stack.approvals.list_approvals(status="pending", task_id=id_)
        findings = task.review.findings if task.review else ()
        return {
            "task": task,
            "events": events,
            "plan": view_plan(task, events),
            "flow": view_flow(task, events),
            "approvals": [view_approval(approval) for approval in pending],
            "is_pausing": _is_pausing(events) and task.status not in FINAL,
            "steps": (await self.stack.tasks.list_steps(id_))[-MAX_SHOWN_STEPS:],
            "changes": view_changes(_last_diff(events), findings),
            "elsewhere": await self.stack.tasks.list_links(task),
        }

    async def _stream(self, id_: str, after: int) -> AsyncIterator[ServerSentEvent]:
        try:
            async for event in self.stack.tasks.follow_events(id_, after):
                html = self.renderer.fragment("entry.html", entry=make_entry(event))
                yield ServerSentEvent(html, event="entry", id=str(event.seq))
        except DevToolsError as error:
            # The answer has begun: all that is left is to hang up. The browser comes back with its last id.
            log.warning("Events of task %s broke off: %s", id_, error)
        else:
            yield ServerSentEvent("", event="end")


def blank_form(tasks: Sequence[TaskResult], typed: Form | None = None, points: Sequence[str] = ()) -> dict[str, Any]:
    """What the box for a new task needs, with what was typed into it before."""
    known = typed or {}
    return {
        "typed": {name: known.get(name, "") for name in ("text", "repo", "agent")},
        "points": points,
        "key": known.get("key") or secrets.token_hex(16),
        "repos": list(dict.fromkeys(task.repo for task in tasks)),
        "choices": WORKING_AGENTS,
    }


def _last_diff(events: Sequence[Event]) -> str | None:
    """The last diff the task wrote down; its workspace is gone when it has ended."""
    texts = [event.data.get("text") for event in events if event.kind == "diff"]
    return str(texts[-1]) if texts and texts[-1] is not None else None


def _is_pausing(events: Sequence[Event]) -> bool:
    """Whether the last thing a person said about pausing was to pause."""
    said = [event.kind for event in events if event.kind in {"pause_requested", "resumed"}]
    return bool(said) and said[-1] == "pause_requested"


def _read_status(status: str) -> Status | None:
    if not status:
        return None
    for known in STATUS_WORDS:
        if status == known:
            return known
    raise BadInput(f"{status!r} is not a status.", hint=f"Choose one of {', '.join(STATUS_WORDS)}.")


def _read_agent(agent: str) -> str | None:
    if agent and agent not in AGENTS:
        raise BadInput(f"{agent!r} is not an agent.", hint=f"The agents are {', '.join(AGENTS)}.")
    return agent or None


def _read_step(form: Form) -> int | None:
    step = form.get("step", "")
    if not step:
        return None
    if not step.isdecimal() or not 0 < len(step) <= 6:  # noqa: PLR2004 - no workflow has a million steps
        raise BadInput(f"{step!r} is no step.", hint="Choose one of the list.")
    return int(step)


def _read_request(form: Form, points: Sequence[str]) -> TaskRequest:
    repo = form.get("repo", "").strip()
    if not PurePosixPath(repo).is_absolute():
        raise BadInput(
            f"The repository is {repo!r}, expected an absolute path on the machine the stack runs on.",
            hint="`git rev-parse --show-toplevel` prints it.",
        )
    known: tuple[AskBefore, ...] = get_args(AskBefore)
    asked = tuple(point for point in known if point in points)
    try:
        fields = {"text": form.get("text", "").strip(), "repo": repo, "agent": form.get("agent") or None}
        return TaskRequest.model_validate({**fields, "ask_before": asked})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = {"text": "The task", "agent": "The agent"}.get(str(first["loc"][0]), "The form")
        raise BadInput(f"{name}: {first['msg']}.", hint="Mend it and send the form again.") from None
