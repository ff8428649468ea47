"""The files a person gets: inventory, bootstrap script, compose files, workflows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from devtools_platform.app.host_program import bootstrap_script, build_host_program, host_program_hash
from devtools_platform.core.agents import AGENTS
from devtools_platform.core.errors import BadInput
from devtools_platform.deploy.inventory import load_hosts

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def test_an_inventory_names_hosts_and_a_wrong_one_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yaml"
    file.write_text("hosts:\n  web-1: {address: 203.0.113.7}\n  web-2: {address: 203.0.113.8, port: 2222}\n")
    assert [(host.name, host.port) for host in load_hosts(file)] == [("web-1", 22), ("web-2", 2222)]
    assert [host.name for host in load_hosts(file, "web-2")] == ["web-2"]
    with pytest.raises(BadInput, match="names no host 'web-3'; it has web-1, web-2"):
        load_hosts(file, "web-3")
    for text in (
        "hosts: {web-1: {adress: x}}",
        "hosts: {web-1: {address: x, port: 99999}}",
        "[]",
        "hosts: {",
        "hosts:",
    ):
        file.write_text(text)
        with pytest.raises(BadInput):
            load_hosts(file)


def test_the_example_inventory_is_one() -> None:
    assert load_hosts(DEPLOY / "hosts.example.yaml")[0].name == "web-1"


def test_the_host_program_is_the_same_bytes_each_time_and_starts_with_nothing_but_python(tmp_path: Path) -> None:
    program, config = tmp_path / "host.pyz", tmp_path / "host.json"
    program.write_bytes(build_host_program())
    assert program.read_bytes() == build_host_program()
    config.write_text(
        json.dumps({"application": "shop", "state_dir": str(tmp_path), "keys_dir": "/", "repositories": []})
    )
    argv = [sys.executable, "-I", "-S", str(program), str(config)]
    done = subprocess.run(argv, input="", capture_output=True, text=True, timeout=30, check=True, env={})

    assert json.loads(done.stdout)["result"] == {"program": host_program_hash(), "application": "shop"}


@pytest.mark.parametrize("text", ["{", '{"application": "shop"}', '{"applicatoin": "shop"}', "[]"])
def test_a_host_configuration_that_is_wrong_is_an_answer_and_not_a_traceback(tmp_path: Path, text: str) -> None:
    program, config = tmp_path / "host.pyz", tmp_path / "host.json"
    program.write_bytes(build_host_program())
    config.write_text(text)
    argv = [sys.executable, "-I", "-S", str(program), str(config)]
    done = subprocess.run(argv, input="", capture_output=True, text=True, timeout=30, check=False, env={})

    assert json.loads(done.stdout)["error"]["code"] == "bad_host_config"
    assert done.stderr == ""


def test_the_bootstrap_script_is_shell_and_leaves_no_placeholder() -> None:
    script = bootstrap_script(
        application="shop",
        registry="r.example/acme",
        release_key=b"-----BEGIN PUBLIC KEY-----",
        ssh_key="ssh-ed25519 AAAA ada",
    )
    subprocess.run(["sh", "-n"], input=script, text=True, check=True, timeout=30)

    assert not [
        word for word in ("@APPLICATION@", "@PROGRAM@", "@SSH_KEY@", "@PORTS@", "@RELEASE_KEY@") if word in script
    ]
    assert '"repositories": ["r.example/acme/shop-"]' in script
    assert 'restrict,command="sudo -n /usr/local/bin/dev-tools-host" %s' in script


def test_our_release_says_where_each_agent_runs() -> None:
    services = yaml.safe_load((DEPLOY / "compose.app.yaml").read_text())["services"].values()

    assert {name for s in services for name in s["labels"]["dev-tools.agents"].split()} == set(AGENTS)


def test_a_release_of_ours_owns_no_volume_and_its_services_are_locked_down() -> None:
    model = yaml.safe_load((DEPLOY / "compose.app.yaml").read_text())
    assert all(volume["external"] for volume in model["volumes"].values())
    for service in model["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "ports" not in service


@pytest.mark.parametrize("program", ["hadolint", "actionlint", "zizmor"])
def test_what_we_ship_passes_the_linters_of_its_kind(program: str) -> None:
    beside = Path(sys.executable).parent / program
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed; `make e2e-deploy` has it")
    workflows = sorted(str(path) for path in (ROOT / ".github/workflows").glob("*.yml"))
    argv = {
        "hadolint": [str(DEPLOY / "Dockerfile")],
        "actionlint": workflows,
        "zizmor": ["--offline", "--no-progress", *workflows],
    }[program]
    done = subprocess.run([found, *argv], capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_with_the_documented_names_call_commands_that_exist() -> None:
    from devtools_platform.cli.main import app  # noqa: F401 - the commands are those of docs/reference/cli.md

    reference = (ROOT / "docs/reference/cli.md").read_text()
    for command in ("release build", "rollout plan", "rollout start", "rollout rollback", "debug"):
        assert f"## dev-tools {command}\n" in reference
    for name in ("push-docr.ps1", "deploy-to-droplet.ps1", "debug-agent.ps1"):
        assert "& dev-tools @arguments" in (ROOT / "scripts" / name).read_text()


def test_a_machine_that_cannot_run_engines_fails_ci_with_what_is_missing(tmp_path: Path) -> None:
    """Not root, no namespaces: said, and never a skip that looks green."""
    for name, words in {"id": "needs root", "ip": "does not allow network namespaces"}.items():
        folder = tmp_path / name
        folder.mkdir()
        program = folder / name
        program.write_text("#!/bin/sh\necho 1000\nexit 1\n" if name == "ip" else "#!/bin/sh\necho 1000\n")
        program.chmod(0o755)
        others = {"dpkg-query", "dockerd", "docker-registry", "sshd", "ssh", "iptables", "openssl", "ip", "id"} - {name}
        for other in others:
            (folder / other).write_text("#!/bin/sh\necho 0\n")
            (folder / other).chmod(0o755)
        done = subprocess.run(
            [ROOT / ".ci/install-docker"],
            env={"PATH": f"{folder}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

        assert done.returncode == 1
        assert words in done.stderr
        assert "next:" in done.stderr
