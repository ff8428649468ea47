"""What a client has asked to be told of, and the notifications that tell it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from devtools_platform.gateway.mcp.exchange import Client
from devtools_platform.gateway.mcp.messages import SUBSCRIPTION_KEY, Id, Params, raw, read_object, read_text
from devtools_platform.gateway.principal import Principal
from devtools_platform.gateway.upstreams.upstream import Upstream

log = logging.getLogger(__name__)

TOOLS_CHANGED = "notifications/tools/list_changed"
RESOURCE_UPDATED = "notifications/resources/updated"
LISTS = {
    "toolsListChanged": TOOLS_CHANGED,
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
MAX_URIS = 100


@dataclass(frozen=True)
class Subscription:
    """One `subscriptions/listen` of one client."""

    id: Id
    owner: str
    methods: frozenset[str]
    uris: tuple[str, ...]
    notify: Callable[[str, Params], None]

    @property
    def tag(self) -> Params:
        return {"_meta": raw({SUBSCRIPTION_KEY: self.id})}

    def acknowledge(self) -> None:
        """Say what will be told; the first thing on the stream."""
        granted: dict[str, Any] = {key: True for key, method in LISTS.items() if method in self.methods}
        if self.uris:
            granted["resourceSubscriptions"] = list(self.uris)
        self.notify("notifications/subscriptions/acknowledged", {"notifications": raw(granted), **self.tag})

    def on_event(self, method: str, params: Params, owner: str | None) -> None:
        is_mine = method == RESOURCE_UPDATED and owner in {None, self.owner}
        if method in self.methods or (is_mine and read_text(params.get("uri")) in self.uris):
            self.notify(method, {**params, **self.tag})

    def on_tools(self) -> None:
        if TOOLS_CHANGED in self.methods:
            self.notify(TOOLS_CHANGED, self.tag)


def read_subscription(
    id_: Id, owner: str, params: Params, notify: Callable[[str, Params], None], *, is_merged: bool
) -> Subscription:
    """From the request. The merged catalogue has tools only."""
    wanted = read_object(params.get("notifications"))
    methods = {method for key, method in LISTS.items() if bytes(wanted.get(key, b"")) == b"true"}
    uris = _uris(wanted.get("resourceSubscriptions"))
    if is_merged:
        methods, uris = methods & {TOOLS_CHANGED}, ()
    return Subscription(id_, owner, frozenset(methods), uris, notify)


def _uris(value: Raw | None) -> tuple[str, ...]:
    try:
        return tuple(msgspec.json.decode(value, type=list[str])[:MAX_URIS]) if value is not None else ()
    except msgspec.MsgspecError:
        return ()


async def while_valid(principal: Principal, work: Awaitable[bytes]) -> bytes:
    """A stream is open for as long as its caller's token counts, and no longer."""
    left = None if principal.expires_at == float("inf") else max(0.0, principal.expires_at - time.time())
    with suppress(TimeoutError):
        async with asyncio.timeout(left):
            return await work
    return b""


async def follow(upstream: Upstream, client: Client, uris: tuple[str, ...]) -> None:
    if upstream.link is not None:
        try:
            await upstream.link.listen(client, uris)
        except Exception as error:  # noqa: BLE001 - events are a convenience; a call would say what is wrong
            log.info("%s sends no events: %s", upstream.name, error)
