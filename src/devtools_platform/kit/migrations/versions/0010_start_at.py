"""The commit a task starts from, where that is not the repository's HEAD."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # Unlike every other statement, ALTER TABLE does not have its schema mapped away for SQLite.
    is_sqlite = op.get_context().dialect.name == "sqlite"
    op.add_column("tasks", sa.Column("start_at", sa.Text), schema=None if is_sqlite else "devtools")
