"""Which model serves this stack, and everything that hangs on it: server, adapter, meter."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from pydantic_ai.models import Model

from devtools_platform.agents import edit_formats
from devtools_platform.agents.adapters import embedded_model, endpoints
from devtools_platform.agents.adapters.endpoints import client
from devtools_platform.agents.adapters.endpoints.failures import explain, is_retryable
from devtools_platform.agents.adapters.llama_server import LlamaServer
from devtools_platform.agents.adapters.schema_tools import SchemaToolModel
from devtools_platform.agents.adapters.scripted import Script, ScriptedModel
from devtools_platform.agents.interfaces import ModelLedger
from devtools_platform.agents.late import LateModel
from devtools_platform.agents.live import list_choices
from devtools_platform.agents.metered import MeteredModel
from devtools_platform.agents.missing import MissingModel
from devtools_platform.config import Settings
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import NoModel, Unavailable
from devtools_platform.core.tasks import ModelInfo

#: After these, doing an earlier call again makes sense: reading the file, running the tests.
CHANGING = frozenset[str]({"workspace_run_command"}).union(*edit_formats.TOOLS.values())


@dataclass
class ServedModel:
    """The endpoint in use. `info` is None when there is no model at all; then `missing` says why."""

    endpoint: endpoints.Endpoint | None
    info: ModelInfo | None
    server: LlamaServer | None = None
    missing: str = ""
    script: Script | None = None
    hint: str = endpoints.NO_MODEL_HINT
    """What to do about what is missing."""
    late: Callable[[], endpoints.Endpoint] | None = None
    """Gives the endpoint as it is at the moment of a call, where it can change; raises `NoModel`."""
    check: Callable[[], Awaitable[None]] | None = None
    """How to see whether it would answer, where asking its endpoint does not tell."""

    async def check_model(self) -> None:
        """The preflight of every task: does the endpoint answer, take the key, know the model?"""
        if self.check is not None:
            await self.check()
            return
        if self.endpoint is None:
            raise NoModel(self.missing or "No model is configured.", hint=self.hint)
        if self.server is not None:
            if not self.server.is_running:
                raise Unavailable("The embedded model's process has ended.", hint="Start the stack again.")
        elif self.endpoint.base_url is not None:
            await endpoints.check_endpoint(self.endpoint)

    @property
    def is_small(self) -> bool:
        return self.info is not None and self.info.tier == "small"

    @property
    def needs_judge(self) -> bool:
        """Whether this is the model we measured: good for small fixes under a failing test, for nothing else."""
        return self.info is not None and self.info.sha256 == embedded_model.CODER.sha256


def describe_model(served: ServedModel) -> str:
    """In one line, for progress and announcements."""
    if served.info is None:
        return f"none: {served.missing}"
    return f"{served.info.name} ({served.info.provider}, tier {served.info.tier})"


async def choose_model(settings: Settings, logs: Path, progress: Callable[[str], None]) -> ServedModel:
    """Pick the model by the settings, start its server if it is ours. Having none is an outcome, not an error."""
    endpoint = await endpoints.choose_endpoint(settings)
    if endpoint.provider == "embedded":
        return await serve_embedded(settings, logs, progress)
    info = ModelInfo(name=endpoint.model, provider=endpoint.provider, tier=endpoint.tier)
    script = Script.load(settings.model_script) if settings.model_script else None
    return ServedModel(endpoint, info, script=script)


async def serve_embedded(settings: Settings, logs: Path, progress: Callable[[str], None]) -> ServedModel:
    """The embedded model in a process of its own. Not having it is an outcome, not an error."""
    if settings.model_file is not None:
        file, name = settings.model_file, settings.model_file.stem
        sha256 = embedded_model.check_model_file(file, settings.cache_dir)
    else:
        file = embedded_model.find_cached(settings.cache_dir)
        name, sha256 = embedded_model.CODER.name, embedded_model.CODER.sha256
        if file is None:
            return ServedModel(None, None, missing="No model is configured and the embedded one is not fetched.")
    server = LlamaServer(file, log_file=logs / "model.log")
    try:
        await server.start(lambda waited: progress(f"loading {name}, {waited:.0f} s") if waited % 5 < 1 else None)
    except NoModel as error:
        return ServedModel(None, None, missing=f"{error} {error.hint}")
    endpoint = endpoints.Endpoint("embedded", server.base_url, SecretStr(server.api_key), name, "small")
    return ServedModel(endpoint, ModelInfo(name=name, provider="embedded", tier="small", sha256=sha256), server)


def build_model(
    served: ServedModel, agent: AgentName, ledger: ModelLedger, timeout_s: float, *, attempts: int | None = None
) -> Model:
    """An agent's model: metered, and adapted where it is small. Without an endpoint, one that says the way out."""
    if served.endpoint is None and served.late is None:
        return MissingModel(served.missing or "No model is configured.", served.hint)
    metered = MeteredModel(
        raw_model(served, agent, timeout_s),
        ledger,
        is_retryable=is_retryable,
        explain=lambda error: explain(error, served.endpoint),
        **({} if attempts is None else {"attempts": attempts}),
    )
    if not served.is_small:
        return metered
    return SchemaToolModel(metered, enums=list_choices, changes=lambda tool: tool in CHANGING)


def raw_model(served: ServedModel, agent: AgentName, timeout_s: float) -> Model:
    """The model itself, not metered and not adapted. Raises `NoModel`."""
    if served.script is not None:
        return ScriptedModel(served.script, agent)
    if served.late is not None:
        return _late(served.late, timeout_s)
    if served.endpoint is None:
        raise NoModel(served.missing or "No model is configured.", hint=served.hint)
    return client.build_model(served.endpoint, timeout_s=timeout_s)


def _late(find: Callable[[], endpoints.Endpoint], timeout_s: float) -> Model:
    nowhere = endpoints.Endpoint("gradient-agent", "http://not-deployed.invalid/api/v1", None, "n/a", "standard")
    built: dict[tuple[str | None, str], Model] = {}

    def model() -> Model:
        endpoint = find()
        known = (endpoint.base_url, endpoint.api_key.get_secret_value() if endpoint.api_key else "")
        if known not in built:
            built.clear()
            built[known] = client.build_model(endpoint, timeout_s=timeout_s)
        return built[known]

    return LateModel(client.build_model(nowhere, timeout_s=timeout_s), model)
