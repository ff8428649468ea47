"""The model of a runtime that has none: it says what is missing, and how to mend it, to whoever asks it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings

from devtools_platform.core.errors import NoModel


class MissingModel(Model[Any]):
    """Raises `NoModel` when it is asked."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__()
        self._why = why
        self._hint = hint

    @property
    def model_name(self) -> str:
        return "none"

    @property
    def system(self) -> str:
        return "none"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        raise NoModel(self._why, hint=self._hint)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        raise NoModel(self._why, hint=self._hint)
        yield cast("StreamedResponse", None)  # makes it the generator it has to be
