"""A task gone through again from its records: where today's code would do otherwise is found and named.

The histories are those that released code stored (`tests/state/histories`); of the agents' runs they hold the
outcomes only. Runs step by step are replayed in `tests/e2e/test_history.py`.
"""

import asyncio
import base64
import json
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.agents.crew import Crew, TaskLimits
from devtools_platform.agents.orchestration import TaskWorkflow
from devtools_platform.agents.questions import People
from devtools_platform.agents.replay import Replay, Replayed
from devtools_platform.agents.routing import load_router
from devtools_platform.agents.tool_calls import DurableTools
from devtools_platform.core.agents import WORKING_AGENTS
from devtools_platform.core.approvals import ApprovalRules
from devtools_platform.core.history import StoredStep, StoredWorkflow, TaskRecord
from devtools_platform.core.tasks import Event, TaskRequest, TaskResult

HISTORIES = sorted((Path(__file__).parents[1] / "state" / "histories").glob("*.json"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def read(file: Path) -> TaskRecord:
    history = json.loads(file.read_text())
    id_ = history["task"]
    rows = sorted(history["tables"]["operation_outputs"], key=lambda row: row["function_id"])
    steps = [
        StoredStep(row["function_id"], row["function_name"], _output(row), None, row["child_workflow_id"], None, None)
        for row in rows
    ]
    children = {step.child for step in steps if step.child}
    workflows = {child: StoredWorkflow(child, {}, []) for child in children}
    request = TaskRequest.model_validate(next(step.output for step in steps if step.name == "request"))
    failed = "failed" in file.stem
    return TaskRecord(
        request, _result(id_, request, failed=failed), id_, {**workflows, id_: StoredWorkflow(id_, {}, steps)}, {}
    )


def _output(row: dict[str, Any]) -> Any:
    text = row["output"]
    return text if text is None or row["function_name"] == "DBOS.sleep" else pickle.loads(base64.b64decode(text))


def _result(id_: str, request: TaskRequest, *, failed: bool) -> TaskResult:
    known = {"id": id_, "status": "failed" if failed else "completed", "reason": None, "message": ""}
    unknown = dict.fromkeys(("plan", "branch", "base_commit", "diff", "review", "cost_usd", "model", "forked_from"))
    empty: dict[str, Any] = {"commits": (), "tests": (), "tokens": {}, "degraded": (), "trace_id": "0", "attempt": 1}
    times = {"version": 1, "created_at": NOW, "ended_at": NOW}
    return TaskResult.model_validate({**known, **unknown, **empty, **times, "text": request.text, "repo": request.repo})


async def play(record: TaskRecord, **limits: int) -> Replayed:
    again = Replay(record)
    log: Any = again
    crew = Crew(
        durable=again, log=log, ledger=log, workspaces=log, tools=DurableTools(again, again, log), index=log,
        preflight=log, people=People(log, log, log, ApprovalRules(), "test"), slots=asyncio.Semaphore(1), model=None,
        max_review_rounds=limits.get("max_review_rounds", 1), limits=TaskLimits(replans=limits.get("replans", 1)),
        router=load_router(None, WORKING_AGENTS),
    )  # fmt: skip
    return await again.play(TaskWorkflow(crew))


def unsaid(found: Replayed) -> list[str]:
    """Departures but for how it ended in words, which the files do not hold."""
    return [departure.what for departure in found.departures if departure.what != "how the task ends"]


@pytest.mark.parametrize("file", HISTORIES, ids=[file.stem for file in HISTORIES])
async def test_a_stored_history_is_gone_through_to_its_end(file: Path) -> None:
    record = read(file)
    found = await play(record)
    assert unsaid(found) == []
    assert found.steps == len(record.workflows[record.workflow_id].steps)


def by_name(part: str) -> TaskRecord:
    return read(next(file for file in HISTORIES if part in file.stem))


async def test_a_step_that_is_not_there_ends_the_replay_where_it_is_missed() -> None:
    record = by_name("golden")
    stored = record.workflows[record.workflow_id]
    at = next(place for place, step in enumerate(stored.steps) if step.name == "commit")
    without = replace(stored, steps=[*stored.steps[:at], *stored.steps[at + 1 :]])
    found = await play(replace(record, workflows={**record.workflows, record.workflow_id: without}))
    (departure,) = found.departures
    assert (departure.what, departure.recorded, departure.today) == ("the next step", "publish", "commit")
    assert departure.step == stored.steps[at + 1].number


async def test_other_limits_lead_elsewhere() -> None:
    found = await play(by_name("new-plan"), replans=0)
    assert unsaid(found)[0] == "the next step"


async def test_other_words_of_an_event_are_told_and_the_replay_goes_on() -> None:
    record = by_name("golden")
    id_ = record.workflow_id
    event = Event(seq=2, task_id=id_, kind="workspace", at=NOW, agent="orchestrator", data={"branch": "task/other"})
    found = await play(replace(record, events={f"{id_}:workspace:1": event}))
    (told, *_) = found.departures
    assert (told.what, found.steps) == ("what the event 'workspace' says", len(record.workflows[id_].steps))
    assert "task/other" in told.recorded
    assert f"task/{id_}" in told.today
