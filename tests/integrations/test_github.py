"""The courier and the events of GitHub, against a GitHub that checks us by its own description."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devtools_platform.core.tools import Caller
from devtools_platform.integrations.adapters.github import (
    AppIdentity,
    GitHub,
    GitHubCourier,
    PersonalToken,
    shown_lines,
)
from devtools_platform.integrations.adapters.github_actions import GitHubActions
from devtools_platform.integrations.adapters.sql import SqlOutbox
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.integrations.publication import marker, publish
from devtools_platform.integrations.tools import CiTools
from devtools_platform.integrations.types import Message, TaskView
from fakes.github_server import APP_ID, FakeGitHub, private_key
from fakes.service import ABSENT, CONTRACTS, Fault

TARGET = {"owner": "acme", "repo": "shop", "base": "main", "installation": None}
SHA = "a" * 40


@pytest.fixture(autouse=True)
def _contract(github: FakeGitHub):
    if not (CONTRACTS / "github.openapi.json").is_file():
        pytest.skip(ABSENT)
    yield
    assert github.breaches == []


@dataclass
class Pushed:
    branches: list[str] = field(default_factory=list)

    async def __call__(self, repo: Path, branch: str, url: str, remote_branch: str, token: str) -> None:
        self.branches.append(f"{branch} -> {url} {remote_branch}")


def app(github: FakeGitHub, http: httpx2.AsyncClient) -> AppIdentity:
    return AppIdentity(APP_ID, private_key(), github.url, http)


def box(outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient, identity: Any = None) -> Outbox:
    client = GitHub(github.url, identity or app(github, http), http)
    courier = GitHubCourier(client, outbox, Pushed(), "https://git/{owner}/{repo}.git")
    return Outbox(outbox, {"github": courier}, first_wait_s=0.01)


async def drain(sender: Outbox, outbox: SqlOutbox) -> None:
    """Send until nothing waits."""
    import sqlalchemy as sa

    from devtools_platform.kit import schema

    query = sa.select(sa.func.count()).where(schema.outbox.c.state.in_(("waiting", "sending")))
    async with asyncio.timeout(15):
        while True:
            await sender.send_due()
            with outbox.database.connect() as connection:
                if not connection.execute(query).scalar():
                    return


def comment(key: str, text: str) -> Message:
    return Message(key, "t", "github", "comment", {**TARGET, "number": 7, "text": text}, "t1:status")


def finished(findings: int = 0) -> TaskView:
    found = [
        {"source": "ruff", "rule": "E501", "severity": "low", "path": "shop/prices.py", "line": n, "message": "long",
         "is_blocking": False}
        for n in range(1, findings + 1)
    ]  # fmt: skip
    review = {"verdict": "approve", "judged_by": ["ruff"], "findings": found, "remark": "Good."}
    tests = [{"stage": "final", "command": ["pytest"], "exit_code": 0}]
    result = {"review": review, "tests": tests, "commits": [SHA], "degraded": [], "tokens": {"input": 1, "output": 2},
              "cost_usd": None}  # fmt: skip
    plan = ({"agent": "feature-dev", "goal": "Fix it"},)
    return TaskView("t1", "completed", None, "Done.", "task/t1", "/srv/shop", True, 1, plan, result)


async def test_a_comment_is_changed_in_place(outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient):
    sender = box(outbox, github, http)
    for n in range(3):
        await outbox.put([comment(f"k{n}", f"status {n}")])
        await drain(sender, outbox)
    assert github.texts(7) == [f"status 2\n\n{marker('t1:status')}"]


@pytest.mark.parametrize("path", ["/comments", "/pulls$", "/reviews", "/check-runs$", r"/check-runs/\d+"])
async def test_an_answer_that_is_lost_doubles_nothing(
    outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient, path: str
):
    github.inject(Fault("lost", path))
    github.inject(Fault("lost", path, method="PATCH"))
    await outbox.put([comment("k", "hello"), *publish(finished(60), TARGET, "t")])
    await drain(box(outbox, github, http), outbox)
    assert (len(github.comments), len(github.pulls), len(github.reviews), len(github.checks)) == (1, 1, 1, 1)
    assert [a["start_line"] for a in github.checks[0]["annotations"]] == list(range(1, 61))


async def test_annotations_come_in_batches_of_fifty_and_comments_only_where_the_diff_is(
    outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient
):
    await outbox.put(publish(finished(120), TARGET, "t"))
    await drain(box(outbox, github, http), outbox)
    [check] = github.checks
    assert (check["conclusion"], check["external_id"], len(check["annotations"])) == ("success", "t1", 120)
    batches = [r.body["output"]["annotations"] for r in github.requests if "/check-runs" in r.path]
    assert [len(batch) for batch in batches] == [50, 50, 20]
    [review] = github.reviews
    assert [c["line"] for c in review["comments"]] == [1, 2, 3, 4]  # what the fake's patch shows
    assert "`shop/prices.py:120`" in review["shown"]["body"]


async def test_a_later_attempt_moves_the_branch_and_makes_no_second_pull_request(
    outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient
):
    sender, first = box(outbox, github, http), finished()
    await outbox.put(publish(first, TARGET, "t"))
    await drain(sender, outbox)
    again = TaskView("t1", "completed", None, "Done.", "task/t1.2", "/srv/shop", True, 2, first.plan, first.result)
    await outbox.put(publish(again, TARGET, "t"))
    await drain(sender, outbox)
    assert (len(github.pulls), len(github.reviews), len(github.checks)) == (1, 2, 2)


async def test_a_token_makes_a_commit_status_instead_of_a_check_run(
    outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient
):
    await outbox.put(publish(finished(60), TARGET, "t"))
    await drain(box(outbox, github, http, PersonalToken(github.personal_token)), outbox)
    assert github.checks == []
    assert [(s["sha"], s["state"]) for s in github.statuses] == [(SHA, "success")]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {"retry-after": "1"}),
        (403, {"retry-after": "1"}),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}),
    ],
)
async def test_githubs_rate_limits_are_waited_for(
    outbox: SqlOutbox, github: FakeGitHub, http: httpx2.AsyncClient, status: int, headers: dict[str, str]
):
    github.inject(Fault("status", "/comments", status=status, headers=headers, body={"message": "slow down"}))
    await outbox.put([comment("k", "hello")])
    await drain(box(outbox, github, http), outbox)
    tries = [r.at for r in github.requests if r.path.endswith("/comments") and r.method == "POST"]
    assert len(github.comments) == 1
    assert tries[1] - tries[0] >= 0.9


async def test_many_callers_fetch_one_installation_token_and_a_dead_one_is_replaced(
    github: FakeGitHub, http: httpx2.AsyncClient
):
    client = GitHub(github.url, app(github, http), http)
    await asyncio.gather(*(client.call(TARGET, "GET", "/issues/7/comments") for _ in range(20)))
    assert github.issued == 1
    github.expire_tokens()
    assert await client.call(TARGET, "GET", "/issues/7/comments") == []
    assert github.issued == 2


async def test_workflows_are_started_run_again_and_read(github: FakeGitHub, http: httpx2.AsyncClient):
    actions = GitHubActions(GitHub(github.url, app(github, http), http))
    github.jobs[5] = [{"id": 8, "conclusion": "success"}, {"id": 9, "conclusion": "failure"}]
    github.logs[9] = "E   assert 1 == 2"
    await actions.dispatch(TARGET, "ci.yml", "main", {"why": "test"})
    await actions.run_failed_again(TARGET, 5)
    await actions.set_deployment(TARGET, 3, "success", "https://shop.example.org")
    failed = await actions.list_failed_jobs(TARGET, 5)
    assert [job["id"] for job in failed] == [9]
    # The log lies at another host, which must not see our token; the fake's refuses one that comes with it.
    assert await actions.read_log(TARGET, 9) == "E   assert 1 == 2"
    assert (github.dispatches[0]["ref"], github.reruns, github.deployments[0]["state"]) == ("main", [5], "success")


async def test_the_tools_say_why_a_run_failed_and_nothing_of_other_jobs(github: FakeGitHub, http: httpx2.AsyncClient):
    async def find_target(_caller: Caller) -> dict[str, Any]:
        return TARGET

    tools = CiTools(GitHubActions(GitHub(github.url, app(github, http), http)), find_target)
    caller = Caller("t1", "cicd")
    github.runs = [
        {"id": 6, "head_branch": "main", "conclusion": "success"},
        {"id": 5, "head_branch": "main", "conclusion": "failure"},
        {"id": 4, "head_branch": "old", "conclusion": "failure"},
    ]
    steps = [{"name": "Set up", "conclusion": "success"}, {"name": "Test", "conclusion": "failure"}]
    github.jobs[5] = [{"id": 8, "name": "lint", "conclusion": "success"},
                      {"id": 9, "name": "test", "conclusion": "failure", "steps": steps}]  # fmt: skip
    stamp = "2026-01-01T00:00:00.0000000Z "
    noise = [f"{stamp}line {number}" for number in range(5000)]
    token = "ghp_" + "z" * 36
    end = [f"{stamp}\x1b[31mE   assert 1 == 2\x1b[0m", f"{stamp}using {token}", f"{stamp}##[error]exit code 1."]
    github.logs[9] = "\n".join([*noise, *end, f"{stamp}Cleaning up"])

    listed = await tools.call("runs", {"branch": "main", "only_failed": True}, caller)
    assert [run["id"] for run in listed.data["runs"]] == [5]
    told = await tools.call("job_log", {"run": 5}, caller)
    (job,) = told.data["jobs"]
    assert (job["id"], job["failed_steps"]) == (9, ["Test"])
    assert "\nE   assert 1 == 2\n" in job["log"]
    assert "##[error]exit code 1." in job["log"]
    assert "line 4999" in job["log"]
    assert "line 100\n" not in job["log"]
    assert token not in told.text
    lost = await tools.call("job_log", {"run": 4}, caller)
    assert (lost.is_error, lost.data["code"]) == (True, "bad_input")
    started = await tools.call("start_workflow", {"workflow": "deploy.yml", "ref": "main"}, caller)
    assert (started.is_error, github.dispatches[-1]["workflow"]) == (False, "deploy.yml")
    astray = await tools.call("start_workflow", {"workflow": "../../../acme/other/x.yml", "ref": "main"}, caller)
    assert (astray.is_error, len(github.dispatches)) == (True, 1)
    asking = {"rerun_failed", "start_workflow", "set_deployment"}
    assert {tool.name for tool in tools.list_tools() if tool.risk == "high"} == asking


def test_the_lines_a_patch_shows_are_those_a_comment_may_stand_at():
    patch = "@@ -1,3 +1,4 @@\n a\n-b\n+c\n+d\n e\n@@ -20 +21,2 @@ def f\n x\n+y\n\\ No newline at end of file"
    assert shown_lines(patch) == {1, 2, 3, 4, 21, 22}
    assert json.dumps(sorted(shown_lines(""))) == "[]"
