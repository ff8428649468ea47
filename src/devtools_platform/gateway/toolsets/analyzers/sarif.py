"""Reads SARIF 2.1.0, which a repository's own analyzers may print. `core.sarif` writes it."""

from typing import Any

from devtools_platform.core.tasks import Severity
from devtools_platform.gateway.toolsets.analyzers.types import Raw, Report

_LEVELS: dict[str, Severity] = {"error": "high", "warning": "medium", "note": "low", "none": "info"}


def parse_sarif(report: Any, root: str) -> Report:
    """All results of all runs. A result without a level is a warning, by the standard's section 3.27.10."""
    return Report(tuple(_remark(result, root) for run in report["runs"] for result in run.get("results") or ()))


def _remark(result: Any, root: str) -> Raw:
    places: list[Any] = result.get("locations") or []
    physical: dict[str, Any] = places[0].get("physicalLocation", {}) if places else {}
    region: dict[str, Any] = physical.get("region") or {}
    artifact: dict[str, Any] = physical.get("artifactLocation") or {}
    uri = str(artifact.get("uri", "")).removeprefix("file://")
    first: int | None = region.get("startLine")
    span = (first, region.get("endLine", first)) if first else None
    text = result.get("message", {}).get("text", "")
    fixes = [fix.get("description", {}).get("text") for fix in result.get("fixes") or ()]
    return Raw(
        str(result.get("ruleId") or "result"),
        _LEVELS.get(str(result.get("level", "warning")), "medium"),
        uri.removeprefix(root).removeprefix("./"),
        first,
        str(text)[:2000],
        span,
        suggestion=next((fix for fix in fixes if fix), None),
    )
