"""One server behind the gateway, kept alive: connected, watched, its tools listed, its failures contained.

A call never connects and never waits for a server that is known to be down; that happens in the background task here,
and so does listing, which a call waits for once in a while, within bounds.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from msgspec import Raw

from devtools_platform.gateway.mcp.exchange import Call, Client, Exchange, Silent
from devtools_platform.gateway.mcp.messages import UNAVAILABLE, Params, RpcError, raw, read_object, read_text
from devtools_platform.gateway.upstreams.link import LIST_CHANGED, MAX_PAGES, Link, LinkDown
from devtools_platform.gateway.upstreams.types import ServerSpec
from devtools_platform.kit.overdue import Overdue

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.25
LAST_RETRY_S = 30.0
START_TIMEOUT_S = 60.0
REFRESH_S = 60.0
"""How often a catalogue is read again, which is also how a silent death is noticed."""
FRESH_S = 5.0
"""A call of a tool whose catalogue was read longer ago reads it again first: servers may change without a word."""
FRESH_WAIT_S = 1.0
"""How long such a call waits for it. What is not read in time cannot have reached a model either."""
OVERDUE_S = 0.1
FAULTS_UNTIL_DOWN = 3
MAX_WAITING = 4096
MAX_TOOLS = 2_000

State = Literal["starting", "ready", "down", "stopped"]
Connect = Callable[["Upstream"], Awaitable[Link]]
Listener = Callable[[str, Params, str | None], None]


class _Deadline:
    """An exchange with a clock, which stops while the client is being asked and starts anew with each sign of life.

    `asyncio.timeout` for one call, in one object: `with` raises `TimeoutError` when the time is up. A call has a timer
    of its own only once it is `overdue`, which nearly none is.
    """

    __slots__ = (
        *("_cancelling", "_ends_at", "_exchange", "_handle", "_has_left", "_is_over", "_limit_s", "_loop", "_overdue"),
        *("_task", "client"),
    )

    def __init__(self, exchange: Exchange, limit_s: float, overdue: Overdue) -> None:
        self._loop = overdue.loop
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - a request is made in one
        self.client: Client = exchange.client
        self._exchange = exchange
        self._limit_s = limit_s
        self._ends_at = self._loop.time() + limit_s
        self._overdue = overdue
        self._task = task
        self._cancelling = task.cancelling()
        self._is_over = self._has_left = False
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if self._limit_s > 2 * self._overdue.after_s:
            self._overdue.hold(self, self._start)
        else:
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._has_left = True  # a late word of the server must not start the clock of a call that is over
        self._stop()
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def notify(self, method: str, params: Params) -> None:
        self._restart()
        self._exchange.notify(method, params)

    async def ask(self, method: str, params: Params) -> Raw:
        self._stop()
        try:
            answer = await self._exchange.ask(method, params)
        except Exception:  # not when it is cancelled: then the call is over, and its clock with it
            self._restart()
            raise
        self._restart()
        return answer

    def _start(self) -> None:
        self._handle = self._loop.call_at(self._ends_at, self._end)

    def _end(self) -> None:
        self._is_over, self._handle = True, None
        self._task.cancel()

    def _stop(self) -> None:
        self._overdue.release(self)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _restart(self) -> None:
        self._stop()
        if not self._is_over and not self._has_left:
            self._handle = self._loop.call_later(self._limit_s, self._end)


class Upstream:
    """Use `start` and `stop`; `request` is the call path."""

    def __init__(self, name: str, spec: ServerSpec, connect: Connect) -> None:
        self.name = name
        self.spec = spec
        self.state: State = "stopped"
        self.reason = ""
        """Why it is down, for people."""
        self.link: Link | None = None
        self.tools: Sequence[Params] = ()
        """Its tools' definitions as it gave them."""
        self.restarts = 0
        self.faults = 0
        self.next_try_at = 0.0
        self.on_change: Callable[[Upstream], None] = lambda _: None
        """Called when its tools or its state have changed."""
        self.mask: Callable[[str], str] = str
        """Takes secrets out of a reason: servers may repeat what they were sent."""
        self.listeners: set[Listener] = set()
        self._connect = connect
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._waiting = 0
        self._overdue = Overdue(OVERDUE_S)
        self._lost = asyncio.Event()
        self._stale = asyncio.Event()
        self._listed = asyncio.Event()
        self._listed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()

    def start(self) -> None:
        self.state = "starting"
        self._task = asyncio.create_task(self._maintain())

    async def ready(self, timeout_s: float) -> bool:
        """Wait until it can be called; False when it cannot within the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_ready.wait()
        return self.state == "ready"

    async def stop(self) -> None:
        self.state = "stopped"
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.link is not None:
            await self.link.close()
            self.link = None

    async def freshen(self) -> bool:
        """Before a call: whether the catalogue had to be read again, which is then done."""
        if self.link is None or time.monotonic() - self._listed_at < FRESH_S:
            return False
        self._listed.clear()
        self._stale.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(FRESH_WAIT_S):
                await self._listed.wait()
        return True

    async def request(self, call: Call, exchange: Exchange) -> Raw:
        """One request. Raises `RpcError`: the server's own, or ours when it cannot be had."""
        link = self.link
        if link is None:
            raise self.unavailable()
        if self._waiting >= MAX_WAITING and self._slots.locked():
            raise RpcError(UNAVAILABLE, f"{self.name} has {self._waiting} calls waiting already.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            with _Deadline(exchange, self.spec.timeout_s, self._overdue) as timed:
                result = await link.request(call, timed)
        except TimeoutError:
            reason = f"It did not answer within {self.spec.timeout_s:g} s."
            raise self._failed(LinkDown(reason, may_have_run=True), link) from None
        except LinkDown as down:
            raise self._failed(down, link) from None
        finally:
            self._slots.release()
        self.faults = 0
        return result

    def _failed(self, down: LinkDown, link: Link) -> RpcError:
        self.faults += down.is_fault
        if link is self.link and (down.is_final or self.faults >= FAULTS_UNTIL_DOWN):
            self.lose(down.reason)
        doubt = " The call may have had its effect; look before you repeat it." if down.may_have_run else ""
        data = {"code": "unavailable", "server": self.name, "may_have_run": down.may_have_run}
        return RpcError(UNAVAILABLE, f"{self.name}: {down.reason}{doubt}", data)

    def unavailable(self) -> RpcError:
        wait = max(0.0, self.next_try_at - time.monotonic())
        when = f" It is tried again in {wait:.0f} s." if self.state == "down" else ""
        data = {"code": "unavailable", "server": self.name, "state": self.state, "retry_after_s": round(wait, 1)}
        return RpcError(UNAVAILABLE, f"{self.name} is {self.state}: {self.reason or 'not connected yet.'}{when}", data)

    def lose(self, reason: str) -> None:
        """The connection is of no use any more: calls fail at once until the background task has a new one."""
        self._down(reason)
        self._lost.set()

    def on_event(self, method: str, params: Params, owner: str | None) -> None:
        if method in LIST_CHANGED:
            owner = None  # a list is the same for all
        if method == "notifications/tools/list_changed":
            self._stale.set()
        for listener in tuple(self.listeners):
            listener(method, params, owner)

    async def _maintain(self) -> None:
        wait = FIRST_RETRY_S
        while True:
            began = time.monotonic()
            link: Link | None = None
            wake: Callable[[], Awaitable[None]] | None = None
            self._lost.clear()
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    link = await self._connect(self)
                    self.tools = await _list_tools(link)
                self._up(link)
                await self._watch(link)
            except asyncio.CancelledError:
                raise
            except TimeoutError:
                self._down(f"It was not ready within {START_TIMEOUT_S:g} s.")
            except LinkDown as error:
                self._down(error.reason)
                wake = error.wake
            except Exception as error:
                log.exception("%s: the connection broke on our side", self.name)
                self._down(f"The gateway failed to talk to it: {type(error).__name__}.")
            finally:
                if link is not None:
                    self.link = None
                    await link.close()
            if time.monotonic() - began > LAST_RETRY_S:
                wait = FIRST_RETRY_S  # it was well for a while: this is a new trouble
            self.restarts += 1
            self.next_try_at = time.monotonic() + wait
            pause = wait * random.uniform(0.8, 1.2)  # noqa: S311 - spreads retries, keeps no secret
            wait = FIRST_RETRY_S if await _woken(wake, pause) else min(wait * 2, LAST_RETRY_S)

    def _up(self, link: Link) -> None:
        self.link, self.state, self.reason, self.faults = link, "ready", "", 0
        self._note_listed()
        self._is_ready.set()
        self.on_change(self)

    def _note_listed(self) -> None:
        self._listed_at = time.monotonic()
        self._listed.set()

    def _down(self, reason: str) -> None:
        if self.state != "stopped":
            self.state = "down"
        reason = self.mask(reason)
        self.link, self.reason = None, reason
        self._is_ready.clear()
        log.warning("%s is down: %s", self.name, reason)
        self.on_change(self)

    async def _watch(self, link: Link) -> None:
        """Until the connection is lost: read the catalogue again when it changes, and now and then."""
        listening = asyncio.create_task(_listen(link))
        try:
            while not self._lost.is_set():
                await _first(self._lost, self._stale, timeout_s=REFRESH_S)
                if self._lost.is_set():
                    return
                self._stale.clear()
                async with asyncio.timeout(self.spec.timeout_s):
                    tools = await _list_tools(link)
                if tools != self.tools:
                    self.tools = tools
                    self.on_change(self)
                self._note_listed()
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


async def _listen(link: Link) -> None:
    """Keep events flowing. Servers without them are asked again by time."""
    while True:
        with suppress(LinkDown, RpcError):
            await link.listen(Client("gateway"))
        await asyncio.sleep(REFRESH_S)


async def _woken(wake: Callable[[], Awaitable[None]] | None, pause: float) -> bool:
    """Sleep; True when woken before the time."""
    if wake is None:
        await asyncio.sleep(pause)
        return False
    try:
        async with asyncio.timeout(pause):
            await wake()
    except TimeoutError:
        return False
    return True


async def _first(*events: asyncio.Event, timeout_s: float) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _list_tools(link: Link) -> list[Params]:
    """All pages. Raises `LinkDown` when it cannot be read or does not end."""
    if "tools" not in link.facts.capabilities:
        return []
    tools: list[Params] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        params: Params = {} if cursor is None else {"cursor": raw(cursor)}
        try:
            page = read_object(await link.request(Call("tools/list", params), Silent()))
        except RpcError as error:
            raise LinkDown(f"It does not list its tools: {error}") from None
        tools += _tools_of(page)
        cursor = read_text(page.get("nextCursor"))
        if cursor is None:
            return tools
        if len(tools) > MAX_TOOLS:
            break
    raise LinkDown(f"Its list of tools does not end: {len(tools)} so far.")


def _tools_of(page: Params) -> list[Params]:
    try:
        found: list[dict[str, Any]] = msgspec.json.decode(page.get("tools", b"[]"), type=list[dict[str, Raw]])
    except (msgspec.MsgspecError, RecursionError):
        raise LinkDown("Its list of tools cannot be read.") from None
    return [{key: Raw(bytes(value)) for key, value in tool.items()} for tool in found]
