"""How commands reach a running stack's context service, with the token of its data directory."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from devtools_platform.app.client import Refused
from devtools_platform.app.home import Home
from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.tls import tls_context

Told = Callable[[int | None, int | None], None]
"""Called with (files done, files in all); None while that is not known yet."""

TIMEOUT = httpx2.Timeout(30.0, read=600.0)
"""A snapshot of a large index is answered when it is written."""


@dataclass(frozen=True)
class ContextClient:
    url: str
    token: str

    @classmethod
    def of(cls, home: Home) -> "ContextClient":
        """The context service of the stack that runs on this data directory. Raises `NotRunning`."""
        facts = home.read_announcement()
        return cls(facts["urls"]["context"], home.secret("token"))

    async def index(self, repo: str, *, follow: str, watch: bool, told: Told) -> dict[str, Any]:
        """Index a repository and wait for it; returns the status. Raises the service's error, or why it failed."""
        body = {"repo": repo, "follow": follow, "watch": watch}
        status = await self.send("POST", "/collections", json=body)
        name = status["collection"]
        async for status in self._follow(name):
            told(status["files_done"], status["files_total"])
        status = await self.send("GET", f"/collections/{part(name)}")
        if status["error"]:
            raise Unavailable(f"{repo} could not be indexed: {status['error']}", hint="Run the command again.")
        return status

    async def send(self, method: str, path: str, **more: Any) -> Any:
        """The answer's JSON; None for an answer without a body. Raises the service's own error."""
        async with self._http() as http:
            try:
                response = await http.request(method, path, **more)
            except httpx2.HTTPError as error:
                raise self._silent(error) from None
        if response.is_error:
            raise Refused(response.json(), response.status_code)
        return response.json() if response.content else None

    async def download(self, file: Path) -> None:
        """A snapshot of all indexes of repositories into `file`, which is new. Raises the service's own error."""
        async with self._http() as http:
            try:
                async with http.stream("POST", "/snapshots/download") as response:
                    if response.is_error:
                        raise Refused(json.loads(await response.aread()), response.status_code)
                    with await asyncio.to_thread(file.open, "xb") as out:
                        async for part_of_it in response.aiter_bytes():
                            out.write(part_of_it)
            except httpx2.HTTPError as error:
                raise self._silent(error) from None

    async def _follow(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """The status whenever it changes, until the run that goes on has ended."""
        try:
            async with self._http() as http, http.stream("GET", f"/collections/{part(name)}/events") as response:
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except httpx2.HTTPError as error:
            raise self._silent(error) from None

    def _http(self) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.AsyncClient(
            verify=tls_context(), base_url=self.url, headers=headers, timeout=TIMEOUT, trust_env=False
        )

    def _silent(self, error: httpx2.HTTPError) -> Unavailable:
        return Unavailable(f"The context service at {self.url} does not answer: {str(error) or type(error).__name__}.")


def part(name: str) -> str:
    """A name as one part of a path, whatever a person typed."""
    return quote(name, safe="")
