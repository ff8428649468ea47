"""Secrets in what a change adds: the shapes our redactor knows, and detect-secrets for many more and for words."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from devtools_platform.core.redact import find_secrets
from devtools_platform.gateway.toolsets.analyzers.types import AddedLines, Analyzer, Program, Raw, Report

_NOT_TEXT = frozenset({".lock", ".svg", ".png", ".jpg", ".gif", ".ico", ".woff2", ".pdf", ".zip", ".gz", ".ipynb"})
_OPTIONS = (
    *("-c", "1", "scan", "--all-files", "--no-verify"),
    # Guesses by entropy: hashes, ids and test data look like secrets to them.
    *("--disable-plugin", "Base64HighEntropyString", "--disable-plugin", "HexHighEntropyString"),
    *("--disable-plugin", "IPPublicDetector"),
    # A change cannot allow itself a secret by a comment.
    *("--disable-filter", "detect_secrets.filters.allowlist.is_line_allowlisted"),
)
_PLACEHOLDERS = ("changeme", "change-me", "change_me", "example", "placeholder", "your-", "your_", "dummy", "xxxx", "<")
KEYWORD = "secret-keyword"
_VALUE = re.compile(r"[=:]\s*[\"']?([^\s\"']{8,})")
"""What is set to something, at least as long as a password should be."""
SUGGESTION = "Take it out, read it from the environment or a secret store, and renew it: it has been seen."


def find_added_secrets(added: AddedLines) -> tuple[Raw, ...]:
    """A remark for everything among the added lines that has the shape of a secret."""
    found: list[Raw] = []
    for path, lines in added.items():
        numbers = list(lines)
        for place, looks_like in find_secrets("\n".join(lines.values())):
            message = f"Looks like a secret ({looks_like}); it must not be committed."
            found.append(Raw("secret", "high", path, numbers[place - 1], message, suggestion=SUGGESTION))
    return tuple(found)


def refine(raw: Raw, line: str) -> Raw | None:
    """What a remark is worth, given its line: made-up values are none, and words that name no value count little."""
    if any(word in line.lower() for word in _PLACEHOLDERS):
        return None
    if raw.rule != KEYWORD:
        return raw
    value = _VALUE.search(line)
    is_value = value is not None and any(c.isdigit() for c in value[1]) and any(c.isalpha() for c in value[1])
    return raw if is_value else replace(raw, confidence="low")


def parse_detect_secrets(report: Any, root: str) -> Report:
    """Its baseline; the secrets themselves are not in it."""
    return Report(
        tuple(
            Raw(
                str(entry["type"]).lower().replace(" ", "-"),
                "high",
                path.removeprefix(root),
                entry["line_number"],
                f"Looks like a secret ({entry['type']}); it must not be committed.",
                suggestion=SUGGESTION,
                confidence="medium" if entry["type"] == "Secret Keyword" else "high",
            )
            for path, entries in report["results"].items()
            for entry in entries
        )
    )


def _wants(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() not in _NOT_TEXT


def _arguments(files: Sequence[str]) -> Sequence[str]:
    return (*_OPTIONS, *files)


DETECT_SECRETS = Analyzer(
    "detect-secrets", Program("detect_secrets", "module"), _wants, _arguments, parse_detect_secrets, refine=refine
)
