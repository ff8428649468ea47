"""One timer for all that is held."""

import asyncio

from devtools_platform.kit.overdue import Overdue


async def test_only_what_is_still_held_is_told_of_and_only_once() -> None:
    overdue, told, is_late = Overdue(0.01), list[str](), asyncio.Event()
    overdue.hold("quick", lambda: told.append("quick"))
    overdue.hold("slow", lambda: (told.append("slow"), is_late.set()))
    overdue.release("quick")
    overdue.release("never held")
    async with asyncio.timeout(5):
        await is_late.wait()
        is_late.clear()
        overdue.hold("next", is_late.set)  # the timer has ended with what it was for: another begins
        await is_late.wait()
    assert told == ["slow"]


def test_what_was_held_in_a_loop_that_ended_is_forgotten() -> None:
    overdue, told = Overdue(0.01), list[str]()

    async def leave() -> None:
        overdue.hold("old", lambda: told.append("old"))

    async def begin_anew() -> None:
        is_late = asyncio.Event()
        overdue.hold("new", is_late.set)
        async with asyncio.timeout(5):
            await is_late.wait()

    asyncio.run(leave())
    asyncio.run(begin_anew())
    assert told == []
