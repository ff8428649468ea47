"""A stack's data directory, whole and by services apart."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools_platform.app.home import Home
from devtools_platform.core.errors import AlreadyRunning


def test_secrets_lie_in_the_data_directory_or_where_services_apart_share_them(tmp_path: Path) -> None:
    whole = Home(tmp_path / "whole")
    whole.prepare()
    whole.keep_secret("managed-agents.json", "{}")
    assert (tmp_path / "whole/managed-agents.json").stat().st_mode & 0o777 == 0o600

    shared = tmp_path / "volume"
    shared.mkdir()
    homes: list[Home] = []
    for name in ("agents", "worker"):
        homes.append(Home(tmp_path / name))
        homes[-1].prepare()
        (tmp_path / name / "kept").symlink_to(shared)
    homes[0].keep_secret("managed-agents.json", "{}")
    assert homes[1].find_secret("managed-agents.json") == "{}"
    assert homes[0].secret("token") == homes[1].secret("token")


def test_many_who_look_whether_a_stack_is_running_do_not_take_each_other_for_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    home.lock().close()
    with (tmp_path / "stack.lock").open() as another_look:
        fcntl.flock(another_look, fcntl.LOCK_SH)
        assert not home.is_locked()
    stack = home.lock()
    assert home.is_locked()
    with pytest.raises(AlreadyRunning):
        home.lock()
    stack.close()


def test_a_stack_starts_while_others_look_whether_it_does(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    home.lock().close()
    with ThreadPoolExecutor(4) as pool:
        looks = pool.map(lambda _: home.is_locked(), range(4_000))
        for _ in range(20):
            home.lock().close()
        list(looks)
