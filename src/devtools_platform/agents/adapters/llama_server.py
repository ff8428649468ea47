"""The embedded model as an OpenAI-compatible endpoint in a process of its own.

The process listens on loopback with a key only this object knows, and dies with its parent. What it serves is
proved by `embedded_model`; how a small model is driven is `schema_tools`' business.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from devtools_platform.core.errors import NoModel, ProgramFailed
from devtools_platform.core.redact import redact_text

CHILD = Path(__file__).with_name("llama_child.py")
READY = b"ready "
LOAD_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 5.0
LAST_WORDS_BYTES = 2000
LOG_VERBOSITY = 3

OnWait = Callable[[float], None]
"""Called about once a second while the model loads, with the seconds so far."""


def free_threads() -> int:
    """Threads for the model: all the processors this process may use but one, which the others need."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LlamaServer:
    """One model, one slot. `base_url` and `api_key` are valid between `start` and `stop`."""

    def __init__(self, model_file: Path, *, log_file: Path, context: int = 8192, threads: int | None = None) -> None:
        self.model_file = model_file
        self.log_file = log_file
        self.context = context
        self.threads = threads or free_threads()
        self.api_key = secrets.token_urlsafe(24)
        self._address: str | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        """Where an OpenAI client points to."""
        if self._address is None:
            raise NoModel("The embedded model is not running.", hint="Run `dev-tools up`.")
        return f"{self._address}/v1"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.is_running and self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, on_wait: OnWait = lambda _: None) -> None:
        """Wait until it answers. Raises `NoModel` without the runtime, `ProgramFailed` if that dies."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise NoModel(
                "The runtime of the embedded model (xllamacpp) is not installed.",
                hint="Run `pip install 'devtools-platform[local]'`, or set DEV_TOOLS_MODEL_BASE_URL.",
            )
        self._process = await self._spawn()
        try:
            self._address = await self._wait_until_ready(self._process, on_wait)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        self._address = None
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        options = {
            "parent": os.getpid(),
            "model_file": str(self.model_file),
            "context": self.context,
            "threads": self.threads,
            "api_key": self.api_key,
            "verbosity": LOG_VERBOSITY,
        }
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # its folder is ours, and not a place to import from
                str(CHILD),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdin  # noqa: S101 - it is a pipe
        with contextlib.suppress(ConnectionError):  # a child that is dead already tells why below
            if not process.stdin.is_closing():
                process.stdin.write(json.dumps(options).encode() + b"\n")
                await process.stdin.drain()
        process.stdin.close()
        return process

    async def _wait_until_ready(self, process: asyncio.subprocess.Process, on_wait: OnWait) -> str:
        started = time.monotonic()
        ready = asyncio.create_task(_read_address(process))
        while not (await asyncio.wait({ready}, timeout=1))[0]:
            waited = time.monotonic() - started
            on_wait(waited)
            if waited > LOAD_TIMEOUT_S:
                ready.cancel()
                raise ProgramFailed(f"The embedded model did not load within {LOAD_TIMEOUT_S:.0f} s.")
        if address := ready.result():
            return address
        exit_code = await process.wait()
        raise ProgramFailed(
            f"The embedded model's process ended with {exit_code} while loading {str(self.model_file)!r}. "
            f"Its last words: {self._last_words()}",
            hint=f"The whole log is {self.log_file}. `dev-tools model pull` fetches the pinned model anew.",
        )

    def _last_words(self) -> str:
        return redact_text(self.log_file.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip())


async def _read_address(process: asyncio.subprocess.Process) -> str | None:
    """The address the child says it listens on; None when it closed its output instead."""
    assert process.stdout  # noqa: S101 - it is a pipe
    async for line in process.stdout:
        if line.startswith(READY):
            return line.removeprefix(READY).decode().strip()
    return None
