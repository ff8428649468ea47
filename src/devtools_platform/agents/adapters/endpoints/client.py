"""A pydantic-ai model for an endpoint: one attempt a call, every call bounded, nothing set from elsewhere.

What a request costs here was measured (`bench/agents.py`): two of the libraries' habits made most of it, and both grow
with what is sent again and again, the tools and the history. So neither is done twice: see `_ChatModel` and `_AsIs`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import httpx2
from openai import AsyncOpenAI, Omit, omit
from openai.resources.chat import AsyncChat, AsyncCompletions
from openai.types.chat import ChatCompletion
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider
from pydantic_ai.tools import ToolDefinition

from devtools_platform.agents.adapters.endpoints.endpoint import Endpoint, is_loopback
from devtools_platform.kit.tls import tls_context

CONNECT_TIMEOUT_S = 10.0
NO_KEY = "no-key"
"""Sent where there is no key: the SDK insists on one, and servers without keys ignore it."""
KNOWN_FORMS = 8
"""How many forms of one tool are remembered: as it is listed, as it was rewritten, and those of a change meanwhile."""


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
    """Rewrites the schema of a tool once: an agent's tools are the same in each of its requests."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._customized: dict[str, list[tuple[ToolDefinition, ToolDefinition]]] = {}

    def customize_request_parameters(self, model_request_parameters: ModelRequestParameters) -> ModelRequestParameters:
        given = model_request_parameters
        bare = super().customize_request_parameters(replace(given, function_tools=[], output_tools=[]))
        tools, outputs = ([self._customize(tool) for tool in of] for of in (given.function_tools, given.output_tools))
        return replace(bare, function_tools=tools, output_tools=outputs)

    def _customize(self, tool: ToolDefinition) -> ToolDefinition:
        # By value: comparing costs a tenth of rewriting, and what is listed anew is equal to what was listed before.
        known = self._customized.setdefault(tool.name, [])
        for seen, customized in known:
            if seen == tool:
                return customized
        made = super().customize_request_parameters(ModelRequestParameters(function_tools=[tool])).function_tools[0]
        known.append((tool, made))
        del known[:-KNOWN_FORMS]
        return made

    def _validate_completion(self, response: ChatCompletion) -> Any:
        # pydantic-ai takes the first choice unseen: an IndexError, which could as well be a bug of ours.
        if not response.choices:
            raise ModelAPIError(self.model_name, "The answer has no choices")
        return super()._validate_completion(response)


class _AsIs(AsyncCompletions):
    """Sends messages and tools as they are given: JSON already.

    The SDK walks through every value of them beside its type hints, for names and formats that chat completions do not
    have. With a history of 35 tool calls that is most of a request's CPU.
    """

    async def create(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        messages: Iterable[Any],
        tools: Iterable[Any] | Omit = omit,
        extra_body: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Any:
        body: dict[str, Any] = {"messages": messages}
        if not isinstance(tools, Omit):
            body["tools"] = tools
        return await super().create(messages=(), extra_body={**body, **(extra_body or {})}, **more)  # pyright: ignore[reportUnknownVariableType]


class _Chat(AsyncChat):
    @cached_property
    def completions(self) -> AsyncCompletions:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _AsIs(self._client)


class _Client(AsyncOpenAI):
    @cached_property
    def chat(self) -> AsyncChat:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Chat(self)


def _build_client(endpoint: Endpoint, base_url: str, timeout_s: float) -> AsyncOpenAI:
    timeout = httpx2.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
    client = _Client(
        base_url=base_url,
        api_key=endpoint.api_key.get_secret_value() if endpoint.api_key else NO_KEY,
        max_retries=0,
        timeout=timeout,
        default_query=endpoint.query or None,
        http_client=httpx2.AsyncClient(
            verify=tls_context(),
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
