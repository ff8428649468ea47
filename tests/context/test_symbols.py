"""Exact spans of definitions."""

import time

import pytest

from devtools_platform.context import symbols
from devtools_platform.context.symbols import outline

PYTHON = """\
import os

@first
@second(1)
def top(x):
    def inner():
        return 1

    return inner  # last line


class Shop(Base):
    size = 1

    @property
    async def owner(self):
        return 2

    def close(self): pass
if os:
    def late(): ...
"""


def show(path: str, text: str) -> list[str]:
    return [f"{s.kind} {s.qualified} {s.start_line}-{s.end_line}" for s in outline(path, text)]


def test_python_spans_include_decorators_and_end_at_the_last_line():
    assert show("a.py", PYTHON) == [
        "function top 3-9",
        "function top.inner 6-7",
        "class Shop 12-19",
        "method Shop.owner 15-17",
        "method Shop.close 19-19",
        "function late 21-21",
    ]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "a.ts",
            "@Dec()\nexport class A {\n  @Get()\n  m() {\n  }\n}\nexport const f = () => {\n  g();\n};\n",
            ["class A 1-6", "method A.m 3-5", "function f 7-9"],
        ),
        (
            "a.js",
            "class A {\n  static y = (z) => {\n  }\n}\nfunction* gen() {}\n",
            ["class A 1-4", "method A.y 2-3", "function gen 5-5"],
        ),
        (
            "a.go",
            "package m\n\ntype S struct {\n\ta int\n}\n\nfunc (s *S) Run() error {\n\treturn nil\n}\n",
            ["type S 3-5", "function Run 7-9"],
        ),
        (
            "a.rs",
            "#[derive(Debug)]\nstruct S {}\nimpl S {\n  #[inline]\n  fn f(&self) {\n  }\n}\n",
            ["struct S 1-2", "impl S 3-7", "method S.f 4-6"],
        ),
        (
            "a.c",
            "static char *add(int a)\n{\n  struct s x;\n  return 0;\n}\nstruct s { int a; };\n",
            ["function add 1-5", "struct s 6-6"],
        ),
        (
            "main.tf",
            'resource "aws_vpc" "main" {\n  a = 1\n  nested {\n  }\n}\nlocals {\n}\n',
            ["block resource aws_vpc main 1-5", "block locals 6-7"],
        ),
        (
            "a.md",
            "intro\n# One\ntext\n```sh\n# not a heading\n```\n## Two\nmore\n# Three\n",
            ["section One 2-6", "section One.Two 7-8", "section Three 9-9"],
        ),
        (
            "a.md",
            "# One\na\n##\nb\n## \nc\n#tag\n",
            ["section One 1-2", "section One.untitled 3-4", "section One.untitled 5-7"],
        ),
        ("a.unknown", "def f(): pass\n", []),
    ],
)
def test_other_languages_have_exact_spans_too(path: str, text: str, expected: list[str]):
    assert show(path, text) == expected


@pytest.mark.parametrize("extension", sorted(symbols.LANGUAGES))
def test_every_language_can_be_read(extension: str):
    assert outline(f"a{extension}", "x\n") == []


def test_a_syntax_error_hides_only_what_it_breaks():
    assert "function fine 1-2" in show("a.py", "def fine():\n    pass\n\ndef broken(:\n    ))\n")


def test_a_file_made_to_be_slow_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(symbols, "PARSE_SECONDS", 0.1)
    started = time.process_time()
    assert outline("a.ts", "a<b<" * 240_000) == []
    # Whole, it takes three seconds and more of CPU; CPU time, because the machine may be busy.
    assert time.process_time() - started < 1.5
