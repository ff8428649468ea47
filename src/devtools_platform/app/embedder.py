"""Which model gives vectors, as the settings say. Apart from the search engines, which bring much with them."""

from collections.abc import Callable

from devtools_platform.config import Settings
from devtools_platform.context.adapters.minilm import MiniLm
from devtools_platform.context.interfaces import Embedder
from devtools_platform.core.errors import BadInput

Tell = Callable[[str, str], None]


def choose_embedder(settings: Settings, tell: Tell) -> Embedder | None:
    """None for search by words only; that it comes to that is told. Raises `BadInput` for half an endpoint."""
    if settings.embeddings == "endpoint":
        return _connect(settings)
    if settings.embeddings == "none":
        return None
    model = MiniLm()
    if missing := model.find_missing():
        tell("context", f"search by words only: {missing}")
        return None
    return model


def _connect(settings: Settings) -> Embedder:
    from devtools_platform.context.adapters.openai_embeddings import EndpointEmbedder

    url, model, size = settings.embedding_base_url, settings.embedding_model, settings.embedding_size
    if url is None or model is None or size is None:
        raise BadInput(
            "DEV_TOOLS_EMBEDDINGS=endpoint needs an endpoint.",
            hint="Set DEV_TOOLS_EMBEDDING_BASE_URL, DEV_TOOLS_EMBEDDING_MODEL and DEV_TOOLS_EMBEDDING_SIZE.",
        )
    key = settings.embedding_api_key
    return EndpointEmbedder(url, model, size, key.get_secret_value() if key else None)
