"""GitHub: what its webhooks ask for, and how tasks speak in its issues and pull requests."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.core.errors import BadInput
from devtools_platform.integrations.conversation import Conversation, Said
from devtools_platform.integrations.interfaces import Links, Tasks
from devtools_platform.integrations.publication import publish
from devtools_platform.integrations.types import Json, Link, Message, Outcome, Received, TaskEvent, TaskView
from devtools_platform.integrations.words import find_address, plain, read_order

log = logging.getLogger(__name__)

MAY_GIVE_ORDERS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
"""`author_association`: people who can push there anyway. Anybody may comment in a public repository."""

_STATUS_WORDS = {
    "queued": "waiting for a free place",
    "working": "working",
    "input_required": "waiting for your decision",
    "paused": "paused",
    "completed": "done",
    "failed": "ended without a result",
    "cancelled": "cancelled",
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _User(_Part):
    login: str
    type: str = "User"


class _Repository(_Part):
    full_name: str
    default_branch: str = "main"
    clone_url: str | None = None
    ssh_url: str | None = None


class _Installation(_Part):
    id: int


class _Comment(_Part):
    id: int
    body: str | None = None
    author_association: str = "NONE"
    user: _User | None = None


class _Issue(_Part):
    number: int
    title: str = ""
    body: str | None = None
    author_association: str = "NONE"
    user: _User | None = None
    pull_request: Mapping[str, object] | None = None


class _App(_Part):
    id: int


class _CheckRun(_Part):
    external_id: str | None = None
    app: _App | None = None


class _Payload(_Part):
    action: str = ""
    repository: _Repository
    sender: _User
    installation: _Installation | None = None
    comment: _Comment | None = None
    issue: _Issue | None = None
    pull_request: _Issue | None = None
    check_run: _CheckRun | None = None
    requested: str | None = Field(default=None, alias="requested_action")


@dataclass(frozen=True)
class GitHubEvents:
    """Works deliveries of GitHub."""

    conversation: Conversation
    tasks: Tasks
    links: Links
    repositories: Mapping[str, str]
    """`owner/name` -> the path of its clone on this machine. What is not here is not served."""
    mention: str
    pushed: Callable[[Sequence[str]], Awaitable[bool]]
    """Told the URLs of a repository that was pushed to; whether its index is followed."""

    async def handle(self, received: Received) -> Outcome:
        event, payload = received.event, _read(received)
        if payload is None:
            return Outcome("ignored", f"{event}: not about a repository")
        if event == "push":
            urls = [url for url in (payload.repository.clone_url, payload.repository.ssh_url) if url]
            followed = bool(urls) and await self.pushed(urls)
            return Outcome("done", "its index is brought up to date") if followed else Outcome("ignored", "a push")
        repo = self.repositories.get(payload.repository.full_name)
        if repo is None:
            return Outcome("ignored", f"{payload.repository.full_name} is not among the repositories served")
        if payload.sender.type == "Bot":
            return Outcome("ignored", "a bot's words")
        if event == "check_run" and payload.action == "rerequested":
            return await self._run_again(received, payload)
        said = self._find_order(received, payload, repo)
        return said if isinstance(said, Outcome) else await self.conversation.hear(said)

    def _find_order(self, received: Received, payload: _Payload, repo: str) -> Said | Outcome:
        """An order in a new comment, issue or pull request; else why there is none."""
        issue, words = payload.issue or payload.pull_request, payload.comment
        is_new = (
            received.event in {"issue_comment", "pull_request_review_comment"} and payload.action == "created"
        ) or (received.event in {"issues", "pull_request"} and payload.action == "opened")
        if not is_new or issue is None:
            return Outcome("ignored", f"{received.event} {payload.action}")
        by = words or issue
        order = find_address(by.body or "", self.mention)
        if order is None:
            return Outcome("ignored", "we are not addressed")
        if by.author_association not in MAY_GIVE_ORDERS or by.user is None:
            return Outcome("ignored", f"{by.author_association.lower()} may not give orders")
        owner, _, name = payload.repository.full_name.partition("/")
        is_pull = payload.pull_request is not None or issue.pull_request is not None
        source = f"{'pull request' if is_pull else 'issue'} {payload.repository.full_name}#{issue.number}"
        origin = {
            "owner": owner,
            "repo": name,
            "number": issue.number,
            "is_pull": is_pull,
            "base": payload.repository.default_branch,
            "installation": payload.installation.id if payload.installation else None,
        }
        return Said(
            service="github",
            thread=f"github:{payload.repository.full_name}#{issue.number}",
            origin=origin,
            repo=repo,
            actor=f"github:{by.user.login}",
            key=f"github:{received.id}",
            order=read_order(order),
            source=source,
            title=issue.title,
            body=(issue.body or "") if words else "",
            attempts=received.attempts,
        )

    async def _run_again(self, received: Received, payload: _Payload) -> Outcome:
        task_id = (payload.check_run.external_id if payload.check_run else None) or ""
        link = await self.links.find_link(task_id)
        if link is None:
            return Outcome("ignored", "a check run of somebody else")
        await self.tasks.retry(task_id, actor=f"github:{payload.sender.login}", key=f"github:{received.id}")
        return Outcome("done", f"retried {task_id}")


def _read(received: Received) -> _Payload | None:
    data = json.loads(received.body)
    if "repository" not in data:
        return None
    try:
        return _Payload.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"GitHub's {received.event!r} is not as expected: {place}: {first['msg']}.") from None


@dataclass(frozen=True)
class GitHubVoice:
    """Speaks in issues and pull requests: one comment a task, kept up to date; one more for each question."""

    mention: str
    task_url: str | None
    """Of the console, with `{id}`; None where it cannot be reached from outside."""

    def begin(self, link: Link) -> Sequence[Message]:
        return [self._comment(link, f"{link.task_id}:begin", f"{link.task_id}:status", self._head(link, "received"))]

    def reply(self, thread: str, origin: Json, key: str, text: str) -> Sequence[Message]:
        place = f"reply:{key}"
        body = {**_target(origin), "number": origin["number"], "text": plain(text, 4000)}
        return [Message(place, thread, "github", "comment", body, place)]

    def tell(self, link: Link, view: TaskView, events: Sequence[TaskEvent]) -> Sequence[Message]:
        messages: list[Message] = []
        for event in events:
            if event.kind == "approval":
                messages.append(self._ask(link, event))
            elif event.kind == "approval_decided":
                messages.append(self._decided(link, event))
            elif event.kind == "finished" and view.branch and not view.reason:
                messages += publish(view, _target(link.origin), link.thread)
        key, place = f"{view.id}:status:{events[-1].seq}", f"{view.id}:status"
        return [*messages, self._comment(link, key, place, self._status(link, view), shows_pull=True)]

    def _status(self, link: Link, view: TaskView) -> str:
        lines = [self._head(link, _STATUS_WORDS.get(view.status, view.status))]
        if view.message:
            lines += ["", plain(view.message, 4000)]
        lines += [""] if view.plan else []
        lines += [f"- {step['agent']}: {plain(str(step['goal']).strip().splitlines()[0], 200)}" for step in view.plan]
        return "\n".join(lines)

    def _head(self, link: Link, status: str) -> str:
        url = self.task_url.format(id=link.task_id) if self.task_url else None
        name = f"[`{link.task_id}`]({url})" if url else f"`{link.task_id}`"
        return f"**Task {name}: {status}**"

    def _ask(self, link: Link, event: TaskEvent) -> Message:
        id_ = str(event.data["id"])
        if event.data.get("kind") == "question":
            question = plain(str(event.data.get("preview")), 4000)
            text = f"**Task `{link.task_id}` asks:** {question}\n\nAnswer with `{self.mention} YOUR ANSWER`."
            return self._comment(link, f"{id_}:asked", f"{link.task_id}:approval:{id_}", text)
        what = {"plan": "the plan", "publish": "the change"}.get(str(event.data.get("kind")), "this call")
        asked = json.dumps(event.data.get("arguments") or {}, indent=2, ensure_ascii=False)
        detail = f"\n\n`{event.data['tool']}`\n```json\n{plain(asked, 3000)}\n```" if event.data.get("tool") else ""
        text = (
            f"**Task `{link.task_id}` asks: may I go on with {what}?**{detail}\n\n"
            f"Answer with `{self.mention} approve {id_}` or `{self.mention} deny {id_} REASON`."
        )
        return self._comment(link, f"{id_}:asked", f"{link.task_id}:approval:{id_}", text)

    def _decided(self, link: Link, event: TaskEvent) -> Message:
        id_ = str(event.data["id"])
        by = f" by {event.data['by']}" if event.data.get("by") else ""
        reason = f"\n\n> {plain(str(event.data['reason']), 1000)}" if event.data.get("reason") else ""
        text = f"**Task `{link.task_id}` asked, and it is {event.data['status']}{plain(by, 100)}.**{reason}"
        return self._comment(link, f"{id_}:decided", f"{link.task_id}:approval:{id_}", text)

    def _comment(self, link: Link, key: str, place: str, text: str, *, shows_pull: bool = False) -> Message:
        body = {**_target(link.origin), "number": link.origin["number"], "text": text}
        if shows_pull:
            body["pull_place"] = f"{link.task_id}:pull"
        return Message(key, link.thread, "github", "comment", body, place)


def _target(origin: Json) -> dict[str, object]:
    return {name: origin.get(name) for name in ("owner", "repo", "base", "installation")}
