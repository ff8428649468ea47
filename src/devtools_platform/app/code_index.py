"""The agents' code index: the context service, asked over HTTP.

Not called in process on purpose: workflows run on an event loop of their own, and the engine's pipes belong to the
loop of the services.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx2

from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.tls import tls_context

FIRST_POLL_S = 0.02
LONGEST_POLL_S = 0.2


@dataclass(frozen=True)
class HttpCodeIndex:
    url: str
    token: str
    timeout_s: float = 300.0

    async def index(self, repo: str) -> int:
        """Bring the repository's index up to date; returns how many files it holds. Raises `Unavailable`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                httpx2.AsyncClient(
                    verify=tls_context(), base_url=self.url, headers=headers, timeout=30, trust_env=False
                ) as http,
            ):
                status = _read(await http.post("/collections", json={"repo": repo}))
                wait = FIRST_POLL_S  # of a repository that was indexed before, little is new
                while status["is_indexing"]:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, LONGEST_POLL_S)
                    status = _read(await http.get(f"/collections/{status['collection']}"))
        except (httpx2.HTTPError, TimeoutError) as error:
            raise Unavailable(f"The context service at {self.url} does not answer: {error!r}.") from None
        if status["error"]:
            raise Unavailable(f"The repository could not be indexed: {status['error']}")
        return int(status["files"])


def _read(response: httpx2.Response) -> dict[str, Any]:
    if not response.is_success:
        raise Unavailable(f"The context service refused: {response.text[:300]}")
    return response.json()
