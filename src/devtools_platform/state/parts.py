"""The state part as those beside it hold it."""

from dataclasses import dataclass

from devtools_platform.state.approvals import ApprovalDesk
from devtools_platform.state.audit import AuditLog
from devtools_platform.state.events import EventLog
from devtools_platform.state.service import StateService


@dataclass(frozen=True)
class StateParts:
    """What the HTTP side speaks for, and what others in the process ask."""

    service: StateService
    events: EventLog
    approvals: ApprovalDesk
    audit: AuditLog
