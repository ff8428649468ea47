"""What the workspace's tools answer: a text for the model and the same as data."""

from dataclasses import asdict

from devtools_platform.core.errors import DevToolsError, ToolFailed
from devtools_platform.core.redact import redact, redact_text
from devtools_platform.core.tools import ToolResult
from devtools_platform.gateway.toolsets.analyzers import Analysis
from devtools_platform.gateway.toolsets.arguments import SearchText
from devtools_platform.gateway.toolsets.patches import Applied
from devtools_platform.kit.sandbox import CommandResult

MAX_LINE_CHARS = 300
NO_MATCH = 1
"""What `git grep` ends with when nothing matches."""


def search_result(done: CommandResult, given: SearchText) -> ToolResult:
    if done.exit_code == NO_MATCH and not done.output:
        return ToolResult("Nothing matches.", {"matches": [], "is_complete": True})
    if done.exit_code != 0 and done.ended_by != "output":
        ending = f"was ended by its {done.ended_by} limit" if done.ended_by else "failed"
        raise ToolFailed(f"The search {ending}: {done.output[-500:].strip()}")
    found = [line[:MAX_LINE_CHARS] for line in done.output.split("\n") if line]
    shown = found[: given.limit]
    is_complete = len(shown) == len(found) and done.ended_by is None
    more = "" if is_complete else "\n[... more matches; narrow the pattern or give a glob ...]"
    return ToolResult("\n".join(shown) + more, {"matches": shown, "is_complete": is_complete})


def command_result(done: CommandResult) -> ToolResult:
    """A command that ran is no tool error, whatever its exit code: that is the answer."""
    ending = f"Ended by its {done.ended_by} limit" if done.ended_by else f"Exit code {done.exit_code}"
    text = f"$ {' '.join(done.command)}\n{done.output.rstrip()}\n[{ending} after {done.duration_s:.1f} s]"
    return ToolResult(redact_text(text), redact(asdict(done)))


def analysis_result(analysis: Analysis) -> ToolResult:
    lines = [
        f"{'BLOCKING' if f.is_blocking else f.severity}: {f.path}:{f.line}: {f.message} [{f.source} {f.rule}]"
        for f in analysis.findings
    ]
    lines += [f"Not run: {missing.what}: {missing.why}" for missing in analysis.not_run]
    lines += [f"[... {analysis.omitted} lesser findings left out ...]"] if analysis.omitted else []
    data = {
        "findings": [finding.model_dump() for finding in analysis.findings],
        "ran": list(analysis.ran),
        "not_run": [missing.model_dump() for missing in analysis.not_run],
        "omitted": analysis.omitted,
    }
    return ToolResult("\n".join(lines) or f"No findings ({', '.join(analysis.ran)}).", data)


def patch_result(applied: Applied) -> ToolResult:
    data = {"added": list(applied.added), "updated": list(applied.updated), "deleted": list(applied.deleted)}
    said = [f"{name.capitalize()} {', '.join(paths)}." for name, paths in data.items() if paths]
    return ToolResult(" ".join(said) or "Everything is as the patch wants it already.", data)


def words(error: DevToolsError) -> str:
    """A tool's own message says what to do next; other errors need their hint for that."""
    return str(error) if isinstance(error, ToolFailed) else f"{error} {error.hint}"
