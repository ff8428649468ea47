"""What Alembic runs for every command. Connection, transaction and lock belong to `kit.database`."""

from alembic import context

from devtools_platform.kit.schema import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table_schema=SCHEMA
)
context.run_migrations()
