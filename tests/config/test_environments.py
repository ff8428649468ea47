from pathlib import Path

import pytest

from devtools_platform.config.environments import RuntimeSpec, load_environments
from devtools_platform.core.errors import BadInput


def write(folder: Path, text: str) -> Path:
    file = folder / "environments.yaml"
    file.write_text(text)
    return file


def test_the_shipped_file_has_everything_run_on_the_stacks_own_model() -> None:
    environments = load_environments()

    for name in ("production", "staging", "development", "test"):
        assert list(environments.of(name).of("cicd").chain()) == [RuntimeSpec(runtime="stack")]


def test_an_agent_has_its_own_runtime_and_what_stands_in_for_it(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
environments:
  production:
    default: {runtime: stack}
    agents:
      cicd:
        runtime: gradient
        model: big
        fallback: {runtime: local, base_url: "http://127.0.0.1:1/v1", model: small, fallback: {runtime: stack}}
""",
    )
    production = load_environments(file).of("production")

    assert [spec.runtime for spec in production.of("cicd").chain()] == ["gradient", "local", "stack"]
    assert production.of("feature-dev").runtime == "stack"
    assert load_environments(file).of("staging").of("cicd").runtime == "stack", "not in the file: as without one"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{runtime: local, model: m}", "needs base_url"),
        ("{runtime: gradient}", "needs model"),
        ("{runtime: stack, model: m}", "takes no model"),
        ("{runtime: cloud}", "runtime: Input should be"),
        ("{runtime: local, base_url: u, model: m, api_key: sk-do-123}", "keys do not stand in files"),
        ("{runtime: stack, fallbak: {runtime: stack}}", "fallbak"),
        ("[", "no YAML"),
    ],
)
def test_a_wrong_file_is_refused_saying_what_is_wrong(tmp_path: Path, spec: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        load_environments(write(tmp_path, f"environments: {{production: {{default: {spec}}}}}"))

    assert "sk-do-123" not in str(caught.value)


def test_a_misspelt_agent_is_an_error_and_not_a_line_that_does_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, "environments: {production: {agents: {feature-dve: {runtime: stack}}}}")

    with pytest.raises(BadInput, match="Did you mean 'feature-dev'"):
        load_environments(file).of("production").check_names(("feature-dev", "cicd"), "production")


def test_a_key_comes_from_the_environment_or_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RuntimeSpec(runtime="local", base_url="http://127.0.0.1:1/v1", model="m", api_key="${SOME_KEY}")
    with pytest.raises(BadInput, match="SOME_KEY, which is not set"):
        spec.key()
    monkeypatch.setenv("SOME_KEY", "s3cret")

    key = spec.key()
    assert key is not None
    assert (key.get_secret_value(), "s3cret" in repr(spec)) == ("s3cret", False)
