"""How fast the console is on the embedded stack: first page, a task of thousands of events, event to stream.

Starts a real stack with a scripted model and writes the events of a made-up task straight into its database. Times
are of whole HTTP requests over loopback by a client that stays connected; the script and the browser's own work are
not in them. Beside each, the state service's JSON answer for the same data, which is what any page must cost at least.

    python bench/console.py [--json FILE] [--events 5000] [--rounds 20]
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import sqlalchemy as sa

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from devtools_platform.kit import schema  # noqa: E402 - needs the path above
from devtools_platform.kit.database import connect  # noqa: E402
from devtools_platform.state.events import append_event  # noqa: E402
from stacks import StackProcess, clean_env, running_stack  # noqa: E402

TASK = "benchmrk"
TARGETS_MS = {"first page": 300.0, "task page": 1000.0, "event to stream": 500.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.yaml"
        script.write_text("[]\n")
        with running_stack(Path(folder) / "data", clean_env(DEV_TOOLS_MODEL_SCRIPT=str(script))) as stack:
            found = measure(stack, options.events, options.rounds)
    for name, figures in found.items():
        print(f"{name:<34} " + "  ".join(f"{key} {value:8.1f} ms" for key, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def measure(stack: StackProcess, events: int, rounds: int) -> dict[str, dict[str, float]]:
    assert stack.facts is not None
    engine = connect((stack.data_dir / "database_url").read_text())
    with httpx2.Client(trust_env=False, timeout=60, base_url=stack.facts["urls"]["console"]) as http:
        http.get(stack.facts["console_link"], follow_redirects=False)
        first = _ms(lambda: http.get("/").raise_for_status())
        pages = _figures(lambda: http.get("/").raise_for_status(), rounds)
        write_task(engine, events)
        task = _figures(lambda: http.get(f"/tasks/{TASK}").raise_for_status(), rounds)
        whole = _figures(lambda: http.get(f"/tasks/{TASK}?events=all").raise_for_status(), rounds)
        with stack.http as state:
            peer = _figures(lambda: state.get(f"/tasks/{TASK}/events").raise_for_status(), rounds)
        stream = event_to_stream(http, engine, events, rounds)
    engine.dispose()
    return {
        "home, the very first": {"once": first, "target": TARGETS_MS["first page"]},
        "home": {**pages, "target": TARGETS_MS["first page"]},
        f"task of {events} events, newest 500": {**task, "target": TARGETS_MS["task page"]},
        f"task of {events} events, all": whole,
        "the same events as JSON (state)": peer,
        "event to stream": {**stream, "target": TARGETS_MS["event to stream"]},
    }


def write_task(engine: sa.Engine, events: int) -> None:
    """A task that looks as if it were at work."""
    row = {"id": TASK, "text": "Measured", "repo": "/srv/none", "status": "working", "workflow_id": TASK}
    now = datetime.now(UTC)
    call = {"tool": "workspace_read_file", "arguments": {"path": "shop/prices.py"}, "duration_s": 0.01}
    rows = [
        {"task_id": TASK, "seq": n, "key": f"k{n}", "kind": "tool_call", "agent": "cicd", "data": call, "at": now}
        for n in range(1, events + 1)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.tasks).values({**row, "trace_id": "0" * 32}))
        connection.execute(sa.insert(schema.events), rows)


def event_to_stream(http: httpx2.Client, engine: sa.Engine, events: int, rounds: int) -> dict[str, float]:
    """From before the event's transaction to its rendered entry at the client."""
    times: list[float] = []
    with http.stream("GET", f"/tasks/{TASK}/events", headers={"Last-Event-ID": str(events)}) as response:
        lines = response.iter_lines()
        for n in range(rounds):
            began = [0.0]

            def write(n: int = n, began: list[float] = began) -> None:
                time.sleep(0.2)  # the reader waits already
                began[0] = time.perf_counter()
                with engine.begin() as connection:
                    append_event(connection, TASK, f"late{n}", "tool_call", "cicd", {"tool": "late"})

            writer = threading.Thread(target=write)
            writer.start()
            while not next(lines).startswith("data:"):
                pass
            times.append((time.perf_counter() - began[0]) * 1000)
            writer.join()
            while next(lines):
                pass
    return _summary(times)


def _ms(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def _figures(call: Callable[[], Any], rounds: int) -> dict[str, float]:
    return _summary([_ms(call) for _ in range(rounds)])


def _summary(times: list[float]) -> dict[str, float]:
    return {"median": median(times), "worst": max(times)}


if __name__ == "__main__":
    main()
