"""Managed agents: made, changed, made private, keyed, rolled back. They run none of our code and have no environment;
what they can do beyond their model is what their `mcp_servers` offer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from devtools_platform.kit.digitalocean.errors import NotUnique
from devtools_platform.kit.digitalocean.transport import Transport
from devtools_platform.kit.digitalocean.types import (
    Agent,
    AgentBody,
    AgentListing,
    AgentVersion,
    KeyBody,
    KeyInfo,
    KeyListing,
    McpServer,
    ResourceUsage,
    UsageBody,
    VersionBody,
    VersionListing,
)

Visibility = Literal["private", "public", "disabled"]
AGENTS = "/v2/gen-ai/agents"


@dataclass(frozen=True)
class AgentSpec:
    """What a managed agent should be. `model_uuid` is not a model's name: `Models.find` resolves one."""

    name: str
    instruction: str
    model_uuid: str
    mcp_servers: Sequence[McpServer] = ()
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Agents:
    transport: Transport

    async def list_all(self) -> list[Agent]:
        return [agent async for page in self.transport.pages(AGENTS, AgentListing) for agent in page.agents]

    async def find(self, name: str) -> Agent | None:
        """The agent of that name, as the list shows it. Raises `NotUnique`: names are not unique there."""
        found = [agent for agent in await self.list_all() if agent.name == name]
        if len(found) > 1:
            listed = ", ".join(agent.uuid for agent in found)
            raise NotUnique(f"{len(found)} managed agents are named {name!r}: {listed}.", hint="Delete all but one.")
        return found[0] if found else None

    async def get(self, uuid: str) -> Agent:
        return (await self.transport.read(AgentBody, f"{AGENTS}/{uuid}")).agent

    async def create(self, spec: AgentSpec, *, project_id: str, region: str) -> Agent:
        """A new agent; DigitalOcean deploys it by itself, which takes a minute or more."""
        body = {**_body(spec), "project_id": project_id, "region": region}
        return (await self.transport.send("POST", AGENTS, AgentBody, body=body)).agent

    async def update(self, uuid: str, spec: AgentSpec) -> Agent:
        """Makes a new version. An empty list of servers is said with a flag: there `[]` changes nothing."""
        body = {**_body(spec), "uuid": uuid}
        if not spec.mcp_servers:
            body["clear_mcp_servers"] = True
        return (await self.transport.send("PUT", f"{AGENTS}/{uuid}", AgentBody, body=body)).agent

    async def delete(self, uuid: str) -> Agent:
        return (await self.transport.send("DELETE", f"{AGENTS}/{uuid}", AgentBody)).agent

    async def set_visibility(self, uuid: str, visibility: Visibility) -> Agent:
        """`private`: its endpoint wants an access key."""
        body = {"uuid": uuid, "visibility": f"VISIBILITY_{visibility.upper()}"}
        path = f"{AGENTS}/{uuid}/deployment_visibility"
        return (await self.transport.send("PUT", path, AgentBody, body=body)).agent

    async def list_versions(self, uuid: str) -> list[AgentVersion]:
        """The newest first."""
        path = f"{AGENTS}/{uuid}/versions"
        return [one async for page in self.transport.pages(path, VersionListing) for one in page.agent_versions]

    async def roll_back(self, uuid: str, version_hash: str) -> str | None:
        """Go back to an earlier version; returns the hash of the one that is then in force."""
        body = {"uuid": uuid, "version_hash": version_hash}
        answer = await self.transport.send("PUT", f"{AGENTS}/{uuid}/versions", VersionBody, body=body)
        return answer.version_hash

    async def list_keys(self, uuid: str) -> list[KeyInfo]:
        path = f"{AGENTS}/{uuid}/api_keys"
        return [key async for page in self.transport.pages(path, KeyListing) for key in page.api_key_infos]

    async def create_key(self, uuid: str, name: str) -> KeyInfo:
        """An endpoint access key; its `secret_key` is shown this once."""
        body = {"agent_uuid": uuid, "name": name}
        return (await self.transport.send("POST", f"{AGENTS}/{uuid}/api_keys", KeyBody, body=body)).api_key_info

    async def delete_key(self, uuid: str, key_uuid: str) -> KeyInfo:
        path = f"{AGENTS}/{uuid}/api_keys/{key_uuid}"
        return (await self.transport.send("DELETE", path, KeyBody)).api_key_info

    async def usage(self, uuid: str, start: datetime, stop: datetime) -> ResourceUsage:
        """Tokens by kind, as DigitalOcean counted them."""
        params = {"start": start.isoformat(), "stop": stop.isoformat()}
        return (await self.transport.read(UsageBody, f"{AGENTS}/{uuid}/usage", params)).usage


def _body(spec: AgentSpec) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": spec.name,
        "instruction": spec.instruction,
        "model_uuid": spec.model_uuid,
        "tags": list(spec.tags),
    }
    if spec.mcp_servers:
        body["mcp_servers"] = [_server(server) for server in spec.mcp_servers]
    return body


def _server(server: McpServer) -> dict[str, Any]:
    body: dict[str, Any] = {"server_label": server.server_label, "server_url": server.server_url}
    if server.authorization is not None:
        body["authorization"] = server.authorization.get_secret_value()
    if server.allowed_tools:
        body["allowed_tools"] = list(server.allowed_tools)
    return body
