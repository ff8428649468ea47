"""A review as SARIF 2.1.0, the form that code hosts and editors show findings in. Pure."""

from typing import Any, Literal

from devtools_platform.core.tasks import Finding, Review, Severity

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: dict[Severity, Literal["error", "warning", "note", "none"]] = {
    "high": "error",
    "medium": "warning",
    "low": "note",
    "info": "note",
}


def to_sarif(review: Review) -> dict[str, Any]:
    """One run per source that judged, so that each finding stands under the tool that made it."""
    sources = dict.fromkeys((*review.judged_by, *(finding.source for finding in review.findings)))
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(source, review) for source in sources]}


def _run(source: str, review: Review) -> dict[str, Any]:
    findings = [finding for finding in review.findings if finding.source == source]
    rules = [{"id": rule} for rule in dict.fromkeys(finding.rule for finding in findings)]
    return {
        "tool": {"driver": {"name": source, "rules": rules}},
        "results": [_result(finding) for finding in findings],
        "properties": {"verdict": review.verdict},
    }


def _result(finding: Finding) -> dict[str, Any]:
    said = finding.message if finding.suggestion is None else f"{finding.message} {finding.suggestion}"
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": said},
        "properties": {"blocking": finding.is_blocking, "suggestion": finding.suggestion},
    }
    if finding.path:
        location: dict[str, Any] = {"artifactLocation": {"uri": finding.path}}
        if finding.line is not None:
            region: dict[str, Any] = {"startLine": finding.line}
            location["region"] = {**region, "snippet": {"text": finding.evidence}} if finding.evidence else region
        result["locations"] = [{"physicalLocation": location}]
    return result
