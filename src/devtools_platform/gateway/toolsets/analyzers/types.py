"""What analyzers are and what they say, in one vocabulary. Data only."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from devtools_platform.core.tasks import Degradation, Finding, Severity
from devtools_platform.kit.sandbox import CommandResult

AddedLines = Mapping[str, Mapping[int, str]]
"""By path, the lines a change added, by number."""

Confidence = Literal["low", "medium", "high"]
Place = Literal["product", "test", "example"]

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_EXAMPLE_FOLDERS = frozenset({"docs", "doc", "example", "examples", "samples"})
_EXAMPLE_SUFFIXES = frozenset({".md", ".rst", ".txt", ".example", ".sample", ".template", ".dist"})


@dataclass(frozen=True)
class Raw:
    """One remark of an analyzer before anybody judged it."""

    rule: str
    severity: Severity
    path: str
    line: int | None
    message: str
    span: tuple[int, int] | None = None
    """First and last line it is about; None: the line alone, or the whole file when there is none."""
    suggestion: str | None = None
    confidence: Confidence = "high"

    def touches(self, added: AddedLines) -> bool:
        """Whether the change added a line of it."""
        if not self.path:
            return bool(added)  # about the change as a whole
        lines = added.get(self.path, {})
        if self.line is None and self.span is None:
            return bool(lines)
        first, last = self.span or (self.line or 0, self.line or 0)
        return any(first <= line <= last for line in lines)


@dataclass(frozen=True)
class Report:
    """An analyzer's report, read. `unread`: files it could not look at, each with the reason."""

    remarks: tuple[Raw, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """`ran` and `not_run` name the analyzers; one that had nothing to look at is in neither."""

    findings: tuple[Finding, ...]
    ran: tuple[str, ...]
    not_run: tuple[Degradation, ...]
    omitted: int = 0
    """Findings over the limit; blocking ones are never among them."""


@dataclass(frozen=True)
class Program:
    """Something to run: a module of our interpreter, a file of ours, a binary, or what a repository names."""

    name: str
    kind: Literal["module", "binary", "script", "given"] = "binary"

    def argv(self) -> tuple[str, ...] | None:
        """How it is started; None when this machine does not have it."""
        if self.kind == "given":
            return (self.name,)
        if self.kind == "script":
            return (sys.executable, "-I", self.name)
        if self.kind == "module":
            return (sys.executable, "-I", "-m", self.name) if find_spec(self.name) else None
        here = Path(sys.executable).parent  # not resolved: a virtual environment's own folder
        found = shutil.which(self.name, path=f"{here}:{_SYSTEM_PATH}")
        return (found,) if found else None


@dataclass(frozen=True)
class Analyzer:
    """One analyzer: which files it is for, how it is run and how its report is read."""

    name: str
    program: Program
    wants: Callable[[str], bool]
    """Whether a path is one for it."""
    arguments: Callable[[Sequence[str]], Sequence[str]]
    """What follows the program, given the files as the command will find them."""
    parse: Callable[[Any, str], Report]
    """Reads its JSON; the second argument is what the paths in it begin with."""
    exits: frozenset[int] = frozenset({0})
    """Exit codes of a run whose report counts."""
    reads: Callable[[str], Any] | None = None
    """Makes the report of what was printed; None: the first JSON document in it."""
    refine: Callable[[Raw, str], Raw | None] | None = None
    """Looks once more at a remark, given the added line it is about; None drops it."""
    judges: Callable[[CommandResult], Report] | None = None
    """Makes the report of how the run ended, in place of `parse`."""
    read_only_paths: tuple[Path, ...] = ()


def place_of(path: str) -> Place:
    """What kind of file it is: tests and examples may do what products must not."""
    pure = PurePosixPath(path)
    folders = set(pure.parts[:-1])
    if pure.name == "conftest.py" or pure.name.startswith("test_") or pure.stem.endswith("_test"):
        return "test"
    if folders & {"tests", "test"}:
        return "test"
    if folders & _EXAMPLE_FOLDERS or pure.suffix in _EXAMPLE_SUFFIXES:
        return "example"
    return "product"
