"""What Alembic runs for every command. Connection, transaction and lock belong to `kit.database`."""

from alembic import context

from devtools_platform.kit.schema import metadata

context.configure(target_metadata=metadata, **context.config.attributes)
context.run_migrations()
