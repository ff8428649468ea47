"""The tables of the stack, as SQLAlchemy Core sees them. How a database gets there is `migrations`' story.

All in the schema `devtools`, so that a database can be shared. A test holds the two against each other.
"""

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    desc,
    false,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA = "devtools"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)


def storable(value: Any) -> Any:
    """`value` with what PostgreSQL refuses in text (NUL, lone surrogates) replaced by U+FFFD and "?".

    Tools print arbitrary bytes; a task must not fail because a program printed one of these.
    """
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {storable(key): storable(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in cast("list[Any]", value)]
    return value


class StorableText(TypeDecorator[str]):
    """Text that came from outside."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return storable(value)


class StorableJson(TypeDecorator[Any]):
    """JSON; a Python None is SQL's NULL, never JSON's null."""

    impl = JSONB(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return storable(value)


def _now(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _time(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("text", StorableText, nullable=False),
    Column("repo", StorableText, nullable=False),
    Column("agent", Text),
    Column("without_sandbox", Boolean, nullable=False, server_default=false()),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("message", StorableText, nullable=False, server_default=""),
    Column("idempotency_key", Text, unique=True),
    Column("base_commit", Text),
    Column("branch", Text),
    Column("result", StorableJson),
    Column("trace_id", Text, nullable=False),
    _now("created_at"),
    _now("updated_at"),
    _time("ended_at"),
)
Index("ix_tasks_created_at", desc(tasks.c.created_at))
Index("ix_tasks_status", tasks.c.status)

events = Table(
    "events",
    metadata,
    Column("task_id", Text, ForeignKey(tasks.c.id, ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("agent", Text),
    Column("data", StorableJson, nullable=False),
    _now("at"),
    UniqueConstraint("task_id", "key"),
)

tool_calls = Table(
    "tool_calls",
    metadata,
    Column("key", Text, primary_key=True),
    Column("task_id", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments", StorableJson, nullable=False),
    Column("decision", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("result", StorableJson),
    Column("is_error", Boolean),
    _now("started_at"),
    _time("ended_at"),
    Column("duration_s", Double),
    Column("trace_id", Text),
    Index("ix_tool_calls_task_id_started_at", "task_id", "started_at"),
)
"""`state` is `started`, `finished`, or `in_doubt`: we crashed between the call and its answer."""

model_calls = Table(
    "model_calls",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("task_id", Text, nullable=False, index=True),
    Column("agent", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cost_usd", Numeric),
    Column("duration_s", Double, nullable=False),
    Column("error", StorableText),
    Column("trace_id", Text),
    _now("at"),
)

spans = Table(
    "spans",
    metadata,
    Column("trace_id", Text, primary_key=True),
    Column("span_id", Text, primary_key=True),
    Column("parent_id", Text),
    Column("name", StorableText, nullable=False),
    Column("kind", Text, nullable=False),
    _time("started_at", nullable=False),
    _time("ended_at"),
    Column("status", Text, nullable=False),
    Column("attributes", StorableJson, nullable=False),
    Column("task_id", Text, index=True),
    Column("agent", Text),
)

gateway_tokens = Table(
    "gateway_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    Column("agent", Text),
    Column("task_id", Text),
    Column("scopes", Text, nullable=False),
    Column("per_minute", Integer),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("revoked_at", Double),
)
"""Tokens that open the gateway, as SHA-256; `scopes` are parted by spaces, times are seconds since 1970."""

gateway_audit = Table(
    "gateway_audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("principal", Text, nullable=False),
    Column("agent", Text),
    Column("task_id", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("result_hash", Text),
    Column("duration_s", Double, nullable=False),
    Column("trace_id", Text),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)
"""Calls at servers of others, each line's hash covering the one before; `arguments` is JSON text, as it was hashed."""
