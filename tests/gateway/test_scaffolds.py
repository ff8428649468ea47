"""What a program writes by itself, judged by the validators that judge everybody's files."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.test_workspace_tools import Bench

PYTHON = {
    "pyproject.toml": "[project]\nname = 'shop'\nversion = '1'\n",
    "src/shop/__init__.py": '"""A shop.\n\nMore."""\n\n\nclass Price(int):\n    """In cents."""\n\n'
    '    def net(self, rate: float = 0.19) -> "Price":\n        """Without tax."""\n        return self\n\n'
    "    def _hidden(self): ...\n",
    "src/shop/__main__.py": "print('open')\n",
    "tests/test_shop.py": "def test_x(): pass\n",
}
NODE = {"package.json": json.dumps({"name": "x", "scripts": {"test": "node --test"}}), "package-lock.json": "{}"}
GO = {"go.mod": "module x\n", "x.go": "package x\n"}


@pytest.mark.parametrize("contents", [PYTHON, NODE, GO], ids=["python", "node", "go"])
@pytest.mark.parametrize("kind", ["github-pipeline", "gitlab-pipeline"])
async def test_a_pipeline_passes_every_validator(tmp_path: Path, kind: str, contents: dict[str, str]) -> None:
    bench = Bench(tmp_path)
    await bench.start(contents)
    made = (await bench.data("scaffold", kind=kind))["files"]
    data = await bench.data("analyze")
    assert not [f for f in data["findings"] if f["is_blocking"]], data["findings"]
    assert not {f["rule"] for f in data["findings"]} & {"excessive-permissions", "artipacked"}
    text = (bench.clone / made[0]).read_text()
    assert {"python": "-m pytest", "node": "npm test", "go": "go test"}[
        "python" if contents is PYTHON else "node" if contents is NODE else "go"
    ] in text
    assert "schema" in data["ran"]


async def test_a_container_file_passes_hadolint_and_runs_as_an_ordinary_user(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start(PYTHON)
    await bench.data("scaffold", kind="container")
    text = (bench.clone / "Dockerfile").read_text()
    assert 'CMD ["python", "-m", "shop"]' in text
    assert "USER app" in text
    assert not [f for f in (await bench.data("analyze"))["findings"] if f["is_blocking"]]


async def test_an_api_reference_names_what_is_public_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start(PYTHON)
    await bench.data("scaffold", kind="api-reference")
    text = (bench.clone / "docs" / "api.md").read_text()
    assert "## shop\n\nA shop.\n" in text
    assert "- `class Price(int)`: In cents.\n- `Price.net(self, rate: float=0.19) -> 'Price'`: Without tax.\n" in text
    assert "_hidden" not in text
    assert "test_x" not in text


async def test_what_is_there_is_not_overwritten_and_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start({**GO, ".gitlab-ci.yml": "test:\n  script: x\n"})
    assert "there already" in await bench.error("scaffold", kind="gitlab-pipeline")
    assert "cannot be told" in await bench.error("scaffold", kind="container")
    assert "no public Python code" in await bench.error("scaffold", kind="api-reference")
    assert (bench.clone / ".gitlab-ci.yml").read_text() == "test:\n  script: x\n"


async def test_the_command_of_a_pipeline_really_runs_the_tests(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start(
        {
            "calc.py": "x = 1\n",
            "test_calc.py": "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_x(self): pass\n",
        }
    )
    await bench.data("scaffold", kind="github-pipeline")
    lines = (bench.clone / ".github" / "workflows" / "ci.yml").read_text().splitlines()
    command = lines[-1].removeprefix("      - run: ").split()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, *command[1:]], cwd=bench.clone, capture_output=True, text=True, check=False
    )
    assert "Ran 1 test" in done.stderr
