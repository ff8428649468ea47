"""Where the cluster lives and which account it belongs to.

An ordinary user's lies in the data directory. PostgreSQL refuses to be root, so root's belongs to `nobody`;
when `nobody` cannot enter the data directory (a home of mode 0700), the cluster lies below
`/var/lib/dev-tools` instead. No existing folder's permissions are changed.
"""

import hashlib
import os
import pwd
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from devtools_platform.kit.process import ServiceUser, service_user
from devtools_platform.state.adapters.embedded_postgres.programs import can_reach

SERVICE_ROOT = Path("/var/lib/dev-tools")


@dataclass(frozen=True)
class Home:
    """One cluster's place. The password stays in the data directory whatever else has to move."""

    folder: Path
    password_file: Path
    user: ServiceUser | None
    """None: we are an ordinary user, and it is ours."""

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def log_file(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def is_outside_data_dir(self) -> bool:
        return self.folder != self.password_file.parent

    @property
    def why(self) -> str:
        """What about this place may surprise a person, as the rest of a sentence."""
        if self.user is None:
            return ""
        closed = " (who cannot enter the data directory)" if self.is_outside_data_dir else ""
        return f" as user {self.user.name!r}{closed}, because PostgreSQL refuses to run as root"


def find_home(data_dir: Path, service_root: Path) -> Home:
    """The home in use if there is one, so that a `chmod` never makes data seem lost; else the best place."""
    data_dir.mkdir(parents=True, exist_ok=True)
    inside = data_dir / "postgres"
    outside = service_root / hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    user = service_user()
    in_use = [folder for folder in (inside, outside) if user and (folder / "cluster").exists()]
    if in_use:
        folder = in_use[0]
        user = _owner(folder / "cluster")
    else:
        folder = inside if user is None or can_reach(user, data_dir) else outside
    return Home(folder, inside / "password", user)


def make_folders(home: Home) -> None:
    """The folders of ours around the cluster: closed to others, but for the service user's way through."""
    mode = 0o711 if home.user else 0o700
    ours = [home.folder.parent, home.folder] if home.is_outside_data_dir else [home.folder]
    for folder in ours:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(mode)  # whatever the umask
    home.password_file.parent.mkdir(exist_ok=True, mode=mode)


def ensure_password(home: Home) -> str:
    """The cluster's password: random, kept in a file of mode 0600 that belongs to whoever runs the stack."""
    file = home.password_file
    if not file.exists():
        unfinished = file.with_name("password.new")
        unfinished.unlink(missing_ok=True)
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:  # noqa: PTH123
            out.write(secrets.token_urlsafe(32))
            out.flush()
            os.fsync(out.fileno())
        unfinished.rename(file)
    return file.read_text()


def forget_cluster(data_dir: Path) -> None:
    """Remove a cluster that is down, wherever it lies."""
    shutil.rmtree(find_home(data_dir.resolve(), SERVICE_ROOT).folder, ignore_errors=True)


def _owner(path: Path) -> ServiceUser:
    """Root's stack on a cluster that an ordinary user made runs it as that user."""
    stat = path.stat()
    try:
        name = pwd.getpwuid(stat.st_uid).pw_name
    except KeyError:
        name = str(stat.st_uid)
    return ServiceUser(name, stat.st_uid, stat.st_gid)
