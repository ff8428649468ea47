"""A task whose workflow is over without a word: ended once that is sure, with what people were asked about it."""

import sqlalchemy as sa

from devtools_platform.core.approvals import ApprovalRequest
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.kit import schema
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.service import StateService
from devtools_platform.state.stranded import Stranded


async def asking(database: sa.Engine, control: DbosControl) -> str:
    """A task that waits for a person."""
    state = StateService(database, control, None)  # pyright: ignore[reportArgumentType] - nothing is forked here
    task_id = await state.create_task(TaskRequest(text="Wait", repo="/r"))
    request = ApprovalRequest(
        id=f"{task_id}-1", task_id=task_id, workflow_id=task_id, kind="plan", agent="orchestrator", preview="1. all",
        rule="all", risk="low", cost_usd=None, environment="test", expires_after_s=3600,
    )  # fmt: skip
    await ApprovalDesk(database, control).ask(request)
    return task_id


def read(database: sa.Engine, table: sa.Table, id_: str) -> sa.Row[tuple[object, ...]]:
    with database.connect() as connection:
        return connection.execute(sa.select(table).where(table.c.id == id_)).one()


async def test_it_is_ended_at_the_second_look_and_nobody_is_asked_any_more(
    database: sa.Engine, control: DbosControl
) -> None:
    task_id, other = await asking(database, control), await asking(database, control)
    await control.cancel(task_id)
    stranded = Stranded(database, control)

    await stranded.end_all()
    assert read(database, schema.tasks, task_id).status == "input_required", "it may be on its way"
    await stranded.end_all()

    task = read(database, schema.tasks, task_id)
    assert (task.status, task.reason) == ("failed", "internal")
    assert f"dev-tools task retry {task_id}" in task.message
    assert read(database, schema.approvals, f"{task_id}-1").status == "cancelled"
    assert read(database, schema.tasks, other).status == "input_required", "its workflow goes on"


async def test_one_that_another_workflow_carries_by_then_goes_on(database: sa.Engine, control: DbosControl) -> None:
    task_id = await asking(database, control)
    await control.cancel(task_id)
    stranded = Stranded(database, control)
    await stranded.end_all()
    with database.begin() as connection:
        change = sa.update(schema.tasks).where(schema.tasks.c.id == task_id)
        connection.execute(change.values(workflow_id=f"{task_id}.2"))

    await stranded.end_all()
    assert read(database, schema.tasks, task_id).status == "input_required"
