"""The gateway's tokens and its audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

SCHEMA = "devtools"


def upgrade() -> None:
    op.create_table(
        "gateway_tokens",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("agent", sa.Text),
        sa.Column("task_id", sa.Text),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("per_minute", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_gateway_tokens"),
        sa.UniqueConstraint("hash", name="uq_gateway_tokens_hash"),
        schema=SCHEMA,
    )
    op.create_table(
        "gateway_audit",
        sa.Column("seq", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("agent", sa.Text),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("result_hash", sa.Text),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("trace_id", sa.Text),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_gateway_audit"),
        schema=SCHEMA,
    )
