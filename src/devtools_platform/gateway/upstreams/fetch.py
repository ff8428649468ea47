"""One small request to somebody's HTTP service: addresses checked, size and time bounded, no redirects, no cookies.

For metadata, keys and tokens, which are off the call path. Requests and answers are httpx2's, as the SDK's OAuth
helpers take them; what carries them is our own client.
"""

import asyncio
import ssl
from dataclasses import dataclass

import httpx2

from devtools_platform.core.errors import DevToolsError, Forbidden, Unavailable
from devtools_platform.gateway.upstreams.addresses import parse_target
from devtools_platform.gateway.upstreams.http_client import HttpClient, HttpError

MAX_BYTES = 256_000
TIMEOUT_S = 10.0
_OURS = frozenset({"host", "content-length", "connection", "accept-encoding"})


@dataclass(frozen=True)
class Fetch:
    """Sends requests. Plain http and private addresses are for servers that were allowed them."""

    tls: ssl.SSLContext
    allow_private: bool

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Raises `Unavailable`, `Forbidden`, `BadInput`; none of them says what was sent."""
        target = parse_target(str(request.url))
        if not target.is_tls and not self.allow_private:
            raise Forbidden(
                f"{target.origin} is no https address: tokens and keys do not travel in the open.",
                hint="If it is a server of your own network, allow private addresses for it.",
            )
        client = HttpClient(target, tls=self.tls, allow_private=self.allow_private)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OURS}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await client.send(
                    request.method, {**headers, "connection": "close"}, request.content, max_bytes=MAX_BYTES
                )
                if reply.is_stream:
                    return httpx2.Response(reply.status, headers=_text(reply.headers), request=request)
                body = await reply.body()
        except DevToolsError:
            raise
        except TimeoutError:
            raise Unavailable(f"{target.origin} did not answer within {TIMEOUT_S:g} s.", hint="Try again.") from None
        except (HttpError, OSError) as error:
            raise Unavailable(f"{target.origin}: {error}", hint="Try again.") from None
        finally:
            client.close()
        return httpx2.Response(reply.status, headers=_text(reply.headers), content=body, request=request)


def _text(headers: dict[bytes, bytes]) -> dict[str, str]:
    """Without what describes the encoding of a body that has been read already."""
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
    return {name: value for name, value in found.items() if name not in {"transfer-encoding", "content-encoding"}}
