"""Approvals on both stores: decided once, by whom and when, and seen by the workflow that asked."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from devtools_platform.core.approvals import Action, ApprovalRequest, ApprovalRule, ApprovalRules, Verdict
from devtools_platform.core.errors import BadInput, Conflict, DevToolsError, KeyReused, TooLate
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.audit import AuditLog, _verify
from devtools_platform.state.rules import load_rules
from devtools_platform.state.service import StateService, Write

APPROVE = Verdict(decision="approve")
DENY = Verdict(decision="deny", reason="Not on a Friday.")


@pytest.fixture
def desk(database: sa.Engine, control: DbosControl) -> ApprovalDesk:
    return ApprovalDesk(database, control)


@pytest.fixture
def state(database: sa.Engine, control: DbosControl) -> StateService:
    return StateService(database, control, None)  # pyright: ignore[reportArgumentType] - nothing is forked here


async def asked(state: StateService, desk: ApprovalDesk, **more: Any) -> ApprovalRequest:
    task_id = await state.create_task(TaskRequest(text="Deploy", repo="/r"))
    facts = {
        "id": f"{task_id}-1", "task_id": task_id, "workflow_id": task_id, "kind": "tool", "agent": "cicd",
        "tool": "deploy_start", "arguments": {"to": "production", "token": "ghp_" + "a1B2" * 9}, "rule": "deploys",
        "risk": "high", "cost_usd": None, "environment": "production", "expires_after_s": 3600.0,
    }  # fmt: skip
    request = ApprovalRequest.model_validate({**facts, **more})
    await desk.ask(request)
    return request


async def test_asking_makes_the_task_wait_and_asking_again_asks_nothing(
    state: StateService, desk: ApprovalDesk
) -> None:
    request = await asked(state, desk)
    await desk.ask(request)

    waiting = await desk.list_approvals(task_id=request.task_id)
    assert [(a.id, a.status, a.arguments["to"]) for a in waiting] == [(request.id, "pending", "production")]
    assert "ghp_" not in str(waiting)
    assert (await state.get_task(request.task_id)).status == "input_required"


async def test_of_two_people_one_decides_and_the_other_is_told_who(state: StateService, desk: ApprovalDesk) -> None:
    request = await asked(state, desk)
    outcomes = await asyncio.gather(
        desk.decide(request.id, APPROVE, by="ann"), desk.decide(request.id, DENY, by="bob"), return_exceptions=True
    )

    (decided,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    (late,) = [outcome for outcome in outcomes if isinstance(outcome, TooLate)]
    assert f"{decided.status} by {decided.decided_by}" in str(late)
    settled = await desk.settle(request.id)
    assert settled.status == decided.status
    assert (await state.get_task(request.task_id)).status == "working"


async def test_the_same_request_sent_again_is_answered_and_another_under_its_key_refused(
    state: StateService, desk: ApprovalDesk
) -> None:
    request = await asked(state, desk)
    first = await desk.decide(request.id, DENY, by="ann", key=f"{request.id}-k", version=1)
    again = await desk.decide(request.id, DENY, by="ann", key=f"{request.id}-k", version=1)

    assert first == again
    assert (again.reason, again.version) == ("Not on a Friday.", 2)
    with pytest.raises(KeyReused):
        await desk.decide(request.id, APPROVE, by="ann", key=f"{request.id}-k")


async def test_edited_arguments_are_what_was_approved(state: StateService, desk: ApprovalDesk) -> None:
    request = await asked(state, desk)
    edited = await desk.decide(request.id, Verdict(decision="approve", arguments={"to": "staging"}), by="ann")

    assert edited.effective_arguments == {"to": "staging"}
    plan = await asked(state, desk, kind="plan", tool=None)
    with pytest.raises(BadInput, match="Only the arguments of a tool call"):
        await desk.decide(plan.id, Verdict(decision="approve", arguments={}), by="ann")


async def test_nobody_decides_after_the_time_is_over(state: StateService, desk: ApprovalDesk) -> None:
    request = await asked(state, desk, expires_after_s=0.001)
    with pytest.raises(TooLate, match="expired"):
        await desk.decide(request.id, APPROVE, by="ann")
    assert (await desk.settle(request.id)).status == "expired"
    assert (await desk.settle(request.id)).version == 2


async def test_a_cancelled_task_asks_nobody(state: StateService, desk: ApprovalDesk) -> None:
    request = await asked(state, desk)
    await state.cancel_task(request.task_id, Write("ann"))
    assert (await desk.get_approval(request.id)).status == "cancelled"
    with pytest.raises(Conflict, match="is cancelled"):
        await desk.decide(request.id, APPROVE, by="bob")


async def test_each_deed_stands_in_the_audit_and_a_changed_one_is_found(
    state: StateService, desk: ApprovalDesk, database: sa.Engine
) -> None:
    log = AuditLog(database)
    request = await asked(state, desk)
    await desk.decide(request.id, DENY, by="ann")
    (entry,) = await log.list_entries(subject=f"approval:{request.id}")
    assert (entry["actor"], entry["action"], entry["data"]["decision"]) == ("ann", "approval.decide", "deny")
    whole = await log.verify()
    assert (whole.broken_at, whole.problem) == (None, "")

    name = "audit" if database.dialect.name == "sqlite" else "devtools.audit"
    for statement, broken_at in (
        (f"UPDATE {name} SET body = replace(body, 'deny', 'approve') WHERE seq = {entry['seq']}", entry["seq"]),
        (f"DELETE FROM {name} WHERE seq = {entry['seq'] - 1}", entry["seq"]),
        (f"DELETE FROM {name} WHERE seq >= {entry['seq']}", entry["seq"]),
    ):
        _break(database, statement, broken_at)
    assert (await log.verify()).broken_at is None


def _break(database: sa.Engine, statement: str, broken_at: int) -> None:
    """What the chain says after a change that is then taken back."""
    with database.connect() as connection:
        connection.execute(sa.text(statement))
        report = _verify(connection)
        connection.rollback()
    assert report.broken_at == broken_at, (statement, report)


@pytest.mark.parametrize(
    ("conditions", "asks"),
    [
        ({}, True),
        ({"tools": ("deploy_*",)}, True),
        ({"tools": ("git_*",)}, False),
        ({"agents": ("infrastructure",)}, False),
        ({"environments": ("staging",)}, False),
        ({"min_risk": "high"}, False),
        ({"min_cost_usd": 1.0}, True),
        ({"min_cost_usd": 3.0}, False),
    ],
)
def test_a_rule_asks_when_all_its_conditions_hold(*, conditions: dict[str, Any], asks: bool) -> None:
    action = Action(
        kind="tool", agent="cicd", environment="production", tool="deploy_start", risk="medium", cost_usd=2.0
    )
    rules = ApprovalRules(rules=(ApprovalRule.model_validate({"name": "r", "kind": "tool", **conditions}),))
    assert (rules.find(action) is not None) is asks


def test_an_unknown_cost_is_asked_about() -> None:
    rule = ApprovalRule(name="dear", kind="publish", min_cost_usd=5)
    assert rule.applies_to(Action(kind="publish", agent="orchestrator", environment="test", cost_usd=None))


def test_shipped_rules_ask_before_what_leaves_the_workspace() -> None:
    outside = Action(kind="tool", agent="cicd", environment="development", tool="github_merge", risk="high")
    inside = Action(kind="tool", agent="cicd", environment="production", tool="workspace_write_file", risk="low")
    rules = load_rules(None)
    assert rules.find(outside) is not None
    assert rules.find(inside) is None


@pytest.mark.parametrize("text", ["rules: [{name: a}]", "rules: {", "rulez: []"])
def test_rules_that_cannot_be_read_are_refused_by_place(tmp_path: Any, text: str) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(DevToolsError, match=r"rules\.yaml"):
        load_rules(file)
