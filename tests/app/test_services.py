"""What a process of a stack loads: the droplet's 2 GB hold six of them only because none loads what it does not run."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from devtools_platform.kit.database import connect, migrate
from stacks import StackProcess, clean_env, run_cli

AGENTS_ONLY = {"pydantic_ai", "openai", "dbos"}
"""Seventy MB together."""
OTHERS = ("state", "context", "gateway", "console", "integrations")


def test_a_process_without_agents_loads_no_model_client_and_no_engine() -> None:
    modules = ["devtools_platform.app.stack", *(f"devtools_platform.app.services.{name}" for name in OTHERS)]
    program = f"import sys, {', '.join(modules)}; print(*sorted({AGENTS_ONLY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_a_process_of_agents_loads_no_client_that_it_hardly_needs() -> None:
    program = "import sys, devtools_platform.app.services.crew; print(*sorted({'mcp', 'mcp_types'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


UNUSED = {
    # the command line
    *("typer", "rich", "pygments"),
    # what is loaded when somebody asks for it: REST, migrations, OAuth, public keys, vectors, other stores and sinks
    *("fastapi", "alembic", "mako", "mcp", "jwt", "cryptography", "numpy", "onnxruntime", "qdrant_edge", "tree_sitter"),
    *("google.protobuf", "devtools_platform.deploy.signing", "devtools_platform.integrations"),
    # a database of one's own where there is another, images that are packed
    *("devtools_platform.state.adapters.embedded_postgres", "tarfile"),
}
"""Of a gateway that agents call and that nothing else is asked of: a hundred megabytes together."""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[StackProcess]:
    """Alone, on a database that is there and up to date."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    env = clean_env(
        DATABASE_URL=url,
        DEV_TOOLS_CONTEXT_URL="http://127.0.0.1:9",
        DEV_TOOLS_EMBEDDINGS="local",
        PYTHONPROFILEIMPORTTIME="1",
    )
    stack = StackProcess(tmp_path / "home", env, only="gateway")
    stack.start()
    yield stack
    stack.stop()


def test_a_gateway_alone_loads_only_what_it_uses(gateway: StackProcess) -> None:
    assert gateway.facts is not None
    url = gateway.facts["urls"]["gateway"]
    assert httpx2.get(f"{url}/health").json()["ok"]
    assert "devtools_tool_calls_total" in httpx2.get(f"{url}/metrics").text
    assert httpx2.post(f"{url}/mcp").status_code == httpx2.codes.UNAUTHORIZED
    assert gateway.process is not None
    assert "-P" in psutil.Process(gateway.process.pid).cmdline(), "it imports from the folder it was started in"
    loaded = loaded_by(gateway)
    assert "devtools_platform.gateway.hub" in loaded, "the trace of imports cannot be read"
    assert sorted(UNUSED & loaded) == []

    tools = httpx2.get(f"{url}/tools", headers={"Authorization": f"Bearer {(gateway.data_dir / 'token').read_text()}"})
    assert any(tool["name"] == "tasks_list" for tool in tools.json())
    assert "fastapi" in loaded_by(gateway)


def loaded_by(stack: StackProcess) -> set[str]:
    """What the process imported after the command had become it."""
    trace = Path(f"{stack.data_dir}.stderr").read_text()
    names = re.findall(r"^import time:.*\|\s+(\S+)$", trace, re.MULTILINE)
    begins = [at for at, name in enumerate(names) if name == "encodings"]
    assert len(begins) == 2, "the command was to be replaced once"
    return set(names[begins[-1] :])


def test_a_service_alone_that_cannot_start_says_why(tmp_path: Path) -> None:
    arguments = ("up", "--only", "gateway", "--data-dir", str(tmp_path / "home"))
    told = run_cli(*arguments, "--json", env=clean_env())
    error = json.loads(told.stdout)["error"]
    assert (told.returncode, error["code"]) == (2, "bad_input")
    assert "DATABASE_URL" in error["hint"]
    assert "need a database" in run_cli(*arguments, env=clean_env()).stderr
