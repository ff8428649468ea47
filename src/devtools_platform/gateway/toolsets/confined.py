"""Files below one folder, opened step by step so that no link, however planted, leads out of it.

Every component is opened relative to the one before with O_NOFOLLOW: a link swapped in between two looks changes
nothing, because there is only one look.
"""

import contextlib
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from devtools_platform.core.errors import ToolFailed

MAX_BYTES = 1_000_000
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def split(path: str) -> list[str]:
    """The components of a relative path. Raises `ToolFailed` for one that could mean anything else."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if not parts or path.startswith("/") or "\0" in path or ".." in parts:
        raise ToolFailed(
            f"{path!r} is not a path inside the repository; give one relative to its top, like 'src/a.py'."
        )
    if ".git" in (part.lower() for part in parts):
        raise ToolFailed(f"{path!r} lies in git's own folder, which is not yours to read or change.")
    return parts


def read_text(root: Path, path: str) -> str:
    """The text of a file. Raises `ToolFailed` for what is missing, binary, too large or no plain file."""
    with _parent(root, path) as (folder, name):
        descriptor = _open(folder, name, os.O_RDONLY | _FILE, path)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise ToolFailed(f"{path!r} is not a plain file.")
            if info.st_size > MAX_BYTES:
                raise ToolFailed(f"{path!r} has {info.st_size} bytes; at most {MAX_BYTES} are read.")
            data = _read_all(descriptor)
        finally:
            os.close(descriptor)
    if b"\0" in data:
        raise ToolFailed(f"{path!r} is a binary file.")
    return data.decode("utf-8", "replace")


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.read(descriptor, MAX_BYTES):
        parts.append(part)
    return b"".join(parts)


def write_text(root: Path, path: str, text: str) -> None:
    """Write a whole file, folders included; it is the old text or the new, never half of one."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > MAX_BYTES:
        raise ToolFailed(f"The text has {len(data)} bytes; at most {MAX_BYTES} are written to one file.")
    with _parent(root, path, make=True) as (folder, name):
        mode = _mode_to_keep(folder, name, path)
        partial = f".{name[:100]}.dev-tools-partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FILE, mode, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)


def delete(root: Path, path: str) -> None:
    """Delete a file. Raises `ToolFailed` when there is none."""
    with _parent(root, path) as (folder, name):
        try:
            os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise ToolFailed(f"{path!r} cannot be deleted: {error.strerror}.") from None


def _mode_to_keep(folder: int, name: str, path: str) -> int:
    """The old file's permissions. Raises `ToolFailed` where something other than a file stands there."""
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return 0o644
    if not stat.S_ISREG(info.st_mode):
        raise ToolFailed(f"{path!r} is not a plain file; it is left as it is.")
    return stat.S_IMODE(info.st_mode)


@contextmanager
def _parent(root: Path, path: str, *, make: bool = False) -> Generator[tuple[int, str]]:
    """An open descriptor of the folder that holds `path`, and the last component."""
    *folders, name = split(path)
    with contextlib.ExitStack() as opened:
        here = os.open(root, _DIR)
        opened.callback(os.close, here)
        for folder in folders:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o755, dir_fd=here)
            here = _open(here, folder, _DIR, path)
            opened.callback(os.close, here)
        yield here, name


def _open(folder: int, name: str, flags: int, path: str) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise ToolFailed(f"There is no file {path!r}.") from None
    except OSError as error:
        # A symbolic link shows as ELOOP for a file and as ENOTDIR for a folder.
        raise ToolFailed(f"{path!r} cannot be opened: {error.strerror}; links are not followed.") from None
