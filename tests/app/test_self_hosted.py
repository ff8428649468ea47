"""What is read of a self-hosted stack: which containers are agents, what they were told, and no secret."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from devtools_platform.app.self_hosted import draft_environments, read_compose, read_inspect
from devtools_platform.config.environments import Environments
from devtools_platform.core.agents import AGENTS
from devtools_platform.core.errors import BadInput

RECORDED = (Path(__file__).parent / "inspect" / "self_hosted.json").read_text()


def test_the_six_agents_are_told_from_what_stays() -> None:
    found = read_inspect([RECORDED])

    assert set(found.agents) == set(AGENTS)
    assert {one.service for one in found.others} == {
        "gateway-mcp", "rag-context", "state-persistence", "postgres", "qdrant", "prometheus",
    }  # fmt: skip
    one = found.agents["cicd"]
    assert (one.name, one.restart, one.ports) == ("compose-cicd-1", "on-failure:5", ("*:8005->8005/tcp",))
    assert (one.model, one.is_running, one.memory_bytes) == ("llama-3.1-8b-instruct", True, 268435456)
    assert one.mounts == ("compose_cicd-data:/data",)


def test_no_secret_is_taken_over_and_the_names_of_all_are_told() -> None:
    found = read_inspect([RECORDED])
    kept = json.dumps([asdict(one) for one in found.agents.values()])

    for secret in ("sk-do-", "sk-lf-", "hunter2", "changeme"):
        assert secret in RECORDED
        assert secret not in kept
    assert found.agents["cicd"].secrets == ("DATABASE_URL", "DB_PASSWORD", "GRADIENT_API_KEY", "LANGFUSE_SECRET_KEY")
    assert found.agents["cicd"].environment["LINEAR_API_KEY_FILE"] == "/run/secrets/linear_api_key"
    assert "PYTHON_VERSION" not in found.agents["cicd"].environment


@pytest.mark.parametrize("style", ["map", "list"])
def test_a_compose_file_says_the_same(style: str) -> None:
    told = {"GRADIENT_MODEL": "mistral-7b-instruct", "GRADIENT_API_KEY": "abcdef", "DEBUG": True, "EMPTY": None}
    listed = [f"{key}={value}" for key, value in told.items() if value is not None]
    service = {"image": "shop/documentation:1", "restart": "always", "ports": ["8006:8006"]}
    service["environment"] = told if style == "map" else listed
    file = yaml.safe_dump({"services": {"documentation_agent": service, "ci-cd": {}, "postgres": None}})

    found = read_compose(file)

    assert set(found.agents) == {"documentation", "cicd"}
    one = found.agents["documentation"]
    assert (one.id, one.model, one.secrets) == (None, "mistral-7b-instruct", ("GRADIENT_API_KEY",))
    assert [other.service for other in found.others] == ["postgres"]


def test_the_draft_is_an_environments_file_on_models_of_today() -> None:
    text = draft_environments(read_inspect([RECORDED]), "production", "a-project", "https://tools.example.org/mcp")

    spec = Environments.model_validate(yaml.safe_load(text)).of("production")
    assert spec.of("feature-dev").model == "qwen3-coder-flash"
    assert {spec.of(agent).runtime for agent in AGENTS} == {"gradient"}
    assert spec.digitalocean is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not what `docker inspect` prints"),
        ('{"Id": 1}', "not what `docker inspect` prints"),
        ("[]", "None of these 0 containers is an agent"),
        (json.dumps([one for one in json.loads(RECORDED) if "postgres" in one["Name"]]), "is an agent"),
        (json.dumps(json.loads(RECORDED)[:1] * 2), "are both orchestrator"),
    ],
)
def test_what_describes_no_stack_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        read_inspect([text])
    assert caught.value.hint
    with pytest.raises(BadInput, match=r"no compose file|no YAML|is an agent"):
        read_compose("services: {postgres: {image: x}}" if text else "a: [")
