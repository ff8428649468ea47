"""Compose itself reads the file we hand out, in every environment."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.parametrize("profile", ["development", "staging", "production"])
def test_compose_reads_it_without_a_warning(profile: str, tmp_path: Path) -> None:
    env = tmp_path / "env"
    shutil.copy(DEPLOY / "env.example", env)
    program = str(Path(sys.executable).parent / "docker-compose")
    argv = [program, "-f", str(DEPLOY / "compose.yaml"), "--env-file", str(env), "--profile", profile]
    done = subprocess.run([*argv, "config", "-q"], capture_output=True, text=True, check=False, timeout=60, env={})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
