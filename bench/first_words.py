"""Counts what docstrings begin with and what they are of: `context/first_words.json.gz`.

    python bench/first_words.py DIR OUT     DIR: a folder of packages, none of which a figure is given for

Of each package up to 1,500 docstrings of functions and classes, files drawn by chance. Decision 118.
"""

import argparse
import ast
import collections
import gzip
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench")]

from context_questions import LARGEST_BYTES, SEED, parse  # noqa: E402 - needs the path above
from devtools_platform.context.words import find_verb, first_stems  # noqa: E402

MOST_OF_A_PACKAGE = 1_500
LEAST_OF_A_WORD, LEAST_OF_TWO, LEAST_WITH_VERBS, LEAST_OF_A_VERB = 30, 60, 100, 60
"""What is seen less often says nothing."""


def list_documented(package: Path) -> Iterator[tuple[str, bool, str]]:
    """(name, whether it is a class, the first paragraph of its docstring)."""
    files = sorted(package.rglob("*.py"))
    random.Random(SEED).shuffle(files)
    for file in files:
        if re.search(r"/tests?/", str(file)) or file.stat().st_size > LARGEST_BYTES or (tree := parse(file)) is None:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                said = (ast.get_docstring(node) or "").split("\n\n")[0]
                if len(said.split()) >= 4:
                    yield node.name, isinstance(node, ast.ClassDef), said


def count(source: Path) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Functions, classes and the verbs of the functions' names, by the first and the first two words; all under ""."""
    verbs: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    classes: collections.Counter[str] = collections.Counter()
    for package in sorted(path for path in source.iterdir() if path.is_dir() and path.suffix != ".dist-info"):
        said: set[tuple[str, bool, str]] = set()
        for documented in list_documented(package):
            said.add(documented)
            if len(said) == MOST_OF_A_PACKAGE:
                break
        for name, is_class, text in said:
            first, second = first_stems(text)
            for words in ("", first, *([f"{first} {second}"] if second else [])):
                if is_class:
                    classes[words] += 1
                else:
                    verbs[words][find_verb(name)] += 1
    known = {verb for verb, times in verbs[""].items() if times >= LEAST_OF_A_VERB}

    def keep(words: str) -> tuple[int, int, dict[str, int]]:
        functions = verbs[words].total()
        least = LEAST_OF_TWO if " " in words else LEAST_WITH_VERBS
        kept = {v: n for v, n in sorted(verbs[words].items()) if v in known and n > 1} if functions >= least else {}
        return functions, classes[words], kept

    return {
        words: keep(words)
        for words in sorted(verbs.keys() | classes.keys())
        if verbs[words].total() + classes[words] >= (LEAST_OF_TWO if " " in words else LEAST_OF_A_WORD)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.write_bytes(gzip.compress(json.dumps(count(options.source), separators=(",", ":")).encode(), mtime=0))


if __name__ == "__main__":
    main()
