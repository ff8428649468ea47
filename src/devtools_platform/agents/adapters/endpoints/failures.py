"""What went wrong with a model call, whether trying again can help, and how to say it to a person.

Every error is first read into one `Failure`; both answers follow from its kind. Errors that did not come from
an endpoint (a bug, a run's own limits) are none of ours: they are never retried and never explained away.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import httpx2
import openai
from pydantic_ai import exceptions as ai

from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint
from devtools_platform.core.errors import DevToolsError, ModelRefused, Unavailable
from devtools_platform.core.redact import redact_text

Kind = Literal[
    "key",
    "model",
    "quota",
    "too_long",
    "rejected",
    "filtered",
    "unusable",
    "rate",
    "busy",
    "server",
    "unreachable",
    "timeout",
    "broken",
]

WAITS_S: Mapping[Kind, float] = {
    "rate": 5.0,
    "busy": 3.0,
    "server": 2.0,
    "unreachable": 1.0,
    "timeout": 1.0,
    "broken": 1.0,
}
"""The kinds that may pass by themselves, and how long to give them when the endpoint does not say."""

SHORTEST_WAIT_S = 0.1
MAX_DETAIL = 300

# Order matters: a class stands before its bases.
_KINDS: tuple[tuple[type[Exception], Kind], ...] = (
    (ai.ModelQuotaExceededError, "quota"),
    (ai.ModelContextWindowExceededError, "too_long"),
    (ai.ModelAuthenticationError, "key"),
    (ai.ModelNotFoundError, "model"),
    (ai.ModelRequestRejectedError, "rejected"),
    (ai.ModelRateLimitError, "rate"),
    (ai.ModelUnavailableError, "busy"),
    (ai.ModelServerError, "server"),
    (ai.ModelTimeoutError, "timeout"),
    (ai.ModelRequestTimeout, "timeout"),
    (ai.ModelConnectionError, "unreachable"),
    (ai.ContentFilterError, "filtered"),
    (openai.APITimeoutError, "timeout"),
    (openai.APIConnectionError, "unreachable"),
    (openai.APIError, "broken"),
    (httpx2.UnsupportedProtocol, "rejected"),
    (httpx2.TimeoutException, "timeout"),
    (httpx2.TransportError, "unreachable"),
    (httpx2.DecodingError, "broken"),
    (json.JSONDecodeError, "broken"),
    (TimeoutError, "timeout"),
)

_STATUSES: Mapping[int, Kind] = {
    401: "key",
    402: "quota",
    403: "key",
    404: "model",
    408: "timeout",
    409: "busy",
    425: "busy",
    429: "rate",
    503: "busy",
    529: "busy",
}
_SERVER_ERROR = 500
_CODES: Mapping[str | None, Kind] = {
    "insufficient_quota": "quota",
    "billing_hard_limit_reached": "quota",
    "credit_balance_exhausted": "quota",
    "context_length_exceeded": "too_long",
}
"""OpenAI's codes that say more than their status."""


@dataclass(frozen=True)
class Failure:
    """One failed call. `wait_s` is what the endpoint asked for."""

    kind: Kind
    detail: str
    wait_s: float | None = None


def is_retryable(error: BaseException) -> float | None:
    """Seconds to wait before trying again, or None when it would not help. Never 0: test it for truth.

    What the endpoint asks for (`Retry-After`) counts and can be long: whether it is worth waiting is for the
    caller to say. Otherwise it is the first wait of the kind; making later ones longer is the caller's too.
    """
    failure = read_failure(error)
    if failure is None or failure.kind not in WAITS_S:
        return None
    wait = WAITS_S[failure.kind] if failure.wait_s is None else failure.wait_s
    return max(wait, SHORTEST_WAIT_S)


def explain(error: Exception, endpoint: Endpoint | None = None) -> DevToolsError:
    """The error as a person should read it. An error that is not a model call's is raised again as it is."""
    if isinstance(error, DevToolsError):
        return error
    failure = read_failure(error)
    if failure is None:
        raise error
    who = f"The model endpoint {endpoint.base_url}" if endpoint and endpoint.base_url else "The model endpoint"
    what, hint = _words(failure.kind, endpoint)
    message = f"{who} {what}: {failure.detail}"
    cls = Unavailable if failure.kind in WAITS_S or failure.kind == "unusable" else ModelRefused
    return cls(message if message.endswith(".") else message + ".", hint=hint)


def _words(kind: Kind, endpoint: Endpoint | None) -> tuple[str, str]:
    key = endpoint.key_setting if endpoint else "DEV_TOOLS_MODEL_API_KEY or GRADIENT_MODEL_ACCESS_KEY"
    model = f"the model {endpoint.model!r}" if endpoint else "the model"
    later = "Try the task again later, or choose another endpoint (DEV_TOOLS_MODEL_BASE_URL)."
    slow = "Is it overloaded? DEV_TOOLS_MODEL_TIMEOUT_S gives it more time."
    words: Mapping[Kind, tuple[str, str]] = {
        "key": ("refuses the key", f"Set {key} to a valid key that may use {model}."),
        "model": (f"does not know {model}", "Run `dev-tools doctor`; set DEV_TOOLS_MODEL to one it serves."),
        "quota": ("says the quota is used up", "Raise the quota or the budget of the key's account."),
        "too_long": (
            "says the conversation is too long",
            "Use a model with a longer context, or split the task.",
        ),
        "rejected": ("rejects the request", "Does the model call tools? Try another DEV_TOOLS_MODEL."),
        "filtered": ("filtered the answer", "Rephrase the task, or use another model."),
        "unusable": ("gives answers that cannot be used", "Try a stronger DEV_TOOLS_MODEL."),
        "rate": ("limits how often it may be called", later),
        "busy": ("is too busy", later),
        "server": ("failed", later),
        "unreachable": ("cannot be reached, or hung up", "Is it running? Run `dev-tools doctor`."),
        "timeout": ("did not answer in time", slow),
        "broken": ("gave a broken answer", later),
    }
    return words[kind]


def read_failure(error: BaseException) -> Failure | None:
    """What `error` says about the endpoint, or None when it does not come from one."""
    if isinstance(error, openai.APIStatusError):
        return _read_http(_as_http_error(error.response, error.body, error.code))
    if isinstance(error, httpx2.HTTPStatusError):
        return _read_http(_as_http_error(error.response, None, None))
    if isinstance(error, ai.ModelHTTPError):
        return _read_http(error)
    kind = _kind_of(error)
    return Failure(kind, _shorten(str(error) or type(error).__name__)) if kind else None


def _kind_of(error: BaseException) -> Kind | None:
    if isinstance(error, ai.RunCancelled):
        return None  # a run's own deadline is a TimeoutError too
    if kind := _kind_of_class(error):
        return kind
    if isinstance(error, ai.UnexpectedModelBehavior):
        # pydantic-ai has one class for an endpoint's malformed answer and for a model that will not follow.
        return "broken" if error.message.startswith("Invalid response from") else "unusable"
    # Said of bodies that do not decode and of streams that end early.
    return "broken" if isinstance(error, ai.ModelAPIError) else None


def _kind_of_class(error: BaseException) -> Kind | None:
    for cls, kind in _KINDS:
        if isinstance(error, cls):
            return kind
    return None


def _read_http(error: ai.ModelHTTPError) -> Failure:
    kind = _kind_of_status(error)
    if kind in WAITS_S and error.provider_retry_hint is False:
        kind = "rejected"  # the endpoint itself says that trying again is no use
    return Failure(kind, f"HTTP {error.status_code}, {_body_message(error)}", error.retry_after)


def _kind_of_status(error: ai.ModelHTTPError) -> Kind:
    if kind := _kind_of_class(error) or _CODES.get(error.provider_error_code):
        return kind
    return _STATUSES.get(error.status_code, "server" if error.status_code >= _SERVER_ERROR else "rejected")


def _as_http_error(response: httpx2.Response, body: object, code: str | None) -> ai.ModelHTTPError:
    """pydantic-ai's error knows how to read Retry-After in all its forms."""
    return ai.ModelHTTPError(response.status_code, "", body, headers=response.headers, provider_error_code=code)


def _body_message(error: ai.ModelHTTPError) -> str:
    match error.body:
        case {"message": str() as message}:
            return _shorten(message)
        case body:
            return _shorten(str(body or "no reason given"))


def _shorten(text: str) -> str:
    """Endpoints like to repeat the key they were given, and whole web pages."""
    text = " ".join(redact_text(text).split())
    return text if len(text) <= MAX_DETAIL else text[:MAX_DETAIL] + "…"
