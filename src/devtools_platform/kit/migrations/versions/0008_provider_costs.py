"""What providers say was used, and the prices their catalogues named, each from a day on."""

import sqlalchemy as sa
from alembic import op

from devtools_platform.kit.schema import CurrentTime, Exact, Time

revision = "0008"
down_revision = "0007"

SCHEMA = "devtools"


def upgrade() -> None:
    op.create_table(
        "provider_usage",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("month_usd", Exact),
        sa.Column("read_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("provider", "day", "subject", name="pk_provider_usage"),
        schema=SCHEMA,
    )
    op.create_table(
        "catalogue_prices",
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("since", sa.Date, nullable=False),
        sa.Column("input_usd", Exact, nullable=False),
        sa.Column("output_usd", Exact, nullable=False),
        sa.Column("read_at", Time, nullable=False, server_default=CurrentTime()),
        sa.PrimaryKeyConstraint("provider", "model", "since", name="pk_catalogue_prices"),
        schema=SCHEMA,
    )
