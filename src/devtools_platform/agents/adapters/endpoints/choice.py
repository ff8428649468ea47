"""Which endpoint a stack's settings mean. Decides; the only questions it asks are what an address lists.

In order: a script, a named address, the embedded model when asked for, DigitalOcean's inference when its key
is set, an Ollama on this machine, and the embedded model when nothing at all is configured. A setting that
would be ignored is an error instead: nobody's code goes to a model they did not choose.
"""

from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError

from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint, is_loopback
from devtools_platform.agents.adapters.endpoints.probe import fetch, list_models
from devtools_platform.config.settings import Settings
from devtools_platform.core.errors import BadInput, Unavailable

EMBEDDED = "embedded"
GRADIENT_URL = "https://inference.do-ai.run/v1"
GRADIENT_MODEL = "llama3.3-70b-instruct"
OLLAMA_TIMEOUT_S = 1.0

#: Families of models for code that call tools or follow a schema, best first.
CODER_FAMILIES = (
    "qwen3-coder",
    "devstral",
    "qwen2.5-coder",
    "codestral",
    "deepseek-coder",
    "granite-code",
    "codellama",
)
#: Marks of Ollama models that only complete text, only embed, or run on somebody else's machine.
_UNFIT = ("-base", "embed", "cloud")

NO_MODEL_HINT = (
    "Fetch the small embedded one with `dev-tools model pull` (about 1 GB), or set DEV_TOOLS_MODEL_BASE_URL and "
    "DEV_TOOLS_MODEL to an OpenAI-compatible endpoint, or set GRADIENT_MODEL_ACCESS_KEY."
)


async def choose_endpoint(settings: Settings) -> Endpoint:
    """The endpoint these settings mean. Raises `BadInput` when they contradict themselves."""
    _refuse_contradictions(settings)
    if settings.model_script is not None:
        return Endpoint("scripted", None, None, "scripted", settings.model_tier or "standard")
    if settings.model_base_url is not None:
        return await _named(settings, _clean_url(settings.model_base_url))
    if settings.model_file is not None or settings.model == EMBEDDED:
        return _embedded(settings)
    if key := _clean_key(settings.gradient_model_access_key, "GRADIENT_MODEL_ACCESS_KEY"):
        model = settings.model or GRADIENT_MODEL
        return Endpoint("gradient", GRADIENT_URL, key, model, settings.model_tier or "standard")
    if settings.use_ollama and (found := await _find_ollama(settings)):
        return found
    if settings.model is not None:
        raise BadInput(
            f"DEV_TOOLS_MODEL is {settings.model!r}, but no endpoint is configured that could serve it.",
            hint="Set DEV_TOOLS_MODEL_BASE_URL, or start an Ollama that has the model, or use `embedded`.",
        )
    return _embedded(settings)


def _refuse_contradictions(settings: Settings) -> None:
    if settings.model_base_url is None:
        return
    if settings.model == EMBEDDED or settings.model_file is not None:
        asked = "DEV_TOOLS_MODEL_FILE" if settings.model_file else "DEV_TOOLS_MODEL=embedded"
        raise BadInput(
            f"{asked} asks for the embedded model, but DEV_TOOLS_MODEL_BASE_URL names an endpoint.",
            hint="Unset one of the two.",
        )


def _embedded(settings: Settings) -> Endpoint:
    name = settings.model_file.stem if settings.model_file else EMBEDDED
    return Endpoint("embedded", None, None, name, settings.model_tier or "small")


async def _named(settings: Settings, base_url: str) -> Endpoint:
    key = _clean_key(settings.model_api_key, "DEV_TOOLS_MODEL_API_KEY")
    model = settings.model or await _only_model(base_url, key)
    return Endpoint("openai-compatible", base_url, key, model, settings.model_tier or "standard")


async def _only_model(base_url: str, key: SecretStr | None) -> str:
    names = await list_models(base_url, key, key_setting="DEV_TOOLS_MODEL_API_KEY")
    if names is not None and len(names) == 1:
        return names[0]
    listed = "keeps no list of its models" if names is None else f"lists {', '.join(map(repr, names[:20])) or 'none'}"
    raise BadInput(
        f"DEV_TOOLS_MODEL is not set, and {base_url} {listed}.",
        hint="Set DEV_TOOLS_MODEL to the model to use.",
    )


def _clean_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput(
            f"DEV_TOOLS_MODEL_BASE_URL is {url!r}: expected an http or https address.",
            hint="For example http://127.0.0.1:11434/v1.",
        )
    if parts.username or parts.password or parts.query:
        raise BadInput(
            "DEV_TOOLS_MODEL_BASE_URL holds a user, a password or a query; addresses are shown in messages.",
            hint="Put the key into DEV_TOOLS_MODEL_API_KEY.",
        )
    return url.rstrip("/")


def _clean_key(key: SecretStr | None, setting: str) -> SecretStr | None:
    """A key as a header can carry it; an empty variable is no key."""
    text = key.get_secret_value().strip() if key else ""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise BadInput(f"{setting} holds characters that no key has (spaces, line breaks or not ASCII).")
    return SecretStr(text) if text else None


class _OllamaVersion(BaseModel):
    version: str


async def _find_ollama(settings: Settings) -> Endpoint | None:
    """The Ollama on this machine, if it runs and has `model`, or a model for code when none is named."""
    url = settings.ollama_url.rstrip("/")
    if not is_loopback(url):
        raise BadInput(
            f"DEV_TOOLS_OLLAMA_URL is {url!r}: only an Ollama on this machine is used unasked.",
            hint=f"Set DEV_TOOLS_MODEL_BASE_URL to {url}/v1 instead.",
        )
    try:
        version = await fetch(f"{url}/api/version", None, timeout_s=OLLAMA_TIMEOUT_S)
        _OllamaVersion.model_validate_json(version.body)
        names = await list_models(f"{url}/v1", None, key_setting="", timeout_s=OLLAMA_TIMEOUT_S) or ()
    except (Unavailable, ValidationError):
        return None  # nothing there, or something that is not Ollama
    model = _pick(names, settings.model)
    return Endpoint("ollama", f"{url}/v1", None, model, settings.model_tier or "small") if model else None


def _pick(names: tuple[str, ...], wanted: str | None) -> str | None:
    if wanted is not None:
        return next((name for name in names if name in {wanted, f"{wanted}:latest"}), None)
    fit = [name for name in names if not any(mark in name for mark in _UNFIT)]
    return next((name for family in CODER_FAMILIES for name in fit if family in name), None)
