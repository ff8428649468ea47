"""Asking an endpoint, once and within bounds, what it serves and whether it accepts our key."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from http import HTTPStatus

import httpx2
from pydantic import BaseModel, SecretStr, ValidationError

from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint, is_loopback
from devtools_platform.core.errors import BadInput, ModelRefused, Unavailable
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.tls import tls_context

PROBE_TIMEOUT_S = 10.0
MAX_PROBE_BYTES = 4_000_000
"""Routers list hundreds of models with their prices: about 1 MB."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


class _Listed(BaseModel):
    id: str


class _Listing(BaseModel):
    data: list[_Listed]


async def check_endpoint(endpoint: Endpoint, *, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """See that the endpoint answers, takes the key and serves the model.

    Raises `ModelRefused` (key, model name), `Unavailable` (no answer) or `BadInput` (not such an endpoint).
    An endpoint without a model list is taken at its word; one without an address (not started yet) passes.
    """
    if endpoint.base_url is None:
        return
    names = await list_models(
        endpoint.base_url, endpoint.api_key, key_setting=endpoint.key_setting, timeout_s=timeout_s
    )
    if names is None or any(name in _spellings(endpoint.model) for name in names):
        return
    near = get_close_matches(endpoint.model, names, n=3, cutoff=0.4) or names[:3]
    raise ModelRefused(
        f"{endpoint.base_url} has no model {endpoint.model!r}. Nearest of its {len(names)}: {_quote(near)}.",
        hint="Set DEV_TOOLS_MODEL to one the endpoint lists.",
    )


async def list_models(
    base_url: str, key: SecretStr | None, *, key_setting: str, timeout_s: float = PROBE_TIMEOUT_S
) -> tuple[str, ...] | None:
    """The model names at `base_url`, or None when the endpoint keeps no list."""
    url = f"{base_url}/models"
    answer = await fetch(url, key, timeout_s=timeout_s)
    if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return None
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise _wrong_key(base_url, key, key_setting, answer.status)
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Unavailable(f"{url} answers with HTTP {answer.status}.", hint="Try again in a minute.")
    try:
        return tuple(model.id for model in _Listing.model_validate_json(answer.body).data)
    except ValidationError:
        shown = redact_text(answer.body[:80].decode(errors="replace"))
        raise BadInput(
            f"{url} answers with HTTP {answer.status} and no list of models: {shown!r}.",
            hint="Is DEV_TOOLS_MODEL_BASE_URL right? It usually ends in /v1.",
        ) from None


async def fetch(url: str, key: SecretStr | None, *, timeout_s: float) -> Answer:
    """GET `url`. Raises `Unavailable` when there is no whole answer in time, or it is larger than allowed."""
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        async with (
            asyncio.timeout(timeout_s),
            # A proxy meant for the internet cannot reach this machine's own ports.
            httpx2.AsyncClient(verify=tls_context(), timeout=timeout_s, trust_env=not is_loopback(url)) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            return Answer(response.status_code, await _read(response, url))
    except TimeoutError:
        raise _no_answer(url, f"no answer within {timeout_s:g} s") from None
    except httpx2.HTTPError as error:
        raise _no_answer(url, str(error) or type(error).__name__) from error


async def _read(response: httpx2.Response, url: str) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_PROBE_BYTES:
            raise Unavailable(f"{url} answers with more than {MAX_PROBE_BYTES} bytes.")
    return bytes(body)


def _no_answer(url: str, why: str) -> Unavailable:
    return Unavailable(
        f"The model endpoint does not answer at {url}: {why}.",
        hint="Is it running, and is its address right? See `dev-tools config show`.",
    )


def _wrong_key(base_url: str, key: SecretStr | None, key_setting: str, status: int) -> ModelRefused:
    what = "refuses the key in" if key else "wants a key, and there is none in"
    return ModelRefused(
        f"{base_url} {what} {key_setting} (HTTP {status}).",
        hint=f"Set {key_setting} to a key of this endpoint.",
    )


def _spellings(model: str) -> set[str]:
    """Names under which endpoints list `model`: Ollama adds a tag, Google a folder."""
    return {model, f"{model}:latest", f"models/{model}"}


def _quote(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
