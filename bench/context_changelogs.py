"""Histories that are not on the machine as repositories: those that GNU programs ship as their `ChangeLog`.

Each entry says what a commit said and names the files it changed. The newest give the questions; all before them become
commits of a repository whose last commit is the tree of the release. That tree is a little newer than it should be, for
everyone who is asked.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from context_questions import GIT
from devtools_platform.context import localisation
from devtools_platform.context.chunking import find_skipped_path
from devtools_platform.context.history import is_source

LEFT_OUT = re.compile(
    r"^(\..*|ChangeLog.*|NEWS|po|m4|build-aux|gnulib(-tests)?|gl|autom4te\.cache|configure|aclocal\.m4)$"
)
"""What says the same as the questions, or was made or copied in for a release."""
COPIED_IN = {"lib", "gllib", "gnulib-lib"}
"""Of these only what a commit names is the program's own."""
_DAY = re.compile(r"^\d{4}-\d\d-\d\d\s")


@dataclass
class Entry:
    subject: str = ""
    files: list[str] = field(default_factory=list[str])
    has_files: bool = False


def read_changelog(text: str) -> list[Entry]:
    """The newest first."""
    entries: list[Entry] = []
    entry: Entry | None = None
    is_after_gap = False
    for line in text.splitlines():
        said = line.strip()
        if not said or _DAY.match(line):
            entry = None if said else entry
            is_after_gap = True
            continue
        is_file = said.startswith("* ")
        if entry is None or (is_after_gap and not is_file and entry.has_files):
            entries.append(entry := Entry("" if is_file else said))
        if is_file:
            entry.has_files = True
            named = re.split(r"[:(\[]|\s<", said[2:], maxsplit=1)[0].split(",")
            entry.files += [name.strip() for name in named if name.strip()]
        is_after_gap = False
    return [entry for entry in entries if entry.subject]


def make_repository(source: Path, repo: Path, asked: int) -> list[localisation.Question]:
    """Fills `repo` with the past of the program in `source`; returns up to `asked` questions of what came next."""
    entries = read_changelog((source / "ChangeLog").read_text(errors="replace"))
    named = {name for entry in entries for name in entry.files}

    def leave_out(folder: str, names: list[str]) -> set[str]:
        at = Path(os.path.relpath(folder, source))
        copied = {name for name in names if at.parts[:1] and at.parts[0] in COPIED_IN and str(at / name) not in named}
        return {name for name in names if LEFT_OUT.match(name) or (name in copied and (Path(folder) / name).is_file())}

    shutil.copytree(source, repo, ignore=leave_out, symlinks=True)
    files = [str(file.relative_to(repo)) for file in repo.rglob("*") if file.is_file() and not file.is_symlink()]
    there = {path for path in files if is_source(path) and not find_skipped_path(path, (repo / path).stat().st_size)}
    few = [
        n for n, entry in enumerate(entries) if 1 <= len(there.intersection(entry.files)) <= localisation.MOST_FILES
    ][:asked]
    _commit_all(repo, entries[few[-1] + 1 :] if few else entries, there)
    return [localisation.Question(entries[n].subject, frozenset(there.intersection(entries[n].files))) for n in few]


def _commit_all(repo: Path, past: list[Entry], there: set[str]) -> None:
    def run(*arguments: str, **more: object) -> None:
        subprocess.run([*GIT, *arguments], cwd=repo, check=True, **more)  # type: ignore[call-overload]

    run("init", "-q", "-b", "main")
    stream: list[str] = []
    for number, entry in enumerate(reversed(past)):
        subject = entry.subject.encode()
        stream.append(f"commit refs/heads/main\ncommitter a <a@example.invalid> {number} +0000\ndata {len(subject)}")
        stream.append(entry.subject)
        changed = sorted(there.intersection(entry.files))
        stream += [f"M 100644 inline {path}\ndata {len(str(number))}\n{number}" for path in changed]
    run("fast-import", "--quiet", input="\n".join([*stream, ""]).encode())
    run("add", "-Af")
    run("commit", "-q", "-m", "release")
