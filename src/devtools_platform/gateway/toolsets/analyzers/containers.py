"""Analyzers for what is deployed: Dockerfiles, shell, YAML, compose, Kubernetes, Terraform, schemas of pipelines."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from devtools_platform.core.tasks import Severity
from devtools_platform.gateway.toolsets.analyzers.types import Analyzer, Program, Raw, Report

PROGRAMS = Path(__file__).parent / "programs"
"""Small programs of ours that run inside the sandbox."""

_LEVELS: dict[str, Severity] = {"error": "high", "warning": "medium", "info": "low", "style": "info"}
_DOCKERFILE = re.compile(r"(?:Dockerfile|Containerfile)(?:\..+)?|.+\.(?:dockerfile|containerfile)", re.IGNORECASE)
_YAMLLINT = re.compile(r"^(?P<path>.+?):(?P<line>\d+):\d+: \[(?P<level>\w+)\] (?P<message>.+)$", re.MULTILINE)


def is_dockerfile(path: str) -> bool:
    return _DOCKERFILE.fullmatch(PurePosixPath(path).name) is not None


def is_yaml(path: str) -> bool:
    """Helm's templates are no YAML before they are rendered."""
    return path.endswith((".yaml", ".yml")) and "templates" not in PurePosixPath(path).parts[:-1]


def is_shell(path: str) -> bool:
    return path.endswith((".sh", ".bash"))


def has_schema(path: str) -> bool:
    """Files `programs/schemas.py` looks at; it decides itself whether a YAML file is a Kubernetes manifest."""
    return is_yaml(path) or path.endswith(".tf")


def parse_hadolint(report: Any, root: str) -> Report:
    """Hadolint's JSON."""
    return Report(
        tuple(
            Raw(
                entry["code"],
                _LEVELS[entry["level"]],
                entry["file"].removeprefix(root),
                entry["line"],
                entry["message"],
                suggestion=f"See https://github.com/hadolint/hadolint/wiki/{entry['code']}",
            )
            for entry in report
        )
    )


def parse_shellcheck(report: Any, root: str) -> Report:
    """ShellCheck's `json1`."""
    return Report(
        tuple(
            Raw(
                f"SC{entry['code']}",
                _LEVELS[entry["level"]],
                entry["file"].removeprefix(root),
                entry["line"],
                entry["message"],
                (entry["line"], entry["endLine"]),
                suggestion=f"See https://www.shellcheck.net/wiki/SC{entry['code']}",
            )
            for entry in report["comments"]
        )
    )


def parse_yamllint(report: Any, root: str) -> Report:
    """Lines of its `parsable` format."""
    remarks: list[Raw] = []
    for entry in report:
        message, _, rule = entry["message"].rpartition(" (")
        line = int(entry["line"])
        # Like every parser's, its complaint comes at the wrong line or after it.
        span = (1, line) if "syntax error" in entry["message"] else None
        path = entry["path"].removeprefix(root)
        remarks.append(Raw(rule.rstrip(")") or "syntax", "high", path, line, message or entry["message"], span))
    return Report(tuple(remarks))


def parse_remarks(report: Any, root: str) -> Report:
    """What our own programs print: remarks as they are."""
    remarks = tuple(
        Raw(
            entry["rule"],
            entry["severity"],
            entry["path"].removeprefix(root),
            entry["line"],
            entry["message"],
            tuple(entry["span"]) if entry.get("span") else None,
            entry.get("suggestion"),
        )
        for entry in report["remarks"]
    )
    return Report(remarks, tuple(str(line).replace(root, "") for line in report.get("unread", ())))


HADOLINT = Analyzer(
    "hadolint",
    Program("hadolint"),
    is_dockerfile,
    lambda files: (
        *("--no-fail", "--disable-ignore-pragma", "--config", str(PROGRAMS / "hadolint.yaml"), "--format", "json"),
        *files,
    ),
    parse_hadolint,
    read_only_paths=(PROGRAMS,),
)
SHELLCHECK = Analyzer(
    "shellcheck",
    Program("shellcheck"),
    is_shell,
    lambda files: ("--norc", "--format", "json1", "--", *files),
    parse_shellcheck,
    exits=frozenset({0, 1}),
)
YAMLLINT = Analyzer(
    "yamllint",
    Program("yamllint", "module"),
    is_yaml,
    lambda files: ("--format", "parsable", "--config-data", "{rules: {key-duplicates: enable}}", *files),
    parse_yamllint,
    exits=frozenset({0, 1}),
    reads=lambda output: [match.groupdict() for match in _YAMLLINT.finditer(output)],
)
SCHEMA = Analyzer(
    "schema",
    Program(str(PROGRAMS / "schemas.py"), "script"),
    has_schema,
    tuple,
    parse_remarks,
    read_only_paths=(PROGRAMS,),
)
DEPLOYMENT = Analyzer(
    "deployment",
    Program(str(PROGRAMS / "deployment.py"), "script"),
    has_schema,
    tuple,
    parse_remarks,
    read_only_paths=(PROGRAMS,),
)
MARKDOWN = Analyzer(
    "docs",
    Program(str(PROGRAMS / "markdown.py"), "script"),
    lambda path: path.endswith(".md"),
    tuple,
    parse_remarks,
    read_only_paths=(PROGRAMS,),
)
