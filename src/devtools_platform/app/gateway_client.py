"""How commands reach a running stack's gateway: its REST side, with the token of its data directory."""

from dataclasses import dataclass
from typing import Any

import httpx2

from devtools_platform.app.client import Refused
from devtools_platform.app.home import Home
from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.tls import tls_context

TIMEOUT_S = 320.0
"""A tool may take as long as its server's limit."""


@dataclass(frozen=True)
class GatewayRest:
    url: str
    token: str

    @classmethod
    def of(cls, home: Home) -> "GatewayRest":
        """The gateway of the stack that runs on this data directory. Raises `NotRunning`."""
        facts = home.read_announcement()
        return cls(facts["urls"]["gateway"], home.secret("token"))

    async def send(self, method: str, path: str, **more: Any) -> Any:
        """The answer's JSON. Raises the gateway's own error."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(verify=tls_context(), timeout=TIMEOUT_S, trust_env=False) as http:
            try:
                response = await http.request(method, self.url + path, headers=headers, **more)
            except httpx2.HTTPError as error:
                raise Unavailable(f"The gateway at {self.url} does not answer: {error}.") from None
        if response.is_error:
            raise Refused(response.json(), response.status_code)
        return response.json()
