"""A server in the catalogue: how it is reached, who may use it, and what it may cost."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from devtools_platform.core.agents import AgentName

NAME = r"^[a-z][a-z0-9-]{0,30}$"
"""No underscore: a tool's full name is SERVER_TOOL, and must come apart in one way only."""

Verdict = Literal["allow", "ask", "deny"]


class ToolRule(BaseModel):
    """What holds for the tools whose names match a pattern. The first rule that matches decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[str, ...]
    """Names within the server, `*` and `?` allowed."""
    decision: Verdict | None = None
    when: Mapping[str, str] = Field(default_factory=dict)
    """Argument -> pattern. The rule holds only for calls whose arguments match them all; absent is no match."""
    per_minute: int | None = Field(default=None, ge=1)
    """Calls one caller may make in a minute."""
    max_result_bytes: int | None = Field(default=None, ge=1)

    def covers(self, tool: str) -> bool:
        return any(fnmatchcase(tool, pattern) for pattern in self.tools)

    def holds(self, arguments: Mapping[str, Any]) -> bool:
        return all(
            name in arguments and fnmatchcase(str(arguments[name]), pattern) for name, pattern in self.when.items()
        )


class OAuthSpec(BaseModel):
    """How we are known to a server's authorization server. All may be left out where it takes strangers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_id: str | None = None
    """Of a client that was registered for us; `${NAME}` is taken from our environment."""
    client_secret: str | None = None
    """Its secret, best as `${NAME}`. Only with `issuer`: the server alone must not say who gets it."""
    issuer: str | None = None
    """The only issuer whose tokens we ask for, whatever the server says."""
    scopes: tuple[str, ...] = ()
    """What to ask for instead of what the server asks for."""

    @model_validator(mode="after")
    def _keeps_its_secret(self) -> Self:
        if self.client_secret is not None and (self.client_id is None or self.issuer is None):
            raise ValueError("client_secret needs client_id and issuer: it is sent to that issuer only")
        return self


class ServerSpec(BaseModel):
    """One server. Exactly one of `command`, `url` and `openapi` says what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    command: tuple[str, ...] | None = None
    """A program that speaks MCP over its standard input and output."""
    url: str | None = None
    """An MCP endpoint over streamable HTTP."""
    openapi: str | None = None
    """A file with an OpenAPI document whose operations become tools; `base_url` says where they are."""
    base_url: str | None = None
    operations: tuple[str, ...] = ("*",)
    """Of an OpenAPI document, the ids of the operations to offer."""
    protocol: Literal["auto", "2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"] = "auto"
    env: Mapping[str, str] = Field(default_factory=dict)
    """What the program's environment holds beyond PATH, HOME and the locale; `${NAME}` is taken from ours."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Sent with every request; `${NAME}` as above. Never shown to a model, never logged."""
    auth: Literal["oauth"] | None = None
    """`oauth`: a person signs in once with `dev-tools tools login SERVER`."""
    oauth: OAuthSpec = OAuthSpec()
    allow_private: bool = False
    """Whether the URL may lead to an address that is not public, this machine among them."""
    interactive: bool = False
    """A handshake server over stdio that asks its caller things: its calls then run one by one."""
    agents: tuple[AgentName, ...] = ()
    """Agents who see its tools. A person's token says for itself what it may call."""
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    concurrency: int = Field(default=64, ge=1, le=1024)
    max_result_bytes: int = Field(default=4_000_000, ge=1_000, le=100_000_000)
    reads: Verdict = "allow"
    """What holds for a tool that says of itself it only reads, where no rule says otherwise."""
    writes: Verdict = "ask"
    """What holds for every other."""
    rules: tuple[ToolRule, ...] = ()

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.command, self.url, self.openapi)) != 1:
            raise ValueError("exactly one of command, url and openapi must be given")
        if self.openapi is not None and self.base_url is None:
            raise ValueError("an openapi server needs base_url")
        if self.auth is not None and self.url is None:
            raise ValueError("auth is for servers with a url")
        if self.auth is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("auth and a fixed Authorization header exclude each other")
        if self.auth is None and self.oauth != OAuthSpec():
            raise ValueError("oauth needs auth: oauth")
        return self


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name is covered by any of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
