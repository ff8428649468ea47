"""Repositories elsewhere, asked for news: real git, over file://."""

from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2
import pytest

from context.conftest import git
from devtools_platform.context import remotes
from devtools_platform.context.api import build_api
from devtools_platform.context.remotes import Remotes, name_remote
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import BadInput

TOKEN = "t" * 32
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


async def test_a_push_is_told_and_the_remote_is_asked_at_once(service: ContextService, tmp_path: Path, commit: Commit):
    far, url = tmp_path / "shop", f"file://{tmp_path}/shop"
    commit(far, {"a.py": "def open_door(): ...\n"})
    api = build_api(service, TOKEN, remotes=Remotes(service, tmp_path / "mirrors", [url], 60))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(api), base_url="http://t", headers=headers) as http:
        told = await http.post("/remotes/refresh", json={"urls": [f"{url}.git", "git@elsewhere:acme/shop.git"]})
        assert (told.status_code, told.json()) == (202, {"collections": [name_remote(url)]})
        assert (await service.status(name_remote(url))).commit == git(far, "rev-parse", "HEAD")
        other = await http.post("/remotes/refresh", json={"urls": ["https://example.invalid/shop"]})
        assert (other.status_code, other.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "said", ["https://git.example/Acme/shop.git", "git@git.example:acme/shop", "ssh://git@git.example/acme/shop.git/"]
)
def test_a_repository_is_known_in_each_form_of_its_url(service: ContextService, tmp_path: Path, said: str):
    followed = Remotes(service, tmp_path, ["https://user@git.example/acme/shop", "https://git.example/acme/other"], 60)
    assert followed.find([said]) == ["https://user@git.example/acme/shop"]
