"""What is wrong with the settings as they stand, all of it at once: names nobody knows, and halves of what is a whole.

Pure but for the environment's names; whether a service answers is `dev-tools doctor`'s to find out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from devtools_platform.config.settings import Settings, find_unknown_names, variables_of


@dataclass(frozen=True)
class Problem:
    what: str
    hint: str


@dataclass(frozen=True)
class _Whole:
    """Where any of `given` is set, each of `needs` must be; a tuple among them is met by one of its names."""

    given: tuple[str, ...]
    needs: tuple[str | tuple[str, ...], ...]
    hint: str


_WHOLES = (
    _Whole(("model_base_url",), ("model",), "Say which model the endpoint is asked for."),
    _Whole(("gateway_oidc_issuer",), ("gateway_oidc_audience",), "A token made for another service opens none."),
    _Whole(("langfuse_public_key",), ("langfuse_secret_key",), "Both are in the project's settings at Langfuse."),
    _Whole(("langfuse_secret_key",), ("langfuse_public_key",), "Both are in the project's settings at Langfuse."),
    _Whole(("github_app_id",), ("github_private_key_file",), "GitHub made the key with the App."),
    _Whole(
        ("github_webhook_secret",), (("github_app_id", "github_token"),), "Without either we cannot answer at GitHub."
    ),
    _Whole(
        ("linear_webhook_secret",), (("linear_api_key", "linear_client_id"),), "Without either we cannot answer there."
    ),
    _Whole(("linear_client_id",), ("linear_client_secret",), "Linear shows it beside the client's id."),
    _Whole(("registry_user",), ("registry_password",), "A registry takes both or none."),
    _Whole(("qdrant_api_key",), ("qdrant_url",), "A key without a server opens nothing."),
)
_RULES: tuple[tuple[Callable[[Settings], bool], str, str], ...] = (
    (
        lambda s: s.embeddings == "endpoint" and not (s.embedding_base_url and s.embedding_model and s.embedding_size),
        "DEV_TOOLS_EMBEDDINGS is 'endpoint', and no endpoint is named whole.",
        "Set DEV_TOOLS_EMBEDDING_BASE_URL, DEV_TOOLS_EMBEDDING_MODEL and DEV_TOOLS_EMBEDDING_SIZE.",
    ),
    (
        lambda s: s.environment == "production" and (s.public_url or "").startswith("http://"),
        "In production the console is to be reached without TLS (DEV_TOOLS_PUBLIC_URL).",
        "Put a proxy with a certificate before it, as deploy/compose.yaml does, and give its https URL.",
    ),
    (
        lambda s: s.host not in {"127.0.0.1", "localhost", "::1"} and not (s.public_url or s.console_hosts),
        "The services listen to other machines, and the console answers to none of their names.",
        "Set DEV_TOOLS_PUBLIC_URL to where people reach it.",
    ),
)


def find_problems(settings: Settings) -> list[Problem]:
    """In the order of the settings they concern; none when they can be used."""
    found = [Problem(what, "See `dev-tools config show` for every setting.") for what in find_unknown_names()]
    for whole in _WHOLES:
        given = [name for name in whole.given if getattr(settings, name) is not None]
        missing = [_named(need) for need in whole.needs if not _is_met(settings, need)]
        if given and missing:
            found.append(Problem(f"{_named(given[0])} is set without {' and '.join(missing)}.", whole.hint))
    return found + [Problem(what, hint) for is_so, what, hint in _RULES if is_so(settings)]


def _is_met(settings: Settings, need: str | tuple[str, ...]) -> bool:
    return any(getattr(settings, name) is not None for name in ((need,) if isinstance(need, str) else need))


def _named(need: str | tuple[str, ...]) -> str:
    return " or ".join(variables_of(name)[0] for name in ((need,) if isinstance(need, str) else need))
