"""Child processes on either event loop: their words, their ends, and what is left of them."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from devtools_platform.kit.children import PIPE, Child, start_child

Loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["told by the kernel", "waited for in a thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the end is noticed: an engine's profile may forbid the first."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise PermissionError(1, "Operation not permitted")

    if request.param == "waited for in a thread":
        monkeypatch.setattr(os, "pidfd_open", refuse)


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", program)


@Loops
@pytest.mark.usefixtures("way")
def test_what_it_is_told_and_says_and_how_it_ends(run: Run) -> None:
    async def main() -> None:
        child = await start_child(
            *python("import sys; print(sys.stdin.read()[::-1]); print('x' * 200_000, file=sys.stderr); sys.exit(3)"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        assert child.returncode is None
        assert child.stdin
        child.stdin.write(b"abc")
        await child.stdin.drain()
        assert await child.communicate() == (b"cba\n", b"x" * 200_000 + b"\n")
        assert (child.returncode, await child.wait()) == (3, 3)
        child.kill()  # of one that has ended: nothing

    run(main())


@Loops
@pytest.mark.usefixtures("way")
def test_a_killed_one_tells_the_signal_though_somebody_holds_its_pipe(run: Run) -> None:
    """A process it left behind, in a session of its own, keeps its output open."""
    left = "import subprocess as s; print(s.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)"

    async def main() -> None:
        child = await start_child(*python(f"{left}; import time; time.sleep(60)"), stdout=PIPE, start_new_session=True)
        assert child.stdout
        grandchild = psutil.Process(int(await child.stdout.readline()))
        os.killpg(child.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL
        child.close()
        assert grandchild.is_running()
        grandchild.kill()

    run(main())


@Loops
def test_who_stops_waiting_leaves_it_to_the_others(run: Run) -> None:
    async def main() -> None:
        child = await start_child("sleep", "60")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child.wait(), 0.01)
        child.kill()
        assert await child.wait() == -signal.SIGKILL

    run(main())


@Loops
def test_a_hundred_leave_no_descriptor_and_no_process(run: Run) -> None:
    async def one() -> None:
        child = await start_child("true", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        await child.communicate()

    async def main() -> None:
        me = psutil.Process()
        await one()
        await asyncio.sleep(0)  # a pipe closes in the next turn of the loop
        before = me.num_fds(), len(me.children())
        for _ in range(10):
            await asyncio.gather(*(one() for _ in range(10)))
        await asyncio.sleep(0)
        assert (me.num_fds(), len(me.children())) == before

    run(main())


@Loops
def test_nobody_elses_descriptor_is_closed(run: Run) -> None:
    """A thread that opens and closes files meanwhile: a descriptor closed twice may be its by then."""
    taken: list[OSError] = []
    ended = threading.Event()

    def open_and_close() -> None:
        while not ended.is_set():
            opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
            for descriptor in opened:
                try:
                    os.close(descriptor)
                except OSError as error:
                    taken.append(error)

    async def main() -> None:
        for _ in range(30):
            children = [await start_child("true", stdin=PIPE, stdout=PIPE, stderr=PIPE) for _ in range(10)]
            for child in children:
                await child.communicate()

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        run(main())
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert taken == []


@Loops
def test_what_cannot_be_started_says_so(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            await start_child("no-such-program")
        with pytest.raises(FileNotFoundError):
            await start_child("true", cwd=tmp_path / "nowhere")

    run(main())


async def test_one_whose_start_is_cancelled_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []

    async def never(self: Child, *_: object) -> Child:
        started.append(self)
        await asyncio.Event().wait()
        return self

    monkeypatch.setattr(Child, "connect", never)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(start_child("sleep", "60"), 0.05)
    assert await started[0].wait() == -signal.SIGKILL
