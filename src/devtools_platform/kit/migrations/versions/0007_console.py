"""Tokens by which people sign in at the console."""

import sqlalchemy as sa
from alembic import op

from devtools_platform.kit.schema import CurrentTime, Time

revision = "0007"
down_revision = "0006"

SCHEMA = "devtools"


def upgrade() -> None:
    op.create_table(
        "console_tokens",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("created_at", Time, nullable=False, server_default=CurrentTime()),
        sa.Column("expires_at", Time, nullable=False),
        sa.Column("revoked_at", Time),
        sa.PrimaryKeyConstraint("id", name="pk_console_tokens"),
        sa.UniqueConstraint("hash", name="uq_console_tokens_hash"),
        schema=SCHEMA,
    )
