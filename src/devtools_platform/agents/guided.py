"""The guided loop: how a small model mends code. The program does what is mechanical, the model writes one function.

Tests say what is wrong, the program finds the functions that could be at fault, the model rewrites one of them as a
whole, the tests judge. Candidates follow each other until the tests pass or the budget is used up. Only for a
repository whose tests fail: without a failing test nothing could judge a candidate.
"""

import ast
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, create_model

from devtools_platform.agents.runner import AgentRunner, RunId
from devtools_platform.agents.toolset import shorten
from devtools_platform.agents.types import AgentReport
from devtools_platform.core.tools import ToolResult

MAX_FILES = 40
MAX_TARGETS = 6
TEMPERATURES = (0.0, 0.4, 0.7)
_TEST_PATH = re.compile(r"(^|/)(tests?/|test_[^/]*$|[^/]*_test\.py$|conftest\.py$)")
_WORD = re.compile(r"[A-Za-z_]\w+")
_FRAME = re.compile(r'(?:File "(?:/workspace/)?|^)(?P<path>[\w./-]+\.py)(?:", line |:)(?P<line>\d+)', re.MULTILINE)
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """A function that may be at fault, and how much speaks for it."""

    path: str
    name: str
    start: int
    end: int
    source: str
    score: float

    @property
    def label(self) -> str:
        return f"{self.path}::{self.name}"


@dataclass
class GuidedEdit:
    """One guided run. `max_candidates` bounds the edits that are tried."""

    runner: AgentRunner
    run: RunId
    goal: str
    max_candidates: int
    _calls: int = 0
    _tried: set[str] = field(default_factory=set[str])

    async def solve(self) -> AgentReport | None:
        """A report, or None when the tests do not fail and so cannot guide."""
        before = await self._call("workspace_run_tests", {})
        if before.is_error or before.data.get("exit_code") == 0 or "exit_code" not in before.data:
            return None
        targets = await self._find_targets(before.text)
        if not targets:
            return AgentReport(
                outcome="cannot", summary="No function in this repository could be tied to the failing tests."
            )
        for target, temperature in self._schedule(await self._ask_order(targets, before.text)):
            if await self._try(target, before.text, temperature):
                what = f"Fix {target.name} in {target.path}"
                return AgentReport(
                    outcome="done",
                    summary=f"Rewrote {target.label}; the tests pass.",
                    commit_message=what[:72],
                )
        tried = ", ".join(target.label for target in targets)
        return AgentReport(
            outcome="cannot",
            summary=f"{len(self._tried)} candidate edits were tried in {tried}; with none of them do the tests pass.",
        )

    # -- where ----------------------------------------------------------------------------------------------------

    async def _find_targets(self, output: str) -> list[Target]:
        sources = await self._source_files(output)
        clues = await self._clues(output)
        frames = {(m["path"], int(m["line"])) for m in _FRAME.finditer(output)}
        targets: list[Target] = []
        for rank, path in enumerate(sources[:MAX_FILES]):
            text = (await self._call("workspace_read_file", {"path": path})).text
            for target in find_functions(path, text):
                score = self._score(target, clues, frames) + (1.0 / (1 + rank) if rank < MAX_TARGETS else 0.0)
                targets.append(replace(target, score=score))
        likely = [target for target in targets if target.score >= 1.0]
        return sorted(likely, key=lambda target: -target.score)[:MAX_TARGETS]

    async def _source_files(self, output: str) -> list[str]:
        """Python files that are not tests, those the search ranks first in front."""
        listed = await self._call("workspace_list_files", {"glob": "**/*.py"})
        files = [path for path in listed.data.get("files", ()) if not _TEST_PATH.search(path)]
        query = f"{self.goal} {shorten(output, 400)}"
        found = await self._call("context_search", {"query": query[:800], "limit": 10})
        ranked = [hit["path"] for hit in found.data.get("hits", ())]
        return sorted(files, key=lambda path: ranked.index(path) if path in ranked else len(ranked))

    async def _clues(self, output: str) -> set[str]:
        """Names in the goal and in the bodies of the failing tests."""
        words = set(_WORD.findall(self.goal))
        failing = set(re.findall(r"\b(test_\w+)", output))
        for path in {m["path"] for m in _FRAME.finditer(output) if _TEST_PATH.search(m["path"])}:
            read = await self._call("workspace_read_file", {"path": path})
            if read.is_error:
                continue
            for function in find_functions(path, read.text):
                if function.name.rsplit(".", 1)[-1] in failing:
                    words |= set(_WORD.findall(function.source))
        return words

    def _score(self, target: Target, clues: set[str], frames: set[tuple[str, int]]) -> float:
        name = target.name.rsplit(".", 1)[-1]
        is_in_frame = any(path == target.path and target.start <= line <= target.end for path, line in frames)
        is_named = name in clues
        is_owner_named = "." in target.name and target.name.split(".")[0] in clues
        return 3.0 * is_named + 2.0 * is_in_frame + 0.8 * is_owner_named

    async def _ask_order(self, targets: list[Target], output: str) -> list[Target]:
        """The model's pick first, the rest by score. Not asked when the evidence is clear."""
        if len(targets) == 1 or targets[0].score >= targets[1].score + 2.0:
            return targets
        labels = tuple(target.label for target in targets)
        choice: type[BaseModel] = create_model("Choice", function=(Literal[labels], ...))  # pyright: ignore[reportUnknownVariableType, reportCallIssue, reportArgumentType]
        listing = "\n\n".join(f"{t.label}\n{shorten(t.source, 600)}" for t in targets[:4])
        prompt = f"{listing}\n\nFailing tests:\n{shorten(output, 1500)}\n\nWhich function contains the bug?"
        picked = await self.runner.ask(self.run, prompt, choice, max_tokens=100)
        label = picked.model_dump()["function"]
        return sorted(targets, key=lambda target: target.label != label)

    def _schedule(self, targets: list[Target]) -> Iterable[tuple[Target, float]]:
        """Rounds over the targets: the likeliest is tried at every temperature before the tail is tried at all."""
        first, rest = targets[:1], targets[1:]
        order = [(t, temperature) for temperature in TEMPERATURES for t in first]
        order[1:1] = [(t, 0.0) for t in rest[:1]]
        order += [(t, temperature) for t in rest[1:] for temperature in (0.0,)]
        order += [(t, 0.6) for t in rest]
        return order[: self.max_candidates]

    # -- what -----------------------------------------------------------------------------------------------------

    async def _try(self, target: Target, output: str, temperature: float) -> bool:
        """Write one candidate and let the tests judge it; a failing one is taken back."""
        answer = await self.runner.ask(
            self.run,
            _prompt(target, self.goal, output),
            str,
            temperature=temperature,
            max_tokens=_budget(target),
        )
        candidate = extract_function(answer, target)
        if candidate is None or candidate in self._tried or candidate == target.source:
            return False
        self._tried.add(candidate)
        edit = {"path": target.path, "old": target.source, "new": candidate}
        if (await self._call("workspace_edit_file", edit)).is_error:
            return False
        if (await self._call("workspace_run_tests", {})).data.get("exit_code") == 0:
            return True
        await self._call("workspace_edit_file", {"path": target.path, "old": candidate, "new": target.source})
        return False

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        self._calls += 1
        return await self.runner.tools.call(self.run.caller, name, arguments, f"{self.run}:guided:{self._calls}")


def find_functions(path: str, text: str) -> list[Target]:
    """Every function and method of a Python file, decorators included; none where it does not parse."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    lines = text.splitlines()
    return [_target(path, lines, prefix, node) for prefix, node in _walk(tree, "")]


def _walk(node: ast.AST, prefix: str) -> Iterable[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix, child
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{prefix}{child.name}.")
        else:
            yield from _walk(child, prefix)


def _target(path: str, lines: list[str], prefix: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Target:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    end = node.end_lineno or node.lineno
    return Target(path, prefix + node.name, start, end, "\n".join(lines[start - 1 : end]), 0.0)


def _prompt(target: Target, goal: str, output: str) -> str:
    # Stable parts first: the server reuses the prompt's prefix between candidates.
    return (
        f"The function below, from {target.path}, has a bug.\n\n"
        f"```python\n{textwrap.dedent(target.source)}\n```\n\n"
        f"Task: {shorten(goal, 1200)}\n\nFailing test output:\n{shorten(output, 1500)}\n\n"
        "Return only the corrected function, whole, in one ```python block. Change as little as possible."
    )


def _budget(target: Target) -> int:
    return min(1500, 200 + len(target.source) // 2)


def extract_function(answer: str, target: Target) -> str | None:
    """The rewritten function out of a model's answer, indented as the old one; None when there is none.

    It must parse and define the same name: anything else would not replace what it is meant to replace.
    """
    name = target.name.rsplit(".", 1)[-1]
    for block in [*_BLOCK.findall(answer), answer]:
        code = textwrap.dedent(block.expandtabs(4)).strip("\n")
        try:
            nodes = ast.parse(code).body
        except (SyntaxError, ValueError):
            continue
        found = next(
            (
                n
                for n in ast.walk(ast.Module(nodes, []))
                if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and n.name == name
            ),
            None,
        )
        if found is not None:
            return _cut_out(code, found, target.source)
    return None


def _cut_out(code: str, node: ast.FunctionDef | ast.AsyncFunctionDef, old: str) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    new = textwrap.dedent("\n".join(code.splitlines()[first - 1 : node.end_lineno]))
    old_first = old.splitlines()[0]
    indent = old_first[: len(old_first) - len(old_first.lstrip())]
    return textwrap.indent(new, indent)
