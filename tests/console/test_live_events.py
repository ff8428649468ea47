"""The live timeline: rendered entries with the event's number, resumed where the browser left off."""

import asyncio

from console.memory import NOON
from devtools_platform.core.errors import Unavailable


def ids_of(stream: str) -> list[str]:
    return [line.removeprefix("id: ") for line in stream.splitlines() if line.startswith("id: ")]


async def start_with_three(tasks) -> None:
    tasks.add("t1")
    for number in (1, 2, 3):
        await tasks.happen("t1", "tool_call", {"tool": f"tool-{number}"})


async def test_events_arrive_until_the_task_ends(browser, tasks):
    await start_with_three(tasks)
    reading = asyncio.create_task(browser.get("/tasks/t1/events"))
    await tasks.wait_for_followers(1)
    await tasks.happen("t1", "finished", {"message": "All done"})
    await tasks.end("t1", status="completed", ended_at=NOON)
    answer = await asyncio.wait_for(reading, 5)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ids_of(answer.text) == ["1", "2", "3", "4"]
    assert "All done" in answer.text
    assert answer.text.rstrip().endswith("event: end\r\ndata:")


async def test_a_browser_that_comes_back_gets_only_what_it_missed(browser, tasks):
    await start_with_three(tasks)
    await tasks.end("t1", status="completed", ended_at=NOON)
    answer = await browser.get("/tasks/t1/events?after=1", headers={"Last-Event-ID": "2"})
    assert ids_of(answer.text) == ["3"]
    assert "tool-3" in answer.text
    assert "tool-2" not in answer.text


async def test_a_fresh_page_starts_after_the_events_it_shows(browser, tasks):
    await start_with_three(tasks)
    page = (await browser.get("/tasks/t1")).text
    assert 'data-after="3"' in page
    await tasks.end("t1", status="completed", ended_at=NOON)
    assert ids_of((await browser.get("/tasks/t1/events?after=3")).text) == []


async def test_a_last_event_id_that_is_no_number_is_refused(browser, tasks):
    await start_with_three(tasks)
    for header in ("x", "-1", ""):
        answer = await browser.get("/tasks/t1/events", headers={"Last-Event-ID": header})
        assert answer.status_code == 422


async def test_a_stream_that_breaks_off_does_not_claim_the_end(browser, tasks):
    await start_with_three(tasks)
    tasks.trouble = Unavailable("The state service went away.")
    answer = await browser.get("/tasks/t1/events")
    assert ids_of(answer.text) == ["1", "2", "3"]
    assert "event: end" not in answer.text
