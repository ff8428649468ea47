"""The gate on known vulnerabilities: what is in a release, by its signed SBOMs, against a database of advisories.

Decided here, found out by a `VulnerabilitySource`. What could not be found out is said, and refuses as well, unless a
person accepts the unknown: a gate that opens whenever a server is down is none. The gates on alerts and traces are
steps of the host program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from devtools_platform.core.errors import Conflict, Unavailable
from devtools_platform.deploy.artifacts import Artifacts
from devtools_platform.deploy.interfaces import VulnerabilitySource
from devtools_platform.deploy.types import GateResult, ReleaseManifest, Severity, Vulnerability

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
MAX_SHOWN = 10


class GateRefused(Conflict):
    """A gate keeps the release from going out."""

    code = "gate"


@dataclass(frozen=True)
class Findings:
    """What is known of a release. `packages` counts what was looked up."""

    packages: int
    found: tuple[Vulnerability, ...]
    unknown: tuple[str, ...]
    """What could not be found out, and why."""
    uncovered: tuple[str, ...] = ()
    """Packages of kinds that the database has nothing about, such as an interpreter that was compiled: said, and no
    reason to refuse, or no image of that kind could ever go out."""


@dataclass(frozen=True)
class VulnerabilityGate:
    """Looks a release up. Only an SBOM that `public_pem` signed counts as one."""

    artifacts: Artifacts
    public_pem: bytes
    source: VulnerabilitySource

    def check(self, manifest: ReleaseManifest, severity: Severity, *, accepts_unknown: bool) -> GateResult:
        """Raises `GateRefused` for a vulnerability that bad or worse, and for what is unknown and not accepted."""
        return judge(self.look_up(manifest), severity, accepts_unknown=accepts_unknown)

    def look_up(self, manifest: ReleaseManifest) -> Findings:
        packages: set[str] = set()
        unknown: list[str] = []
        for service, image in sorted(manifest.images.items()):
            repository, digest = image.split("@")
            sbom = self.artifacts.fetch_sbom(repository, digest, self.public_pem)
            if sbom is None:
                unknown.append(f"the image of {service!r} has no SBOM signed with this key")
                continue
            named, unnamed = _packages(sbom)
            packages |= named
            unknown += [f"the SBOM of {service!r} names {unnamed} packages without a package URL"] if unnamed else []
        uncovered = tuple(sorted(one for one in packages if not self.source.covers(one)))
        looked_up = sorted(packages.difference(uncovered))
        try:
            found = tuple(self.source.find(looked_up))
        except Unavailable as error:
            return Findings(len(looked_up), (), (*unknown, str(error)), uncovered)
        return Findings(len(looked_up), found, tuple(unknown), uncovered)


def judge(findings: Findings, severity: Severity, *, accepts_unknown: bool) -> GateResult:
    """Pure: whether these findings let a release out. Raises `GateRefused`."""
    bad = [one for one in findings.found if one.severity is not None and _rank(one.severity) >= _rank(severity)]
    if bad:
        raise GateRefused(
            f"{len(bad)} known vulnerabilities are {severity} or worse: {_list(bad)}.",
            hint="Update what they are in and build anew; or raise --refuse-severity, knowing what you do.",
        )
    unrated = [one for one in findings.found if one.severity is None]
    unknown = [*findings.unknown]
    if unrated:
        unknown.append(f"{len(unrated)} advisories say no severity: {_list(unrated)}")
    known = f"{findings.packages} packages looked up, {len(findings.found)} vulnerabilities known"
    if findings.uncovered:
        known += f", nothing known about packages like {_names(findings.uncovered)}"
    if not unknown:
        return GateResult(gate="vulnerabilities", verdict="passed", why=f"{known}, none {severity} or worse")
    why = "; ".join(unknown)
    if not accepts_unknown:
        raise GateRefused(
            f"Whether there are vulnerabilities of severity {severity} is unknown: {why}.",
            hint="Mend that; or go on without knowing, with --accept-unknown.",
        )
    return GateResult(gate="vulnerabilities", verdict="unknown", why=f"{known}; {why}")


def _packages(sbom: Any) -> tuple[set[str], int]:
    """Package URLs in a CycloneDX document, nested ones too, and how many packages have none.

    Files and the operating system's own entry are not packages.
    """
    named: set[str] = set()
    unnamed = 0
    left: list[Any] = list(sbom.get("components") or [])
    while left:
        component = left.pop()
        left += component.get("components") or []
        if purl := component.get("purl"):
            named.add(str(purl))
        elif component.get("type") in {"library", "framework", "application"}:
            unnamed += 1
    return named, unnamed


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


def _names(packages: Sequence[str]) -> str:
    shown = ", ".join(packages[:MAX_SHOWN])
    return shown if len(packages) <= MAX_SHOWN else f"{shown} and {len(packages) - MAX_SHOWN} more"


def _list(found: Sequence[Vulnerability]) -> str:
    return _names([f"{one.id} in {one.package}" for one in found])
