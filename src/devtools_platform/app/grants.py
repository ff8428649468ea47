"""What people approved, as the gateway asks for it and the state part knows it."""

from collections.abc import Mapping
from dataclasses import dataclass

from devtools_platform.core.errors import NotFound
from devtools_platform.core.tools import Caller
from devtools_platform.state.approvals import ApprovalDesk


@dataclass(frozen=True)
class ApprovalGrants:
    desk: ApprovalDesk

    async def find_grant(self, approval: str, caller: Caller, tool: str) -> Mapping[str, object] | None:
        """The approved arguments, if this approval is for exactly this caller and tool."""
        try:
            found = await self.desk.get_approval(approval)
        except NotFound:
            return None
        is_for_this = (found.task_id, found.agent, found.tool) == (caller.task_id, caller.agent, tool)
        return found.effective_arguments if is_for_this and found.status == "approved" else None
