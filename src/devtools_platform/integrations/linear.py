"""Linear: an agent session is a task. Its prompts are orders and answers, our activities tell what happens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from pydantic import BaseModel, ConfigDict, ValidationError

from devtools_platform.core.errors import BadInput
from devtools_platform.integrations.conversation import Conversation, Said
from devtools_platform.integrations.publication import publish, pull_text, verdict_words
from devtools_platform.integrations.types import Json, Link, Message, Outcome, Received, TaskEvent, TaskView
from devtools_platform.integrations.words import Order, plain, read_order

MAX_BODY = 6000


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Team(_Part):
    id: str
    key: str


class _Issue(_Part):
    id: str
    identifier: str
    title: str
    description: str | None = None
    team: _Team


class _User(_Part):
    id: str
    name: str


class _Comment(_Part):
    body: str


class _Session(_Part):
    id: str
    issue: _Issue | None = None
    comment: _Comment | None = None
    creator: _User | None = None


class _Activity(_Part):
    id: str
    content: Mapping[str, object]
    signal: str | None = None
    user: _User | None = None


class _Payload(_Part):
    action: str
    agentSession: _Session  # noqa: N815 - Linear's names
    agentActivity: _Activity | None = None  # noqa: N815


@dataclass(frozen=True)
class LinearEvents:
    """Works deliveries of Linear."""

    conversation: Conversation
    teams: Mapping[str, tuple[str, Json]]
    """A team's key -> the path of its repository's clone, and where on GitHub its pull requests go (or nothing)."""

    async def handle(self, received: Received) -> Outcome:
        if received.event != "AgentSessionEvent":
            return Outcome("ignored", received.event)
        payload = _read(received)
        session, issue = payload.agentSession, payload.agentSession.issue
        if issue is None:
            return Outcome("ignored", "a session without an issue")
        origin = {"session": session.id, "issue": issue.id, "identifier": issue.identifier, "team": issue.team.id}
        served = self.teams.get(issue.team.key)
        if served is None:
            text = f"No repository is set for team {issue.team.key}; see DEV_TOOLS_LINEAR_TEAMS."
            replies = self.conversation.voice.reply(f"linear:{session.id}", origin, received.id, text)
            await self.conversation.outbox.put(replies)
            return Outcome("ignored", text)
        repo, target = served
        order, user = _order(payload)
        if order is None:
            return Outcome("ignored", f"{payload.action} without a prompt")
        said = Said(
            service="linear",
            thread=f"linear:{session.id}",
            origin={**origin, "target": dict(target)},
            repo=repo,
            actor=f"linear:{user.name if user else 'automation'}",
            key=f"linear:{payload.agentActivity.id if payload.agentActivity else session.id}",
            order=order,
            source=f"issue {issue.identifier}",
            title=issue.title,
            body=issue.description or "",
            opens=payload.action == "created",
            follows=payload.action != "created",
            attempts=received.attempts,
        )
        return await self.conversation.hear(said)


def _order(payload: _Payload) -> tuple[Order | None, _User | None]:
    activity, session = payload.agentActivity, payload.agentSession
    if payload.action == "created":
        return Order("do", session.comment.body if session.comment else ""), session.creator
    if activity is None:
        return None, None
    if activity.signal == "stop":
        return Order("cancel", ""), activity.user
    body = activity.content.get("body")
    return (read_order(body) if isinstance(body, str) and body.strip() else None), activity.user


def _read(received: Received) -> _Payload:
    try:
        return _Payload.model_validate(json.loads(received.body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"Linear's {received.event!r} is not as expected: {place}: {first['msg']}.") from None


@dataclass(frozen=True)
class LinearVoice:
    """Speaks in agent sessions."""

    task_url: str | None
    """Of the console, with `{id}`; None where it cannot be reached from outside."""

    def begin(self, link: Link) -> Sequence[Message]:
        # Within 10 s of the session's start, or Linear shows us as unresponsive: so before the crew does anything.
        messages = [_activity(link, f"{link.task_id}:begin", "thought", body=f"This is task {link.task_id} now.")]
        if self.task_url:
            urls = [{"label": f"Task {link.task_id}", "url": self.task_url.format(id=link.task_id)}]
            messages.append(_session(link, f"{link.task_id}:urls", {"externalUrls": urls}))
        return [*messages, _issue(link, f"{link.task_id}:started", "started")]

    def reply(self, thread: str, origin: Json, key: str, text: str) -> Sequence[Message]:
        link = Link("", "linear", thread, origin)
        return [_activity(link, f"reply:{key}", "thought", body=plain(text, MAX_BODY))]

    def tell(self, link: Link, view: TaskView, events: Sequence[TaskEvent]) -> Sequence[Message]:
        messages: list[Message] = []
        for event in events:
            messages += self._tell(link, view, event)
        return messages

    def _tell(self, link: Link, view: TaskView, event: TaskEvent) -> list[Message]:
        key, data = f"{view.id}:{event.seq}", event.data
        if event.kind == "plan":
            return [_plan(link, key, cast("Sequence[Json]", data.get("steps") or ()), "pending")]
        if event.kind == "delegated":
            goal = _line(data.get("goal"))
            return [_activity(link, key, "action", action="Delegated", parameter=f"{data.get('agent')}: {goal}")]
        if event.kind == "tool_call":
            # Only the newest that waits is sent: a session is read by people, and Linear counts requests.
            parameter = _line(json.dumps(data.get("arguments") or {}))
            tool = str(data.get("tool"))
            place = f"{view.id}:now"
            return [_activity(link, key, "action", place=place, ephemeral=True, action=tool, parameter=parameter)]
        if event.kind == "tests":
            code = data.get("exit_code")
            result = "pass" if code == 0 else "ended by a limit" if code is None else f"exit code {code}"
            return [_activity(link, key, "action", action="Tests", parameter=str(data.get("stage")), result=result)]
        if event.kind == "reported":
            return [
                _activity(link, key, "thought", body=f"{data.get('agent')}: {plain(str(data.get('summary')), 2000)}")
            ]
        if event.kind == "review":
            result = f"{len(cast('Sequence[object]', data.get('findings') or ()))} findings"
            return [_activity(link, key, "action", action="Review", parameter=verdict_words(data), result=result)]
        if event.kind == "approval":
            return [_ask(link, event)]
        if event.kind == "approval_decided":
            return [_activity(link, key, "thought", body=f"{data.get('status')}: going on.".capitalize())]
        return self._end(link, view, event)

    def _end(self, link: Link, view: TaskView, event: TaskEvent) -> list[Message]:
        key = f"{view.id}:{event.seq}"
        if event.kind == "finished":
            target = cast("Json", link.origin.get("target") or {})
            messages = publish(view, target, link.thread) if target and view.branch else []
            done = _activity(link, key, "response", body=pull_text(view), pull_place=f"{view.id}:pull", target=target)
            steps = _plan(link, f"{key}:plan", view.plan, "completed")
            return [*messages, steps, done, _issue(link, f"{key}:state", "review")]
        if event.kind == "failed":
            return [_activity(link, key, "error", body=plain(view.message, MAX_BODY))]
        if event.kind == "cancelled":
            return [_activity(link, key, "response", body=f"Stopped. {plain(view.message, 500)}")]
        return []


def _activity(link: Link, key: str, kind: str, *, place: str | None = None, ephemeral: bool = False,
              pull_place: str | None = None, target: Json | None = None, signal: str | None = None,
              options: Sequence[Json] = (), **content: str) -> Message:  # fmt: skip
    body: dict[str, object] = {"session": link.origin["session"], "content": {"type": kind, **content}}
    body["ephemeral"] = ephemeral
    if pull_place and target:
        body |= {"pull_place": pull_place, "owner": target.get("owner"), "repo": target.get("repo")}
    if signal:
        body |= {"signal": signal, "options": list(options)}
    return Message(key, link.thread, "linear", "activity", body, place)


def _ask(link: Link, event: TaskEvent) -> Message:
    if event.data.get("kind") == "question":
        question = plain(str(event.data.get("preview")), MAX_BODY)
        return _activity(link, f"{event.data['id']}:asked", "elicitation", body=question)
    what = {"plan": "the plan", "publish": "the change"}.get(str(event.data.get("kind")), "this call")
    arguments = json.dumps(event.data.get("arguments") or {}, indent=2, ensure_ascii=False)
    detail = f"\n\n`{event.data['tool']}`\n```json\n{plain(arguments, 3000)}\n```" if event.data.get("tool") else ""
    options = [{"label": "Approve", "value": "approve"}, {"label": "Deny", "value": "deny"}]
    body = f"May I go on with {what}?{detail}\n\nAnswer `approve`, or `deny` and why."
    key = f"{event.data['id']}:asked"
    return _activity(link, key, "elicitation", body=body, signal="select", options=options)


def _plan(link: Link, key: str, steps: Sequence[Json], status: str) -> Message:
    shown = [{"content": f"{step['agent']}: {_line(step['goal'])}", "status": status} for step in steps]
    return _session(link, key, {"plan": shown}, place=f"{link.task_id}:plan")


def _session(link: Link, key: str, values: Json, *, place: str | None = None) -> Message:
    return Message(key, link.thread, "linear", "session", {"session": link.origin["session"], "input": values}, place)


def _issue(link: Link, key: str, state: str) -> Message:
    body = {"issue": link.origin["issue"], "team": link.origin["team"], "state": state}
    return Message(key, link.thread, "linear", "issue_state", body)


def _line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return plain(lines[0] if lines else "", 300)
