"""A model whose endpoint can change while we run: a managed agent that is synced or given a new key meanwhile."""

from collections.abc import Callable

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters
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
