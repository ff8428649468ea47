"""A cluster on disk and the processes that serve it: made whole or not at all, and recognised later."""

import hashlib
import os
import secrets
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import anyio
import psutil

from devtools_platform.core.errors import Conflict, DevToolsError, DiskFull, ProgramFailed
from devtools_platform.kit.process import POLL_S, Child, start_child
from devtools_platform.state.adapters.embedded_postgres.home import Home
from devtools_platform.state.adapters.embedded_postgres.programs import ENV, MAJOR, Programs

USER = "dev_tools"
"""Not `devtools`: PostgreSQL takes a schema named like the user for the default one."""
INITDB_TIMEOUT_S = 300
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class Note:
    """What a postmaster leaves in `postmaster.pid`, and leaves behind when it is killed."""

    pid: int
    port: int | None
    is_ready: bool


async def make_cluster(home: Home, programs: Programs, password: str) -> None:
    """Under a passing name, renamed when complete: a crash in between leaves nothing that looks like one."""
    unfinished = _begin(home, password)
    password_file = _password_file(unfinished)
    argv = [programs.initdb, "--pgdata", unfinished, "--username", USER, "--pwfile", password_file]
    argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
    child = await start_child(
        [str(word) for word in argv],
        env=ENV,
        log_file=home.folder / "initdb.log",
        cwd=home.folder,
        user=home.user,
        death_signal=signal.SIGKILL,
    )
    try:
        await child.wait(INITDB_TIMEOUT_S)
    finally:
        await child.stop()
        password_file.unlink()
    if child.exit_code != 0:
        shutil.rmtree(unfinished, ignore_errors=True)  # initdb empties a folder it was given, but leaves it
        raise failure("PostgreSQL's initdb", child)
    _complete(unfinished, home)


def failure(what: str, child: Child) -> DevToolsError:
    """Why a program of PostgreSQL's ended, in its own last words."""
    words = child.last_words()
    if "No space left on device" in words:
        return DiskFull(f"{what} found no room on the disk:\n{words}", hint="Free some disk space, then try again.")
    hint = ""
    if "could not look up effective user ID" in words:  # a container started with an arbitrary user id
        hint = "PostgreSQL needs a user with an entry in /etc/passwd: add one, or give DATABASE_URL."
    return ProgramFailed(f"{what} failed (code {child.exit_code}):\n{words}", hint=hint)


def refuse_other_version(cluster: Path) -> None:
    found = (cluster / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        raise Conflict(
            f"The database in {str(cluster)!r} was made by PostgreSQL {found}; this release runs {MAJOR}.",
            hint=f"Dump it with PostgreSQL {found}'s pg_dump, move it away, start again, restore the dump.",
        )


def read_note(cluster: Path) -> Note | None:
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if not lines or not lines[0].lstrip("-").isdigit():
        return None  # cut short by a crash; PostgreSQL itself clears it away
    port, status = (lines[number] if len(lines) > number else "" for number in (3, 7))
    return Note(abs(int(lines[0])), int(port) if port.isdigit() else None, status.strip() == "ready")


def cluster_name(cluster: Path) -> str:
    """A name only this cluster's processes carry on their command lines, among all that a machine's
    administrator can see: the inode keeps apart the same path in several containers."""
    stat = cluster.stat()
    return "dev-tools-" + hashlib.sha256(f"{cluster}:{stat.st_dev}:{stat.st_ino}".encode()).hexdigest()[:16]


def processes_of(cluster: Path) -> list[psutil.Process]:
    """The postmaster and its backends. By command line: a container's root may see no more of other users."""
    if not cluster.exists():
        return []
    name = cluster_name(cluster)
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if name in line and "postgres" in line.split()[0]:
            found.append(process)
    return found


async def stop_processes(cluster: Path) -> None:
    """End whatever serves the cluster: a fast shutdown if there is a postmaster to ask, else by force."""
    note = read_note(cluster)
    for process in processes_of(cluster):
        if note and process.pid == note.pid:
            _send(process, signal.SIGINT)
    if not await _wait_for_none(cluster, STOP_TIMEOUT_S if note else 1):
        for process in processes_of(cluster):
            _send(process, signal.SIGKILL)
        if not await _wait_for_none(cluster, STOP_TIMEOUT_S):
            pids = ", ".join(str(process.pid) for process in processes_of(cluster))
            raise ProgramFailed(f"PostgreSQL's processes {pids} cannot be ended.")


def forget_reused_pid(cluster: Path) -> None:
    """Of a stale note PostgreSQL asks only whether the number lives, and would not start for a stranger.

    To be called when `processes_of` is empty.
    """
    note = read_note(cluster)
    if note and psutil.pid_exists(note.pid):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def set_aside(cluster: Path) -> Path:
    aside = cluster.with_name(f"{cluster.name}.without-password-{secrets.token_hex(4)}")
    return cluster.rename(aside)


def _begin(home: Home, password: str) -> Path:
    for left in home.folder.glob("cluster.new-*"):
        left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)
    unfinished = home.folder / f"cluster.new-{secrets.token_hex(4)}"
    unfinished.mkdir(mode=0o700)
    password_file = _password_file(unfinished)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if home.user:
        os.chown(unfinished, home.user.uid, home.user.gid)
        os.chown(password_file, home.user.uid, home.user.gid)
    return unfinished


def _password_file(unfinished: Path) -> Path:
    return unfinished.with_name(unfinished.name + ".password")  # not inside: initdb wants an empty folder


def _complete(unfinished: Path, home: Home) -> None:
    unfinished.rename(home.cluster)
    folder = os.open(home.folder, os.O_RDONLY)
    os.fsync(folder)  # initdb flushed the files; this flushes their name
    os.close(folder)


async def _wait_for_none(cluster: Path, timeout_s: float) -> bool:
    with anyio.move_on_after(timeout_s):
        while processes_of(cluster):  # noqa: ASYNC110 - they are not all our children
            await anyio.sleep(POLL_S)
        return True
    return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
