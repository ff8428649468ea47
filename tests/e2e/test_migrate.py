"""From self-hosted containers to managed agents and back, as typed, on a recorded stack."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.core.agents import AGENTS
from fakes.digitalocean_resources import PROJECT
from fakes.digitalocean_server import FakeDigitalOcean, Fault
from stacks import StackProcess, clean_env, running_stack

pytestmark = pytest.mark.timeout(300)

INSPECT = Path(__file__).parents[1] / "app" / "inspect"
ANSWERS: list[dict[str, Any]] = [{"agent": agent, "turns": [{"text": "ready"}]} for agent in AGENTS]


@dataclass
class Place:
    """A running stack, DigitalOcean, and a Docker with the recorded containers."""

    stack: StackProcess
    fake: FakeDigitalOcean
    docker: Path
    env: dict[str, str]

    def run(self, *arguments: str, exit_code: int = 0, **env: str) -> Any:
        command = [sys.executable, "-m", "devtools_platform", "migrate", *arguments, "--json"]
        command += ["--env", "staging", "--data-dir", str(self.stack.data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env | env, check=False, timeout=120)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def containers(self) -> dict[str, tuple[bool, str]]:
        """Service -> whether it runs, and its restart policy."""
        return {
            one["Config"]["Labels"]["com.docker.compose.service"]: (
                one["State"]["Running"],
                one["HostConfig"]["RestartPolicy"]["Name"],
            )
            for one in json.loads(self.docker.read_text())
        }

    def managed(self) -> set[str]:
        return {agent.name.removeprefix("dev-tools-staging-") for agent in self.fake.resources.agents.values()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    docker = tmp_path / "docker.json"
    shutil.copy(INSPECT / "self_hosted.json", docker)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "docker"
    program.write_text(f'#!/bin/sh\nFAKE_DOCKER={docker} FAIL_AT="$(cat {tmp_path}/fail)" ')
    program.write_text(program.read_text() + f'exec {sys.executable} -S {INSPECT / "docker.py"} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "fail").write_text("")
    with FakeDigitalOcean(Script.parse(ANSWERS)) as fake:
        file = tmp_path / "environments.yaml"
        agents = {agent: {"runtime": "gradient", "model": "openai-gpt-oss-20b"} for agent in AGENTS}
        where = {"project_id": PROJECT, "gateway_url": "https://tools.example.org/mcp"}
        file.write_text(yaml.safe_dump({"environments": {"staging": {"digitalocean": where, "agents": agents}}}))
        env = clean_env(
            DEV_TOOLS_ENVIRONMENT="staging",
            DEV_TOOLS_ENVIRONMENTS_FILE=str(file),
            DEV_TOOLS_DIGITALOCEAN_URL=fake.url,
            DIGITALOCEAN_ACCESS_TOKEN=fake.token,
            DEV_TOOLS_MODEL_TIMEOUT_S="3",
        )
        with running_stack(tmp_path / "data", env) as stack:
            yield Place(stack, fake, docker, env | {"PATH": f"{tmp_path / 'bin'}:{env['PATH']}"})
        fake.check()


def test_forward_only_when_all_answer_and_back_as_it_was(place: Place) -> None:
    recorded = ("--inspect", str(INSPECT / "self_hosted.json"))
    before = place.containers()

    plan = place.run("plan", *recorded)
    assert {change["action"] for change in plan["changes"]} == {"create"}
    assert len(plan["kept"]) == 6
    assert (place.managed(), place.containers()) == (set(), before), "a plan changes nothing"
    assert place.run("run", *recorded, exit_code=5)["error"]["code"] == "forbidden"

    place.fake.inject(Fault("status", "/managed/", status=401))
    refused = place.run("run", *recorded, "--yes", exit_code=10)
    assert "No container was stopped" in refused["error"]["message"]
    assert place.containers() == before

    (place.docker.parent / "fail").write_text("stop /compose-cicd-1")
    place.run("run", *recorded, "--yes", exit_code=1)
    (place.docker.parent / "fail").write_text("")
    assert place.run("status")["phase"] == "stopping"

    done = place.run("run", *recorded, "--yes")
    assert {answer["ok"] for answer in done["answers"].values()} == {True}
    after = place.containers()
    assert {name for name, (is_on, _) in after.items() if not is_on} == set(AGENTS), "and nothing else"
    assert {after[agent][1] for agent in AGENTS} == {"no"}, "a reboot does not start them again"
    assert place.managed() == set(AGENTS)
    exported = "".join(file.read_text() for file in Path(done["exported"]).iterdir())
    assert "mistral-7b-instruct" in exported
    assert not any(secret in exported for secret in ("sk-do-", "sk-lf-", "hunter2", "changeme"))

    (place.docker.parent / "fail").write_text("start /compose-cicd-1")
    place.run("back", exit_code=1)
    assert place.managed() == set(AGENTS), "what answers goes only when the containers run"
    (place.docker.parent / "fail").write_text("")
    place.run("back")
    assert place.containers() == before
    assert place.managed() == set()
    assert place.run("status")["phase"] == "back"
    with place.stack.http as http:
        assert place.stack.facts is not None
        tokens = http.get(f"{place.stack.facts['urls']['gateway']}/tokens").json()
    assert not [token for token in tokens if token["is_valid"]], "no token of a deleted agent counts"
