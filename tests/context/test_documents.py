"""Documents and what tasks leave behind, on both stores and the real engine."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.app.team_memory import keep_learning
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.adapters.sql.documents import SqlDocuments
from devtools_platform.context.adapters.sql.task_memory import TaskMemory
from devtools_platform.context.library import Library
from devtools_platform.context.names import name_collection, name_memory
from devtools_platform.context.service import ContextService
from devtools_platform.context.tools import ContextTools
from devtools_platform.context.types import Document
from devtools_platform.core.errors import BadInput, Conflict, NotFound
from devtools_platform.core.tools import Caller
from devtools_platform.kit import schema

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TOKEN = "ghp_" + "a" * 36


def write(id_: str, text: str, title: str = "Title", **source: Any) -> Document:
    return Document(id_, "document", title, text, source, NOW)


@pytest.fixture(autouse=True)
def clean(database: sa.Engine) -> None:
    with database.begin() as connection:
        for table in (schema.documents, schema.artifacts, schema.approvals, schema.messages, schema.runs, schema.tasks):
            connection.execute(table.delete())


@pytest.fixture
async def service(engine: EdgeEngine, tmp_path: Path, database: sa.Engine) -> AsyncIterator[ContextService]:
    context = ContextService(engine, tmp_path / "data" / "manifests", documents=SqlDocuments(database))
    yield context
    await context.aclose()


@pytest.fixture
def library(service: ContextService) -> Library:
    return Library(service)


async def test_documents_are_found_replaced_and_forgotten(
    library: Library, service: ContextService, database: sa.Engine
):
    wiki = [write("setup.md", "Install the zebra daemon.", url="https://wiki/1"), write("ops.md", "Restart quagga.")]
    assert (await library.put("wiki", wiki)).files == 2
    (hit,) = [hit for hit in await service.search("wiki", "zebra daemon") if hit.path == "setup.md"]
    assert hit.source == {"url": "https://wiki/1"}
    assert "(document, from https://wiki/1, 2026-11-25)" in hit.text

    await library.put("wiki", [write("setup.md", "Install the okapi daemon.")])
    assert "zebra" not in str(await service.search("wiki", "zebra daemon"))
    assert [info.id for info in await library.list("wiki")] == ["ops.md", "setup.md"]

    await library.forget("wiki", "setup.md")
    assert await service.search("wiki", "okapi") == []
    with database.connect() as connection:
        assert "okapi" not in str(connection.execute(sa.select(schema.documents)).all()), "its words are gone for good"
    with pytest.raises(NotFound):
        await library.read("wiki", "setup.md")
    with pytest.raises(NotFound):
        await library.forget("wiki", "setup.md")
    await service.forget("wiki")
    assert not service.has("wiki")


async def test_secrets_in_documents_are_masked_before_they_are_stored(library: Library, database: sa.Engine):
    await library.put("wiki", [write("a.md", f"use {TOKEN} here", title=TOKEN, url=f"https://me:{TOKEN}@x")])
    with database.connect() as connection:
        assert "ghp_" not in str(connection.execute(sa.select(schema.documents)).all())
    assert "use *** here" in (await library.read("wiki", "a.md")).text


@pytest.mark.parametrize(
    "id_", ["../a.md", "/etc/passwd", "a//b", "a/../b", "", "node_modules/a.md", ".env", "x" * 201]
)
async def test_ids_that_would_not_be_indexed_are_refused(library: Library, id_: str):
    with pytest.raises(BadInput):
        await library.put("wiki", [write(id_, "text")])
    with pytest.raises(NotFound):
        await library.list("wiki")


async def test_documents_do_not_mix_with_a_repository_or_with_memory(
    library: Library, service: ContextService, tmp_path: Path, commit: Any
):
    commit(tmp_path / "repo", {"a.py": "x = 1\n"})
    await service.index("shop", tmp_path / "repo")
    with pytest.raises(Conflict):
        await library.put("shop", [write("a.md", "text")])
    with pytest.raises(BadInput):
        await library.put(name_memory("shop"), [write("a.md", "text")])


async def test_a_process_killed_between_storing_and_indexing_is_completed_at_the_next_start(
    library: Library, service: ContextService, engine: EdgeEngine, tmp_path: Path, database: sa.Engine
):
    await library.put("wiki", [write("a.md", "zebra"), write("b.md", "quagga")])
    await SqlDocuments(database).save("wiki", [write("c.md", "okapi")])
    await SqlDocuments(database).forget("wiki", "a.md")

    again = ContextService(engine, tmp_path / "data" / "manifests", documents=SqlDocuments(database))
    await again.resume_all()
    async with asyncio.timeout(10):
        while not (await again.freshness("wiki")).is_current:  # noqa: ASYNC110 - the run tells nobody
            await asyncio.sleep(0.01)
    assert await again.search("wiki", "zebra") == []
    assert [hit.path for hit in await again.search("wiki", "okapi")] == ["c.md"]
    await again.aclose()


REVIEW = {
    "verdict": "approve",
    "remark": "Fine.",
    "findings": [
        {"source": "ruff", "rule": "F401", "severity": "low", "path": "shop/tax.py", "line": 3, "message": "unused os",
         "is_blocking": False},
    ],
}  # fmt: skip


def end_task(database: sa.Engine, id_: str, repo: Path, **more: Any) -> None:
    """As the state part leaves a task that has ended."""
    row = {
        "id": id_, "text": "Round VAT half up\nas the law says", "repo": str(repo), "status": "completed",
        "message": "The change is on branch task/x.", "trace_id": "0", "workflow_id": id_, "base_commit": "b" * 40,
        "result": {"commits": ["c" * 40], "review": REVIEW, "tests": [{"stage": "final", "exit_code": 0}]},
        "ended_at": NOW, **more,
    }  # fmt: skip
    with database.begin() as connection:
        connection.execute(sa.insert(schema.tasks).values(row))


@pytest.fixture
def memory(database: sa.Engine) -> TaskMemory:
    return TaskMemory(database)


async def learn(memory: TaskMemory, library: Library) -> set[str]:
    collections = await memory.collect()
    for collection in collections:
        await library.refresh(collection)
    return collections


async def test_an_ended_task_is_remembered_once_with_where_it_comes_from(
    memory: TaskMemory, library: Library, service: ContextService, database: sa.Engine, tmp_path: Path
):
    collection = name_memory(name_collection(tmp_path / "shop"))
    end_task(database, "t1", tmp_path / "shop")
    with database.begin() as connection:
        asked = {"id": "t1-1", "task_id": "t1", "workflow_id": "t1", "kind": "plan", "agent": "orchestrator",
                 "arguments": {}, "preview": "", "rule": "r", "risk": "low", "environment": "test",
                 "status": "approved", "decided_by": "ana", "decided_at": NOW, "reason": "round per line, not per sum",
                 "expires_at": NOW}  # fmt: skip
        connection.execute(sa.insert(schema.approvals).values(asked))
        run = {"id": "t1/code-review/1", "task_id": "t1", "agent": "code-review", "n": 1, "status": "completed"}
        connection.execute(sa.insert(schema.runs).values(run))
        diff = {"id": "d", "task_id": "t1", "kind": "diff", "name": "d", "media_type": "text/x-diff", "size": 1,
                "sha256": "0", "content": b"--- a/shop/tax.py\n+++ b/shop/tax.py\n@@"}  # fmt: skip
        connection.execute(sa.insert(schema.artifacts).values(diff))

    assert await learn(memory, library) == {collection}
    assert await memory.collect() == set(), "nothing is left to do"

    found = {hit.path: hit for hit in await service.search(collection, "round VAT")}
    outcome, finding = found["tasks/t1.md"], found["findings/t1.md"]
    assert outcome.source is not None
    assert (outcome.source["task_id"], outcome.source["commit"]) == ("t1", "c" * 40)
    assert "Changed files: shop/tax.py" in outcome.text
    assert "ana approved the plan: round per line, not per sum" in found["decisions/t1.md"].text
    assert "shop/tax.py:3: unused os (ruff F401, low)" in finding.text
    assert finding.source is not None
    assert finding.source["run"] == "t1/code-review/1"


async def test_what_is_forgotten_is_not_learnt_again_even_after_a_retry(
    memory: TaskMemory, library: Library, service: ContextService, database: sa.Engine, tmp_path: Path
):
    collection = name_memory(name_collection(tmp_path / "shop"))
    end_task(database, "t1", tmp_path / "shop")
    await learn(memory, library)
    await library.forget(collection, "tasks/t1.md")
    with database.begin() as connection:
        connection.execute(sa.update(schema.tasks).values(attempt=2, result={"commits": [], "review": None}))

    assert await learn(memory, library) == {collection}
    assert [info.id for info in await library.list(collection)] == [], "and the old review's findings are gone"
    assert await memory.collect() == set()


async def test_a_retried_task_is_remembered_as_it_ended_last(
    memory: TaskMemory, library: Library, service: ContextService, database: sa.Engine, tmp_path: Path
):
    collection = name_memory(name_collection(tmp_path / "shop"))
    end_task(database, "t1", tmp_path / "shop", status="failed", reason="tests_failed", message="Two tests fail.")
    await learn(memory, library)
    assert "tests_failed" in (await library.read(collection, "tasks/t1.md")).text
    with database.begin() as connection:
        again = {
            "attempt": 2,
            "status": "completed",
            "reason": None,
            "message": "Done.",
            "ended_at": NOW + timedelta(1),
        }
        connection.execute(sa.update(schema.tasks).values(again))
    await learn(memory, library)
    assert "Ended: completed. Done." in (await library.read(collection, "tasks/t1.md")).text


@pytest.mark.parametrize("reason", ["no_model", "internal", "disk_full", "cancelled"])
async def test_troubles_of_machines_teach_nothing(memory: TaskMemory, database: sa.Engine, tmp_path: Path, reason: str):
    end_task(database, "t1", tmp_path, status="failed", reason=reason)
    assert await memory.collect() == set()


async def test_the_loop_learns_while_it_runs_and_lives_through_a_bad_moment(
    memory: TaskMemory, library: Library, service: ContextService, database: sa.Engine, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    calls: list[str] = []
    refresh = library.refresh

    async def refuse_once(collection: str) -> Any:
        calls.append(collection)
        if len(calls) == 1:
            raise RuntimeError("the engine was away")
        return await refresh(collection)

    monkeypatch.setattr(library, "refresh", refuse_once)
    end_task(database, "t1", tmp_path / "shop")
    loop = asyncio.create_task(keep_learning(memory, library, poll_s=0.01))
    collection = name_memory(name_collection(tmp_path / "shop"))
    async with asyncio.timeout(10):
        while not service.has(collection):  # noqa: ASYNC110 - the loop tells nobody
            await asyncio.sleep(0.01)
    loop.cancel()
    assert calls == [collection, collection]


async def test_agents_get_what_earlier_tasks_came_to_where_it_fits(
    memory: TaskMemory, library: Library, service: ContextService, database: sa.Engine, tmp_path: Path, commit: Any
):
    repo = tmp_path / "shop"
    commit(repo, {"tax.py": "def round_vat(net):\n    return round(net)\n"})
    own = name_collection(repo)
    await service.index(own, repo)
    end_task(database, "t1", repo)
    await learn(memory, library)

    async def collection_of(caller: Caller) -> str | None:
        return own if caller.task_id == "t2" else None

    tools = ContextTools(service, collection_of)
    fitting = await tools.call("search", {"query": "round VAT half up"}, Caller("t2", "feature-dev"))
    assert [hit["path"] for hit in fitting.data["hits"]] == ["tax.py"]
    assert "tasks/t1.md" in [hit["path"] for hit in fitting.data["memory"]]
    assert "# From earlier tasks in this repository" in fitting.text
    other = await tools.call("search", {"query": "round trip of a database connection"}, Caller("t2", "feature-dev"))
    assert "memory" not in other.data
    asked = await tools.call("search", {"query": "VAT", "collection": name_memory(own)}, Caller("t2", "feature-dev"))
    assert asked.data["hits"][0]["source"]["task_id"] == "t1"
