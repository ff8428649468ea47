"""Must hold 4 of the stack: every service of `deploy/compose.yaml` starts on a real engine, and they work together.

What stands for what: PostgreSQL 16 from a wheel for `postgres:16`; a Python base made of installed Debian packages for
`python:3.11-slim`; scripted replies for the model; for Qdrant, Caddy, Prometheus and Alertmanager see
`e2e_deploy.images`. Prometheus asks and judges every two seconds here, and its rules wait for nothing.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools_platform.app.demo import FILES, TASK
from devtools_platform.context.names import name_collection
from e2e import scenarios
from e2e_deploy.fleet import Fleet, run, wait_for
from e2e_deploy.images import import_images
from e2e_deploy.product import EARLIER, ROOT, Prepared
from e2e_deploy.shop import GIT, POSTGRES, import_postgres

pytestmark = pytest.mark.timeout(600)
OURS = ("gateway", "context", "state", "agents", "worker", "console")
CHECKED = (*OURS, "postgres", "qdrant")
OTHERS = ("caddy", "prometheus", "alertmanager")
PUBLIC = [80, 443]
INSIDE = [8000, 8001, 8007, 8008, 8080, 5432, 6333, 9090, 9093, 9108]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
BROWSE = """
import json, ssl, sys, httpx2
context = ssl.create_default_context(cafile=sys.argv[1])
with httpx2.Client(verify=context, trust_env=False, headers={"Accept": "text/html, application/json"}) as browser:
    for method, url, headers, body in json.load(sys.stdin):
        got = browser.request(method, url, headers=headers, json=body)
        print(json.dumps([got.status_code, dict(got.headers), got.text]))
"""
CONNECT = """
import socket, sys
for port in sys.argv[2:]:
    with socket.socket() as probe:
        probe.settimeout(2)
        print(port, probe.connect_ex((sys.argv[1], int(port))) == 0)
"""
NOBODY = 65534
KEYS = "/data/kept/managed-agents.json"


@dataclass
class Composed:
    fleet: Fleet
    argv: list[str | Path]
    folder: Path

    @property
    def repositories(self) -> Path:
        return self.folder / "repositories"

    @property
    def token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {(self.folder / 'secrets/token').read_text()}"}

    def compose(self, *args: str | Path) -> str:
        return self.fleet.ci.docker(*self.argv, *args)

    def cli(self, service: str, *args: str) -> Any:
        """Our command inside a service's container."""
        out = self.compose("exec", "-T", service, "python3", "-m", "devtools_platform", *args, "--json")
        return json.loads(out)

    def browse(self, *asked: tuple[str, str, dict[str, str], Any]) -> list[tuple[int, dict[str, str], str]]:
        """Requests of one person to Caddy, on its machine, trusting Caddy's own authority and no other."""
        root = self.folder / "root.crt"
        self.compose("cp", "caddy:/data/caddy/pki/authorities/local/root.crt", root)
        argv = [*self.fleet.ci.enter, sys.executable, "-c", BROWSE, root]
        return [json.loads(line) for line in run(*argv, input=json.dumps(asked)).splitlines()]

    def backup(self, *args: str) -> Any:
        """Our command in the container for backups, with the private key at hand."""
        key = ["-v", f"{self.folder}/backup.key:/run/key:ro"]
        return json.loads(self.compose("run", "--rm", "-T", *key, "backup", *args, "--json"))

    def search(self, query: str) -> list[str]:
        """The paths that the context service finds for it in the repository."""
        url = f"http://127.0.0.1:8007/collections/{name_collection(Path('/repositories/shop'))}/search?q={query}"
        return [hit["path"] for hit in self.ask("context", url)]

    def ask(self, service: str, url: str) -> Any:
        """What a program inside the stack is answered."""
        program = (
            "import json, os, sys, urllib.request as r\n"
            "token = open('/run/secrets/token').read()\n"
            "q = r.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + token})\n"
            "print(r.urlopen(q, timeout=15).read().decode())"
        )
        return json.loads(self.compose("exec", "-T", service, "python3", "-c", program, url))


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
    (folder / "backups").mkdir()
    for path in (folder / "backups", folder / "repositories", *(folder / "repositories").rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    (folder / "script.json").write_text(json.dumps(scenarios.RULES))
    (folder / "changes.yaml").write_text(yaml.safe_dump(_changes(folder)))
    (folder / "env").write_text(
        f"SECRETS_DIR={folder}/secrets\nREPOSITORIES={folder}/repositories\nBACKUPS={folder}/backups\n"
        f"POSTGRES_IMAGE={POSTGRES}\nIMAGE={EARLIER}\nDEV_TOOLS_PUBLIC_URL=https://localhost\n"
    )
    import_images(fleet)
    compose: list[str | Path] = ["compose", "--env-file", folder / "env", "-f", prepared.repo / "deploy/compose.yaml"]
    compose += ["-f", folder / "changes.yaml", "--profile", "production"]
    started = Composed(fleet, compose, folder)
    try:
        started.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "240")
        yield started
    finally:
        for name in (*CHECKED, *OTHERS):
            log = fleet.ci.docker(*compose, "logs", "--no-color", "--tail", "80", name, check=False)
            (fleet.folder / f"composed-{name}.log").write_text(log)
            if keep := os.environ.get("E2E_KEEP_LOGS"):
                shutil.copy(fleet.folder / f"composed-{name}.log", keep)
        fleet.ci.docker(*compose, "down", "-t", "2", check=False)


def _changes(folder: Path) -> dict[str, Any]:
    """To the compose file: the model's script, and a Prometheus that a test can wait for."""
    scripted = {
        "environment": {"DEV_TOOLS_MODEL_SCRIPT": "/etc/dev-tools/script.json"},
        "volumes": [f"{folder}/script.json:/etc/dev-tools/script.json:ro"],
    }
    shipped = ROOT / "deploy/prometheus"
    hasty = (shipped / "prometheus.compose.yml").read_text().replace("interval: 15s", "interval: 2s")
    (folder / "prometheus.yml").write_text(hasty)
    (folder / "rules.yml").write_text(re.sub(r"for: \d+\w", "for: 0s", (shipped / "rules.yml").read_text()))
    mounted = [f"{folder}/{name}.yml:/etc/prometheus/{name}.yml:ro" for name in ("prometheus", "rules")]
    return {"services": {"agents": scripted, "worker": scripted, "prometheus": {"volumes": mounted}}}


def test_every_service_runs_healthy_and_ours_are_not_root(composed: Composed) -> None:
    shown = list(map(json.loads, composed.compose("ps", "--format", "json").splitlines()))
    assert {one["Service"]: one["State"] for one in shown} == dict.fromkeys((*CHECKED, *OTHERS), "running")
    assert {one["Service"]: one["Health"] for one in shown if one["Health"]} == dict.fromkeys(CHECKED, "healthy")
    for name in OURS:
        assert composed.compose("exec", "-T", name, "id", "-u").strip() == str(NOBODY)


def test_a_task_goes_through_the_services(composed: Composed) -> None:
    task = composed.cli("state", "task", "run", TASK, "--repo", "/repositories/shop")
    assert (task["status"], task["review"]["verdict"]) == ("completed", "approve"), task
    assert {"bandit", "detect-secrets", "ruff"} <= set(task["review"]["judged_by"]), task["review"]
    assert [item for item in task["degraded"] if "analyzer" in json.dumps(item)] == [], task["degraded"]
    assert "no code context" not in json.dumps(task["degraded"]), "it was indexed at the Qdrant server"
    branches = run(*GIT, "-c", "safe.directory=*", "branch", "--list", "task/*", cwd=composed.repositories / "shop")
    assert task["branch"] in branches
    assert composed.search("discount")


def test_only_caddy_is_public_and_a_person_comes_in_over_tls(composed: Composed) -> None:
    link = composed.cli("console", "console", "link", "ada")["url"]
    assert link.startswith("https://localhost/login?token=")
    made = composed.cli("gateway", "token", "create", "editor", "--scope", "context:*", "--scope", "agents:cicd")
    ours = {"Authorization": f"Bearer {made['token']}", "Accept": "application/json, text/event-stream"}
    agents, collections = "https://localhost/agents/cicd/v1", "https://localhost/collections"
    models_of = ("GET", f"{agents}/models", ours, None)
    wait_for(lambda: composed.browse(models_of)[0][0] == 200, 20, "a token that the agents know")
    plain, stranger, _, home, mcp, models, *closed = composed.browse(
        ("GET", "http://localhost/", {}, None),
        ("GET", "https://localhost/", {}, None),
        ("GET", link, {}, None),
        ("GET", "https://localhost/", {}, None),
        ("POST", "https://localhost/mcp", ours, INITIALIZE),
        models_of,
        ("POST", "https://localhost/mcp", {}, INITIALIZE),
        ("POST", f"{agents}/chat/completions", {}, {"model": "cicd", "messages": []}),
        ("GET", "https://localhost/metrics", {}, None),
        ("POST", "https://localhost/login-links", composed.token, {"name": "eve", "role": "admin"}),
        ("GET", collections, composed.token, None),
    )
    assert (plain[0], plain[1]["location"]) == (308, "https://localhost/")
    assert (stranger[0], home[0], "ada" in home[2]) == (401, 200, True)
    assert (mcp[0], "serverInfo" in mcp[2]) == (200, True)
    assert (models[0], '"cicd"' in models[2]) == (200, True)
    assert [status for status, _, _ in closed] == [401, 401, 404, 404, 404]
    for _, headers, _text in (home, mcp, models, *closed):
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert "frame-ancestors 'none'" in home[1]["content-security-policy"]

    other, ports = composed.fleet.droplets["web-1"], [str(port) for port in (*PUBLIC, *INSIDE)]
    told = run(*other.enter, sys.executable, "-S", "-c", CONNECT, composed.fleet.ci.address, *ports).split()
    opened = [int(port) for port, is_open in zip(told[::2], told[1::2], strict=True) if is_open == "True"]
    assert opened == PUBLIC, "from another machine"


def test_prometheus_reaches_every_service_and_an_alert_reaches_alertmanager_and_ends(composed: Composed) -> None:
    """And the stack outlives the end of a container."""
    jobs = {f"devtools-{name}" for name in OURS}
    wait_for(lambda: _up(composed) == dict.fromkeys(jobs, "1"), 60, "every target up")
    wait_for(lambda: _alerts(composed) == set(), 60, "a stack that is well and says so")
    assert _broken_rules(composed) == []
    composed.compose("kill", "gateway")
    down = ("DevToolsTargetDown", "devtools-gateway")
    wait_for(lambda: down in _alerts(composed), 30, "the alert")
    composed.compose("up", "-d", "--no-build", "--wait", "gateway")
    began = time.monotonic()
    task = composed.cli("state", "task", "run", TASK, "--repo", "/repositories/shop")
    assert task["status"] == "completed", task
    assert time.monotonic() - began < 90
    wait_for(lambda: down not in _alerts(composed), 30, "its end")


def _up(composed: Composed) -> dict[str, str]:
    _, text = composed.fleet.ci.get("http://127.0.0.1:9090/api/v1/query?query=up")
    return {one["metric"]["job"]: one["value"][1] for one in json.loads(text)["data"]["result"]}


def _broken_rules(composed: Composed) -> list[str]:
    _, text = composed.fleet.ci.get("http://127.0.0.1:9090/api/v1/rules")
    rules = [rule for group in json.loads(text)["data"]["groups"] for rule in group["rules"]]
    return [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] == "err"]


def _alerts(composed: Composed) -> set[tuple[str, str]]:
    shown = composed.ask("console", "http://alertmanager:9093/api/v2/alerts")
    return {(one["labels"]["alertname"], one["labels"].get("job", "")) for one in shown}


def test_a_backup_made_while_it_runs_comes_back_on_empty_volumes(composed: Composed) -> None:
    """And search is back when Qdrant is, with all it held."""
    held = composed.search("discount")
    composed.compose("kill", "qdrant")
    composed.compose("up", "-d", "--no-build", "--wait", "qdrant")
    assert composed.search("discount") == held

    # What `dev-tools agents sync` keeps: keys that DigitalOcean shows once.
    keep = "from devtools_platform.app.home import Home; from pathlib import Path; "
    keep += "Home(Path('/data')).keep_secret('managed-agents.json', '{}')"
    composed.compose("exec", "-T", "agents", "python3", "-c", keep)
    assert composed.compose("exec", "-T", "worker", "cat", KEYS) == "{}"

    public = composed.fleet.cli("backup", "keygen", composed.folder / "backup.key")["public_key"]
    os.chown(composed.folder / "backup.key", NOBODY, NOBODY)
    made = composed.backup("backup", "create", "/backups/one.age", "--to", public, "--verify", "/run/key")
    assert made["problems"] == []
    assert (made["tasks"], made["workspaces"]) == (2, 2)
    assert made["chunks"] > 3

    composed.compose("down", "-v", "-t", "2")
    restored = composed.backup("restore", "/backups/one.age", "--key", "/run/key")
    assert (restored["tasks"], restored["workspaces"], restored["chunks"]) == (2, 2, made["chunks"])
    assert composed.compose("run", "--rm", "-T", "--entrypoint", "cat", "backup", KEYS) == "{}"
    composed.compose("up", "-d", "--no-build", "--wait", "state", "context")
    listed = composed.cli("state", "task", "list")
    assert len(listed["items"] if isinstance(listed, dict) else listed) == 2
    assert composed.search("discount") == held
