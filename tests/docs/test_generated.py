import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["map.md", *(f"reference/{page.name}" for page in (ROOT / "docs" / "reference").glob("*.md"))]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), str(folder)], check=True, env=env)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_what_the_code_says(written: Path, page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == (written / page).read_text(), "run `make docs`"


def test_every_module_says_what_it_owns(written: Path) -> None:
    lines = [line for line in (written / "map.md").read_text().splitlines() if line.startswith("- `")]

    assert len(lines) > 50
    assert [line for line in lines if line.endswith("`: ")] == []
