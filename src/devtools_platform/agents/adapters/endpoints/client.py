"""A pydantic-ai model for an endpoint: one attempt a call, every call bounded, nothing set from elsewhere."""

from typing import Any

import httpx2
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint, is_loopback

CONNECT_TIMEOUT_S = 10.0
NO_KEY = "no-key"
"""Sent where there is no key: the SDK insists on one, and servers without keys ignore it."""


def build_model(endpoint: Endpoint, *, timeout_s: float) -> OpenAIChatModel:
    """The model behind `endpoint`. A call ends within `timeout_s`, streamed or not, and is tried once.

    `endpoint.base_url` must be set: an embedded model is built once its server listens.
    """
    if endpoint.base_url is None:
        raise ValueError(f"The {endpoint.provider} model has no address to call.")
    return _ChatModel(
        endpoint.model,
        # Not `OpenAIProvider`, which assumes what only OpenAI's own API can do.
        provider=OpenAICompatibleProvider(
            endpoint.provider,
            openai_client=_build_client(endpoint, endpoint.base_url, timeout_s),
            # Without this a stream that was cut off passes for a whole answer.
            profile=OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True),
        ),
        # The client's own timeout starts anew with every byte; this one is the whole call's.
        settings=OpenAIChatModelSettings(request_timeout=timeout_s),
    )


class _ChatModel(OpenAIChatModel):
    def _validate_completion(self, response: ChatCompletion) -> Any:
        # pydantic-ai takes the first choice unseen: an IndexError, which could as well be a bug of ours.
        if not response.choices:
            raise ModelAPIError(self.model_name, "The answer has no choices")
        return super()._validate_completion(response)


def _build_client(endpoint: Endpoint, base_url: str, timeout_s: float) -> AsyncOpenAI:
    timeout = httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
    client = AsyncOpenAI(
        base_url=base_url,
        api_key=endpoint.api_key.get_secret_value() if endpoint.api_key else NO_KEY,
        max_retries=0,
        timeout=timeout,
        default_query=endpoint.query or None,
        http_client=httpx2.AsyncClient(
            timeout=timeout,
            # A model takes seconds to answer, so a kept connection saves nothing; and one that went stale, or
            # that belongs to another event loop, would look like a failing endpoint.
            limits=httpx2.Limits(max_keepalive_connections=0),
            trust_env=not is_loopback(base_url),
        ),
    )
    # The SDK reads these from the environment and would send them to whoever serves the model.
    client.organization = None
    client.project = None
    return client
