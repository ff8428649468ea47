"""Function calls of the BFCL's category `multiple` (package `bfcl-eval`), asked of the endpoint the settings name.

    python bench/bfcl.py [--sample 20] [--seed 1] [--json FILE]

As an agent would ask: small models through the schema adapter, others with native tools. One question, two to four
functions, one right call. Judged by a checker of our own, simpler than the BFCL's: the function, every argument that
the ground truth demands among its allowed values, and no argument that it does not know.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelRequest, ToolCallPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src")]

from devtools_platform.agents.adapters.schema_tools import SchemaToolModel  # noqa: E402 - needs the path above
from devtools_platform.app.models import choose_model, describe_model, raw_model  # noqa: E402
from devtools_platform.config import load_settings  # noqa: E402

CATEGORY = "BFCL_v4_multiple.json"
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}


def load(name: str) -> list[dict[str, Any]]:
    text = resources.files("bfcl_eval").joinpath("data", name).read_text()
    return [json.loads(line) for line in text.splitlines() if line]


def to_schema(value: Any) -> Any:
    """The BFCL's own words for types, as JSON Schema has them."""
    if isinstance(value, list):
        return [to_schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: to_schema(item) for key, item in value.items()}
    if isinstance(value.get("type"), str) and value["type"] in TYPES:
        made["type"] = TYPES[value["type"]]
    return {key: item for key, item in made.items() if not (key == "type" and item is None)}


def plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def is_right(name: str, arguments: dict[str, Any], truth: dict[str, dict[str, list[Any]]]) -> bool:
    ((wanted, allowed),) = truth.items()
    if name != plain(wanted) or set(arguments) - set(allowed):
        return False
    return all(
        ("" in values if key not in arguments else any(is_same(arguments[key], one) for one in values))
        for key, values in allowed.items()
    )


def is_same(given: Any, wanted: Any) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return re.sub(r"[ ,./\-_*^'\"]", "", given).lower() == re.sub(r"[ ,./\-_*^'\"]", "", wanted).lower()
    if isinstance(given, list) and isinstance(wanted, list):
        return len(given) == len(wanted) and all(map(is_same, given, wanted))
    if isinstance(given, dict) and isinstance(wanted, dict):
        return all(key in wanted and any(is_same(item, one) for one in wanted[key]) for key, item in given.items())
    return bool(given == wanted)


async def ask(model: Model[Any], case: dict[str, Any]) -> ToolCallPart | None:
    tools = [
        ToolDefinition(
            name=plain(one["name"]), description=one["description"], parameters_json_schema=to_schema(one["parameters"])
        )
        for one in case["function"]
    ]
    words = case["question"][0][-1]["content"]
    parameters = ModelRequestParameters(function_tools=tools, allow_text_output=True)
    settings = ModelSettings(temperature=0.0, max_tokens=300)
    answer = await model.request([ModelRequest(parts=[UserPromptPart(words)])], settings, parameters)
    return next((part for part in answer.parts if isinstance(part, ToolCallPart)), None)


async def main(options: argparse.Namespace) -> dict[str, Any]:
    settings = load_settings()
    truths = {one["id"]: one["ground_truth"][0] for one in load(f"possible_answer/{CATEGORY}")}
    cases = random.Random(options.seed).sample(load(CATEGORY), options.sample)
    wrong: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="dev-tools-bfcl-") as name:
        served = await choose_model(settings, Path(name), lambda _: None)
        began = time.perf_counter()
        try:
            raw = raw_model(served, "feature-dev", settings.model_timeout_s)
            model: Model[Any] = SchemaToolModel(raw) if served.is_small else raw
            for case in cases:
                try:
                    call = await ask(model, case)
                except Exception as error:  # noqa: BLE001 - a case that fails is a wrong one, and is named
                    wrong[case["id"]] = f"{type(error).__name__}: {error}"[:200]
                    continue
                if call is None or not is_right(call.tool_name, call.args_as_dict(), truths[case["id"]]):
                    wrong[case["id"]] = (
                        "no call" if call is None else f"{call.tool_name}{call.args_as_json_str()}"[:200]
                    )
        finally:
            if served.server is not None:
                await served.server.stop()
    seconds = round(time.perf_counter() - began, 1)
    right = len(cases) - len(wrong)
    return {"model": describe_model(served), "right": right, "of": len(cases), "seconds": seconds, "wrong": wrong}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = asyncio.run(main(given))
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
