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
from devtools_platform.agents.tool_calls import shorten
from devtools_platform.agents.types import AgentReport
from devtools_platform.core.tools import ToolResult

MAX_FILES = 40
MAX_TARGETS = 6
Shape = Literal["mend", "write"]
WAYS: tuple[tuple[Shape, float], ...] = (
    ("mend", 0.0),
    ("write", 0.0),
    ("mend", 0.6),
    ("write", 0.6),
    ("mend", 0.9),
    ("write", 0.9),
)
"""Prompt shape and temperature, in the order measured to solve most with fewest candidates (12 of 14 in six)."""
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
    _failing_tests: list[Target] = field(default_factory=list[Target])

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
        for target, shape, temperature in self._schedule(await self._ask_order(targets, before.text)):
            if await self._try(target, shape, before.text, temperature):
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
        # Sorted: a workflow that is replayed must make the same calls in the same order.
        for path in sorted({m["path"] for m in _FRAME.finditer(output) if _TEST_PATH.search(m["path"])}):
            read = await self._call("workspace_read_file", {"path": path})
            if read.is_error:
                continue
            for function in find_functions(path, read.text):
                if function.name.rsplit(".", 1)[-1] in failing:
                    self._failing_tests.append(function)
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

    def _schedule(self, targets: list[Target]) -> Iterable[tuple[Target, Shape, float]]:
        """The likeliest function in every way, the others once each. A shape that cannot be made is left out."""
        first, rest = targets[:1], targets[1:]
        order = [(target, *way) for target in first for way in WAYS[:4]]
        order += [(target, *WAYS[0]) for target in rest[:2]]
        order += [(target, *way) for target in first for way in WAYS[4:]]
        order += [(target, *way) for target in rest for way in WAYS[1:3]]
        return order[: self.max_candidates]

    # -- what ----------------------------------------------------------------------------------------------------

    async def _try(self, target: Target, shape: Shape, output: str, temperature: float) -> bool:
        """Write one candidate and let the tests judge it; a failing one is taken back."""
        tests = "\n\n".join(test.source for test in self._failing_tests)
        prompt = write_prompt(shape, target, self.goal, output, tests)
        if prompt is None:
            return False
        budget = min(1200, 150 + len(target.source) // 2)
        answer = await self.runner.ask(self.run, prompt, str, temperature=temperature, max_tokens=budget)
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


def write_prompt(shape: Shape, target: Target, goal: str, output: str, tests: str) -> str | None:
    """The question in one of two shapes, which fail on different bugs; None where a shape has nothing to go by.

    Both let the model talk: told to return only code, this one copies the bug (docs/decisions/0006). What stays the
    same between candidates stands first, so that the server reuses what it has read.
    """
    source = textwrap.dedent(target.source)
    if shape == "mend":
        return (
            f"Fix the bug in this function.\n\n```python\n{source}\n```\n\nBug: {shorten(goal, 800)}\n"
            f"Test failure: {failure_lines(output)}\n\nWrite the whole corrected function."
        )
    if not tests:
        return None
    return (
        f"Write this Python function:\n\n```python\n{signature(source)}\n```\n\nIt must pass this test:\n"
        f"```python\n{shorten(tests, 2000)}\n```\n\nA known mistake to avoid: {shorten(goal, 800)}\n\n"
        "Answer with the function only, in one ```python block."
    )


def failure_lines(output: str) -> str:
    """The lines that say what went wrong: pytest's `E` lines, or what unittest raised."""
    lines = [line[1:].strip() for line in output.splitlines() if re.match(r"E\s{2,}\S", line)]
    lines = lines or [line for line in output.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    return shorten("\n".join(lines), 600) or "the tests fail"


def signature(source: str) -> str:
    """The first line of a function and its docstring, without its body."""
    try:
        node = ast.parse(source).body[0]
    except (SyntaxError, IndexError):
        return source.splitlines()[0]
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return source.splitlines()[0]
    first = node.body[0]
    is_documented = ast.get_docstring(node) is not None
    end = (first.end_lineno if is_documented else first.lineno - 1) or first.lineno
    return "\n".join(source.splitlines()[: max(end, node.lineno)])


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
