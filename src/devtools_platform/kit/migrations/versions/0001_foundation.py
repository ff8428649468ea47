"""Tasks and their events, tool calls, model calls, spans."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

SCHEMA = "devtools"

JSON = JSONB().with_variant(sa.JSON(), "sqlite")
NUMERIC = sa.Numeric().with_variant(sa.Text(), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER numbers itself there


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _now(name: str) -> sa.Column[object]:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    now = sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')") if is_sqlite else sa.func.now()
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=now)


def upgrade() -> None:
    _create_tasks()
    _create_events()
    _create_tool_calls()
    _create_model_calls()
    _create_spans()


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("repo", sa.Text, nullable=False),
        sa.Column("agent", sa.Text),
        sa.Column("without_sandbox", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("base_commit", sa.Text),
        sa.Column("branch", sa.Text),
        sa.Column("result", JSON),
        sa.Column("trace_id", sa.Text, nullable=False),
        _now("created_at"),
        _now("updated_at"),
        _time("ended_at"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("idempotency_key", name="uq_tasks_idempotency_key"),
        schema=SCHEMA,
    )
    op.create_index("ix_tasks_created_at", "tasks", [sa.text("created_at DESC")], schema=SCHEMA)
    op.create_index("ix_tasks_status", "tasks", ["status"], schema=SCHEMA)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("agent", sa.Text),
        sa.Column("data", JSON, nullable=False),
        _now("at"),
        sa.PrimaryKeyConstraint("task_id", "seq", name="pk_events"),
        sa.UniqueConstraint("task_id", "key", name="uq_events_task_id_key"),
        sa.ForeignKeyConstraint(["task_id"], [f"{SCHEMA}.tasks.id"], name="fk_events_task_id", ondelete="CASCADE"),
        schema=SCHEMA,
    )


def _create_tool_calls() -> None:
    op.create_table(
        "tool_calls",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("arguments", JSON, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("result", JSON),
        sa.Column("is_error", sa.Boolean),
        _now("started_at"),
        _time("ended_at"),
        sa.Column("duration_s", sa.Double),
        sa.Column("trace_id", sa.Text),
        sa.PrimaryKeyConstraint("key", name="pk_tool_calls"),
        schema=SCHEMA,
    )
    op.create_index("ix_tool_calls_task_id_started_at", "tool_calls", ["task_id", "started_at"], schema=SCHEMA)


def _create_model_calls() -> None:
    op.create_table(
        "model_calls",
        sa.Column("id", BIG_ID, nullable=False, autoincrement=True),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.Integer),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("cost_usd", NUMERIC),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("trace_id", sa.Text),
        _now("at"),
        sa.PrimaryKeyConstraint("id", name="pk_model_calls"),
        schema=SCHEMA,
    )
    op.create_index("ix_model_calls_task_id", "model_calls", ["task_id"], schema=SCHEMA)


def _create_spans() -> None:
    op.create_table(
        "spans",
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("span_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        _time("started_at", nullable=False),
        _time("ended_at"),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attributes", JSON, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("agent", sa.Text),
        sa.PrimaryKeyConstraint("trace_id", "span_id", name="pk_spans"),
        schema=SCHEMA,
    )
    op.create_index("ix_spans_task_id", "spans", ["task_id"], schema=SCHEMA)
