"""A `docker` that does what the host program asks of one, on a JSON file. `fail.json` says which verbs fail.

Containers of a service whose image digest ends in `bad` become unhealthy, as a broken release's do.
"""

import json
import os
import sys
from pathlib import Path

HERE = Path(os.environ["FAKE_DOCKER"])


def main(args: list[str]) -> int:
    state = json.loads((HERE / "docker.json").read_text())
    state["calls"].append(args)
    verb = next((" ".join(args[:2]) for pair in [args] if args[0] in {"image", "volume"}), args[0])
    if args[0] == "compose":
        verb = "compose " + next(a for a in args if a in {"up", "down", "config", "version", "exec"})
    code = act(verb, args, state)
    (HERE / "docker.json.next").write_text(json.dumps(state))
    (HERE / "docker.json.next").rename(HERE / "docker.json")
    return code


def act(verb: str, args: list[str], state: dict) -> int:
    failures = json.loads((HERE / "fail.json").read_text()) if (HERE / "fail.json").exists() else []
    if verb in failures:
        print("told to fail", file=sys.stderr)
        return 1
    project = args[args.index("--project-name") + 1] if "--project-name" in args else ""
    files = [json.loads(Path(args[i + 1]).read_text()) for i, a in enumerate(args) if a == "--file"]
    match verb:
        case "info":
            print(json.dumps({"ServerVersion": "26.1.5", "DockerRootDir": str(HERE)}))
        case "compose version":
            print("2.40.3")
        case "compose config":
            print(json.dumps(files[0]))
        case "compose up":
            for service, entry in files[-1]["services"].items():
                if entry["image"] not in state["images"]:
                    print("no such image", file=sys.stderr)
                    return 1
                state["containers"][f"{project}-{service}"] = {"project": project, "service": service, **entry}
        case "compose down":
            kept = {k: v for k, v in state["containers"].items() if v["project"] != project}
            state["containers"] = kept
        case "pull":
            state["images"].append(args[-1])
        case "image inspect":
            return 0 if args[-1] in state["images"] else 1
        case "image ls":
            print("\n".join(state["images"]))
        case "image rm":
            if any(c["image"] == args[-1] for c in state["containers"].values()):
                return 1
            state["images"].remove(args[-1])
        case "volume ls":
            print("\n".join(state["volumes"]))
        case "ps":
            wanted = args[args.index("--filter") + 1].split("=")[-1]
            print("\n".join(k for k, v in state["containers"].items() if v["project"] == wanted))
        case "inspect":
            print(json.dumps([show(name, state["containers"][name]) for name in args[1:]]))
        case "logs":
            print(state.get("log") or f"last words of {args[-1]}")
        case "compose exec":
            print(state.get("said", ""))
            return state.get("exec_code", 0)
        case _:
            return 0
    return 0


def show(name: str, container: dict) -> dict:
    health = "unhealthy" if container["image"].endswith("bad") else "healthy"
    labels = {"com.docker.compose.service": container["service"], **container["labels"]}
    return {
        "Id": name,
        "Name": f"/{name}",
        "RestartCount": 0,
        "State": {"Status": "running", "ExitCode": 0, "Health": {"Status": health, "Log": []}},
        "Config": {"Labels": labels, "Image": container["image"]},
        "HostConfig": {},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
