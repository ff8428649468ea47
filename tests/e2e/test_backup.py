"""A whole stack into one encrypted file and back, on both stores, as typed."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from devtools_platform.app.backup import Backup
from devtools_platform.app.demo import FILES
from devtools_platform.config import Settings
from devtools_platform.core.errors import AlreadyRunning, Conflict
from stacks import StackProcess, clean_env, git, make_repo, remove_cluster, running_stack

pytestmark = pytest.mark.timeout(300)

TASK = "An order of exactly 100 must get the discount."


def run(*arguments: str, env: dict[str, str], exit_code: int = 0) -> Any:
    """A command as typed; the clusters of stacks that are down stay."""
    command = [sys.executable, "-m", "devtools_platform", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120)
    assert done.returncode == exit_code, done.stderr + done.stdout
    return json.loads(done.stdout)


def given(env: dict[str, str]) -> dict[str, Any]:
    """Of the settings in `env` what the test looks at, for a backup that is made in this process."""
    url = env.get("DATABASE_URL")
    return {
        "embeddings": "none",
        "model_api_key": SecretStr(env["DEV_TOOLS_MODEL_API_KEY"]),
        "approval_rules": Path(env["DEV_TOOLS_APPROVAL_RULES"]),
        **({"database_url": SecretStr(url)} if url else {}),
    }


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "backup.key"


@pytest.fixture(scope="module")
def public(key: Path) -> str:
    return run("backup", "keygen", str(key), env=clean_env())["public_key"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, endpoint_env: dict[str, str], public: str) -> dict[str, str]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yaml"
    rules.write_text("rules: []\n")
    more = {"DEV_TOOLS_APPROVAL_RULES": str(rules), "DEV_TOOLS_BACKUP_RECIPIENT": public}
    return clean_env(**endpoint_env, **more)


@pytest.fixture
def worked(
    store: str, settings: dict[str, str], tmp_path: Path
) -> Iterator[tuple[StackProcess, dict[str, str], str, Path]]:
    """A running stack that has done a task in a repository, which is indexed."""
    data_dir = tmp_path / "data"
    env = settings | ({"DATABASE_URL": f"sqlite:///{tmp_path}/store.db"} if store == "sqlite" else {})
    repo = make_repo(tmp_path / "shop", FILES)
    with running_stack(data_dir, env) as stack:
        task = stack.run_task(TASK, repo)
        assert task["status"] == "completed"
        yield stack, env, task["id"], repo


def test_a_stack_comes_back_whole_in_an_empty_place(
    worked: tuple[StackProcess, dict[str, str], str, Path], key: Path, public: str, tmp_path: Path, store: str
) -> None:
    stack, env, task, repo = worked
    file, place = tmp_path / "stack.age", f"--data-dir={stack.data_dir}"
    token, branch = (stack.data_dir / "token").read_text(), stack.get(f"/tasks/{task}")["branch"]

    found = run("backup", "create", str(file), "--verify", str(key), place, env=env)

    assert (found["tasks"], found["workspaces"], found["problems"]) == (1, 1, [])
    assert found["chunks"] > 3
    assert found["audit_entries"] >= 1
    assert b"shop" not in file.read_bytes()
    assert not list(stack.data_dir.glob(".backup-*")), "nothing that was secret stays about"
    work = Backup(Settings(**given(env), data_dir=stack.data_dir), lambda _part, _text: None)
    with pytest.raises(AlreadyRunning):
        asyncio.run(work.restore(file, key))
    stack.stop()
    assert asyncio.run(work.create(tmp_path / "down.age", public)).contents.has_index
    with pytest.raises(Conflict, match="overwrites nothing"):
        asyncio.run(work.restore(file, key))

    other = tmp_path / "other"
    elsewhere = env | ({"DATABASE_URL": f"sqlite:///{tmp_path}/other.db"} if store == "sqlite" else {})
    restored = run("restore", str(tmp_path / "down.age"), "--key", str(key), f"--data-dir={other}", env=elsewhere)
    try:
        assert (restored["tasks"], restored["workspaces"], restored["chunks"]) == (1, 1, found["chunks"])
        assert (other / "token").read_text() == token
        assert git(other / "workspaces" / task, "rev-parse", "HEAD") == git(repo, "rev-parse", branch)
        said = Path(restored["settings"]).read_text()
        assert env["DEV_TOOLS_MODEL_API_KEY"] in said
        assert f"DEV_TOOLS_APPROVAL_RULES={other}/restored/approval_rules/rules.yaml" in said
        with running_stack(other, elsewhere) as fresh:
            assert fresh.get(f"/tasks/{task}")["status"] == "completed"
            assert count_chunks(fresh, repo) == found["chunks"]
    finally:
        remove_cluster(other)


def count_chunks(stack: StackProcess, repo: Path) -> int:
    """Of the repository's own index; what the team remembers of it is made anew from the database."""
    assert stack.facts is not None
    url = f"{stack.facts['urls']['context']}/collections"
    with stack.http as http:
        listed = [http.get(f"{url}/{name}").json() for name in http.get(url).json()]
    (own,) = [one for one in listed if one["repo"] == str(repo)]
    return own["chunks"]


def test_without_a_key_nothing_is_written_and_a_forgery_changes_nothing(
    endpoint_env: dict[str, str], key: Path, public: str, tmp_path: Path
) -> None:
    env, place = clean_env(**endpoint_env), f"--data-dir={tmp_path / 'data'}"
    file = tmp_path / "stack.age"
    file.write_bytes(b"age-encryption.org/v1\nnonsense")

    refused = run("backup", "create", str(tmp_path / "new.age"), place, env=env, exit_code=2)
    assert "keygen" in refused["error"]["hint"]
    refused = run("restore", str(file), "--key", str(key), place, env=env, exit_code=2)
    assert "no whole archive" in refused["error"]["message"]
    assert not (tmp_path / "data" / "token").exists()
    assert not list((tmp_path / "data").glob(".backup-*"))
