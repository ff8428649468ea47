"""The views about the stack: gateway, knowledge, spend, health, audit, settings; empty, full and hostile."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest

from console.memory import NOON, empty_spending
from console.test_pages import HOSTILE, csrf_of, text_of
from devtools_platform.console.charts import HEIGHT, day_bars
from devtools_platform.console.types import (
    Chain,
    Collection,
    Found,
    GatewayTool,
    HeldTool,
    Server,
    Spending,
    Spent,
    ToolCall,
)

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


def tool(name: str = "files_read", *, is_read_only: bool = True, **more: Any) -> GatewayTool:
    given = {"server": "files", "description": "Reads.", "decision": "allow", "input_schema": SCHEMA}
    return GatewayTool(name=name, is_read_only=is_read_only, **(given | {"agents": ("cicd",)} | more))


def collection(**more: Any) -> Collection:
    given = {
        "name": "shop-1",
        "repo": "/srv/shop",
        "commit": "0123456789abcdef",
        "files": 5,
        "chunks": 13,
        "indexed_at": NOON,
        "is_indexing": False,
        "files_done": None,
        "files_total": None,
        "error": None,
        "is_watched": False,
        "without_vector": None,
        "changed": 0,
    }
    return Collection(**(given | more))


async def test_the_gateway_shows_servers_tools_agents_and_calls(browser, desks):
    desks.server_list = [Server("files", "command", "down", 1, 2, "There is no program.", "2025-11-25", 3)]
    desks.tool_list = [tool()]
    desks.call_list = [ToolCall(NOON, "files_read", "run", "cicd", "t1", '{"path":"a"}', "denied", 0.25)]
    words = text_of((await browser.get("/gateway")).text)
    assert "files down There is no program. command 1 2 2025-11-25" in words
    assert "files_read Reads. cicd" in words
    assert re.search(r"files_read \{.*a.*\} cicd t1 Denied 250 ms", words)


async def test_a_tool_is_tried_with_the_arguments_a_person_typed(browser, desks):
    desks.tool_list = [tool()]
    page = (await browser.get("/gateway/tools/files_read")).text
    assert "&#34;path&#34;: &#34;&#34;" in page, "starts from what is required"
    form = {"csrf": csrf_of(page), "arguments": '{"path": "README.md"}'}
    words = text_of((await browser.post("/gateway/tools/files_read/call", data=form)).text)
    assert "Answer Done took 250 ms called with {&#39;path&#39;: &#39;README.md&#39;}" in words
    assert ("owner", "tool.call", "files_read") in desks.recorded


async def test_a_tool_that_changes_something_needs_a_second_yes(browser, desks):
    desks.tool_list = [tool("files_drop", is_read_only=False)]
    form = {"csrf": csrf_of((await browser.get("/gateway/tools/files_drop")).text), "arguments": "{}"}
    first = await browser.post("/gateway/tools/files_drop/call", data=form)
    assert "Nothing was called yet." in first.text
    assert ("owner", "tool.call", "files_drop") not in desks.recorded
    await browser.post("/gateway/tools/files_drop/call", data=form | {"confirmed": "yes"})
    assert ("owner", "tool.call", "files_drop") in desks.recorded


@pytest.mark.parametrize("arguments", ["{", "[]", '"x"'])
async def test_arguments_that_are_no_object_are_refused_and_kept(browser, desks, arguments):
    desks.tool_list = [tool()]
    form = {"csrf": csrf_of((await browser.get("/gateway/tools/files_read")).text), "arguments": arguments}
    answer = await browser.post("/gateway/tools/files_read/call", data=form)
    assert answer.status_code == 422
    typed = arguments.replace('"', "&#34;")
    assert f">\n{typed}</textarea>" in answer.text


async def test_an_unknown_tool_has_a_page_that_says_so(browser):
    assert (await browser.get("/gateway/tools/none")).status_code == 404


async def test_a_tool_leaves_quarantine_as_the_definition_that_was_looked_at(browser, desks):
    desks.held = [HeldTool("mail", "send", "New.", "a" * 64, "Sends.", ("description: tells the model to lie",))]
    page = (await browser.get("/gateway")).text
    assert "description: tells the model to lie" in page
    form = {"csrf": csrf_of(page), "server": "mail", "tool": "send", "digest": "b" * 64, "findings": "accept"}
    assert (await browser.post("/gateway/quarantine/approve", data=form)).status_code == 422
    form["digest"] = "a" * 64
    assert (await browser.post("/gateway/quarantine/approve", data=form)).status_code == 303
    assert desks.held == []


async def test_knowledge_says_how_fresh_it_is_and_why_it_found_something(browser, desks):
    desks.collection_list = [collection(changed=3), collection(name="b", changed=None, error="git failed")]
    desks.hits = [Found("a.py", 1, 9, "total", "function", 0.91234, ("text", "name total"), "def total", True)]
    words = text_of((await browser.get("/knowledge?q=total")).text)
    assert "a.py:1-9 total function score 0.912 why text name total File has changed since" in words
    assert "shop-1 3 changed /srv/shop" in words
    assert "b Failed /srv/shop git failed" in words
    assert "none: search by words" in words


async def test_a_search_in_a_collection_that_is_none_says_so(browser, desks):
    desks.collection_list = [collection()]
    answer = await browser.get("/knowledge?q=x&collection=none")
    assert (answer.status_code, "is not indexed" in answer.text) == (404, True)


async def test_indexing_takes_an_absolute_path_only(browser, desks):
    csrf = csrf_of((await browser.get("/knowledge")).text)
    assert (await browser.post("/knowledge", data={"csrf": csrf, "repo": "shop"})).status_code == 422
    assert (await browser.post("/knowledge", data={"csrf": csrf, "repo": "/srv/shop"})).status_code == 303
    assert desks.recorded[-1] == ("owner", "collection.index", "/srv/shop")


def spending(cost: float | None, unpriced: int) -> Spending:
    one = Spent("cicd", 4, 1, 1200, 30, cost, unpriced)
    return Spending(2, one, [one], [one], [one], [Spent("2026-11-22", 0, 0, 0, 0, None, 0), one])


@pytest.mark.parametrize(
    ("cost", "unpriced", "words"),
    [
        (0.25, 0, "Cost $0.2500 Model calls 4"),
        (0.25, 1, "Cost at least $0.2500 Model calls 4"),
        (None, 3, "Cost unknown Model calls 4"),
    ],
)
async def test_spend_never_shows_an_unknown_price_as_a_figure(browser, desks, cost, unpriced, words):
    desks.spent = spending(cost, unpriced)
    page = text_of((await browser.get("/spend")).text)
    assert words in page
    assert ("have no known price" in page) == bool(unpriced)
    assert ("Cost a day" in page) == (cost is not None)


async def test_spend_without_calls_names_the_next_command(browser, desks):
    desks.spent = empty_spending(30)
    assert "No model was called in these days." in (await browser.get("/spend")).text
    assert (await browser.get("/spend?days=0")).status_code == 422


def test_the_largest_day_fills_the_chart_and_an_empty_one_has_no_height():
    bars = day_bars(spending(None, 1).by_day, by_cost=False)
    assert [bar.height for bar in bars] == [0.0, HEIGHT]
    assert all(bar.y + bar.height == HEIGHT for bar in bars)
    assert [bar.height for bar in day_bars(empty_spending(3).by_day, by_cost=True)] == [0.0, 0.0, 0.0]


async def test_health_runs_the_doctor_only_when_asked(browser):
    assert "Install git." not in (await browser.get("/checks")).text
    words = text_of((await browser.get("/checks?doctor=yes")).text)
    assert "Missing git not on PATH Install git." in words
    assert "w1 alive host tasks, agents 2" in words


async def test_the_audit_says_who_did_what_and_whether_the_chain_holds(browser, desks):
    words = text_of((await browser.get("/audit")).text)
    assert "owner console.login console" in words
    desks.chain = Chain(7, "e" * 64, 5, "Entry 5 was changed, or the one before it was.")
    assert "Entry 5 was changed" in (await browser.get("/audit?verify=yes")).text
    desks.chain = Chain(7, "e" * 64, None, "")
    assert "All 7 entries are there" in (await browser.get("/audit?verify=yes")).text


async def test_settings_show_that_a_secret_is_set_and_never_what_it_is(browser):
    page = (await browser.get("/settings")).text
    words = text_of(page)
    assert "DEV_TOOLS_MODEL_API_KEY Key. set DEV_TOOLS_MODEL_API_KEY" in words
    assert "***" not in page
    assert "DEV_TOOLS_HOST 127.0.0.1 default" in words


async def test_chosen_tasks_are_cancelled_and_ended_ones_left_alone(browser, tasks):
    for id_ in ("t1", "t2", "t3"):
        tasks.add(id_)
    await tasks.end("t2", status="completed")
    csrf = csrf_of((await browser.get("/tasks")).text)
    assert (await browser.post("/tasks/cancel", data={"csrf": csrf, "id": ["t1", "t2"]})).status_code == 303
    assert [task.status for task in tasks.tasks.values()] == ["cancelled", "completed", "working"]
    assert (await browser.post("/tasks/cancel", data={"csrf": csrf})).status_code == 422


async def test_hostile_text_of_tools_and_files_stays_text(browser, desks):
    desks.tool_list = [tool(description=HOSTILE)]
    desks.held = [HeldTool(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (HOSTILE,))]
    desks.server_list = [Server(HOSTILE, HOSTILE, HOSTILE, 0, 0, HOSTILE)]
    at = datetime(2026, 11, 25, tzinfo=UTC)
    desks.call_list = [ToolCall(at, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.1)]
    desks.collection_list = [collection(name=HOSTILE, repo=HOSTILE, error=HOSTILE)]
    desks.hits = [Found(HOSTILE, 1, 2, HOSTILE, HOSTILE, 0.5, (HOSTILE,), HOSTILE, None)]
    one = Spent(HOSTILE, 1, 0, 1, 1, None, 1)
    desks.spent = Spending(1, one, [one], [one], [one], [one])
    desks.recorded.append((HOSTILE, HOSTILE, HOSTILE))
    for path in ("/gateway", "/gateway/tools/files_read", f"/knowledge?q={HOSTILE}", "/spend", "/audit"):
        page = (await browser.get(path)).text
        assert "alert(1)" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page
