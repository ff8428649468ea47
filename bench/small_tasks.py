"""How many of twenty small bugs the crew fixes with the embedded model, through the whole stack.

Each task is a repository of its own with one function, one bug and tests that fail; the request says only that the
tests fail. Written once, before the first run, and not tuned to. Success is what the product calls success: tests
pass, review approves, branch published. Takes about twenty minutes on two cores.

    python bench/small_tasks.py [--only NAME] [--model-base-url URL --model NAME]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from stacks import clean_env, make_repo, running_stack  # noqa: E402 - needs the path above

#: name -> (buggy source, body of the test's assertions)
TASKS: dict[str, tuple[str, str]] = {
    "clamp": (
        "def clamp(value, low, high):\n    if value < low:\n        return low\n    if value > high:\n"
        "        return low\n    return value\n",
        "self.assertEqual(clamp(5, 0, 3), 3)\n        self.assertEqual(clamp(-1, 0, 3), 0)\n"
        "        self.assertEqual(clamp(2, 0, 3), 2)",
    ),
    "is_leap": (
        "def is_leap(year):\n    return year % 4 == 0 and year % 100 != 0\n",
        "self.assertTrue(is_leap(2000))\n        self.assertFalse(is_leap(1900))\n"
        "        self.assertTrue(is_leap(2024))",
    ),
    "average": (
        "def average(numbers):\n    return sum(numbers) / len(numbers)\n",
        "self.assertEqual(average([]), 0)\n        self.assertEqual(average([1, 2, 3]), 2)",
    ),
    "chunk": (
        "def chunk(items, size):\n    return [items[i:i + size] for i in range(0, len(items) - 1, size)]\n",
        "self.assertEqual(chunk([1, 2, 3, 4, 5], 2), [[1, 2], [3, 4], [5]])\n"
        "        self.assertEqual(chunk([1], 3), [[1]])",
    ),
    "title_case": (
        "def title_case(text):\n    return ' '.join(word.upper() for word in text.split())\n",
        "self.assertEqual(title_case('hello big world'), 'Hello Big World')",
    ),
    "flatten": (
        "def flatten(items):\n    result = []\n    for item in items:\n        if isinstance(item, list):\n"
        "            result.append(flatten(item))\n        else:\n            result.append(item)\n    return result\n",
        "self.assertEqual(flatten([1, [2, [3, 4]], 5]), [1, 2, 3, 4, 5])",
    ),
    "count_words": (
        "def count_words(text):\n    counts = {}\n    for word in text.split():\n"
        "        counts[word] = 1\n    return counts\n",
        "self.assertEqual(count_words('a b a'), {'a': 2, 'b': 1})",
    ),
    "fibonacci": (
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a\n    return a\n",
        "self.assertEqual([fibonacci(i) for i in range(7)], [0, 1, 1, 2, 3, 5, 8])",
    ),
    "reverse_words": (
        "def reverse_words(text):\n    return text[::-1]\n",
        "self.assertEqual(reverse_words('one two three'), 'three two one')",
    ),
    "second_largest": (
        "def second_largest(numbers):\n    return sorted(numbers)[1]\n",
        "self.assertEqual(second_largest([4, 9, 7]), 7)\n        self.assertEqual(second_largest([1, 2, 3, 4]), 3)",
    ),
    "parse_bool": (
        "def parse_bool(text):\n    return bool(text)\n",
        "self.assertTrue(parse_bool('yes'))\n        self.assertTrue(parse_bool('True'))\n"
        "        self.assertFalse(parse_bool('no'))\n        self.assertFalse(parse_bool('false'))",
    ),
    "merge_defaults": (
        "def merge_defaults(settings, defaults):\n    settings.update(defaults)\n    return settings\n",
        "given = {'a': 1}\n        self.assertEqual(merge_defaults(given, {'a': 0, 'b': 2}), {'a': 1, 'b': 2})\n"
        "        self.assertEqual(given, {'a': 1})",
    ),
    "celsius": (
        "def to_fahrenheit(celsius):\n    return celsius * 5 / 9 + 32\n",
        "self.assertEqual(to_fahrenheit(100), 212)\n        self.assertEqual(to_fahrenheit(0), 32)",
    ),
    "is_palindrome": (
        "def is_palindrome(text):\n    return text == text[::-1]\n",
        "self.assertTrue(is_palindrome('A man a plan a canal Panama'))\n"
        "        self.assertFalse(is_palindrome('hello'))",
    ),
    "unique": (
        "def unique(items):\n    return list(set(items))\n",
        "self.assertEqual(unique(['z', 'a', 'z', 'b', 'a']), ['z', 'a', 'b'])",
    ),
    "binary_search": (
        "def binary_search(items, wanted):\n    low, high = 0, len(items) - 1\n    while low < high:\n"
        "        middle = (low + high) // 2\n        if items[middle] == wanted:\n            return middle\n"
        "        if items[middle] < wanted:\n            low = middle + 1\n        else:\n"
        "            high = middle - 1\n"
        "    return -1\n",
        "self.assertEqual(binary_search([1, 3, 5, 7], 7), 3)\n        self.assertEqual(binary_search([4], 4), 0)\n"
        "        self.assertEqual(binary_search([1, 3], 2), -1)",
    ),
    "roman": (
        "VALUES = {'I': 1, 'V': 5, 'X': 10, 'L': 50, 'C': 100}\n\n\ndef from_roman(text):\n"
        "    return sum(VALUES[letter] for letter in text)\n",
        "self.assertEqual(from_roman('XIV'), 14)\n        self.assertEqual(from_roman('IX'), 9)\n"
        "        self.assertEqual(from_roman('LVIII'), 58)",
    ),
    "format_duration": (
        "def format_duration(seconds):\n    return f'{seconds // 60}:{seconds % 60}'\n",
        "self.assertEqual(format_duration(65), '1:05')\n        self.assertEqual(format_duration(600), '10:00')",
    ),
    "safe_get": (
        "def safe_get(data, path):\n    for key in path.split('.'):\n        data = data[key]\n    return data\n",
        "self.assertEqual(safe_get({'a': {'b': 1}}, 'a.b'), 1)\n        self.assertIsNone(safe_get({'a': {}}, 'a.x'))\n"
        "        self.assertIsNone(safe_get({}, 'a.b'))",
    ),
    "rotate": (
        "def rotate(items, steps):\n    return items[steps:] + items[:steps]\n",
        "self.assertEqual(rotate([1, 2, 3, 4], 1), [4, 1, 2, 3])\n"
        "        self.assertEqual(rotate([1, 2, 3], 4), [3, 1, 2])\n"
        "        self.assertEqual(rotate([], 3), [])",
    ),
}


def repository(folder: Path, name: str) -> Path:
    source, assertions = TASKS[name]
    function = source.split("def ", 1)[1].split("(", 1)[0]
    test = (
        f"import unittest\n\nfrom lib.{name} import {function}\n\n\nclass {name.title().replace('_', '')}Test"
        f"(unittest.TestCase):\n    def test_{function}(self):\n        {assertions}\n"
    )
    files = {"lib/__init__.py": "", f"lib/{name}.py": source, "tests/__init__.py": "", f"tests/test_{name}.py": test}
    return make_repo(folder / name, files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--model-base-url")
    parser.add_argument("--model")
    options = parser.parse_args()
    more = {"DEV_TOOLS_MODEL_BASE_URL": options.model_base_url, "DEV_TOOLS_MODEL": options.model}
    env = clean_env(**{name: value for name, value in more.items() if value})
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder, "data"), env) as stack:
        rows = [
            run(stack, repository(Path(folder), name), name) for name in ([options.only] if options.only else TASKS)
        ]
    report(rows)


def run(stack: Any, repo: Path, name: str) -> dict[str, Any]:
    started = time.monotonic()
    created = stack.create_task("Fix the failing test.", repo)
    task = stack.wait_for_end(created["id"], timeout_s=1200)
    row = {
        "name": name,
        "solved": task["status"] == "completed",
        "reason": task["reason"],
        "seconds": round(time.monotonic() - started, 1),
        "model_calls": task["tokens"]["model_calls"],
        "tokens": task["tokens"]["input"] + task["tokens"]["output"],
    }
    print(json.dumps(row), flush=True)
    return row


def report(rows: list[dict[str, Any]]) -> None:
    solved = sum(row["solved"] for row in rows)
    seconds = sorted(row["seconds"] for row in rows)
    cpu = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"solved {solved} of {len(rows)}; median {seconds[len(seconds) // 2]} s; {os.cpu_count()} cores, {cpu}")


if __name__ == "__main__":
    main()
