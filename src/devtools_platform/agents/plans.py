"""A task's plan: made, by rules or by the orchestrator, and carried out, steps at once where they may be.

Where a plan of the model's fails, there is a new one for the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from devtools_platform.agents import prompts
from devtools_platform.agents.crew import Means
from devtools_platform.agents.planning import goal_of, list_waves, to_plan
from devtools_platform.agents.types import (
    AgentReport,
    Merge,
    PlanDraft,
    RunCost,
    RunOutcome,
    TaskEnded,
)
from devtools_platform.core.agents import AgentName
from devtools_platform.core.tasks import (
    Plan,
    PlanStep,
    TestRun,
)

MAX_QUESTIONS = 2
COSTS = "costs"
"""The patch by which plans say what each step may cost."""
REPLAN = "replan"
"""The patch by which tasks that began before there were new plans end as they would have."""


@dataclass(frozen=True)
class Job:
    """A step that runs beside others: what its agent is told, and the clone it works in."""

    step: PlanStep
    prompt: str
    folder: str


class Planned:
    """The plan of one execution of a task."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.crew = means.crew
        self.progress = means.progress

    async def make(self) -> Plan:
        request = self.progress.request
        chosen = request.agent or self.crew.router.route(request.text)
        if chosen is not None:
            source = "request" if request.agent else "rules"
            plan = Plan(steps=(PlanStep(id="1", agent=chosen, goal=request.text),), source=source)
        else:
            plan = to_plan(await self._draft())
        return await self._adopt(plan)

    async def _adopt(self, plan: Plan) -> Plan:
        if await self.crew.durable.patched(COSTS):
            costs = await self.means.step("costs", lambda: self._estimate(plan), list[RunCost])
            known = [
                step.model_copy(update={"cost_usd": c.cost_usd, "cost_runs": c.runs})
                for step, c in zip(plan.steps, costs, strict=True)
            ]
            plan = plan.model_copy(update={"steps": tuple(known)})
        self.progress.plan = plan
        await self.means.tell("plan", plan.model_dump(mode="json"))
        return plan

    async def _estimate(self, plan: Plan) -> list[RunCost]:
        estimates = self.crew.estimates
        if estimates is None:
            return [RunCost() for _ in plan.steps]
        return [await estimates.cost_of_run(step.agent) for step in plan.steps]

    async def _draft(self) -> PlanDraft:
        """The orchestrator's draft; what it asks is answered by the person first."""
        question = ""
        for _ in range(MAX_QUESTIONS + 1):
            text = self.progress.request.text
            draft = PlanDraft.model_validate(
                await self.means.run_agent("orchestrator", prompts.plan_prompt(text), text)
            )
            if not draft.question:
                return draft
            question = draft.question
            clearer = prompts.answered(text, question, await self.means.questions.clarify(question))
            self.progress.request = self.progress.request.model_copy(update={"text": clearer})
        raise TaskEnded("not_solved", f"After {MAX_QUESTIONS} answers the request is still unclear: {question}")

    async def follow(self, plan: Plan, baseline: TestRun | None) -> Plan:
        """Carry the plan out; where one of the model's fails, a new one for the rest. Returns the last."""
        for replans in range(self.crew.limits.replans + 1):
            try:
                for wave in list_waves(plan.steps):
                    if len(wave) == 1:
                        await self._do(wave[0], baseline)
                    else:
                        await self._do_at_once(wave, baseline)
            except TaskEnded as end:
                is_hopeless = plan.source != "model" or end.reason != "not_solved"
                if is_hopeless or replans == self.crew.limits.replans or not await self.crew.durable.patched(REPLAN):
                    raise
                plan = await self._replan(plan, end.message)
            else:
                break
        return plan

    async def _replan(self, plan: Plan, problem: str) -> Plan:
        text = self.progress.request.text
        await self.means.degrade("the plan failed", f"A new one was made. {problem}")
        prompt = prompts.replan_prompt(text, plan, problem)
        draft = PlanDraft.model_validate(await self.means.run_agent("orchestrator", prompt, text))
        if draft.question:
            raise TaskEnded("not_solved", f"The plan failed ({problem}), and the orchestrator asks: {draft.question}")
        new = await self._adopt(to_plan(draft, first=int(plan.steps[-1].id) + 1))
        await self.means.questions.plan(new)
        return new

    async def _do(self, step: PlanStep, baseline: TestRun | None) -> None:
        prompt = prompts.step_prompt(self.progress.request.text, goal_of(step), baseline)
        report = await self.delegate(step.agent, step, prompt)
        self.progress.commit_message = self.progress.commit_message or report.commit_message

    async def _do_at_once(self, wave: Sequence[PlanStep], baseline: TestRun | None) -> None:
        """Steps that need nothing of each other, each in a clone of its own; then their changes go together.

        What does not go together is done again on top of the others. A step that fails does not lose the others'.
        """
        text, beside = self.progress.request.text, [step.id for step in wave]
        await self.means.questions.hold()
        said = await self.means.step("messages", self.means.take_messages, list[str])
        jobs: list[Job] = []
        for step in wave:
            data = {"agent": step.agent, "step": step.id, "goal": step.goal, "at_once": beside}
            await self.means.tell("delegated", data)
            prompt = prompts.with_messages(prompts.step_prompt(text, goal_of(step), baseline), said)
            # The attempt is part of it: a retry must not find the clone that an earlier one left behind.
            attempt = self.progress.workflow_id.partition(".")[2] or "1"
            name = f"{attempt}-{self.progress.snapshots}-{step.id}"
            folder = await self.means.step(
                "split", partial(self.crew.workspaces.split, self.means.workspace(), name), str
            )
            jobs.append(Job(step, prompt, folder))
        started = [self.means.child(job.step.agent, job.prompt, job.step.goal, None, job.folder) for job in jobs]
        outcomes = await self.crew.durable.children(started)
        ends = [
            await self._collect(job, RunOutcome.model_validate(raw)) for job, raw in zip(jobs, outcomes, strict=True)
        ]
        await self.means.take_snapshot()
        for end in ends:
            if end is not None:
                raise end

    async def _collect(self, job: Job, outcome: RunOutcome) -> TaskEnded | None:
        """Bring in what one of several steps did; returns why it did not, for the others still count."""
        step = job.step
        try:
            output = await self.means.settle(step.agent, job.prompt, step.goal, outcome, job.folder)
            report = AgentReport.model_validate(output)
            await self.means.tell("reported", {"agent": step.agent, "step": step.id, **report.model_dump(mode="json")})
            if report.outcome == "cannot":
                return TaskEnded("not_solved", f"{step.agent} could not do it: {report.summary}")
            merge = await self.means.step(
                "merge", partial(self.crew.workspaces.merge, self.means.workspace(), job.folder), Merge
            )
            if merge.conflicts:
                await self.means.tell("conflict", {"step": step.id, "files": merge.conflicts})
                await self.means.degrade(
                    "steps got in each other's way", f"Step {step.id} was done again after the others."
                )
                prompt = prompts.conflict_prompt(self.progress.request.text, goal_of(step), merge.conflicts)
                report = await self.delegate(step.agent, step, prompt)
        except TaskEnded as end:
            return end
        self.progress.commit_message = self.progress.commit_message or report.commit_message
        return None

    async def delegate(self, agent: AgentName, step: PlanStep, prompt: str) -> AgentReport:
        await self.means.tell("delegated", {"agent": agent, "step": step.id, "goal": step.goal})
        await self.means.questions.hold()
        said = await self.means.step("messages", self.means.take_messages, list[str])
        report = AgentReport.model_validate(
            await self.means.run_agent(agent, prompts.with_messages(prompt, said), step.goal)
        )
        await self.means.take_snapshot()
        await self.means.tell("reported", {"agent": agent, "step": step.id, **report.model_dump(mode="json")})
        if report.outcome == "cannot":
            raise TaskEnded("not_solved", f"{agent} could not do it: {report.summary}")
        return report
