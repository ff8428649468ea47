"""Calls that a server answers later: MCP's tasks extension (SEP-2663, revision 2026-07-28).

The server answers a call with a handle and is asked for its state until there is a result. A client that declares the
extension gets a handle of ours: signed, so that its owner alone can use it, and only while it may call that tool. For
who needs the result itself (a client with a handshake, REST, a call that is kept), the gateway asks, if the
server says that it can answer in no other way.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw, Struct

from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange
from devtools_platform.gateway.mcp.messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    UNAVAILABLE,
    Params,
    RpcError,
    as_object,
    decode_or_none,
    encode,
    raw,
    read_error,
    read_object,
    read_text,
)
from devtools_platform.gateway.results import cut

EXTENSION = "io.modelcontextprotocol/tasks"
METHODS = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
OVER = frozenset({"completed", "failed", "cancelled"})
LONGEST_WAIT_S = 600.0
"""How long the gateway waits for a result in the place of a client that cannot; then it cancels."""
CANCEL_S = 5.0
FIRST_POLL_S, LEAST_POLL_S, MOST_POLL_S = 0.5, 0.05, 10.0
MAX_HANDLE_CHARS = 4096
_DECLARED = b'"extensions"'  # its own name may be spelled with an escaped slash
_TASK = b'"task"'

Request = Callable[[Call, Exchange], Awaitable[Raw]]


class Handle(Struct, frozen=True, array_like=True):
    """What a caller's handle stands for."""

    tool: str
    """Its full name."""
    id: str
    """The server's own."""
    cap: int
    """The largest result of the call, in bytes."""


class Handles:
    """Signs a server's handles for one caller each. Nothing is kept: any gateway with the same secret reads them."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"dev-tools handle " + secret.encode()).digest()

    def wrap(self, result: Raw, owner: str, tool: str, cap: int) -> Raw:
        """A result with our handle instead of the server's; one that is final as it is. Raises `RpcError`."""
        body = read_handle(result)
        if body is None:
            return result
        return raw({**body, "taskId": self._sign(owner, Handle(tool, _id_of(body), cap))})

    def read(self, text: str | None, owner: str) -> Handle:
        """Raises `RpcError` for what is none of this caller's."""
        with suppress(ValueError, binascii.Error, msgspec.MsgspecError):
            if text is not None and len(text) <= MAX_HANDLE_CHARS:
                body, _, mark = text.partition(".")
                if hmac.compare_digest(mark.encode(), self._mark(owner, body).encode()):
                    return msgspec.json.decode(base64.urlsafe_b64decode(body), type=Handle)
        raise RpcError(INVALID_PARAMS, "taskId is none that this gateway gave to this caller.")

    def _sign(self, owner: str, handle: Handle) -> str:
        body = base64.urlsafe_b64encode(encode(handle)).decode()
        return f"{body}.{self._mark(owner, body)}"

    def _mark(self, owner: str, body: str) -> str:
        digest = hmac.digest(self._key, f"{owner} {body}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def is_declared(client: Client) -> bool:
    """Whether a client can be answered later."""
    if _DECLARED not in bytes(client.capabilities):  # spares decoding it for nearly every call
        return False
    return EXTENSION in read_object(read_object(client.capabilities).get("extensions"))


def is_offered(capabilities: Any) -> bool:
    """Whether a server may answer later."""
    return EXTENSION in as_object(as_object(capabilities).get("extensions"))


def missing_extension() -> RpcError:
    needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    return RpcError(MISSING_CAPABILITY, f"The client has not declared the extension {EXTENSION}.", needed)


def read_handle(result: Raw) -> Params | None:
    """None for a result that is final."""
    if _TASK not in bytes(result):
        return None
    body = read_object(result)
    return body if read_text(body.get("resultType")) == "task" else None


def show_state(result: Raw, handle: str, cap: int) -> Raw:
    """The answer to `tasks/get` for the caller: under its own handle, a result that is too large cut."""
    body = read_object(result)
    body["taskId"] = raw(handle)
    if (held := body.get("result")) is not None and len(bytes(held)) > cap:
        body["result"] = cut(held, cap)
    return raw(body)


def is_over(state: Raw) -> bool:
    return read_text(read_object(state).get("status")) in OVER


async def wait_for_result(request: Request, call: Call, exchange: Exchange) -> Raw:
    """The result itself, for who cannot be answered later. Raises `RpcError`."""
    try:
        return await request(call, _Declaring(exchange, is_on=False))
    except RpcError as error:
        data = as_object(decode_or_none(error.data) if isinstance(error.data, Raw) else error.data)
        if error.code != MISSING_CAPABILITY or not is_offered(data.get("requiredCapabilities")):
            raise
    declaring = _Declaring(exchange, is_on=True)
    result = await request(call, declaring)
    body = read_handle(result)
    return result if body is None else await _follow(request, body, declaring)


async def _follow(request: Request, state: Params, exchange: Exchange) -> Raw:
    id_: Params = {"taskId": raw(_id_of(state))}
    try:
        async with asyncio.timeout(LONGEST_WAIT_S):
            state = await _watch(request, state, id_, exchange)
    except TimeoutError:
        await _cancel(request, id_, exchange)
        text = (
            f"The server did not finish within {LONGEST_WAIT_S:g} s and was told to stop. It may have had its effect."
        )
        raise RpcError(UNAVAILABLE, text) from None
    except (RpcError, asyncio.CancelledError):  # who waited has gone, or what was asked has no answer
        await _cancel(request, id_, exchange)
        raise
    status, result = read_text(state.get("status")), state.get("result")
    if status == "failed":
        raise read_error(state.get("error", Raw(b"null")))
    if status == "cancelled":
        raise RpcError(UNAVAILABLE, "The server cancelled the call.")
    if result is None:
        raise RpcError(INTERNAL_ERROR, "The server says that the call is completed, and gives no result.")
    return result


async def _watch(request: Request, state: Params, id_: Params, exchange: Exchange) -> Params:
    """The last state. What the server asks meanwhile goes to the client, each question once."""
    answered: set[str] = set()
    while (status := read_text(state.get("status"))) not in OVER:
        asked = read_object(state.get("inputRequests")) if status == "input_required" else {}
        if open_ := {key: read_object(asked[key]) for key in asked if key not in answered}:
            answers = await asyncio.gather(*(_ask(exchange, question) for question in open_.values()))
            answered |= open_.keys()
            given = raw(dict(zip(open_, answers, strict=True)))
            await request(Call("tasks/update", {**id_, "inputResponses": given}), exchange)
        else:
            await asyncio.sleep(_pause_of(state))
        state = read_object(await request(Call("tasks/get", dict(id_)), exchange))
    return state


async def _cancel(request: Request, id_: Params, exchange: Exchange) -> None:
    """It need not go on. A server that does not answer is not waited for."""
    with suppress(RpcError, TimeoutError):
        async with asyncio.timeout(CANCEL_S):
            await request(Call("tasks/cancel", dict(id_)), exchange)


async def _ask(exchange: Exchange, question: Params) -> Raw:
    return await exchange.ask(read_text(question.get("method")) or "", read_object(question.get("params")))


def _id_of(body: Params) -> str:
    id_ = read_text(body.get("taskId"))
    if not id_ or len(id_) > MAX_HANDLE_CHARS // 8:
        raise RpcError(INTERNAL_ERROR, "The server's handle (`taskId`) cannot be used.")
    return id_


def _pause_of(state: Params) -> float:
    wish = decode_or_none(state.get("pollIntervalMs"))
    return min(MOST_POLL_S, max(LEAST_POLL_S, wish / 1000)) if isinstance(wish, int) else FIRST_POLL_S


@dataclass
class _Declaring:
    """A client that declares the extension, or does not, whatever it said itself."""

    exchange: Exchange
    is_on: bool

    @property
    def client(self) -> Client:
        said = read_object(self.exchange.client.capabilities)
        extensions = {k: v for k, v in read_object(said.get("extensions")).items() if k != EXTENSION}
        if self.is_on:
            extensions[EXTENSION] = Raw(b"{}")
        elif "extensions" not in said:
            return self.exchange.client
        return msgspec.structs.replace(self.exchange.client, capabilities=raw({**said, "extensions": raw(extensions)}))

    def notify(self, method: str, params: Params) -> None:
        self.exchange.notify(method, params)

    def ask(self, method: str, params: Params) -> Awaitable[Raw]:
        return self.exchange.ask(method, params)
