"""Real parts for the context tests: git repositories and Qdrant's engine in its own process."""

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.service import ContextService

ENVIRONMENT = {
    "PATH": os.defpath,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.invalid",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.invalid",
}

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]


def git(repo: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repo, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def commit() -> Commit:
    """Write files (None deletes one) into a repository, made at need, and commit everything."""

    def commit_files(repo: Path, files: Mapping[str, str | bytes | None]) -> str:
        repo.mkdir(parents=True, exist_ok=True)
        if not (repo / ".git").exists():
            git(repo, "init", "-q")
        for name, content in files.items():
            path = repo / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        git(repo, "add", "-A")
        git(repo, "commit", "-q", "--allow-empty", "-m", "change")
        return git(repo, "rev-parse", "HEAD")

    return commit_files


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EdgeEngine]:
    edge = EdgeEngine(tmp_path / "data" / "engine")
    yield edge
    await edge.aclose()


@pytest.fixture
async def service(engine: EdgeEngine, tmp_path: Path) -> AsyncIterator[ContextService]:
    context = ContextService(engine, tmp_path / "data" / "manifests")
    yield context
    await context.aclose()
