"""Between the eras: a server's question becomes an answer that asks (`input_required`), and the other way round.

A handshake server asks in the middle of a call and waits. A stateless client gets its questions as the call's
result and comes back with the answers. So the call is kept waiting here meanwhile, under a signed ticket that only
its owner can redeem, once, for as long as `KEEP_S`.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec import Raw

from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange
from devtools_platform.gateway.mcp.messages import (
    INPUT_KEY,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    NAME_OF,
    UNAVAILABLE,
    Params,
    RpcError,
    is_input_required,
    raw,
    read_object,
    read_text,
)

KEEP_S = 300.0
GRACE_S = 0.025
"""How long to collect questions that a server asks side by side before they are put to the client."""
MAX_KEPT = 1024
MAX_KEPT_PER_OWNER = 32
MAX_ROUNDS = 16

Send = Callable[[Call, Exchange], Awaitable[Raw]]


async def answer_rounds(send: Send, call: Call, exchange: Exchange) -> Raw:
    """A handshake client at a stateless server: put each question to the client and call again with the answers."""
    for _ in range(MAX_ROUNDS):
        result = await send(call, exchange)
        if not is_input_required(result):
            return result
        body = read_object(result)
        asked = {key: read_object(value) for key, value in read_object(body.get("inputRequests")).items()}
        answers = await asyncio.gather(
            *(exchange.ask(read_text(q.get("method")) or "", read_object(q.get("params"))) for q in asked.values())
        )
        params = {**call.params, "inputResponses": raw(dict(zip(asked, answers, strict=True)))}
        params.pop("requestState", None)
        if (state := body.get("requestState")) is not None:
            params["requestState"] = state
        call = Call(call.method, params, call.meta)
    raise RpcError(INTERNAL_ERROR, f"The server asks without end: {MAX_ROUNDS} rounds.")


@dataclass
class _Question:
    method: str
    params: Params
    answer: "asyncio.Future[Raw]"


@dataclass
class _Kept:
    """A call that waits for its client. It is an exchange itself: it outlives the request that began it."""

    id: str
    client: Client
    call: Call
    now: Exchange | None
    """The request that serves it at this moment."""
    given: Params
    """Answers that came before their questions."""
    task: "asyncio.Task[Raw] | None" = None
    questions: dict[str, _Question] = field(default_factory=dict[str, _Question])
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    rounds: int = 0
    expires: float = 0.0

    def notify(self, method: str, params: Params) -> None:
        if self.now is not None:
            self.now.notify(method, params)

    async def ask(self, method: str, params: Params) -> Raw:
        key = self._key(params)
        if (given := self.given.pop(key, None)) is not None and read_object(given):
            return given
        question = _Question(method, params, asyncio.get_running_loop().create_future())
        self.questions[key] = question
        self.asked.set()
        try:
            return await question.answer
        finally:
            self.questions.pop(key, None)

    def _key(self, params: Params) -> str:
        named = read_text(read_object(params.get("_meta")).get(INPUT_KEY))
        if named is not None and named not in self.questions:
            return named
        self.rounds += 1
        return f"q{self.rounds}"

    def take(self, answers: Params) -> None:
        """Hand over answers to what was asked; what nobody asked is ignored, what is no answer is asked again."""
        for key, value in answers.items():
            question = self.questions.get(key)
            if question is not None and not question.answer.done() and read_object(value):
                question.answer.set_result(value)


class Rounds:
    """Calls of stateless clients at handshake servers."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"dev-tools request state " + secret.encode()).digest()
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def send(self, send: Send, call: Call, exchange: Exchange) -> Raw:
        """The result, or one that asks. Raises `RpcError` for a ticket that is not the caller's or not of this call."""
        answers = read_object(call.params.get("inputResponses"))
        state = read_text(call.params.get("requestState"))
        if state is None:
            kept = self._begin(send, call, exchange, answers)
        else:
            kept = self._resume(state, call, exchange)
            kept.asked.clear()
            kept.take(answers)
            if any(not question.answer.done() for question in kept.questions.values()):
                kept.asked.set()  # not all of them came: ask for the rest again
        try:
            return await self._next(kept)
        except asyncio.CancelledError:
            self._drop(kept)
            raise

    def _begin(self, send: Send, call: Call, exchange: Exchange, answers: Params) -> _Kept:
        self._expire()
        owner = exchange.client.owner
        if (
            len(self._kept) >= MAX_KEPT
            or sum(k.client.owner == owner for k in self._kept.values()) >= MAX_KEPT_PER_OWNER
        ):
            raise RpcError(UNAVAILABLE, "Too many calls are waiting for answers of their clients. Answer those first.")
        kept = _Kept(secrets.token_urlsafe(12), exchange.client, call, exchange, dict(answers))
        kept.task = asyncio.create_task(self._run(send, call, kept))
        return kept

    @staticmethod
    async def _run(send: Send, call: Call, kept: _Kept) -> Raw:
        return await send(call, kept)

    async def _next(self, kept: _Kept) -> Raw:
        assert kept.task is not None  # noqa: S101 - set where it is made
        asked = asyncio.create_task(kept.asked.wait())
        try:
            await asyncio.wait({kept.task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not kept.task.done():
                await asyncio.wait({kept.task}, timeout=GRACE_S)
        finally:
            asked.cancel()
        kept.now = None
        if kept.task.done():
            self._kept.pop(kept.id, None)
            return kept.task.result()
        kept.rounds += 1
        kept.expires = time.monotonic() + KEEP_S
        self._kept[kept.id] = kept
        asyncio.get_running_loop().call_later(KEEP_S + 1, self._expire)
        open_ = {key: q for key, q in kept.questions.items() if not q.answer.done()}
        questions = {key: {"method": q.method, "params": _shown(q.params)} for key, q in open_.items()}
        return raw({"resultType": "input_required", "inputRequests": questions, "requestState": self._ticket(kept)})

    def _resume(self, state: str, call: Call, exchange: Exchange) -> _Kept:
        id_, _, rest = state.partition(".")
        kept = self._kept.get(id_)
        if kept is None or not hmac.compare_digest(self._ticket(kept).encode(), f"{id_}.{rest}".encode()):
            raise RpcError(INVALID_PARAMS, "requestState is not one of ours, or it has expired: call anew.")
        same = kept.client.owner == exchange.client.owner and _subject(kept.call) == _subject(call)
        if not same:
            raise RpcError(INVALID_PARAMS, "requestState belongs to another call.")
        kept.now = exchange
        return kept

    def _ticket(self, kept: _Kept) -> str:
        text = f"{kept.id} {kept.rounds} {kept.client.owner} {kept.call.method}".encode()
        return f"{kept.id}.{base64.urlsafe_b64encode(hmac.digest(self._key, text, 'sha256')).decode().rstrip('=')}"

    def _expire(self) -> None:
        now = time.monotonic()
        for kept in [k for k in self._kept.values() if k.expires < now and k.now is None]:
            self._drop(kept)

    def _drop(self, kept: _Kept) -> None:
        self._kept.pop(kept.id, None)
        if kept.task is not None:
            kept.task.cancel()

    async def close(self) -> None:
        for kept in list(self._kept.values()):
            self._drop(kept)
            if kept.task is not None:
                with suppress(asyncio.CancelledError, RpcError):
                    await kept.task


def _subject(call: Call) -> tuple[bytes, ...]:
    """What a second round must have in common with the first."""
    name = NAME_OF.get(call.method, "")
    parts = (call.params.get(name), call.params.get("arguments"))
    return (call.method.encode(), *(bytes(part) if part is not None else b"" for part in parts))


def _shown(params: Params) -> Params:
    """A question without what only concerned its own wire."""
    meta = {k: v for k, v in read_object(params.get("_meta")).items() if k != INPUT_KEY}
    rest = {k: v for k, v in params.items() if k != "_meta"}
    return {**rest, "_meta": raw(meta)} if meta else rest
