"""Review without any model: seeded defects are blocked, clean changes are not; what could not look says so."""

import json
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from devtools_platform.core.errors import BadInput, ToolFailed
from devtools_platform.core.sarif import to_sarif
from devtools_platform.core.tasks import Finding
from devtools_platform.core.tasks import Review as TaskReview
from devtools_platform.gateway.toolsets.analyzers import load_policy, parse_review_config
from devtools_platform.gateway.toolsets.analyzers.dependencies import Audit
from devtools_platform.gateway.toolsets.analyzers.types import Raw
from devtools_platform.gateway.toolsets.workspace import WorkspaceTools
from devtools_platform.kit.git import at_commit, clone_for_task, resolve_repository
from devtools_platform.kit.sandbox import Limits
from gateway.test_workspace_tools import Bench, run, write

CASES = Path(__file__).parent / "review"
SECRETS = {
    "@GITHUB_TOKEN@": "ghp_" + "a1B2" * 9,
    "@AWS_KEY@": "AKIA" + "IOSFODNN7QWERTYU",
    "@PRIVATE_KEY@": "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEow\n-----END RSA PRIVATE" + " KEY-----",
    "@PASSWORD@": "Tr0ub4dor" + "And3",
    "@STRIPE_KEY@": "sk_live_" + "a1B2c3D4" * 3,
}


@dataclass
class Case:
    name: str
    blocking: list[Finding]
    expect: str = ""

    @property
    def is_found(self) -> bool:
        return any(fnmatchcase(f"{finding.source}:{finding.rule}", self.expect) for finding in self.blocking)


def load(name: str) -> list[dict[str, Any]]:
    text = (CASES / name).read_text()
    cases = yaml.safe_load(text)
    for case in cases:
        for path, content in case["change"].items():
            for placeholder, secret in SECRETS.items():
                case["change"][path] = case["change"][path].replace(placeholder, secret)
            assert content, path
    return cases


ALONE = ("dev-tools.toml", "pyproject.toml")
"""Cases that configure their repository; the others lie side by side in one, each in a folder of its own."""


def place(case: int, path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/c{case}-{name}" if folder == ".github/workflows" else f"c{case}/{path}"


def case_of(path: str) -> int:
    match = re.match(r"(?:\.github/workflows/)?c(\d+)[-/]", path)
    assert match, path
    return int(match[1])


async def blocking(folder: Path, base: dict[str, str], change: dict[str, str]) -> list[Finding]:
    folder.mkdir()  # noqa: ASYNC240 - a test's own folder
    bench = Bench(folder)
    await bench.start(base)
    write(bench.clone, change)
    data = await bench.data("analyze")
    assert {missing["what"] for missing in data["not_run"]} <= {"bandit"}  # which cannot read what does not parse
    found = [Finding.model_validate(finding) for finding in data["findings"]]
    return [finding for finding in found if finding.is_blocking]


async def review_all(name: str, tmp_path: Path) -> list[Case]:
    given = load(name)
    alone = {n for n, case in enumerate(given) if any(path in case["base"] for path in ALONE)}
    cases = [Case(case["name"], [], case.get("expect", "")) for case in given]
    for n in alone:
        cases[n].blocking = await blocking(tmp_path / str(n), given[n]["base"], given[n]["change"])
    together: dict[str, dict[str, str]] = {"base": {}, "change": {}}
    for n, case in enumerate(given):
        for part, files in together.items():
            files.update({place(n, path): text for path, text in case[part].items() if n not in alone})
    for finding in await blocking(tmp_path / "together", together["base"], together["change"]):
        cases[case_of(finding.path)].blocking.append(finding)
    return cases


async def test_nine_of_ten_seeded_defects_are_blocked_by_the_right_rule(tmp_path: Path) -> None:
    cases = await review_all("defects.yaml", tmp_path)
    missed = {case.name: [f"{f.source}:{f.rule}" for f in case.blocking] for case in cases if not case.is_found}
    assert len(cases) >= 40
    assert len(missed) <= len(cases) * 0.1, missed


async def test_fewer_than_one_of_ten_clean_changes_is_blocked(tmp_path: Path) -> None:
    cases = await review_all("clean.yaml", tmp_path)
    blocked = {case.name: [f"{f.source}:{f.rule} {f.message}" for f in case.blocking] for case in cases}
    blocked = {name: findings for name, findings in blocked.items() if findings}
    assert len(cases) >= 25
    assert len(blocked) < len(cases) * 0.1, blocked


async def test_a_finding_brings_its_evidence_and_what_to_do_but_never_a_secret(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start({"a.py": "x = 1\n"})
    token = SECRETS["@GITHUB_TOKEN@"]
    write(bench.clone, {"Dockerfile": "FROM python:latest\nUSER app\n", "a.py": f"x = 1\ntoken = '{token}'\n"})
    data = await bench.data("analyze")
    by_source = {finding["source"]: finding for finding in reversed(data["findings"])}
    assert by_source["hadolint"]["evidence"] == "FROM python:latest"
    assert "DL3007" in by_source["hadolint"]["suggestion"]
    assert by_source["secrets"]["evidence"] == ""
    assert "renew it" in by_source["secrets"]["suggestion"]
    assert token not in json.dumps(dict(data))


async def test_the_repository_decides_about_single_rules_but_not_about_secrets(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    toml = '[review]\nshow = ["hadolint:DL3007", "secrets:secret"]\nblock = ["ruff:F401"]\n'
    await bench.start({"dev-tools.toml": toml, "a.py": "x = 1\n"})
    token = SECRETS["@GITHUB_TOKEN@"]
    change = {"Dockerfile": "FROM python:latest\nUSER app\n", "a.py": "import os\n", "b.py": f"t = '{token}'\n"}
    write(bench.clone, change)
    # The task's own version of the file has no say.
    write(bench.clone, {"dev-tools.toml": '[review]\nshow = ["ruff:*"]\n'})
    data = await bench.data("analyze")
    assert {(f["source"], f["rule"]) for f in data["findings"] if f["is_blocking"]} >= {
        ("ruff", "F401"),
        ("secrets", "secret"),
    }
    assert not [f for f in data["findings"] if f["rule"] == "DL3007" and f["is_blocking"]]


async def test_who_wrote_the_pull_request_a_task_starts_from_does_not_choose_how_it_is_judged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start({"dev-tools.toml": '[review]\nblock = ["ruff:F401"]\n', "a.py": "x = 1\n"})
    write(bench.project, {"dev-tools.toml": '[review]\nshow = ["ruff:*"]\n[test]\ncommand = ["true"]\n'})
    run("commit", "-q", "-a", "-m", "A stranger's", cwd=bench.project)
    pull = run("rev-parse", "HEAD", cwd=bench.project).strip()
    run("reset", "-q", "--hard", "HEAD~1", cwd=bench.project)
    shutil.rmtree(bench.clone)
    await clone_for_task(await at_commit(await resolve_repository(bench.project), pull), bench.clone)
    write(bench.clone, {"a.py": "import os\n", "test_a.py": "def test_a(): assert False\n"})
    found = (await bench.data("analyze"))["findings"]
    assert [f["is_blocking"] for f in found if f["rule"] == "F401"] == [True]
    tests = await bench.data("run_tests")
    assert tests["exit_code"] != 0, "the repository's own command, not the pull request's"


async def test_an_analyzer_of_the_repository_may_print_sarif(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    result = {"ruleId": "R1", "level": "error", "message": {"text": "Wrong."}}
    place = {"artifactLocation": {"uri": "a.py"}, "region": {"startLine": 2}}
    report = json.dumps({"runs": [{"results": [{**result, "locations": [{"physicalLocation": place}]}]}]})
    toml = '[[review.analyzers]]\nname = "own"\ncommand = ["cat", "report.json"]\nreport = "sarif"\n'
    await bench.start({"dev-tools.toml": toml, "a.py": "x = 1\n", "report.json": report})
    write(bench.clone, {"a.py": "x = 1\ny = 2\n"})
    found = [f for f in (await bench.data("analyze"))["findings"] if f["source"] == "repository:own"]
    assert [(f["rule"], f["path"], f["line"], f["is_blocking"]) for f in found] == [("R1", "a.py", 2, True)]


async def test_an_analyzer_of_the_repository_that_cannot_start_has_not_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    toml = '[[review.analyzers]]\nname = "own"\ncommand = ["no-such-program"]\n'
    await bench.start({"dev-tools.toml": toml, "a.py": "x = 1\n"})
    write(bench.clone, {"a.py": "x = 2\n"})
    data = await bench.data("analyze")
    assert [missing["what"] for missing in data["not_run"]] == ["repository:own"]
    assert "repository:own" not in data["ran"]


async def test_a_comment_that_silences_an_analyzer_is_shown(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.start({"run.sh": "#!/bin/bash\n"})
    write(bench.clone, {"run.sh": '#!/bin/bash\n# shellcheck disable=SC2115\nrm -rf "$X/"*\n'})
    found = (await bench.data("analyze"))["findings"]
    assert ("silenced", 2) in {(f["source"], f["line"]) for f in found}


# -- dependencies ------------------------------------------------------------------------------------------------------


class Osv(BaseHTTPRequestHandler):
    """The query endpoint of the OSV API: one vulnerability for requests 2.19.0."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        flaw = {
            "id": "PYSEC-2018-28",
            "summary": "Credentials are sent on.",
            "affected": [
                {
                    "package": {"name": "requests", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.20.0"}]}],
                }
            ],
        }
        is_hit = asked["package"]["name"] == "requests" and asked["version"] == "2.19.0"
        body = json.dumps({"vulns": [flaw]} if is_hit else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002


async def review_pins(tmp_path: Path, audit: Audit) -> dict[str, Any]:
    bench = Bench(tmp_path)
    bench.tools = WorkspaceTools(bench.workspaces, limits=Limits(timeout_s=30, memory_mb=1024), audit=audit)
    await bench.start({"requirements.txt": "six==1.16.0\n"})
    write(bench.clone, {"requirements.txt": "six==1.16.0\nrequests==2.19.0\nidna==3.10\n"})
    return dict(await bench.data("analyze"))


async def test_a_vulnerable_dependency_blocks_with_the_version_that_mends_it(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        data = await review_pins(tmp_path, Audit(osv_url=f"http://127.0.0.1:{server.server_port}/v1/query"))
    finally:
        server.shutdown()
        server.server_close()
    assert "pip-audit" in data["ran"]
    (finding,) = [f for f in data["findings"] if f["source"] == "pip-audit"]
    assert (finding["rule"], finding["path"], finding["line"]) == ("PYSEC-2018-28", "requirements.txt", 2)
    assert finding["is_blocking"]
    assert "2.20.0" in finding["suggestion"]


@pytest.mark.parametrize("audit", [Audit(osv_url="http://127.0.0.1:9/v1/query"), Audit(is_on=False)])
async def test_an_audit_that_reaches_nobody_is_unknown_and_never_a_pass(tmp_path: Path, audit: Audit) -> None:
    data = await review_pins(tmp_path, audit)
    assert "pip-audit" not in data["ran"]
    (why,) = [missing["why"] for missing in data["not_run"] if missing["what"] == "pip-audit"]
    assert why.endswith("is unknown.")


# -- policy and SARIF --------------------------------------------------------------------------------------------------


def test_a_policy_that_is_wrong_is_refused_with_the_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("rules:\n  - {sources: [ruff], decide: explode}\n")
    with pytest.raises(BadInput, match=r"rules\.0\.decide"):
        load_policy(file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[review]\nblok = []\n", "review.blok"),
        ('[review]\nblock = ["everything"]\n', "review.block.0"),
        ('[[review.analyzers]]\nname = "x"\ncommand = []\n', "command"),
        ("[review\n", "not valid TOML"),
    ],
)
def test_a_wrong_review_section_is_named(text: str, reason: str) -> None:
    with pytest.raises(ToolFailed, match=reason):
        parse_review_config(text)


def test_an_unknown_finding_is_shown_not_dropped() -> None:
    raw = Raw("new-rule", "medium", "a.py", 1, "x")
    assert load_policy().decide("new-analyzer", raw, {"a.py": {1: "x"}}) == "show"


def test_a_review_is_told_as_sarif() -> None:
    finding = Finding(
        source="hadolint",
        rule="DL3007",
        severity="medium",
        path="Dockerfile",
        line=1,
        message="Latest.",
        is_blocking=True,
        evidence="FROM x:latest",
        suggestion="Pin it.",
    )
    review = TaskReview(verdict="request_changes", judged_by=("secrets", "hadolint"), findings=(finding,))
    sarif = to_sarif(review)
    assert [run["tool"]["driver"]["name"] for run in sarif["runs"]] == ["secrets", "hadolint"]
    assert sarif["runs"][0]["results"] == []
    (result,) = sarif["runs"][1]["results"]
    assert result["level"] == "warning"
    region = result["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "snippet": {"text": "FROM x:latest"}}
    assert result["message"]["text"] == "Latest. Pin it."
