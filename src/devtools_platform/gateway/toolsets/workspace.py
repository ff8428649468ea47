"""The tool server `workspace`: an agent's hands in its own task's clone, and nowhere else.

Which clone is decided by the caller's token. Files are opened on the host without following links; every command
runs in the sandbox. What can go wrong is told to the agent in words it can act on.
"""

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devtools_platform.core.errors import BadInput, DevToolsError, ToolFailed
from devtools_platform.core.tasks import Finding
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.toolsets import analyzers, confined
from devtools_platform.gateway.toolsets.test_command import TestCommand, detect
from devtools_platform.kit import git
from devtools_platform.kit.sandbox import CommandResult, Limits, run_sandboxed

MAX_DIFF = 60_000
NO_TESTS = (
    "No test command was found in this repository. Give one in `dev-tools.toml`: "
    '[test] command = ["python", "-m", "pytest"]'
)


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ListFiles(_Arguments):
    """List the files of the repository: tracked ones and new ones, not ignored ones."""

    glob: str = Field(default="**", max_length=500, description="For example '**/*.py' or 'docs/**'.")
    limit: int = Field(default=500, ge=1, le=5000)


class ReadFile(_Arguments):
    """Read a text file, or some lines of it."""

    path: str = Field(max_length=1000, description="Relative to the top of the repository.")
    start_line: int = Field(default=1, ge=1)
    end_line: int | None = Field(default=None, ge=1, description="Inclusive.")


class SearchText(_Arguments):
    """Search all files with an extended regular expression; gives path:line:text."""

    pattern: str = Field(min_length=1, max_length=500)
    glob: str | None = Field(default=None, max_length=500)
    limit: int = Field(default=100, ge=1, le=1000)


class EditFile(_Arguments):
    """Replace one piece of text in a file. `old` must occur in it exactly once: give enough lines around it."""

    path: str = Field(max_length=1000)
    old: str = Field(min_length=1)
    new: str


class WriteFile(_Arguments):
    """Write a whole file, new or existing."""

    path: str = Field(max_length=1000)
    content: str


class DeleteFile(_Arguments):
    """Delete a file."""

    path: str = Field(max_length=1000)


class RunCommand(_Arguments):
    """Run a command in the sandbox, in /workspace: no network, nothing of the host."""

    command: list[str] = Field(min_length=1, max_length=200, description="Program and arguments; no shell.")


class RunTests(_Arguments):
    """Run the project's own tests in the sandbox."""


class Changes(_Arguments):
    """Show what was changed so far, as a diff against the commit the task started from."""


class Analyze(_Arguments):
    """Run the analyzers (ruff, bandit, secret shapes) over what was changed."""


@dataclass(frozen=True)
class _Entry:
    arguments: type[_Arguments]
    run: Callable[[Path, Any, Caller], Awaitable[ToolResult]]
    is_read_only: bool


class WorkspaceTools:
    """`workspaces / <task id>` is the clone a caller works in."""

    name = "workspace"

    def __init__(
        self, workspaces: Path, *, timeout_s: float, memory_mb: int, sandbox_program: Path | None = None
    ) -> None:
        self._workspaces = workspaces
        self._limits = Limits(timeout_s=timeout_s, memory_mb=memory_mb)
        self._program = sandbox_program
        self._entries = {
            "list_files": _Entry(ListFiles, self._list_files, is_read_only=True),
            "read_file": _Entry(ReadFile, self._read_file, is_read_only=True),
            "search_text": _Entry(SearchText, self._search_text, is_read_only=True),
            "edit_file": _Entry(EditFile, self._edit_file, is_read_only=False),
            "write_file": _Entry(WriteFile, self._write_file, is_read_only=False),
            "delete_file": _Entry(DeleteFile, self._delete_file, is_read_only=False),
            "run_command": _Entry(RunCommand, self._run_command, is_read_only=False),
            "run_tests": _Entry(RunTests, self._run_tests, is_read_only=False),
            "changes": _Entry(Changes, self._changes, is_read_only=True),
            "analyze": _Entry(Analyze, self._analyze, is_read_only=True),
        }

    def list_tools(self) -> Sequence[Tool]:
        """All tools. Each may be repeated after an interruption: its effect stays in the clone."""
        return [
            Tool(name, entry.arguments.__doc__ or "", _schema(entry.arguments), entry.is_read_only, is_repeatable=True)
            for name, entry in self._entries.items()
        ]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        entry = self._entries[name]
        try:
            return await entry.run(self._root(caller), entry.arguments.model_validate(arguments), caller)
        except ValidationError as error:
            return ToolResult(_explain(error), is_error=True)
        except DevToolsError as error:
            return ToolResult(str(error), is_error=True)

    def _root(self, caller: Caller) -> Path:
        if not caller.task_id.isalnum():
            raise BadInput(f"{caller.task_id!r} is not the id of a task.")
        root = self._workspaces / caller.task_id
        if not root.is_dir():
            raise ToolFailed(f"Task {caller.task_id!r} has no workspace.")
        return root

    # -- files ---------------------------------------------------------------------------------------------------

    async def _list_files(self, root: Path, arguments: ListFiles, _: Caller) -> ToolResult:
        files = await self._files(root, arguments.glob)
        shown = files[: arguments.limit]
        more = f"\n… and {len(files) - len(shown)} more" if len(files) > len(shown) else ""
        return ToolResult("\n".join(shown) + more, {"files": shown, "total": len(files)})

    async def _files(self, root: Path, glob: str) -> list[str]:
        pattern = f":(glob){glob}"
        command = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", pattern)
        out = await git.git(*command, cwd=root)
        return sorted(path for path in out.split("\0") if path and (root / path).is_file())

    async def _read_file(self, root: Path, arguments: ReadFile, _: Caller) -> ToolResult:
        text = await asyncio.to_thread(confined.read_text, root, arguments.path)
        lines = text.splitlines(keepends=True)
        shown = "".join(lines[arguments.start_line - 1 : arguments.end_line])
        return ToolResult(shown, {"total_lines": len(lines), "start_line": arguments.start_line})

    async def _search_text(self, root: Path, arguments: SearchText, _: Caller) -> ToolResult:
        options = ("grep", "-n", "-I", "-E", "--untracked", "--no-color", "--max-count=50", "-e", arguments.pattern)
        where = ("--", f":(glob){arguments.glob}") if arguments.glob else ()
        out = await git.git(*options, *where, cwd=root, check=False)
        lines = [line[:500] for line in out.splitlines()]
        shown = lines[: arguments.limit]
        text = "\n".join(shown) or f"Nothing matches {arguments.pattern!r}."
        return ToolResult(text, {"matches": shown, "total": len(lines)})

    async def _edit_file(self, root: Path, arguments: EditFile, _: Caller) -> ToolResult:
        text = await asyncio.to_thread(confined.read_text, root, arguments.path)
        count = text.count(arguments.old)
        if count == 1:
            edited = text.replace(arguments.old, arguments.new)
            await asyncio.to_thread(confined.write_text, root, arguments.path, edited)
            return ToolResult(f"Edited {arguments.path}.")
        if count == 0 and arguments.new and text.count(arguments.new) == 1:
            return ToolResult(f"{arguments.path} has this edit already.")
        raise ToolFailed(_why_not(arguments, text, count))

    async def _write_file(self, root: Path, arguments: WriteFile, _: Caller) -> ToolResult:
        await asyncio.to_thread(confined.write_text, root, arguments.path, arguments.content)
        return ToolResult(f"Wrote {arguments.path}, {len(arguments.content.splitlines())} lines.")

    async def _delete_file(self, root: Path, arguments: DeleteFile, _: Caller) -> ToolResult:
        await asyncio.to_thread(confined.delete, root, arguments.path)
        return ToolResult(f"Deleted {arguments.path}.")

    # -- commands ------------------------------------------------------------------------------------------------

    async def _run_command(self, root: Path, arguments: RunCommand, caller: Caller) -> ToolResult:
        return _command_result(await self._run(root, arguments.command, caller))

    async def _run_tests(self, root: Path, _: RunTests, caller: Caller) -> ToolResult:
        found = await self._test_command(root)
        if found is None:
            return ToolResult(NO_TESTS, is_error=True)
        return _command_result(await self._run(root, found.command, caller, env=found.env))

    async def _test_command(self, root: Path) -> TestCommand | None:
        def read(path: str) -> str:
            try:
                return confined.read_text(root, path)
            except ToolFailed:
                return ""

        files = await self._files(root, "**")
        return await asyncio.to_thread(detect, files, read)

    async def _run(
        self,
        root: Path,
        command: Sequence[str],
        caller: Caller,
        *,
        env: Mapping[str, str] | None = None,
        is_writable: bool = True,
    ) -> CommandResult:
        is_isolated = not caller.without_sandbox
        if env and not is_isolated:
            env = {key: value.replace("/workspace", str(root)) for key, value in env.items()}
        return await run_sandboxed(
            command,
            workspace=root,
            limits=self._limits,
            env=env,
            is_writable=is_writable,
            program=self._program,
            is_isolated=is_isolated,
        )

    # -- the change ----------------------------------------------------------------------------------------------

    async def _changes(self, root: Path, _: Changes, __: Caller) -> ToolResult:
        base = await git.base_commit(root)
        stat = await git.diff_stat(root, base)
        text = await git.diff_text(root, base, MAX_DIFF)
        return ToolResult(text or "Nothing was changed.", stat.model_dump())

    async def _analyze(self, root: Path, _: Analyze, caller: Caller) -> ToolResult:
        base = await git.base_commit(root)
        added = analyzers.added_lines(await git.diff_text(root, base, confined.MAX_BYTES * 20, context=0))
        python = [path for path in await git.changed_paths(root, base) if path.endswith((".py", ".pyi"))]
        findings, ran, not_run = analyzers.from_secrets(added), ["secrets"], dict[str, str]()
        if python:
            commands = {
                "ruff": (*analyzers.RUFF, f"--select={analyzers.RUFF_RULES}", "--", *python),
                "bandit": (*analyzers.BANDIT, "--", *python),
            }
            readers = {"ruff": analyzers.from_ruff, "bandit": analyzers.from_bandit}
            for name, command in commands.items():
                result = await self._run(root, command, caller, is_writable=False)
                try:
                    findings += readers[name](result.output, added)
                    ran.append(name)
                except (ValueError, KeyError) as error:
                    not_run[name] = f"Its report cannot be read ({error}): {result.output[-300:]}"
        return _analysis(findings, ran, not_run)


def _schema(arguments: type[_Arguments]) -> dict[str, Any]:
    schema = arguments.model_json_schema()
    return {key: value for key, value in schema.items() if key not in {"title", "description"}}


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "arguments"
    return f"Argument {where!r}: {first['msg']}."


def _why_not(arguments: EditFile, text: str, count: int) -> str:
    if count > 1:
        return f"`old` occurs {count} times in {arguments.path}; give more lines around it, so that it occurs once."
    first = next((line for line in arguments.old.splitlines() if line.strip()), "")
    near = difflib.get_close_matches(first, text.splitlines(), n=3, cutoff=0.6)
    shown = "\n".join(near)
    return f"`old` does not occur in {arguments.path}." + (f" Similar lines there:\n{shown}" if near else "")


def _command_result(result: CommandResult) -> ToolResult:
    how = f"exit code {result.exit_code}" if result.exit_code is not None else f"ended by {result.ended_by}"
    data = {
        "command": list(result.command),
        "exit_code": result.exit_code,
        "duration_s": round(result.duration_s, 3),
        "ended_by": result.ended_by,
        "output": result.output,
    }
    return ToolResult(f"{how}\n{result.output}", data)


def _analysis(findings: Sequence[Finding], ran: Sequence[str], not_run: Mapping[str, str]) -> ToolResult:
    lines = [f"{f.path}:{f.line}: {f.severity} {f.source} {f.rule}: {f.message}" for f in findings]
    lines += [f"{name} did not run: {why}" for name, why in not_run.items()]
    data = {"findings": [f.model_dump(mode="json") for f in findings], "ran": list(ran), "not_run": dict(not_run)}
    return ToolResult("\n".join(lines) or "No findings.", data)
