"""The stack by compose: the file is valid, locked down, explained, and fits the settings, the rules and 2 GB."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools_platform.config.settings import Settings, is_secret, variables_of

DEPLOY = Path(__file__).parents[2] / "deploy"
OURS = {"gateway", "context", "state", "agents", "worker", "console"}
SEED_PORTS = {"gateway": 8000, "context": 8007, "state": 8008, "qdrant": 6333, "postgres": 5432, "prometheus": 9090}


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return model["services"]


def test_the_file_is_valid_by_the_schema_of_compose() -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    argv = [str(program), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_caddy_is_public_and_the_ports_are_the_known_ones(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published.pop("caddy") == ["80:80", "443:443"]
    assert {name: f"127.0.0.1:{port}:{port}" for name, port in (SEED_PORTS | {"console": 8080}).items()} == {
        name: ports[0] for name, ports in published.items()
    }


def test_every_service_is_locked_down_and_bounded(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["restart"] == ("no" if name == "backup" else "unless-stopped"), name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name
        assert "mem_limit" in service, name
        if name != "postgres":  # its image starts as root, to own its folder
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
    for name in OURS:
        assert services[name]["healthcheck"]["test"][:4] == ["CMD", "python3", "-P", "-S"], name
        assert services[name]["command"] == ["up", "--only", name]
        assert services[name]["user"] == "${RUN_AS:-65534:65534}"
        assert services[name]["pids_limit"]


def test_only_the_gateway_may_make_namespaces(services: dict[str, dict[str, Any]]) -> None:
    loose = [name for name, service in services.items() if len(service["security_opt"]) > 1]
    assert loose == ["gateway"]


def test_secrets_are_files_and_only_who_works_has_the_models_key(
    model: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    assert all(set(secret) == {"file"} for secret in model["secrets"].values())
    secrets = {v for name in filter(is_secret, Settings.model_fields) for v in variables_of(name)}
    for service in services.values():
        assert not secrets & set(service.get("environment", {}))
    holders = {
        secret: {name for name, service in services.items() if secret in service.get("secrets", [])}
        for secret in ("model_api_key", "digitalocean_token")
    }
    assert holders == {"model_api_key": {"agents", "worker"}, "digitalocean_token": {"agents", "worker", "state"}}


def test_every_variable_of_ours_is_a_setting(services: dict[str, dict[str, Any]]) -> None:
    known = {v for name in Settings.model_fields for v in variables_of(name)}
    known |= {f"{v}_FILE" for name in filter(is_secret, Settings.model_fields) for v in variables_of(name)}
    for name in {*OURS, "backup"}:
        assert set(services[name]["environment"]) <= known


def test_the_example_explains_each_variable_and_no_other() -> None:
    text = (DEPLOY / "env.example").read_text()
    explained = set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    assert explained == used
    for block in text.strip().split("\n\n"):
        assert block.startswith("#"), block


def test_the_example_holds_the_defaults_of_the_file() -> None:
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    defaults = dict(re.findall(r"\$\{([A-Z_]+):?-([^}]*)\}", (DEPLOY / "compose.yaml").read_text()))
    assert example == defaults


def test_the_secrets_are_made_once_and_read_by_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    before: dict[str, str] = {}
    for _ in range(2):
        subprocess.run([str(DEPLOY / "make-secrets"), str(folder)], check=True, timeout=30)
        made = {file.name: file.read_text() for file in folder.iterdir()}
        assert before in ({}, made)
        before = made
    assert set(before) == {
        "token",
        "secret",
        "database_url",
        "postgres_password",
        "model_api_key",
        "digitalocean_token",
    }
    assert before["database_url"] == f"postgresql://devtools:{before['postgres_password']}@postgres:5432/devtools"
    assert len({before["token"], before["secret"], before["postgres_password"]}) == 3
    assert len(before["token"]) == 64
    assert folder.stat().st_mode & 0o777 == 0o700


def test_prometheus_asks_every_service_of_ours(services: dict[str, dict[str, Any]]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.compose.yml").read_text())
    asked = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    ports = {name: services[name]["healthcheck"]["test"][-1] for name in OURS}
    assert asked == {f"devtools-{name}": [f"{name}:{port}"] for name, port in ports.items()}
