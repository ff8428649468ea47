# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""A few rules about what gets deployed that no schema knows: compose, Kubernetes and Terraform that open a machine.

Run as `python -I deployment.py FILE...`; prints {"remarks": [...], "unread": [...]}. Few on purpose: each is a door
that is open to everybody, not a matter of taste.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import yaml
from documents import load_documents

SOCKET = re.compile(r"^/(?:var/)?run/docker\.sock\b")
SECRET_NAME = re.compile(r"(?:^|_)(?:PASSWORD|PASSWD|SECRET|TOKEN|API_KEY|PRIVATE_KEY)$", re.IGNORECASE)
DATABASE_PORTS = {"5432", "3306", "27017", "6379", "9200", "1433"}
EVERYWHERE = {"0.0.0.0/0", "::/0"}
ADMIN_PORTS = {22, 3389, 5432, 3306, 6379, 27017}

Found = tuple[list[Any], str, str, str, str]
"""Where in the document, the rule, how grave, what is wrong, what to do."""


def check_compose(value: dict[str, Any]) -> Iterator[Found]:
    services = value.get("services")
    for name, body in services.items() if isinstance(services, dict) else ():
        if not isinstance(body, dict):
            continue
        at: list[Any] = ["services", name]
        if body.get("privileged") is True:
            yield (
                [*at, "privileged"],
                "privileged",
                "high",
                f"{name} runs with all rights of the host.",
                "Give it the one capability it needs with `cap_add`.",
            )
        for key in ("network_mode", "pid", "ipc"):
            if body.get(key) == "host":
                yield (
                    [*at, key],
                    "host-namespace",
                    "high",
                    f"{name} shares the host's {key}.",
                    "Publish the ports it needs instead.",
                )
        for i, volume in enumerate(body.get("volumes") or ()):
            source = str(volume.get("source", "") if isinstance(volume, dict) else volume)
            if SOCKET.match(source):
                yield (
                    [*at, "volumes", i],
                    "docker-socket",
                    "high",
                    f"{name} gets the Docker socket: it can become root on the host.",
                    "Use a proxy that allows the calls it needs.",
                )
        for i, port in enumerate(body.get("ports") or ()):
            if isinstance(port, str) and port.count(":") == 1 and port.split(":")[1].split("/")[0] in DATABASE_PORTS:
                yield (
                    [*at, "ports", i],
                    "public-database",
                    "medium",
                    f"{name} offers its database on every address of the host.",
                    f"Publish it as 127.0.0.1:{port}, or not at all.",
                )
        yield from secrets_in(body.get("environment"), [*at, "environment"], name)


def secrets_in(environment: Any, at: list[Any], name: str) -> Iterator[Found]:
    pairs: list[tuple[Any, str, str]] = []
    if isinstance(environment, dict):
        pairs = [(key, str(key), str(value or "")) for key, value in environment.items()]
    elif isinstance(environment, list):
        named = [str(item).partition("=") for item in environment]
        pairs = [(i, name, value) for i, (name, _, value) in enumerate(named)]
    for part, key, value in pairs:
        if value and SECRET_NAME.search(key) and not value.startswith(("$", "/")):
            yield (
                [*at, part],
                "secret-in-environment",
                "high",
                f"{name}: the value of {key} stands in the file.",
                f"Write ${{{key}}} and give it from outside, or use `secrets`.",
            )


def check_kubernetes(value: dict[str, Any]) -> Iterator[Found]:
    at, spec = pod_spec(value)
    if spec is None:
        return
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key) is True:
            yield [*at, key], "host-namespace", "high", f"The pod shares the node's {key[4:]}.", "Take it out."
    for i, volume in enumerate(spec.get("volumes") or ()):
        if isinstance(volume, dict) and SOCKET.match(str((volume.get("hostPath") or {}).get("path", ""))):
            yield (
                [*at, "volumes", i],
                "docker-socket",
                "high",
                "The pod gets the Docker socket of its node.",
                "Take it out.",
            )
    for kind in ("containers", "initContainers"):
        for i, container in enumerate(spec.get(kind) or ()):
            yield from check_container([*at, kind, i], container if isinstance(container, dict) else {})


def check_container(at: list[Any], container: dict[str, Any]) -> Iterator[Found]:
    name, context = container.get("name", "container"), container.get("securityContext") or {}
    if context.get("privileged") is True:
        yield (
            [*at, "securityContext", "privileged"],
            "privileged",
            "high",
            f"{name} runs with all rights of the node.",
            "Take it out.",
        )
    image = str(container.get("image", ""))
    if image and "@" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        yield (
            [*at, "image"],
            "floating-image",
            "medium",
            f"{name} runs whatever {image!r} is on the day it starts.",
            "Name a version or a digest.",
        )
    for i, variable in enumerate(container.get("env") or ()):
        if isinstance(variable, dict) and variable.get("value") and SECRET_NAME.search(str(variable.get("name", ""))):
            yield (
                [*at, "env", i],
                "secret-in-environment",
                "high",
                f"{name}: the value of {variable['name']} stands in the file.",
                "Use `valueFrom.secretKeyRef`.",
            )


def pod_spec(value: dict[str, Any]) -> tuple[list[Any], dict[str, Any] | None]:
    paths: list[list[str]] = [["spec", "jobTemplate", "spec", "template", "spec"], ["spec", "template", "spec"]]
    paths += [["spec"]] if value.get("kind") == "Pod" else []
    for path in paths:
        found: Any = value
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if isinstance(found, dict):
            return list(path), found
    return [], None


def check_terraform(path: str, text: str) -> Iterator[dict[str, Any]]:
    import hcl2
    from lark.exceptions import LarkError

    try:
        document = hcl2.loads(text if text.endswith("\n") else f"{text}\n")
    except LarkError:
        return  # schemas.py says so
    for block in blocks(document):
        ports = {plain(block.get("from_port")), plain(block.get("to_port")), plain(block.get("port_range"))}
        opened = {str(port) for port in ADMIN_PORTS} & {str(port) for port in ports}
        for key in ("cidr_blocks", "ipv6_cidr_blocks", "source_addresses", "cidr_ipv4"):
            given = block.get(key)
            if EVERYWHERE & {plain(v) for v in (given if isinstance(given, list) else [given])} and opened:
                yield terraform(
                    path,
                    text,
                    key,
                    "public-ingress",
                    f"Port {', '.join(sorted(opened))} is open to everybody.",
                    "Name the addresses that need it.",
                )
        if plain(block.get("acl")) in {"public-read", "public-read-write"}:
            yield terraform(
                path, text, "acl", "public-bucket", "Everybody can read this bucket.", 'Use acl = "private".'
            )
        if plain(block.get("publicly_accessible")) is True:
            yield terraform(
                path,
                text,
                "publicly_accessible",
                "public-database",
                "The database has a public address.",
                "Set it to false.",
            )


def blocks(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from blocks(item)


def plain(value: Any) -> Any:
    """hcl2 keeps the quotes of strings."""
    return value.strip('"') if isinstance(value, str) else value


def terraform(path: str, text: str, key: str, rule: str, message: str, suggestion: str) -> dict[str, Any]:
    lines = [n for n, line in enumerate(text.split("\n"), 1) if re.match(rf"\s*{key}\s*=", line)]
    span = [lines[0], lines[-1]] if lines else [1, text.count("\n") + 1]
    return {
        "rule": rule,
        "severity": "high",
        "path": path,
        "line": span[0],
        "span": span,
        "message": message,
        "suggestion": suggestion,
    }


def check(path: str, text: str) -> Iterator[dict[str, Any]]:
    if path.endswith(".tf"):
        yield from check_terraform(path, text)
        return
    for document in load_documents(text):
        value = document.value
        if not isinstance(value, dict):
            continue
        rule = (
            check_kubernetes
            if {"apiVersion", "kind"} <= value.keys()
            else check_compose
            if "services" in value
            else None
        )
        for at, name, severity, message, suggestion in rule(value) if rule else ():
            first, last = document.lines(at)
            yield {
                "rule": name,
                "severity": severity,
                "path": path,
                "line": first,
                "span": [first, last],
                "message": message,
                "suggestion": suggestion,
            }


def main(paths: list[str]) -> None:
    remarks: list[dict[str, Any]] = []
    unread: list[str] = []
    for path in paths:
        try:
            remarks += check(path, Path(path).read_text("utf-8"))
        except yaml.YAMLError:
            pass  # yamllint says so
        except (UnicodeDecodeError, ImportError, RecursionError) as error:
            unread.append(f"{path}: {error}")
    print(json.dumps({"remarks": remarks, "unread": unread}))


if __name__ == "__main__":
    main(sys.argv[1:])
