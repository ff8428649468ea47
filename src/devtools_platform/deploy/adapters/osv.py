"""OSV (https://osv.dev) as a `VulnerabilitySource`: package URLs in, advisories with their severity out.

Only names and versions of packages are sent. Advisories that are aliases of one another count once, with the worst
severity that any of them says, in a word or by a CVSS vector; many of PyPI's own say none where GitHub's copy does.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import parse_qsl, quote

import httpx2
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from devtools_platform.core.errors import Unavailable
from devtools_platform.deploy.types import Severity, Vulnerability
from devtools_platform.kit.tls import tls_context

BATCH = 500
MAX_PAGES = 20
MAX_ADVISORIES = 2000
MAX_BYTES = 16_000_000
TIMEOUT_S = 30
AT_ONCE = 8
_WORDS: Mapping[str, Severity] = {
    "none": "low",
    "low": "low",
    "moderate": "medium",
    "medium": "medium",
    "high": "high",
    "critical": "critical",
}
COVERED = frozenset(
    (
        "apk",
        "bitnami",
        "cargo",
        "composer",
        "conan",
        "cran",
        "deb",
        "gem",
        "golang",
        "hackage",
        "hex",
        "julia",
        "maven",
        "npm",
        "nuget",
        "opam",
        "pub",
        "pypi",
        "rpm",
        "swift",
    )
)
"""Kinds of package URLs that OSV has advisories for. To any other it answers, without a word, that it knows none."""
AdvisoryId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")]
"""It becomes part of an address, so it is only what an id is made of."""
HINT = "Try again later, or name a mirror with DEV_TOOLS_OSV_URL."


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Hit(_Part):
    id: AdvisoryId


class _Result(_Part):
    vulns: tuple[_Hit, ...] = ()
    next_page_token: str | None = None


class _Batch(_Part):
    results: tuple[_Result, ...]


class _Score(_Part):
    type: str
    score: str
    """A CVSS vector, or Ubuntu's word."""


class _Affected(_Part):
    severity: tuple[_Score, ...] = ()


class _Advisory(_Part):
    id: AdvisoryId
    aliases: tuple[str, ...] = ()
    withdrawn: str | None = None
    database_specific: dict[str, Any] = Field(default_factory=dict[str, Any])
    severity: tuple[_Score, ...] = ()
    affected: tuple[_Affected, ...] = ()

    @property
    def rating(self) -> Severity | None:
        """What the database calls it, else the worst of its vectors. None where it says neither."""
        if word := _WORDS.get(str(self.database_specific.get("severity", "")).lower()):
            return word
        return _worst(rate(one.score) for one in (*self.severity, *(s for a in self.affected for s in a.severity)))


T = TypeVar("T", bound=_Part)


@dataclass(frozen=True)
class Osv:
    """`url` is OSV's own API or a mirror that answers like it."""

    url: str
    http: httpx2.Client = field(
        default_factory=lambda: httpx2.Client(
            verify=tls_context(), timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
        )
    )

    def find(self, packages: Sequence[str]) -> Sequence[Vulnerability]:
        """One entry a package and vulnerability. Raises `Unavailable` when OSV does not answer whole."""
        asked = sorted({ask_for(package) for package in packages if self.covers(package)})
        hits = [pair for start in range(0, len(asked), BATCH) for pair in self._hits(asked[start : start + BATCH])]
        ids = sorted({id_ for _, id_ in hits})
        if len(ids) > MAX_ADVISORIES:
            raise Unavailable(f"OSV names more than {MAX_ADVISORIES} advisories for this release.", hint=HINT)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            advisories = {one.id: one for one in pool.map(self._advisory, ids)}
        return _merge(hits, advisories)

    def covers(self, package: str) -> bool:
        return package.removeprefix("pkg:").partition("/")[0] in COVERED

    def _hits(self, packages: Sequence[str]) -> list[tuple[str, str]]:
        """Pairs of package and advisory id, over all pages."""
        hits: list[tuple[str, str]] = []
        asked: list[tuple[str, str | None]] = [(package, None) for package in packages]
        for _ in range(MAX_PAGES):
            queries = [
                {"package": {"purl": package}, **({"page_token": token} if token else {})} for package, token in asked
            ]
            answer = self._ask(_Batch, "POST", "/v1/querybatch", {"queries": queries})
            if len(answer.results) != len(asked):
                raise Unavailable(f"OSV answered {len(answer.results)} of {len(asked)} questions.", hint=HINT)
            pairs = list(zip(asked, answer.results, strict=True))
            hits += [(package, hit.id) for (package, _), result in pairs for hit in result.vulns]
            asked = [(package, result.next_page_token) for (package, _), result in pairs if result.next_page_token]
            if not asked:
                return hits
        raise Unavailable(f"OSV's answer has more than {MAX_PAGES} pages.", hint=HINT)

    def _advisory(self, id_: str) -> _Advisory:
        advisory = self._ask(_Advisory, "GET", f"/v1/vulns/{id_}", None)
        if advisory.id != id_:
            raise Unavailable(f"OSV answered for {advisory.id!r} when asked for {id_!r}.", hint=HINT)
        return advisory

    def _ask(self, expect: type[T], method: str, path: str, body: Any) -> T:
        try:
            with self.http.stream(method, self.url.rstrip("/") + path, json=body) as response:
                raw = bytearray()
                for piece in response.iter_bytes():
                    raw += piece
                    if len(raw) > MAX_BYTES:
                        raise Unavailable(f"OSV's answer has more than {MAX_BYTES} bytes.", hint=HINT)
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"OSV at {self.url} does not answer: {error or type(error).__name__}", hint=HINT
            ) from None
        if not response.is_success:
            raise Unavailable(f"OSV at {self.url} answered {method} {path} with HTTP {response.status_code}", hint=HINT)
        try:
            return expect.model_validate_json(bytes(raw))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            text = f"OSV's answer to {method} {path} cannot be read: {first['msg']}"
            raise Unavailable(text, hint=HINT) from None


def ask_for(package: str) -> str:
    """The package URL that OSV knows a package by.

    Debian's and Ubuntu's advisories name source packages, an SBOM names what is installed: `libssl3` is `openssl`.
    """
    path, _, query = package.partition("?")
    qualifiers = dict(parse_qsl(query))
    if not package.startswith("pkg:deb/"):
        return package
    named, _, version = path.rpartition("@")
    folder, _, own = named.rpartition("/")
    source, _, source_version = qualifiers.get("upstream", "").partition("@")
    name, version = (quote(source) if source else own), (quote(source_version, safe="") if source_version else version)
    distro = f"&distro={quote(qualifiers['distro'])}" if "distro" in qualifiers else ""
    return f"{folder}/{name}@{version}?arch=source{distro}"


def rate(score: str) -> Severity | None:
    """The severity of a CVSS vector (2, 3 or 4) or of a word. None for what is neither."""
    from cvss import CVSS2, CVSS3, CVSS4  # in the extra `deploy`
    from cvss.exceptions import CVSSError

    kind: Any = CVSS4 if score.startswith("CVSS:4") else CVSS3 if score.startswith("CVSS:3") else CVSS2
    try:
        word = str(kind(score).severities()[0]).lower()
    except CVSSError:
        word = score.lower()
    return _WORDS.get(word)


def _worst(ratings: Iterable[Severity | None]) -> Severity | None:
    order: tuple[Severity, ...] = get_args(Severity)
    known = set(ratings)
    return next((one for one in reversed(order) if one in known), None)


@dataclass
class _Group:
    """Advisories about one vulnerability of one package."""

    id: str
    names: set[str]
    severity: Severity | None


def _merge(hits: Iterable[tuple[str, str]], advisories: Mapping[str, _Advisory]) -> list[Vulnerability]:
    """Aliases as one, withdrawn ones left out."""
    groups: dict[str, list[_Group]] = {}
    for package, id_ in sorted(set(hits)):
        advisory = advisories[id_]
        if advisory.withdrawn is not None:
            continue
        names = {id_, *advisory.aliases}
        of_package = groups.setdefault(package, [])
        group = next((one for one in of_package if one.names & names), None)
        if group is None:
            of_package.append(_Group(id_, names, advisory.rating))
            continue
        group.names |= names
        group.severity = _worst((group.severity, advisory.rating))
    return [
        Vulnerability(id=one.id, package=package, severity=one.severity) for package, of in groups.items() for one in of
    ]
