"""The tables of the stack, as SQLAlchemy Core sees them. How a database gets there is `migrations`' story.

All in the schema `devtools`, so that a server's database can be shared; an SQLite file has no schemas. A test
holds tables and migrations against each other on both stores.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    desc,
    false,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

SCHEMA = "devtools"
READS = "devtools_reads"
"""Execution option of a connection whose transaction only reads; SQLite begins such a one differently."""

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

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        json = JSONB(none_as_null=True) if dialect.name == "postgresql" else JSON(none_as_null=True)
        return dialect.type_descriptor(json)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return storable(value)


class Time(TypeDecorator[datetime]):
    """A moment, in UTC. One without a time zone is a mistake, and refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        # SQLite keeps the text of a UTC time and no zone with it.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class Exact(TypeDecorator[Decimal]):
    """A decimal number, kept to the last digit. SQLite has none, so there it is text: compare it in Python."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return f"{value:f}" if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if isinstance(value, float):  # SQLite's own sum, of which a double carries 15 digits
            return Decimal(f"{value:.15g}")
        return None if value is None else Decimal(value)


class CurrentTime(FunctionElement[datetime]):
    """The database's clock as the default of a `Time`."""

    inherit_cache = True
    type = Time()


@compiles(CurrentTime)
def _render_now(_element: CurrentTime, _compiler: Any, **_: Any) -> str:
    return "now()"


@compiles(CurrentTime, "sqlite")
def _render_now_in_sqlite(_element: CurrentTime, _compiler: Any, **_: Any) -> str:
    # CURRENT_TIMESTAMP is in whole seconds, which would put two tasks of one second in any order.
    return "(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')"


def _now(name: str) -> Column[Any]:
    return Column(name, Time, nullable=False, server_default=CurrentTime())


def _time(name: str, *, nullable: bool = True) -> Column[Any]:
    return Column(name, Time, nullable=nullable)


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
    Column("workflow_id", Text, nullable=False, server_default=""),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("ask_before", StorableJson),
    Column("priority", Integer, nullable=False, server_default="100"),
    Column("forked_from", Text),
    Column("starts_from", StorableJson),
    Column("is_paused", Boolean, nullable=False, server_default=false()),
    Column("has_workspace", Boolean, nullable=False, server_default=true()),
    Column("start_at", Text),
)
"""`workflow_id` is the workflow that carries the task now: the task's own id, or `{id}.{attempt}` after a retry.
`starts_from`: the workflow and the step that a retry or a fork has its history from."""
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
    Column("gateway", Text),
    Index("ix_tool_calls_task_id_started_at", "task_id", "started_at"),
)
"""`state` is `started`, `finished`, or `in_doubt`: we crashed between the call and its answer. `gateway` makes it."""

gateways = Table(
    "gateways",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("process_space", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started_at", Double, nullable=False),
    _now("started_at"),
    _now("heartbeat_at"),
)
"""The gateway processes on this database; `process_space` as in `workers`."""

model_calls = Table(
    "model_calls",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("task_id", Text, nullable=False, index=True),
    Column("agent", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cost_usd", Exact),
    Column("duration_s", Double, nullable=False),
    Column("error", StorableText),
    Column("trace_id", Text),
    _now("at"),
    Column("call_id", Text),
    Column("environment", Text),
    Column("cached_tokens", Integer),
    Column("price_source", Text),
    Column("span_id", Text),
    Index("uq_model_calls_call_id", "call_id", unique=True),
    Index("ix_model_calls_at", "at"),
)
"""The cost ledger. `call_id` makes a repeated write one row; `price_source` says by which table a call was priced;
`span_id` is the span the call was made under. All five last are NULL in rows older than they are."""

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


approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task_id", Text, ForeignKey(tasks.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("workflow_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("tool", Text),
    Column("arguments", StorableJson, nullable=False),
    Column("preview", StorableText, nullable=False),
    Column("rule", Text, nullable=False),
    Column("risk", Text, nullable=False),
    Column("cost_usd", Double),
    Column("environment", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("decided_by", Text),
    _time("decided_at"),
    Column("reason", StorableText, nullable=False, server_default=""),
    Column("edited_arguments", StorableJson),
    _time("expires_at", nullable=False),
    _now("created_at"),
    Index("ix_approvals_status_created_at", "status", "created_at"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task_id", Text, ForeignKey(tasks.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("text", StorableText, nullable=False),
    Column("author", Text, nullable=False),
    _now("at"),
    Column("taken_by", Text),
)
"""What people say into a running task. `taken_by` is the step that gave it to an agent, None while it waits."""

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task_id", Text, ForeignKey(tasks.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("agent", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("message", StorableText, nullable=False, server_default=""),
    Column("worker", Text),
    _now("started_at"),
    _time("ended_at"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task_id", Text, ForeignKey(tasks.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    _now("created_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("body", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("idempotency_key", Text, unique=True),
    Index("ix_audit_subject_seq", "subject", "seq"),
)
"""Who did what. `hash` covers the hash before it and `body`, the entry as canonical JSON."""

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)
"""One row: where the chain ends. Locked by each append, and the reason why a cut-off end is noticed."""

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("process_space", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started_at", Double, nullable=False),
    Column("queues", StorableJson, nullable=False),
    Column("status", Text, nullable=False),
    _now("started_at"),
    _now("heartbeat_at"),
)
"""`process_space` names the boot and the process namespace in which `pid` means something; `process_started_at` is in
seconds since that boot, which no step of the clock changes."""
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

console_tokens = Table(
    "console_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("hash", Text, nullable=False, unique=True),
    _now("created_at"),
    _time("expires_at", nullable=False),
    _time("revoked_at"),
)
"""Tokens by which people sign in at the console, as SHA-256."""

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("service", Text, nullable=False),
    Column("delivery", StorableText, nullable=False),
    Column("digest", Text, nullable=False),
    Column("event", StorableText, nullable=False),
    Column("body", StorableText, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    _time("not_before", nullable=False),
    Column("note", StorableText, nullable=False, server_default=""),
    _now("received_at"),
    UniqueConstraint("service", "delivery"),
    UniqueConstraint("service", "digest"),
    Index("ix_inbox_state_id", "state", "id"),
)
"""Webhooks whose signature was right, as they came. `state`: `waiting`, `done`, `ignored`, `failed`. Not every service
signs the delivery's id, so `digest` (of the body) keeps a replay under another id out."""

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("subject", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("place", Text),
    Column("body", StorableJson, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("is_in_doubt", Boolean, nullable=False, server_default=false()),
    Column("owner", Text),
    _time("not_before", nullable=False),
    Column("error", StorableText),
    _now("created_at"),
    _time("ended_at"),
    Index("ix_outbox_state_subject_id", "state", "subject", "id"),
)
"""What is to be told outside, in order for each `subject`. `state`: `waiting`, `sending`, `done`, `replaced` (a newer
word for the same `place` was waiting), `failed`. `is_in_doubt`: it may have arrived, so look before sending again."""

remote_objects = Table(
    "remote_objects",
    metadata,
    Column("place", Text, primary_key=True),
    Column("remote_id", Text, nullable=False),
    _now("at"),
)
"""What we have made outside: the comment, pull request or check run that stands for one of our `place`s."""

task_links = Table(
    "task_links",
    metadata,
    Column("task_id", Text, ForeignKey(tasks.c.id, ondelete="CASCADE"), primary_key=True),
    Column("service", Text, nullable=False),
    Column("thread", Text, nullable=False, index=True),
    Column("origin", StorableJson, nullable=False),
    Column("told", Integer, nullable=False, server_default="0"),
    _now("created_at"),
)
"""Which thread outside a task came from. `told` is the number of its last event that went into the outbox."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("events", StorableJson, nullable=False),
    _now("created_at"),
    _time("told_at", nullable=False),
    _time("ended_at"),
    Column("note", StorableText, nullable=False, server_default=""),
)
"""Who wants to be told of tasks. What happened before `told_at` is in the outbox; its secret is made from the stack's
and its id. `ended_at`: it was removed, or said itself that it is gone (`note`)."""

service_tokens = Table(
    "service_tokens",
    metadata,
    Column("service", Text, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    _now("at"),
)
"""Rotating tokens of outside services, encrypted with a key derived from the stack's secret."""

budget_accounts = Table(
    "budget_accounts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False, server_default="0"),
    Column("raised", BigInteger, nullable=False, server_default="0"),
    Column("unpriced_calls", Integer, nullable=False, server_default="0"),
    Column("is_warned", Boolean, nullable=False, server_default=false()),
)
"""What was spent under each budget, in billionths of a US dollar: whole numbers, so that both stores add exactly.
`held` is reserved for calls that are being made; `raised` was added to the limit by people."""

budget_holds = Table(
    "budget_holds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task_id", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("keys", StorableJson, nullable=False),
    _now("at"),
)
"""What is reserved for one call that is being made, under the accounts `keys`. `id` is the call's."""

budget_raises = Table(
    "budget_raises",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    _now("at"),
)
"""`id` is the approval by which a limit was raised: it raises once."""

span_outbox = Table(
    "span_outbox",
    metadata,
    Column("sink", Text, primary_key=True),
    Column("trace_id", Text, primary_key=True),
    Column("span_id", Text, primary_key=True),
    _now("queued_at"),
    Index("ix_span_outbox_sink_queued_at", "sink", "queued_at"),
)
"""Spans that a remote sink has not taken yet."""

provider_usage = Table(
    "provider_usage",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("month_usd", Exact),
    _time("read_at", nullable=False),
)
"""What a provider says was used on a day (UTC): tokens of the agent `subject`, or under `account` what the whole
account owes for the month up to `read_at`. NULL where it does not say."""

catalogue_prices = Table(
    "catalogue_prices",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("since", Date, primary_key=True),
    Column("input_usd", Exact, nullable=False),
    Column("output_usd", Exact, nullable=False),
    _now("read_at"),
)
"""What a provider's catalogue asked for a million tokens, in US dollars: from `since` until its next row."""

documents = Table(
    "documents",
    metadata,
    Column("collection", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("title", StorableText, nullable=False),
    Column("text", StorableText, nullable=False),
    Column("source", StorableJson, nullable=False),
    Column("blob", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("task_id", Text, index=True),
    Column("version", Integer, nullable=False, server_default="1"),
    _time("at", nullable=False),
    _time("forgotten_at"),
)
"""What the context service holds beside repositories. `blob` and `size` are of the content as it is indexed;
`version` is the attempt of the task it was made from. A forgotten document stays as a row without words, so
that it is not made again. No foreign key: what was learnt outlives the task's row."""
