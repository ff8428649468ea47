"""Files of a workspace, opened so that no path and no race leads out of it.

The workspace belongs to programs that models wrote: any folder in it may be, or may this moment become, a
symbolic link. Every step of a path is opened relative to the folder before it and never through a link.
`.git` is out of bounds. Everything that can go wrong here is `ToolFailed`, said to the agent that asked.
"""

import errno
import os
import secrets
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from devtools_platform.core.errors import ToolFailed

MAX_FILE_BYTES = 1_000_000
MAX_PATH_CHARS = 1_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: opening a named pipe would wait for its other end.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Missing(ToolFailed):
    """Nothing is there."""


def split_path(path: str) -> tuple[str, ...]:
    """The steps of a path relative to the workspace; refuses whatever is not plainly inside it."""
    if not path or "\0" in path or len(path) > MAX_PATH_CHARS or path.startswith("/"):
        raise ToolFailed(f"{path!r} is not a path relative to the workspace, such as 'src/app.py'.")
    steps = tuple(step for step in path.split("/") if step not in ("", "."))
    if not steps or ".." in steps:
        raise ToolFailed(f"{path!r} leads out of the workspace; give a path below it, such as 'src/app.py'.")
    if any(step.lower() == ".git" for step in steps):
        raise ToolFailed(f"{path!r} is inside git's own folder, which no tool reads or changes.")
    return steps


def check_arguments(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths that are handed to a program, in normal form; none of them can be taken for an option."""
    if options := [path for path in paths if path.startswith("-")]:
        raise ToolFailed(f"{options[0]!r} is an option, not a path.")
    return tuple("/".join(split_path(path)) for path in paths)


def read_text(workspace: Path, path: str) -> str:
    """The file's text, line ends as they are."""
    return _decode(path, read_bytes(workspace, path))


def read_bytes(workspace: Path, path: str) -> bytes:
    """The file's content, at most `MAX_FILE_BYTES` of it."""
    with _parent(workspace, path) as (folder, name):
        fd = _opened(path, name, _FILE, folder)
    try:
        _check_regular(path, os.fstat(fd))
        with os.fdopen(fd, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)
    if len(content) > MAX_FILE_BYTES:
        raise ToolFailed(f"{path!r} is larger than {MAX_FILE_BYTES} bytes; use search_text or run_command on it.")
    return content


def write_text(workspace: Path, path: str, text: str) -> bool:
    """Make the file hold `text`, all of it or nothing; True when the file is new. Makes missing folders."""
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise ToolFailed(f"The content for {path!r} is not valid text: it holds half a character.") from None
    if len(content) > MAX_FILE_BYTES:
        raise ToolFailed(f"The content for {path!r} is larger than {MAX_FILE_BYTES} bytes; write smaller files.")
    with _parent(workspace, path, make=True) as (folder, name):
        mode = _mode_of(path, name, folder)
        _replace(name, content, mode if mode is not None else 0o644, folder)
    return mode is None


def exists(workspace: Path, path: str) -> bool:
    """Whether anything is there; a symbolic link is, wherever it leads."""
    try:
        with _parent(workspace, path) as (folder, name):
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (_Missing, FileNotFoundError):
        return False
    return True


def move(workspace: Path, path: str, to: str) -> None:
    """Give a file another name, where nothing has it yet. Makes missing folders; permissions stay."""
    if exists(workspace, to):
        raise ToolFailed(f"{to!r} exists.")
    with _parent(workspace, path) as (folder, name), _parent(workspace, to, make=True) as (new_folder, new_name):
        try:
            _check_regular(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
            os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=new_folder)
        except OSError as error:
            raise _explained(path, error) from None


def delete(workspace: Path, path: str) -> None:
    """Remove a file, or a symbolic link itself."""
    with _parent(workspace, path) as (folder, name):
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                _check_regular(path, status)
            os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise _explained(path, error) from None


@contextmanager
def _parent(workspace: Path, path: str, *, make: bool = False) -> Generator[tuple[int, str]]:
    """An open folder, reached step by step without following a link, and the last step's name."""
    *folders, name = split_path(path)
    fd = os.open(workspace, _FOLDER)
    try:
        for step in folders:
            if make:
                _make_folder(path, step, fd)
            inner = _opened(path, step, _FOLDER, fd)
            os.close(fd)
            fd = inner
        yield fd, name
    finally:
        os.close(fd)


def _make_folder(path: str, step: str, folder: int) -> None:
    try:
        with suppress(FileExistsError):
            os.mkdir(step, dir_fd=folder)
    except OSError as error:
        raise _explained(path, error) from None


def _opened(path: str, name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise _explained(path, error) from None


def _mode_of(path: str, name: str, folder: int) -> int | None:
    """The permissions to keep; None when there is no such file yet."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _explained(path, error) from None
    _check_regular(path, status)
    return stat.S_IMODE(status.st_mode)


def _replace(name: str, content: bytes, mode: int, folder: int) -> None:
    """Write beside and move over: nobody sees half a file, and a link is replaced, never written through."""
    draft = f".dev-tools-{secrets.token_hex(8)}"
    fd = os.open(draft, _NEW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, mode)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
        raise


def _check_regular(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ToolFailed(f"{path!r} is a folder; list_files shows what is in it.")
    if stat.S_ISLNK(status.st_mode):
        raise _is_link(path)
    if not stat.S_ISREG(status.st_mode):
        raise ToolFailed(f"{path!r} is not a regular file.")


def _decode(path: str, content: bytes) -> str:
    if b"\0" in content:
        raise ToolFailed(f"{path!r} is a binary file.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ToolFailed(f"{path!r} is not UTF-8 text; run_command can look at it with other tools.") from None


def _explained(path: str, error: OSError) -> ToolFailed:
    if error.errno == errno.ENOENT:
        return _Missing(f"{path!r} does not exist; list_files shows what does.")
    if error.errno == errno.ELOOP:
        return _is_link(path)
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return ToolFailed(f"{path!r} goes through something that is not a folder, or a symbolic link.")
    return ToolFailed(f"{path!r} cannot be used: {error.strerror}.")


def _is_link(path: str) -> ToolFailed:
    return ToolFailed(f"{path!r} is a symbolic link; links are not followed. Name the file it points to.")
