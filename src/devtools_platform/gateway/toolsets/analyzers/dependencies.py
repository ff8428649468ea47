"""Known vulnerabilities of the dependencies a change adds: pip-audit, asked about names and versions only.

It must reach a database of vulnerabilities. When it cannot, the outcome is unknown, and said to be: nothing passes
because nobody could look. What it reads is a file of our own with `name==version` lines, so it can run where there is
a network without reading anything a repository wrote.
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from json import JSONDecodeError, loads
from pathlib import Path, PurePosixPath

from devtools_platform.core.tasks import Degradation
from devtools_platform.gateway.toolsets.analyzers.types import AddedLines, Raw
from devtools_platform.kit.sandbox import Limits, run_sandboxed

NAME = "pip-audit"
TIMEOUT_S = 20.0
MAX_PINS = 200
_FILES = re.compile(r"(?:.*requirements.*|constraints)\.(?:txt|in)")
_PIN = re.compile(r"^\s*[\"']?([A-Za-z0-9][A-Za-z0-9._-]{0,100})(?:\[[^\]]*\])?\s*==\s*([A-Za-z0-9][\w.!+-]{0,60})")


@dataclass(frozen=True)
class Audit:
    """Whether dependencies are looked up, and where. `osv_url` None: the public database of PyPI."""

    is_on: bool = True
    osv_url: str | None = None


@dataclass(frozen=True)
class Audited:
    remarks: tuple[Raw, ...] = ()
    has_run: bool = False
    not_run: Degradation | None = None


def find_pins(added: AddedLines) -> dict[tuple[str, str], tuple[str, int]]:
    """Exact versions among the added lines of requirement files, and where each stands."""
    pins: dict[tuple[str, str], tuple[str, int]] = {}
    for path, lines in added.items():
        name = PurePosixPath(path).name
        if not (_FILES.fullmatch(name) or name == "pyproject.toml"):
            continue
        for number, line in lines.items():
            if match := _PIN.match(line):
                pins.setdefault((re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]), (path, number))
    return dict(list(pins.items())[:MAX_PINS])


async def audit(added: AddedLines, how: Audit) -> Audited:
    """Look up what the change pins."""
    pins = find_pins(added)
    if not pins:
        return Audited()
    if not how.is_on:
        return _unknown("It is switched off by DEV_TOOLS_DEPENDENCY_AUDIT.")
    if find_spec("pip_audit") is None:
        return _unknown("It is not installed; install devtools-platform[analyzers].")
    with tempfile.TemporaryDirectory(prefix="dev-tools-audit-") as folder:
        listing = Path(folder) / "requirements.txt"
        listing.write_text("".join(f"{name}=={version}\n" for name, version in pins))
        options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--timeout", "5", "--format", "json"]
        options += ["--vulnerability-service", "osv", "--osv-url", how.osv_url] if how.osv_url else []
        command = [sys.executable, "-I", "-m", "pip_audit", "--requirement", str(listing), *options]
        limits = Limits(timeout_s=TIMEOUT_S, memory_mb=1024, output_bytes=2_000_000)
        # Not isolated, for it needs the network; it sees nothing but our own listing.
        done = await run_sandboxed(command, workspace=Path(folder), limits=limits, isolate=False)
    return _read(done.output, done.exit_code, pins)


def _read(output: str, exit_code: int | None, pins: dict[tuple[str, str], tuple[str, int]]) -> Audited:
    document = next((line for line in output.splitlines() if line.startswith('{"dependencies"')), None)
    try:
        dependencies = loads(document or "")["dependencies"]
    except (JSONDecodeError, KeyError):
        last = output.strip().splitlines()[-1:] or ["it said nothing"]
        return _unknown(f"Its database could not be reached or read (exit {exit_code}: {last[0][:300]}).")
    remarks: list[Raw] = []
    for entry in dependencies:
        where = pins.get((re.sub(r"[-_.]+", "-", entry["name"]).lower(), entry.get("version", "")))
        if where is not None:
            remarks.extend(_remark(entry, flaw, where) for flaw in entry.get("vulns", ()))
    return Audited(tuple(remarks), has_run=True)


def _remark(entry: dict[str, str], flaw: dict[str, Sequence[str]], where: tuple[str, int]) -> Raw:
    fixed = ", ".join(flaw.get("fix_versions", ()))
    message = f"{entry['name']} {entry['version']} has a known vulnerability ({flaw['id']})."
    suggestion = f"Take {fixed}." if fixed else "No version without it is known."
    return Raw(str(flaw["id"]), "high", where[0], where[1], message, suggestion=suggestion)


def _unknown(why: str) -> Audited:
    return Audited(not_run=Degradation(what=NAME, why=f"{why} Whether the new dependencies are safe is unknown."))
