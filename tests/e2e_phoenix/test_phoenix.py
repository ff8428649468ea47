"""Phoenix, which counts tokens by rules of its own, comes to the sums of our ledger for a task of six agents."""

import os
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from stacks import clean_env, run_cli, running_stack

READY_S = 240
ARRIVES_S = 60
SIX = "SIX AGENTS do their share."
AGENTS = {"orchestrator", "feature-dev", "code-review", "infrastructure", "cicd", "documentation"}

# It binds its gRPC port on every address whatever its settings say; this machine's loopback is enough for us.
SERVE = """
import sys
import grpc.aio
bind = grpc.aio.Server.add_insecure_port
grpc.aio.Server.add_insecure_port = lambda self, address: bind(self, address.replace("[::]", "127.0.0.1"))
from phoenix.server.main import main
sys.argv = ["phoenix", "serve"]
main()
"""


def free_ports(number: int) -> list[int]:
    held = [socket.socket() for _ in range(number)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def running_phoenix(folder: Path) -> Generator[str]:
    """Its base URL. Nothing of it is left behind, and it asks nobody outside for anything."""
    http, grpc = free_ports(2)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(http),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PHOENIX_AGENTS_DISABLE_BASH": "true",
    }
    url = f"http://127.0.0.1:{http}"
    with (folder / "phoenix.log").open("w") as log:
        command = [os.environ["E2E_PHOENIX_PYTHON"], "-c", SERVE]
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
        try:
            deadline = time.monotonic() + READY_S
            while not is_up(url):
                assert server.poll() is None, (folder / "phoenix.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "Phoenix is not up"
                time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait(30)


def is_up(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", trust_env=False).is_success
    except httpx2.TransportError:
        return False


def read(url: str, path: str) -> Any:
    return httpx2.get(f"{url}/v1/{path}", trust_env=False).raise_for_status().json()["data"]


def test_the_token_sums_of_a_task_of_six_agents_are_the_ledgers(
    tmp_path: Path, endpoint_env: dict[str, str], shop: Path
) -> None:
    (tmp_path / "phoenix").mkdir()
    with running_phoenix(tmp_path / "phoenix") as phoenix:
        env = clean_env(**endpoint_env, OTEL_EXPORTER_OTLP_ENDPOINT=phoenix)
        with running_stack(tmp_path / "data", env) as stack:
            done = stack.run_task(SIX, shop)
            assert done["status"] == "completed", done
            task_id = done["id"]
            where = ("--data-dir", str(stack.data_dir))
            assert run_cli("traces", "validate", "--task", task_id, *where, env=env).returncode == 0
            spans = stack.get(f"/tasks/{task_id}/trace")
            events = stack.get(f"/tasks/{task_id}/events")
        # The end of a stack sends what waits; Phoenix stores it a little later.
        seen = arrived(phoenix, task_id, len(spans))

        calls = [event["data"] for event in events if event["kind"] == "model_call"]
        sums = [sum(call[name] for call in calls) for name in ("input_tokens", "output_tokens")]
        (session,) = [one for one in read(phoenix, "projects/default/sessions") if one["session_id"] == task_id]
        assert {call["agent"] for call in calls} == AGENTS
        assert sums == [done["tokens"]["input"], done["tokens"]["output"]]
        assert [session["token_count_prompt"], session["token_count_completion"]] == sums
        assert session["token_count_total"] == sum(sums)
        assert {span["attributes"].get("user.id") for span in seen} == AGENTS
        assert sum(span["span_kind"] == "LLM" for span in seen) == len(calls)
        print(f"Phoenix: {len(seen)} spans, {len(calls)} model calls, tokens {sums}, ledger the same")  # noqa: T201


def arrived(phoenix: str, task_id: str, number: int) -> list[Any]:
    deadline = time.monotonic() + ARRIVES_S
    while True:
        spans = read(phoenix, "projects/default/spans?limit=1000")
        of_task = [span for span in spans if span["attributes"].get("session.id") == task_id]
        if len(of_task) >= number:
            return of_task
        assert time.monotonic() < deadline, f"Phoenix has {len(of_task)} of {number} spans"
        time.sleep(0.5)
