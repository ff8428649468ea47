"""An agent's run that stops in the middle, as data, and how a later run goes on from it.

A run never waits for a person: it would hold one of its agent's slots for days. It ends with the calls that
wait; the parent asks, and a run of its own takes up the conversation with the answers.
"""

from dataclasses import dataclass
from typing import Any

from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from devtools_platform.agents.types import Answer, Question, Suspended


@dataclass(frozen=True)
class Resumed:
    """What a run needs to go on: the conversation so far and the answers to what waited."""

    messages: list[ModelMessage]
    results: DeferredToolResults | None
    """None when no call waited, only money."""


def suspend(requests: DeferredToolRequests, messages: bytes) -> Suspended:
    """The calls that wait, in the order the model made them."""
    questions: list[Question] = []
    for call in requests.approvals:
        facts: dict[str, Any] = requests.metadata.get(call.tool_call_id) or {}
        known = {
            key: facts[key] for key in ("is_paused", "approval", "rule", "risk", "expires_after_s") if key in facts
        }
        arguments = facts.get("arguments", call.args_as_dict())
        questions.append(
            Question.model_validate(
                {"tool_call_id": call.tool_call_id, "tool": call.tool_name, "arguments": arguments, **known}
            )
        )
    return Suspended(messages=messages.decode(), questions=questions)


def resume(messages: str, answers: list[Answer]) -> Resumed:
    """A denied call tells the model so, with the person's reason; an approved one is made."""
    results = DeferredToolResults()
    if not answers:
        return Resumed(ModelMessagesTypeAdapter.validate_json(messages), None)
    for answer in answers:
        if answer.is_approved:
            results.approvals[answer.tool_call_id] = ToolApproved(override_args=answer.arguments)
            results.metadata[answer.tool_call_id] = {"approval": answer.approval}
        else:
            reason = f"A person denied this call. {answer.reason}".strip()
            results.approvals[answer.tool_call_id] = ToolDenied(reason)
    return Resumed(ModelMessagesTypeAdapter.validate_json(messages), results)
