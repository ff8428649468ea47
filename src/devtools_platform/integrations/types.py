"""What comes in, what goes out, and which thread outside a task belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Service = Literal["github", "linear", "webhook"]

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Delivery:
    """A webhook whose signature was right."""

    service: Service
    id: str
    """The sender's id of this delivery."""
    digest: str
    """SHA-256 of the body: the same words under another id are a replay."""
    event: str
    body: str


@dataclass(frozen=True)
class Received:
    """A delivery that waits to be worked."""

    number: int
    service: Service
    id: str
    event: str
    body: str
    attempts: int


@dataclass(frozen=True)
class Message:
    """Something to be told outside. The same `key` is stored once, ever."""

    key: str
    subject: str
    """Messages of one subject arrive in the order they were stored."""
    service: Service
    kind: str
    """What the courier does with it, such as `comment`."""
    body: Json
    place: str | None = None
    """The thing outside it is about. Of several words for one place that wait, only the newest is sent; what was made
    for a place before is changed instead of made again."""


@dataclass(frozen=True)
class Parcel:
    """A message on its way."""

    number: int
    message: Message
    attempts: int
    """How often sending it was begun before."""
    is_in_doubt: bool
    """An earlier attempt may have arrived: look before sending."""


@dataclass(frozen=True)
class Link:
    """A task and the thread it came from."""

    task_id: str
    service: Service
    thread: str
    """`github:owner/name#7` or `linear:SESSION`."""
    origin: Json
    """What is needed to answer there; set by the service's own code, never by agents."""
    told: int = 0
    """The number of the last event that went into the outbox."""


@dataclass(frozen=True)
class Outcome:
    """What became of a delivery."""

    state: Literal["done", "ignored"]
    note: str = ""


@dataclass(frozen=True)
class Decision:
    """What a person answered to an approval."""

    is_approved: bool
    reason: str = ""


@dataclass(frozen=True)
class OpenQuestion:
    """An approval that waits."""

    id: str
    kind: str
    preview: str


@dataclass(frozen=True)
class TaskView:
    """A task as it is shown outside."""

    id: str
    status: str
    reason: str | None
    message: str
    branch: str | None
    repo: str
    has_ended: bool
    attempt: int
    plan: Sequence[Json] = ()
    """Its steps, as soon as they are known."""
    result: Json = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class TaskEvent:
    """One thing that happened to a task."""

    seq: int
    kind: str
    agent: str | None
    data: Json
    at: datetime | None = None
