"""What the pages say, seen as a browser without scripts sees them."""

import re
from datetime import timedelta

import pytest

from console.memory import FULL_DISK, NOON
from devtools_platform.console.types import AgentStatus
from devtools_platform.core.errors import Unavailable

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"

PLAN = {
    "source": "model",
    "steps": [
        {"id": "s1", "agent": "feature-dev", "goal": "Fix the last page"},
        {"id": "s2", "agent": "documentation", "goal": "Say so"},
        {"id": "s3", "agent": "cicd", "goal": "Run it nightly"},
    ],
}


NEEDS: list[list[str] | None] = [[], [], ["s0", "s1"], None]


def text_of(page: str) -> str:
    """The page's words, tags dropped, white space as one space."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert found
    return found[1]


async def test_an_empty_home_names_the_next_command(browser):
    page = (await browser.get("/")).text
    assert "Nothing is running." in page
    assert "dev-tools task run &#34;" in page or 'dev-tools task run "' in page


async def test_home_shows_services_agents_and_tasks(browser, tasks, stack):
    tasks.add("t1", text="Fix the pager")
    tasks.add("t2", text="Write the docs", status="completed", ended_at=NOON + timedelta(minutes=2))
    stack.agent_list[0] = AgentStatus("orchestrator", "Plans.", "gradient", None, ("plan",))
    words = text_of((await browser.get("/")).text)
    assert "gateway Healthy http://127.0.0.1:8000" in words
    assert "state Not healthy" in words
    assert "orchestrator No model gradient no model: run dev-tools doctor" in words
    assert "feature-dev Idle local qwen3:4b" in words
    assert re.search(r"Running 1 .*Working Fix the pager.*Last tasks Completed Write the docs", words)


async def test_home_still_shows_services_when_tasks_cannot_be_read(browser, tasks):
    tasks.trouble = Unavailable("The state service does not answer.")
    answer = await browser.get("/")
    assert answer.status_code == 200
    assert "Tasks cannot be read right now. The state service does not answer." in text_of(answer.text)
    assert "Not healthy" in answer.text


async def test_the_task_list_filters_by_status(browser, tasks):
    tasks.add("t1", text="Fix the pager")
    tasks.add("t2", text="Write the docs", status="failed", reason="no_change")
    assert "Fix the pager" in (await browser.get("/tasks")).text
    failed = (await browser.get("/tasks?status=failed")).text
    assert "Write the docs" in failed
    assert "Fix the pager" not in failed
    assert "No task is cancelled." in text_of((await browser.get("/tasks?status=cancelled")).text)
    assert (await browser.get("/tasks?status=sleeping")).status_code == 422


async def test_an_empty_task_list_names_the_next_command(browser):
    assert "dev-tools task run" in (await browser.get("/tasks")).text


async def test_an_unknown_task_has_a_page_that_says_so(browser):
    for path in ("/tasks/t9", "/tasks/t9/events", "/tasks/t9/panels"):
        answer = await browser.get(path)
        assert answer.status_code == 404
        assert "There is no task &#39;t9&#39;." in answer.text
        assert "dev-tools task list" in answer.text


async def test_an_unknown_page_has_a_page_that_says_so(browser):
    answer = await browser.get("/nothing")
    assert answer.status_code == 404
    assert "GET /nothing: Not Found." in answer.text


async def test_a_bug_shows_a_page_and_no_inside(browser, tasks):
    tasks.trouble = RuntimeError("the inside")
    answer = await browser.get("/tasks")
    assert answer.status_code == 500
    assert "Something broke on our side." in answer.text
    assert "the inside" not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]


async def test_a_task_that_just_began_knows_nothing_and_says_unknown(browser, tasks):
    tasks.add("t1", status="queued")
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "Cost unknown Tokens unknown Took still running" in words
    assert "No plan yet." in words
    assert "No test run yet." in words
    assert "No change yet." in words
    assert "$0" not in words


async def test_a_known_cost_of_nothing_is_shown_as_a_figure(browser, tasks):
    tasks.add("t1", cost_usd=0.0, tokens={"input": 1234567, "output": 0})
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "Cost $0.00 Input tokens 1,234,567 Output tokens 0" in words


async def test_a_long_timeline_shows_its_newest_events_and_a_link_to_all(browser, tasks):
    tasks.add("t1")
    for number in range(501):
        await tasks.happen("t1", "tool_call", {"tool": f"tool-{number}."})
    page = (await browser.get("/tasks/t1")).text
    assert "1 earlier event." in page
    assert "tool-500." in page
    assert "tool-0." not in page
    assert "tool-0." in (await browser.get("/tasks/t1?events=all")).text


async def test_the_plan_shows_which_step_is_being_worked_on(browser, tasks):
    tasks.add("t1", plan=PLAN)
    await tasks.happen("t1", "delegated", {"agent": "feature-dev", "goal": "x", "step": "s1"})
    await tasks.happen("t1", "reported", {"agent": "feature-dev", "outcome": "done", "step": "s1"})
    await tasks.happen("t1", "delegated", {"agent": "documentation", "goal": "x", "step": "s2"})
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "feature-dev Done Fix the last page" in words
    assert "documentation Working Say so" in words
    assert "cicd Waiting Run it nightly" in words
    await tasks.end("t1", status="failed", reason="not_solved", ended_at=NOON)
    words = text_of((await browser.get("/tasks/t1/panels")).text)
    assert "documentation Stopped here Say so" in words
    assert "cicd Not started Run it nightly" in words
    assert "The agents could not do it within their limits." in words


async def test_a_completed_task_shows_how_to_look_at_its_branch(browser, tasks):
    tasks.add(
        "t1",
        status="completed",
        repo="/srv/my shop",
        branch="dev-tools/t1",
        base_commit="0123456789abcdef0123",
        commits=("fedcba9876543210",),
        degraded=[{"what": "sandbox", "why": "asked for without one"}],
        ended_at=NOON + timedelta(seconds=75),
    )
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "git -C &#39;/srv/my shop&#39; diff 0123456789ab...dev-tools/t1" in words
    assert "Took 1 min 15 s" in words
    assert "sandbox : asked for without one" in words
    assert "Cancel task" not in words


async def test_events_of_each_kind_read_as_a_sentence(browser, tasks):
    tasks.add("t1")
    await tasks.happen("t1", "plan", {"steps": PLAN["steps"], "source": "rules"})
    await tasks.happen("t1", "delegated", {"agent": "cicd", "goal": "Run it nightly", "step": "s3"})
    call = {
        "model": "qwen3:4b",
        "input_tokens": 1200,
        "output_tokens": 30,
        "cost_usd": None,
        "duration_s": 2.25,
    }
    await tasks.happen("t1", "model_call", call, agent="cicd")
    failed = {"tool": "read_file", "arguments": {"path": "a.py"}, "is_error": True, "duration_s": 0.01}
    await tasks.happen("t1", "tool_call", failed, agent="cicd")
    run = {"stage": "final", "command": ["pytest", "-q"], "exit_code": 1, "duration_s": 12.0}
    await tasks.happen("t1", "tests", run)
    await tasks.happen("t1", "review", {"verdict": "approve", "findings": []})
    await tasks.happen("t1", "moon_phase", {"phase": "full"})
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "plan 3 steps by our routing rules" in words
    assert "delegated To cicd: Run it nightly step s3" in words
    assert "model call cicd qwen3:4b tokens 1,200 in, 30 out cost unknown 2.2 s" in words
    assert "tool call cicd read_file {&#34;path&#34;: &#34;a.py&#34;} failed 10 ms" in words
    assert "tests With the change: failing, exit 1 pytest -q 12 s" in words
    assert "review Approved findings 0" in words
    assert "moon phase {&#34;phase&#34;: &#34;full&#34;}" in words


@pytest.mark.parametrize(
    "kind",
    [
        *("queued", "started", "workspace", "plan", "delegated", "model_call", "tool_call"),
        *("tests", "review", "commit", "degraded", "finished", "failed", "cancelled", "diff", "approval"),
        *("approval_decided", "message", "pause_requested", "paused", "resumed", "retried", "forked"),
    ],
)
@pytest.mark.parametrize(
    "data",
    [
        {},
        dict.fromkeys(("steps", "arguments", "exit_code", "findings", "command", "cost_usd", "model"), HOSTILE),
    ],
    ids=["empty", "strange"],
)
async def test_an_event_of_any_shape_can_be_shown(browser, tasks, kind, data):
    tasks.add("t1")
    await tasks.happen("t1", kind, data)
    answer = await browser.get("/tasks/t1")
    assert answer.status_code == 200
    assert kind.replace("_", " ") in answer.text
    assert "<script>alert" not in answer.text


async def test_hostile_text_stays_text_everywhere(browser, tasks, stack):
    finding = {
        "source": HOSTILE,
        "rule": HOSTILE,
        "severity": "high",
        "path": HOSTILE,
        "line": 1,
        "message": HOSTILE,
        "is_blocking": True,
    }
    tasks.add(
        "t1",
        text=f"{HOSTILE}\n{HOSTILE}",
        repo=f"/{HOSTILE}",
        message=HOSTILE,
        branch=HOSTILE,
        plan={"source": "model", "steps": [{"id": "s", "agent": "cicd", "goal": HOSTILE}]},
        tests=[
            {"stage": "final", "command": [HOSTILE], "exit_code": 1, "duration_s": 1.0, "output": HOSTILE},
        ],
        review={
            "verdict": "request_changes",
            "judged_by": [HOSTILE],
            "findings": [finding],
            "remark": HOSTILE,
        },
        tokens={HOSTILE: 1},
        degraded=[{"what": HOSTILE, "why": HOSTILE}],
    )
    diff = f"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@ {HOSTILE}\n-{HOSTILE}\n+{HOSTILE}\n"
    await tasks.happen("t1", "tool_call", {"tool": HOSTILE, "arguments": {HOSTILE: HOSTILE}}, agent=HOSTILE)
    await tasks.happen("t1", HOSTILE, {HOSTILE: HOSTILE})
    await tasks.happen("t1", "diff", {"text": diff})
    await tasks.end("t1", status="failed", reason="tests_failed")
    for path in ("/", "/tasks", "/tasks/t1", "/tasks/t1/panels", "/tasks/t1/events"):
        page = (await browser.get(path)).text
        assert "alert(1)" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page


async def test_the_diff_shows_findings_at_their_lines_and_the_rest_above(browser, tasks):
    def finding(line: int, message: str) -> dict[str, object]:
        common = {"source": "ruff", "rule": "F401", "severity": "low", "path": "a.py", "is_blocking": False}
        return common | {"line": line, "message": message}

    diff = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n keep\n-old\n+new\n"
    findings = [finding(2, "At the line"), finding(90, "Somewhere else")]
    tasks.add(
        "t1",
        diff={"files": 1, "insertions": 1, "deletions": 1},
        review={"verdict": "approve", "judged_by": ["ruff"], "findings": findings},
    )
    await tasks.happen("t1", "diff", {"text": diff})
    words = text_of((await browser.get("/tasks/t1")).text)
    assert re.search(r"Somewhere else .* - old .* \+ new .* At the line", words)
    assert words.count("At the line") == 1
    assert "1 file +1 \N{MINUS SIGN}1" in words


async def test_a_test_run_shows_its_exit_code_and_output(browser, tasks):
    common = {"command": ["pytest", "-q"], "duration_s": 3.0}
    tasks.add(
        "t1",
        tests=[
            common | {"stage": "baseline", "exit_code": 0, "output": "5 passed"},
            common | {"stage": "check", "exit_code": None, "ended_by": "timeout"},
            common | {"stage": "final", "exit_code": 2, "output": "1 failed"},
        ],
    )
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "Passing Before the change pytest -q 3.0 s 5 passed" in words
    assert "Stopped: timeout limit While working pytest -q 3.0 s It printed nothing." in words
    assert "Failing, exit 2 With the change pytest -q 3.0 s 1 failed" in words


async def test_the_same_form_sent_twice_is_one_task(browser, tasks):
    page = (await browser.get("/")).text
    key = re.search(r'name="key" value="([0-9a-f]+)"', page)
    assert key
    form = {"csrf": csrf_of(page), "key": key[1], "text": "Fix it", "repo": "/srv/shop", "agent": "cicd"}
    places = {(await browser.post("/tasks", data=form)).headers["location"] for _ in range(2)}
    assert places == {"/tasks/t1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": "shop"}, "expected an absolute path"),
        ({"text": "  "}, "The task: String should have at least 1 character"),
        ({"text": "x" * 20_001}, "The task: String should have at most 20000 characters"),
        ({"agent": "No Body"}, "The agent: String should match pattern"),
    ],
)
async def test_a_form_that_cannot_be_carried_out_comes_back_with_what_was_typed(browser, tasks, change, message):
    form = {
        "csrf": csrf_of((await browser.get("/")).text),
        "text": "Fix it",
        "repo": "/srv/typed",
        "agent": "",
    }
    answer = await browser.post("/tasks", data=form | change)
    assert answer.status_code == 422
    assert message in answer.text
    assert (form | change)["repo"] in answer.text
    assert tasks.tasks == {}


async def test_a_task_the_stack_refuses_says_why(browser, tasks):
    form = {"csrf": csrf_of((await browser.get("/")).text), "text": "Fix it", "repo": FULL_DISK, "agent": ""}
    answer = await browser.post("/tasks", data=form)
    assert answer.status_code == 507
    assert "Only 12 MB are free. Free some." in text_of(answer.text)


async def test_cancelling_a_task_ends_it_once(browser, tasks):
    tasks.add("t1")
    form = {"csrf": csrf_of((await browser.get("/tasks/t1")).text)}
    assert (await browser.post("/tasks/t1/cancel", data=form)).headers["location"] == "/tasks/t1"
    assert tasks.tasks["t1"].status == "cancelled"
    again = await browser.post("/tasks/t1/cancel", data=form)
    assert again.status_code == 409
    assert "has ended already" in again.text
    assert (await browser.post("/tasks/t9/cancel", data=form)).status_code == 404


async def test_a_running_task_shows_what_its_events_tell_already(browser, tasks):
    tasks.add("t1")
    await tasks.happen("t1", "plan", PLAN)
    await tasks.happen("t1", "delegated", {"step": "s1"})
    for cost in (0.25, 0.5):
        await tasks.happen("t1", "model_call", {"input_tokens": 1000, "output_tokens": 10, "cost_usd": cost})
    run = {"stage": "baseline", "command": ["pytest"], "exit_code": 1, "duration_s": 1.0, "output": "1 failed"}
    await tasks.happen("t1", "tests", run)
    words = text_of((await browser.get("/tasks/t1")).text)
    assert "plan done by the model feature-dev working Fix the last page" in words
    assert "Cost $0.7500 Input tokens 2,000 Output tokens 20" in words
    assert "Failing, exit 1 Before the change pytest 1.0 s 1 failed" in words
    await tasks.happen("t1", "model_call", {"input_tokens": 1, "output_tokens": 1, "cost_usd": None})
    assert "Cost unknown Input tokens 2,001" in text_of((await browser.get("/tasks/t1")).text)


async def test_steps_that_run_at_once_stand_in_one_stage(browser, tasks):
    steps = [{"id": f"s{n}", "agent": "cicd", "goal": f"Goal {n}", "needs": needs} for n, needs in enumerate(NEEDS)]
    tasks.add("t1", plan={"source": "model", "steps": steps})
    for step in ("s0", "s1"):
        await tasks.happen("t1", "delegated", {"agent": "cicd", "goal": "x", "step": step})
    flow = (await browser.get("/tasks/t1")).text.partition('<ol class="flow">')[2].partition("</ol>")[0]
    stages = [text_of(stage).strip() for stage in flow.split('<li class="stage">')[1:]]
    assert stages[1:4] == ["cicd working Goal 0 cicd working Goal 1", "cicd waiting Goal 2", "cicd waiting Goal 3"]
