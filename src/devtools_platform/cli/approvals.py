"""`dev-tools task approvals`, `approve` and `deny`: what waits for a person, and what the person says."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from devtools_platform.cli.connection import AsJson, running_stack
from devtools_platform.cli.output import err, out, print_json, program
from devtools_platform.cli.stack import DataDir
from devtools_platform.core.approvals import MAX_REASON, Approval, Verdict
from devtools_platform.core.errors import BadInput


def approvals(
    task_id: Annotated[str | None, typer.Argument(help="Only those of this task.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What waits for a person, the longest waiting first, with exactly what would be done."""
    found = asyncio.run(running_stack(data_dir).list_approvals(status="pending", task_id=task_id, limit=500))
    if as_json:
        print_json([approval.model_dump(mode="json") for approval in found])
        return
    for approval in found:
        out.print(_describe(approval, data_dir), markup=False)
    if not found:
        err.print("Nothing waits for you.")


def approve(
    approval_id: str,
    arguments: Annotated[
        str | None, typer.Option(help="A JSON object to use in place of the arguments that were asked about.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept in the audit.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let it be done, as asked or with other arguments."""
    edited = read_arguments(arguments)
    _decide(approval_id, Verdict(decision="approve", reason=_reason(reason), arguments=edited), data_dir, as_json)


def deny(
    approval_id: str,
    reason: Annotated[str, typer.Option(help="The agent reads it, and the audit keeps it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Do not let it be done."""
    _decide(approval_id, Verdict(decision="deny", reason=_reason(reason)), data_dir, as_json)


def read_arguments(text: str | None) -> Mapping[str, object] | None:
    """The edited arguments. Raises `BadInput` for what is no JSON object."""
    if text is None:
        return None
    hint = """Give one JSON object in quotes: --arguments '{"path": "app.py"}'."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"--arguments is not JSON: {error}.", hint=hint) from None
    if not isinstance(found, dict):
        raise BadInput(f"--arguments is {text[:80]!r}, which is no JSON object.", hint=hint)
    return {str(name): value for name, value in found.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _reason(text: str) -> str:
    if len(text) > MAX_REASON:
        raise BadInput(f"The reason has {len(text)} characters; at most {MAX_REASON} are kept.", hint="Shorten it.")
    return text


def _decide(id_: str, verdict: Verdict, data_dir: Path | None, as_json: bool) -> None:
    decided = asyncio.run(running_stack(data_dir).decide(id_, verdict))
    if as_json:
        print_json(decided.model_dump(mode="json"))
    else:
        edited = " with edited arguments" if decided.edited_arguments is not None else ""
        out.print(f"{decided.id} {decided.status}{edited}: {decided.tool or decided.kind}", markup=False)


def _describe(approval: Approval, data_dir: Path | None) -> str:
    cost = "unknown" if approval.cost_usd is None else f"${approval.cost_usd:.4f}"
    where = f" --data-dir {data_dir}" if data_dir else ""
    lines = [
        f"{approval.id}  {approval.tool or approval.kind}  by {approval.agent} in task {approval.task_id}",
        f"  rule     {approval.rule}, risk {approval.risk}, {approval.environment}, cost so far {cost}",
        f"  expires  {approval.expires_at.isoformat(timespec='seconds')}",
    ]
    if approval.arguments:
        lines += _block(json.dumps(approval.arguments, indent=2, ensure_ascii=False, default=str))
    if approval.preview:
        lines += _block(approval.preview)
    lines.append(f"  decide   {program()} task approve {approval.id}{where}")
    return "\n".join([*lines, ""])


def _block(text: str) -> list[str]:
    return [f"    {_printable(line)}" for line in text.splitlines()]


def _printable(line: str) -> str:
    """A model wrote it: no control characters, or it could repaint what the person is about to approve."""
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in line
    )


COMMANDS: dict[str, Callable[..., Any]] = {"approvals": approvals, "approve": approve, "deny": deny}
