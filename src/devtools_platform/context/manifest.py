"""What is indexed of a repository, as a file: written whole or not at all, so a crash leaves the last truth.

`files` says which blob answers for which path. `pending` names blobs that an unfinished run may have left in
the engine: the next run does them again or deletes them. Only the service reads and writes these files.
"""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from devtools_platform.context.chunking import FORMAT
from devtools_platform.context.types import Source
from devtools_platform.core.errors import BadInput

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}")


@dataclass(frozen=True)
class Manifest:
    """The state of one collection's index."""

    collection: str
    repo: Path
    commit: str | None = None
    files: dict[str, str] = field(default_factory=dict[str, str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])
    pending: list[str] = field(default_factory=list[str])
    chunks: int = 0
    """At the end of the last run; 0 while one is unfinished."""
    indexed_at: datetime | None = None
    follows: Source = "commit"
    is_watched: bool = False
    is_paused: bool = False
    """A person stopped its indexing and embedding."""
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Size and time of change of each file that was read from disk."""
    format: int = FORMAT

    @cached_property
    def paths(self) -> dict[str, list[str]]:
        """Every path of each blob, sorted."""
        return get_paths(self.files)


_JSON = TypeAdapter(Manifest)


def carry_paths(before: Manifest, after: Manifest, touched: Iterable[str]) -> None:
    """Give `after` its `paths` from those of `before`, where only the `touched` files differ."""
    paths = dict(before.paths)
    for path in touched:
        for blob in {before.files.get(path, ""), after.files.get(path, "")} - {""}:
            homes = set(paths.get(blob, [])) - {path}
            paths[blob] = sorted(homes | {path} if after.files.get(path) == blob else homes)
    after.__dict__["paths"] = {
        blob: homes for blob, homes in paths.items() if homes
    }  # where `cached_property` keeps it


def get_paths(files: dict[str, str]) -> dict[str, list[str]]:
    """`files` the other way round: every path of each blob, sorted."""
    paths: dict[str, list[str]] = {}
    for path, blob in sorted(files.items()):
        paths.setdefault(blob, []).append(path)
    return paths


class ManifestStore:
    """The manifests of one data directory, one JSON file each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._loaded: dict[str, Manifest] = {}

    def list_names(self) -> list[str]:
        return sorted(path.stem for path in self.directory.glob("*.json"))

    def load(self, collection: str) -> Manifest | None:
        """The manifest, or None when there is none that can be trusted: the index is then made anew."""
        if collection not in self._loaded and (manifest := _read(self._get_path(collection))):
            self._loaded[collection] = manifest
        return self._loaded.get(collection)

    def is_paused(self, collection: str) -> bool:
        manifest = self.load(collection)
        return manifest is not None and manifest.is_paused

    def save(self, manifest: Manifest) -> None:
        path = self._get_path(manifest.collection)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(_JSON.dump_json(manifest))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        self._loaded[manifest.collection] = manifest

    def remove(self, collection: str) -> None:
        self._get_path(collection).unlink(missing_ok=True)
        self._loaded.pop(collection, None)

    def distrust(self) -> list[str]:
        """Take all files away and go on answering from memory: after a kill, nothing is known to be indexed."""
        names = self.list_names()
        for name in names:
            self.load(name)
            self._get_path(name).unlink(missing_ok=True)
        return names

    def _get_path(self, collection: str) -> Path:
        if not _NAME.fullmatch(collection):
            raise BadInput(
                f"{collection!r} is not a collection's name: lower-case letters, digits, '.', '_' and '-'.",
                hint="GET /collections lists the names.",
            )
        return self.directory / f"{collection}.json"


def _read(path: Path) -> Manifest | None:
    try:
        manifest = _JSON.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s cannot be read; the index will be made anew: %s", path, error)
        return None
    if manifest.format != FORMAT:
        log.info("%s has format %s, not %s; the index will be made anew", path, manifest.format, FORMAT)
        return None
    return manifest
