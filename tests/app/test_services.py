"""What a process of a stack loads: the droplet's 2 GB hold six of them only because none loads what it does not run."""

import subprocess
import sys

AGENTS_ONLY = {"pydantic_ai", "openai", "dbos"}
"""Seventy MB together."""
OTHERS = ("state", "context", "gateway", "console", "integrations")


def test_a_process_without_agents_loads_no_model_client_and_no_engine() -> None:
    modules = ["devtools_platform.app.stack", *(f"devtools_platform.app.services.{name}" for name in OTHERS)]
    program = f"import sys, {', '.join(modules)}; print(*sorted({AGENTS_ONLY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
