"""Definitions of Python files from their indentation, five times as fast as from a syntax tree.

Most of a first indexing is parsing, and Python says where a block ends by its indentation. Gives the symbols
that `symbols.py` reads from the tree, or None where only a parser can tell: tabs, strings or brackets that do
not close, characters we mark with.
"""

import re
from functools import lru_cache

from devtools_platform.context.types import Symbol

_MASKED = re.compile(
    r"""
    (?=["'\#]) (?:
      \"{3}[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*\"{3}
    | '{3}[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'{3}
    | (?!\"{3}|'{3}) (?: "[^"\\\n]*(?:\\.[^"\\\n]*)*" | '[^'\\\n]*(?:\\.[^'\\\n]*)*' )
    | \#[^\n]*
    | ["'] )
    """,
    re.VERBOSE | re.DOTALL,
)
_NEWLINE, _STRING, _COMMENT = "\1", "\2", "\3"
"""Stand for a line's end within a string, a string, and a comment."""
_ODD = ("\t", "\f", "\r", _NEWLINE, _STRING, _COMMENT)
_DEFINITION = re.compile(r"\n( *)(?:@|(?:async +)?(def|class) +(\w+))")
MAX_TRIES = 2_000
"""Lines within brackets that stand further out than their definition: a few, or somebody made them."""
_EMPTY = f" \n{_COMMENT}"


def outline_python(text: str) -> list[Symbol] | None:
    """Every function and class in the order of its lines; None when only a parser can tell."""
    if any(char in text for char in _ODD):
        return None
    try:
        masked = "\n" + _MASKED.sub(_mask, text)
    except _Unclosed:
        return None
    if _count_depth(masked):
        return None
    symbols: list[Symbol] = []
    around: list[tuple[int, Symbol]] = []  # where each definition ends
    decorator: re.Match[str] | None = None
    line = seen = 0
    for match in _DEFINITION.finditer(masked):
        if match[2] is None:
            decorator = decorator or match
            continue
        first = decorator if decorator and decorator[1] == match[1] else match
        decorator = None
        end = _find_end(masked, match.end(), len(match[1]))
        if end is None:
            return None
        while around and around[-1][0] <= match.start():
            around.pop()
        parent = around[-1][1] if around else None
        kind = "class" if match[2] == "class" else "method" if parent and parent.kind == "class" else "function"
        line, seen = line + _count_lines(masked, seen, first.end()), first.end()
        last = line + _count_lines(masked, seen, end)
        symbols.append(Symbol(match[3], kind, line, last, parent.qualified if parent else None))
        around.append((end, symbols[-1]))
    return symbols


class _Unclosed(Exception):
    """A string without an end. Looking on would take time in proportion to the square of the length."""


def _mask(match: re.Match[str]) -> str:
    piece = match[0]
    if len(piece) == 1 and piece != "#":
        raise _Unclosed
    return _COMMENT if piece[0] == "#" else _STRING + _NEWLINE * piece.count("\n")


def _find_end(masked: str, start: int, indent: int) -> int | None:
    """Where the block of a definition ends: before the first statement that is not further in."""
    depth, seen = 0, start
    for tries, following in enumerate(_compile_outdent(indent).finditer(masked, start)):
        at = following.start()
        depth += _count_depth(masked[seen:at])
        seen = at
        if depth < 0 or tries > MAX_TRIES:
            return None
        if not depth and masked[at - 1] != "\\":
            return _trim(masked, at, indent)
    return _trim(masked, len(masked), indent)


def _trim(masked: str, end: int, indent: int) -> int:
    """Without empty lines at the end, and without comments there that are not further in either."""
    start = end
    while masked[start - 1] in _EMPTY:
        start -= 1
    comments = list(_compile_comment(indent).finditer(masked, start, end)) if _COMMENT in masked[start:end] else []
    return comments[-1].end() if comments else start


@lru_cache
def _compile_outdent(indent: int) -> re.Pattern[str]:
    return re.compile(rf"\n {{0,{indent}}}(?=[^ \n{_COMMENT}])")


@lru_cache
def _compile_comment(indent: int) -> re.Pattern[str]:
    return re.compile(rf"\n {{{indent + 1},}}{_COMMENT}")


def _count_lines(masked: str, start: int, end: int) -> int:
    return masked.count("\n", start, end) + masked.count(_NEWLINE, start, end)


def _count_depth(text: str) -> int:
    count = text.count
    return count("(") - count(")") + count("[") - count("]") + count("{") - count("}")
