"""What a person mistypes in the commands of a release ends with a hint, not a traceback."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from devtools_platform.cli.main import app
from devtools_platform.core.errors import BadInput
from devtools_platform.deploy import signing


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    public = tmp_path / "release.pub"
    public.write_bytes(signing.make_key().public_pem)
    monkeypatch.setenv("DEV_TOOLS_REGISTRY", "registry.example.com/acme")
    monkeypatch.setenv("DEV_TOOLS_RELEASE_PUBLIC_KEY", str(public))
    (tmp_path / "deploy.pub").write_text("ssh-ed25519 AAAA ada")
    (tmp_path / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said", "hint"),
    [
        (["host", "bootstrap", "--ssh-key", "{}/none.pub"], "none.pub' cannot be read", "ssh-keygen"),
        (["host", "bootstrap", "--ssh-key", "{}/private"], "is no public SSH key", "ssh-keygen"),
        (["host", "bootstrap", "--ssh-key", "{}/deploy.pub", "--out", "{}/no/x.sh"], "cannot be written", "a folder"),
        (["release", "keygen", "{}/private"], "is there already", "another file"),
        (["release", "keygen", "{}/private/x.key"], "cannot be written", "a folder"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_to_do(
    key: Path, command: list[str], said: str, hint: str
) -> None:
    done = CliRunner().invoke(app, [part.format(key) for part in command])

    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)
    assert hint in done.exception.hint


@pytest.mark.parametrize("option", ["--watch", "--drain", "--health"])
def test_seconds_below_zero_are_refused_by_the_command_itself(option: str) -> None:
    done = CliRunner().invoke(app, ["rollout", "start", option, "-3"])

    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.output


def test_keygen_makes_the_folder_of_the_key_which_only_its_owner_sees(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["release", "keygen", str(tmp_path / "new" / "cosign.key")])

    assert done.exit_code == 0, done.output
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "cosign.key").stat().st_mode & 0o777 == 0o600
