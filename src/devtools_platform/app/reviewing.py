"""A review without a task, a stack or a model: what the analyzers say of a branch, in a clone of its own."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.app.sandbox import sandbox_of
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput, ProgramFailed
from devtools_platform.core.tasks import Degradation, Finding, Review
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.toolsets.analyzers import load_policy
from devtools_platform.gateway.toolsets.analyzers.dependencies import Audit
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit import git
from devtools_platform.kit.sandbox import Limits

REVIEW = "review"


@dataclass(frozen=True)
class BranchReview:
    """A review of commits. `not_run` names what could not be looked at, each with the reason."""

    review: Review
    not_run: tuple[Degradation, ...]
    base_commit: str
    head: str


def workspace_tools(settings: Settings, workspaces: Path) -> WorkspaceTools:
    """The tool server `workspace` as the settings have it. Raises `BadInput` for a wrong review policy."""
    return WorkspaceTools(
        workspaces,
        limits=Limits(settings.command_timeout_s, settings.command_memory_mb),
        sandbox=sandbox_of(settings),
        policy=load_policy(settings.review_policy),
        audit=Audit(settings.dependency_audit),
    )


async def review_branch(settings: Settings, repo: Path, base: str) -> BranchReview:
    """What HEAD of `repo` adds to where it left `base`. Uncommitted changes are not looked at.

    Raises `NotARepository`, `NoSandbox`, and `BadInput` when there is no such base.
    """
    found = await git.resolve_repository(repo)
    try:
        start = (await git.git("merge-base", "--end-of-options", base, found.head, cwd=found.path)).strip()
    except ProgramFailed as error:
        raise BadInput(
            f"{base!r} and HEAD of {str(found.path)!r} have no commit in common: {error}",
            hint="Name the branch or commit to compare with: `dev-tools review --base REF`.",
        ) from None
    if start == found.head:
        raise BadInput(f"HEAD of {str(found.path)!r} adds nothing to {base!r}.", hint="Commit the change first.")
    with tempfile.TemporaryDirectory(prefix="dev-tools-review-") as folder:
        clone = Path(folder) / REVIEW
        await git.clone_for_task(found, clone)
        await git.git("update-ref", git.BASE_REF, start, cwd=clone)
        result = await workspace_tools(settings, Path(folder)).call("analyze", {}, Caller(REVIEW, "code-review"))
    if result.is_error:
        raise BadInput(f"The change could not be analysed: {result.text}")
    findings = [Finding.model_validate(finding) for finding in result.data["findings"]]
    missing = [Degradation.model_validate(entry) for entry in result.data["not_run"]]
    if found.is_dirty:
        missing.append(Degradation(what="uncommitted changes", why="Only commits are reviewed."))
    from devtools_platform.agents.reviewing import decide  # brings the agents' runner: not for whoever serves tools

    return BranchReview(decide(findings, result.data["ran"]), tuple(missing), start, found.head)
