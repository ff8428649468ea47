"""Webhooks out: who wants to be told of tasks."""

import sqlalchemy as sa
from alembic import op

from devtools_platform.kit.schema import CurrentTime, StorableJson, StorableText, Time

revision = "0009"
down_revision = "0008"

SCHEMA = "devtools"


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", StorableJson, nullable=False),
        sa.Column("created_at", Time, nullable=False, server_default=CurrentTime()),
        sa.Column("told_at", Time, nullable=False),
        sa.Column("ended_at", Time),
        sa.Column("note", StorableText, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        schema=SCHEMA,
    )
