"""From self-hosted containers to managed agents and back, on a recorded stack."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.migration import Docker, Migration
from devtools_platform.app.self_hosted import read_inspect
from devtools_platform.config import Settings
from devtools_platform.core.agents import AGENTS
from devtools_platform.core.errors import ProgramFailed, Unavailable
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
    migration: Migration

    def fail_at(self, what: str) -> None:
        """A verb and a container's name; nothing for a Docker that is well."""
        (self.docker.parent / "fail").write_text(what)

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
        agents = self.fake.resources.agents.values()
        return {agent.spec["name"].removeprefix("dev-tools-staging-") for agent in agents}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    docker = tmp_path / "docker.json"
    shutil.copy(INSPECT / "self_hosted.json", docker)
    program = tmp_path / "docker"
    run = f'exec {sys.executable} -S {INSPECT / "docker.py"} "$@"'
    program.write_text(f'#!/bin/sh\nFAKE_DOCKER={docker} FAIL_AT="$(cat {tmp_path}/fail)" {run}\n')
    program.chmod(0o755)
    (tmp_path / "fail").write_text("")
    file = tmp_path / "environments.yaml"
    agents = {agent: {"runtime": "gradient", "model": "openai-gpt-oss-20b"} for agent in AGENTS}
    where = {"project_id": PROJECT, "gateway_url": "https://tools.example.org/mcp"}
    file.write_text(yaml.safe_dump({"environments": {"staging": {"digitalocean": where, "agents": agents}}}))
    with FakeDigitalOcean(Script.parse(ANSWERS)) as fake, running_stack(tmp_path / "data", clean_env()) as stack:
        settings = Settings(
            environment="staging",
            data_dir=stack.data_dir,
            environments_file=file,
            digitalocean_url=fake.url,
            digitalocean_access_token=SecretStr(fake.token),
            model_timeout_s=10,
            use_ollama=False,
        )
        yield Place(stack, fake, docker, Migration(settings, lambda _part, _text: None, Docker(str(program))))
        fake.check()


async def test_forward_only_when_all_answer_and_back_as_it_was(place: Place) -> None:
    migration, found = place.migration, read_inspect([(INSPECT / "self_hosted.json").read_text()])
    before = place.containers()

    plan = await migration.plan(found)
    assert {change.action for change in plan.changes} == {"create"}
    assert len(plan.kept) == 6
    assert (place.managed(), place.containers()) == (set(), before), "a plan changes nothing"

    place.fake.inject(Fault("status", "/managed/", status=401))
    with pytest.raises(Unavailable, match="No container was stopped"):
        await migration.run(found, wait_s=30)
    assert place.containers() == before

    place.fail_at("stop /compose-cicd-1")
    with pytest.raises(ProgramFailed, match="told to fail"):
        await migration.run(found, wait_s=30)
    assert (record := migration.find_record()) is not None
    assert record.phase == "stopping"

    place.fail_at("")
    done = await migration.run(found, wait_s=30)
    assert {answer.text for answer in done.answers.values()} == {"ready"}
    after = place.containers()
    assert {name for name, (is_on, _) in after.items() if not is_on} == set(AGENTS), "and nothing else"
    assert {after[agent][1] for agent in AGENTS} == {"no"}, "a reboot does not start them again"
    assert place.managed() == set(AGENTS)
    exported = "".join(file.read_text() for file in sorted(done.exported.iterdir()))
    assert "mistral-7b-instruct" in exported
    assert not any(secret in exported for secret in ("sk-do-", "sk-lf-", "hunter2", "changeme"))

    place.fail_at("start /compose-cicd-1")
    with pytest.raises(ProgramFailed, match="told to fail"):
        await migration.back()
    assert place.managed() == set(AGENTS), "what answers goes only when the containers run"
    place.fail_at("")
    assert (await migration.back()).phase == "back"
    assert (place.containers(), place.managed()) == (before, set())
    tokens = await GatewayRest.of(migration.home).send("GET", "/tokens")
    assert tokens
    assert not [token for token in tokens if token["is_valid"]], "no token of a deleted agent counts"
