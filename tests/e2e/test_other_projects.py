"""Open-source projects as their authors published them, each with one seeded defect and its own test suite."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from devtools_platform.agents.adapters.scripted import Script
from e2e.scenarios import APPROVE, call, done, edit
from fakes.openai_server import FakeOpenAI
from stacks import StackProcess, clean_env, git, running_stack


@dataclass(frozen=True)
class Project:
    requirement: str
    sha256: str
    path: str
    right: str
    wrong: str
    """What stands instead of `right` in the repository the crew gets."""
    tests: int
    """Exit code is what counts; this many tests are what makes it count."""


PROJECTS = [
    Project(
        "inflection==0.5.1",
        "1a29730d366e996aaacffb2f1f1cb9593dc38e2ddd30c91250c6dde09ea9b417",
        "inflection/__init__.py",
        "if number % 100 in (11, 12, 13):",
        "if number % 100 in (11, 12):",
        400,
    ),
    Project(
        "toolz==1.0.0",
        "2c86e3d9a04798ac556793bced838816296a2f085017664e4995cb40a1047a02",
        "toolz/itertoolz.py",
        "return itertools.islice(seq, n, None)",
        "return itertools.islice(seq, n + 1, None)",
        150,
    ),
]


def rules() -> list[dict[str, object]]:
    fixes = [
        {
            "agent": "feature-dev",
            "when": project.requirement.split("=")[0],
            "turns": [
                call("workspace_search_text", pattern=project.wrong.split("(")[0].split(" in")[0]),
                edit(project.path, project.wrong, project.right),
                call("workspace_run_tests"),
                done("Mended.", "Mend the defect"),
            ],
        }
        for project in PROJECTS
    ]
    return [*fixes, {"agent": "code-review", "turns": [APPROVE]}]


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    with FakeOpenAI(Script.parse(rules())) as endpoint:
        env = clean_env(
            DEV_TOOLS_MODEL_BASE_URL=endpoint.base_url,
            DEV_TOOLS_MODEL_API_KEY=str(endpoint.api_key),
            DEV_TOOLS_MODEL=endpoint.models[0],
        )
        with running_stack(tmp_path_factory.mktemp("crew") / "data", env) as stack:
            yield stack


@pytest.mark.parametrize("project", PROJECTS, ids=[project.requirement for project in PROJECTS])
def test_a_seeded_defect_in_a_published_project_is_fixed(
    crew: StackProcess, tmp_path: Path, project: Project, request: pytest.FixtureRequest
) -> None:
    name = project.requirement.split("=")[0]
    repo = seeded_repository(project, request.config.cache.mkdir("sources"), tmp_path)

    task = crew.run_task(f"Fix the failing tests of {name}.", repo)

    assert task["status"] == "completed", task
    baseline, final = task["tests"]
    assert (baseline["exit_code"], final["exit_code"]) == (1, 0)
    assert "pytest" in final["command"]
    assert passed(final["output"]) >= project.tests
    assert project.right in git(repo, "show", f"{task['branch']}:{project.path}")


def passed(output: str) -> int:
    words = output.replace(",", "").split()
    return int(words[words.index("passed") - 1])


def seeded_repository(project: Project, cache: Path, folder: Path) -> Path:
    """The project's source distribution as a git repository, with the defect in its one commit."""
    archive = download(project, cache)
    with tarfile.open(archive) as tar:
        # Python 3.11.2, Debian's, has no filters yet; the archive is pinned by its hash.
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (repo,) = (path for path in folder.iterdir() if path.is_dir())
    file = repo / project.path
    text = file.read_text()
    assert text.count(project.right) == 1
    file.write_text(text.replace(project.right, project.wrong))
    git(repo, "init", "-q", "-b", "main")
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q", "-m", "start")
    return repo


def download(project: Project, cache: Path) -> Path:
    """From the index pip is configured with, checked by hash, kept between runs."""
    pattern = f"{project.requirement.replace('==', '-')}.tar.gz"
    if not (cache / pattern).is_file():
        wanted = cache / "wanted.txt"
        wanted.write_text(f"{project.requirement} --hash=sha256:{project.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        subprocess.run(
            [*command, "--require-hashes", "-d", str(cache), "-r", str(wanted)], check=True, capture_output=True
        )
    return cache / pattern
