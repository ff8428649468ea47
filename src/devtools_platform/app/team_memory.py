"""What tasks leave behind becomes searchable: a loop beside the services of a stack."""

import asyncio
import logging

from devtools_platform.context.adapters.sql.task_memory import TaskMemory
from devtools_platform.context.library import Library
from devtools_platform.core.errors import Unavailable

log = logging.getLogger(__name__)

POLL_S = 2.0


async def keep_learning(memory: TaskMemory, library: Library, poll_s: float = POLL_S) -> None:
    """For ever. What was made into documents and not yet indexed when a process died, the next start indexes."""
    owed: set[str] = set()
    while True:
        try:
            owed |= await memory.collect()
            for collection in sorted(owed):
                await library.refresh(collection)
                owed.remove(collection)
        except Unavailable as error:
            log.warning("What tasks leave behind waits to be learnt: %s", error)
        except Exception:
            log.exception("What tasks leave behind could not be learnt")
        await asyncio.sleep(poll_s)
