"""A caller sees the collections its token opens, over HTTP and through the gateway's tools, and no others."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from devtools_platform.app.context_readers import readers_of
from devtools_platform.context.access import access_of
from devtools_platform.context.api import build_api
from devtools_platform.context.service import ContextService
from devtools_platform.context.tools import ContextTools
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.identity import Identity
from devtools_platform.kit.tokens import issue_run_token

OPERATOR = "the-stacks-token"
SECRET = "s" * 32


@pytest.fixture
def identity() -> Identity:
    return Identity(SECRET)


@pytest.fixture
async def http(service: ContextService, identity: Identity, tmp_path: Path, commit: Any) -> AsyncIterator[AsyncClient]:
    for name in ("shop", "bank"):
        commit(tmp_path / name, {f"{name}.py": f"def open_{name}():\n    return 1\n"})
        await service.index(name, tmp_path / name)
    transport = ASGITransport(build_api(service, OPERATOR, readers_of(identity)))
    async with AsyncClient(transport=transport, base_url="http://context") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_two_tokens_see_their_own_collections_over_http(http: AsyncClient, identity: Identity):
    _, ana = await identity.create("ana", scopes=["context:shop*"])
    _, bob = await identity.create("bob", scopes=["context:bank", "tools:git_*"])
    for token, own, other in ((ana, "shop", "bank"), (bob, "bank", "shop")):
        assert (await http.get("/collections", headers=bearer(token))).json() == [own]
        found = await http.get(f"/collections/{own}/search?q=open", headers=bearer(token))
        assert [hit["path"] for hit in found.json()] == [f"{own}.py"]
        unknown = await http.get("/collections/nowhere", headers=bearer(token))
        for path in ("", "/search?q=open", "/outline?path=a", "/map", "/freshness", "/events", "/documents"):
            refused = await http.get(f"/collections/{other}{path}", headers=bearer(token))
            assert refused.status_code == 404, path
            assert refused.json()["message"].replace(other, "nowhere") == unknown.json()["message"], "no oracle"
    assert (await http.get("/collections", headers=bearer(OPERATOR))).json() == ["bank", "shop"]


async def test_a_reader_changes_nothing(http: AsyncClient, identity: Identity, tmp_path: Path):
    _, token = await identity.create("all", scopes=["context:*"])
    document = {"documents": [{"id": "a.md", "title": "a", "text": "a"}]}
    calls = [
        http.post("/collections", json={"repo": str(tmp_path / "shop")}, headers=bearer(token)),
        http.delete("/collections/shop", headers=bearer(token)),
        http.put("/collections/wiki/documents", json=document, headers=bearer(token)),
        http.delete("/collections/wiki/documents/a.md", headers=bearer(token)),
    ]
    for call in calls:
        response = await call
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    assert (await http.get("/collections", headers=bearer(OPERATOR))).json() == ["bank", "shop"]


async def test_a_token_that_opens_nothing_sees_nothing(http: AsyncClient, identity: Identity):
    _, toolish = await identity.create("tools", scopes=["tools:*"])
    run = issue_run_token(SECRET, Caller("task-1", "feature-dev"))
    for token in (toolish, run):
        assert (await http.get("/collections", headers=bearer(token))).json() == []
        assert (await http.get("/collections/shop", headers=bearer(token))).status_code == 404


async def test_a_token_that_is_not_valid_is_not_let_in(http: AsyncClient, identity: Identity):
    record, token = await identity.create("gone", scopes=["context:*"])
    assert (await http.get("/collections", headers=bearer(token))).status_code == 200
    await identity.revoke(record.id)
    for refused in (token, "dtg_guess", issue_run_token("x" * 32, Caller("t", "feature-dev")), ""):
        assert (await http.get("/collections", headers=bearer(refused))).status_code == 401


async def test_two_tokens_see_their_own_collections_through_the_tools(http: AsyncClient, service: ContextService):
    async def collection_of(caller: Caller) -> str | None:
        return "bank" if caller.task_id == "task-1" else None

    tools = ContextTools(service, collection_of)
    ana, bob = Caller("token:1", "person", collections=("shop*",)), Caller("token:2", "person")
    agent = Caller("task-1", "feature-dev")
    calls: list[tuple[Caller, dict[str, Any], str]] = [
        (ana, {"collection": "shop"}, "shop.py"),
        (ana, {"collection": "bank"}, "Collection 'bank' is not indexed."),
        (ana, {}, "Say in which `collection`."),
        (bob, {"collection": "shop"}, "Collection 'shop' is not indexed."),
        (agent, {}, "bank.py"),
        (agent, {"collection": "bank"}, "bank.py"),
        (agent, {"collection": "shop"}, "Collection 'shop' is not indexed."),
    ]
    for caller, where, said in calls:
        assert said in (await tools.call("search", {"query": "open", **where}, caller)).text, (caller, where)
        for name, rest in (("symbol", {"name": "open_shop"}), ("outline", {"path": "shop.py"}), ("repo_map", {})):
            result = await tools.call(name, {**rest, **where}, caller)
            assert result.is_error or not said.startswith("Collection"), (name, caller)
    hint = (await tools.call("search", {"query": "open"}, ana)).data["hint"]
    assert (hint, "bank" in hint) == ("Your token opens: shop.", False)


async def test_scopes_of_named_tokens_reach_the_tools(identity: Identity):
    _, token = await identity.create("ana", scopes=["tools:context_*", "context:shop-*"])
    assert identity.verify(f"Bearer {token}".encode()).caller.collections == ("shop-*",)
    with pytest.raises(BadInput, match="scopes"):
        await identity.create("x", scopes=["collections:*"])


def test_a_task_sees_its_repository_and_its_memory_and_no_pattern_of_it():
    access = access_of(Caller("t", "feature-dev"), "shop-1")
    assert [access.sees(name) for name in ("shop-1", "shop-1.memory", "shop-12", "bank-1")] == [
        True,
        True,
        False,
        False,
    ]
