"""Dense vectors from any OpenAI-compatible endpoint (`POST {base}/embeddings`): DigitalOcean, Ollama, your own.

Every call is bounded in time and size. Background work is tried again where that can help; a question is tried
once and briefly, and after a failure questions go by words for a while instead of waiting each time.
"""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from http import HTTPStatus

import httpx2

from devtools_platform.core.errors import Unavailable
from devtools_platform.core.redact import redact_text
from devtools_platform.kit.tls import tls_context

MAX_CHARS = 8_000
"""Of one text; about what 2,000 tokens hold, which every such model takes."""
MAX_ANSWER_BYTES = 20_000_000
TIMEOUT_S = 60.0
QUESTION_TIMEOUT_S = 3.0
TRIES = 4
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
QUIET_S = 30.0
"""How long no question is asked after one has failed."""
_HINT = "See DEV_TOOLS_EMBEDDING_BASE_URL, DEV_TOOLS_EMBEDDING_MODEL, DEV_TOOLS_EMBEDDING_SIZE and the key."


class _Refused(Unavailable):
    """An answer that trying again will not change."""


class _TryAgain(Exception):
    def __init__(self, message: str, wait_s: float | None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class EndpointEmbedder:
    """`Embedder`."""

    reads_code = True

    def __init__(
        self,
        base_url: str,
        model: str,
        size: int,
        api_key: str | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.id = f"{model}-{size}"
        self.size = size
        self._model = model
        self._url = base_url.rstrip("/") + "/embeddings"
        self._first_wait_s = first_wait_s
        self._http = httpx2.AsyncClient(
            verify=tls_context(), headers=headers, transport=transport, trust_env=False, timeout=TIMEOUT_S
        )
        self._quiet_until = 0.0

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A unit vector per text. Raises `Unavailable` when the endpoint refuses, or has failed four times."""
        wait_s = self._first_wait_s
        for attempt in range(1, TRIES + 1):
            try:
                return await self._ask(texts, TIMEOUT_S)
            except _TryAgain as error:
                if attempt == TRIES:
                    raise self._away(f"{error} after {TRIES} tries") from None
                asked_s = error.wait_s
            await asyncio.sleep(min(LONGEST_WAIT_S, wait_s if asked_s is None else asked_s))
            wait_s *= 2
        raise AssertionError("the last attempt returns or raises")

    async def embed_query(self, text: str) -> list[float]:
        if time.monotonic() < self._quiet_until:
            raise self._away("it failed a moment ago")
        try:
            return (await self._ask([text], QUESTION_TIMEOUT_S))[0]
        except (_TryAgain, Unavailable) as error:
            self._quiet_until = time.monotonic() + QUIET_S
            raise error if isinstance(error, Unavailable) else self._away(str(error)) from None

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(self, texts: Sequence[str], timeout_s: float) -> list[list[float]]:
        asked = [text[:MAX_CHARS] or " " for text in texts]  # an empty text is refused
        body = {"model": self._model, "input": asked, "encoding_format": "float"}
        try:
            async with asyncio.timeout(timeout_s), self._http.stream("POST", self._url, json=body) as response:
                content = await _read(response)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise _TryAgain(f"no answer ({str(error) or type(error).__name__})", None) from None
        if (
            response.status_code == HTTPStatus.TOO_MANY_REQUESTS
            or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
        ):
            raise _TryAgain(f"status {response.status_code}", _read_wait(response))
        if response.is_error:
            said = redact_text(content.decode(errors="replace"))[:300]
            raise _Refused(f"{self._url} refuses with {response.status_code}: {said}", hint=_HINT)
        return self._read_vectors(content, len(asked))

    def _read_vectors(self, content: bytes, count: int) -> list[list[float]]:
        try:
            rows = sorted(json.loads(content)["data"], key=lambda row: row["index"])
            vectors = [[float(value) for value in row["embedding"]] for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise _Refused(f"{self._url} does not answer as an embeddings endpoint: {error!r}.", hint=_HINT) from None
        sizes = {len(vector) for vector in vectors}
        if len(vectors) != count or sizes != {self.size}:
            found = f"{len(vectors)} vectors of {', '.join(map(str, sorted(sizes))) or 'no'} numbers"
            raise _Refused(f"{self._url} gave {found}, not {count} of {self.size}.", hint=_HINT)
        return [_unit(vector, self._url) for vector in vectors]

    def _away(self, why: str) -> Unavailable:
        return Unavailable(f"The embeddings endpoint {self._url}: {why}.", hint=_HINT)


async def _read(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            raise _Refused(f"The embeddings endpoint answers more than {MAX_ANSWER_BYTES} bytes.", hint=_HINT)
    return bytes(content)


def _read_wait(response: httpx2.Response) -> float | None:
    try:
        wait_s = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return wait_s if 0 <= wait_s < math.inf else None


def _unit(vector: list[float], url: str) -> list[float]:
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise _Refused(f"{url} gave a vector without a direction.", hint=_HINT)
    return [value / length for value in vector]
