"""Reading back from Langfuse what it has of a trace (`GET /api/public/v2/observations`)."""

from dataclasses import dataclass
from typing import Any

import httpx2

from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.tls import tls_context
from devtools_platform.observability.adapters.otlp.sending import basic_auth

PAGE = 100
MAX_PAGES = 100
HINT = "Check LANGFUSE_BASE_URL, LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY; `dev-tools traces sinks` says more."


@dataclass(frozen=True)
class LangfuseReader:
    base_url: str
    public_key: str
    secret_key: str

    async def read_ids(self, trace_id: str) -> set[str]:
        """The ids of the spans it has of this trace. Raises `Unavailable`."""
        found: set[str] = set()
        cursor: str | None = None
        async with httpx2.AsyncClient(verify=tls_context(), timeout=10.0) as http:
            for _ in range(MAX_PAGES):
                page = await self._read(http, trace_id, cursor)
                found |= {str(item["id"]) for item in page["data"]}
                cursor = page.get("meta", {}).get("cursor")
                if not cursor:
                    return found
        return found

    async def _read(self, http: httpx2.AsyncClient, trace_id: str, cursor: str | None) -> Any:
        params: dict[str, Any] = {"traceId": trace_id, "limit": PAGE, **({"cursor": cursor} if cursor else {})}
        try:
            response = await http.get(
                f"{self.base_url.rstrip('/')}/api/public/v2/observations",
                params=params,
                headers={"Authorization": basic_auth(self.public_key, self.secret_key)},
            )
        except httpx2.HTTPError as error:
            raise Unavailable(f"Langfuse at {self.base_url} does not answer: {error}.", hint=HINT) from None
        if not response.is_success:
            raise Unavailable(f"Langfuse at {self.base_url} answered {response.status_code}.", hint=HINT)
        return response.json()
