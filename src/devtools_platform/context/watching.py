"""Watching a working tree: which files changed, told as soon as the system tells it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from watchfiles import Change, awatch  # pyright: ignore[reportUnknownVariableType] - in its `stop_event`

from devtools_platform.context.manifest import Manifest
from devtools_platform.context.worktree import IGNORE_FILES
from devtools_platform.core.errors import DevToolsError

log = logging.getLogger(__name__)

STEP_MS = 5
"""Changes are collected until none came for so long."""
DEBOUNCE_MS = 50
"""And at most for so long."""
TICK_MS = 250
"""How soon a watch that sees nothing is known to be in place."""
MANY = 200
"""More changed files than this are found faster by looking at all."""


@dataclass
class Watcher:
    """Calls `changed` with the paths, from `root` on, that were made, saved, moved or removed."""

    root: Path
    changed: Callable[[Collection[str]], Awaitable[None]]
    ready: asyncio.Event

    async def run(self) -> None:
        """Until cancelled."""
        watching = awatch(
            self.root,
            watch_filter=self._is_of_interest,
            step=STEP_MS,
            debounce=DEBOUNCE_MS,
            yield_on_timeout=True,
            rust_timeout=TICK_MS,
        )
        async for changes in watching:
            self.ready.set()
            if paths := {str(Path(path).relative_to(self.root)) for _, path in changes}:
                await self._tell(paths)

    async def _tell(self, paths: Collection[str]) -> None:
        try:
            await self.changed(paths)
        except DevToolsError as error:
            log.warning("Changes in %s are not searchable yet: %s", self.root, error)
        except Exception:
            log.exception("Changes in %s were not followed", self.root)

    def _is_of_interest(self, _: Change, path: str) -> bool:
        inside = PurePosixPath(path).parts[len(self.root.parts) :]
        return bool(inside) and inside[0] != ".git"


def needs_full_scan(manifest: Manifest, paths: Collection[str]) -> bool:
    """Whether a look at these paths alone would miss something: an ignore file, a folder, too many."""
    if len(paths) > MANY or any(PurePosixPath(path).name in IGNORE_FILES for path in paths):
        return True
    return any(_is_folder(manifest, path) for path in paths)


def _is_folder(manifest: Manifest, path: str) -> bool:
    if path in manifest.files:
        return False
    return (manifest.repo / path).is_dir() or any(known.startswith(f"{path}/") for known in manifest.files)
