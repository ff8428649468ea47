# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Checks files against published schemas: compose, GitHub and GitLab pipelines, Kubernetes; Terraform's syntax.

Run as `python -I schemas.py FILE...`; prints {"remarks": [...], "unread": [...]}. The schemas are those that
`check-jsonschema` and `kubernetes-validate` ship, so nothing is fetched.
"""

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import yaml
from documents import Document, load_documents

WORKFLOW = re.compile(r"(?:^|/)\.github/workflows/[^/]+\.ya?ml$")
GITLAB = re.compile(r"(?:^|/)\.gitlab-ci\.ya?ml$")
COMPOSE = re.compile(r"(?:^|/)(?:docker-)?compose(?:[.-][\w.-]+)?\.ya?ml$", re.IGNORECASE)
DEFINED = {"volumes": "volumes", "networks": "networks", "secrets": "secrets", "configs": "configs"}


def check(path: str, text: str) -> Iterator[dict[str, Any]]:
    if path.endswith(".tf"):
        yield from check_terraform(path, text)
        return
    name = next(
        (
            n
            for n, rule in (("github-workflows", WORKFLOW), ("gitlab-ci", GITLAB), ("compose-spec", COMPOSE))
            if rule.search(path)
        ),
        None,
    )
    for document in load_documents(text):
        if name is not None:
            yield from check_schema(path, name, document)
        if name == "compose-spec" and isinstance(document.value, dict):
            yield from check_compose(path, document)
        elif name is None and isinstance(document.value, dict) and {"apiVersion", "kind"} <= document.value.keys():
            yield from check_kubernetes(path, document)


@cache
def validator(name: str) -> Any:
    from jsonschema.validators import validator_for

    text = resources.files("check_jsonschema").joinpath("builtin_schemas", "vendor", f"{name}.json").read_text("utf-8")
    schema = json.loads(text)
    return validator_for(schema)(schema)


def check_schema(path: str, name: str, document: Document) -> Iterator[dict[str, Any]]:
    from jsonschema.exceptions import best_match

    for error in validator(name).iter_errors(document.value):
        best = best_match([error])
        yield remark(path, document, best.absolute_path, name, say(best))


def check_compose(path: str, document: Document) -> Iterator[dict[str, Any]]:
    """Names that are used must be defined: no schema can say that."""
    top, services = document.value, document.value.get("services")
    for service, body in services.items() if isinstance(services, dict) else ():
        if not isinstance(body, dict):
            continue
        for needed in names_in(body.get("depends_on")):
            if needed not in services:
                yield remark(
                    path,
                    document,
                    ["services", service, "depends_on"],
                    "compose-reference",
                    f"Service {service!r} depends on {needed!r}, which is not defined.",
                )
        for kind in ("networks", "secrets", "configs"):
            for used in names_in(body.get(kind)):
                if used not in (top.get(kind) or {}) and used != "default":
                    yield remark(
                        path,
                        document,
                        ["services", service, kind],
                        "compose-reference",
                        f"Service {service!r} uses the {kind[:-1]} {used!r}, which is not defined.",
                    )
        for volume in body.get("volumes") or ():
            source = (
                volume.get("source", "")
                if isinstance(volume, dict) and volume.get("type") == "volume"
                else (volume.partition(":")[0] if isinstance(volume, str) and ":" in volume else "")
            )
            if source and re.fullmatch(r"[A-Za-z0-9][\w.-]*", source) and source not in (top.get("volumes") or {}):
                yield remark(
                    path,
                    document,
                    ["services", service, "volumes"],
                    "compose-reference",
                    f"Service {service!r} uses the volume {source!r}, which is not defined.",
                )


def names_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return list(value)
    return [
        item if isinstance(item, str) else str(item.get("source", "default"))
        for item in value or ()
        if isinstance(item, str | dict)
    ]


def check_kubernetes(path: str, document: Document) -> Iterator[dict[str, Any]]:
    import kubernetes_validate as kv

    try:
        kv.validate(document.value, kv.latest_version(), strict=True)
    except kv.ValidationError as error:
        yield remark(path, document, error.absolute_path, "kubernetes", say(error))
    except kv.SchemaNotFoundError:
        pass  # a custom resource: its schema is in some cluster
    except (KeyError, AttributeError) as error:
        yield remark(path, document, [], "kubernetes", f"This is no complete manifest: {error}.")


def check_terraform(path: str, text: str) -> Iterator[dict[str, Any]]:
    import hcl2
    from lark.exceptions import LarkError

    try:
        hcl2.loads(text if text.endswith("\n") else f"{text}\n")
    except LarkError as error:
        line = getattr(error, "line", None) or 1
        message = "This is no HCL: " + str(error).split("\n", 1)[0]
        yield {"rule": "hcl", "severity": "high", "path": path, "line": line, "span": [1, line], "message": message}


def say(error: Any) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "the document"
    return f"{where}: {error.message[:400]}"


def remark(path: str, document: Document, at: Any, rule: str, message: str) -> dict[str, Any]:
    first, last = document.lines(list(at))
    return {"rule": rule, "severity": "high", "path": path, "line": first, "span": [first, last], "message": message}


def main(paths: list[str]) -> None:
    remarks: list[dict[str, Any]] = []
    unread: list[str] = []
    for path in paths:
        try:
            remarks += check(path, Path(path).read_text("utf-8"))
        except yaml.YAMLError:
            pass  # yamllint says so, with the line
        except (UnicodeDecodeError, ImportError, RecursionError) as error:
            unread.append(f"{path}: {error}")
    print(json.dumps({"remarks": remarks, "unread": unread}))


if __name__ == "__main__":
    main(sys.argv[1:])
