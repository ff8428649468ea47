"""Which model serves this stack, and everything that hangs on it: server, adapter, meter."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from pydantic_ai.models import Model

from devtools_platform.agents.adapters import embedded_model, endpoints
from devtools_platform.agents.adapters.llama_server import LlamaServer
from devtools_platform.agents.adapters.schema_tools import SchemaToolModel
from devtools_platform.agents.adapters.scripted import Script, ScriptedModel
from devtools_platform.agents.interfaces import ModelLedger
from devtools_platform.agents.live import list_choices
from devtools_platform.agents.metered import MeteredModel
from devtools_platform.config import Settings
from devtools_platform.core.agents import AgentName
from devtools_platform.core.errors import NoModel, Unavailable
from devtools_platform.core.tasks import ModelInfo

NO_MODEL_HINT = (
    "Fetch the small embedded one with `dev-tools model pull` (about 1 GB), or set DEV_TOOLS_MODEL_BASE_URL and "
    "DEV_TOOLS_MODEL to an OpenAI-compatible endpoint, or set GRADIENT_MODEL_ACCESS_KEY."
)

#: After these, doing an earlier call again makes sense: reading the file, running the tests.
CHANGING = frozenset({"workspace_edit_file", "workspace_write_file", "workspace_delete_file", "workspace_run_command"})


@dataclass
class ServedModel:
    """The endpoint in use. `info` is None when there is no model at all; then `missing` says why."""

    endpoint: endpoints.Endpoint | None
    info: ModelInfo | None
    server: LlamaServer | None = None
    missing: str = ""
    script: Script | None = None

    async def check_model(self) -> None:
        """The preflight of every task: does the endpoint answer, take the key, know the model?"""
        if self.endpoint is None:
            raise NoModel(self.missing or "No model is configured.", hint=NO_MODEL_HINT)
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
        return await _embedded(settings, logs, progress)
    info = ModelInfo(name=endpoint.model, provider=endpoint.provider, tier=endpoint.tier)
    script = Script.load(settings.model_script) if settings.model_script else None
    return ServedModel(endpoint, info, script=script)


async def _embedded(settings: Settings, logs: Path, progress: Callable[[str], None]) -> ServedModel:
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


def build_models(served: ServedModel, ledger: ModelLedger, timeout_s: float) -> Callable[[AgentName], Model]:
    """A model per agent. Without an endpoint, one that refuses with the way out."""

    def build(agent: AgentName) -> Model:
        inner = _raw_model(served, agent, timeout_s)
        metered = MeteredModel(
            inner,
            ledger,
            is_retryable=endpoints.is_retryable,
            explain=lambda error: endpoints.explain(error, served.endpoint),
        )
        if not served.is_small:
            return metered
        return SchemaToolModel(metered, enums=list_choices, changes=lambda tool: tool in CHANGING)

    return build


def _raw_model(served: ServedModel, agent: AgentName, timeout_s: float) -> Model:
    if served.script is not None:
        return ScriptedModel(served.script, agent)
    if served.endpoint is None:
        return ScriptedModel(Script([]), agent)  # never asked: the preflight has ended the task
    return endpoints.build_model(served.endpoint, timeout_s=timeout_s)
