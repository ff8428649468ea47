"""What carries each agent, asked of the agents where they run apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from pydantic import TypeAdapter

from devtools_platform.agents.carriers import ProbeResult, RunsOn
from devtools_platform.app.client import Refused
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import Unavailable
from devtools_platform.kit.tls import tls_context

ASK_S = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteCarriers:
    """The `Carriers` of agents that run apart, over their HTTP side with the stack's token."""

    url: str
    token: str
    probe_s: float
    """How long all runtimes of an agent together may take to answer."""

    async def list_runs_on(self) -> Mapping[AgentName, RunsOn]:
        listed = await self._ask(list[RunsOn], "GET", "/agents", ASK_S)
        return {one.agent: one for one in listed}

    async def probe(self, agent: AgentName) -> Sequence[ProbeResult]:
        return await self._ask(list[ProbeResult], "POST", f"/agents/{agent}/probe", self.probe_s)

    async def _ask(self, kind: type[T], method: str, path: str, patience_s: float) -> T:
        headers = {"Authorization": f"Bearer {self.token}"}
        timeout = httpx2.Timeout(ASK_S, read=patience_s)
        async with httpx2.AsyncClient(
            verify=tls_context(), base_url=self.url, headers=headers, timeout=timeout, trust_env=False
        ) as http:
            try:
                response = await http.request(method, path)
                answer: Any = response.json()
            except (httpx2.HTTPError, ValueError) as error:
                why = str(error) or type(error).__name__
                raise Unavailable(f"The agents at {self.url} do not answer: {why}.") from None
        if response.is_error:
            raise Refused(answer, response.status_code)
        return TypeAdapter(kind).validate_python(answer)
