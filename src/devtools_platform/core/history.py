"""What is stored of a task's work: the steps of its workflows, and the events they told. Data only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from devtools_platform.core.tasks import Event, TaskRequest, TaskResult


@dataclass(frozen=True)
class StoredStep:
    """One step of a workflow's history."""

    number: int
    """Its place, from 1 on."""
    name: str
    output: Any
    error: Exception | None
    child: str | None
    """The workflow it started or waited for."""
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class StoredWorkflow:
    """A workflow's argument and its steps so far."""

    id: str
    argument: Mapping[str, Any]
    """Empty where it is not stored any more."""
    steps: Sequence[StoredStep]


@dataclass(frozen=True)
class TaskRecord:
    """Everything a task can be replayed from."""

    request: TaskRequest
    result: TaskResult
    workflow_id: str
    workflows: Mapping[str, StoredWorkflow]
    """The one that carries the task, and the agents' runs it started."""
    events: Mapping[str, Event]
    """By the key they were told under."""
