"""The threat model names the test that shows each line: it is there, and the table of secrets is compose's own."""

import re

import pytest
import yaml

from docs.blocks import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
}
UNSHOWN = {"all but Caddy and monitoring → PostgreSQL": "PostgreSQL's own password check"}
"""Rows of the tables that no test of ours shows, and why."""


def read_rows(column: str) -> list[list[str]]:
    """The cells of every table whose last column is called so."""
    tables = re.findall(r"^\|[^\n]*\| " + column + r" \|\n\|[-|]+\|\n((?:\|[^\n]*\n)+)", TEXT, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for table in tables for line in table.splitlines()]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", TEXT))))
def test_a_test_that_is_named_exists(name: str) -> None:
    assert name in TESTS


def test_every_line_of_the_threat_model_names_a_test() -> None:
    rows = read_rows("test")
    assert len(rows) > 25
    assert [row[0] for row in rows if not re.search(r"`test_\w+`", row[-1])] == list(UNSHOWN)


def test_files_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:tests|deploy|docs)/[\w./-]+)`", TEXT))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_who_has_which_secret_is_what_compose_gives() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    given: dict[str, set[str]] = {}
    for name, service in services.items():
        for secret in service.get("secrets", []):
            given.setdefault(secret, set()).add(name)
    told = {row[0].strip("`"): set(row[1].split(", ")) for row in read_rows("what it opens")}
    assert told == given, "say in docs/security.md who has which secret"
