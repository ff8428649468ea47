"""A file's bytes into the pieces that are searched: functions, classes, sections, else windows of lines.

Pure. Decides too what is not searched and says why: files by path or size, binary and generated content, and
every piece that holds what looks like a secret. Never raises for what a file contains.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import PurePosixPath

from devtools_platform.context.symbols import outline
from devtools_platform.context.types import Chunk, Symbol
from devtools_platform.core.redact import find_secrets, holds_secret

FORMAT = 3
"""Grows when the same bytes would be cut, or their words taken, otherwise: indexes of another format are made anew."""

MAX_FILE_BYTES = 1_000_000
WINDOW_LINES = 60
MAX_CHUNK_LINES = 80
MAX_CHUNK_CHARS = 8_000
MAX_LINE_CHARS = 1_000
"""Longer lines are cut in a chunk's text."""
GENERATED_LINE_CHARS = 5_000
GENERATED_MEAN_CHARS = 400

_FOREIGN_FOLDERS = frozenset(
    {
        *("node_modules", "bower_components", "jspm_packages", "vendor", "third_party", "dist"),
        *(".venv", "venv", "site-packages", "__pycache__", ".tox", ".yarn", ".terraform"),
    }
)
_GENERATED = (
    "*.min.js",
    "*.min.css",
    "*.map",
    "*.lock",
    "package-lock.json",
    "pnpm-lock.yaml",
    "go.sum",
    "*.svg",
)
_CREDENTIALS = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.keystore",
    "id_rsa*",
    "id_ed25519*",
    ".netrc",
)
_EXAMPLES = (".env.example", ".env.sample", ".env.template")
_COMMENT_STARTS = ("#", "//", "/*", "*", "--", ";;")
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class ChunkedFile:
    """What of a file is searched; `skipped` says what is not, if anything."""

    chunks: list[Chunk]
    skipped: str | None = None


def find_skipped_path(path: str, size: int) -> tuple[str, str] | None:
    """(what to name, why) when a file is not even read. A foreign folder is named once for all its files."""
    pure = PurePosixPath(path)
    for depth, folder in enumerate(pure.parts[:-1], 1):
        if folder in _FOREIGN_FOLDERS:
            return "/".join(pure.parts[:depth]) + "/", f"{folder} holds other people's or generated code"
    if _matches(pure.name, _CREDENTIALS) and pure.name not in _EXAMPLES:
        return path, "its name says it holds credentials"
    if _matches(pure.name, _GENERATED):
        return path, "its name says it is generated"
    if size > MAX_FILE_BYTES:
        return path, f"larger than {MAX_FILE_BYTES} bytes"
    return None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def chunk_file(path: str, content: bytes) -> ChunkedFile:
    """Cut one file. Invalid UTF-8 is replaced, as an editor would show it."""
    if b"\0" in content:
        return ChunkedFile([], "binary")
    text = content.decode(errors="replace")
    if reason := _find_generated(text):
        return ChunkedFile([], reason)
    chunks: list[Chunk] = []
    secret_lines: list[str] = []
    is_suspect = holds_secret(text)
    for chunk, raw in _cut(path, text):
        secrets = find_secrets(raw) if is_suspect else []
        if any(kind.startswith("-----") for _, kind in secrets):  # its lines cannot be told from the rest
            return ChunkedFile([], "holds a private key")
        if secrets:
            secret_lines.append(str(chunk.start_line + secrets[0][0] - 1))
        else:
            chunks.append(chunk)
    if secret_lines:
        lines = ", ".join(secret_lines[:5])
        return ChunkedFile(chunks, f"not the parts that hold what looks like a secret (line {lines})")
    return ChunkedFile(chunks)


def _find_generated(text: str) -> str | None:
    lines = text.split("\n")
    longest, mean = max(map(len, lines)), len(text) / len(lines)
    if longest > GENERATED_LINE_CHARS or (mean > GENERATED_MEAN_CHARS and len(text) > GENERATED_LINE_CHARS):
        return f"minified or generated (longest line {longest} characters)"
    return None


def _cut(path: str, text: str) -> Iterator[tuple[Chunk, str]]:
    """Every chunk, and its lines as they are in the file."""
    lines = text.split("\n")
    owners: list[Symbol | None] = [None] * len(lines)
    for symbol in _list_owners(outline(path, text)):
        start = _find_comment_above(lines, owners, symbol.start_line - 1)
        owners[start : symbol.end_line] = [symbol] * (symbol.end_line - start)
    default = "module" if any(owners) else "text"
    for owner, run in groupby(range(len(lines)), key=lambda index: owners[index]):
        indexes = list(run)
        for start, end in _split(lines, indexes[0], indexes[-1] + 1):
            yield _make_chunk(path, lines[start:end], start, owner, default), "\n".join(lines[start:end])


def _list_owners(symbols: list[Symbol]) -> Iterator[Symbol]:
    """Definitions that own their lines: all but those inside a function, which stays whole."""
    function_end = 0
    for symbol in symbols:
        if symbol.start_line <= function_end:
            continue
        if symbol.kind in {"function", "method"}:
            function_end = symbol.end_line
        yield symbol


def _find_comment_above(lines: list[str], owners: list[Symbol | None], start: int) -> int:
    """The first line of the comment that stands right above a definition: it says what the code does."""
    if start >= len(lines):
        return start
    around = owners[start]
    while start > 0 and owners[start - 1] == around and lines[start - 1].lstrip().startswith(_COMMENT_STARTS):
        start -= 1
    return start


def _split(lines: list[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of lines[start:end] without blank ends, none longer than a chunk may be, none without a word."""
    is_long = end - start > MAX_CHUNK_LINES
    most_lines = WINDOW_LINES if is_long else MAX_CHUNK_LINES
    while start < end:
        stop, chars = start, 0
        while stop < end and stop - start < most_lines and chars <= MAX_CHUNK_CHARS:
            chars += len(lines[stop])
            stop += 1
        first, last = _trim(lines, start, stop)
        if any(_WORD.search(line) for line in lines[first:last]):
            yield first, last
        start = stop


def _trim(lines: list[str], start: int, end: int) -> tuple[int, int]:
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return start, end


def _make_chunk(path: str, lines: list[str], first: int, owner: Symbol | None, default: str) -> Chunk:
    kind, name = (owner.kind, owner.qualified) if owner else (default, "")
    text = "\n".join(line[:MAX_LINE_CHARS] for line in lines)
    return Chunk(path, first + 1, first + len(lines), kind, name, text)
