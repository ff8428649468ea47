"""Budgets and who may change them, prices with where they are from, agents as defined and whether they answer."""

import pytest

from console.test_pages import csrf_of, text_of
from devtools_platform.console.types import Budget, PriceLine, TaskLink

KEY = "agent:cicd:2026-11"


@pytest.fixture(autouse=True)
def budgets(desks):
    desks.budget_list = [Budget(KEY, 10.0, 2.5, 0.25, 3), Budget("task:t1", None, 0.1, 0.0, 0)]


async def send_limit(client, **fields):
    csrf = csrf_of((await client.get("/spend")).text)
    form = {"csrf": csrf, "key": KEY, "was": "10.0", "limit": "20", "request": "r1"}
    return await client.post("/spend/budgets", data=form | fields)


async def test_budgets_and_prices_say_what_is_known_and_what_is_not(browser, desks):
    desks.price_list = [
        PriceLine("ollama", "qwen3:4b", 0.0, 0.0, "nobody charges", is_used=True),
        PriceLine("acme", "secret-1", None, None, "", is_used=False),
    ]
    words = text_of((await browser.get("/spend")).text)
    assert "cicd in 2026-11 3 calls of unknown price $2.50 25 % $0.2500 $10.00" in words
    assert "task t1 $0.1000 $0.00 no limit" in words
    assert "qwen3:4b in use ollama $0.00 $0.00 nobody charges" in words
    assert "secret-1 acme unknown unknown in no table" in words


async def test_an_operator_raises_and_only_an_admin_lowers(stranger, desks, console):
    await stranger.get(await console.new_link(stranger, "ben", "operator"))
    assert (await send_limit(stranger)).status_code == 303
    assert desks.budget_list[0].limit_usd == 20
    refused = await send_limit(stranger, was="20", limit="5")
    assert refused.status_code == 403
    assert "role admin" in refused.text
    await stranger.get(await console.new_link(stranger, "ann", "admin"))
    assert (await send_limit(stranger, was="20", limit="5")).status_code == 303
    assert desks.budget_list[0].limit_usd == 5
    assert [(who, what) for who, what, _ in desks.recorded if what == "budget.set"] == [
        ("ben", "budget.set"), ("ann", "budget.set"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"was": "9"}, 409),
        ({"key": "task:t1"}, 404),
        ({"limit": "0"}, 422),
        ({"limit": "-1"}, 422),
        ({"limit": "NaN"}, 422),
        ({"limit": "1e99"}, 422),
        ({"limit": "much"}, 422),
        ({"was": ""}, 422),
    ],
    ids=str,
)
async def test_a_limit_that_cannot_be_set_leaves_all_as_it_was(browser, desks, fields, status):
    assert (await send_limit(browser, **fields)).status_code == status
    assert desks.budget_list[0].limit_usd == 10


async def test_an_agent_shows_its_definition_and_whether_its_runtimes_answer(browser, desks):
    page = (await browser.get("/agents/cicd")).text
    assert "Do your work." in page
    words = text_of((await browser.post("/agents/cicd/test", data={"csrf": csrf_of(page)})).text)
    assert "stack qwen3:4b Answers ready 500 ms" in words
    assert "gradient x Fails No answer. Is its key right? 2.0 s" in words
    assert ("owner", "agent.test", "agent:cicd") in desks.recorded
    assert (await browser.get("/agents/nobody")).status_code == 404


async def test_a_task_links_to_where_else_it_can_be_seen(browser, tasks):
    tasks.add()
    tasks.links["t1"] = [TaskLink("Linear ENG-7", "https://linear.app/issue/ENG-7")]
    page = (await browser.get("/tasks/t1")).text
    assert 'href="https://linear.app/issue/ENG-7" rel="noreferrer">Linear ENG-7</a>' in page
    assert "Elsewhere" not in (await browser.get("/tasks")).text
