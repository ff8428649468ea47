"""Tokens of people and managed agents: shown once, stored as a hash, scoped, expiring, revocable at once."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from devtools_platform.core.agents import AGENTS, AgentName
from devtools_platform.core.errors import BadInput, DevToolsError, NotFound, Unauthorized, Unavailable
from devtools_platform.core.tools import Caller
from devtools_platform.gateway.principal import (
    AGENTS_SCOPE,
    COLLECTIONS,
    TOOLS,
    Principal,
    collections_of,
    run_principal,
)
from devtools_platform.kit.tokens import is_run_token, verify_run_token

if TYPE_CHECKING:
    from devtools_platform.gateway.oidc import OidcCallers

PREFIX = "dtg_"
"""So that scanners, ours among them, know a token of this gateway when they see one."""
DEFAULT_DAYS = 90
MAX_DAYS = 366
MAX_CACHED = 4096
RUN_TOKEN_CACHE_S = 60.0
FOLLOW_S = 2.0
"""How long a token that another process revoked may still count here."""
BLIND_AFTER_S = 30.0
"""For so long named tokens count while nobody can say whether they were revoked."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenRecord:
    """A token as it is stored: everything but the token."""

    id: str
    name: str
    hash: str
    agent: AgentName | None
    task_id: str | None
    scopes: tuple[str, ...]
    per_minute: int | None
    created_at: float
    expires_at: float
    revoked_at: float | None = None

    @property
    def is_valid(self) -> bool:
        return self.revoked_at is None and self.expires_at > time.time()


class TokenStore(Protocol):
    async def load(self) -> Sequence[TokenRecord]: ...

    async def save(self, record: TokenRecord) -> None:
        """Insert or replace by id."""
        ...


class Identity:
    """Who a request comes from. `verify` is on the call path: a hash and a look-up, nothing that waits."""

    def __init__(
        self,
        secret: str,
        store: TokenStore | None = None,
        oidc: "OidcCallers | None" = None,
        agents: Sequence[AgentName] = AGENTS,
    ) -> None:
        self.oidc = oidc
        """Callers whose tokens an OpenID provider made."""
        self._secret = secret
        self._agents = agents
        self._store = store
        self._by_hash: dict[str, TokenRecord] = {}
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()
        self._changes = 0
        self._loaded_at = time.monotonic()
        self._is_blind = False
        if oidc is not None:
            oidc.on_removed = self._known.clear

    def is_for_tools(self, header: bytes) -> bool:
        """Whether an Authorization header has a token that opens tools and nothing else: a named one, or a person's."""
        if PREFIX.encode() in header:
            return True
        return self.oidc is not None and self.oidc.is_one(header.decode("latin-1").partition(" ")[2].strip())

    async def load(self) -> None:
        """Read what is stored. Before it, only run tokens are known."""
        if self._store is None:
            return
        changes = self._changes
        found = {record.hash: record for record in await self._store.load()}
        self._loaded_at, self._is_blind = time.monotonic(), False
        # What was read while one of ours was being stored may be older than that.
        if changes == self._changes and found != self._by_hash:
            self._by_hash = found
            self._known.clear()

    async def follow(self) -> None:
        """Keep up with tokens that other processes make and revoke, until cancelled.

        When the store has been away for too long, named tokens are refused until it is back.
        """
        is_away = False
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                await self.load()
                is_away = False
            except Exception as error:  # it must go on, or a token that is revoked counts for ever
                if not is_away:
                    log.warning("tokens cannot be looked up", exc_info=not isinstance(error, DevToolsError))
                is_away = True
                if time.monotonic() - self._loaded_at > BLIND_AFTER_S:
                    self._is_blind = True
                    self._known.clear()

    def verify(self, header: bytes) -> Principal:
        """From an Authorization header. Raises `Unauthorized`; `Unavailable` while an issuer's keys are not here."""
        known = self._known.get(header)
        now = time.time()
        if known is not None and known[1] > now:
            return known[0]
        kind, _, value = header.decode("latin-1").partition(" ")
        token = value.strip()
        if kind.lower() != "bearer" or not token:
            raise Unauthorized(
                "`/mcp` needs `Authorization: Bearer TOKEN`.", hint="Make a token with `dev-tools token create NAME`."
            )
        principal, until = self._look_up(token, now)
        if len(self._known) >= MAX_CACHED:
            self._known.popitem(last=False)
        self._known[header] = (principal, until)
        return principal

    def _look_up(self, token: str, now: float) -> tuple[Principal, float]:
        if not token.startswith(PREFIX):
            if self.oidc is not None and not is_run_token(token):
                return self.oidc.verify(token)
            return run_principal(verify_run_token(self._secret, token)), now + RUN_TOKEN_CACHE_S
        if self._is_blind:
            raise Unavailable(
                "Nobody can say now whether this token still counts.", hint="The stack's database is away: try again."
            )
        record = self._by_hash.get(hash_token(token))
        if record is None or record.revoked_at is not None:
            raise Unauthorized(
                "The token is not known, or it was revoked.", hint="Make one with `dev-tools token create`."
            )
        if record.expires_at <= now:
            raise Unauthorized(
                f"The token {record.name!r} has expired.", hint=f"Renew it with `dev-tools token rotate {record.id}`."
            )
        return principal_of(record), record.expires_at

    def list_tokens(self) -> list[TokenRecord]:
        """All, the newest first."""
        return sorted(self._by_hash.values(), key=lambda record: -record.created_at)

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str],
        agent: str | None = None,
        task_id: str | None = None,
        days: float = DEFAULT_DAYS,
        per_minute: int | None = None,
    ) -> tuple[TokenRecord, str]:
        """A new token and its one showing. Raises `BadInput`."""
        _check(name, scopes, agent, days, self._agents)
        token = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        record = TokenRecord(
            secrets.token_hex(4),
            name,
            hash_token(token),
            agent,
            task_id,
            tuple(scopes),
            per_minute,
            now,
            now + days * 86_400,
        )
        await self._keep(record)
        return record, token

    async def revoke(self, id_: str) -> TokenRecord:
        """Raises `NotFound`."""
        record = replace(self._find(id_), revoked_at=time.time())
        await self._keep(record)
        return record

    async def rotate(self, id_: str, overlap_s: float = 0) -> tuple[TokenRecord, str]:
        """The same rights under a new token; the old one ends `overlap_s` later, or when it would have.

        Raises `NotFound`.
        """
        old = self._find(id_)
        days = max(1.0, (old.expires_at - old.created_at) / 86_400)
        made = await self.create(
            old.name,
            scopes=old.scopes,
            agent=old.agent,
            task_id=old.task_id,
            days=min(days, MAX_DAYS),
            per_minute=old.per_minute,
        )
        if overlap_s:
            await self._keep(replace(old, expires_at=min(old.expires_at, time.time() + overlap_s)))
        else:
            await self.revoke(id_)
        return made

    async def _keep(self, record: TokenRecord) -> None:
        self._changes += 1
        if self._store is not None:
            await self._store.save(record)
        self._changes += 1
        self._by_hash[record.hash] = record
        self._known.clear()

    def _find(self, id_: str) -> TokenRecord:
        for record in self._by_hash.values():
            if record.id == id_:
                return record
        raise NotFound(f"There is no token {id_!r}.", hint="See `dev-tools token list`.")


def principal_of(record: TokenRecord) -> Principal:
    """A token for no agent is a person's."""
    opened = collections_of(record.scopes)
    caller = Caller(record.task_id or f"token:{record.id}", record.agent or "person", collections=opened)
    return Principal(
        f"token:{record.id}", record.name, caller, record.agent, record.scopes, record.per_minute, record.expires_at
    )


def hash_token(token: str) -> str:
    """Of 256 random bits a plain hash is enough: there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def describe(record: TokenRecord) -> Mapping[str, object]:
    """A token as people see it: no hash."""
    facts = {key: value for key, value in vars(record).items() if key != "hash"}
    return {**facts, "scopes": list(record.scopes), "is_valid": record.is_valid}


def _check(name: str, scopes: Sequence[str], agent: str | None, days: float, agents: Sequence[str]) -> None:
    if not 0 < len(name) <= 100:  # noqa: PLR2004 - fits a table
        raise BadInput("A token needs a name of at most 100 characters.", hint="Name it for who uses it.")
    if agent is not None and agent not in agents:
        raise BadInput(f"{agent!r} is no agent.", hint=f"One of {', '.join(agents)}.")
    kinds = (TOOLS, COLLECTIONS, AGENTS_SCOPE)
    if not scopes or any(not scope.startswith(kinds) or len(scope) > 200 for scope in scopes):  # noqa: PLR2004
        raise BadInput(
            f"The scopes are {list(scopes)!r}.",
            hint="Write them as tools:SERVER_TOOL, context:COLLECTION or agents:NAME, `*` allowed: tools:git_*.",
        )
    if not 0 < days <= MAX_DAYS:
        raise BadInput(f"A token lasts up to {MAX_DAYS} days, not {days!r}.")
