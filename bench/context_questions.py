"""Questions whose answers are known: taken from what people wrote of their own code, which is cut out of it."""

import ast
import collections
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from devtools_platform.context.chunking import find_skipped_path

GIT = ["git", "-c", "user.name=bench", "-c", "user.email=bench@example.invalid"]
SEED = 8
LARGEST_BYTES = 400_000
NOT_ASKED = re.compile(
    r"(^|/)(tests?|testdata|vendor|_?examples?|bench(es|marks?)?|node_modules)/|_test\.go$|\.(test|spec)\.|\.d\.ts$"
)


SAYS_NOTHING = re.compile(r"copyright|licen[cs]e|generated|deprecated|http", re.IGNORECASE)
GO_DECLARES = re.compile(r"(?:func\s*(?:\([^)]*\)\s*)?|type\s+|var\s+|const\s+|package\s+)(\w+)")


@dataclass(frozen=True)
class Question:
    """A text, and the file and lines that answer it."""

    text: str
    path: str
    first: int
    last: int


def take_functions(source: Path, packages: Sequence[str], out: Path, size: int, asked: int) -> list[Question]:
    """`size` functions of the packages, drawn by chance, their docstrings cut out, in files of their own tree."""
    functions: list[tuple[str, Any, list[Any]]] = []
    lines: dict[str, list[str]] = {}
    for package in packages:
        for file in sorted((source / package).rglob("*.py")):
            path = str(file.relative_to(source))
            if re.search(r"(^|/)tests?/", path) or file.stat().st_size > 900_000:
                continue
            if (tree := parse(file)) is None:
                continue
            lines[path] = file.read_text().split("\n")
            functions += [(path, function, around) for function, around in list_functions(tree, [])]
    random.Random(SEED).shuffle(functions)
    kept: dict[str, dict[int, str]] = collections.defaultdict(dict)
    questions: list[Question] = []
    for path, function, around in functions[:size]:
        cut(lines[path], kept[path], function, around)
        summary = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())[:400]
        if len(summary.split()) >= 4 and len(function.body) > 1:
            questions.append(Question(summary, path, function.lineno, function.end_lineno))
    for path, numbered in kept.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text("\n".join(numbered.get(i, "") for i in range(max(numbered) + 1)) + "\n")
    times = collections.Counter(question.text.lower() for question in questions)
    questions = [question for question in questions if times[question.text.lower()] == 1]
    random.Random(SEED).shuffle(questions)
    commit(out)
    return questions[:asked]


def parse(file: Path) -> ast.Module | None:
    """None for what is not Python of this version."""
    try:
        return ast.parse(file.read_text())
    except (SyntaxError, ValueError):
        return None


def list_functions(node: Any, around: list[Any]) -> Any:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if (child.end_lineno or 0) - child.lineno >= 3:
                yield child, around
        elif isinstance(child, ast.ClassDef):
            yield from list_functions(child, [*around, child])
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from list_functions(child, around)


def cut(lines: list[str], kept: dict[int, str], function: Any, around: list[Any]) -> None:
    kept.update({cls.lineno - 1: lines[cls.lineno - 1] for cls in around})
    first = min([function.lineno, *[d.lineno for d in function.decorator_list]])
    docstring = function.body[0] if ast.get_docstring(function) else None
    for number in range(first - 1, function.end_lineno):
        if docstring is None or not docstring.lineno - 1 <= number < docstring.end_lineno:
            kept[number] = lines[number]
        elif len(function.body) == 1 and number == docstring.lineno - 1:
            kept[number] = " " * docstring.col_offset + "..."


def take_sections(source: Path, out: Path, asked: int) -> list[Question]:
    """Markdown files with their headings cut out; each heading is the question for its section."""
    questions: list[Question] = []
    for file in sorted(source.rglob("*.md")):
        path = str(file.relative_to(source))
        if find_skipped_path(path, file.stat().st_size):  # other people's, which nobody indexes
            continue
        lines = file.read_text(errors="replace").split("\n")
        heads = [i for i, line in enumerate(lines) if re.match(r"#{1,4}\s+\S", line)]
        for start, end in pairwise([*heads, len(lines)]):
            title = lines[start].strip("# ")
            if len(title.split()) > 1 and sum(len(line) for line in lines[start + 1 : end]) > 150:
                questions.append(Question(title, path, start + 2, end))
            lines[start] = "##"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text("\n".join(lines))
    times = collections.Counter(question.text.lower() for question in questions)
    questions = [question for question in questions if times[question.text.lower()] == 1]
    random.Random(SEED).shuffle(questions)
    commit(out)
    return questions[:asked]


def take_files(source: Path, package: str, out: Path, asked: int) -> list[Question]:
    """A package without the docstrings of modules and classes; their first sentences ask for the file."""
    found: dict[str, list[Question]] = {"module": [], "class": []}
    for file in sorted((source / package).rglob("*.py")):
        path = str(file.relative_to(source))
        if re.search(r"(^|/)tests?/|test_", path) or file.stat().st_size > 600_000:
            continue
        if (tree := parse(file)) is None:
            continue
        lines = file.read_text().split("\n")
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef) or not (docstring := ast.get_docstring(node)):
                continue
            first, last = node.body[0].lineno, node.body[0].end_lineno or 0
            paragraph = " ".join(docstring.split("\n\n")[0].split())
            sentence = re.split(r"(?<=[.!?])\s", paragraph)[0].rstrip(".")[:300]
            if len(sentence.split()) >= 4 and not re.search(r"copyright|licen[cs]e|generated", sentence, re.IGNORECASE):
                kind = "class" if isinstance(node, ast.ClassDef) else "module"
                found[kind].append(Question(sentence, path, 1, len(lines)))
            if len(node.body) > 1:
                lines[first - 1 : last] = [""] * (last - first + 1)
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text("\n".join(lines))
    commit(out)
    times = collections.Counter(question.text.lower() for question in [*found["module"], *found["class"]])
    questions: list[Question] = []
    for kind in found.values():
        once = [question for question in kind if times[question.text.lower()] == 1]
        random.Random(SEED).shuffle(once)
        questions += once[: asked // 2]
    return questions


def take_comments(source: Path, out: Path, asked: int) -> list[Question]:
    """A tree of Go, Rust or TypeScript without its doc comments; the first sentence of each asks for its file."""
    questions: list[Question] = []
    for file in sorted(source.rglob("*")):
        path = str(file.relative_to(source))
        read = {".go": read_go, ".rs": read_rust, ".ts": read_typescript, ".tsx": read_typescript}.get(file.suffix)
        if read is None or NOT_ASKED.search(path) or not file.is_file() or file.stat().st_size > LARGEST_BYTES:
            continue
        lines = file.read_text(errors="replace").split("\n")
        for first, last, text in list(read(lines)):
            lines[first:last] = [""] * (last - first)
            sentence = re.sub(r"[`\[\]]", "", re.split(r"(?<=[.!?])\s", text)[0].rstrip(".")[:300])
            if len(sentence.split()) >= 4 and not re.search(
                r"copyright|licen[cs]e|generated|deprecated|http", sentence, re.IGNORECASE
            ):
                questions.append(Question(sentence, path, 1, len(lines)))
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_text("\n".join(lines))
    commit(out)
    times = collections.Counter(question.text.lower() for question in questions)
    questions = [question for question in questions if times[question.text.lower()] == 1]
    random.Random(SEED).shuffle(questions)
    return questions[:asked]


Comment = tuple[int, int, str]
"""The first line of a doc comment, the line after its last, and what it says."""


def read_go(lines: Sequence[str]) -> Iterator[Comment]:
    """Those above top-level declarations, without the declared name they begin with."""
    for first, last in find_runs(lines, "//"):
        declared = GO_DECLARES.match(lines[last]) if last < len(lines) else None
        if declared is None or lines[first].startswith("//go:"):
            continue
        text = " ".join(" ".join(line.strip().removeprefix("//") for line in lines[first:last]).split())
        name = rf"^(A |An |The |Package )?{declared[1]}\s+(is |are |implements |returns )?"
        yield first, last, re.sub(name, "", text)


def read_rust(lines: Sequence[str]) -> Iterator[Comment]:
    """Those of modules and of what is public; their first paragraph, no headings or examples."""
    for mark in ("///", "//!"):
        for first, last in find_runs(lines, mark):
            said: list[str] = []
            for line in lines[first:last]:
                words = line.strip().removeprefix(mark).strip()
                if words.startswith(("#", "```")) or (not words and said):
                    break
                said.append(words)
            below = next(
                (line for line in lines[last : last + 6] if line.strip() and not line.strip().startswith("#[")), ""
            )
            is_asked = mark == "//!" or re.match(r"\s*pub\b", below)
            yield first, last, " ".join(said).strip() if is_asked else ""


def read_typescript(lines: Sequence[str]) -> Iterator[Comment]:
    """Those above exports; their first paragraph, no tags."""
    first = 0
    while first < len(lines):
        if not lines[first].strip().startswith("/**"):
            first += 1
            continue
        last = next((i + 1 for i in range(first, len(lines)) if "*/" in lines[i]), len(lines))
        said: list[str] = []
        for line in lines[first:last]:
            words = re.sub(r"^\s*/?\*+/?|\*/\s*$", "", line).strip()
            if words.startswith("@") or (not words and said):
                break
            said.append(words)
        is_asked = last < len(lines) and re.match(r"\s*export\b", lines[last])
        yield first, last, " ".join(said).strip() if is_asked else ""
        first = last


def find_runs(lines: Sequence[str], mark: str) -> Iterator[tuple[int, int]]:
    """(first, after the last) of consecutive lines that begin with `mark`."""
    first = 0
    while first < len(lines):
        last = first
        while last < len(lines) and lines[last].strip().startswith(mark):
            last += 1
        if last > first:
            yield first, last
        first = max(last, first + 1)


def commit(repo: Path) -> None:
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "bench"]):
        subprocess.run([*GIT, *arguments], cwd=repo, check=True)
