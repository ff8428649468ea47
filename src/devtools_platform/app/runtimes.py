"""Which runtime carries which agent in this stack: the environments file made real, with what stands in for what.

Without a file of a team's own there is one runtime for all, the stack's model, and nothing else is started.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.models import Model

from devtools_platform.agents.adapters import endpoints
from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.edit_formats import edit_format_of
from devtools_platform.agents.fallback import Fallback, FallbackModel, Member
from devtools_platform.agents.interfaces import ModelLedger, TaskLog
from devtools_platform.agents.runs import Traits
from devtools_platform.app.home import Home
from devtools_platform.app.managed import ManagedEndpoint, managed_name
from devtools_platform.app.models import (
    ServedModel,
    build_model,
    choose_model,
    serve_embedded,
)
from devtools_platform.config import Settings
from devtools_platform.config.environments import EnvironmentSpec, RuntimeKind, RuntimeSpec, load_environments
from devtools_platform.core.agents import AgentName, EditFormat
from devtools_platform.core.errors import BadInput, DevToolsError
from devtools_platform.core.tasks import ModelInfo
from devtools_platform.kit.patience import patiently
from devtools_platform.kit.telemetry import current_scope

ATTEMPTS_BEFORE_FALLBACK = 2
"""Of a runtime that something stands in for: the next one is better than the same one for the fourth time."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Runtime:
    """One way to carry an agent's model calls, ready to be called."""

    kind: RuntimeKind
    served: ServedModel
    edit_format: EditFormat | None = None
    """As the environments file has it; None: by the model's family."""

    @property
    def name(self) -> str:
        info = self.served.info
        return f"{self.kind} {info.name if info else 'without a model'}"

    @property
    def facts(self) -> dict[str, Any]:
        info = self.served.info
        described = {"model": info.name, "provider": info.provider, "tier": info.tier} if info else {"model": None}
        return {"runtime": self.kind, **described}


@dataclass(frozen=True)
class Runtimes:
    """Every agent's chain: what it is declared to run on, then what stands in."""

    chains: Mapping[AgentName, tuple[Runtime, ...]]

    @property
    def is_one(self) -> bool:
        """Whether all agents run on the stack's one model, as without a file."""
        return all(len(chain) == 1 and chain[0].kind == "stack" for chain in self.chains.values())

    @property
    def main(self) -> ServedModel:
        """The model the stack shows as its own."""
        first = next(iter(self.chains.values()))[0].served
        return next((c[0].served for c in self.chains.values() if c[0].kind == "stack"), first)

    @property
    def info(self) -> ModelInfo | None:
        """What a task's result names as its model; several are named together."""
        infos = [chain[0].served.info for chain in self.chains.values()]
        if all(info == infos[0] for info in infos):
            return infos[0]
        known = sorted({(c[0].kind, i.name, i.tier) for c in self.chains.values() if (i := c[0].served.info)})
        tier = "small" if any(tier == "small" for _, _, tier in known) else "standard"
        return ModelInfo(name=", ".join(f"{kind} {name}" for kind, name, _ in known), provider="several", tier=tier)

    def traits(self, agent: str) -> Traits:
        declared = self.chains[agent][0]
        served = declared.served
        facts = {} if self.is_one else declared.facts
        return Traits(served.is_small, served.needs_judge, self._missing(agent), facts)

    def edit_format(self, agent: AgentName) -> EditFormat:
        """How an agent changes files: by what it is declared to run on, which whatever stands in has to take."""
        declared = self.chains[agent][0]
        return declared.edit_format or edit_format_of(declared.served.info)

    def _missing(self, agent: str) -> str:
        """Why no runtime of an agent has a model; empty when one has, or may get one while we run."""
        if any(one.served.endpoint is not None or one.served.late is not None for one in self.chains[agent]):
            return ""
        served = self.chains[agent][0].served
        return f"{served.missing or 'No model is configured.'} {served.hint}"

    async def check_model(self) -> None:
        """The preflight of every task: some runtime of each chain that every task needs must answer.

        All run on one: then that one. Otherwise the review's; the others are met when their turn comes, and say
        then what is wrong with them.
        """
        failure: DevToolsError | None = None
        for runtime in self.chains["code-review"]:
            try:
                await runtime.served.check_model()
            except DevToolsError as error:
                failure = failure or error
            else:
                return
        if failure is not None:
            raise failure

    async def stop(self) -> None:
        servers = {id(r.served): r.served.server for chain in self.chains.values() for r in chain}
        for server in servers.values():
            if server is not None:
                await server.stop()


async def choose_runtimes(settings: Settings, home: Home, progress: Progress) -> Runtimes:
    """What the environments file says for this environment. Raises `BadInput` for what cannot be."""
    return await open_runtimes(settings, home, progress, tuple(load_definitions(settings.agent_definitions)))


async def open_runtimes(settings: Settings, home: Home, progress: Progress, agents: Sequence[AgentName]) -> Runtimes:
    """The same for some agents only."""
    environment = _environment(settings)
    opener = _Opener(settings, home, progress)
    try:
        return Runtimes({name: await opener.open_chain(name, environment.of(name)) for name in agents})
    except BaseException:
        await opener.stop()
        raise


def describe_runtimes(settings: Settings) -> list[dict[str, Any]]:
    """Every agent and its chain as the file has it; nothing is started."""
    environment = _environment(settings)
    return [
        {
            "name": name,
            "role": definition.role,
            "runtimes": [
                {"runtime": spec.runtime, "model": spec.model, "base_url": spec.base_url}
                for spec in environment.of(name).chain()
            ],
        }
        for name, definition in load_definitions(settings.agent_definitions).items()
    ]


def _environment(settings: Settings) -> EnvironmentSpec:
    environment = load_environments(settings.environments_file).of(settings.environment)
    environment.check_names(tuple(load_definitions(settings.agent_definitions)), settings.environment)
    return environment


@dataclass
class _Opener:
    """Opens each runtime once, however many agents share it."""

    settings: Settings
    home: Home
    progress: Progress
    _open: dict[Any, ServedModel] = field(default_factory=dict[Any, ServedModel])

    async def stop(self) -> None:
        for served in self._open.values():
            if served.server is not None:
                await served.server.stop()

    async def open_chain(self, agent: AgentName, spec: RuntimeSpec) -> tuple[Runtime, ...]:
        chain = tuple([await self._runtime(agent, one) for one in spec.chain()])
        declared = chain[0].served
        for other in chain[1:]:
            if other.served.needs_judge and not declared.is_small:
                raise BadInput(
                    f"{agent}: the embedded model cannot stand in for {chain[0].name}.",
                    hint="It works only where the program leads it; name a runtime with a stronger model as fallback.",
                )
        return chain

    async def _runtime(self, agent: AgentName, spec: RuntimeSpec) -> Runtime:
        alone = spec.model_copy(update={"fallback": None, "edit_format": None})
        key = (alone, managed_name(self.settings.environment, agent, spec)) if spec.runtime == "gradient" else alone
        if key not in self._open:
            self._open[key] = await self._serve(agent, spec)
        return Runtime(spec.runtime, self._open[key], spec.edit_format)

    async def _serve(self, agent: AgentName, spec: RuntimeSpec) -> ServedModel:
        match spec.runtime:
            case "stack":
                return await choose_model(self.settings, self.home.logs, self.progress)
            case "embedded":
                return await serve_embedded(self.settings, self.home.logs, self.progress)
            case "scripted":
                return _scripted(spec)
            case "local":
                return _local(spec)
            case "gradient":
                return self._managed(agent, spec)

    def _managed(self, agent: AgentName, spec: RuntimeSpec) -> ServedModel:
        managed = ManagedEndpoint(self.settings, self.home, agent, spec)
        info = ModelInfo(name=str(spec.model), provider="gradient-agent", tier="standard")
        return ServedModel(None, info, late=managed.find, check=managed.check)


def _local(spec: RuntimeSpec) -> ServedModel:
    base_url, model = str(spec.base_url).rstrip("/"), str(spec.model)
    tier = spec.tier or "standard"
    endpoint = endpoints.Endpoint("openai-compatible", base_url, spec.key(), model, tier)
    return ServedModel(endpoint, ModelInfo(name=model, provider="openai-compatible", tier=tier))


def _scripted(spec: RuntimeSpec) -> ServedModel:
    assert spec.script is not None  # noqa: S101 - the file's schema wants it
    tier = spec.tier or "standard"
    endpoint = endpoints.Endpoint("scripted", None, None, "scripted", tier)
    info = ModelInfo(name="scripted", provider="scripted", tier=tier)
    return ServedModel(endpoint, info, script=Script.load(spec.script))


@dataclass(frozen=True)
class RuntimeModels:
    """Builds the model of each agent: metered, adapted to its tier, with what stands in for it."""

    runtimes: Runtimes
    ledger_of: Callable[[ServedModel], ModelLedger]
    """What counts and prices the calls of a runtime."""
    log: TaskLog
    timeout_s: float

    def __call__(self, agent: AgentName) -> Model:
        chain = self.runtimes.chains[agent]
        members = [self._member(agent, runtime, is_last=runtime is chain[-1]) for runtime in chain]
        return members[0].model if len(members) == 1 else FallbackModel(agent, members, self._tell)

    def _member(self, agent: AgentName, runtime: Runtime, *, is_last: bool) -> Member:
        ledger = self.ledger_of(runtime.served)
        attempts = None if is_last else ATTEMPTS_BEFORE_FALLBACK
        return Member(runtime.name, build_model(runtime.served, agent, ledger, self.timeout_s, attempts=attempts))

    async def _tell(self, fallback: Fallback) -> None:
        """In the task's timeline, once for each task and agent and what stood in."""
        scope = current_scope.get()
        if scope is None:
            return
        key = f"fallback:{scope.agent}:{fallback.used}"
        data = {"declared": fallback.declared, "used": fallback.used, "why": fallback.why}
        await patiently(lambda: self.log.append_event(scope.task_id, key, "fallback", scope.agent, data))
