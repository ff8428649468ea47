"""Budgets, prices and spans of model calls, and what the remote sinks have still to be sent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

SCHEMA = "devtools"

JSON = JSONB().with_variant(sa.JSON(), "sqlite")


def _now(name: str) -> sa.Column[object]:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    now = sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')") if is_sqlite else sa.func.now()
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=now)


def upgrade() -> None:
    _extend_model_calls()
    _create_budgets()
    _create_outbox()


def _extend_model_calls() -> None:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    for column in (
        sa.Column("call_id", sa.Text),
        sa.Column("environment", sa.Text),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("price_source", sa.Text),
        sa.Column("span_id", sa.Text),
    ):
        # ALTER TABLE takes no translated schema: the file of an SQLite store has none.
        op.add_column("model_calls", column, schema=None if is_sqlite else SCHEMA)
    op.create_index("uq_model_calls_call_id", "model_calls", ["call_id"], unique=True, schema=SCHEMA)
    op.create_index("ix_model_calls_at", "model_calls", ["at"], schema=SCHEMA)


def _create_budgets() -> None:
    op.create_table(
        "budget_accounts",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("held", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("raised", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("unpriced_calls", sa.Integer, server_default="0", nullable=False),
        sa.Column("is_warned", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_budget_accounts"),
        schema=SCHEMA,
    )
    op.create_table(
        "budget_holds",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("keys", JSON, nullable=False),
        _now("at"),
        sa.PrimaryKeyConstraint("id", name="pk_budget_holds"),
        schema=SCHEMA,
    )
    op.create_table(
        "budget_raises",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        _now("at"),
        sa.PrimaryKeyConstraint("id", name="pk_budget_raises"),
        schema=SCHEMA,
    )


def _create_outbox() -> None:
    op.create_table(
        "span_outbox",
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("span_id", sa.Text, nullable=False),
        _now("queued_at"),
        sa.PrimaryKeyConstraint("sink", "trace_id", "span_id", name="pk_span_outbox"),
        schema=SCHEMA,
    )
    op.create_index("ix_span_outbox_sink_queued_at", "span_outbox", ["sink", "queued_at"], schema=SCHEMA)
