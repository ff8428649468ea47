"""A host's session over the system's `ssh`: its configuration, agent and known hosts are the user's own.

One connection for a whole rollout. A beat every second tells the host that we live; when it stops hearing them it
frees its lock by itself.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from devtools_platform.core.errors import Conflict, DevToolsError, Forbidden, NotFound, ProgramFailed, Unavailable
from devtools_platform.deploy.host.session import own_hash
from devtools_platform.deploy.interfaces import Progress
from devtools_platform.deploy.types import Host

BEAT_S = 1.0
CONNECT_S = 15
"""For the host's first line, after what its system does at a login."""
REACH_S = 8
"""For a first answer: three attempts of TCP's are made in it."""
MAX_LINE = 16_000_000
CALL_S = 1200.0

_ERRORS: Mapping[str, type[DevToolsError]] = {
    "locked": Conflict,
    "stale_plan": Conflict,
    "interrupted": Conflict,
    "not_recorded": Conflict,
    "not_found": NotFound,
    **dict.fromkeys(
        ("unsigned", "wrong_signature", "tampered", "replayed", "wrong_repository", "wrong_application", "volumes"),
        Forbidden,
    ),
}


def ssh_argv(host: Host, prefix: Sequence[str] = ()) -> list[str]:
    """How `ssh` is called: never asks, never trusts an unknown host, notices a dead connection."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={REACH_S}", "ServerAliveInterval=2"]
    options += ["ServerAliveCountMax=2", "ForwardAgent=no", "ClearAllForwardings=yes"]
    if host.known_hosts:
        options += [f"UserKnownHostsFile={host.known_hosts}", "GlobalKnownHostsFile=/dev/null"]
    identity = ["-i", host.identity_file, "-o", "IdentitiesOnly=yes"] if host.identity_file else []
    flags = [part for option in options for part in ("-o", option)]
    return [*prefix, "ssh", "-T", *flags, *identity, "-p", str(host.port), f"{host.user}@{host.address}", host.command]


@dataclass
class SshSession:
    """`Session` over a child process."""

    host: Host
    process: asyncio.subprocess.Process
    progress: Progress
    program: str = ""
    """The hash of the host's program."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _beats: asyncio.Task[None] | None = None

    async def call(self, action: str, args: Mapping[str, Any], *, timeout_s: float = CALL_S) -> Any:
        async with self._turn:
            await self._send({"do": action, "args": dict(args)})
            return await self._read(timeout_s)

    async def greet(self) -> None:
        """Read the host's first line."""
        self.program = (await self._read(CONNECT_S))["program"]
        self._beats = asyncio.create_task(self._beat())

    async def aclose(self) -> None:
        if self._beats:
            self._beats.cancel()
        if self.process.stdin:
            self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), 3)
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def _beat(self) -> None:
        with contextlib.suppress(Unavailable):
            while True:
                await asyncio.sleep(BEAT_S)
                await self._send({"do": "beat"})

    async def _send(self, value: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None  # noqa: S101 - it was opened as a pipe
        try:
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            await self.process.stdin.drain()
        except OSError:
            raise await self._gone() from None

    async def _read(self, timeout_s: float) -> Any:
        assert self.process.stdout is not None  # noqa: S101 - it was opened as a pipe
        try:
            async with asyncio.timeout(timeout_s):
                while line := await self.process.stdout.readline():
                    answer = json.loads(line)
                    if "say" in answer:
                        self.progress(self.host.name, str(answer["say"]))
                        continue
                    if answer["ok"]:
                        return answer["result"]
                    raise _error(self.host.name, answer["error"])
        except TimeoutError:
            raise Unavailable(
                f"{self.host.name!r} did not answer within {timeout_s:g} s.", hint=_hint(self.host)
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(
                f"{self.host.name!r} does not speak our protocol: {error}.", hint=_hint(self.host)
            ) from None
        raise await self._gone()

    async def _gone(self) -> Unavailable:
        words = ""
        if self.process.stderr:
            with contextlib.suppress(TimeoutError):
                words = (await asyncio.wait_for(self.process.stderr.read(4000), 2)).decode("utf-8", "replace").strip()
        return Unavailable(f"The connection to {self.host.name!r} ended. {words}".strip(), hint=_hint(self.host))


@dataclass(frozen=True)
class Ssh:
    """Connects to hosts. `prefix` stands before `ssh`: a network namespace, in tests."""

    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    async def connect(self, host: Host, progress: Progress) -> SshSession:
        """Raises `Unavailable` with what ssh said."""
        try:
            process = await asyncio.create_subprocess_exec(
                *ssh_argv(host, self.prefix),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(self.environment),
                limit=MAX_LINE,
                preexec_fn=os.setpgrp,
            )
        except OSError as error:
            raise ProgramFailed(f"ssh cannot be started: {error}.", hint="Install openssh-client.") from None
        session = SshSession(host, process, progress)
        try:
            await session.greet()
            _check_program(session)
        except BaseException:
            await session.aclose()
            raise
        return session


def _check_program(session: SshSession) -> None:
    """Two versions of the steps would not mean the same by the same name."""
    if session.program != own_hash():
        raise Conflict(
            f"The host program of {session.host.name!r} is of another version than this one.",
            hint="Bring it up to date: `dev-tools host bootstrap`, and run its script there.",
        )


def _error(host: str, error: Mapping[str, str]) -> DevToolsError:
    kind = _ERRORS.get(error["code"], ProgramFailed)
    raised = kind(
        f"{host}: {error['message']}", hint=error.get("hint") or f"Look with `dev-tools debug SERVICE --host {host}`."
    )
    raised.reason = error["code"]  # pyright: ignore[reportAttributeAccessIssue] - what the host said, for programs
    return raised


def _hint(host: Host) -> str:
    return f"Check the host with `dev-tools host check {host.name}`."
