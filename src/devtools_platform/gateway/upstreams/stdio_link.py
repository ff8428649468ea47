"""An MCP server as a child process: one child for all callers, their calls told apart by id.

What it prints is hostile: nonsense is counted, and a flood ends the child, not us.
"""

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET, Raw

from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange, Silent
from devtools_platform.gateway.mcp.messages import (
    INPUT_METHODS,
    INTERNAL_ERROR,
    LEGACY,
    MODERN,
    UNAVAILABLE,
    Message,
    Params,
    RpcError,
    error_bytes,
    notification_bytes,
    raw,
    read_error,
    read_message,
    read_params,
    request_bytes,
    result_bytes,
)
from devtools_platform.gateway.upstreams.link import (
    LIST_CHANGED,
    RESOURCE_UPDATED,
    Event,
    LinkDown,
    ServerFacts,
    answer,
    facts_from_discover,
    facts_from_initialize,
    legacy_params,
    modern_params,
    pass_on,
)
from devtools_platform.gateway.upstreams.pipes import Command, Pipes

log = logging.getLogger(__name__)

DISCOVER_TIMEOUT_S = 5.0
"""Some servers of the older era do not answer a method they do not know; then they are offered the handshake, too."""
WAIT_FOR_TURN_S = 10.0
MAX_BAD_LINES = 50
LOGGED_BAD_LINES = 3
MAX_UNASKED_PER_S = 2_000
"""Lines that answer nothing (notifications, nonsense); more is a flood."""
_ID_AT_START = re.compile(rb'^\s*\{[^{}\[\]]{0,200}?"id"\s*:\s*(\d{1,18})\b')
_ID_AT_END = re.compile(rb'"id"\s*:\s*(\d{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


@dataclass
class _Pending:
    exchange: Exchange
    token: Raw | None
    answer: "asyncio.Future[Raw]"


@dataclass
class StdioLink:
    """The connection over a child's pipes, in whichever era it answered."""

    on_event: Event
    on_end: Callable[[str], None]
    """Called once, with the reason, when the child has gone or had to be given up."""
    max_bytes: int
    is_interactive: bool = False
    """A handshake server may ask its caller something. Its questions name no call, so its calls run one by one."""
    facts: ServerFacts = field(default_factory=lambda: ServerFacts("modern", MODERN))
    _pipes: Pipes | None = None
    _pending: dict[int, _Pending] = field(default_factory=dict[int, _Pending])
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _one_by_one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set["asyncio.Task[None]"])
    _bad_lines: int = 0
    _unasked: int = 0
    _window: float = 0.0
    _standing: int = 0
    """Requests that are not answered for as long as both sides live."""

    async def open(self, command: Command, protocol: str) -> None:
        """Start the child and agree on an era. Raises `LinkDown`."""
        self._pipes = Pipes(command, self.max_bytes, self)
        try:
            if protocol == "auto":
                self.facts = await self._find_era()
            else:
                self.facts = await (self._discover() if protocol == MODERN else self._initialize(protocol))
        except BaseException:
            await self.close()
            raise

    async def _find_era(self) -> ServerFacts:
        """The newer era where the server speaks it, else the older one."""
        asked = [asyncio.ensure_future(self._discover())]
        try:
            await asyncio.wait(asked, timeout=DISCOVER_TIMEOUT_S)
            if not _has_agreed(asked[0]):
                # One that is only slow to start has the first question still before it, and will refuse the second.
                asked.append(asyncio.ensure_future(self._initialize(LEGACY[0])))
            while not (agreed := [answer for answer in asked if _has_agreed(answer)]):
                open_ = [answer for answer in asked if not answer.done()]
                if not open_:
                    return asked[-1].result()  # raises why the handshake failed
                await asyncio.wait(open_, return_when=asyncio.FIRST_COMPLETED)
            return agreed[0].result()
        finally:
            for answer in asked:
                answer.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _discover(self) -> ServerFacts:
        try:
            found = await self._send("server/discover", modern_params(Call("server/discover", {}), Client("gateway")))
        except RpcError as error:
            raise LinkDown(f"It does not speak {MODERN}: {error}") from None
        return facts_from_discover(found)

    async def _initialize(self, version: str) -> ServerFacts:
        asks: dict[str, Any] = {"sampling": {}, "elicitation": {}, "roots": {}} if self.is_interactive else {}
        params = {
            "protocolVersion": raw(version),
            "capabilities": raw(asks),
            "clientInfo": raw({"name": "dev-tools", "version": "1"}),
        }
        try:
            facts = facts_from_initialize(await self._send("initialize", params))
        except RpcError as error:
            raise LinkDown(f"It refuses the handshake: {error}") from None
        self._write(notification_bytes("notifications/initialized", {}))
        return facts

    async def request(self, call: Call, exchange: Exchange) -> Raw:
        if self.facts.era == "modern":
            return await self._exchange(call, exchange)
        if not self.is_interactive or call.method not in INPUT_METHODS:
            return await self._exchange(call, exchange)
        try:
            async with asyncio.timeout(WAIT_FOR_TURN_S):
                await self._one_by_one.acquire()
        except TimeoutError:
            raise RpcError(
                UNAVAILABLE, "It waits for another caller's answer to a question; try again later."
            ) from None
        try:
            return await self._exchange(call, exchange)
        finally:
            self._one_by_one.release()

    async def _exchange(self, call: Call, exchange: Exchange) -> Raw:
        id_ = next(self._ids)
        token = call.meta.get("progressToken")
        if token is not None:  # two callers may have chosen the same one
            call = Call(call.method, call.params, {**call.meta, "progressToken": raw(id_)})
        is_modern = self.facts.era == "modern"
        params = modern_params(call, exchange.client) if is_modern else legacy_params(call)
        return await self._send(call.method, params, exchange, token, id_)

    async def _send(
        self,
        method: str,
        params: Params,
        exchange: Exchange | None = None,
        token: Raw | None = None,
        id_: int | None = None,
    ) -> Raw:
        id_ = next(self._ids) if id_ is None else id_
        pipes = self._open_pipes()
        future: asyncio.Future[Raw] = pipes.loop.create_future()
        self._pending[id_] = _Pending(exchange or Silent(), token, future)
        try:
            pipes.write(request_bytes(id_, method, params), is_alone=self.waiting == 1)
            return await future
        except asyncio.CancelledError:
            with contextlib.suppress(LinkDown):
                self._write(notification_bytes("notifications/cancelled", {"requestId": raw(id_)}))
            raise
        finally:
            self._pending.pop(id_, None)

    def _open_pipes(self) -> Pipes:
        if self._pipes is None:
            raise LinkDown("Its process has ended.", is_final=True)
        return self._pipes

    def _write(self, line: bytes) -> None:
        self._open_pipes().write(line)

    @property
    def waiting(self) -> int:
        """How many calls the child owes an answer to."""
        return len(self._pending) - self._standing

    def received(self, line: bytes) -> None:
        """One line of the child."""
        try:
            message = read_message(line)
        except RpcError:
            self._bad_line(line)
            return
        if message.method is UNSET:
            self._settle(message)
            return
        if self._is_flood():
            return
        params = _params_of(message)
        if isinstance(message.id, int | str):
            self._spawn(self._answer(message.id, str(message.method), params))
        elif message.method in LIST_CHANGED or message.method == RESOURCE_UPDATED:
            self.on_event(str(message.method), params, None)
        else:
            self._note(str(message.method), params)

    def _settle(self, message: Message) -> None:
        pending = self._pending.get(message.id) if isinstance(message.id, int) else None
        if pending is None or pending.answer.done():
            return  # an answer to a call that was given up
        if message.error is not UNSET:
            pending.answer.set_exception(read_error(message.error))
        elif message.result is not UNSET:
            pending.answer.set_result(Raw(bytes(message.result)))
        else:
            pending.answer.set_exception(RpcError(INTERNAL_ERROR, "The server's answer holds no result."))

    def _note(self, method: str, params: Params) -> None:
        """A notification of a call. Progress says whose; a log message only where just one call runs."""
        if method == "notifications/progress":
            token = params.get("progressToken")
            pending = self._pending.get(int(bytes(token))) if token is not None and bytes(token).isdigit() else None
        else:
            pending = self._only_one()
        if pending is not None:
            pass_on(method, params, pending.exchange, pending.token)

    def _only_one(self) -> _Pending | None:
        callers = [p for p in self._pending.values() if not isinstance(p.exchange, Silent)]
        return callers[0] if len(callers) == 1 else None

    async def _answer(self, id_: int | str, method: str, params: Params) -> None:
        caller = self._only_one()
        try:
            result = await answer(method, params, self._asked(method, caller))
            line = result_bytes(id_, result)
        except RpcError as error:
            line = error_bytes(id_, error)
        with contextlib.suppress(LinkDown):
            self._write(line)

    def _asked(self, method: str, caller: _Pending | None) -> Exchange:
        if method == "ping":
            return Silent()
        if caller is None or not self.is_interactive:
            raise RpcError(INTERNAL_ERROR, f"{method!r} cannot be attributed to one caller.")
        return caller.exchange

    def _bad_line(self, line: bytes) -> None:
        self._bad_lines += 1
        if self._bad_lines <= LOGGED_BAD_LINES:
            log.warning("a server printed a line that is no message: %.200r", line)
        if match := _ID_AT_START.search(line) or _ID_AT_END.search(line):
            self._fail(int(match.group(1)), LinkDown("Its answer is no JSON-RPC.", may_have_run=True, is_fault=False))
        elif len(callers := [i for i, p in self._pending.items() if not isinstance(p.exchange, Silent)]) == 1:
            self._fail(callers[0], LinkDown("Its answer is no JSON-RPC.", may_have_run=True, is_fault=False))
        if self._bad_lines > MAX_BAD_LINES:
            self.ended(f"It printed {MAX_BAD_LINES} lines that are no messages.")

    def oversized(self, head: bytes, tail: bytes) -> None:
        """A line was longer than allowed and thrown away: fail the call it answers, or, unknown, all of them."""
        match = _ID_AT_START.search(head) or _ID_AT_END.search(tail)
        error = LinkDown(f"Its answer is larger than {self.max_bytes} bytes.", may_have_run=True, is_fault=False)
        for id_ in [int(match.group(1))] if match else list(self._pending):
            self._fail(id_, error)

    def _fail(self, id_: int, error: LinkDown) -> None:
        pending = self._pending.get(id_)
        if pending is not None and not pending.answer.done():
            pending.answer.set_exception(error)

    def _is_flood(self) -> bool:
        now = time.monotonic()
        if now - self._window > 1.0:
            self._window, self._unasked = now, 0
        self._unasked += 1
        if self._unasked > MAX_UNASKED_PER_S:
            self.ended(f"It sent more than {MAX_UNASKED_PER_S} messages in a second that nobody asked for.")
            return True
        return False

    def ended(self, reason: str) -> None:
        """The child is gone, or must go: every call fails now, and the upstream decides what comes next."""
        pipes, self._pipes = self._pipes, None
        if pipes is None:
            return
        pipes.shut()
        for id_ in list(self._pending):
            self._fail(id_, LinkDown(reason, may_have_run=True, is_final=True))
        self._spawn(pipes.stop())
        self.on_end(reason)

    async def listen(self, client: Client, uris: tuple[str, ...] = ()) -> None:
        if self.facts.era == "legacy":
            for uri in uris:
                await self._exchange(Call("resources/subscribe", {"uri": raw(uri)}), Silent(client))
            return
        kinds: dict[str, Any] = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources")}
        filters = {"resourceSubscriptions": list(uris)} if uris else kinds
        call = Call("subscriptions/listen", {"notifications": raw(filters)})
        self._standing += 1
        try:
            await self._exchange(call, Silent(client))
        finally:
            self._standing -= 1

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def pid(self) -> int | None:
        return self._pipes.child.pid if self._pipes else None

    async def close(self) -> None:
        pipes, self._pipes = self._pipes, None
        for id_ in list(self._pending):
            self._fail(id_, LinkDown("It is being stopped.", may_have_run=True, is_fault=False))
        if pipes is not None:
            await pipes.stop()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _params_of(message: Message) -> Params:
    try:
        return read_params(message.params)
    except RpcError:
        return {}


def _has_agreed(answer: "asyncio.Future[ServerFacts]") -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None
