"""Managed agents as the environments file wants them: made, changed, checked, keyed anew, rolled back.

Every step is written down as soon as it is taken, so a sync that broke off goes on where it was.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from pydantic import SecretStr

from devtools_platform.agents.definitions import load_definitions
from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.home import Home
from devtools_platform.app.managed import Managed, ManagedRecord, digitalocean, managed_name
from devtools_platform.config import Settings
from devtools_platform.config.environments import (
    DigitalOceanSpec,
    EnvironmentName,
    EnvironmentSpec,
    RuntimeSpec,
    load_environments,
)
from devtools_platform.core.errors import BadInput, NotFound
from devtools_platform.kit.digitalocean import DigitalOcean
from devtools_platform.kit.digitalocean.agents import AgentSpec
from devtools_platform.kit.digitalocean.types import Agent, AgentVersion, McpServer

LABEL = "dev-tools"
TAG = "dev-tools"
TOKEN_DAYS = 90
RENEW_BEFORE = timedelta(days=30)

Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Wanted:
    """One managed agent as it should be."""

    agent: str
    name: str
    instruction: str
    model: str
    model_uuid: str
    tools: tuple[str, ...]
    """What it may call at our gateway: what its policy permits and needs no task."""
    gateway_url: str

    @property
    def digest(self) -> str:
        told = [self.instruction, self.model_uuid, self.tools, self.gateway_url]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


@dataclass(frozen=True)
class Change:
    """What a sync did, or would do, with one managed agent."""

    agent: str
    name: str
    action: Literal["create", "update", "none"]
    why: tuple[str, ...]
    uuid: str | None
    status: str | None


@dataclass
class AgentSync:
    """The managed agents of one environment. Use as `async with AgentSync.open(...)`."""

    settings: Settings
    environment: EnvironmentName
    home: Home
    do: DigitalOcean
    progress: Progress
    record: ManagedRecord
    spec: EnvironmentSpec
    _models: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def open(cls, settings: Settings, environment: EnvironmentName, progress: Progress) -> "AgentSync":
        """Raises `BadInput` without a token for DigitalOcean, or when the environment has no managed agent."""
        home = Home.of(settings)
        spec = load_environments(settings.environments_file).of(environment)
        spec.check_names(tuple(load_definitions(settings.agent_definitions)), environment)
        sync = cls(settings, environment, home, digitalocean(settings), progress, ManagedRecord.load(home), spec)
        if not sync.managed():
            raise BadInput(
                f"No agent of the environment {environment!r} has the runtime `gradient`.",
                hint="Give one that runtime in your environments file: docs/how-to/digitalocean.md.",
            )
        return sync

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.do.aclose()

    def managed(self) -> dict[str, RuntimeSpec]:
        """Agent -> the part of its chain that is a managed agent."""
        found: dict[str, RuntimeSpec] = {}
        for agent in load_definitions(self.settings.agent_definitions):
            for one in self.spec.of(agent).chain():
                if one.runtime == "gradient":
                    found.setdefault(agent, one)
        return found

    # -- sync ----------------------------------------------------------------------------------------------------------

    async def sync(self, *, is_dry: bool) -> list[Change]:
        """Make DigitalOcean's agents be what the file says. `is_dry` only says what would be done."""
        where = self._where()
        gateway = GatewayRest.of(self.home)
        changes: list[Change] = []
        for agent, spec in self.managed().items():
            wanted = await self._want(agent, spec, where, gateway)
            changes.append(await self._sync_one(wanted, where, gateway, is_dry=is_dry))
        return changes

    def _where(self) -> DigitalOceanSpec:
        if self.spec.digitalocean is None:
            raise BadInput(
                f"The environment {self.environment!r} does not say where its managed agents live.",
                hint="Give it `digitalocean: {project_id, gateway_url}`: docs/how-to/digitalocean.md.",
            )
        return self.spec.digitalocean

    async def _want(self, agent: str, spec: RuntimeSpec, where: DigitalOceanSpec, gateway: GatewayRest) -> Wanted:
        definition = load_definitions(self.settings.agent_definitions)[agent]
        model = str(spec.model)
        if model not in self._models:
            self._models[model] = str((await self.do.models.find(model)).uuid)
        listed = await gateway.send("GET", "/tools", params={"agent": agent})
        # Context is read by collection, and nobody has granted a managed agent one.
        tools = tuple(sorted(tool["name"] for tool in listed if tool["server"] != "context"))
        name = managed_name(self.environment, agent, spec)
        return Wanted(agent, name, definition.instructions, model, self._models[model], tools, where.gateway_url)

    async def _sync_one(self, wanted: Wanted, where: DigitalOceanSpec, gateway: GatewayRest, *, is_dry: bool) -> Change:
        there = await self.do.agents.find(wanted.name)
        known = self.record.find(self.environment, wanted.name)
        if known is not None and (there is None or there.uuid != known.uuid):
            known = None  # deleted there, and perhaps made anew by somebody
        why = await self._differences(wanted, there, known, gateway)
        action = "create" if there is None else "update" if why else "none"
        if not is_dry and action != "none":
            self.progress(wanted.agent, f"{action}: {'; '.join(why)}")
            known = await self._apply(wanted, there, known or Managed(""), where, gateway)
        now = await self._look(known) if known is not None and known.uuid else there
        status = now.deployment.status if now and now.deployment else None
        return Change(wanted.agent, wanted.name, action, tuple(why), now.uuid if now else None, status)

    async def _differences(
        self, wanted: Wanted, there: Agent | None, known: Managed | None, gateway: GatewayRest
    ) -> list[str]:
        if there is None:
            return ["it does not exist"]
        if known is None:
            return ["it exists, and this stack has no key to it"]
        why: list[str] = []
        if known.digest != wanted.digest:
            why.append("its definition, model, tools or gateway address changed")
        if there.instruction is not None and there.instruction != wanted.instruction:
            why.append("its instructions were changed elsewhere, or rolled back")
        if there.deployment is not None and there.deployment.visibility != "VISIBILITY_PRIVATE":
            why.append(f"it is {there.deployment.visibility or 'of unknown visibility'}, not private")
        if known.key is None:
            why.append("it has no access key")
        if wanted.tools and not await _token_lasts(gateway, known.token_id):
            why.append("its gateway token ended or ends soon")
        return why

    async def _apply(
        self, wanted: Wanted, there: Agent | None, known: Managed, where: DigitalOceanSpec, gateway: GatewayRest
    ) -> Managed:
        server, token_id = await self._make_server(wanted, gateway)
        spec = AgentSpec(wanted.name, wanted.instruction, wanted.model_uuid, [server] if server else [], [TAG])
        try:
            if there is None:
                agent = await self.do.agents.create(spec, project_id=where.project_id, region=where.region)
            else:
                agent = await self.do.agents.update(there.uuid, spec)
        except BaseException:
            if token_id is not None:  # nobody got it
                await gateway.send("DELETE", f"/tokens/{token_id}")
            raise
        if known.last_token_id is not None:
            await _revoke(gateway, known.last_token_id)
        known = replace(known, uuid=agent.uuid, token_id=token_id, last_token_id=known.token_id)
        self.record.keep(self.environment, wanted.name, known)
        await self.do.agents.set_visibility(agent.uuid, "private")
        if known.key is None:
            known = await self._add_key(wanted.name, known)
        known = replace(known, digest=wanted.digest)
        self.record.keep(self.environment, wanted.name, known)
        return known

    async def _make_server(self, wanted: Wanted, gateway: GatewayRest) -> tuple[McpServer | None, str | None]:
        """Our gateway as the agent is told of it, with a token for exactly the tools it may call."""
        if not wanted.tools:
            return None, None
        body = {
            "name": wanted.name[:100],
            "scopes": [f"tools:{tool}" for tool in wanted.tools],
            "agent": wanted.agent,
            "days": TOKEN_DAYS,
        }
        made = await gateway.send("POST", "/tokens", json=body)
        bearer = SecretStr(f"Bearer {made['token']}")
        return McpServer(
            server_label=LABEL, server_url=wanted.gateway_url, authorization=bearer, allowed_tools=wanted.tools
        ), made["id"]

    async def _add_key(self, name: str, known: Managed) -> Managed:
        now = datetime.now(UTC)
        made = await self.do.agents.create_key(known.uuid, f"{TAG}-{now:%Y%m%d-%H%M%S}")
        known = replace(known, key=made.secret_key, key_uuid=made.uuid, key_made_at=now.isoformat(timespec="seconds"))
        self.record.keep(self.environment, name, known)
        return known

    async def _look(self, known: Managed) -> Agent:
        """As it is there now; its address is written down once it has one."""
        agent = await self.do.agents.get(known.uuid)
        url = agent.deployment.url if agent.deployment else None
        if url and url != known.url:
            now = self.record.find(self.environment, agent.name) or known
            self.record.keep(self.environment, agent.name, replace(now, url=url))
        return agent

    # -- status, keys, versions ----------------------------------------------------------------------------------------

    async def status(self) -> list[dict[str, Any]]:
        """Every managed agent of the environment as DigitalOcean has it now."""
        listed: list[dict[str, Any]] = []
        for agent, spec in self.managed().items():
            name = managed_name(self.environment, agent, spec)
            known = self.record.find(self.environment, name)
            there = await self._look(known) if known else await self.do.agents.find(name)
            listed.append(_describe(agent, name, known, there))
        return listed

    async def wait(self, timeout_s: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> bool:
        """Until all run, or none is on its way any more; False when they do not all run."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            states = [one["status"] for one in await self.status()]
            if all(state == "STATUS_RUNNING" for state in states):
                return True
            is_hopeless = any(state in {None, "STATUS_FAILED", "STATUS_DELETED"} for state in states)
            if is_hopeless or asyncio.get_running_loop().time() >= deadline:
                return False
            self.progress("status", ", ".join(str(state) for state in states))
            await sleep(5)

    async def rotate_keys(
        self,
        overlap_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        older_than: timedelta = timedelta(),
    ) -> list[dict[str, str | None]]:
        """New access keys. A running stack takes them at its next call; the old ones end after `overlap_s`.

        Keys younger than `older_than` stay, so that a timer may call this every night.
        """
        old: list[tuple[str, Managed]] = []
        for agent, spec in self.managed().items():
            name = managed_name(self.environment, agent, spec)
            known = self.record.find(self.environment, name)
            if known is None:
                raise NotFound(
                    f"The managed agent {name!r} is not known here.",
                    hint=f"Run `dev-tools agents sync --env {self.environment}`.",
                )
            if known.key_made_at and datetime.now(UTC) - datetime.fromisoformat(known.key_made_at) < older_than:
                continue
            self.progress(agent, "new access key")
            await self._add_key(name, known)
            old.append((name, known))
        if any(known.key_uuid for _, known in old):
            self.progress("keys", f"the old keys count for {overlap_s:g} s more, for calls under way")
            await sleep(overlap_s)
        for _, known in old:
            if known.key_uuid is not None:
                await self.do.agents.delete_key(known.uuid, known.key_uuid)
        return [{"name": name, "ended": known.key_uuid, "new": self._key_uuid(name)} for name, known in old]

    def _key_uuid(self, name: str) -> str | None:
        known = self.record.find(self.environment, name)
        return known.key_uuid if known else None

    async def versions(self, agent: str) -> list[AgentVersion]:
        return await self.do.agents.list_versions(self._known(agent).uuid)

    async def roll_back(self, agent: str, version_hash: str | None) -> AgentVersion:
        """To the version before, or to `version_hash`. Raises `NotFound` when there is none to go back to."""
        known = self._known(agent)
        versions = await self.do.agents.list_versions(known.uuid)
        applied = next((i for i, version in enumerate(versions) if version.currently_applied), -1)
        before = [version for version in versions[applied + 1 :] if version.can_rollback]
        chosen = next((v for v in versions if v.version_hash == version_hash), None) if version_hash else None
        target = chosen if version_hash else next(iter(before), None)
        if target is None:
            raise NotFound(
                f"{agent} has no version {version_hash or 'before this one'}.",
                hint=f"See `dev-tools agents versions {agent} --env {self.environment}`.",
            )
        await self.do.agents.roll_back(known.uuid, target.version_hash)
        return target

    async def remove(self, agent: str) -> None:
        """Delete the managed agent of `agent`, its key and its gateway tokens. One that is gone already is no error."""
        spec = self.managed().get(agent)
        name = managed_name(self.environment, agent, spec) if spec else ""
        known = self.record.find(self.environment, name)
        if known is None:
            return
        if await self.do.agents.find(name) is not None:
            await self.do.agents.delete(known.uuid)
        gateway = GatewayRest.of(self.home)
        for token in (known.token_id, known.last_token_id):
            if token is not None:
                await _revoke(gateway, token)
        self.record.forget(self.environment, name)

    def _known(self, agent: str) -> Managed:
        spec = self.managed().get(agent)
        known = self.record.find(self.environment, managed_name(self.environment, agent, spec)) if spec else None
        if known is None:
            raise NotFound(
                f"{agent!r} is no managed agent of {self.environment!r} that this stack made.",
                hint=f"See `dev-tools agents status --env {self.environment}`.",
            )
        return known


async def _token_lasts(gateway: GatewayRest, id_: str | None) -> bool:
    for token in await gateway.send("GET", "/tokens"):
        if token["id"] == id_:
            ends = datetime.fromtimestamp(token["expires_at"], UTC)
            return token["is_valid"] and ends - datetime.now(UTC) > RENEW_BEFORE
    return False


async def _revoke(gateway: GatewayRest, id_: str) -> None:
    if any(token["id"] == id_ for token in await gateway.send("GET", "/tokens")):
        await gateway.send("DELETE", f"/tokens/{id_}")


def _describe(agent: str, name: str, known: Managed | None, there: Agent | None) -> dict[str, Any]:
    deployment = there.deployment if there else None
    model = there.model if there else None
    return {
        "agent": agent,
        "name": name,
        "uuid": there.uuid if there else None,
        "status": deployment.status if deployment else None,
        "visibility": deployment.visibility if deployment else None,
        "url": deployment.url if deployment else None,
        "model": (model.inference_name or model.name) if model else None,
        "version": there.version_hash if there else None,
        "has_key": known is not None and known.key is not None,
    }
