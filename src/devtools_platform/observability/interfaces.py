"""What observability needs from outside: where spans and model calls are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from devtools_platform.core.tasks import Usage


@dataclass(frozen=True)
class SpanRow:
    """One finished span, its attributes already redacted. Ids are hex digits."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    started_at: datetime
    ended_at: datetime
    status: str
    attributes: Mapping[str, Any]
    task_id: str | None
    agent: str | None


@dataclass(frozen=True)
class ModelCall:
    """One call of a model. Tokens as the endpoint counted them, None where it did not say."""

    task_id: str
    agent: str
    provider: str
    model: str
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    duration_s: float
    error: str | None = None


class SpanStore(Protocol):
    def write(self, spans: Sequence[SpanRow]) -> None:
        """Store spans; the same span twice is stored once. Called on a worker thread."""
        ...


class Ledger(Protocol):
    async def record(self, call: ModelCall) -> None: ...

    async def usage(self, task_id: str) -> Usage: ...
