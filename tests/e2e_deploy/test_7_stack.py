"""Must hold 4 of the stack: `deploy/compose.yaml` starts on a real engine, and a task goes through its services.

What stands for what, since no registry of public images is reached here: PostgreSQL 16 from a wheel for `postgres:16`;
the context service's embedded engine for the Qdrant server; a Python base made of installed Debian packages for
`python:3.11-slim`; scripted replies for the model. Caddy, Prometheus and Alertmanager are not started.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools_platform.app.demo import FILES, TASK
from e2e import scenarios
from e2e_deploy.fleet import Fleet, run
from e2e_deploy.product import EARLIER, ROOT, Prepared
from e2e_deploy.shop import GIT, POSTGRES, import_postgres

pytestmark = pytest.mark.timeout(600)
OURS = ("gateway", "context", "state", "agents", "worker", "console")
NOBODY = 65534


@dataclass
class Composed:
    fleet: Fleet
    argv: list[str | Path]
    repositories: Path

    def compose(self, *args: str | Path) -> str:
        return self.fleet.ci.docker(*self.argv, *args)

    def cli(self, service: str, *args: str) -> Any:
        """Our command inside a service's container."""
        out = self.compose("exec", "-T", service, "python3", "-m", "devtools_platform", *args, "--json")
        return json.loads(out)


@pytest.fixture(scope="module")
def composed(fleet: Fleet, prepared: Prepared) -> Iterator[Composed]:
    import_postgres(fleet, [fleet.ci])
    assert prepared.build.wait(400) == 0, (fleet.folder / "product-build.log").read_text()[-3000:]
    folder = fleet.folder / "composed"
    folder.mkdir(mode=0o755)
    run(ROOT / "deploy/make-secrets", folder / "secrets")
    repository = folder / "repositories/shop"
    for name, text in FILES.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    run(*GIT, "init", "-q", "-b", "main", cwd=repository)
    run(*GIT, "add", "-A", cwd=repository)
    run(*GIT, "commit", "-qm", "Start", cwd=repository)
    for path in (folder / "repositories", *(folder / "repositories").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    (folder / "script.json").write_text(json.dumps(scenarios.RULES))
    scripted = {
        "environment": {"DEV_TOOLS_MODEL_SCRIPT": "/etc/dev-tools/script.json"},
        "volumes": [f"{folder}/script.json:/etc/dev-tools/script.json:ro"],
    }
    changes = {
        "services": {
            "agents": scripted,
            "worker": scripted,
            "context": {"environment": {"QDRANT_URL": ""}},
        }
    }
    (folder / "changes.yaml").write_text(_with_context_alone(changes))
    (folder / "env").write_text(
        f"SECRETS_DIR={folder}/secrets\nREPOSITORIES={folder}/repositories\n"
        f"POSTGRES_IMAGE={POSTGRES}\nIMAGE={EARLIER}\n"
    )
    compose: list[str | Path] = ["compose", "--env-file", folder / "env", "-f", prepared.repo / "deploy/compose.yaml"]
    compose += ["-f", folder / "changes.yaml", "--profile", "development"]
    started = Composed(fleet, compose, folder / "repositories")
    try:
        started.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "200", "postgres", *OURS)
        yield started
    finally:
        for name in OURS:
            log = fleet.ci.docker(*compose, "logs", "--no-color", "--tail", "80", name, check=False)
            (fleet.folder / f"composed-{name}.log").write_text(log)
            if keep := os.environ.get("E2E_KEEP_LOGS"):
                shutil.copy(fleet.folder / f"composed-{name}.log", keep)
        fleet.ci.docker(*compose, "down", "-t", "5", check=False)


def _with_context_alone(changes: dict[str, Any]) -> str:
    """Without a Qdrant server there is nothing for the context service to wait for but the database."""
    text = yaml.safe_dump(changes, sort_keys=False)
    wait = "    depends_on: !override {postgres: {condition: service_healthy}}\n"
    return text.replace("  context:\n", f"  context:\n{wait}")


def test_every_service_is_healthy_and_none_is_root(composed: Composed) -> None:
    shown = composed.compose("ps", "--format", "json")
    states = {one["Service"]: one["Health"] for one in map(json.loads, shown.splitlines())}
    assert states == dict.fromkeys((*OURS, "postgres"), "healthy")
    for name in OURS:
        assert composed.compose("exec", "-T", name, "id", "-u").strip() == str(NOBODY)


def test_a_task_goes_through_the_services(composed: Composed) -> None:
    task = composed.cli("state", "task", "run", TASK, "--repo", "/repositories/shop")
    assert (task["status"], task["review"]["verdict"]) == ("completed", "approve"), task
    assert {"bandit", "detect-secrets", "ruff"} <= set(task["review"]["judged_by"]), task["review"]
    assert [item for item in task["degraded"] if "analyzer" in json.dumps(item)] == [], task["degraded"]
    branches = run(*GIT, "-c", "safe.directory=*", "branch", "--list", "task/*", cwd=composed.repositories / "shop")
    assert task["branch"] in branches


def test_the_stack_outlives_the_end_of_a_container(composed: Composed) -> None:
    composed.compose("kill", "gateway")
    composed.compose("up", "-d", "--no-build", "--wait", "gateway")
    began = time.monotonic()
    task = composed.cli("state", "task", "run", TASK, "--repo", "/repositories/shop")
    assert task["status"] == "completed", task
    assert time.monotonic() - began < 90
