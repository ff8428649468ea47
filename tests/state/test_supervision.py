"""Who is alive, judged where the clock may step: by the database's time and this boot's, never by the time of day."""

import subprocess
import sys
from collections.abc import Sequence

import psutil
import pytest
from psutil import _pslinux
from sqlalchemy import Engine

from devtools_platform.kit.life import started_at
from devtools_platform.state.supervision import Supervisor, list_workers, new_worker_id


class Idle:
    """An executor that holds nothing."""

    queues = ("tasks",)

    async def recover(self, workers: Sequence[str]) -> int:
        return 0

    async def list_orphans(self) -> list[str]:
        return []


async def test_a_worker_of_this_host_is_not_dead_because_the_clock_was_set(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Supervisor(database, Idle(), new_worker_id())  # type: ignore[arg-type]
    await worker.start()
    try:
        before = psutil.Process().create_time()
        # What a step of the clock does to the boot as a time of day, from which psutil counts.
        boot = _pslinux.boot_time()
        monkeypatch.setattr(_pslinux, "boot_time", lambda: boot + 7200)
        assert psutil.Process().create_time() - before == pytest.approx(7200, abs=2)

        states = {one.id: one.status for one in await list_workers(database, {})}
    finally:
        await worker.stop()
    assert states[worker.worker_id] == "alive"


def test_a_process_is_known_by_its_start_whatever_its_name() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=-1)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        expected = psutil.Process(child.pid).create_time() - psutil.boot_time()
        assert started_at(child.pid) == pytest.approx(expected, abs=2)
        assert started_at(child.pid) == started_at(child.pid)
    finally:
        child.kill()
        child.communicate()
    with pytest.raises(FileNotFoundError):
        started_at(child.pid)
