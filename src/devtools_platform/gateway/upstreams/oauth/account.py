"""A server's sign-in as the gateway uses it: read from where a person's login put it, renewed before it expires.

Renewing happens here and in background tasks; of many that find a token refused, one renews and all take the result.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx2
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth, union_scopes
from mcp.shared.auth import OAuthClientInformationFull

from devtools_platform.core.errors import DevToolsError
from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.gateway.upstreams.http_client import Reply
from devtools_platform.gateway.upstreams.http_link import Headers
from devtools_platform.gateway.upstreams.link import LinkDown
from devtools_platform.gateway.upstreams.oauth.clients import KnownClient
from devtools_platform.gateway.upstreams.oauth.tokens import refresh, revoke
from devtools_platform.gateway.upstreams.oauth.types import Credential, SignInEnded, SignInFailed, Vault

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often we look whether a person has signed in or out."""
FORCED_EVERY_S = 30.0
"""A server that refuses good tokens does not make us ask for new ones without end."""
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
Learn = Callable[[str, Iterable[str]], None]
"""Called with a server's name and values that must be shown to nobody."""


@dataclass
class Account:
    """Of one server. Outlives its connections: a renewal that was begun must be written down, whatever happens."""

    server: str
    url: str
    known: KnownClient
    fetch: Fetch
    vault: Vault
    learn: Learn
    credential: Credential | None = None
    _seen: object = None
    _renewing: "asyncio.Task[Credential] | None" = None
    _next_forced: float = 0.0

    def load(self) -> Credential | None:
        """What is stored now, if it is for this server's present address."""
        self._seen = self.vault.version(self.server)
        found = self.vault.load(self.server)
        if found is None or found.url != self.url or found.token is None or not self._is_client(found):
            self.credential = None
        else:
            self.learn(self.server, found.values())
            self.credential = found
        return self.credential

    async def ready(self) -> Credential:
        """A credential that is good now. Raises `LinkDown` that says how to get one."""
        found = self.load()
        if found is None:
            raise self.needs_login("Nobody has signed in yet.")
        if not found.is_expired:
            return found
        try:
            return await self.renew(found)
        except SignInFailed as error:
            raise self.needs_login(str(error)) from None
        except DevToolsError as error:
            raise LinkDown(f"Its sign-in has expired and cannot be renewed now: {error}") from None

    async def renew(self, stale: Credential) -> Credential:
        """What comes after `stale`. Raises `SignInFailed`, `Unavailable`, `Forbidden`."""
        if (newer := self._newer(stale)) is not None:
            return newer
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(stale))
            self._renewing.add_done_callback(self._renewed)
        return await asyncio.shield(self._renewing)

    async def renew_refused(self, stale: Credential) -> Credential | None:
        """After a 401: one renewal now and then. None when the server refuses what was just renewed."""
        if (newer := self._newer(stale)) is not None:
            return newer
        now = time.monotonic()
        if self._renewing is None and now < self._next_forced:
            return None
        self._next_forced = now + FORCED_EVERY_S
        return await self.renew(stale)

    def _newer(self, stale: Credential) -> Credential | None:
        return self.credential if self.credential is not None and not self.credential.is_same(stale) else None

    async def settle(self) -> None:
        """Let a renewal that is under way come to its end."""
        if self._renewing is not None:
            with suppress(DevToolsError):
                await asyncio.shield(self._renewing)

    async def changed(self) -> None:
        """Wait until somebody else has stored or removed something."""
        while self.vault.version(self.server) == self._seen:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(LOOK_S)

    async def revoke(self, credential: Credential) -> bool:
        """Tell its issuer that it is over. False when that cannot be told."""
        return await revoke(self.fetch, credential, self._client_of(credential))

    def needs_login(self, reason: str, scope: str = "") -> LinkDown:
        more = f" --scope '{scope}'" if scope else ""
        text = f"{reason.rstrip('.')}. A person must sign in: `dev-tools tools login {self.server}{more}`."
        return LinkDown(text, is_fault=not scope, is_final=not scope, wake=self.changed)

    async def _renew(self, stale: Credential) -> Credential:
        try:
            made = await refresh(self.fetch, stale, self._client_of(stale))
        except SignInEnded as error:
            client = stale.client.model_copy(update={"issuer": None}) if error.is_of_client else stale.client
            ended = stale.model_copy(update={"token": None, "client": client, "saved_at": time.time()})
            await asyncio.to_thread(self.vault.save, ended, instead_of=stale)
            self.credential = None
            raise
        self.learn(self.server, made.values())
        if await asyncio.to_thread(self.vault.save, made, instead_of=stale):
            self.credential = made
            return made
        found = self.load()
        if found is None:
            raise SignInEnded("Somebody has signed out.")
        return found

    def _renewed(self, task: "asyncio.Task[Credential]") -> None:
        self._renewing = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s: the sign-in was not renewed: %s", self.server, error)

    def _is_client(self, found: Credential) -> bool:
        """Whether it was given to the client the catalogue names, if it names one."""
        return self.known.client_id in {None, found.client.client_id}

    def _client_of(self, credential: Credential) -> OAuthClientInformationFull:
        fixed = self.known.fixed()
        if fixed is None:
            return credential.client
        return credential.client.model_copy(update={"client_secret": fixed.client_secret})


class SignedHeaders(Headers):
    """Headers of one connection that carry its account's token, whichever that is at the time."""

    def __init__(self, fixed: Mapping[str, str], account: Account, lose: Callable[[str], None]) -> None:
        super().__init__(fixed)
        self.account = account
        self._fixed = dict(fixed)
        self._lose = lose
        self._credential: Credential | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises `LinkDown`."""
        self._use(await self.account.ready())
        self._task = asyncio.create_task(self._keep())

    async def renewed(self, reply: Reply, used: Mapping[str, str]) -> bool:
        """After a 401 or 403: whether it is worth sending the request again. Raises `LinkDown` for a missing scope."""
        if reply.status == 403:  # noqa: PLR2004 - HTTP's own number
            self._refuse_scope(reply.headers.get(b"www-authenticate", b"").decode("latin-1"))
            return False
        stale = self._credential
        if used is not self.values:
            return True
        if stale is None:
            return False
        try:
            found = await self.account.renew_refused(stale)
        except SignInFailed as error:
            raise self.account.needs_login(str(error)) from None
        except DevToolsError as error:
            raise LinkDown(f"It refuses our token, and there is no new one now: {error}") from None
        if found is None:
            raise self.account.needs_login("It refuses the token that was just renewed")
        self._use(found)
        return True

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.account.settle()

    def _use(self, credential: Credential) -> None:
        if self._credential is not None and credential.is_same(self._credential):
            return
        assert credential.token is not None  # noqa: S101 - `Account` hands out no other
        self._credential = credential
        self.values = {**self._fixed, "authorization": f"Bearer {credential.token.access_token}"}

    def _refuse_scope(self, challenge: str) -> None:
        answer = httpx2.Response(403, headers={"www-authenticate": challenge})
        if extract_field_from_www_auth(answer, "error") != "insufficient_scope":
            return
        wanted = " ".join(_SCOPE.findall(extract_scope_from_www_auth(answer) or "")).replace("'", "")
        held = self._credential.scope if self._credential is not None else None
        scope = union_scopes(held, wanted) or ""
        missing = f"the scope {wanted!r}" if wanted else "a larger scope"
        raise self.account.needs_login(f"It wants {missing}, which our sign-in lacks", scope)

    async def _keep(self) -> None:
        """Renew in time, and take over what a person does, for as long as the connection lives."""
        wait = FIRST_RETRY_S
        while self._credential is not None:
            due = self._credential.renew_at
            pause = None if due is None else max(0.0, due - time.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.account.changed()
                    found = self.account.load()
                    if found is None:
                        self._lose(self.account.needs_login("Somebody has signed out").reason)
                        return
                    self._use(found)
                    continue
            try:
                self._use(await self.account.renew(self._credential))
                wait = FIRST_RETRY_S
            except SignInFailed as error:
                self._lose(self.account.needs_login(str(error)).reason)
                return
            except DevToolsError:
                await asyncio.sleep(wait)  # the old token is good for a while
                wait = min(2 * wait, LAST_RETRY_S)
