"""The measure of search on a repository's own history, for commands: in an engine of its own, no stack needed."""

import tempfile
from pathlib import Path

from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.interfaces import Progress
from devtools_platform.context.localisation import Localisation, measure


async def run_bench(repo: Path, back: int, indexed: Progress, asked: Progress) -> Localisation:
    """Raises `NotARepository`, and `BadInput` for a history that is too short to ask about."""
    with tempfile.TemporaryDirectory() as folder:
        engine = EdgeEngine(Path(folder) / "engine")
        try:
            return await measure(engine, Path(folder) / "manifests", repo, back, indexed, asked)
        finally:
            await engine.aclose()
