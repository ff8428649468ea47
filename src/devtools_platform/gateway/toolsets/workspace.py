"""The tool server `workspace`: everything an agent can do to the clone of its task, and nothing beyond it.

Which clone is decided by the caller's verified identity, never by an argument. Files are touched through
`files`, commands run in the sandbox. Calls of one task take turns: while a command runs, nothing else of ours
reads the files it may be swapping.
"""

import asyncio
import errno
import re
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from devtools_platform.core.errors import DevToolsError, DiskFull, NotFound, ToolFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.core.tools import Caller, Tool, ToolResult
from devtools_platform.gateway.toolsets import files
from devtools_platform.gateway.toolsets.analyzers import (
    Policy,
    Review,
    analyze,
    load_policy,
    parse_review_config,
)
from devtools_platform.gateway.toolsets.analyzers.dependencies import Audit
from devtools_platform.gateway.toolsets.answers import (
    analysis_result,
    command_result,
    patch_result,
    search_result,
    words,
)
from devtools_platform.gateway.toolsets.arguments import (
    ApplyPatch,
    Arguments,
    DeleteFile,
    EditFile,
    ListFiles,
    NoArguments,
    ReadFile,
    RunCommand,
    RunTests,
    Scaffold,
    SearchText,
    WriteFile,
    parse_arguments,
    schema_of,
)
from devtools_platform.gateway.toolsets.editing import replace_once
from devtools_platform.gateway.toolsets.patches import apply_patch, parse_patch
from devtools_platform.gateway.toolsets.scaffolds import scaffold
from devtools_platform.gateway.toolsets.test_command import (
    CONFIG_FILE,
    HOW_TO_CONFIGURE,
    TestCommand,
    TestCommandDetector,
    TestConfig,
    detect_test_command,
    parse_config,
)
from devtools_platform.kit import git
from devtools_platform.kit.sandbox import (
    WORKSPACE,
    Bubblewrap,
    Limits,
    Sandbox,
    has_own_system,
    interpreter_paths,
    run_sandboxed,
    with_image,
)

MAX_READ_CHARS = 60_000
MAX_DIFF_CHARS = 60_000
SEARCH_TIMEOUT_S = 20.0
SEARCH_OUTPUT_BYTES = 2_000_000
SYSTEM_PYTHON = Path("/usr/bin/python3")
IMAGE_PYTHON = Path("python3")
"""How an image's own interpreter is found: on its path."""
HOW_TO_PATCH = """Change one or several files by one patch; if any part does not fit, nothing is changed.
*** Begin Patch
*** Update File: src/app.py
@@ def greet():
     name = "you"
-    print("Hi")
+    print(f"Hello, {name}")
*** Add File: docs/new.md
+Each line of a new file begins with a plus.
*** Delete File: old.txt
*** End Patch
Paths are relative. In a hunk a line begins with a space (it stays), - or +; give three lines of context, exactly as
they are. `@@ LINE`, a line above them such as its class or function, tells alike places apart. `*** Move to: PATH`
after `*** Update File` renames. A unified diff is taken as well."""
NO_TEST_COMMAND = "no_test_command"

_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_STEP_CLONE = re.compile(r"--[A-Za-z0-9][A-Za-z0-9_-]{0,40}")


@dataclass(frozen=True)
class _Call:
    """One call: the task's clone, and whether its commands are isolated."""

    workspace: Path
    isolate: bool

    @property
    def root(self) -> str:
        """Where commands find the workspace."""
        return WORKSPACE if self.isolate else str(self.workspace)


class WorkspaceTools:
    """`workspaces` holds a clone per task, named by the task's id. `limits` bound every command."""

    name = "workspace"

    def __init__(
        self,
        workspaces: Path,
        *,
        limits: Limits,
        detect: TestCommandDetector = detect_test_command,
        sandbox: Sandbox | None = None,
        policy: Policy | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._workspaces = workspaces
        self._limits = limits
        self._sandbox = sandbox or Bubblewrap()
        self._detect = detect
        self._policy = policy or load_policy()
        self._audit = audit or Audit()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tools = _by_name(self)

    def list_tools(self) -> Sequence[Tool]:
        return [entry.tool for entry in self._tools.values()]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> ToolResult:
        """Run one tool for `caller`. What an agent can act on comes back with `is_error`."""
        try:
            entry = self._tools.get(name)
            if entry is None:
                raise NotFound(f"There is no tool {name!r}.", hint=f"There are: {', '.join(self._tools)}.")
            call = _Call(self._workspace_of(caller), isolate=not caller.without_sandbox)
            parsed = parse_arguments(entry.arguments, arguments)
            async with self._turns[caller.folder]:
                return await entry.run(call, parsed)
        except DevToolsError as error:
            return ToolResult(text=words(error), data=error.to_dict(), is_error=True)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            full = DiskFull("There is no room left where workspaces are kept.", hint="Free some disk space.")
            return ToolResult(text=words(full), data=full.to_dict(), is_error=True)

    async def list_files(self, call: _Call, given: ListFiles) -> ToolResult:
        names = await git.list_files(call.workspace, _anywhere(given.glob))
        shown = names[: given.limit]
        rest = f"\n[... {len(names) - len(shown)} more ...]" if len(names) > len(shown) else ""
        return ToolResult("\n".join(shown) + rest or "No file matches.", {"files": list(shown), "total": len(names)})

    async def read_file(self, call: _Call, given: ReadFile) -> ToolResult:
        """The text as it is, secrets included: what is read here is written back by edits."""
        text = await asyncio.to_thread(files.read_text, call.workspace, given.path)
        lines = [line for line in re.split(r"(?<=\n)", text) if line]
        if given.start_line > max(1, len(lines)):
            raise ToolFailed(f"{given.path!r} has {len(lines)} lines; line {given.start_line} is past its end.")
        part = "".join(lines[given.start_line - 1 : given.end_line])
        is_cut = len(part) > MAX_READ_CHARS
        if is_cut:
            part = part[:MAX_READ_CHARS] + "\n[... cut; read on with start_line ...]"
        return ToolResult(part, {"path": given.path, "total_lines": len(lines), "is_cut": is_cut})

    async def search_text(self, call: _Call, given: SearchText) -> ToolResult:
        command = ["git", "-c", "core.quotePath=false", "grep", "-n", "-I", "-E", "--untracked", "--no-color"]
        command += ["--full-name", "-e", given.pattern, "--"]
        command += [f":(glob){_anywhere(given.glob)}"] if given.glob else []
        # In the sandbox, although nothing of the repository runs: git grep follows linked folders.
        limits = replace(self._limits, timeout_s=SEARCH_TIMEOUT_S, output_bytes=SEARCH_OUTPUT_BYTES)
        done = await run_sandboxed(
            command,
            workspace=call.workspace,
            limits=limits,
            writable=False,
            isolate=call.isolate,
            sandbox=with_image(self._sandbox, None),
        )
        return search_result(done, given)

    async def edit_file(self, call: _Call, given: EditFile) -> ToolResult:
        def edit() -> None:
            text = files.read_text(call.workspace, given.path)
            files.write_text(call.workspace, given.path, replace_once(given.path, text, given.old, given.new))

        await asyncio.to_thread(edit)
        return ToolResult(f"Edited {given.path}.", {"path": given.path})

    async def write_file(self, call: _Call, given: WriteFile) -> ToolResult:
        is_new = await asyncio.to_thread(files.write_text, call.workspace, given.path, given.content)
        return ToolResult(f"{'Made' if is_new else 'Replaced'} {given.path}.", {"path": given.path, "is_new": is_new})

    async def delete_file(self, call: _Call, given: DeleteFile) -> ToolResult:
        await asyncio.to_thread(files.delete, call.workspace, given.path)
        return ToolResult(f"Deleted {given.path}.", {"path": given.path})

    async def apply_patch(self, call: _Call, given: ApplyPatch) -> ToolResult:
        changes = parse_patch(given.patch)
        return patch_result(await asyncio.to_thread(apply_patch, call.workspace, changes))

    async def run_command(self, call: _Call, given: RunCommand) -> ToolResult:
        if any("\0" in word for word in given.command):
            raise ToolFailed("A word of a command cannot hold a NUL character.")
        timeout_s = min(given.timeout_s or self._limits.timeout_s, self._limits.timeout_s)
        config = await _test_config(call)
        sandbox = self._sandbox_of(call, config)
        python = None if has_own_system(sandbox) else await self._project_python(call, config)
        done = await run_sandboxed(
            given.command,
            workspace=call.workspace,
            limits=replace(self._limits, timeout_s=timeout_s),
            isolate=call.isolate,
            python=python,
            loopback=True,
            sandbox=sandbox,
        )
        return command_result(done)

    async def run_tests(self, call: _Call, given: RunTests) -> ToolResult:
        paths = files.check_arguments(given.paths)
        config = await _test_config(call)
        sandbox = self._sandbox_of(call, config)
        if has_own_system(sandbox):
            python, found = None, await self._test_command(call, config, IMAGE_PYTHON)
        else:
            python = await self._project_python(call, config) or _any_python()
            found = await self._test_command(call, config, python)
        if found is None:
            data = {"code": NO_TEST_COMMAND, "message": HOW_TO_CONFIGURE}
            return ToolResult(HOW_TO_CONFIGURE, data, is_error=True)
        done = await run_sandboxed(
            found.on(paths),
            workspace=call.workspace,
            limits=self._limits,
            env=found.env,
            isolate=call.isolate,
            python=python,
            loopback=True,
            sandbox=sandbox,
        )
        return command_result(done)

    async def scaffold(self, call: _Call, given: Scaffold) -> ToolResult:
        config = await _test_config(call)
        found = await self._test_command(call, config, _any_python())
        names = await git.list_files(call.workspace)

        def make() -> dict[str, str]:
            made = scaffold(given.kind, names, lambda path: _read_if_text(call.workspace, path), found)
            for path, text in made.items():
                files.write_text(call.workspace, path, text)
            return made

        made = await asyncio.to_thread(make)
        return ToolResult(f"Wrote {', '.join(made)}.", {"files": list(made)})

    async def changes(self, call: _Call, _: NoArguments) -> ToolResult:
        base = await git.base_commit(call.workspace)
        stat, patch = await git.difference(call.workspace, base, MAX_DIFF_CHARS)
        text = redact_text(patch)
        return ToolResult(text or "Nothing changed.", {"base": base, "diff": text, "stat": stat.model_dump()})

    async def analyze(self, call: _Call, _: NoArguments) -> ToolResult:
        base, configured = await asyncio.gather(
            git.base_commit(call.workspace), git.settings_at(call.workspace, CONFIG_FILE)
        )
        review = Review(
            call.workspace,
            base,
            self._limits,
            isolate=call.isolate,
            sandbox=with_image(self._sandbox, None),
            python=await self._project_python(call, parse_config(configured)),
            config=parse_review_config(configured),
            policy=self._policy,
            audit=self._audit,
        )
        return analysis_result(await analyze(review))

    def _workspace_of(self, caller: Caller) -> Path:
        if not _TASK_ID.fullmatch(caller.task_id):
            raise NotFound(f"{caller.task_id!r} is not a task id.")
        if caller.workspace and not _STEP_CLONE.fullmatch(caller.workspace.removeprefix(caller.task_id)):
            raise NotFound(f"{caller.workspace!r} is no workspace of task {caller.task_id!r}.")
        folder = self._workspaces / caller.folder
        if folder.is_symlink() or not (folder / ".git").is_dir():
            raise NotFound(f"Task {caller.task_id!r} has no workspace.", hint="It is made when the task starts.")
        return folder

    def _sandbox_of(self, call: _Call, config: TestConfig) -> Sandbox:
        """What the repository's own commands run in: with Docker the image that it names, or the stack's."""
        if not call.isolate:
            return with_image(self._sandbox, None)
        return with_image(self._sandbox, config.image) if config.image else self._sandbox

    async def _test_command(self, call: _Call, config: TestConfig, python: Path) -> TestCommand | None:
        names = await git.list_files(call.workspace)

        def read(path: str) -> str | None:
            return _read_if_text(call.workspace, path)

        return await asyncio.to_thread(self._detect, names, read, config=config, python=str(python), root=call.root)

    async def _project_python(self, call: _Call, config: TestConfig) -> Path | None:
        """The interpreter of the person's repository: the configured one, or that of `.venv` or `venv`."""
        origin = await git.origin_of(call.workspace)
        if origin is None:
            return None
        wanted = [config.python] if config.python else [".venv/bin/python", "venv/bin/python"]
        usable = [origin / path for path in wanted if _is_visible(origin / path)]
        if config.python and not usable:
            raise ToolFailed(f"{CONFIG_FILE}: `[test] python` is {config.python!r}, which is no Python environment.")
        return usable[0] if usable else None


def _read_if_text(workspace: Path, path: str) -> str | None:
    try:
        return files.read_text(workspace, path)
    except ToolFailed:
        return None


async def _test_config(call: _Call) -> TestConfig:
    """From the repository's own commit: a task, or who wrote the pull request it starts from, must not choose how it
    is judged, nor what of the machine it is shown."""
    return parse_config(await git.settings_at(call.workspace, CONFIG_FILE))


def _any_python() -> Path:
    """Ours if it can run pytest, else the system's, which may."""
    return Path(sys.executable) if find_spec("pytest") or not SYSTEM_PYTHON.exists() else SYSTEM_PYTHON


def _is_visible(python: Path) -> bool:
    """Whether the sandbox can show `python`: it exists, and in an environment or installation of its own."""
    return python.is_file() and any(python.is_relative_to(folder) for folder in interpreter_paths(python))


def _anywhere(glob: str) -> str:
    """A pattern without a folder means any folder, as it does for git's ignore files."""
    return glob if "/" in glob else f"**/{glob}"


@dataclass(frozen=True)
class _Entry:
    tool: Tool
    arguments: type[Arguments]
    run: Callable[[_Call, Any], Awaitable[ToolResult]]


def _by_name(tools: WorkspaceTools) -> dict[str, _Entry]:
    """Name, arguments, what it does, whether it only reads: the whole toolset."""
    rows: list[tuple[Callable[[_Call, Any], Awaitable[ToolResult]], type[Arguments], bool, str]] = [
        (tools.list_files, ListFiles, True, "List the files of the repository (ignored files are left out)."),
        (tools.read_file, ReadFile, True, "Read a text file, or some lines of it, exactly as it is."),
        (
            tools.search_text,
            SearchText,
            True,
            "Search all files for a regular expression; gives path:line:text.",
        ),
        (
            tools.edit_file,
            EditFile,
            False,
            "Replace one passage of a file. `old` must match exactly once; add lines around it if need be.",
        ),
        (tools.write_file, WriteFile, False, "Make a new file, or replace a whole file."),
        (tools.delete_file, DeleteFile, False, "Delete one file."),
        (tools.apply_patch, ApplyPatch, False, HOW_TO_PATCH),
        (
            tools.run_command,
            RunCommand,
            False,
            "Run a program in the workspace, in a sandbox without network. Gives its exit code and output.",
        ),
        (tools.run_tests, RunTests, False, "Run the project's own tests. Exit code 0 means they pass."),
        (
            tools.scaffold,
            Scaffold,
            False,
            "Write a first pipeline, container file or API reference from what the repository has. Overwrites nothing.",
        ),
        (tools.changes, NoArguments, True, "Show everything changed since the task started, as a diff."),
        (
            tools.analyze,
            NoArguments,
            True,
            "Check the changes for errors, security problems and secrets. Mend what is marked BLOCKING.",
        ),
    ]
    return {
        run.__name__: _Entry(
            # All may be run once more after an interruption: what they do stays in the clone.
            Tool(run.__name__, description, schema_of(arguments), is_read_only, is_repeatable=True),
            arguments,
            run,
        )
        for run, arguments, is_read_only, description in rows
    }
