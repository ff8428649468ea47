"""How commands reach a running stack: its state service, over HTTP, with the token of its data directory."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2

from devtools_platform.app.home import Home
from devtools_platform.core.errors import DevToolsError, Unavailable
from devtools_platform.core.tasks import Event, TaskRequest, TaskResult

TIMEOUT = httpx2.Timeout(30.0, read=120.0)


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

    @classmethod
    def of(cls, home: Home) -> "StackClient":
        """The stack that runs on this data directory. Raises `NotRunning`."""
        facts = home.read_announcement()
        return cls(facts["urls"]["state"], home.secret("token"))

    async def create_task(self, request: TaskRequest) -> TaskResult:
        return TaskResult.model_validate(await self._send("POST", "/tasks", json=request.model_dump()))

    async def get_task(self, id_: str) -> TaskResult:
        return TaskResult.model_validate(await self._send("GET", f"/tasks/{id_}"))

    async def list_tasks(self, limit: int) -> list[TaskResult]:
        found = await self._send("GET", "/tasks", params={"limit": limit})
        return [TaskResult.model_validate(task) for task in found["items"]]

    async def cancel_task(self, id_: str) -> TaskResult:
        return TaskResult.model_validate(await self._send("POST", f"/tasks/{id_}/cancel"))

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

    async def _send(self, method: str, path: str, **kwargs: Any) -> Any:
        try:
            async with self._http() as http:
                response = await http.request(method, path, **kwargs)
        except httpx2.HTTPError as error:
            raise Unavailable(f"The stack at {self.url} does not answer: {error}.") from None
        if response.status_code >= 400:  # noqa: PLR2004 - HTTP's own number
            raise Refused(_body(response), response.status_code)
        return response.json()

    def _http(self) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=TIMEOUT, trust_env=False)


def _body(response: httpx2.Response) -> dict[str, str]:
    try:
        return response.json()
    except json.JSONDecodeError:
        return {}
