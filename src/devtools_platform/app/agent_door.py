"""The agents' endpoints: beside the gateway on its port, or on one of their own where they run apart.

`/agents/NAME/...` takes the stack's own token, or a named one (`dev-tools token create`) with the scope `agents:NAME`.
"""

import logging
from fnmatch import fnmatchcase
from typing import cast

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from devtools_platform.agents.adapters.mcp_tools import GatewayClient
from devtools_platform.agents.api import build_api
from devtools_platform.agents.chat import ChatService
from devtools_platform.agents.definitions import load_definitions
from devtools_platform.agents.interfaces import TaskLog
from devtools_platform.app.carriers import OwnCarriers
from devtools_platform.app.ledger import LedgerBridge, build_ledger
from devtools_platform.app.models import ServedModel
from devtools_platform.app.runtimes import RuntimeModels, Runtimes
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError, Forbidden
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.principal import AGENTS_SCOPE
from devtools_platform.kit.guard import error_response

log = logging.getLogger(__name__)

PREFIX = "/agents/"


class AgentDoor:
    """`/agents/...` to the agents, everything else (the start and end of the app as well) to the other app."""

    def __init__(self, other: ASGIApp, agents: ASGIApp, identity: Identity, token: str) -> None:
        self._other = other
        self._agents = agents
        self._identity = identity
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(PREFIX):
            await self._other(scope, receive, send)
            return
        try:
            scope = self._admit(scope)
        except DevToolsError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._agents(scope, receive, send)

    def _admit(self, scope: Scope) -> Scope:
        """Behind a named token with the right scope the request goes on with the stack's own."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not self._identity.is_for_tools(given):
            return scope
        principal = self._identity.verify(given)
        name = scope["path"].removeprefix(PREFIX).partition("/")[0]
        wanted = AGENTS_SCOPE + name
        if not any(fnmatchcase(wanted, scope_) for scope_ in principal.scopes or ()):
            raise Forbidden(
                f"{principal.name} lacks the scope {wanted!r}.",
                hint=f"Make a token that has it: `dev-tools token create NAME --scope {wanted}`.",
            )
        headers = [(key, value) for key, value in scope["headers"] if key != b"authorization"]
        return {**scope, "headers": [*headers, (b"authorization", f"Bearer {self._token}".encode())]}


class _Spoken:
    """The timeline of a conversation: there is none. Its model calls stand in the ledger; the rest is logged."""

    async def append_event(self, session: str, _key: str, kind: str, agent: str | None, data: object) -> int:
        if kind != "model_call":
            log.warning("%s of %s: %s %s", session, agent, kind, data)
        return 0


def build_agents(
    settings: Settings, runtimes: Runtimes, store: sa.Engine, *, gateway_url: str, token: str, secret: str
) -> FastAPI:
    """The agents' endpoints. They call their tools at the gateway, as in a task."""
    spoken = cast("TaskLog", _Spoken())

    def ledger_of(served: ServedModel) -> LedgerBridge:
        return build_ledger(settings, store, spoken, served)

    models = RuntimeModels(runtimes, ledger_of, spoken, settings.model_timeout_s)
    client = GatewayClient(f"{gateway_url}/mcp", secret, timeout_s=settings.command_timeout_s + 30)
    definitions = load_definitions(settings.agent_definitions)
    chats = ChatService(definitions, models, client, max_turns=settings.max_agent_turns)
    return build_api(chats, OwnCarriers(settings, runtimes, store), token=token)
