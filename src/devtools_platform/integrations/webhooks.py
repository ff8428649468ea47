"""Webhooks out, as Standard Webhooks has them: what is sent, how it is signed, and who is told. Pure.

A receiver finds `webhook-id` (the same at each attempt), `webhook-timestamp` and `webhook-signature`, and checks them
with any library of the standard and the secret that `dev-tools webhooks add` showed.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from devtools_platform.core.errors import BadInput
from devtools_platform.integrations.types import Message

SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's own, which says what follows
KINDS = (
    "queued",
    "plan",
    "approval",
    "approval_decided",
    "paused",
    "resumed",
    "budget_warning",
    "review",
    "commit",
    "finished",
    "failed",
    "cancelled",
    "retried",
)
"""What of a task is told; each is `task.KIND` outside. Not the calls of models and tools: they are too many."""
MAX_URL = 2000


@dataclass(frozen=True)
class Hook:
    """Who is told, and of what."""

    id: str
    url: str
    events: tuple[str, ...]
    """Types such as `task.finished`; all when empty."""
    told_at: datetime
    created_at: datetime | None = None
    ended_at: datetime | None = None
    note: str = ""

    @property
    def kinds(self) -> Sequence[str]:
        return [kind for kind in KINDS if not self.events or f"task.{kind}" in self.events]


@dataclass(frozen=True)
class Happened:
    """An event of a task."""

    task_id: str
    seq: int
    kind: str
    agent: str | None
    data: dict[str, Any]
    at: datetime


def read_hook(url: str, events: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """An address and types as a person gave them. Raises `BadInput`."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or len(url) > MAX_URL or parts.username:
        raise BadInput(f"{url!r} is no address to send to.", hint="For example https://example.org/hooks/dev-tools")
    known = [f"task.{kind}" for kind in KINDS]
    if unknown := [name for name in events if name not in known]:
        raise BadInput(f"There is no event {unknown[0]!r}.", hint=f"The events are: {', '.join(known)}.")
    return url, tuple(dict.fromkeys(events))


def secret_of(stack_secret: str, hook_id: str) -> str:
    """The hook's secret. It is made anew each time, so that no table holds it."""
    key = hmac.digest(stack_secret.encode(), f"dev-tools webhook: {hook_id}".encode(), hashlib.sha256)
    return SECRET_PREFIX + base64.b64encode(key).decode()


def to_message(hook: Hook, event: Happened) -> Message:
    """What goes into the outbox, once per hook and event."""
    key = f"webhook:{hook.id}:{event.task_id}:{event.seq}"
    body = {
        "hook": hook.id,
        "type": f"task.{event.kind}",
        "timestamp": event.at.isoformat(),
        "data": {"agent": event.agent, **event.data, "task_id": event.task_id, "seq": event.seq},
    }
    return Message(key, f"webhook:{hook.id}:{event.task_id}", "webhook", "event", body)


def content_of(body: dict[str, Any]) -> bytes:
    """The bytes that are sent, and signed."""
    told = {name: body[name] for name in ("type", "timestamp", "data")}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def headers_of(secret: str, key: str, content: bytes, at_s: int) -> dict[str, str]:
    """The standard's three headers. `key` names the message; its id says nothing of what it is made from."""
    id_ = f"msg_{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return {
        "content-type": "application/json",
        "webhook-id": id_,
        "webhook-timestamp": str(at_s),
        "webhook-signature": signature_of(secret, id_, at_s, content),
    }


def signature_of(secret: str, id_: str, at_s: int, content: bytes) -> str:
    """The standard's symmetric signature, version 1."""
    raw = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    return f"v1,{base64.b64encode(hmac.digest(raw, f'{id_}.{at_s}.'.encode() + content, hashlib.sha256)).decode()}"
