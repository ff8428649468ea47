"""Names of asynchronous twins, and that they are found by what they do."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from devtools_platform.context.service import ContextService
from devtools_platform.context.twins import list_hidden_words, take_apart
from devtools_platform.context.types import Chunk
from devtools_platform.context.vectors import get_text

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]


@pytest.mark.parametrize(
    ("name", "apart", "hidden"),
    [
        ("acancel_run", "async_cancel_run", "async cancel"),
        ("Crew.akickoff", "Crew.async_kickoff", "async kickoff"),
        ("Crew._aget_or_create", "Crew._async_get_or_create", "async get"),
        ("acall.inner", "acall.inner", ""),
        *(
            (name, name, "")
            for name in ("", "add", "Cart.apply", "await_end", "asset", "account", "aGet", "ainvoked", "a")
        ),
    ],
)
def test_the_name_of_an_asynchronous_twin_is_taken_apart(name: str, apart: str, hidden: str):
    assert (take_apart(name), list_hidden_words(name)) == (apart, hidden)


RUNS = {
    "runs.py": """
class Runs:
    def cancel(self, run): self.backend.put(run, "stop")

    async def acancel(self, run): await self.backend.put(run, "stop")
""",
    "jobs.py": "async def astart(job): await backend.put(job)\n",
}


async def test_an_asynchronous_twin_is_found_by_what_it_does(service: ContextService, tmp_path: Path, commit: Commit):
    commit(tmp_path / "runs", RUNS)
    await service.index("runs", tmp_path / "runs")

    async def find(query: str) -> list[str]:
        return [hit.name for hit in await service.search("runs", query)]

    assert (await find("start a job"))[0] == "astart"
    assert (await find("cancel runs, async"))[:2] == ["Runs.acancel", "Runs.cancel"]
    assert (await find("cancel runs"))[:2] == ["Runs.cancel", "Runs.acancel"]
    assert (await find("Runs.acancel"))[0] == "Runs.acancel"


def test_the_model_is_given_words_it_knows():
    text = get_text(Chunk("runs.py", 1, 1, "method", "Runs.acancel", "await put(run)"), reads_code=False)
    assert text == "async cancel. runs py method runs async cancel. put run"
