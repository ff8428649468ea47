"""Webhooks that came in, what is to be told outside, what we made there, and the threads that tasks came from."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

SCHEMA = "devtools"

JSON = JSONB().with_variant(sa.JSON(), "sqlite")
TIME = sa.DateTime(timezone=True)


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False)


def _at(name: str) -> sa.Column[Any]:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    now = sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')") if is_sqlite else sa.func.now()
    return sa.Column(name, TIME, nullable=False, server_default=now)


def upgrade() -> None:
    op.create_table(
        "inbox",
        _id(),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("delivery", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        _at("received_at"),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
        sa.UniqueConstraint("service", "delivery", name="uq_inbox_service_delivery"),
        sa.UniqueConstraint("service", "digest", name="uq_inbox_service_digest"),
        schema=SCHEMA,
    )
    op.create_index("ix_inbox_state_id", "inbox", ["state", "id"], schema=SCHEMA)
    op.create_table(
        "outbox",
        _id(),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("place", sa.Text),
        sa.Column("body", JSON, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("is_in_doubt", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("owner", sa.Text),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("error", sa.Text),
        _at("created_at"),
        sa.Column("ended_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("key", name="uq_outbox_key"),
        schema=SCHEMA,
    )
    op.create_index("ix_outbox_state_subject_id", "outbox", ["state", "subject", "id"], schema=SCHEMA)
    op.create_table(
        "remote_objects",
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("remote_id", sa.Text, nullable=False),
        _at("at"),
        sa.PrimaryKeyConstraint("place", name="pk_remote_objects"),
        schema=SCHEMA,
    )
    op.create_table(
        "task_links",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("thread", sa.Text, nullable=False),
        sa.Column("origin", JSON, nullable=False),
        sa.Column("told", sa.Integer, nullable=False, server_default="0"),
        _at("created_at"),
        sa.PrimaryKeyConstraint("task_id", name="pk_task_links"),
        sa.ForeignKeyConstraint(
            ["task_id"], [f"{SCHEMA}.tasks.id"], name="fk_task_links_task_id_tasks", ondelete="CASCADE"
        ),
        schema=SCHEMA,
    )
    op.create_index("ix_task_links_thread", "task_links", ["thread"], schema=SCHEMA)
    op.create_table(
        "service_tokens",
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        _at("at"),
        sa.PrimaryKeyConstraint("service", name="pk_service_tokens"),
        schema=SCHEMA,
    )
