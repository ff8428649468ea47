"""What the console is told about the running stack. Tasks and approvals have their own types in `core`.

Unknown is None everywhere, never 0 and never "".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from devtools_platform.core.agents import AgentName
from devtools_platform.core.tasks import Status


@dataclass(frozen=True)
class ServiceStatus:
    """One service of the stack as its health check answered just now."""

    name: str
    url: str
    ok: bool
    facts: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class AgentStatus:
    """One of the six agents: what it is for and what it runs on."""

    name: AgentName
    role: str
    runtime: str
    """Where it runs, for example `local` or `gradient`."""
    model: str | None
    """None when no model is configured or reachable."""
    tools: tuple[str, ...] = ()
    current_task: str | None = None
    """Id of a task it is working on now; None when there is none."""


@dataclass(frozen=True)
class Wanted:
    """Which tasks to list; what is not given does not matter."""

    status: Status | None = None
    text: str | None = None
    repo: str | None = None
    agent: str | None = None


@dataclass(frozen=True)
class Server:
    """An MCP server of the gateway."""

    name: str
    kind: str
    """`own`, `command`, `url` or `openapi`."""
    state: str
    tools: int
    quarantined: int
    reason: str | None = None
    """Why it does not work, if it does not."""
    protocol: str | None = None
    restarts: int | None = None


@dataclass(frozen=True)
class GatewayTool:
    """A tool that is not in quarantine."""

    name: str
    server: str
    description: str
    decision: str
    """What the catalogue decides about a call by a person: `allow`, `ask` or `deny`."""
    is_read_only: bool
    input_schema: Mapping[str, object]
    agents: tuple[str, ...]
    """Agents whose policy lists it."""


@dataclass(frozen=True)
class HeldTool:
    """A tool in quarantine: neither listed nor called until a person has looked at it."""

    server: str
    tool: str
    reason: str
    digest: str
    """Names exactly the definition that was looked at."""
    description: str
    findings: tuple[str, ...]
    """What the scan found in its definition."""


@dataclass(frozen=True)
class ToolCall:
    """One call through the gateway, as its audit log has it."""

    at: datetime
    tool: str
    caller: str
    agent: str | None
    task_id: str | None
    """None for a person's call."""
    arguments: str
    """JSON, shortened, secrets masked."""
    outcome: str
    """`ok`, `error`, `denied` or `held`."""
    duration_s: float


@dataclass(frozen=True)
class Answer:
    """What a tool that a person tried gave back."""

    text: str
    is_error: bool
    duration_s: float | None
    must_confirm: bool = False
    """It was not called: it changes something, and the person has not said that they mean it."""


@dataclass(frozen=True)
class Collection:
    """One indexed repository."""

    name: str
    repo: str
    commit: str | None
    files: int
    chunks: int
    indexed_at: datetime | None
    is_indexing: bool
    files_done: int | None
    files_total: int | None
    error: str | None
    is_watched: bool
    without_vector: int | None
    """Chunks found by words only so far; None where nothing gives vectors."""
    changed: int | None
    """Files that differ from what is indexed; None when that could not be found out."""


@dataclass(frozen=True)
class Found:
    """One answer of a search."""

    path: str
    start_line: int
    end_line: int
    name: str
    kind: str
    score: float
    why: tuple[str, ...]
    text: str
    is_stale: bool | None


@dataclass(frozen=True)
class Spent:
    """Model calls that belong together."""

    key: str
    """The agent, the model, the task or the day they share."""
    calls: int
    failed: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """What the calls with a known price cost together; None when none has one."""
    unpriced: int
    """Answered calls whose price is not known."""


@dataclass(frozen=True)
class Spending:
    """What the ledger says about some days, added up in four ways."""

    days: int
    total: Spent
    by_agent: Sequence[Spent]
    by_model: Sequence[Spent]
    by_task: Sequence[Spent]
    """The ten that cost or used most."""
    by_day: Sequence[Spent]
    """Every day of the span, oldest first."""


@dataclass(frozen=True)
class Budget:
    """What was spent under one limit, in US dollars."""

    key: str
    """`task:ID`, or `agent:NAME:MONTH`, `environment:NAME:MONTH`, `month:MONTH`."""
    limit_usd: float | None
    """None where there is no limit; only the settings make one."""
    spent_usd: float
    held_usd: float
    """Reserved for calls that are being made."""
    unpriced_calls: int


@dataclass(frozen=True)
class PriceLine:
    """What a model costs, in US dollars per million tokens. None where no table says it."""

    provider: str
    model: str
    input_usd: float | None
    output_usd: float | None
    source: str
    """Which table, with its date or version; empty where the price is unknown."""
    is_used: bool
    """Whether an agent of this stack runs on it now."""


@dataclass(frozen=True)
class Prices:
    """What is known of prices now."""

    lines: Sequence[PriceLine]
    missing: str = ""
    """Why it is not known which models are in use; empty where it is."""


@dataclass(frozen=True)
class AgentDetails:
    """One agent as it is defined."""

    status: AgentStatus
    instructions: str
    output: str
    """What it must give back: `plan`, `report` or `judgement`."""
    max_turns: int
    chain: tuple[str, ...]
    """What carries it, then what stands in, in order."""


@dataclass(frozen=True)
class TestCall:
    """One question to one runtime of an agent, outside any task."""

    __test__ = False

    runtime: str
    is_ok: bool
    text: str
    hint: str
    duration_s: float


@dataclass(frozen=True)
class TaskLink:
    """Where else a task can be seen."""

    label: str
    url: str


@dataclass(frozen=True)
class Deed:
    """An entry of the audit."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    data: Mapping[str, object]
    hash: str


@dataclass(frozen=True)
class Chain:
    """What checking the audit came to."""

    entries: int
    head: str
    broken_at: int | None
    problem: str


@dataclass(frozen=True)
class Check:
    """One thing the doctor looked at."""

    name: str
    is_ok: bool
    found: str
    fix: str


@dataclass(frozen=True)
class WorkerStatus:
    """A process that carries work out."""

    id: str
    host: str
    status: str
    holds: int
    queues: tuple[str, ...]
    silent_s: float


@dataclass(frozen=True)
class Setting:
    """One setting as it is in force. A secret's value is never here."""

    variable: str
    value: str | None
    """None when nothing is set."""
    is_secret: bool
    source: str
    """`default`, `environment` or `flag`."""
    meaning: str
