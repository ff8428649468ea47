"""Which models there are: for managed agents, in the catalogue with prices, and at serverless inference."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from devtools_platform.kit.digitalocean.errors import NotThere
from devtools_platform.kit.digitalocean.transport import Transport
from devtools_platform.kit.digitalocean.types import (
    CatalogueListing,
    CatalogueModel,
    Model,
    ModelListing,
    ServedListing,
)

MODELS = "/v2/gen-ai/models"
GONE = ("retired", "deprecated", "end_of_life", "eol")
"""Lifecycle states after which DigitalOcean answers 404; it gives 14 days' notice."""


@dataclass(frozen=True)
class Models:
    transport: Transport

    async def list_all(self) -> list[Model]:
        """Those a managed agent can run on."""
        params = {"usecases": "MODEL_USECASE_AGENT"}
        return [model async for page in self.transport.pages(MODELS, ModelListing, params) for model in page.models]

    async def find(self, name: str) -> Model:
        """The model a person means by `name`: its identifier, or its name as shown. Raises `NotThere`."""
        models = await self.list_all()
        for model in models:
            if model.uuid and name.casefold() in {(model.id or "").casefold(), (model.name or "").casefold()}:
                return model
        raise _unknown(name, [model.id or model.name or "" for model in models])

    async def catalogue(self) -> list[CatalogueModel]:
        """All models with their prices, as they are now."""
        pages = self.transport.pages(f"{MODELS}/catalog", CatalogueListing, size="limit")
        return [model async for page in pages for model in page.data]

    async def list_served(self) -> list[str]:
        """The names serverless inference answers to. For a client whose address is the inference service's."""
        return [model.id for model in (await self.transport.read(ServedListing, "/v1/models")).data]


def _unknown(name: str, known: Sequence[str]) -> NotThere:
    near = get_close_matches(name, known, n=3, cutoff=0.3) or list(known[:3])
    listed = ", ".join(map(repr, near)) or "none"
    return NotThere(
        f"DigitalOcean has no model {name!r} for managed agents. Nearest of its {len(known)}: {listed}.",
        hint="Name one of them as `model` in your environments file.",
    )
