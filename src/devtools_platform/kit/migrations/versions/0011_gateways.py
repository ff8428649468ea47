"""Which gateway processes there are, and which of them makes a call."""

import sqlalchemy as sa
from alembic import op

from devtools_platform.kit.schema import CurrentTime, Time

revision = "0011"
down_revision = "0010"

SCHEMA = "devtools"


def upgrade() -> None:
    op.create_table(
        "gateways",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process_space", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("process_started_at", sa.Double, nullable=False),
        sa.Column("started_at", Time, nullable=False, server_default=CurrentTime()),
        sa.Column("heartbeat_at", Time, nullable=False, server_default=CurrentTime()),
        sa.PrimaryKeyConstraint("id", name="pk_gateways"),
        schema=SCHEMA,
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.add_column("tool_calls", sa.Column("gateway", sa.Text), schema=None if is_sqlite else SCHEMA)
