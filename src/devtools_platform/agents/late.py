"""A model whose endpoint can change while we run: a managed agent that is synced or given a new key meanwhile."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings


class LateModel(WrapperModel):
    """`find` gives the model as it is now, and raises `NoModel` while there is none; `stand_in` is never asked."""

    def __init__(self, stand_in: Model, find: Callable[[], Model]) -> None:
        super().__init__(stand_in)
        self._find = find

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return await self._find().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        opened = self._find().request_stream(messages, model_settings, model_request_parameters, run_context)
        async with opened as stream:
            yield stream
