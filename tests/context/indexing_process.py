"""A process that indexes a repository and says each step aloud, so that a test can kill it at any of them.

`python indexing_process.py DATA REPO`
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devtools_platform.context import indexer
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.service import ContextService


async def main(data: Path, repo: Path, die_at: int) -> None:
    engine = EdgeEngine(data / "engine")
    service = ContextService(engine, data / "manifests")
    step = 0

    def count(name: str) -> None:
        nonlocal step
        step += 1
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()

    def aloud(owner: Any, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        async def said(*arguments: Any, **more: Any) -> Any:
            count(f"before {name}")
            result = await call(*arguments, **more)
            count(f"after {name}")
            return result

        setattr(owner, name, said)

    for name in ("put", "delete", "flush", "_call"):
        aloud(engine, name)
    save = service.manifests.save

    def save_aloud(manifest: Any) -> None:
        count("before save")
        save(manifest)
        count("after save")

    service.manifests.save = save_aloud
    await service.index("shop", repo)
    await service.aclose()
    await engine.aclose()


if __name__ == "__main__":
    indexer.SAVE_SECONDS = 0.0
    indexer.BATCH_BYTES = 2_000
    indexer.FEW_FILES = 3
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
