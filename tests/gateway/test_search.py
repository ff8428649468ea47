"""Finding a tool by what it does, with the real model; by words alone where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from devtools_platform.context.adapters.minilm import MiniLm
from devtools_platform.core.errors import Unavailable
from devtools_platform.gateway.meaning import Meanings
from devtools_platform.gateway.ranking import Index

pytestmark = pytest.mark.skipif(MiniLm().find_missing() is not None, reason="the extra `dense` is not installed")


@dataclass(frozen=True)
class Described:
    full: str
    description: str
    server: str = "x"
    schema: Any = None


TOOLS = (
    Described("x_image-delete", "Delete an image permanently."),
    Described("x_invoice-list", "List all invoices of the account."),
    Described("x_user-invite", "Invite somebody to join the organisation."),
    Described("x_clock", "Give the current time in a city."),
)


class Away:
    """An embedder whose model has gone."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise Unavailable("The model is away.")

    async def embed_query(self, text: str) -> list[float]:
        raise Unavailable("The model is away.")


async def test_a_tool_is_found_by_its_meaning() -> None:
    model = MiniLm()
    meanings, index = Meanings(model), Index(TOOLS)
    try:
        assert await meanings.closeness("get rid of that photo", TOOLS) is None, "nothing is embedded yet"
        await meanings.settled()
        for query, wanted in {
            "get rid of that photo": "x_image-delete",
            "what were we billed": "x_invoice-list",
            "onboard the freelancer": "x_user-invite",
        }.items():
            assert index.rank(query, 1) != [wanted], "words alone do not find it"
            assert index.rank(query, 1, await meanings.closeness(query, TOOLS)) == [wanted], query
    finally:
        await meanings.stop()
        await model.aclose()


async def test_without_a_model_words_decide() -> None:
    meanings = Meanings(Away())
    meanings.want(TOOLS)
    await meanings.settled()
    assert await meanings.closeness("invoices", TOOLS) is None
    assert Index(TOOLS).rank("invoices", 1, None) == ["x_invoice-list"]
    await meanings.stop()
