"""Linear over GraphQL: our tokens, what its answers mean, and the courier for our messages.

Every document below is checked in tests against Linear's official schema.
"""

import asyncio
import base64
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import httpx2
from cryptography.fernet import Fernet, InvalidToken

from devtools_platform.core.errors import Unauthorized
from devtools_platform.integrations.interfaces import Refused, Remotes, TryLater
from devtools_platform.integrations.types import Json, Parcel

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
TOKEN_MARGIN_S = 300.0
SIGN_IN_AGAIN_S = 300.0
LIMIT_S = 60.0
SCOPES = "read,write,app:assignable,app:mentionable"

CREATE_ACTIVITY = """
mutation CreateActivity($input: AgentActivityCreateInput!) {
  agentActivityCreate(input: $input) { success agentActivity { id } }
}
"""
FIND_ACTIVITY = """
query FindActivity($id: String!) { agentActivity(id: $id) { id } }
"""
UPDATE_SESSION = """
mutation UpdateSession($id: String!, $input: AgentSessionUpdateInput!) {
  agentSessionUpdate(id: $id, input: $input) { success }
}
"""
LIST_STATES = """
query ListStates($team: String!) {
  team(id: $team) { states(first: 100) { nodes { id name type position } } }
}
"""
UPDATE_ISSUE = """
mutation UpdateIssue($id: String!, $input: IssueUpdateInput!) { issueUpdate(id: $id, input: $input) { success } }
"""
DOCUMENTS = (CREATE_ACTIVITY, FIND_ACTIVITY, UPDATE_SESSION, LIST_STATES, UPDATE_ISSUE)


class Credential(Protocol):
    """What goes into the Authorization header."""

    async def header(self) -> str: ...

    async def renew(self, refused: str) -> bool:
        """`refused` was not taken. Whether there is another now."""
        ...


@dataclass(frozen=True)
class ApiKey:
    """A person's key: goes in bare, acts in that person's name, and is nobody's delegate."""

    value: str

    async def header(self) -> str:
        return self.value

    async def renew(self, refused: str) -> bool:
        return False


class TokenStore(Protocol):
    async def read(self, service: str) -> str | None: ...

    async def write(self, service: str, sealed: str) -> None: ...


@dataclass
class OAuthTokens:
    """An app's tokens: a day long, and each refresh makes the refresh token a new one, so only one may refresh."""

    client_id: str
    client_secret: str
    base_url: str
    http: httpx2.AsyncClient
    store: TokenStore
    secret: str
    """Of the stack; what is stored is encrypted with a key derived from it."""
    clock: Callable[[], float] = time.time
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _known: dict[str, Any] | None = field(default=None, repr=False)

    async def header(self) -> str:
        async with self._lock:
            tokens = await self._load()
            if float(tokens["until"]) - TOKEN_MARGIN_S <= self.clock():
                tokens = await self._refresh(tokens)
            return f"Bearer {tokens['access_token']}"

    async def renew(self, refused: str) -> bool:
        async with self._lock:
            tokens = await self._load()
            if refused == f"Bearer {tokens['access_token']}":
                await self._refresh(tokens)
            return True

    async def exchange(self, code: str, redirect_uri: str) -> None:
        """End a sign-in: the code becomes the first tokens."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        async with self._lock:
            await self._keep(await self._ask(form))

    async def _load(self) -> dict[str, Any]:
        if self._known is None:
            sealed = await self.store.read("linear")
            if sealed is None:
                raise TryLater("Nobody has connected Linear yet.", after_s=SIGN_IN_AGAIN_S)
            self._known = self._open(sealed)
        return self._known

    def _open(self, sealed: str) -> dict[str, Any]:
        try:
            return json.loads(self._box().decrypt(sealed.encode()))
        except InvalidToken:
            raise TryLater("Linear's tokens were sealed by another stack: connect again.",
                           after_s=SIGN_IN_AGAIN_S) from None  # fmt: skip

    async def _refresh(self, tokens: dict[str, Any]) -> dict[str, Any]:
        form = {"grant_type": "refresh_token", "refresh_token": str(tokens["refresh_token"])}
        try:
            return await self._keep(await self._ask(form))
        except Unauthorized:
            self._known = None  # another process may have been faster; if so its tokens are in the store
            stored = await self._load()
            if stored["refresh_token"] == tokens["refresh_token"]:
                raise TryLater("Linear takes our refresh token no more: connect again.",
                               after_s=SIGN_IN_AGAIN_S) from None  # fmt: skip
            return stored

    async def _ask(self, form: dict[str, str]) -> dict[str, Any]:
        data = {**form, "client_id": self.client_id, "client_secret": self.client_secret}
        try:
            response = await self.http.post(f"{self.base_url}/oauth/token", data=data)
        except httpx2.HTTPError as error:
            raise TryLater(f"Linear's tokens could not be renewed: {type(error).__name__}.") from None
        if response.status_code in {400, 401}:
            raise Unauthorized("Linear refuses the sign-in.", hint="Run `dev-tools integrations connect linear`.")
        if not response.is_success:
            raise TryLater(f"Linear answers {response.status_code} to a sign-in.")
        return response.json()

    async def _keep(self, answer: dict[str, Any]) -> dict[str, Any]:
        tokens = {
            "access_token": answer["access_token"],
            "refresh_token": answer.get("refresh_token"),
            "until": self.clock() + float(answer["expires_in"]),
        }
        # Stored before it is used: a refresh token that is lost can only be replaced by a person.
        await self.store.write("linear", self._box().encrypt(json.dumps(tokens).encode()).decode())
        self._known = tokens
        return tokens

    def _box(self) -> Fernet:
        key = hashlib.sha256(b"dev-tools linear tokens\0" + self.secret.encode()).digest()
        return Fernet(base64.urlsafe_b64encode(key))


@dataclass
class Linear:
    """GraphQL calls."""

    base_url: str
    credential: Credential
    http: httpx2.AsyncClient
    clock: Callable[[], float] = time.time

    async def call(self, document: str, variables: Json) -> dict[str, Any]:
        """The answer's `data`. Raises `Refused` for good, `TryLater` for now."""
        header = await self.credential.header()
        response = await self._post(header, document, variables)
        if _is_unauthenticated(response) and await self.credential.renew(header):
            response = await self._post(await self.credential.header(), document, variables)
        return self._read(response)

    async def _post(self, header: str, document: str, variables: Json) -> httpx2.Response:
        body = {"query": document, "variables": dict(variables)}
        try:
            return await self.http.post(f"{self.base_url}/graphql", json=body, headers={"Authorization": header})
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise TryLater(f"Linear cannot be reached: {type(error).__name__}.") from None
        except httpx2.HTTPError as error:
            raise TryLater(f"Linear's answer was lost: {type(error).__name__}.", is_in_doubt=True) from None

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        if response.status_code >= 500:  # noqa: PLR2004 - HTTP's own number
            raise TryLater(f"Linear answers {response.status_code}.", is_in_doubt=True)
        errors = _errors(response)
        codes = _codes(errors)
        if response.status_code == 429 or "RATELIMITED" in codes:  # noqa: PLR2004 - HTTP's own number
            raise TryLater("Linear's rate limit.", after_s=self._wait(response))
        if _is_unauthenticated(response):
            raise TryLater("Linear does not know our token: connect again.", after_s=SIGN_IN_AGAIN_S)
        if errors or not response.is_success:
            said = "; ".join(str(error.get("message")) for error in errors)[:500] or str(response.status_code)
            raise Refused(f"Linear refuses: {said}", hint="See `dev-tools integrations show`.")
        return response.json()["data"]

    def _wait(self, response: httpx2.Response) -> float:
        after = response.headers.get("retry-after", "")
        if after.isdigit():
            return float(after)
        reset = response.headers.get("x-ratelimit-requests-reset", "")  # milliseconds since 1970
        return max(1.0, float(reset) / 1000 - self.clock()) if reset.isdigit() else LIMIT_S


def _errors(response: httpx2.Response) -> list[dict[str, Any]]:
    try:
        return list(response.json().get("errors") or ())
    except (ValueError, AttributeError):
        return []


def _codes(errors: list[dict[str, Any]]) -> set[str]:
    extensions = [cast("dict[str, Any]", error.get("extensions") or {}) for error in errors]
    return {str(extension.get("code")) for extension in extensions}


def _is_unauthenticated(response: httpx2.Response) -> bool:
    return response.status_code == 401 or "AUTHENTICATION_ERROR" in _codes(_errors(response))  # noqa: PLR2004 - HTTP's own number


@dataclass
class LinearCourier:
    """See `interfaces.Courier`."""

    linear: Linear
    remotes: Remotes
    github_web: str = "https://github.com"
    _states: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    async def send(self, parcel: Parcel) -> str | None:
        kind = parcel.message.kind
        if kind == "activity":
            return await self._activity(parcel)
        if kind == "session":
            body = parcel.message.body
            await self.linear.call(UPDATE_SESSION, {"id": body["session"], "input": body["input"]})
            return None
        return await self._move_issue(parcel.message.body)

    async def _activity(self, parcel: Parcel) -> None:
        """The id is ours and derived from the key, so an activity cannot be there twice."""
        body, id_ = parcel.message.body, activity_id(parcel.message.key)
        if parcel.is_in_doubt and await self._is_there(id_):
            return
        given: dict[str, Any] = {"id": id_, "agentSessionId": body["session"], "content": await self._content(body)}
        if body.get("ephemeral"):
            given["ephemeral"] = True
        if body.get("signal"):
            given |= {"signal": body["signal"], "signalMetadata": {"options": body["options"]}}
        try:
            await self.linear.call(CREATE_ACTIVITY, {"input": given})
        except Refused:
            if not await self._is_there(id_):
                raise

    async def _content(self, body: Json) -> Json:
        content = body["content"]
        pull = await self.remotes.find_remote(str(body["pull_place"])) if body.get("pull_place") else None
        if pull is None:
            return content
        url = f"{self.github_web}/{body['owner']}/{body['repo']}/pull/{pull}"
        return {**content, "body": f"{content['body']}\n\nPull request: {url}"}

    async def _is_there(self, id_: str) -> bool:
        try:
            return bool((await self.linear.call(FIND_ACTIVITY, {"id": id_})).get("agentActivity"))
        except Refused:
            return False

    async def _move_issue(self, body: Json) -> None:
        team = str(body["team"])
        if team not in self._states:
            answer = await self.linear.call(LIST_STATES, {"team": team})
            self._states[team] = answer["team"]["states"]["nodes"]
        state = choose_state(self._states[team], str(body["state"]))
        if state is not None:
            await self.linear.call(UPDATE_ISSUE, {"id": body["issue"], "input": {"stateId": state}})


def choose_state(states: list[dict[str, Any]], wanted: str) -> str | None:
    """The team's state for `started` (the first of that type) or `review` (the last, where there is more than one)."""
    started = sorted((s for s in states if s["type"] == "started"), key=lambda s: float(s["position"]))
    if not started or (wanted == "review" and len(started) == 1):
        return None
    return str(started[-1 if wanted == "review" else 0]["id"])


def activity_id(key: str) -> str:
    """A UUID, v4 in form as Linear asks, that the same key always makes."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"dev-tools activity\0{key}".encode()).digest()[:16], version=4))
