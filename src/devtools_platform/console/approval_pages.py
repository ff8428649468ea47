"""The approvals inbox: what waits for a person, with all one needs to decide, and who decided what was asked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from devtools_platform.console.diff import Changes, view_changes
from devtools_platform.console.pages import Door, Form, Pages, get, name_of, post, read_form
from devtools_platform.core.approvals import MAX_REASON, Approval, Verdict
from devtools_platform.core.errors import BadInput, DevToolsError, TooLate
from devtools_platform.core.redact import MASK

RECENT = 20
EDITABLE = frozenset({"tool", "budget"})
"""Kinds of approvals whose arguments a person may replace."""


@dataclass(frozen=True)
class ApprovalView:
    """An approval, ready to show."""

    approval: Approval
    arguments: str
    """As indented JSON, exactly as it would be called; empty when there are none."""
    edited: str
    preview: str
    """What would be done, as text; empty where the arguments say it all."""
    changes: Changes | None
    """The preview as a diff, where it is one."""

    @property
    def is_pending(self) -> bool:
        return self.approval.status == "pending"


def view_approval(approval: Approval) -> ApprovalView:
    is_diff = approval.preview.startswith("diff --git")
    says_arguments = approval.kind == "tool" and approval.preview.startswith(f"{approval.tool} {{")
    return ApprovalView(
        approval,
        _indented(approval.arguments) if approval.arguments else "",
        "" if approval.edited_arguments is None else _indented(approval.edited_arguments),
        "" if is_diff or says_arguments else approval.preview,
        view_changes(approval.preview, ()) if is_diff else None,
    )


class ApprovalPages(Pages):
    def doors(self) -> Sequence[Door]:
        return (
            get("/approvals", self.inbox),
            get("/approvals/{id_}", self.approval),
            post("/approvals/{id_}/decision", self.decide),
        )

    async def inbox(self, request: Request) -> Response:
        pending = await self.stack.approvals.list_approvals(status="pending")
        return await self.show(
            request,
            "approvals.html",
            views=[view_approval(approval) for approval in pending],
            decided=await self.stack.approvals.list_decided(RECENT),
        )

    async def approval(self, request: Request, id_: str) -> Response:
        return await self._one(request, await self.stack.approvals.get_approval(id_))

    async def decide(self, request: Request, id_: str) -> Response:
        form = await read_form(request)
        approval = await self.stack.approvals.get_approval(id_)
        try:
            verdict = _read_verdict(form, approval)
            await self.stack.approvals.decide(id_, verdict, by=name_of(request), version=_read_version(form))
        except TooLate as error:
            now = await self.stack.approvals.get_approval(id_)
            return await self._one(request, now, error=error)
        except BadInput as error:
            return await self._one(request, approval, error=error, form=form)
        return RedirectResponse(_back(form, approval), status_code=303)

    async def _one(
        self, request: Request, approval: Approval, *, error: DevToolsError | None = None, form: Form | None = None
    ) -> Response:
        return await self.show(
            request,
            "approval.html",
            status=error.status if error else 200,
            view=view_approval(approval),
            error=error,
            typed=form or {},
        )


def _back(form: Form, approval: Approval) -> str:
    """Where the form stood: the task's page or the inbox. Nowhere else, whatever the form says."""
    return f"/tasks/{approval.task_id}" if form.get("back") == "task" else "/approvals"


def _read_version(form: Form) -> int:
    version = form.get("version", "")
    if not version.isdecimal() or len(version) > 9:  # noqa: PLR2004 - what an integer column takes
        raise BadInput("The form does not say which version you have read.", hint="Reload the page and decide again.")
    return int(version)


def _read_verdict(form: Form, approval: Approval) -> Verdict:
    decision = form.get("decision", "")
    if decision not in {"approve", "deny"}:
        raise BadInput(f"{decision!r} is no decision.", hint="Approve it or deny it.")
    reason = form.get("reason", "").strip()
    if len(reason) > MAX_REASON:
        raise BadInput(f"A reason has at most {MAX_REASON} characters, this one {len(reason)}.", hint="Shorten it.")
    if decision == "deny":
        return Verdict(decision="deny", reason=reason)
    if approval.kind == "question" and not reason:
        raise BadInput("The answer is empty.", hint="Say what the agent should know, or do not answer.")
    return Verdict(decision="approve", reason=reason, arguments=_read_arguments(form, approval))


def _read_arguments(form: Form, approval: Approval) -> dict[str, object] | None:
    """What the person put in place of the arguments; None when they left them as they were."""
    text = form.get("arguments", "").strip()
    if not text or approval.kind not in EDITABLE:
        return None
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise BadInput(f"The arguments are no JSON: {error}.", hint="Mend them below and approve again.") from None
    if not isinstance(given, dict):
        raise BadInput("The arguments must be a JSON object.", hint='For example {"path": "README.md"}.')
    edited = cast("dict[str, object]", given)
    if edited == json.loads(json.dumps(approval.arguments)):
        return None
    if MASK in text:
        raise BadInput(
            f"The arguments hold a masked secret ({MASK}), which would be sent as these three characters.",
            hint="Leave the arguments as they were, or take the masked one out.",
        )
    return edited


def _indented(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
