"""One request to DigitalOcean: authenticated, bounded, retried only where that is safe, its failure explained.

Reads and full replacements are tried again after server errors and broken connections; what creates something is
tried again only where nothing was created: after a refused connection and after 429.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, SecretStr, ValidationError

from devtools_platform import __version__
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.redact import MASK, redact_text
from devtools_platform.kit.digitalocean.errors import (
    TOKEN_SETTING,
    DigitalOceanFailed,
    DigitalOceanRefused,
    NotThere,
    RateLimited,
    TokenRefused,
)
from devtools_platform.kit.tls import tls_context

API_URL = "https://api.digitalocean.com"
INFERENCE_URL = "https://inference.do-ai.run"

TIMEOUT_S = 30.0
"""One attempt, from connecting to the last byte."""
MAX_ATTEMPTS = 4
MAX_WAIT_S = 60.0
"""A call waits no longer than this for a rate limit; then it is the caller's to come back."""
FIRST_WAIT_S = 0.5
MAX_BODY_BYTES = 8_000_000
MAX_PAGES = 100
PER_PAGE = 100
MAX_DETAIL = 300

_REPEATABLE = frozenset({"GET", "PUT", "DELETE"})

T = TypeVar("T", bound=BaseModel)
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True)
class RateLimit:
    """What DigitalOcean's headers said of the token's limits at the last call."""

    limit: int
    remaining: int
    reset_at: datetime


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx2.Headers
    body: bytes


class Transport:
    """Sends requests with one token to one address. Use as a context manager, or call `aclose`."""

    def __init__(
        self,
        token: SecretStr,
        base_url: str = API_URL,
        *,
        timeout_s: float = TIMEOUT_S,
        max_wait_s: float = MAX_WAIT_S,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.rate_limit: RateLimit | None = None
        """Of the last answer that told it."""
        self._token = token
        self._timeout_s = timeout_s
        self._max_wait_s = max_wait_s
        self._sleep = sleep
        self._http = httpx2.AsyncClient(
            verify=tls_context(),
            base_url=self.base_url,
            headers={
                "Authorization": f"Bearer {token.get_secret_value()}",
                "User-Agent": f"dev-tools/{__version__}",
                "Accept": "application/json",
            },
            timeout=timeout_s,
            # A token must not follow a redirect to somebody else.
            follow_redirects=False,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def read(self, expect: type[T], path: str, params: Mapping[str, Any] | None = None) -> T:
        """GET `path` as an `expect`."""
        return await self.send("GET", path, expect, params=params)

    async def send(
        self,
        method: str,
        path: str,
        expect: type[T],
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> T:
        """Send, and read the answer as an `expect`. Raises the errors of `kit.digitalocean.errors`."""
        answer = await self._attempt(method, path, params, body)
        try:
            return expect.model_validate_json(answer.body or b"{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DigitalOceanFailed(
                f"DigitalOcean's answer to {method} {path} is not what its API describes: {where}: {first['msg']}.",
                hint="Its API may have changed: look for a newer version of Dev-Tools.",
            ) from None

    async def pages(
        self, path: str, expect: type[T], params: Mapping[str, Any] | None = None, *, size: str = "per_page"
    ) -> AsyncGenerator[T]:
        """All pages of a list. `size` is the parameter that says how many items a page has."""
        for page in range(1, MAX_PAGES + 1):
            given = {**(params or {}), "page": page, size: PER_PAGE}
            answer = await self.send("GET", path, expect, params=given)
            yield answer
            if not _has_more(answer, page):
                return
        raise DigitalOceanFailed(f"{path} has more than {MAX_PAGES} pages of {PER_PAGE}.")

    async def _attempt(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Mapping[str, Any] | None
    ) -> _Answer:
        what = f"{method} {path}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            wait = FIRST_WAIT_S * 2 ** (attempt - 1)
            is_last = attempt == MAX_ATTEMPTS
            try:
                answer = await self._once(method, path, params, body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                problem = self._no_answer(what, str(error) or type(error).__name__)
            except TimeoutError:
                problem = self._no_answer(what, f"no whole answer within {self._timeout_s:g} s")
                is_last = is_last or method not in _REPEATABLE
            except httpx2.HTTPError as error:
                problem = self._no_answer(what, str(error) or type(error).__name__)
                is_last = is_last or method not in _REPEATABLE
            else:
                self._note_limits(answer.headers)
                if answer.status < HTTPStatus.BAD_REQUEST:
                    return answer
                problem = self._explain(what, answer)
                if isinstance(problem, RateLimited):
                    wait = problem.retry_after_s or wait
                    is_last = is_last or wait > self._max_wait_s
                else:
                    is_server = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                    is_last = is_last or not is_server or method not in _REPEATABLE
            if is_last:
                raise problem
            await self._sleep(wait)
        raise AssertionError("the last attempt returned or raised")

    async def _once(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Mapping[str, Any] | None
    ) -> _Answer:
        async with (
            asyncio.timeout(self._timeout_s),
            self._http.stream(method, path, params=dict(params) if params else None, json=body) as response,
        ):
            received = bytearray()
            async for piece in response.aiter_bytes():
                received += piece
                if len(received) > MAX_BODY_BYTES:
                    raise DigitalOceanFailed(f"{method} {path} answers with more than {MAX_BODY_BYTES} bytes.")
            return _Answer(response.status_code, response.headers, bytes(received))

    def _note_limits(self, headers: httpx2.Headers) -> None:
        with contextlib.suppress(KeyError, ValueError, OverflowError):
            reset = datetime.fromtimestamp(int(headers["ratelimit-reset"]), UTC)
            self.rate_limit = RateLimit(int(headers["ratelimit-limit"]), int(headers["ratelimit-remaining"]), reset)

    def _no_answer(self, what: str, why: str) -> DigitalOceanFailed:
        return DigitalOceanFailed(
            f"{self.base_url} gave no usable answer to {what}: {self._clean(why)}.",
            hint="Try again later; status.digitalocean.com says whether they have trouble.",
        )

    def _explain(self, what: str, answer: _Answer) -> DevToolsError:
        said = f"DigitalOcean answers {what} with HTTP {answer.status}: {self._message(answer)}"
        match answer.status:
            case HTTPStatus.UNAUTHORIZED:
                hint = f"Set {TOKEN_SETTING} to a valid personal access token; they expire."
                return TokenRefused(said, hint=hint)
            case HTTPStatus.FORBIDDEN:
                hint = f"Give the token of {TOKEN_SETTING} the scope this needs (docs/how-to/digitalocean.md)."
                return TokenRefused(said, hint=hint)
            case HTTPStatus.NOT_FOUND | HTTPStatus.GONE:
                return NotThere(said, hint="See what there is: `dev-tools agents status`.")
            case HTTPStatus.TOO_MANY_REQUESTS:
                wait = retry_after(answer.headers)
                when = "later" if wait is None else f"in {wait:.0f} s"
                return RateLimited(said, retry_after_s=wait, hint=f"Try again {when}.")
            case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return DigitalOceanFailed(said, hint="Try again later.")
            case _:
                return DigitalOceanRefused(said, hint="See what the message asks for; docs/how-to/digitalocean.md.")

    def _message(self, answer: _Answer) -> str:
        try:
            body = _ErrorBody.model_validate_json(answer.body)
        except ValidationError:
            return self._clean(answer.body[:MAX_DETAIL].decode(errors="replace") or "no reason given") + "."
        request = f" (request {body.request_id})" if body.request_id else ""
        return f"{self._clean(body.message)}{request}."

    def _clean(self, text: str) -> str:
        """Servers like to repeat what they were sent."""
        text = text.replace(self._token.get_secret_value(), MASK)
        text = " ".join(redact_text(text).split()).rstrip(".")
        return text if len(text) <= MAX_DETAIL else text[:MAX_DETAIL] + "…"


class _ErrorBody(BaseModel):
    message: str
    request_id: str | None = None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until a call may succeed: `Retry-After` as seconds or a date, else `ratelimit-reset` (Unix time)."""
    given = headers.get("retry-after")
    if given is not None:
        with contextlib.suppress(ValueError):
            return max(0.0, float(given))
        with contextlib.suppress(ValueError):
            return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    if headers.get("ratelimit-remaining") == "0":
        with contextlib.suppress(KeyError, ValueError):
            return max(0.0, float(headers["ratelimit-reset"]) - time.time())
    return None


def _has_more(answer: BaseModel, page: int) -> bool:
    """Some lists say how many pages there are, some only link to the next one."""
    meta, links = getattr(answer, "meta", None), getattr(answer, "links", None)
    if meta is not None and meta.pages is not None:
        return page < meta.pages
    return links is not None and links.pages is not None and links.pages.next is not None
