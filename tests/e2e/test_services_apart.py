"""One stack in several processes, as `deploy/compose.yaml` runs it: a database, a token, a secret, and URLs."""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from devtools_platform.app.demo import FILES, TASK
from devtools_platform.app.stack import Stack
from devtools_platform.cli.stack import read_services, stack_settings
from devtools_platform.config.settings import Service
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tools import Caller
from devtools_platform.kit.process import free_port
from devtools_platform.kit.tokens import issue_run_token
from stacks import StackProcess, clean_env, git, make_repo, run_cli

GROUPS = ("gateway", "context,agents", "state,console,worker")
"""So that everything one service asks of another goes over HTTP."""
Processes = Mapping[str, StackProcess]
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
    ports = {name: free_port("127.0.0.1") for name in SERVICES}
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
        try:
            list(pool.map(StackProcess.start, started.values()))
            yield started
        finally:
            list(pool.map(StackProcess.stop, [one for one in started.values() if one.is_running]))


def test_a_task_goes_through_services_that_run_apart(processes: Processes, tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "shop", FILES)
    task = processes["state,console,worker"].run_task(TASK, repo)
    assert (task["status"], task["review"]["verdict"]) == ("completed", "approve"), task
    assert task["branch"] in git(repo, "branch", "--list", "task/*")
    collections = httpx2.get(f"{_url(processes, 'CONTEXT')}/collections", headers=_token(processes))
    assert any(name.startswith("shop") for name in collections.json())


def test_the_console_shows_what_it_has_from_the_others(processes: Processes) -> None:
    with _browser(processes) as browser:
        agents = browser.get("/agents").text
        assert re.search(processes["context,agents"].env["DEV_TOOLS_MODEL"], agents)
        assert "shop" in browser.get("/knowledge").text
        assert browser.get("/gateway").status_code == 200


def test_the_agents_answer_at_their_own_port_for_who_has_a_token(processes: Processes) -> None:
    agents = _url(processes, "AGENTS")
    assert httpx2.get(f"{agents}/agents").status_code == 401
    listed = httpx2.get(f"{agents}/agents", headers=_token(processes)).json()
    assert len(listed) == 6
    model = processes["context,agents"].env["DEV_TOOLS_MODEL"]
    assert [one["chain"][0]["model"] for one in listed] == [model] * 6
    (answer,) = httpx2.post(f"{agents}/agents/cicd/probe", headers=_token(processes), timeout=20).json()
    assert answer["runtime"] == f"stack {model}"
    assert "rejects the request" in answer["text"], answer  # it was asked; its script has no answer to that


def test_every_service_refuses_who_has_no_token_of_this_stack(processes: Processes) -> None:
    forged = issue_run_token("x" * 40, Caller("task", "cicd"))
    doors = {"GATEWAY": "/tools", "CONTEXT": "/collections", "STATE": "/tasks", "AGENTS": "/agents/cicd/v1/models"}
    for service, path in doors.items():
        for token in (None, "guessed", "dtg_guessed", forged):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            answer = httpx2.get(f"{_url(processes, service)}{path}", headers=headers)
            assert answer.status_code == 401, (service, token)
        assert httpx2.get(f"{_url(processes, service)}{path}", headers=_token(processes)).status_code == 200
        assert httpx2.get(f"{_url(processes, service)}/health").status_code == 200
    console = _url(processes, "CONSOLE")
    assert httpx2.post(f"{console}/login-links", headers={"Authorization": "Bearer guessed"}).status_code == 401
    assert httpx2.get(f"{console}/tasks").status_code == 401


def test_a_named_token_opens_what_it_names_and_ends_everywhere_when_it_is_revoked(processes: Processes) -> None:
    gateway = _url(processes, "GATEWAY")
    asked = {"name": "ana", "scopes": ["agents:cicd", "context:shop*"]}
    made = httpx2.post(f"{gateway}/tokens", json=asked, headers=_token(processes)).json()
    ana = {"Authorization": f"Bearer {made['token']}"}

    def status(service: str, path: str) -> int:
        return httpx2.get(f"{_url(processes, service)}{path}", headers=ana).status_code

    opened = {("AGENTS", "/agents/cicd/v1/models"), ("CONTEXT", "/collections")}
    for service, path in opened:
        wait_for(lambda service=service, path=path: status(service, path) == 200)
    assert status("AGENTS", "/agents/documentation/v1/models") == 403
    assert [status("STATE", "/tasks"), status("STATE", "/audit"), status("GATEWAY", "/tokens")] == [401, 401, 403]
    assert httpx2.post(f"{_url(processes, 'CONSOLE')}/login-links", headers=ana).status_code == 401

    assert httpx2.delete(f"{gateway}/tokens/{made['id']}", headers=_token(processes)).is_success
    for service, path in opened:
        wait_for(lambda service=service, path=path: status(service, path) == 401)


def test_the_console_goes_on_without_the_agents_and_says_what_is_unknown(processes: Processes) -> None:
    """Last of those that need the agents: they stay away."""
    processes["context,agents"].stop()
    with _browser(processes) as browser:
        spend = browser.get("/spend")
        assert spend.status_code == 200
        assert f"The agents at {_url(processes, 'AGENTS')} do not answer" in spend.text
        assert "openai-gpt-oss-120b" in spend.text, "the tables are whole"
        assert "unknown" in browser.get("/agents").text


def test_commands_work_where_one_service_runs(processes: Processes) -> None:
    gateway = processes["gateway"]
    done = run_cli("task", "list", "--json", "--data-dir", str(gateway.data_dir), env=gateway.env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("only", "left_out", "message"),
    [
        ("console", "DEV_TOOLS_AGENTS_URL", "This service needs DEV_TOOLS_AGENTS_URL"),
        ("state", "DATABASE_URL_FILE", "need a database"),
        ("integrations", "", "nothing to listen for"),
    ],
)
async def test_what_a_service_misses_is_named(
    env: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    only: Service,
    left_out: str,
    message: str,
) -> None:
    for name, value in env.items():
        if name != left_out and not name.endswith("_PORT"):
            monkeypatch.setenv(name, value)
    settings = stack_settings(tmp_path / "data", free_ports=True)
    with pytest.raises(BadInput, match=message):
        async with Stack(settings, lambda _part, _text: None, frozenset({only})).run():
            pass


def test_a_name_that_is_no_service_is_refused() -> None:
    with pytest.raises(BadInput, match="'gatewya' is no service"):
        read_services("gateway,gatewya")


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def _browser(processes: Processes) -> Iterator[httpx2.Client]:
    """Somebody who is signed in."""
    console = _url(processes, "CONSOLE")
    link = httpx2.post(f"{console}/login-links", headers=_token(processes)).json()["url"]
    assert link.startswith("https://dev.example.org/login?token=")
    with httpx2.Client(base_url=console, headers={"Accept": "text/html"}, trust_env=False) as browser:
        browser.get(link.removeprefix("https://dev.example.org"))
        yield browser


def _url(processes: Processes, service: str) -> str:
    return processes["gateway"].env[f"DEV_TOOLS_{service}_URL"]


def _token(processes: Processes) -> dict[str, str]:
    return {"Authorization": f"Bearer {Path(processes['gateway'].env['DEV_TOOLS_STACK_TOKEN_FILE']).read_text()}"}
