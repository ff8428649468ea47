"""The quick way to a Python file's definitions says what the parser says."""

import sysconfig
import time
from pathlib import Path

import pytest

from devtools_platform.context import symbols
from devtools_platform.context.python_outline import outline_python

STDLIB = Path(sysconfig.get_path("stdlib"))

TRICKY = '''
@decorator(
    """not
    a def""",
)
class Outer(Base):
    """def no(): ..."""

    async def first(self, a=")", b='("'):  # def also_no():
        return {
"at": [1,
2]}

    # belongs to the class

    def second(self): return 1
    x = 1; \\
y = 2
    def third(self):
        def inner():
            pass
        # the end of third

def alone(
    a,
): "one line"
'''


def parse(text: str) -> list[symbols.Symbol]:
    return symbols._list_definitions("python", text.encode())


def test_tricky_layouts_end_where_the_parser_ends_them():
    assert outline_python(TRICKY) == parse(TRICKY)
    assert [symbol.qualified for symbol in parse(TRICKY)] == [
        *("Outer", "Outer.first", "Outer.second", "Outer.third", "Outer.third.inner", "alone")
    ]


@pytest.mark.parametrize("package", ["asyncio", "email", "json", "unittest"])
def test_the_standard_library_has_the_same_definitions_both_ways(package: str):
    for file in sorted((STDLIB / package).glob("*.py")):
        text = file.read_text()
        quick = outline_python(text)
        assert quick is None or quick == parse(text), file.name


@pytest.mark.parametrize(
    "text", ["def f():\n\tpass\n", 'x = """\ndef f(): pass\n', "def f(:\n  (\n", "x = '\n", "def f():\r\n  pass\r\n"]
)
def test_what_only_a_parser_can_tell_is_left_to_it(text: str):
    assert outline_python(text) is None


@pytest.mark.parametrize("piece", ['\\""" ', "\\''' ", '"\\\n', "(", "def f(\n", "@\n", "'", "def f():\n", "# \n"])
def test_hostile_repetition_costs_no_more_than_its_length(piece: str):
    started = time.process_time()
    outline_python(piece * (500_000 // len(piece)))
    outline_python(piece * (500_000 // len(piece)) + ")" * piece.count("(") * (500_000 // len(piece)))
    assert time.process_time() - started < 5
