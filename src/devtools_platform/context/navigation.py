"""Reading around in a repository without a search: the map, what is at a line, a range of lines. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import PurePosixPath

from devtools_platform.context.ranking import CHARS_PER_TOKEN, is_test_path
from devtools_platform.context.symbols import LANGUAGES
from devtools_platform.context.types import Lines, Symbol
from devtools_platform.core.errors import BadInput
from devtools_platform.core.redact import redact_text

MAX_LINES = 400
MAX_NAMES = 12


def choose_files(paths: Sequence[str]) -> list[str]:
    """Source files in the order a map shows them: every folder in turn, shallow before deep, tests last."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        pure = PurePosixPath(path)
        if pure.suffix in LANGUAGES and not is_test_path(path):
            folders[str(pure.parent)].append(path)
    order = sorted(folders, key=lambda folder: (folder.count("/"), folder))
    turns = zip_longest(*(folders[folder] for folder in order))
    return [path for turn in turns for path in turn if path]


def make_map(outlines: Sequence[tuple[str, Sequence[Symbol]]], token_budget: int) -> str:
    """One line a file with its outer names, as many as fit, in the order of their paths."""
    left = token_budget * CHARS_PER_TOKEN
    lines: list[str] = []
    for path, symbols in outlines:
        outer = [f"{symbol.name}:{symbol.start_line}" for symbol in symbols if symbol.parent is None]
        more = f" (+{len(outer) - MAX_NAMES})" if len(outer) > MAX_NAMES else ""
        line = f"{path}  {', '.join(outer[:MAX_NAMES])}{more}".rstrip()
        left -= len(line) + 1
        if left < 0:
            break
        lines.append(line)
    return "\n".join(sorted(lines))


def find_symbol_at(symbols: Sequence[Symbol], line: int) -> Symbol | None:
    """The innermost definition around a line."""
    around = [symbol for symbol in symbols if symbol.start_line <= line <= symbol.end_line]
    return min(around, key=lambda symbol: symbol.end_line - symbol.start_line, default=None)


def cut_lines(path: str, content: bytes, first: int, last: int) -> Lines:
    """Lines `first` to `last`, secrets masked. Raises `BadInput` for a range that is none, or too long."""
    lines = content.decode(errors="replace").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not 1 <= first <= last or first > max(1, len(lines)):
        raise BadInput(
            f"Lines {first} to {last} of {path!r}, which has {len(lines)}.",
            hint="Lines count from 1; the first comes before the last.",
        )
    end = min(last, len(lines), first + MAX_LINES - 1)
    text = redact_text("\n".join(lines[first - 1 : end]))
    return Lines(path, first, end, len(lines), text)
