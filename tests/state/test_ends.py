"""Waiting for a workflow's end outlives whatever the database does meanwhile."""

import asyncio
from typing import Any

from devtools_platform.core.errors import Away
from devtools_platform.state.adapters.dbos.engine import Ends


class Troubled:
    """Answers at last, after every kind of trouble."""

    def __init__(self) -> None:
        self.troubles: list[Exception] = [Away("the database restarts"), RuntimeError("something unforeseen")]

    async def find_ended(self, workflow_ids: list[str]) -> set[str]:
        if self.troubles:
            raise self.troubles.pop(0)
        return set(workflow_ids)


async def test_who_waits_is_woken_though_looking_failed_before() -> None:
    control: Any = Troubled()
    ends = Ends(control)
    async with asyncio.timeout(5):
        await asyncio.gather(ends.wait("a"), ends.wait("b"))
    assert control.troubles == []
