"""Tool calls in the table `tool_calls`: inserted before the call, settled after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from devtools_platform.core.tools import Caller, ToolResult
from devtools_platform.gateway.adapters.call_records.presence import is_alive
from devtools_platform.gateway.types import Decision, StoredCall
from devtools_platform.kit.database import in_thread, insert_once, read_in_thread
from devtools_platform.kit.schema import tool_calls
from devtools_platform.kit.telemetry import trace_id_for


@dataclass(frozen=True)
class SqlCallRecords:
    database: sa.Engine
    gateway: str | None = None
    """The id of this gateway's `Presence`; calls of one without are taken for interrupted by every other."""

    async def begin(
        self, key: str, caller: Caller, tool: str, arguments: Mapping[str, Any], decision: Decision
    ) -> StoredCall | None:
        server, _, name = tool.partition("_")
        row = {
            "key": key,
            "task_id": caller.task_id,
            "agent": caller.agent,
            "server": server,
            "tool": name or tool,
            "arguments": dict(arguments),
            "decision": decision,
            "state": "started",
            "trace_id": trace_id_for(caller.task_id),
            "gateway": self.gateway,
        }
        return await in_thread(self.database, lambda c: self._insert_or_read(c, row))

    async def take_over(self, key: str, stored: StoredCall) -> bool:
        table = tool_calls
        left = (table.c.key == key, table.c.state == stored.state, table.c.gateway.is_not_distinct_from(stored.gateway))
        change = sa.update(table).where(*left).values(state="started", gateway=self.gateway)
        return await in_thread(self.database, lambda c: c.execute(change).rowcount == 1)

    async def finish(self, key: str, result: ToolResult, duration_s: float) -> None:
        change = (
            sa.update(tool_calls)
            .where(tool_calls.c.key == key)
            .values(
                state="finished",
                result={"text": result.text, "data": dict(result.data)},
                is_error=result.is_error,
                duration_s=duration_s,
                ended_at=datetime.now(UTC),
            )
        )
        await in_thread(self.database, lambda c: c.execute(change))

    async def mark_doubtful(self, key: str) -> None:
        change = sa.update(tool_calls).where(tool_calls.c.key == key, tool_calls.c.state == "started")
        await in_thread(self.database, lambda c: c.execute(change.values(state="in_doubt")))

    async def usage(self, task_id: str) -> int:
        query = sa.select(sa.func.count()).where(tool_calls.c.task_id == task_id)
        return await read_in_thread(self.database, lambda c: int(c.execute(query).scalar_one()))

    def _insert_or_read(self, connection: sa.Connection, row: Mapping[str, Any]) -> StoredCall | None:
        if insert_once(connection, tool_calls, row, on=["key"]):
            return None
        stored = connection.execute(sa.select(tool_calls).where(tool_calls.c.key == row["key"])).one()
        if any(getattr(stored, name) != row[name] for name in ("task_id", "agent", "server", "tool")):
            return StoredCall(stored.state, is_same_call=False)
        result: Mapping[str, Any] = stored.result or {}
        # What this very process runs, it knows without the table (`Gateway`): here it has come to an unknown end.
        is_others = stored.state == "started" and stored.gateway != self.gateway
        return StoredCall(
            stored.state,
            result.get("text", ""),
            result.get("data", {}),
            bool(stored.is_error),
            is_running=is_others and is_alive(connection, stored.gateway),
            gateway=stored.gateway,
        )
