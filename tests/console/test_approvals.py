"""The inbox: all one needs to decide stands there, and what was decided is decided once."""

import re

import pytest

from console.test_pages import csrf_of, text_of
from devtools_platform.core.approvals import Verdict

VERDICT = Verdict(decision="approve")
DIFF = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-old\n+new\n"


async def form_of(browser, path, **fields):
    """The form's hidden fields as the page has them, with what a person adds."""
    page = (await browser.get(path)).text
    version = re.search(r'name="version" value="(\d+)"', page)
    assert version
    return {"csrf": csrf_of(page), "version": version[1], "back": "inbox", **fields}


async def test_an_approval_shows_arguments_risk_rule_and_an_unknown_cost(browser, approvals):
    approvals.ask(arguments={"command": ["rm", "-r", "<b>"]})
    page = (await browser.get("/approvals")).text
    words = text_of(page)
    assert "Let cicd call workspace_run_command?" in words
    assert "Risk high" in words
    assert "Cost so far unknown" in words
    assert "Rule commands" in words
    assert "Environment production" in words
    assert "&#34;&lt;b&gt;&#34;" in page, "exactly the arguments, escaped"


async def test_an_approval_of_a_change_shows_it_as_a_diff(browser, approvals):
    approvals.ask(kind="publish", tool=None, arguments={}, preview=DIFF)
    words = text_of((await browser.get("/approvals")).text)
    assert "Make the branch with this change?" in words
    assert "- old" in words
    assert "+ new" in words


async def test_an_approval_waits_on_its_tasks_page_too(browser, tasks, approvals):
    tasks.add("t1", status="input_required")
    approvals.ask()
    approvals.ask("t2-1", task_id="t2", tool="web_fetch")
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "Let cicd call workspace_run_command?" in words
    assert "web_fetch" not in words


async def test_how_many_wait_stands_on_every_page(browser, approvals):
    approvals.ask()
    for path in ("/", "/tasks", "/spend", "/settings"):
        assert "Approvals 1 waiting" in text_of((await browser.get(path)).text)


async def test_approving_leaves_the_arguments_as_they_were(browser, approvals):
    asked = approvals.ask()
    form = await form_of(browser, "/approvals", decision="approve", reason="Fine.")
    form["arguments"] = '{"command": ["make",\n "deploy"]}'
    answer = await browser.post(f"/approvals/{asked.id}/decision", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals")
    decided = approvals.approvals[asked.id]
    assert (decided.status, decided.decided_by, decided.reason) == ("approved", "owner", "Fine.")
    assert decided.edited_arguments is None


async def test_edited_arguments_are_what_is_approved(browser, approvals):
    approvals.ask()
    form = await form_of(browser, "/approvals", decision="approve", arguments='{"command": ["make", "check"]}')
    await browser.post("/approvals/t1-1/decision", data=form | {"back": "task"})
    assert approvals.approvals["t1-1"].edited_arguments == {"command": ["make", "check"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("{no", "are no JSON"), ("[1]", "must be a JSON object"), ('{"key": "***"}', "hold a masked secret")],
)
async def test_arguments_that_cannot_be_used_come_back_as_typed(browser, approvals, arguments, message):
    approvals.ask()
    form = await form_of(browser, "/approvals", decision="approve", arguments=arguments)
    answer = await browser.post("/approvals/t1-1/decision", data=form)
    assert answer.status_code == 422
    assert message in text_of(answer.text)
    assert arguments.replace('"', "&#34;") in answer.text
    assert approvals.approvals["t1-1"].status == "pending"


async def test_denying_keeps_the_reason_and_ignores_the_arguments(browser, approvals):
    approvals.ask()
    form = await form_of(browser, "/approvals", decision="deny", reason="Not on a Friday.", arguments="{broken")
    assert (await browser.post("/approvals/t1-1/decision", data=form)).status_code == 303
    words = text_of((await browser.get("/approvals")).text)
    assert "Nothing waits for you." in words
    assert re.search(r"Denied Let cicd call workspace_run_command\? by owner .* Not on a Friday\.", words)


async def test_the_second_of_two_people_sees_who_decided(browser, approvals):
    approvals.ask()
    mine = await form_of(browser, "/approvals", decision="deny")
    await approvals.decide("t1-1", VERDICT, by="ben", version=1)
    answer = await browser.post("/approvals/t1-1/decision", data=mine)
    assert answer.status_code == 409
    words = text_of(answer.text)
    assert "is approved by ben; it is decided once." in words
    assert "Approved by ben" in words
    assert approvals.approvals["t1-1"].decided_by == "ben"


@pytest.mark.parametrize("change", [{"version": ""}, {"version": "x"}, {"decision": "maybe"}])
async def test_a_decision_that_does_not_say_what_it_is_about_is_refused(browser, approvals, change):
    approvals.ask()
    form = await form_of(browser, "/approvals", decision="approve")
    assert (await browser.post("/approvals/t1-1/decision", data=form | change)).status_code == 422
    assert approvals.approvals["t1-1"].status == "pending"


async def test_an_empty_inbox_names_how_to_be_asked(browser):
    assert "--ask plan" in (await browser.get("/approvals")).text


async def test_an_unknown_approval_has_a_page_that_says_so(browser):
    assert (await browser.get("/approvals/none")).status_code == 404


async def test_a_question_is_answered_in_words(browser, approvals):
    approvals.ask(kind="question", tool=None, arguments={}, agent="orchestrator", preview="Which shop?")
    form = await form_of(browser, "/approvals", decision="approve", reason=" ")
    assert "Which shop?" in (await browser.get("/approvals")).text
    assert (await browser.post("/approvals/t1-1/decision", data=form)).status_code == 422
    await browser.post("/approvals/t1-1/decision", data=form | {"reason": "The one in Ulm."})
    assert approvals.approvals["t1-1"].reason == "The one in Ulm."


async def test_a_budget_is_raised_by_the_sum_a_person_put_in(browser, approvals):
    approvals.ask(kind="budget", tool=None, arguments={"raise_by_usd": 1.0})
    assert "Raise a budget for cicd?" in (await browser.get("/approvals")).text
    form = await form_of(browser, "/approvals", decision="approve", arguments='{"raise_by_usd": 5}')
    await browser.post("/approvals/t1-1/decision", data=form)
    assert approvals.approvals["t1-1"].edited_arguments == {"raise_by_usd": 5}
