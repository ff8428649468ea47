"""One stack in several processes, as `deploy/compose.yaml` runs it: a database, a token, a secret, and URLs."""

import re
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from devtools_platform.app.demo import FILES, TASK
from devtools_platform.kit.process import free_port
from stacks import StackProcess, clean_env, git, make_repo, run_cli

GROUPS = ("gateway", "context,worker", "state,console", "agents")
"""So that everything one service asks of another goes over HTTP."""
SERVICES = ("gateway", "context", "state", "console", "agents")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("apart")


@pytest.fixture(scope="module")
def env(folder: Path, postgres_database_url: str) -> dict[str, str]:
    given = {"DATABASE_URL": postgres_database_url}
    given |= {f"DEV_TOOLS_STACK_{name}": secrets.token_urlsafe(32) for name in ("TOKEN", "SECRET")}
    for name, value in given.items():
        (folder / name).write_text(value)
    ports = {name: free_port() for name in SERVICES}
    return clean_env(
        **{f"{name}_FILE": str(folder / name) for name in given},
        **{f"DEV_TOOLS_{name.upper()}_PORT": str(port) for name, port in ports.items()},
        **{f"DEV_TOOLS_{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in ports.items()},
        DEV_TOOLS_WORKSPACES_DIR=str(folder / "workspaces"),
        DEV_TOOLS_PUBLIC_URL="https://dev.example.org",
    )


@pytest.fixture(scope="module")
def processes(
    folder: Path, env: Mapping[str, str], endpoint_env: Mapping[str, str]
) -> Iterator[dict[str, StackProcess]]:
    """Only who works has the model's key."""
    started = {
        only: StackProcess(
            folder / only.replace(",", "-"),
            {**env, **(endpoint_env if {"agents", "worker"} & set(only.split(",")) else {})},
            has_own_ports=True,
            only=only,
        )
        for only in GROUPS
    }
    with ThreadPoolExecutor() as pool:
        list(pool.map(StackProcess.start, started.values()))
    yield started
    for one in started.values():
        one.stop()


def test_a_task_goes_through_services_that_run_apart(processes, tmp_path):
    repo = make_repo(tmp_path / "shop", FILES)
    task = processes["state,console"].run_task(TASK, repo)
    assert (task["status"], task["review"]["verdict"]) == ("completed", "approve"), task
    assert task["branch"] in git(repo, "branch", "--list", "task/*")
    collections = httpx2.get(f"{_url(processes, 'CONTEXT')}/collections", headers=_token(processes))
    assert any(name.startswith("shop") for name in collections.json())


def test_the_console_shows_what_it_has_from_the_others(processes):
    console = _url(processes, "CONSOLE")
    link = httpx2.post(f"{console}/login-links", headers=_token(processes)).json()["url"]
    assert link.startswith("https://dev.example.org/login?token=")
    with httpx2.Client(base_url=console, headers={"Accept": "text/html"}, trust_env=False) as browser:
        browser.get(link.removeprefix("https://dev.example.org"))
        agents = browser.get("/agents").text
        assert re.search(processes["agents"].env["DEV_TOOLS_MODEL"], agents)
        assert "shop" in browser.get("/knowledge").text
        assert browser.get("/gateway").status_code == 200


def test_the_agents_answer_at_their_own_port_for_who_has_a_token(processes):
    agents = _url(processes, "AGENTS")
    assert httpx2.get(f"{agents}/agents").status_code == 401
    listed = httpx2.get(f"{agents}/agents", headers=_token(processes)).json()
    assert len(listed) == 6
    assert {one["model"] for one in listed} == {processes["agents"].env["DEV_TOOLS_MODEL"]}


def test_commands_work_where_one_service_runs(processes, env):
    gateway = processes["gateway"]
    done = run_cli("task", "list", "--json", "--data-dir", str(gateway.data_dir), env=gateway.env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("only", "left_out", "message"),
    [
        ("console", "DEV_TOOLS_AGENTS_URL", "This service needs DEV_TOOLS_AGENTS_URL"),
        ("state", "DATABASE_URL_FILE", "need a database"),
        ("integrations", "", "nothing to listen for"),
        ("gatewya", "", "'gatewya' is no service"),
    ],
)
def test_what_a_service_misses_is_named(env, tmp_path, only, left_out, message):
    kept = {name: value for name, value in env.items() if name != left_out and not name.endswith("_PORT")}
    done = run_cli("up", "--only", only, "--free-ports", "--data-dir", str(tmp_path / "data"), env=kept)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())


def _url(processes, service: str) -> str:
    return processes["gateway"].env[f"DEV_TOOLS_{service}_URL"]


def _token(processes) -> dict[str, str]:
    return {"Authorization": f"Bearer {Path(processes['gateway'].env['DEV_TOOLS_STACK_TOKEN_FILE']).read_text()}"}
