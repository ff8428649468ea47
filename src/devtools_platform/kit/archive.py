"""Folders in one encrypted file, and back: a gzipped tar in the age format (age-encryption.org/v1).

Written for a public key, so the machine that makes backups every night cannot read those it made. `age` itself opens
such a file. Nothing of a broken, cut or foreign archive is used: it is unpacked aside and as a whole first. Encryption
for a public key says nothing of who wrote the archive: give only those you know.
"""

import errno
import gzip
import importlib
import io
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from devtools_platform.core.errors import BadInput, DiskFull, Forbidden

PUBLIC = "age1"
PRIVATE = "AGE-SECRET-KEY-1"
_COPY = 1 << 20


def make_key(file: Path) -> str:
    """A new private key in `file`, readable by its owner only. Returns the public key. Raises `BadInput`."""
    key = _age().x25519.Identity.generate()
    public = str(key.to_public())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BadInput(
            f"{str(file)!r} cannot be made: {error.strerror}.", hint="Give a file that is not there."
        ) from None
    with os.fdopen(descriptor, "w") as out:
        out.write(f"# public key: {public}\n{key}\n")
    return public


def pack(file: Path, folders: Mapping[str, Path], public_key: str) -> int:
    """Write each folder, under its name, to `file`: whole or not at all, readable by its owner only.

    What vanishes while it is read is left out. Returns the size in bytes. Raises `BadInput`, `DiskFull`.
    """
    pyrage = _age()
    recipient = _recipient(public_key)
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:

            def encrypt(source: BinaryIO) -> None:
                pyrage.encrypt_io(source, out, [recipient])

            _through_pipe(write=lambda sink: _write_tar(sink, folders), read=encrypt)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)
    except OSError as error:
        raise _as_ours(error, file) from error
    finally:
        partial.unlink(missing_ok=True)
    return file.stat().st_size


def unpack(file: Path, folder: Path, key_file: Path) -> None:
    """Everything in `file` into `folder`, which is empty. Raises `Forbidden` for another key, `BadInput` for a file
    that is broken or no archive of ours; what was unpacked until then is for the caller to throw away."""
    pyrage = _age()
    key = _private_key(key_file)
    try:
        with file.open("rb") as source:

            def decrypt(sink: BinaryIO) -> None:
                pyrage.decrypt_io(source, sink, [key])

            _through_pipe(write=decrypt, read=lambda tar: _read_tar(tar, folder))
    except pyrage.DecryptError as error:
        if "No matching keys" in str(error):
            raise Forbidden(
                f"{str(key_file)!r} does not open {str(file)!r}.", hint="Give --key the key it was made for."
            ) from None
        raise _broken(file, str(error)) from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise _broken(file, str(error)) from None
    except OSError as error:
        raise _as_ours(error, file) from error


def _through_pipe(*, write: Callable[[BinaryIO], None], read: Callable[[BinaryIO], None]) -> None:
    """Both at once, the one feeding the other. Raises what the writer raised, then what the reader raised."""
    ends = os.pipe()
    failures: list[BaseException] = []

    def feed() -> None:
        try:
            with os.fdopen(ends[1], "wb") as sink:
                write(sink)
        except BrokenPipeError:
            pass  # the reader had a reason to stop, and says it
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the caller's thread
            failures.append(error)

    writer = threading.Thread(target=feed)
    with os.fdopen(ends[0], "rb") as source:
        writer.start()
        try:
            read(source)
            while source.read(_COPY):  # tar stops at its end mark; the last bytes must be seen to be authentic
                pass
        except BaseException as error:  # noqa: BLE001 - as above
            failures.append(error)
    writer.join()
    if failures:
        # A broken source makes both fail; the reader's own reason is first only when the writer had none.
        raise min(failures, key=lambda error: isinstance(error, (tarfile.TarError, EOFError, gzip.BadGzipFile)))


def _write_tar(sink: BinaryIO, folders: Mapping[str, Path]) -> None:
    with (
        gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=3) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, folder in folders.items():
            for path in _walk(folder):
                _add(tar, path, str(PurePosixPath(name, path.relative_to(folder).as_posix())))


def _walk(folder: Path) -> Iterator[Path]:
    yield folder
    for root, names, files in os.walk(folder):
        names.sort()
        links = [name for name in names if os.path.islink(os.path.join(root, name))]  # noqa: PTH118, PTH114 - hot
        yield from (Path(root, name) for name in names)
        names[:] = [name for name in names if name not in links]
        yield from (Path(root, name) for name in sorted(files))


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file that grows or shrinks meanwhile is stored with the size it had."""
    try:
        if path.is_symlink() or path.is_dir():
            tar.addfile(tar.gettarinfo(path, name))
            return
        if not path.is_file():
            return  # a socket or a pipe of a running program
        with path.open("rb") as source:
            info = tar.gettarinfo(name=str(path), arcname=name, fileobj=source)
            info.type, info.linkname, info.size = tarfile.REGTYPE, "", os.fstat(source.fileno()).st_size
            content = source.read(info.size) if info.size <= _COPY else None
            if content is None:
                tar.addfile(info, _Padded(source, info.size))
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    except FileNotFoundError:
        return


class _Padded(io.RawIOBase):
    """Exactly `size` bytes of a file, zeros where it has become shorter."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        content = self._source.read(wanted).ljust(wanted, b"\0")
        self._left -= wanted
        return content


def _read_tar(source: BinaryIO, folder: Path) -> None:
    """By hand: `tarfile`'s own filter refuses links that a repository may well hold, and follows others."""
    with gzip.GzipFile(fileobj=source) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        for info in tar:
            target = _place(folder, info.name)
            if info.isdir():
                target.mkdir(exist_ok=True, mode=0o700)
            elif info.issym():
                target.symlink_to(info.linkname)
            elif info.isreg() and (content := tar.extractfile(info)) is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                with os.fdopen(os.open(target, flags, info.mode & 0o755 | 0o600), "wb") as out:
                    shutil.copyfileobj(content, out, _COPY)
                os.utime(target, (info.mtime, info.mtime))
            else:
                raise BadInput(f"The archive holds {info.name!r}, which is no file.", hint="It was not made by us.")


def _place(folder: Path, name: str) -> Path:
    """Where a member goes. Raises `BadInput` for one outside the folder, or behind a link."""
    parts = PurePosixPath(name).parts
    target = folder.joinpath(*parts)
    parents = [folder.joinpath(*parts[:n]) for n in range(1, len(parts))]
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or any(p.is_symlink() for p in parents):
        raise BadInput(f"The archive holds {name!r}, which leads out of it.", hint="It was not made by us.")
    return target


def _age() -> Any:
    """Its module has no types of its own."""
    return importlib.import_module("pyrage")


def _recipient(public_key: str) -> object:
    pyrage = _age()
    try:
        return pyrage.x25519.Recipient.from_str(public_key.strip())
    except pyrage.RecipientError as error:
        raise BadInput(
            f"The public key {public_key!r} is none: {error}.", hint="Make one with `dev-tools backup keygen FILE`."
        ) from None


def _private_key(file: Path) -> object:
    pyrage = _age()
    try:
        lines = file.read_text().splitlines()
        return pyrage.x25519.Identity.from_str(next(line.strip() for line in lines if line.startswith(PRIVATE)))
    except OSError as error:
        raise BadInput(
            f"The key {str(file)!r} cannot be read: {error.strerror}.", hint="Give --key its file."
        ) from None
    except (StopIteration, pyrage.IdentityError, UnicodeDecodeError):
        raise BadInput(
            f"{str(file)!r} holds no private key.", hint="Give the file that `dev-tools backup keygen` made."
        ) from None


def _broken(file: Path, words: str) -> BadInput:
    return BadInput(
        f"{str(file)!r} is no whole archive of ours, and nothing was changed: {words}.",
        hint="Give a file that `dev-tools backup create` has written to its end.",
    )


def _as_ours(error: OSError, file: Path) -> BadInput | DiskFull:
    if error.errno is None:  # of the decryption: what was read is not what was written
        return _broken(file, str(error))
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"No room left: {error}.", hint="Free some disk space, then try again.")
    return BadInput(f"{str(error.filename or file)!r} cannot be used: {error.strerror or error}.")
