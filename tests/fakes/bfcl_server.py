"""One of the BFCL's simulators (package `bfcl-eval`) as an MCP server over stdio: `bfcl_server.py CLASS`.

Its public methods are the tools. Two more are ours: `load_scenario` puts it into a case's first state, `end_state`
says what became of it.
"""

import copy
import importlib
import inspect
import json
import sys
from typing import Any

from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING

ANYTHING = {"type": "object", "additionalProperties": True}


def make(name: str, scenario: dict[str, Any] | None) -> Any:
    """A simulator in its first state."""
    simulator = getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
    if scenario is not None and hasattr(simulator, "_load_scenario"):  # mathematics has no state
        simulator._load_scenario(copy.deepcopy(scenario))
    return simulator


def methods_of(simulator: Any) -> dict[str, Any]:
    found = inspect.getmembers(simulator, predicate=inspect.ismethod)
    return {name: method for name, method in found if not name.startswith("_")}


def state_of(simulator: Any) -> str:
    """Everything the simulator holds, as text that two equal states share."""
    return json.dumps(_plain(vars(simulator), set()), sort_keys=True)


def _plain(value: Any, above: set[int]) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item, above) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, above) for item in value]
    if hasattr(value, "__dict__"):
        if id(value) in above:  # a folder knows the one it is in
            return "…"
        held = {key: item for key, item in vars(value).items() if key != "_random"}
        return {type(value).__name__: _plain(held, above | {id(value)})}
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def call(simulator: Any, name: str, arguments: dict[str, Any]) -> str:
    try:
        result = methods_of(simulator)[name](*arguments.get("args", ()), **arguments.get("kwargs", {}))
        return json.dumps(result, default=str)
    except Exception as error:  # noqa: BLE001 - as the BFCL's own executor does
        return f"Error during execution: {error}"


def main(class_name: str) -> None:
    simulator = make(class_name, None)
    tools = [
        {"name": name, "description": f"{class_name}.{name}", "inputSchema": ANYTHING}
        for name in ("load_scenario", "end_state", *methods_of(simulator))
    ]
    for line in sys.stdin:
        message = json.loads(line)
        method, params = message.get("method"), message.get("params") or {}
        if "id" not in message:
            continue
        if method == "initialize":
            info = {"name": class_name, "version": "1"}
            result: dict[str, Any] = {
                "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info
            }  # fmt: skip
        elif method == "tools/list":
            result = {"tools": tools}
        elif method == "tools/call":
            name, arguments = params["name"], params.get("arguments") or {}
            if name == "load_scenario":
                simulator = make(class_name, arguments["scenario"])
                text = "loaded"
            else:
                text = state_of(simulator) if name == "end_state" else call(simulator, name, arguments)
            result = {"content": [{"type": "text", "text": text}]}
        elif method == "ping":
            result = {}
        else:
            answer = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": str(method)}}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            continue
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
