"""Work that comes round again outlives whatever one round does."""

import asyncio

import pytest

from devtools_platform.core.errors import BadInput
from devtools_platform.kit.recurring import keep_doing


def test_a_round_that_fails_is_told_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    rounds: list[Exception | None] = [BadInput("No host.", hint="Name one."), ZeroDivisionError("by mistake"), None]

    async def work() -> None:
        if error := rounds.pop(0):
            raise error
        done.set()

    async def main() -> None:
        keeping = asyncio.create_task(keep_doing("counting", work, 0.01))
        async with asyncio.timeout(5):
            await done.wait()
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    done = asyncio.Event()
    asyncio.run(main())
    expected, mistake = caplog.records
    assert expected.getMessage() == "counting did not work this time: No host. Name one."
    assert expected.exc_info is None, "what is expected needs no traceback"
    assert mistake.getMessage() == "counting broke; it is tried again in 0.01 s"
    assert mistake.exc_info is not None
