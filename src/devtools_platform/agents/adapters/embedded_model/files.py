"""Model files on disk: a half-fetched one that hashes as it grows, a finished one, a person's own one.

A hash of a gigabyte takes seconds, so what was proved is remembered beside the models, for as long as the
file's size and time stay the same.
"""

import hashlib
import json
import logging
import os
from importlib.resources import files
from pathlib import Path

from devtools_platform.agents.adapters.embedded_model.catalogue import CODER, EmbeddedModel
from devtools_platform.core.errors import BadInput

log = logging.getLogger(__name__)

BLOCK = 1 << 20
GGUF_MAGIC = b"GGUF"


class WrongBytesError(Exception):
    """What arrived is not the pinned file."""


class Partial:
    """The file while it is fetched. Any source may go on where another stopped: all give the same bytes."""

    def __init__(self, path: Path, model: EmbeddedModel) -> None:
        self.path = path
        self._model = model
        path.touch()
        self._file = path.open("r+b")
        self._hash = hashlib.sha256()
        self.cut(min(path.stat().st_size, model.size))

    @property
    def size(self) -> int:
        return self._file.tell()

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes, or what there is of them, and hash them anew."""
        self._hash = hashlib.sha256()
        self._file.seek(0)
        while (left := size - self._file.tell()) > 0 and (block := self._file.read(min(BLOCK, left))):
            self._hash.update(block)
        self._file.truncate()

    def write(self, block: bytes) -> None:
        """Raises `WrongBytesError` as soon as there are more bytes than the model has."""
        if self.size + len(block) > self._model.size:
            raise WrongBytesError(f"more than the expected {self._model.size} bytes")
        self._file.write(block)
        self._hash.update(block)

    def close(self) -> None:
        self._file.close()

    def check(self) -> None:
        """Raises `WrongBytesError` unless this is the pinned file to the last bit."""
        if self.size != self._model.size:
            raise WrongBytesError(f"{self.size} bytes instead of {self._model.size}")
        if (found := self._hash.hexdigest()) != self._model.sha256:
            raise WrongBytesError(f"SHA-256 {found} instead of {self._model.sha256}")


def model_dir(cache_dir: Path, model: EmbeddedModel) -> Path:
    return cache_dir / "models" / model.name


def find_cached(cache_dir: Path, model: EmbeddedModel = CODER) -> Path | None:
    """The proved file in the cache. A file that is not the pinned one is never given; the log says so."""
    path = model_dir(cache_dir, model) / model.file_name
    if not path.is_file():
        return None
    if path.stat().st_size == model.size and hash_file(path, cache_dir) == model.sha256:
        return path
    log.warning("%s is not %s (size or SHA-256 differ); it will not be used", path, model.title)
    return None


def finish(partial: Partial, cache_dir: Path, model: EmbeddedModel) -> Path:
    """Move a complete, checked file to its name, with the licence and the notice it must travel with."""
    partial.check()
    partial.close()
    folder = model_dir(cache_dir, model)
    licence = files("devtools_platform.agents.adapters").joinpath(f"data/LICENSE-{model.licence}.txt")
    (folder / "LICENSE").write_bytes(licence.read_bytes())
    (folder / "NOTICE").write_text(model.notice, encoding="utf-8")
    path = partial.path.replace(folder / model.file_name)
    _remember(path, cache_dir, model.sha256)
    return path


def check_model_file(path: Path, cache_dir: Path) -> str:
    """The SHA-256 of a person's own model file. Raises `BadInput` when it is not a GGUF model."""
    hint = "Give DEV_TOOLS_MODEL_FILE the path of a GGUF model file, or unset it to use the pinned model."
    if not path.is_file():
        raise BadInput(f"The model file {str(path)!r} does not exist or is not a file.", hint=hint)
    with path.open("rb") as file:
        magic = file.read(len(GGUF_MAGIC))
    if magic != GGUF_MAGIC:
        raise BadInput(
            f"The model file {str(path)!r} starts with {magic!r}; a GGUF model starts with {GGUF_MAGIC!r}.",
            hint=hint,
        )
    return hash_file(path, cache_dir)


def hash_file(path: Path, cache_dir: Path) -> str:
    """The file's SHA-256; computed once per size and time of the file."""
    note = _note_of(path, cache_dir)
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["stamp"] == _stamp(path):
            return str(known["sha256"])
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _remember(path, cache_dir, found)
    return found


def _remember(path: Path, cache_dir: Path, sha256: str) -> None:
    note = _note_of(path, cache_dir)
    note.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"path": str(path), "stamp": _stamp(path), "sha256": sha256})
    fresh = note.with_suffix(f".{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(note)


def _note_of(path: Path, cache_dir: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return cache_dir / "models" / "hashes" / f"{name}.json"


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
