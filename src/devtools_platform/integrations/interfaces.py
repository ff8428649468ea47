"""What integrations need from outside the part: the tasks of the stack, couriers, and what remembers it all."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from devtools_platform.core.errors import DevToolsError
from devtools_platform.integrations.types import (
    Decision,
    Delivery,
    Json,
    Link,
    Message,
    OpenQuestion,
    Outcome,
    Parcel,
    Received,
    TaskEvent,
    TaskView,
)


class Refused(DevToolsError):
    """The service outside will not take this message, however often it is sent."""

    code = "refused_outside"
    status = 502


class TryLater(DevToolsError):
    """The service outside does not take it now. `after_s`: as it said itself, None when it did not say."""

    code = "try_later"
    status = 503

    def __init__(self, message: str, *, after_s: float | None = None, is_in_doubt: bool = False) -> None:
        super().__init__(message, hint="Nothing to do: it is sent again by itself.")
        self.after_s = after_s
        self.is_in_doubt = is_in_doubt
        """It may have arrived all the same: the answer was lost, not the question."""

    @property
    def is_for_all(self) -> bool:
        """A rate limit: nothing else should be sent there in the meantime either."""
        return self.after_s is not None


class Tasks(Protocol):
    """The tasks of this stack, as the threads outside may use them. `actor` goes into the audit."""

    async def create(self, text: str, repo: str, *, start_at: str | None, actor: str, key: str) -> str:
        """The new task's id. `start_at`: the commit it works from; None for the clone's own HEAD."""
        ...

    async def is_done(self, key: str) -> bool:
        """Whether a write with this key was carried out."""
        ...

    async def cancel(self, task_id: str, *, actor: str, key: str) -> None: ...

    async def retry(self, task_id: str, *, actor: str, key: str) -> None: ...

    async def steer(self, task_id: str, text: str, *, actor: str, key: str) -> None: ...

    async def view(self, task_id: str) -> TaskView: ...

    async def list_questions(self, task_id: str) -> Sequence[OpenQuestion]:
        """The approvals that wait, oldest first."""
        ...

    async def decide(self, approval_id: str, decision: Decision, *, actor: str, key: str) -> None: ...

    async def list_events(self, task_id: str, after: int) -> Sequence[TaskEvent]: ...

    async def count_events(self, task_ids: Sequence[str]) -> Mapping[str, int]:
        """Task id -> the number of its last event."""
        ...


class Actions(Protocol):
    """Workflow runs at the place where the code is."""

    async def list_runs(self, target: Json, branch: str | None, *, only_failed: bool, limit: int) -> Sequence[Json]: ...

    async def list_failed_jobs(self, target: Json, run: int) -> Sequence[Json]: ...

    async def read_log(self, target: Json, job: int) -> str: ...

    async def run_failed_again(self, target: Json, run: int) -> None: ...

    async def dispatch(self, target: Json, workflow: str, ref: str, inputs: Mapping[str, str]) -> None: ...

    async def set_deployment(self, target: Json, deployment: int, state: str, url: str | None = None) -> None: ...


class Heads(Protocol):
    """The heads of pull requests."""

    async def fetch(self, origin: Json, repo: str) -> tuple[str, str | None]:
        """Bring a pull request's head into the clone `repo`: its commit, and its branch where it is of this repository.

        Raises what the service and git say, and `TryLater`.
        """
        ...


class InboxStore(Protocol):
    """Deliveries, kept from the moment they are acknowledged."""

    async def put(self, deliveries: Sequence[Delivery]) -> Sequence[bool]:
        """Store those that are new; says for each whether it was."""
        ...

    async def take(self, limit: int) -> Sequence[Received]:
        """The oldest that wait and are due. The caller is the only one who works on them."""
        ...

    async def finish(self, number: int, outcome: Outcome) -> None: ...

    async def postpone(self, number: int, until: datetime, note: str) -> None: ...

    async def fail(self, number: int, note: str) -> None: ...


class OutboxStore(Protocol):
    """Messages, kept until they have arrived."""

    async def put(self, messages: Sequence[Message]) -> None: ...

    async def tell(self, link: Link, messages: Sequence[Message], told: int) -> None:
        """Store `messages` and that the task's events up to `told` are in them, both or neither."""
        ...

    async def recover(self) -> int:
        """What this stack was sending when it died is in doubt from now on; returns how many."""
        ...

    async def take(self, limit: int) -> Sequence[Parcel]:
        """The first due message of each subject, now `sending`."""
        ...

    async def arrive(self, parcel: Parcel, remote_id: str | None) -> None: ...

    async def postpone(self, parcel: Parcel, until: datetime, error: str, *, is_in_doubt: bool) -> None: ...

    async def fail(self, parcel: Parcel, error: str) -> None: ...


class Remotes(Protocol):
    """What stands outside for our places."""

    async def find_remote(self, place: str) -> str | None: ...


class Links(Protocol):
    """Tasks and their threads."""

    async def add_link(self, link: Link, messages: Sequence[Message]) -> None:
        """Store a link and the first words of its task, both or neither. One that is there stays as it is."""
        ...

    async def find_link(self, task_id: str) -> Link | None: ...

    async def latest_link(self, thread: str) -> Link | None:
        """The thread's newest task."""
        ...

    async def list_links(self) -> Sequence[Link]: ...


class Courier(Protocol):
    """Brings messages to one service."""

    async def send(self, parcel: Parcel) -> str | None:
        """Deliver, or find that it was delivered; returns the id of what stands outside for its place.

        Raises `Refused` for good, `TryLater` for now.
        """
        ...
