"""Rollouts as tools: look, diagnose, and propose a plan. Nothing here changes a host.

A plan that an agent proposes carries a hash; a person who approves it starts exactly that one by command.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from devtools_platform.core.errors import BadInput, DevToolsError
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.deploy.rollouts import Rollouts
from devtools_platform.deploy.types import Options, Plan
from devtools_platform.kit.arguments import Arguments, read_arguments

MAX_TEXT = 12_000


class StatusArguments(Arguments):
    """Arguments of `status`."""


class DebugArguments(Arguments):
    """Arguments of `debug`."""

    service: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$",
        description="A service of the release or of its data, such as `stack`, or an agent.",
    )
    lines: int = Field(default=50, ge=1, le=300, description="Log lines of each container.")


class PlanArguments(Arguments):
    """Arguments of `plan`."""

    release: str = Field(
        default="latest", pattern=r"^[a-z0-9]{1,64}$", description="A release: its number, its git sha, or `latest`."
    )


ARGUMENTS: dict[str, type[Arguments]] = {
    "status": StatusArguments,
    "debug": DebugArguments,
    "plan": PlanArguments,
}
DESCRIPTIONS = {
    "status": "Which release each host runs, what can be gone back to, and whether a rollout is going on.",
    "debug": "One service on every host: state, health checks, last log lines, image against release, disk, audit.",
    "plan": "What rolling a release out would do, step by step, with the hash that a person approves. Changes nothing.",
}

MakePlan = Callable[[str], Awaitable[Plan]]


class DeployTools:
    """`ToolServer` named `deploy`."""

    name = "deploy"

    def __init__(self, rollouts: Callable[[], Rollouts], make_plan: MakePlan) -> None:
        self.rollouts = rollouts
        self.make_plan = make_plan

    def list_tools(self) -> Sequence[Tool]:
        return [
            Tool(name, DESCRIPTIONS[name], arguments.model_json_schema(), is_read_only=True, is_for_people=True)
            for name, arguments in ARGUMENTS.items()
        ]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        try:
            if name not in ARGUMENTS:
                raise BadInput(f"There is no tool {name!r}.", hint=f"The tools are {', '.join(ARGUMENTS)}.")
            return await self._call(read_arguments(ARGUMENTS[name], arguments))
        except DevToolsError as error:
            return ToolResult(str(error), error.to_dict(), is_error=True)

    async def _call(self, asked: Arguments) -> ToolResult:
        match asked:
            case DebugArguments():
                return _show_debug(asked.service, await self.rollouts().debug(asked.service, asked.lines))
            case PlanArguments():
                return _show_plan(await self.make_plan(asked.release))
            case _:
                situation = await self.rollouts().status(recover=False)
                states = {host: state.model_dump(mode="json") for host, state in situation.states.items()}
                return ToolResult(
                    "\n".join(_line(host, state) for host, state in states.items()) or "No host answers.",
                    {"hosts": states, "unreachable": dict(situation.unreachable)},
                )


def plan_options() -> Options:
    """How patient a proposed rollout is: as the command is by default."""
    return Options()


def _show_debug(service: str, found: Mapping[str, dict[str, Any]]) -> ToolResult:
    parts: list[str] = []
    for host, facts in found.items():
        for one in facts["containers"]:
            parts.append(f"## {service} on {host} ({one['project']}): {one['state']}, release {one['release']}")
            parts += [f"health: {entry['exit_code']} {entry['output']}" for entry in one["health"]]
            parts.append(one["log"])
        parts.append(
            f"{host}: {facts['free_mb']} MB free, audit {'whole' if facts['audit_broken_at'] is None else 'BROKEN'}"
        )
    return ToolResult(redact_text("\n".join(parts))[-MAX_TEXT:], {"hosts": redact(dict(found))})


def _show_plan(plan: Plan) -> ToolResult:
    lines = [f"{plan.kind} release {plan.seq}, commit {plan.git_sha}"]
    lines += [f"{number}. {step.phase} {step.action} on {step.host}" for number, step in enumerate(plan.steps, 1)]
    lines.append(f"A person approves it with: dev-tools rollout start {plan.seq} --plan {plan.hash}")
    return ToolResult("\n".join(lines), {**plan.model_dump(mode="json"), "hash": plan.hash})


def _line(host: str, state: Mapping[str, Any]) -> str:
    current, journal = state["current"], state["journal"]
    now = f"release {current['seq']} ({current['git_sha'][:12]}) on {state['live']}" if current else "no release"
    return f"{host}: {now}" + (f"; {journal['phase']}: release {journal['seq']}" if journal else "")
