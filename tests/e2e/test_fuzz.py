"""Every route of every service against what its OpenAPI document says, with requests nobody would write."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacks import StackProcess, clean_env, running_stack

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    """One of its own: what is tried here would be in other tests' way."""
    env = clean_env(DEV_TOOLS_MODEL_BASE_URL="http://127.0.0.1:9/v1", DEV_TOOLS_MODEL="none")
    with running_stack(tmp_path_factory.mktemp("fuzz") / "data", env) as stack:
        yield stack


@pytest.mark.timeout(330)
@pytest.mark.parametrize("service", ["gateway", "context", "state"])
def test_no_request_breaks_a_service_or_its_word(stack: StackProcess, service: str, tmp_path: Path) -> None:
    assert stack.facts is not None
    token = (stack.data_dir / "token").read_text()
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "schemathesis"), "run", f"{stack.facts['urls'][service]}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}", "--checks", CHECKS, "--phases", "coverage,fuzzing"),
            *("--max-examples", "30", "--seed", "20261125", "--request-timeout", "10", "--no-color"),
            *("--generation-database", "none"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert "Traceback" not in done.stdout
