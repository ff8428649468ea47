"""What people write of their own code, beside that code without it: what the embedding model is tuned on.

Functions and their docstrings, classes and theirs (Python packages, unpacked wheels), doc comments and what they
stand above (Go, Rust, TypeScript), headings and their sections (the README in a wheel's metadata).

    python bench/tuning_pairs.py functions DIR OUT --packages a,b,c     one file of pairs a group of packages
    python bench/tuning_pairs.py classes DIR OUT --packages a,b,c
    python bench/tuning_pairs.py comments DIR OUT                       a folder of Go, Rust or TypeScript trees
    python bench/tuning_pairs.py sections DIR OUT                       a folder of wheels
"""

import argparse
import ast
import random
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench")]

from context_questions import (  # noqa: E402 - needs the path above
    LARGEST_BYTES,
    NOT_ASKED,
    SAYS_NOTHING,
    SEED,
    parse,
    read_go,
    read_rust,
    read_typescript,
    take_functions,
)
from devtools_platform.context.adapters.minilm import MAX_CHARS, MAX_QUERY_TOKENS, MAX_TOKENS  # noqa: E402
from devtools_platform.context.adapters.minilm.wordpiece import encode  # noqa: E402
from devtools_platform.context.chunking import chunk_file  # noqa: E402
from devtools_platform.context.types import Chunk  # noqa: E402
from devtools_platform.context.vectors import get_text  # noqa: E402

READERS = {".go": read_go, ".rs": read_rust, ".ts": read_typescript}
MOST = 4_000
INSTALLED = re.compile(r"^.*?(gocode/src/|cargo/registry/)")
"""Where Debian puts what our users have at the top of a repository."""


class Pair(msgspec.Struct, frozen=True):
    """Tokens of what was written, tokens of the chunk, and the chunk's place: two pairs can share it."""

    asked: list[int]
    chunk: list[int]
    place: str


def make_pair(text: str, chunk: Chunk) -> Pair:
    shown = get_text(chunk, reads_code=False)[:MAX_CHARS]
    return Pair(encode(text, MAX_QUERY_TOKENS), encode(shown, MAX_TOKENS), f"{chunk.path}:{chunk.start_line}")


def take_first_sentence(text: str) -> str | None:
    """None for what says nothing of the code."""
    sentence = re.split(r"(?<=[.!?])\s", " ".join(text.split()))[0].rstrip(".")[:300]
    return sentence if 4 <= len(sentence.split()) <= 60 and not SAYS_NOTHING.search(sentence) else None


def pair_functions(source: Path, packages: Sequence[str]) -> Iterator[Pair]:
    """4,000 functions drawn by chance, as the bench draws its own."""
    with tempfile.TemporaryDirectory() as folder:
        questions = take_functions(source, packages, Path(folder), MOST, 10**6)
        chunks: dict[str, list[Chunk]] = {}
        for path in {question.path for question in questions}:
            chunks[path] = chunk_file(path, (Path(folder) / path).read_bytes()).chunks
    for question in questions:
        for chunk in chunks[question.path]:
            if chunk.name and chunk.start_line <= question.last and chunk.end_line >= question.first:
                yield make_pair(question.text, chunk)
                break


def pair_classes(source: Path, packages: Sequence[str]) -> Iterator[Pair]:
    for file in sorted(file for package in packages for file in (source / package).rglob("*.py")):
        if file.stat().st_size > LARGEST_BYTES or (tree := parse(file)) is None:
            continue
        lines = file.read_text().split("\n")
        said: list[tuple[int, str]] = []
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
                continue
            if len(node.body) < 2 or not (docstring := ast.get_docstring(node)):
                continue
            if isinstance(node, ast.ClassDef) and (sentence := take_first_sentence(docstring.split("\n\n")[0])):
                said.append((node.lineno, sentence))
            first, last = node.body[0].lineno, node.body[0].end_lineno or 0
            lines[first - 1 : last] = [""] * (last - first + 1)
        chunks = chunk_file(str(file.relative_to(source)), "\n".join(lines).encode()).chunks if said else []
        for number, sentence in said:
            found = [c for c in chunks if c.kind == "class" and c.start_line <= number <= c.end_line]
            if found:
                yield make_pair(sentence, found[0])


def pair_comments(source: Path) -> Iterator[Pair]:
    for file in sorted(source.rglob("*")):
        path = str(file.relative_to(source))
        read = READERS.get(file.suffix)
        if read is None or NOT_ASKED.search(path) or not file.is_file() or file.stat().st_size > LARGEST_BYTES:
            continue
        lines = file.read_text(errors="replace").split("\n")
        said: list[tuple[int, str]] = []
        for first, last, text in list(read(lines)):
            lines[first:last] = [""] * (last - first)
            if sentence := take_first_sentence(re.sub(r"[`\[\]]", "", text)):
                said.append((last + 1, sentence))
        chunks = chunk_file(INSTALLED.sub("", path), "\n".join(lines).encode()).chunks if said else []
        for number, sentence in said:
            found = [c for c in chunks if c.name and number <= c.start_line <= number + 3]
            if found:
                yield make_pair(sentence, min(found, key=lambda c: c.start_line))


def pair_sections(source: Path) -> Iterator[Pair]:
    for wheel in sorted(source.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            lines = archive.read(metadata).decode(errors="replace").partition("\n\n")[2].split("\n")
        heads = {i: line.strip("# ") for i, line in enumerate(lines) if re.match(r"#{1,4}\s+\S", line)}
        for i in heads:
            lines[i] = "##"
        chunks = chunk_file(f"{wheel.name.partition('-')[0]}/README.md", "\n".join(lines).encode()).chunks
        for i, title in heads.items():
            found = [c for c in chunks if c.start_line - 1 <= i + 1 <= c.end_line]
            if found and len(title.split()) > 1 and len(found[0].text) > 150:
                yield make_pair(title, found[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["functions", "classes", "comments", "sections"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--packages", default="")
    options = parser.parse_args()
    packages = options.packages.split(",")
    pairs = {
        "functions": lambda: pair_functions(options.source, packages),
        "classes": lambda: pair_classes(options.source, packages),
        "comments": lambda: pair_comments(options.source),
        "sections": lambda: pair_sections(options.source),
    }[options.kind]()
    drawn = list(pairs)
    random.Random(SEED).shuffle(drawn)
    options.out.write_bytes(msgspec.json.encode(drawn[:MOST]))
    print(f"{len(drawn)} pairs, {min(len(drawn), MOST)} kept: {options.out}")


if __name__ == "__main__":
    main()
