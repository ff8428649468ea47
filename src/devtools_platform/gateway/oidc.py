"""Callers with a token of an OpenID provider: the gateway as a resource server.

`verify` is on the call path and never waits. The issuer's keys are fetched by a task of their own; a token signed with
a key that is not known is refused at once, and makes that task look again, now and then.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt
import msgspec
from prometheus_client import Counter

from devtools_platform.core.errors import DevToolsError, Unauthorized, Unavailable
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.mcp.messages import as_list, as_object, decode
from devtools_platform.gateway.principal import COLLECTIONS, TOOLS, Principal, collections_of
from devtools_platform.gateway.upstreams.fetch import Fetch

log = logging.getLogger(__name__)

FETCHES = Counter("devtools_oidc_key_fetches_total", "Fetches of the issuer's keys", ["outcome"])

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
"""Public keys only: with a shared secret whoever verifies could also sign."""
MAX_TOKEN_BYTES = 8_192
MAX_KEYS = 100
MAX_SCOPES = 100
MAX_TEXT = 200
LEEWAY_S = 30.0
REFRESH_S = 600.0
REFETCH_EVERY_S = 10.0
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
KEYS_LAST_S = 24 * 3600.0
"""Without news of the issuer its keys count for so long and no longer."""
OPTIONS: Any = {
    "require": ["exp", "iss", "aud", "sub"],
    "enforce_minimum_key_length": True,
}


@dataclass(frozen=True)
class Trust:
    """Whose tokens count, and what they permit."""

    issuer: str
    audience: str
    claim: str = "scope"
    """The claim with what the holder may do: a text with spaces, or a list."""
    scopes_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Scopes of values that are no scopes themselves, such as the groups of a directory."""

    def scopes(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        value = claims.get(self.claim)
        held = value.split() if isinstance(value, str) else [v for v in as_list(value) if isinstance(v, str)]
        ours = (TOOLS, COLLECTIONS)
        found = [scope for v in held for scope in ((v,) if v.startswith(ours) else self.scopes_of.get(v, ()))]
        return tuple(dict.fromkeys(scope for scope in found if len(scope) <= MAX_TEXT))[:MAX_SCOPES]


class OidcCallers:
    """Use `start` and `stop`."""

    def __init__(self, trust: Trust, fetch: Fetch, *, refetch_every_s: float = REFETCH_EVERY_S) -> None:
        self.trust = trust
        self.on_removed: Callable[[], None] = lambda: None
        """Called when a key that counted does so no longer."""
        self._fetch = fetch
        self._refetch_every_s = refetch_every_s
        self._hash = hashlib.sha256(trust.issuer.encode()).hexdigest()[:8]
        self._keys: dict[str, jwt.PyJWK] = {}
        self._raw: dict[str, Any] = {}
        self._fetched_at = 0.0
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def is_one(self, token: str) -> bool:
        """Whether it looks like a token of such a caller: one with a public key's signature."""
        if token.count(".") != 2 or len(token) > MAX_TOKEN_BYTES:  # noqa: PLR2004 - a JWT has three parts
            return False
        try:
            return jwt.get_unverified_header(token).get("alg") in ALGORITHMS
        except jwt.InvalidTokenError:
            return False

    def verify(self, token: str) -> tuple[Principal, float]:
        """Who it names, and until when. Raises `Unauthorized`, and `Unavailable` before there are keys."""
        claims = self._claims(token)
        subject = claims["sub"]
        if not 0 < len(subject) <= MAX_TEXT or not subject.isprintable():
            raise _refused("its `sub` is no name")
        expires_at = float(claims["exp"])
        id_ = f"oidc:{self._hash}/{subject}"
        name = next((n for k in ("email", "preferred_username") if isinstance(n := claims.get(k), str)), subject)
        name = "".join(c for c in name if c.isprintable())[:100]
        scopes = self.trust.scopes(claims)
        caller = Caller(id_, "person", collections=collections_of(scopes))
        return Principal(id_, name, caller, None, scopes, expires_at=expires_at), expires_at

    def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused(f"it is larger than {MAX_TOKEN_BYTES} bytes")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise _refused(f"its algorithm is none of {', '.join(sorted(ALGORITHMS))}")
            return jwt.decode(
                token,
                self._key(header.get("kid")),
                algorithms=list(ALGORITHMS),
                audience=self.trust.audience,
                issuer=self.trust.issuer,
                leeway=LEEWAY_S,
                options=OPTIONS,
            )
        except jwt.PyJWTError as error:
            raise _refused(str(error)) from None

    def _key(self, kid: Any) -> jwt.PyJWK:
        if not self._keys:
            self._wanted.set()
            raise Unavailable(f"The keys of {self.trust.issuer} have not been fetched yet.", hint="Try again soon.")
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        found = self._keys.get(kid) if isinstance(kid, str) else None
        if found is None:
            self._wanted.set()
            raise _refused("it is signed with a key we do not know; its issuer is being asked")
        return found

    async def _run(self) -> None:
        wait = FIRST_RETRY_S
        while True:
            began = time.monotonic()
            self._wanted.clear()
            try:
                self._take(await self._download())
                pause, wait = REFRESH_S, FIRST_RETRY_S
            except DevToolsError as error:
                log.warning("the keys of %s: %s", self.trust.issuer, error)
                FETCHES.labels("error").inc()
                pause, wait = wait, min(2 * wait, LAST_RETRY_S)
                if self._keys and time.monotonic() - self._fetched_at > KEYS_LAST_S:
                    self._keys, self._raw = {}, {}
                    self.on_removed()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            await asyncio.sleep(max(0.0, began + self._refetch_every_s - time.monotonic()))

    def _take(self, found: Mapping[str, Any]) -> None:
        keys: dict[str, jwt.PyJWK] = {}
        for kid, value in found.items():
            with suppress(jwt.PyJWTError):
                key = jwt.PyJWK(value)
                if key.algorithm_name in ALGORITHMS:
                    keys[kid] = key
        lost = any(found.get(kid) != value for kid, value in self._raw.items())
        self._keys, self._raw, self._fetched_at = keys, dict(found), time.monotonic()
        FETCHES.labels("ok").inc()
        if lost:
            self.on_removed()

    async def _download(self) -> dict[str, Any]:
        """The issuer's public signing keys by their ids."""
        uri = await self._find_uri()
        keys = as_list(as_object(await self._get(uri)).get("keys"))[:MAX_KEYS]
        usable = [as_object(key) for key in keys if as_object(key).get("use", "sig") == "sig"]
        found = {str(key.get("kid", "")): key for key in usable if key.get("kty") in {"RSA", "EC", "OKP"}}
        if not found:
            raise Unavailable(f"{uri} has no public key to verify with.", hint="Ask who runs the issuer.")
        return found

    async def _find_uri(self) -> str:
        from mcp.client.auth.utils import build_oauth_authorization_server_metadata_discovery_urls

        for place in build_oauth_authorization_server_metadata_discovery_urls(self.trust.issuer, ""):
            try:
                metadata = as_object(await self._get(place))
            except _NotThere:
                continue
            uri = metadata.get("jwks_uri")
            if metadata.get("issuer") == self.trust.issuer and isinstance(uri, str):
                return uri
        raise Unavailable(f"{self.trust.issuer} publishes no metadata that names it and its keys.")

    async def _get(self, url: str) -> Any:
        answer = await self._fetch(httpx2.Request("GET", url, headers={"accept": "application/json"}))
        if answer.status_code != 200:  # noqa: PLR2004 - HTTP's own number
            raise _NotThere(f"{url} answered HTTP {answer.status_code}.", hint="Ask who runs the issuer.")
        try:
            return decode(answer.content)
        except (msgspec.MsgspecError, RecursionError):
            raise Unavailable(f"{url} is no JSON.", hint="Ask who runs the issuer.") from None


class _NotThere(Unavailable):
    """There may be another place."""


def _refused(why: str) -> Unauthorized:
    return Unauthorized(f"The token is not valid: {why}.", hint="Get a new one from its issuer.")
