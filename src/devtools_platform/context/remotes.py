"""Repositories on other machines, followed by asking them now and then: a shallow copy of each, indexed when it moves.

The copy is ours and bare: nothing of it is checked out and no program of the repository runs. What git needs to get
in (keys, credential helpers) it finds as the user who runs the stack would.
"""

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import Counter

from devtools_platform.config import read_variables
from devtools_platform.context.service import ContextService
from devtools_platform.core.errors import BadInput, DevToolsError, ProgramFailed
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.children import PIPE, start_child

log = logging.getLogger(__name__)

POLLS = Counter("devtools_context_remote_polls_total", "Remote repositories asked for news", ["outcome"])

FETCH_SECONDS = 300.0
_URL = re.compile(r"(https?|ssh|git|file)://[^\s]+|[\w.-]+@[\w.-]+:[^\s]+")
_BRANCH = "refs/heads/followed"
_PROTOCOLS = "https:http:ssh:git:file"


def name_remote(url: str) -> str:
    """The collection of a remote repository: readable, and one per URL."""
    readable = re.sub(r"[^a-z0-9]+", "-", url.rstrip("/").removesuffix(".git").rpartition("/")[2].lower()).strip("-")
    return f"{readable[:40] or 'repo'}-{hashlib.sha256(url.encode()).hexdigest()[:10]}"


class Remotes:
    """Use `run`."""

    def __init__(self, service: ContextService, folder: Path, urls: Sequence[str], poll_s: float) -> None:
        """Raises `BadInput` for what is no URL of a git repository."""
        for url in urls:
            if not _URL.fullmatch(url):
                raise BadInput(
                    f"{redact_text(url)!r} is not the URL of a git repository.",
                    hint="Give https://, ssh://, git://, file:// or user@host:path, parted by commas.",
                )
        self.service = service
        self.folder = folder
        self.urls = urls
        self.poll_s = poll_s

    async def run(self) -> None:
        """For ever, one repository after the other."""
        while self.urls:
            for url in self.urls:
                await self.poll(url)
            await asyncio.sleep(self.poll_s)

    def find(self, urls: Sequence[str]) -> list[str]:
        """Those of ours that are one of `urls`, however each is written: over SSH or HTTPS, with `.git` or without."""
        asked = {_plain(url) for url in urls}
        return [url for url in self.urls if _plain(url) in asked]

    async def poll(self, url: str) -> None:
        """Ask one repository; index it if it has moved. What fails stands in the collection's status."""
        collection = name_remote(url)
        mirror = self.folder / collection
        try:
            await _fetch(mirror, url)
            await self.service.index(collection, mirror)
            POLLS.labels("ok").inc()
        except DevToolsError as error:
            log.warning("%s: %s", redact_text(url), error)
            POLLS.labels("error").inc()
            self.service.note_failure(collection, mirror, str(error))


def _plain(url: str) -> str:
    """`host/owner/name` of a repository's URL."""
    place = url.partition("://")[2] or url.replace(":", "/", 1)
    return place.rpartition("@")[2].rstrip("/").removesuffix(".git").lower()


async def _fetch(mirror: Path, url: str) -> None:
    """The commit at the remote's HEAD, without its history."""
    if not (mirror / "HEAD").exists():
        await asyncio.to_thread(mirror.mkdir, parents=True, exist_ok=True)
        await _git(mirror, "init", "--quiet", "--bare", ".")
        await _git(mirror, "symbolic-ref", "HEAD", _BRANCH)
    await _git(mirror, "fetch", "--quiet", "--no-tags", "--depth=1", "--end-of-options", url, f"+HEAD:{_BRANCH}")


async def _git(mirror: Path, *arguments: str) -> None:
    settings = ("-c", "core.hooksPath=/dev/null", "-c", "fetch.fsckObjects=true", "-c", "gc.auto=0")
    asked = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": _PROTOCOLS, "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"}
    kept = read_variables(("PATH", "HOME", "SSH_AUTH_SOCK"))
    process = await start_child(
        *("git", "-C", str(mirror), *settings, *arguments),
        stderr=PIPE,
        env={**kept, **asked},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        raise ProgramFailed(f"git {arguments[0]} did not end within {FETCH_SECONDS:g} s.") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    if process.returncode:
        words = redact_text(said.decode(errors="replace").strip())[-500:]
        raise ProgramFailed(f"git {arguments[0]} failed: {words}", hint="See that the stack's user can clone it.")
