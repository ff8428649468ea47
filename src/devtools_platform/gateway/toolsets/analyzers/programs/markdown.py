# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
"""Checks Markdown against the repository: links, anchors, code blocks that parse, examples that run, files it names.

Run as `python -I markdown.py FILE...` in the sandbox, with the repository as working directory; prints
{"remarks": [...], "unread": [...]}. Examples are executed only where they say what they print (`>>>`).
"""

import doctest
import io
import json
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from urllib.parse import unquote

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)[^\n]*\n(?P<body>.*?)^ *(?P=fence)",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"(?<!\!)\[[^\]\n]*\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)|!\[[^\]\n]*\]\((?P<image>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(?P<text>.+?)\s*#*$", re.MULTILINE)
NAMED = re.compile(r"`(?P<path>(?:[\w.-]+/)+[\w.-]+\.[A-Za-z]{1,5})(?::\d+)?`")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:|^//")

Found = tuple[int, str, str, str]
"""Offset, rule, how grave, what is wrong."""


def check(path: Path, text: str) -> Iterator[Found]:
    prose = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    for match in LINK.finditer(re.sub(r"`[^`\n]*`", lambda m: " " * len(m[0]), prose)):
        yield from check_link(path, prose, match.start(), unquote(match["target"] or match["image"]))
    for match in NAMED.finditer(prose):
        name = Path(match["path"])
        is_ours = name.parts[0] in {entry.name for entry in Path().iterdir()}
        if is_ours and not name.exists() and not (path.parent / name).exists():
            message = f"{name} is named here and is not in the repository."
            yield match.start(), "missing-path", "medium", message
    for match in FENCE.finditer(text):
        yield from check_block(match["language"].lower(), match["body"], match.start())


def check_link(path: Path, text: str, at: int, target: str) -> Iterator[Found]:
    if ELSEWHERE.match(target) or target.startswith("/"):
        return
    name, _, anchor = target.partition("#")
    linked = path.parent / name if name else path
    if not linked.exists():
        yield at, "broken-link", "high", f"The link leads to {target}, which is not there."
    elif (
        anchor
        and linked.suffix == ".md"
        and anchor.lower() not in anchors(text if linked == path else linked.read_text())
    ):
        yield at, "broken-anchor", "high", f"The link leads to {target}, but there is no such heading."


def anchors(text: str) -> set[str]:
    found: set[str] = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def check_block(language: str, body: str, at: int) -> Iterator[Found]:
    code = textwrap.dedent(body)
    if ">>> " in code and language in {"", "python", "pycon", "py"}:
        yield from run_examples(code, at)
        return
    try:
        PARSERS.get(language, str)(code)
    except Exception as error:  # noqa: BLE001 - every parser has errors of its own
        if "..." not in code and "…" not in code:  # something is left out: it is not meant to be whole
            yield at, "code-block", "high", f"This {language} block does not parse: {str(error)[:200]}"


def parse_python(code: str) -> None:
    compile(code, "<block>", "exec", dont_inherit=True)


def parse_shell(code: str) -> None:
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip())


def parse_yaml(code: str) -> None:
    import yaml

    list(yaml.compose_all(code))


PARSERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("python", "py"), parse_python),
    **dict.fromkeys(("sh", "bash", "shell"), parse_shell),
    **dict.fromkeys(("yaml", "yml"), parse_yaml),
    "json": json.loads,
    "toml": tomllib.loads,
}


def run_examples(code: str, at: int) -> Iterator[Found]:
    """The examples of one block, with the repository's own code importable."""
    test = doctest.DocTestParser().get_doctest(code, {}, "block", None, 0)
    said = io.StringIO()
    with redirect_stdout(io.StringIO()):
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.write)
    if result.failed:
        yield (
            at,
            "example",
            "high",
            f"{result.failed} of {result.attempted} examples do not give what they say: {said.getvalue()[-500:]}",
        )


def main(paths: list[str]) -> None:
    sys.path[:0] = [str(Path("src").absolute()), str(Path().absolute())]
    remarks: list[dict[str, Any]] = []
    unread: list[str] = []
    for path in paths:
        try:
            text = Path(path).read_text("utf-8")
            for at, rule, severity, message in check(Path(path), text):
                line = text.count("\n", 0, at) + 1
                span = next(
                    ([line, line + m[0].count("\n")] for m in FENCE.finditer(text) if m.start() == at), [line, line]
                )
                remarks.append(
                    {"rule": rule, "severity": severity, "path": path, "line": line, "span": span, "message": message}
                )
        except (UnicodeDecodeError, OSError, subprocess.TimeoutExpired) as error:
            unread.append(f"{path}: {error}")
    print(json.dumps({"remarks": remarks, "unread": unread}))


if __name__ == "__main__":
    main(sys.argv[1:])
