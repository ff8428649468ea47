"""Approvals, messages into a task, runs, artifacts, workers, and the audit chain."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

SCHEMA = "devtools"

JSON = JSONB().with_variant(sa.JSON(), "sqlite")


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _now(name: str) -> sa.Column[object]:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    now = sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')") if is_sqlite else sa.func.now()
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=now)


def _task(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_task_id"
    return sa.ForeignKeyConstraint(["task_id"], [f"{SCHEMA}.tasks.id"], name=name, ondelete="CASCADE")


def upgrade() -> None:
    _widen_tasks()
    _create_approvals()
    _create_messages()
    _create_runs()
    _create_artifacts()
    _create_audit()
    _create_workers()


def _widen_tasks() -> None:
    _add(sa.Column("workflow_id", sa.Text, nullable=False, server_default=""))
    columns = sa.Column("id", sa.Text), sa.Column("workflow_id", sa.Text)
    tasks = sa.Table("tasks", sa.MetaData(), *columns, schema=SCHEMA)
    op.get_bind().execute(sa.update(tasks).values(workflow_id=tasks.c.id))
    _add(sa.Column("attempt", sa.Integer, nullable=False, server_default="1"))
    _add(sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    _add(sa.Column("ask_before", JSON))
    _add(sa.Column("priority", sa.Integer, nullable=False, server_default="100"))
    _add(sa.Column("forked_from", sa.Text))
    _add(sa.Column("starts_from", JSON))
    _add(sa.Column("is_paused", sa.Boolean, nullable=False, server_default=sa.false()))
    _add(sa.Column("has_workspace", sa.Boolean, nullable=False, server_default=sa.true()))


def _add(column: sa.Column[object]) -> None:
    # Unlike every other statement, ALTER TABLE does not have its schema mapped away for SQLite.
    is_sqlite = op.get_context().dialect.name == "sqlite"
    op.add_column("tasks", column, schema=None if is_sqlite else SCHEMA)


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("tool", sa.Text),
        sa.Column("arguments", JSON, nullable=False),
        sa.Column("preview", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("risk", sa.Text, nullable=False),
        sa.Column("cost_usd", sa.Double),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("decided_by", sa.Text),
        _time("decided_at"),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("edited_arguments", JSON),
        _time("expires_at", nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
        _task("approvals"),
        schema=SCHEMA,
    )
    op.create_index("ix_approvals_task_id", "approvals", ["task_id"], schema=SCHEMA)
    op.create_index("ix_approvals_status_created_at", "approvals", ["status", "created_at"], schema=SCHEMA)


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        _now("at"),
        sa.Column("taken_by", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        _task("messages"),
        schema=SCHEMA,
    )
    op.create_index("ix_messages_task_id", "messages", ["task_id"], schema=SCHEMA)


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("worker", sa.Text),
        _now("started_at"),
        _time("ended_at"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        _task("runs"),
        schema=SCHEMA,
    )
    op.create_index("ix_runs_task_id", "runs", ["task_id"], schema=SCHEMA)


def _create_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
        _task("artifacts"),
        schema=SCHEMA,
    )
    op.create_index("ix_artifacts_task_id", "artifacts", ["task_id"], schema=SCHEMA)


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
        sa.UniqueConstraint("idempotency_key", name="uq_audit_idempotency_key"),
        schema=SCHEMA,
    )
    op.create_index("ix_audit_subject_seq", "audit", ["subject", "seq"], schema=SCHEMA)
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
        schema=SCHEMA,
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": "0" * 64}])


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process_space", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_started_at", sa.Double, nullable=False),
        sa.Column("queues", JSON, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        _now("started_at"),
        _now("heartbeat_at"),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
        schema=SCHEMA,
    )
