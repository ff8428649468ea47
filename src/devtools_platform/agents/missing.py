"""The model of a runtime that has none: it says what is missing, and how to mend it, to whoever asks it."""

from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
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
