"""Indexing and searching whole repositories on the real engine."""

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pytest

from context.conftest import git
from devtools_platform.context.adapters.edge import EdgeEngine
from devtools_platform.context.chunking import FORMAT
from devtools_platform.context.names import name_collection
from devtools_platform.context.service import ContextService
from devtools_platform.context.types import IndexStatus
from devtools_platform.core.errors import BadInput, NotARepository, NotFound, ProgramFailed, TooLarge, Unavailable

Commit = Callable[[Path, Mapping[str, str | bytes | None]], str]

SHOP = {
    "shop/cart.py": "class Cart:\n    def total_price(self):\n        return sum(self.prices)\n",
    "shop/mail.py": 'def send_receipt(order):\n    """Mail a customer the receipt."""\n    smtp(order)\n',
    "README.md": "# Shop\n\nSells things.\n\n## Deployment\n\nRun the container on the droplet.\n",
}


class Counted:
    """Progress as a run tells it: how many files it handled."""

    def __init__(self) -> None:
        self.done = -1
        self.total = -1

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return tmp_path / "shop"


async def find(service: ContextService, query: str, **options: Any) -> list[str]:
    hits = await service.search("shop", query, **options)
    return [f"{hit.path} {hit.name}".strip() for hit in hits]


async def test_a_question_finds_the_right_function(service: ContextService, repo: Path, commit: Commit):
    head = commit(repo, SHOP)
    status = await service.index("shop", repo)
    assert (status.commit, status.files, status.chunks, status.is_indexing) == (head, 3, 5, False)
    best = (await service.search("shop", "mail the receipts to customers"))[0]
    assert (best.path, best.name, best.start_line, best.end_line) == ("shop/mail.py", "send_receipt", 1, 3)
    assert best.commit == head
    assert "text" in best.why
    assert (await find(service, "Cart.total_price"))[0] == "shop/cart.py Cart.total_price"
    assert (await find(service, "how do we deploy"))[0] == "README.md Shop.Deployment"


async def test_a_search_can_be_held_to_a_path(service: ContextService, repo: Path, commit: Commit):
    commit(repo, {f"{part}/api.py": f"def handle_{part}(request): ...\n" for part in ("a", "b", "c/d")} | SHOP)
    await service.index("shop", repo)
    assert await find(service, "handle request", path_glob="b/api.py") == ["b/api.py handle_b"]
    assert await find(service, "handle request", path_glob="c/") == ["c/d/api.py handle_c"]
    assert len(await find(service, "handle request", path_glob="**/*.py")) == 3
    assert await find(service, "handle request", path_glob="nowhere/*") == []


async def test_indexing_again_reads_only_what_changed(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP)
    await service.index("shop", repo)
    head = commit(repo, {"shop/mail.py": "def post_letter(order): ...\n"})
    counted = Counted()
    status = await service.index("shop", repo, counted)
    assert (counted.done, counted.total, status.commit) == (1, 1, head)
    assert await find(service, "post letter") == ["shop/mail.py post_letter"]
    assert await find(service, "receipt") == []
    await service.index("shop", repo, counted)
    assert counted.total == 0


async def test_an_index_of_another_format_is_made_anew(
    service: ContextService, engine: EdgeEngine, repo: Path, commit: Commit
):
    commit(repo, {"kept.py": "def kept(): ...\n", "gone.py": "def gone(): ...\n"})
    await service.index("shop", repo)
    file = service.manifests.directory / "shop.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": FORMAT - 1}))
    commit(repo, {"gone.py": None})
    upgraded, progress = ContextService(engine, service.manifests.directory), Counted()
    await upgraded.index("shop", repo, progress)
    assert progress.done == 1, "what was stored before was trusted"
    assert (await find(upgraded, "kept gone"), await engine.count()) == (["kept.py kept"], 1)
    await upgraded.aclose()


async def test_deleted_files_disappear(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP)
    await service.index("shop", repo)
    commit(repo, {"shop/mail.py": None})
    status = await service.index("shop", repo)
    assert (status.files, status.chunks) == (2, 4)
    assert await find(service, "send receipt") == []


async def test_a_renamed_file_answers_under_its_new_path_only(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP)
    await service.index("shop", repo)
    commit(repo, {"shop/mail.py": None, "post/office.py": SHOP["shop/mail.py"]})
    status = await service.index("shop", repo)
    assert await find(service, "send receipt") == ["post/office.py send_receipt"]
    assert status.chunks == 5


async def test_a_rename_stopped_half_way_and_taken_back_leaves_the_old_path(
    service: ContextService, repo: Path, commit: Commit
):
    def stop(done: int, _: int) -> None:
        if done:
            raise Unavailable("stopped by the test")

    commit(repo, SHOP)
    await service.index("shop", repo)
    commit(repo, {"shop/mail.py": None, "post/office.py": SHOP["shop/mail.py"]})
    with pytest.raises(Unavailable):
        await service.index("shop", repo, stop)
    commit(repo, {"shop/mail.py": SHOP["shop/mail.py"], "post/office.py": None})
    await service.index("shop", repo)
    assert await find(service, "post office") == []
    assert await find(service, "send receipt") == ["shop/mail.py send_receipt"]


async def test_copies_are_indexed_once(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP | {"shop/zcopy.py": SHOP["shop/mail.py"]})
    counted = Counted()
    status = await service.index("shop", repo, counted)
    assert (status.files, status.chunks, counted.total) == (4, 5, 3)
    assert await find(service, "send receipt", path_glob="shop/zcopy.py") == ["shop/zcopy.py send_receipt"]


async def test_a_branch_switch_and_back_keeps_the_index_true(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP)
    first = await service.index("shop", repo)
    commit(repo, {"shop/mail.py": "x = 1\n", "new.py": "def fresh(): ...\n"})
    await service.index("shop", repo)
    commit(repo, {"shop/mail.py": SHOP["shop/mail.py"], "new.py": None})
    status = await service.index("shop", repo)
    assert (status.files, status.chunks) == (first.files, first.chunks)


async def test_secrets_and_ignored_files_are_not_indexed(service: ContextService, repo: Path, commit: Commit):
    token = "ghp_" + "a1B2" * 9
    commit(
        repo,
        {
            ".gitignore": "ignored.py\n",
            "ignored.py": "def wanted_marker(): ...\n",
            "node_modules/x/index.js": "function wantedMarker() {}\n",
            "deploy.py": f'def deploy():\n    wanted_marker = "{token}"\n',
            "key.txt": "wanted marker\n-----BEGIN PRIVATE KEY-----\nMIIEwantedmarker\n",
            ".env": "WANTED_MARKER=1\n",
            "fine.py": "def wanted_marker(): ...\n",
        },
    )
    status = await service.index("shop", repo)
    assert await find(service, "wanted marker") == ["fine.py wanted_marker"]
    assert list(status.skipped.items()) == [
        (".env", "its name says it holds credentials"),
        ("deploy.py", "not the parts that hold what looks like a secret (line 2)"),
        ("key.txt", "holds a private key"),
        ("node_modules/", "node_modules holds other people's or generated code"),
    ]


async def test_uncommitted_edits_and_links_are_not_indexed(
    service: ContextService, repo: Path, commit: Commit, tmp_path: Path
):
    (tmp_path / "outside.py").write_text("def outside_secret(): ...\n")
    commit(repo, SHOP)
    (repo / "link.py").symlink_to(tmp_path / "outside.py")
    commit(repo, {})
    (repo / "shop/mail.py").write_text("def outside_secret(): ...\n")
    await service.index("shop", repo)
    assert await find(service, "outside secret") == []


def make_zip_bomb() -> bytes:
    """100 MB in 100 kB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.py", b"\0" * 100_000_000)
    return packed.getvalue()


async def test_a_tree_that_stands_for_billions_of_files_is_refused_in_time(
    service: ContextService, repo: Path, commit: Commit, monkeypatch: pytest.MonkeyPatch
):
    """A "git bomb": ten levels of ten times the same folder are ten objects and ten thousand million files."""
    monkeypatch.setattr("devtools_platform.context.git.MAX_TREE_BYTES", 2_000_000)
    commit(repo, {"a.py": "x = 1\n"})
    bomb = make_git_bomb(repo)
    started = time.monotonic()
    with pytest.raises(TooLarge, match=f"The tree of {bomb[:12]}"):
        await service.index("shop", repo)
    assert time.monotonic() - started < 10
    assert "more than 2000000 bytes" in str((await service.status("shop")).error)


def make_git_bomb(repo: Path) -> str:
    blob = git(repo, "rev-parse", "HEAD:a.py")
    below = f"100644 blob {blob}"
    for level in range(10):
        names = "".join(f"{below}\t{'d' if level else 'f'}{number}\n" for number in range(10))
        made = subprocess.run(["git", "mktree"], cwd=repo, input=names, check=True, capture_output=True, text=True)
        below = f"040000 tree {made.stdout.strip()}"
    bomb = git(repo, "commit-tree", below.split()[2], "-m", "bomb")
    git(repo, "update-ref", "HEAD", bomb)
    return bomb


async def test_hostile_files_neither_stop_nor_slow_indexing(service: ContextService, repo: Path, commit: Commit):
    hostile: dict[str, str | bytes] = {
        "huge_line.js": "x" * 990_000,
        "nested.py": "(" * 4000 + "\n" + ("[" * 4000 + "\n") * 200,
        "slow.ts": ("a<b<" * 1000 + "\n") * 240,
        "bytes.py": b"\xff\xfe\xfadef f(): pass\n" * 1000,
        "urls.txt": ("a" * 380 + "\n") * 500,
        "secrets.txt": "x://a:b@c\n" * 90_000,
        "nul.bin": b"\0" * 900_000,
        "too_big.txt": "word\n" * 300_000,
        "bomb.zip": make_zip_bomb(),
        "bomb.txt": b"\0" * 60_000_000,
        "odd\tna\nme\udcff.py".encode(errors="surrogateescape").decode(errors="surrogateescape"): "def odd(): ...\n",
    }
    commit(repo, {**SHOP, **hostile})
    started = time.monotonic()
    status = await service.index("shop", repo)
    assert time.monotonic() - started < 15
    assert (await find(service, "mail a receipt"))[0] == "shop/mail.py send_receipt"
    reasons = status.skipped
    assert reasons["huge_line.js"].startswith("minified or generated")
    assert (reasons["nul.bin"], reasons["bomb.zip"]) == ("binary", "binary")
    assert reasons["bomb.txt"] == "larger than 1000000 bytes", "60 MB that git keeps in 60 kB"
    assert reasons["too_big.txt"] == "larger than 1000000 bytes"
    assert len(await service.search("shop", "odd", path_glob="odd*")) == 1


async def test_a_hostile_repository_cannot_run_programs(
    service: ContextService, repo: Path, commit: Commit, tmp_path: Path
):
    proof = tmp_path / "proof"
    commit(repo, SHOP)
    evil = tmp_path / "evil.sh"
    evil.write_text(f"#!/bin/sh\ntouch {proof}\n")
    evil.chmod(0o755)
    with (repo / ".git/config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = {evil}\n\tpager = {evil}\n[diff "x"]\n\ttextconv = {evil}\n')
        config.write(f'[filter "x"]\n\tsmudge = {evil}\n\tclean = {evil}\n[core]\n\tsshCommand = {evil}\n')
        config.write("[extensions]\n\tpartialClone = origin\n")
        config.write(f'[remote "origin"]\n\turl = ssh://host/x\n\tpromisor = true\n\tuploadpack = {evil}\n')
    (repo / ".git/info/attributes").write_text("* filter=x diff=x\n")
    await service.index("shop", repo)
    blob = service.manifests.load("shop").files["shop/mail.py"]  # type: ignore[union-attr]
    (repo / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(ProgramFailed, match=r"git has no object"):
        await service.outline("shop", "shop/mail.py")
    assert not proof.exists()


async def test_the_outline_of_a_file_is_that_of_the_indexed_commit(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP)
    await service.index("shop", repo)
    (repo / "shop/cart.py").write_text("")
    found = await service.outline("shop", "shop/cart.py")
    assert [(s.kind, s.qualified, s.start_line, s.end_line) for s in found] == [
        ("class", "Cart", 1, 3),
        ("method", "Cart.total_price", 2, 3),
    ]
    with pytest.raises(NotFound, match=r"No indexed file 'shop/none\.py'"):
        await service.outline("shop", "shop/none.py")


async def test_what_cannot_be_indexed_or_asked_is_said_so(
    service: ContextService, repo: Path, commit: Commit, tmp_path: Path
):
    with pytest.raises(NotARepository, match="not a folder"):
        await service.index("shop", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotARepository, match="not a git repository"):
        await service.index("shop", tmp_path / "empty")
    assert (await service.status("shop")).error
    commit(repo, SHOP)
    with pytest.raises(NotARepository):
        await service.index("shop", repo / "shop")
    with pytest.raises(BadInput, match=r"not a collection's name"):
        await service.index("../shop", repo)
    with pytest.raises(NotFound, match="'shop' is not indexed"):
        await service.search("shop", "x")
    await service.index("shop", repo)
    for query in ("  ", "x" * 2001):
        with pytest.raises(BadInput, match="1 to 2000 characters"):
            await service.search("shop", query)


async def test_a_forgotten_collection_is_gone(service: ContextService, repo: Path, commit: Commit):
    commit(repo, SHOP)
    await service.index("shop", repo)
    await service.index("other", repo)
    await service.forget("shop")
    assert await service.collections() == ["other"]
    assert await service.engine.count("shop") == 0
    assert await service.engine.count("other") == 5


async def test_an_index_survives_a_restart(
    service: ContextService, engine: EdgeEngine, repo: Path, commit: Commit, tmp_path: Path
):
    commit(repo, SHOP)
    await service.index("shop", repo)
    await engine.aclose()
    reopened = EdgeEngine(tmp_path / "data" / "engine")
    later = ContextService(reopened, tmp_path / "data" / "manifests")
    assert (await find(later, "send receipt"))[0] == "shop/mail.py send_receipt"
    counted = Counted()
    await later.index("shop", repo, counted)
    assert counted.total == 0
    await reopened.aclose()


async def test_an_index_whose_engine_lost_its_data_is_made_anew(
    service: ContextService, engine: EdgeEngine, repo: Path, commit: Commit, tmp_path: Path
):
    commit(repo, SHOP)
    await service.index("shop", repo)
    await engine.aclose()
    shutil.rmtree(tmp_path / "data" / "engine")
    fresh = EdgeEngine(tmp_path / "data" / "engine")
    later = ContextService(fresh, tmp_path / "data" / "manifests")
    assert (await later.index("shop", repo)).chunks == 5
    await fresh.aclose()


async def test_names_of_collections_are_stable_and_tell_repositories_apart(tmp_path: Path):
    names = {name_collection(tmp_path / "My Shop"), name_collection(tmp_path / "x/../My Shop")}
    assert len(names) == 1
    assert names.pop().startswith("my-shop-")
    assert name_collection(tmp_path / "a/shop") != name_collection(tmp_path / "b/shop")


class TestOnJinja2:
    """A real package: 25 files, 14,000 lines."""

    @pytest.fixture
    def repo(self, tmp_path: Path, commit: Commit) -> Path:
        repo = tmp_path / "jinja"
        source = Path(jinja2.__file__).parent
        shutil.copytree(source, repo / "jinja2", ignore=shutil.ignore_patterns("__pycache__"))
        commit(repo, {})
        return repo

    async def test_questions_in_the_words_of_the_code_find_their_function(self, service: ContextService, repo: Path):
        await service.index("shop", repo)
        expected = {
            "get_template": "Environment.get_template",
            "load templates from a directory on the file system": "FileSystemLoader",
            "xml attribute string from a dict": "do_xmlattr",
            "convert a value to titlecase words": "do_title",
            "sandbox check if attribute is safe": "SandboxedEnvironment.is_safe_attribute",
            "bytecode cache on memcached": "MemcachedBytecodeCache",
        }
        for query, name in expected.items():
            best = [h.name for h in await service.search("shop", query, limit=5)]
            assert any(found.startswith(name) for found in best), (query, best)

    async def test_answers_keep_to_their_budget(self, service: ContextService, repo: Path):
        await service.index("shop", repo)
        hits = await service.search("shop", "compile a template to python source", limit=20, token_budget=500)
        assert 0 < sum(len(hit.text) for hit in hits) <= 500 * 4

    async def test_an_engine_killed_while_indexing_leaves_no_duplicates(
        self, service: ContextService, engine: EdgeEngine, repo: Path
    ):
        expected = (await service.index("whole", repo)).chunks

        def kill_once(done: int, _: int) -> None:
            if done and not killed:
                killed.append(engine.pid or 0)
                os.kill(killed[0], signal.SIGKILL)

        killed: list[int] = []
        status = await service.index("shop", repo, kill_once)
        assert killed
        assert engine.pid not in killed
        assert status.chunks == expected

    async def test_a_run_stopped_half_way_is_completed_by_the_next(
        self, service: ContextService, repo: Path, commit: Commit
    ):
        expected = (await service.index("whole", repo)).chunks

        def stop(done: int, _: int) -> None:
            if done:
                raise Unavailable("stopped by the test")

        with pytest.raises(Unavailable, match="stopped"):
            await service.index("shop", repo, stop)
        assert 0 < await service.engine.count("shop") < expected
        assert await find(service, "get_template") == []  # what no manifest vouches for is not answered
        assert (await service.status("shop")).error == "stopped by the test"
        files = sorted((repo / "jinja2").glob("*.py"))
        commit(repo, {f"jinja2/{path.name}": None for path in files[:12]})  # among them files already stored
        status = await service.index("shop", repo)
        assert status.chunks == (await service.index("whole", repo)).chunks
        assert (status.chunks < expected, status.error) == (True, None)

    async def test_a_paused_run_stops_within_a_batch_and_goes_on_where_it_was(
        self, service: ContextService, engine: EdgeEngine, tmp_path: Path, repo: Path
    ):
        expected = (await service.index("whole", repo)).chunks
        pausing: list[asyncio.Task[IndexStatus]] = []

        def pause_once(done: int, _: int) -> None:
            if done and not pausing:
                pausing.append(asyncio.create_task(service.pause("shop")))

        await service.index("shop", repo, pause_once)
        status = await pausing[0]
        assert (status.is_paused, status.is_indexing, status.error) == (True, False, None)
        assert 0 < status.chunks < expected
        assert (await service.index("shop", repo)).chunks == status.chunks, "asked again, it stays paused"

        again = ContextService(engine, tmp_path / "data" / "manifests")
        await again.resume_all()
        assert (await again.start_index("shop", repo)).is_paused, "over a restart, too"
        await again.aclose()

        await service.resume("shop")
        await service.index("shop", repo)
        status = await service.status("shop")
        assert (status.is_paused, status.chunks) == (False, expected)

    async def test_searching_goes_on_while_indexing(self, service: ContextService, repo: Path):
        await service.index("shop", repo)
        work = asyncio.create_task(service.index("other", repo))
        answered = 0
        while not work.done():
            assert await find(service, "get_template")
            answered += 1
        await work
        assert answered > 3
