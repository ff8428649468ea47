"""What keeps a release from going out: known vulnerabilities, broken traces, alerts that fire."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.droplet import QUICK, SIGNER, Droplet, make_release, rollouts
from devtools_platform.deploy import signing
from devtools_platform.deploy.adapters.oci import OciRegistry
from devtools_platform.deploy.adapters.osv import Osv
from devtools_platform.deploy.artifacts import Artifacts
from devtools_platform.deploy.gates import SEVERITIES, Findings, GateRefused, VulnerabilityGate, judge
from devtools_platform.deploy.types import Options, Smoke, Vulnerability
from fakes.oci_registry import FakeRegistry
from fakes.osv_server import FakeOsv

JINJA, REQUESTS = "pkg:pypi/jinja2@2.4.1", "pkg:pypi/requests@2.32.0"
STRICT = Options(**{**QUICK.model_dump(), "refuse_severity": "high"})
LENIENT = Options(**{**STRICT.model_dump(), "accepts_unknown": True})


@pytest.fixture
def osv() -> Iterator[FakeOsv]:
    with FakeOsv() as running:
        yield running


@pytest.fixture
def artifacts(registry: FakeRegistry) -> Iterator[Artifacts]:
    oci = OciRegistry(plain=(registry.host,))
    yield Artifacts(oci)
    oci.http.close()


def release(registry: FakeRegistry, artifacts: Artifacts, *packages: str, signer: signing.Signer | None = None) -> Any:
    """A release whose image has an SBOM with these packages; without a signer it has none."""
    image = registry.add_image(f"{registry.host}/acme/shop-web", "1", b'{"layer": 1}')
    manifest, bundle = make_release(registry, 1, image=image)
    if signer is not None:
        components = [{"type": "library", "name": purl, "purl": purl} for purl in packages]
        sbom = {"bomFormat": "CycloneDX", "components": [*components, {"type": "file", "name": "/etc/passwd"}]}
        artifacts.attest(f"{registry.host}/acme/shop-web", image, signing.CYCLONEDX, sbom, signer)
    return manifest, bundle


@pytest.fixture
def gate(artifacts: Artifacts, osv: FakeOsv) -> Iterator[VulnerabilityGate]:
    source = Osv(osv.url)
    yield VulnerabilityGate(artifacts, SIGNER.public_pem, source)
    source.http.close()


async def test_a_release_with_a_known_vulnerability_is_refused_before_anything_is_pulled(
    droplets: dict[str, Droplet], registry: FakeRegistry, artifacts: Artifacts, gate: VulnerabilityGate, osv: FakeOsv
) -> None:
    osv.add(JINJA, "GHSA-1", severity="CRITICAL")
    offered = release(registry, artifacts, JINJA, REQUESTS, signer=SIGNER)

    outcome = await rollouts(*droplets.values(), vulnerabilities=gate).deploy(*offered, STRICT)

    assert (outcome.status, outcome.failed_step) == ("reverted", "vulnerabilities@deployer")
    assert outcome.why == f"1 known vulnerabilities are high or worse: GHSA-1 in {JINJA}."
    assert [droplet.docker()["images"] for droplet in droplets.values()] == [[], []]
    assert osv.asked == [[JINJA, REQUESTS]]
    history = await rollouts(*droplets.values()).history()
    assert [entry["action"] for entry in history["web-1"]] == ["begin", "revert"]


async def test_what_is_less_bad_than_asked_for_goes_out_and_the_outcome_says_what_was_found(
    droplets: dict[str, Droplet], registry: FakeRegistry, artifacts: Artifacts, gate: VulnerabilityGate, osv: FakeOsv
) -> None:
    osv.add(JINJA, "GHSA-1", severity="MODERATE")
    offered = release(registry, artifacts, JINJA, REQUESTS, signer=SIGNER)

    outcome = await rollouts(droplets["web-1"], vulnerabilities=gate).deploy(*offered, STRICT)

    assert outcome.status == "committed"
    found = {f"{one.gate} {one.verdict}": one.why for one in outcome.gates}
    assert found["vulnerabilities passed"] == "2 packages looked up, 1 vulnerabilities known, none high or worse"
    assert found["alerts unknown"] == "web-1: host.json names no Prometheus"


@pytest.mark.parametrize("trouble", ["no sbom", "of a stranger", "of another image", "no answer", "garbage", "unrated"])
async def test_what_cannot_be_found_out_refuses_unless_a_person_accepts_it_and_is_said_either_way(
    trouble: str, droplets: dict[str, Droplet], registry: FakeRegistry, artifacts: Artifacts, gate: VulnerabilityGate,
    osv: FakeOsv,
) -> None:  # fmt: skip
    why = {
        "no sbom": "the image of 'web' has no SBOM signed with this key",
        "of a stranger": "the image of 'web' has no SBOM signed with this key",
        "of another image": "the image of 'web' has no SBOM signed with this key",
        "no answer": "HTTP 503",
        "garbage": "cannot be read",
        "unrated": "1 advisories say no severity: PYSEC-1",
    }[trouble]
    osv.fail_with = 503 if trouble == "no answer" else None
    osv.answer = b"<html>" if trouble == "garbage" else None
    if trouble == "unrated":
        osv.add(JINJA, "PYSEC-1")
    signer = {"no sbom": None, "of a stranger": signing.make_key()}.get(trouble, SIGNER)
    offered = release(registry, artifacts, JINJA, signer=signer)
    if trouble == "of another image":
        _move_sbom(registry, offered[0].images["web"].split("@")[1])
    works = rollouts(droplets["web-1"], vulnerabilities=gate)

    refused = await works.deploy(*offered, STRICT)
    accepted = await works.deploy(*offered, LENIENT)

    assert (refused.failed_step, accepted.status) == ("vulnerabilities@deployer", "committed")
    assert why in refused.why
    assert [why in one.why for one in accepted.gates if one.gate == "vulnerabilities"] == [True]
    assert [one.verdict for one in accepted.gates if one.gate == "vulnerabilities"] == ["unknown"]


def _move_sbom(registry: FakeRegistry, digest: str) -> None:
    """Under the image's name in the registry, an SBOM that our key signed for another one."""
    artifacts = Artifacts(OciRegistry(plain=(registry.host,)))
    repository = f"{registry.host}/acme/shop-web"
    other = registry.add_image(repository, "other", b'{"layer": 2}')
    artifacts.attest(repository, other, signing.CYCLONEDX, {"components": []}, SIGNER)
    artifacts.registry.http.close()
    stored = registry.manifests["acme/shop-web"]
    stored[f"{digest.replace(':', '-')}.att"] = stored[f"{other.replace(':', '-')}.att"]


def test_one_vulnerability_with_several_names_counts_once_and_with_its_worst_severity(osv: FakeOsv) -> None:
    """PyPI's own advisories say no severity where GitHub's do; more than a page of them; one was withdrawn."""
    osv.add(JINJA, "GHSA-1", severity="HIGH", aliases=("CVE-1",))
    osv.add(JINJA, "PYSEC-1", aliases=("CVE-1",))
    osv.add(JINJA, "GHSA-2", severity="LOW")
    osv.add(JINJA, "GHSA-3", severity="CRITICAL", withdrawn="2026-01-02T00:00:00Z")
    source = Osv(osv.url)

    found = source.find([JINJA, REQUESTS])
    source.http.close()

    assert [(one.id, one.severity) for one in found] == [("GHSA-1", "high"), ("GHSA-2", "low")]
    assert osv.asked == [[JINJA, REQUESTS], [JINJA]]


@pytest.mark.parametrize(
    ("installed", "asked"),
    [
        ("pkg:deb/debian/libssl3@3.0.17-1?arch=amd64&distro=debian-12&upstream=openssl", "openssl@3.0.17-1"),
        ("pkg:deb/debian/bash@5.2.15-2%2Bb8?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2", "bash@5.2.15-2"),
        ("pkg:deb/debian/apt@2.6.1?arch=amd64&distro=debian-12", "apt@2.6.1"),
    ],
)
def test_a_debian_package_is_looked_up_by_its_source_which_is_what_advisories_name(
    osv: FakeOsv, installed: str, asked: str
) -> None:
    """As syft writes them; OSV answers nothing, and no error, for the name of a binary package."""
    source = Osv(osv.url)
    source.find([installed])
    source.http.close()

    assert osv.asked == [[f"pkg:deb/debian/{asked}?arch=source&distro=debian-12"]]


@pytest.mark.parametrize(
    ("severity", "rating"),
    [
        ([{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}], "critical"),
        ([{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:L/SC:N/SI:N/SA:N"}], "medium"),
        ([{"type": "CVSS_V2", "score": "AV:N/AC:L/Au:N/C:N/I:N/A:P"}], "medium"),
        ([{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N"}], "low"),
        ([{"type": "Ubuntu", "score": "high"}], "high"),
        ([{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N"}], None),
        ([], None),
    ],
)
def test_an_advisory_without_a_word_is_rated_by_its_cvss_vector(osv: FakeOsv, severity: Any, rating: Any) -> None:
    osv.add(JINJA, "DEBIAN-CVE-1", severity_vectors=severity)
    source = Osv(osv.url)
    found = source.find([JINJA])
    source.http.close()

    assert [one.severity for one in found] == [rating]


async def test_packages_of_a_kind_that_the_database_does_not_know_are_named_and_not_called_looked_up(
    droplets: dict[str, Droplet], registry: FakeRegistry, artifacts: Artifacts, gate: VulnerabilityGate, osv: FakeOsv
) -> None:
    python = "pkg:generic/python@3.11.9"
    offered = release(registry, artifacts, JINJA, python, signer=SIGNER)

    outcome = await rollouts(droplets["web-1"], vulnerabilities=gate).deploy(*offered, STRICT)

    why = next(one.why for one in outcome.gates if one.gate == "vulnerabilities")
    assert why.startswith(f"1 packages looked up, 0 vulnerabilities known, nothing known about packages like {python}")
    assert osv.asked == [[JINJA]]


def test_an_advisory_is_not_asked_for_under_a_name_that_leads_elsewhere(osv: FakeOsv) -> None:
    osv.add(JINJA, "../../admin", severity="LOW")
    source = Osv(osv.url)
    with pytest.raises(Exception, match="cannot be read"):
        source.find([JINJA])
    source.http.close()


severities = st.none() | st.sampled_from(SEVERITIES)
findings = st.builds(
    Findings,
    st.integers(0, 5),
    st.lists(st.builds(Vulnerability, id=st.just("V"), package=st.just("p"), severity=severities)).map(tuple),
    st.lists(st.just("why")).map(tuple),
)


@given(findings, st.sampled_from(SEVERITIES), st.booleans())
def test_nothing_that_bad_ever_passes_and_nothing_unknown_is_called_passed(
    found: Findings,
    severity: Any,
    accepts: bool,  # noqa: FBT001 - hypothesis passes it
) -> None:
    rank = SEVERITIES.index
    is_bad = any(one.severity and rank(one.severity) >= rank(severity) for one in found.found)
    is_unknown = bool(found.unknown) or any(one.severity is None for one in found.found)
    try:
        result = judge(found, severity, accepts_unknown=accepts)
    except GateRefused:
        assert is_bad or (is_unknown and not accepts)
        return
    assert not is_bad
    assert result.verdict == ("unknown" if is_unknown else "passed")


async def test_traces_that_are_not_whole_keep_the_release_from_requests(
    droplets: dict[str, Droplet], registry: FakeRegistry
) -> None:
    traces = Smoke(service="web", command=("dev-tools", "traces", "validate"))
    works = rollouts(droplets["web-1"])
    droplets["web-1"].fail("compose exec")
    offered = make_release(registry, 1, traces=traces)

    refused = await works.deploy(*offered, QUICK)
    without = await works.deploy(*offered, Options(**{**QUICK.model_dump(), "has_gate": False}))

    assert (refused.status, refused.failed_step) == ("reverted", "traces@web-1")
    assert "dev-tools traces validate ended with 1: told to fail" in refused.why
    assert (without.status, without.gates) == ("committed", ())


async def test_a_first_release_has_no_traces_yet_which_is_unknown_and_not_wrong(
    droplets: dict[str, Droplet], registry: FakeRegistry
) -> None:
    droplets["web-1"].set_docker(exec_code=3, said="0 spans of 0 tasks")
    traces = Smoke(service="web", command=("dev-tools", "traces", "validate"))

    outcome = await rollouts(droplets["web-1"]).deploy(*make_release(registry, 1, traces=traces), QUICK)

    assert outcome.status == "committed"
    assert ("traces", "unknown", "web-1: 0 spans of 0 tasks") in [(g.gate, g.verdict, g.why) for g in outcome.gates]


class Prometheus:
    """`/api/v1/alerts` as Prometheus answers it."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        prometheus = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = json.dumps({"status": "success", "data": {"alerts": prometheus.alerts}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    running = Prometheus()
    thread = threading.Thread(target=running.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


@pytest.mark.parametrize("severity", ["critical", "page"])
async def test_an_urgent_alert_that_fires_keeps_a_release_back_and_a_pending_or_mild_one_does_not(
    droplets: dict[str, Droplet], registry: FakeRegistry, prometheus: Prometheus, severity: str
) -> None:
    host = droplets["web-1"].folder / "host.json"
    host.write_text(json.dumps({**json.loads(host.read_text()), "prometheus": prometheus.url}))
    works = rollouts(droplets["web-1"])
    critical = {"alertname": "StackDown", "severity": severity}
    prometheus.alerts = [{"state": "firing", "labels": critical}]
    first = await works.deploy(*make_release(registry, 1), QUICK)
    refused = await works.deploy(*make_release(registry, 2), QUICK)
    prometheus.alerts = [
        {"state": "pending", "labels": critical},
        {"state": "firing", "labels": {"severity": "warning"}},
    ]
    passed = await works.deploy(*make_release(registry, 3), QUICK)

    assert [(one.verdict, one.why) for one in first.gates] == [
        ("unknown", "web-1: nothing serves yet that could be well")
    ]
    assert (refused.failed_step, refused.why) == ("gate@web-1", "web-1: Urgent alerts fire: StackDown.")
    assert [(one.gate, one.verdict, one.why) for one in passed.gates] == [
        ("alerts", "passed", "web-1: no urgent alert fires")
    ]


async def test_a_prometheus_that_does_not_answer_is_no_proof_that_all_is_well(
    droplets: dict[str, Droplet], registry: FakeRegistry
) -> None:
    host = droplets["web-1"].folder / "host.json"
    host.write_text(json.dumps({**json.loads(host.read_text()), "prometheus": "http://127.0.0.1:1"}))
    await rollouts(droplets["web-1"]).deploy(*make_release(registry, 1), QUICK)

    outcome = await rollouts(droplets["web-1"]).deploy(*make_release(registry, 2), QUICK)

    assert outcome.failed_step == "gate@web-1"
    assert "does not tell its alerts" in outcome.why
