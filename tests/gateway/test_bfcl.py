"""The BFCL's multi-turn cases through the gateway: the ground truth's calls, and the state they must end in.

The cases and simulators are others' (`bfcl-eval`, pinned in requirements/eval.txt). Each simulator is an MCP server
behind a gateway; beside it the same calls are made on a simulator of our own, and both must come to the same.

`make test` plays some cases of each simulator, `make eval-bfcl` all 200, in parts that each keep a test's limit.
"""

import ast
import json
import os
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from devtools_platform.gateway.upstreams.types import ServerSpec
from gateway_rig import FAKES, ME, Rig, running

pytest.importorskip("bfcl_eval", reason="requirements/eval.txt installs it")

from fakes.bfcl_server import call, make, methods_of, state_of

CATEGORY = "BFCL_v4_multi_turn_base.json"
PER_CLASS = 4
"""Cases of each simulator in `make test`."""
PARTS = 8 if os.environ.get("EVAL_BFCL") else 0
"""Of all cases; 0: only the chosen ones are played."""


def load(name: str) -> Iterator[dict[str, Any]]:
    text = resources.files("bfcl_eval").joinpath("data", name).read_text()
    return (json.loads(line) for line in text.splitlines() if line)


Case = tuple[dict[str, Any], list[str]]
"""A case, and its ground truth: the calls of all turns."""


def all_cases() -> list[Case]:
    truths = {truth["id"]: truth["ground_truth"] for truth in load(f"possible_answer/{CATEGORY}")}
    return [(case, [one for turn in truths[case["id"]] for one in turn]) for case in load(CATEGORY)]


def choose_cases() -> list[Case]:
    """Cases in their own order, until every simulator has enough."""
    seen: dict[str, int] = {}
    chosen: list[Case] = []
    for case, truth in all_cases():
        classes = case["involved_classes"]
        if any(seen.get(name, 0) < PER_CLASS for name in classes):
            seen |= {name: seen.get(name, 0) + 1 for name in classes}
            chosen.append((case, truth))
    return chosen


def parse(source: str) -> tuple[str, dict[str, Any]]:
    """`cd(folder='x')` as a tool's name and arguments; read, never run."""
    tree = ast.parse(source, mode="eval").body
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    args = [ast.literal_eval(one) for one in tree.args]
    return tree.func.id, {"args": args, "kwargs": {k.arg: ast.literal_eval(k.value) for k in tree.keywords}}


async def ask(rig: Rig, tool: str, arguments: dict[str, Any]) -> str:
    answer = (await rig.rpc("tools/call", {"name": tool, "arguments": arguments})).json()
    assert "result" in answer, answer
    return answer["result"]["content"][0]["text"]


async def test_ground_truth_calls_end_in_the_states_they_must(tmp_path: Path) -> None:
    cases = choose_cases()
    assert len({name for case, _ in cases for name in case["involved_classes"]}) >= 7

    assert await play(cases, tmp_path) > 100


@pytest.mark.skipif(not PARTS, reason="make eval-bfcl")
@pytest.mark.parametrize("part", range(PARTS))
async def test_the_ground_truth_of_every_case_ends_in_the_state_it_must(tmp_path: Path, part: int) -> None:
    cases = all_cases()
    assert len(cases) == 200
    size = len(cases) // PARTS

    assert await play(cases[part * size : (part + 1) * size], tmp_path) >= size


async def play(cases: list[Case], folder: Path) -> int:
    """Make the calls of these cases on both sides and compare; returns how many there were."""
    classes = sorted({name for case, _ in cases for name in case["involved_classes"]})
    script = str(FAKES / "bfcl_server.py")
    specs = {
        name.lower(): ServerSpec(
            description="x",
            command=(sys.executable, script, name),
            agents=(ME,),
            writes="allow",
        )
        for name in classes
    }
    calls = 0
    async with running(specs, folder / "gateway") as rig:
        for case, truth in cases:
            involved = {name: make(name, case["initial_config"].get(name)) for name in case["involved_classes"]}
            for name in involved:
                await ask(rig, f"{name.lower()}_load_scenario", {"scenario": case["initial_config"].get(name)})
            owner = {method: name for name, simulator in involved.items() for method in methods_of(simulator)}
            for source in truth:
                method, arguments = parse(source)
                name = owner[method]
                expected = call(involved[name], method, arguments)
                given = await ask(rig, f"{name.lower()}_{method}", arguments)
                assert given == expected, (case["id"], source)
                calls += 1
            for name, simulator in involved.items():
                ended = await ask(rig, f"{name.lower()}_end_state", {})
                assert ended == state_of(simulator), (case["id"], name)
    return calls
