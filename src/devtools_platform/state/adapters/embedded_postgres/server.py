"""Starting, finding again, watching and stopping the embedded PostgreSQL.

TCP on 127.0.0.1 with a password, and no Unix socket: when a server on a socket is killed, the driver reports
the refused connection in words that the workflow engine does not take for a passing failure, and its
workflows stay pending for ever. Over TCP they go on by themselves as soon as the server is back.
"""

import errno
import logging
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import psutil
import psycopg

from devtools_platform.core.errors import Conflict, DevToolsError, DiskFull, ProgramFailed
from devtools_platform.kit.process import Child, bound_log, free_port, start_child, wait_until
from devtools_platform.state.adapters.embedded_postgres.cluster import (
    STOP_TIMEOUT_S,
    USER,
    cluster_name,
    failure,
    forget_reused_pid,
    make_cluster,
    processes_of,
    read_note,
    refuse_other_version,
    set_aside,
    stop_processes,
)
from devtools_platform.state.adapters.embedded_postgres.home import (
    SERVICE_ROOT,
    Home,
    ensure_password,
    find_home,
    make_folders,
)
from devtools_platform.state.adapters.embedded_postgres.programs import (
    ENV,
    Programs,
    find_programs,
    reachable_programs,
)

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
DATABASE = "devtools"
_PLAIN = "sslmode=disable&gssencmode=disable"
"""On this machine nothing is encrypted; to look for Kerberos tickets takes time and 2 MB in every process."""
START_TIMEOUT_S = 180
"""Recovery after a crash replays at most `max_wal_size`, but on a slow disk that takes a while."""
PORT_ATTEMPTS = 5
WATCH_S = 0.5

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "64MB",
    "max_parallel_workers_per_gather": "0",  # small queries, small machines, and a container's small /dev/shm
    "jit": "off",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "logging_collector": "off",  # what it prints is our log file, and we bound it
}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Server:
    """A postmaster that answered."""

    home: Home
    pid: int
    port: int
    child: Child | None
    """None when an earlier process of ours started it."""

    @property
    def is_alive(self) -> bool:
        return self.child.is_alive if self.child else psutil.pid_exists(self.pid)


class EmbeddedPostgres:
    """PostgreSQL of one data directory. One at a time: the stack's own lock sees to that."""

    def __init__(self, data_dir: Path, *, service_root: Path = SERVICE_ROOT) -> None:
        self._data_dir = data_dir.resolve()
        self._service_root = service_root
        self._server: Server | None = None

    async def start(self, progress: Progress = log.info) -> str:
        """A `postgresql+psycopg://` URL of a server that answers. `progress` hears of what takes longer.

        Attaches to a server that outlived an earlier process of ours; recovers from a crash at any point.
        Call from a thread that lives as long as the server should (see `kit.process.start_child`).
        Raises `DiskFull`, `Conflict` (a cluster of another version or another user), `ProgramFailed`.
        """
        with _explained(self._data_dir):
            home = find_home(self._data_dir, self._service_root)
            make_folders(home)
            await self._set_aside_orphan(home, progress)
            password = ensure_password(home)
            self._server = await self._attach(home, password) or await self._launch(home, password, progress)
            try:
                await anyio.to_thread.run_sync(_ensure_database, self._server.port, password)
            except BaseException:
                await self.stop()
                raise
        return f"postgresql+psycopg://{USER}:{password}@{HOST}:{self._server.port}/{DATABASE}?{_PLAIN}"

    async def stop(self) -> None:
        """A fast, clean shutdown; by force after half a minute. Cancel `watch` first."""
        server, self._server = self._server, None
        if server is None:
            return
        if server.child:
            await server.child.stop(STOP_TIMEOUT_S, with_signal=signal.SIGINT)
        await stop_processes(server.home.cluster)

    async def watch(self) -> None:
        """Run until cancelled: start the server again on its port should it die, and bound its log."""
        while True:
            await anyio.sleep(WATCH_S)
            server = self._server
            if server and server.is_alive:
                bound_log(server.home.log_file)
            elif server:
                log.warning("PostgreSQL (process %d) died; starting it again.", server.pid)
                try:
                    await self._relaunch(server)
                except DevToolsError as error:
                    log.error("PostgreSQL does not start again, next try soon: %s", error)  # noqa: TRY400 - expected

    async def _relaunch(self, died: Server) -> None:
        if died.child:
            await died.child.stop()
        home = died.home
        await stop_processes(home.cluster)
        programs = reachable_programs(find_programs(), home.folder, home.user)
        self._server = await _serve(home, programs, home.password_file.read_text(), died.port)

    async def _set_aside_orphan(self, home: Home, progress: Progress) -> None:
        """The data directory was removed, the cluster elsewhere was not: its password is gone for good."""
        if home.cluster.exists() and not home.password_file.exists():
            await stop_processes(home.cluster)
            kept = set_aside(home.cluster)
            progress(f"The database of an earlier life of {str(self._data_dir)!r} is set aside in {str(kept)!r}.")

    async def _attach(self, home: Home, password: str) -> Server | None:
        """The server that is still there, if it is sound. What is not sound is ended."""
        if not home.cluster.exists():
            return None
        running = {process.pid for process in processes_of(home.cluster)}
        note = read_note(home.cluster)
        if note and note.port and note.pid in running and await _answers(home, note.port, password):
            return Server(home, note.pid, note.port, child=None)
        await stop_processes(home.cluster)
        forget_reused_pid(home.cluster)
        return None

    async def _launch(self, home: Home, password: str, progress: Progress) -> Server:
        programs = await anyio.to_thread.run_sync(reachable_programs, find_programs(), home.folder, home.user)
        if not home.cluster.exists():
            progress(f"Creating the database in {str(home.cluster)!r}{home.why} (once, some seconds).")
            await make_cluster(home, programs, password)
        refuse_other_version(home.cluster)
        for port in _ports(home):
            with suppress(_PortTaken):
                return await _serve(home, programs, password, port)
        raise ProgramFailed(f"PostgreSQL found every port it tried on {HOST} taken.")


class _PortTaken(ProgramFailed):
    """Somebody was faster."""


async def _serve(home: Home, programs: Programs, password: str, port: int) -> Server:
    """Start a postmaster and wait until it answers; end it if it does not."""
    settings = SETTINGS | {"port": str(port), "cluster_name": cluster_name(home.cluster)}
    argv = [str(programs.postgres), "-D", str(home.cluster)]
    argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    child = await start_child(
        argv, env=ENV, log_file=home.log_file, cwd=home.folder, user=home.user, death_signal=signal.SIGINT
    )

    async def is_up() -> bool:
        # The note first: whoever took the port before us may let a connection wait for ever.
        note = read_note(home.cluster)
        return bool(note and note.pid == child.pid and note.is_ready) and await _answers(home, port, password)

    try:
        await wait_until(is_up, child=child, timeout_s=START_TIMEOUT_S, what="PostgreSQL")
    except ProgramFailed as error:
        await child.stop()
        if "Address already in use" in child.last_words():
            raise _PortTaken(f"Port {port} of {HOST} is taken.") from error
        raise failure("PostgreSQL", child) from error
    except BaseException:
        await child.stop(STOP_TIMEOUT_S, with_signal=signal.SIGINT)
        raise
    _port_file(home).write_text(str(port))
    return Server(home, child.pid, port, child)


def _ports(home: Home) -> Iterator[int]:
    """The last one first: what people noted down stays true while it can."""
    with suppress(FileNotFoundError, ValueError):
        yield int(_port_file(home).read_text())
    for _ in range(PORT_ATTEMPTS):
        yield free_port(HOST)


def _port_file(home: Home) -> Path:
    return home.folder / "port"


async def _answers(home: Home, port: int, password: str) -> bool:
    """Whether our cluster (not just some server) takes our password on `port`."""

    def ask() -> bool:
        try:
            with _connect(port, password, "postgres") as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except psycopg.OperationalError:
            return False
        return row is not None and row[0] == str(home.cluster)

    return await anyio.to_thread.run_sync(ask)


def _ensure_database(port: int, password: str) -> None:
    with _connect(port, password, "postgres") as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}")  # pyright: ignore[reportArgumentType] - a constant


def _connect(port: int, password: str, database: str) -> psycopg.Connection:
    return psycopg.connect(
        host=HOST,
        port=port,
        user=USER,
        password=password,
        dbname=database,
        sslmode="disable",  # a PGSSLMODE meant for another server must not matter here
        gssencmode="disable",
        connect_timeout=5,
        autocommit=True,
    )


@contextmanager
def _explained(data_dir: Path) -> Generator[None]:
    """The operating system's refusals that a person can mend."""
    try:
        yield
    except PermissionError as error:
        raise Conflict(
            f"The database of {str(data_dir)!r} belongs to another user ({error}).",
            hint="Run as the user who made it, or choose another DEV_TOOLS_DATA_DIR.",
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(
                f"No room left in {str(data_dir)!r}.", hint="Free some disk space, then try again."
            ) from error
        raise
