import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.app.demo import FILES
from e2e import scenarios
from fakes.openai_server import FakeOpenAI
from stacks import StackProcess, clean_env, make_repo, running_stack


@pytest.fixture(scope="session")
def endpoint() -> Iterator[FakeOpenAI]:
    with FakeOpenAI(Script.parse(scenarios.RULES)) as server:
        yield server


@pytest.fixture(scope="session")
def endpoint_env(endpoint: FakeOpenAI) -> dict[str, str]:
    return {
        "DEV_TOOLS_MODEL_BASE_URL": endpoint.base_url,
        "DEV_TOOLS_MODEL_API_KEY": str(endpoint.api_key),
        "DEV_TOOLS_MODEL": endpoint.models[0],
        "DEV_TOOLS_COMMAND_TIMEOUT_S": "20",
        "DEV_TOOLS_MAX_REVIEW_ROUNDS": "1",
    }


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str]) -> Iterator[StackProcess]:
    """One stack for all end-to-end tests that leave it standing."""
    env = clean_env(**endpoint_env, DEV_TOOLS_EMBEDDINGS="local")
    with running_stack(tmp_path_factory.mktemp("stack") / "data", env) as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 220 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=220m,mode=755", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk, and not every root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The demo's repository: one failing test."""
    return make_repo(tmp_path / "shop", FILES)
