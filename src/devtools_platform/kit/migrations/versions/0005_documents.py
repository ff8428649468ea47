"""Documents of the context service: what it holds beside repositories."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"

SCHEMA = "devtools"

JSON = JSONB().with_variant(sa.JSON(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("collection", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("source", JSON, nullable=False),
        sa.Column("blob", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("forgotten_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("collection", "id", name="pk_documents"),
        schema=SCHEMA,
    )
    op.create_index("ix_documents_task_id", "documents", ["task_id"], schema=SCHEMA)
