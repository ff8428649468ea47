"""code-review's run: analyzers first, then the model's judgement in a fresh context, then a verdict by rule.

A blocking finding of an analyzer blocks whatever the model says. The model's own findings block from severity
`medium` on, except with a small model: its judgement is kept as a remark, because it is wrong too often to decide.
Without a model the analyzers judge alone, and the review says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from devtools_platform.agents import prompts
from devtools_platform.agents.runner import AgentRunner, RunId
from devtools_platform.agents.types import Judgement, Suspended, TaskEnded
from devtools_platform.core.tasks import Degradation, Finding, Review, TestRun

MAX_DIFF_FOR_SMALL = 6_000
BLOCKING = frozenset({"medium", "high"})


@dataclass
class Reviewer:
    runner: AgentRunner
    is_small: bool
    missing_model: str = ""
    """Why there is no model, and which setting gives one; empty when there is one."""

    async def review(self, run: RunId, request: str, tests: TestRun | None) -> tuple[Review, list[Degradation]]:
        """The verdict on the change in the run's workspace, and what could not be looked at."""
        analysis = await self.runner.tools.call(run.caller, "workspace_analyze", {}, f"{run}:analyze")
        if analysis.is_error:
            raise TaskEnded("internal", f"The change could not be analysed: {analysis.text}")
        found: Sequence[Mapping[str, Any]] = analysis.data["findings"]
        degraded = [
            Degradation(what=f"review without {missing['what']}", why=str(missing["why"]))
            for missing in analysis.data["not_run"]
        ]
        findings = [Finding.model_validate(finding) for finding in found]
        ran: Sequence[str] = analysis.data["ran"]
        if not ran:
            findings.append(_not_analysed(analysis.text))
        if self.missing_model:
            degraded.append(Degradation(what="review without a model", why=self.missing_model))
            return decide(findings, ran), degraded
        changes = await self.runner.tools.call(run.caller, "workspace_changes", {}, f"{run}:changes")
        judgement = await self._judge(run, request, changes.text, tests, found)
        if self.is_small:
            why = "The model is small: its judgement is shown, analyzers and tests decide."
            degraded.append(Degradation(what="model's review is advisory", why=why))
        return decide([*findings, *self._remarks(judgement)], (*ran, "model"), judgement.remark), degraded

    async def _judge(
        self,
        run: RunId,
        request: str,
        diff: str,
        tests: TestRun | None,
        findings: Sequence[Mapping[str, Any]],
    ) -> Judgement:
        if self.is_small:
            prompt = prompts.review_prompt(request, diff[:MAX_DIFF_FOR_SMALL], None, findings)
            return await self.runner.ask(run, prompt, Judgement, max_tokens=300)
        output = await self.runner.run(run, prompts.review_prompt(request, diff, tests, findings))
        if isinstance(output, Suspended):
            raise TaskEnded("internal", "The review asked for a tool that needs approval; it may only read.")
        return Judgement.model_validate(output)

    def _remarks(self, judgement: Judgement) -> list[Finding]:
        return [
            Finding(
                source="model",
                rule="judgement",
                severity=remark.severity,
                path=remark.path,
                line=remark.line,
                message=remark.message,
                is_blocking=self._blocks(judgement, remark.severity),
            )
            for remark in judgement.findings
        ]

    def _blocks(self, judgement: Judgement, severity: str) -> bool:
        return not self.is_small and judgement.verdict == "request_changes" and severity in BLOCKING


def decide(findings: Sequence[Finding], judged_by: Sequence[str], remark: str = "") -> Review:
    """The verdict by rule: one finding that blocks is enough, and nothing else is."""
    verdict = "request_changes" if any(finding.is_blocking for finding in findings) else "approve"
    return Review(verdict=verdict, judged_by=tuple(judged_by), findings=tuple(findings), remark=remark)


def _not_analysed(why: str) -> Finding:
    """A change that no analyzer has looked at is never approved."""
    return Finding(
        source="review", rule="not-analysed", severity="high", path="", line=None, message=why, is_blocking=True
    )
