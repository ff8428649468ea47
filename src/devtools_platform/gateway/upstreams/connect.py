"""From an entry of the catalogue to a connection: which transport, which credentials, which era."""

import re
import shutil
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from devtools_platform.gateway.upstreams.addresses import parse_target
from devtools_platform.gateway.upstreams.http_client import HttpClient
from devtools_platform.gateway.upstreams.http_link import Headers, connect_http
from devtools_platform.gateway.upstreams.link import Link, LinkDown
from devtools_platform.gateway.upstreams.openapi import OpenApiLink
from devtools_platform.gateway.upstreams.pipes import Command
from devtools_platform.gateway.upstreams.stdio_link import StdioLink
from devtools_platform.gateway.upstreams.types import ServerSpec
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.tls import tls_context

Expand = Callable[[str], str]
"""Replaces the `${NAME}`s of a text."""
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class SignIns(Protocol):
    """Credentials for servers one signs in at. Handed in: what OAuth needs is a quarter of the gateway's memory."""

    async def headers(
        self, name: str, spec: ServerSpec, fixed: Mapping[str, str], expand: Expand, lose: Callable[[str], None]
    ) -> Headers:
        """Headers that renew themselves. Raises `LinkDown` when nobody has signed in."""
        ...


@dataclass(frozen=True)
class Connector:
    """Connects upstreams. One for all."""

    logs: Path
    environment: Mapping[str, str]
    """What every program gets: PATH, HOME, the locale."""
    secrets: Mapping[str, str]
    """Values for `${NAME}` in the catalogue."""
    tls: ssl.SSLContext | None
    """None: this process's own, made for the first server that needs it."""
    places: Mapping[str, str]
    """Values for `{NAME}` in commands: the interpreter's folder, the data directory."""
    accounts: SignIns | None = None
    """Sign-ins at servers that want them."""

    async def __call__(self, upstream: Upstream) -> Link:
        """Raises `LinkDown` with what is missing."""
        spec = upstream.spec
        if spec.command is not None:
            link = StdioLink(upstream.on_event, upstream.lose, spec.max_result_bytes, spec.interactive)
            await link.open(self._command(upstream), spec.protocol)
            return link
        target = parse_target(self._expand(spec.url or spec.base_url or ""))
        tls = (self.tls or tls_context()) if target.is_tls else None
        client = HttpClient(target, tls=tls, allow_private=spec.allow_private)
        fixed = {name.lower(): self._expand(value) for name, value in spec.headers.items()}
        headers = Headers(fixed)
        if spec.openapi is not None:
            return OpenApiLink.read(Path(spec.openapi), spec, client, headers)
        try:
            if spec.auth is not None:
                headers = await self._signed_in(upstream, fixed)
            return await connect_http(
                client,
                headers,
                protocol=spec.protocol,
                on_event=upstream.on_event,
                max_bytes=spec.max_result_bytes,
            )
        except BaseException:
            client.close()
            await headers.close()
            raise

    async def _signed_in(self, upstream: Upstream, fixed: Mapping[str, str]) -> Headers:
        if self.accounts is None:
            raise LinkDown("This gateway keeps no sign-ins.")
        return await self.accounts.headers(upstream.name, upstream.spec, fixed, self._expand, upstream.lose)

    def _command(self, upstream: Upstream) -> Command:
        spec = upstream.spec
        argv = [part.format_map(self.places) for part in spec.command or ()]
        env = {**self.environment, **{name: self._expand(value) for name, value in spec.env.items()}}
        program = shutil.which(argv[0], path=env.get("PATH"))
        if program is None:
            raise LinkDown(
                f"There is no program {argv[0]!r} on PATH. Install it, or take the server out of the settings."
            )
        return Command([program, *argv[1:]], env, self.logs / f"mcp-{upstream.name}.log")

    def _expand(self, text: str) -> str:
        return expand(text, self.secrets)


def expand(text: str, secrets: Mapping[str, str]) -> str:
    """The text with its `${NAME}`s replaced. Raises `LinkDown` for one that is not set."""
    if missing := [name for name in _NAME.findall(text) if name not in secrets]:
        raise LinkDown(f"It needs {', '.join(missing)}, which is not set. Set it where `dev-tools up` runs.")
    return _NAME.sub(lambda found: secrets[found.group(1)], text)


def names_in(*texts: str) -> set[str]:
    """The `${NAME}`s in the texts."""
    return {name for text in texts for name in _NAME.findall(text)}
