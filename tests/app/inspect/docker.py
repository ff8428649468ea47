"""A `docker` that knows `inspect`, `ps`, `update`, `stop` and `start`, on a JSON file of what `inspect` prints."""

import json
import os
import sys
from pathlib import Path

FILE = Path(os.environ["FAKE_DOCKER"])


def main(args: list[str]) -> int:
    state = json.loads(FILE.read_text())
    with FILE.with_suffix(".calls").open("a") as calls:
        calls.write(json.dumps(args) + "\n")
    verb, id_ = args[0], args[-1]
    if verb == "ps":
        label, _, value = args[-1].removeprefix("label=").partition("=")
        print("\n".join(one["Id"] for one in state if one["Config"]["Labels"].get(label) == value))
        return 0
    found = next((one for one in state if one["Id"] == id_), None)
    if found is None:
        print(f"Error response from daemon: No such container: {id_}", file=sys.stderr)
        return 1
    if verb == "inspect":
        print(json.dumps([found]))
    elif verb == "update":
        name, _, tries = args[1].removeprefix("--restart=").partition(":")
        found["HostConfig"]["RestartPolicy"] = {"Name": name, "MaximumRetryCount": int(tries or 0)}
    elif verb in {"stop", "start"}:
        if os.environ.get("FAIL_AT") == f"{verb} {found['Name']}":
            print("Error response from daemon: told to fail", file=sys.stderr)
            return 1
        is_on = verb == "start"
        found["State"] |= {"Running": is_on, "Status": "running" if is_on else "exited"}
    else:
        print(f"unknown verb {verb}", file=sys.stderr)
        return 1
    FILE.write_text(json.dumps(state))
    return 0


sys.exit(main(sys.argv[1:]))
