"""Repositories elsewhere, asked for news: real git, over file://."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from context.conftest import git
from devtools_platform.context import remotes
from devtools_platform.context.remotes import Remotes, name_remote
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import BadInput

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]


async def test_a_remote_is_indexed_and_followed_when_it_moves(service: ContextService, tmp_path: Path, commit: Commit):
    far, url = tmp_path / "shop", f"file://{tmp_path}/shop"
    commit(far, {"a.py": "def open_door(): ...\n"})
    followed = Remotes(service, tmp_path / "mirrors", [url], 60)
    await followed.poll(url)
    name = name_remote(url)
    assert name.startswith("shop-")
    assert (await service.status(name)).commit == git(far, "rev-parse", "HEAD")

    commit(far, {"a.py": None, "b.py": "def shut_door(): ...\n"})
    await followed.poll(url)
    assert [hit.path for hit in await service.search(name, "door")] == ["b.py"]

    git(far, "checkout", "-q", "--orphan", "rewritten")
    commit(far, {"b.py": None, "c.py": "def paint_door(): ...\n"})
    await followed.poll(url)
    assert [hit.path for hit in await service.search(name, "door")] == ["c.py"], "a history that was rewritten, too"
    assert not (tmp_path / "mirrors" / name / "c.py").exists(), "nothing is checked out"


async def test_what_cannot_be_fetched_stands_in_the_status_and_the_old_index_answers(
    service: ContextService, tmp_path: Path, commit: Commit
):
    far, url = tmp_path / "shop", f"file://{tmp_path}/shop"
    commit(far, {"a.py": "def open_door(): ...\n"})
    followed = Remotes(service, tmp_path / "mirrors", [url], 60)
    await followed.poll(url)
    far.rename(tmp_path / "away")
    await followed.poll(url)
    status = await service.status(name_remote(url))
    assert "git fetch failed" in str(status.error)
    assert [hit.path for hit in await service.search(name_remote(url), "door")] == ["a.py"]
    (tmp_path / "away").rename(far)
    await followed.poll(url)
    assert (await service.status(name_remote(url))).error is None


async def test_a_remote_that_says_nothing_is_given_up(
    service: ContextService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remotes, "FETCH_SECONDS", 0.0)
    url = f"file://{tmp_path}/shop"
    await Remotes(service, tmp_path / "mirrors", [url], 60).poll(url)
    assert "did not end within" in str((await service.status(name_remote(url))).error)


@pytest.mark.parametrize("url", ["ext::sh -c date", "--upload-pack=date", "/etc", "fd::7", "ftp://x/y", "https://"])
def test_what_is_no_url_of_a_repository_is_refused(service: ContextService, tmp_path: Path, url: str):
    with pytest.raises(BadInput, match="is not the URL"):
        Remotes(service, tmp_path, [url], 60)
