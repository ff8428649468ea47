"""How commands reach a running stack: its state service, over HTTP, with the token of its data directory.

A write carries an idempotency key, made once for the command: when the connection breaks it is sent again, and
done once.
"""

import asyncio
import getpass
import json
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter

from devtools_platform.app.home import Home
from devtools_platform.core.approvals import Approval, ApprovalStatus, Verdict
from devtools_platform.core.errors import DevToolsError, Unavailable
from devtools_platform.core.tasks import Event, Page, Run, Step, TaskRequest, TaskResult, Worker
from devtools_platform.kit.tls import tls_context

TIMEOUT = httpx2.Timeout(30.0, read=120.0)
MAX_ACTOR_CHARS = 100


class Refused(DevToolsError):
    """A service answered with an error; code, status and hint are the service's own."""

    def __init__(self, body: dict[str, str], status: int) -> None:
        super().__init__(body.get("message", f"The service answered {status}."), hint=body.get("hint", ""))
        self.body = body

    @property
    def exit_code(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _EXIT_CODES.get(self.body.get("code", ""), 1)

    def to_dict(self) -> dict[str, str]:
        return {**super().to_dict(), "code": self.body.get("code", "error")}


def _exit_codes(base: type[DevToolsError]) -> dict[str, int]:
    found = {base.code: base.exit_code}
    for child in base.__subclasses__():
        if child is not Refused:
            found |= _exit_codes(child)
    return found


_EXIT_CODES: dict[str, int] = _exit_codes(DevToolsError)


@dataclass(frozen=True)
class StackClient:
    """A client of one running stack."""

    url: str
    token: str
    RETRIES: ClassVar[int] = 5
    WRITE_TRIES: ClassVar[int] = 3

    @classmethod
    def of(cls, home: Home) -> "StackClient":
        """The stack that runs on this data directory. Raises `NotRunning`."""
        facts = home.read_announcement()
        return cls(facts["urls"]["state"], home.secret("token"))

    # -- looking -------------------------------------------------------------------------------------------------

    async def get_task(self, id_: str) -> TaskResult:
        return TaskResult.model_validate(await self._get(f"/tasks/{_part(id_)}"))

    async def list_tasks(
        self, limit: int, *, status: Sequence[str] = (), text: str | None = None, cursor: str | None = None
    ) -> Page[TaskResult]:
        """Newest first; `cursor` is the `next` of the page before."""
        wanted = {"limit": limit, "status": list(status) or None, "text": text, "cursor": cursor}
        return Page[TaskResult].model_validate(await self._get("/tasks", **wanted))

    async def list_steps(self, id_: str) -> list[Step]:
        return TypeAdapter(list[Step]).validate_python(await self._get(f"/tasks/{_part(id_)}/steps"))

    async def list_runs(self, id_: str) -> list[Run]:
        return TypeAdapter(list[Run]).validate_python(await self._get(f"/tasks/{_part(id_)}/runs"))

    async def list_approvals(
        self, *, status: ApprovalStatus | None = None, task_id: str | None = None, limit: int = 100
    ) -> list[Approval]:
        """Those that have waited longest first."""
        found = await self._get("/approvals", status=status, task_id=task_id, limit=limit)
        return TypeAdapter(list[Approval]).validate_python(found)

    async def get_approval(self, id_: str) -> Approval:
        return Approval.model_validate(await self._get(f"/approvals/{_part(id_)}"))

    async def list_audit(
        self, *, subject: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Newest first."""
        return await self._get("/audit", subject=subject, before=before, limit=limit)

    async def verify_audit(self) -> dict[str, Any]:
        """`entries`, `head`, `broken_at` and `problem` of the chain."""
        return await self._get("/audit/verification")

    async def list_workers(self) -> list[Worker]:
        return TypeAdapter(list[Worker]).validate_python(await self._get("/workers"))

    async def read_trace(self, id_: str) -> list[dict[str, Any]]:
        """The finished spans of a task, oldest first."""
        return await self._get(f"/tasks/{_part(id_)}/trace")

    async def validate_traces(self, id_: str | None, *, langfuse: bool) -> dict[str, Any]:
        return await self._get("/traces/validation", task_id=id_, langfuse=str(langfuse).lower())

    async def list_sinks(self) -> list[dict[str, Any]]:
        return await self._get("/traces/sinks")

    async def read_costs(self, by: str, since: str | None, until: str | None) -> dict[str, Any]:
        return await self._get("/costs", by=by, since=since, until=until)

    async def list_budgets(self) -> list[dict[str, Any]]:
        return await self._get("/budgets")

    async def list_prices(self) -> list[dict[str, Any]]:
        return await self._get("/prices")

    # -- writing -------------------------------------------------------------------------------------------------

    async def refresh_prices(self) -> list[dict[str, Any]]:
        return await self._write("/prices/refresh", None)

    async def reconcile_costs(self, day: str | None) -> list[dict[str, Any]]:
        query = "" if day is None else f"?day={_part(day)}"
        return await self._write(f"/costs/reconciliation{query}", None)

    async def create_task(self, request: TaskRequest) -> TaskResult:
        return TaskResult.model_validate(await self._write("/tasks", request.model_dump(mode="json")))

    async def cancel_task(self, id_: str) -> TaskResult:
        return await self._act(id_, "cancel")

    async def pause_task(self, id_: str) -> TaskResult:
        return await self._act(id_, "pause")

    async def resume_task(self, id_: str) -> TaskResult:
        return await self._act(id_, "resume")

    async def steer_task(self, id_: str, text: str) -> TaskResult:
        return await self._act(id_, "messages", {"text": text})

    async def retry_task(self, id_: str, step: int | None = None) -> TaskResult:
        """From `step` on; None from where the last agent began."""
        return await self._act(id_, "retry", None if step is None else {"step": step})

    async def fork_task(self, id_: str, step: int | None = None) -> TaskResult:
        """The new task."""
        return await self._act(id_, "fork", None if step is None else {"step": step})

    async def decide(self, id_: str, verdict: Verdict) -> Approval:
        body = verdict.model_dump(mode="json")
        return Approval.model_validate(await self._write(f"/approvals/{_part(id_)}/decision", body))

    # -- following -----------------------------------------------------------------------------------------------

    async def follow_events(self, id_: str) -> AsyncIterator[Event]:
        """The task's events from the first on, live until it ends; picks up again where a connection broke."""
        last = 0
        for attempt in range(self.RETRIES):
            try:
                async for event in self._stream(id_, last):
                    last = event.seq
                    yield event
            except httpx2.HTTPError:
                if attempt == self.RETRIES - 1:
                    raise Unavailable(f"The stack at {self.url} stopped answering.") from None
                continue
            return

    async def _stream(self, id_: str, last: int) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
        async with (
            self._http() as http,
            http.stream("GET", f"/tasks/{id_}/events", headers=headers) as response,
        ):
            if response.status_code != 200:  # noqa: PLR2004 - HTTP's own number
                await response.aread()
                raise Refused(_body(response), response.status_code)
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    yield Event.model_validate_json(line.removeprefix("data:").strip())

    async def _act(self, id_: str, action: str, body: Any = None) -> TaskResult:
        return TaskResult.model_validate(await self._write(f"/tasks/{_part(id_)}/{action}", body))

    async def _get(self, path: str, **wanted: Any) -> Any:
        params = {name: value for name, value in wanted.items() if value is not None}
        try:
            return await self._send("GET", path, params=params)
        except httpx2.HTTPError as error:
            raise self._silent(error) from None

    async def _write(self, path: str, body: Any) -> Any:
        headers = {"Idempotency-Key": str(uuid.uuid4()), "Dev-Tools-Actor": actor()}
        content = {} if body is None else {"json": body}
        for attempt in range(1, self.WRITE_TRIES + 1):
            try:
                return await self._send("POST", path, headers=headers, **content)
            except httpx2.HTTPError as error:
                if attempt == self.WRITE_TRIES:
                    raise self._silent(error) from None
            await asyncio.sleep(0.2 * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _send(self, method: str, path: str, **kwargs: Any) -> Any:
        async with self._http() as http:
            response = await http.request(method, path, **kwargs)
        if response.status_code >= 400:  # noqa: PLR2004 - HTTP's own number
            raise Refused(_body(response), response.status_code)
        return response.json()

    def _silent(self, error: httpx2.HTTPError) -> Unavailable:
        return Unavailable(f"The stack at {self.url} does not answer: {str(error) or type(error).__name__}.")

    def _http(self) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.AsyncClient(
            verify=tls_context(), base_url=self.url, headers=headers, timeout=TIMEOUT, trust_env=False
        )


def _body(response: httpx2.Response) -> dict[str, str]:
    try:
        return response.json()
    except json.JSONDecodeError:
        return {}


def _part(id_: str) -> str:
    """An id as one part of a path, whatever a person typed."""
    return quote(id_, safe="")


def actor() -> str:
    """Who acts, for the audit: the name of the operating system's user."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container started with a user id that has no name
        name = f"uid-{os.getuid()}"
    return name.encode("ascii", "replace").decode()[:MAX_ACTOR_CHARS]
