"""GitHub over HTTP: how we are known there, what its answers mean, and the courier for our messages.

Not a general client: the operations this stack uses, checked in tests against the official description.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2
import jwt

from devtools_platform.core.errors import DevToolsError
from devtools_platform.integrations.interfaces import Refused, Remotes, TryLater
from devtools_platform.integrations.publication import marker
from devtools_platform.integrations.types import Json, Parcel

log = logging.getLogger(__name__)

API_VERSION = "2022-11-28"
TIMEOUT_S = 30.0
TOKEN_MARGIN_S = 120.0
SECONDARY_LIMIT_S = 60.0
"""GitHub's advice where it names no time: wait at least a minute."""
FULL_PAGE = 100


class Answered(Refused):
    """GitHub's answer is an error that will not pass."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"GitHub answers {status}: {message}", hint="See `dev-tools integrations show`.")
        self.http_status = status


class Identity(Protocol):
    """How we are known at GitHub."""

    is_app: bool
    """Only an App may write check runs."""

    async def token(self, owner: str, installation: int | None) -> str: ...

    def drop(self, token: str) -> None:
        """This token was refused: the next call must bring another, if there can be one."""
        ...


@dataclass
class PersonalToken:
    """A token somebody gave us: no check runs, and comments in that person's name."""

    value: str
    is_app: bool = False

    async def token(self, owner: str, installation: int | None) -> str:
        return self.value

    def drop(self, token: str) -> None:
        return


@dataclass
class AppIdentity:
    """A GitHub App. Installation tokens last an hour; of many callers one fetches the next."""

    app_id: str
    private_key: str
    base_url: str
    http: httpx2.AsyncClient
    clock: Callable[[], float] = time.time
    is_app: bool = True
    _tokens: dict[int, tuple[str, float]] = field(default_factory=dict[int, tuple[str, float]], repr=False)
    _installations: dict[str, int] = field(default_factory=dict[str, int])
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def token(self, owner: str, installation: int | None) -> str:
        async with self._lock:
            id_ = installation or self._installations.get(owner.lower()) or await self._find(owner)
            value, until = self._tokens.get(id_, ("", 0.0))
            if until - TOKEN_MARGIN_S > self.clock():
                return value
            answer = await self._call("POST", f"/app/installations/{id_}/access_tokens")
            self._tokens[id_] = (str(answer["token"]), self.clock() + 3600.0)
            return self._tokens[id_][0]

    def drop(self, token: str) -> None:
        self._tokens = {id_: kept for id_, kept in self._tokens.items() if kept[0] != token}

    async def _find(self, owner: str) -> int:
        installations = await self._call("GET", f"/app/installations?per_page={FULL_PAGE}")
        for installation in installations:
            self._installations[str(installation["account"]["login"]).lower()] = int(installation["id"])
        if owner.lower() not in self._installations:
            raise Refused(
                f"Our GitHub App is not installed for {owner!r}.", hint="Install it there; see docs/how-to/github.md."
            )
        return self._installations[owner.lower()]

    async def _call(self, method: str, path: str) -> Any:
        now = int(self.clock())
        # Issued a minute ago: GitHub refuses what its own clock has not reached yet.
        claims = {"iat": now - 60, "exp": now + 540, "iss": self.app_id}
        proof = jwt.encode(claims, self.private_key, algorithm="RS256")
        return _read(await _send(self.http, method, f"{self.base_url}{path}", proof), self.clock())


@dataclass
class GitHub:
    """Calls in the name of the stack."""

    base_url: str
    identity: Identity
    http: httpx2.AsyncClient
    clock: Callable[[], float] = time.time

    async def call(self, target: Json, method: str, path: str, body: Json | None = None) -> Any:
        """The answer's JSON; text where it is none. `path` is under the repository of `target`.

        Raises `Answered` for good, `TryLater` for now.
        """
        owner, repo = str(target["owner"]), str(target["repo"])
        url = f"{self.base_url}/repos/{owner}/{repo}{path}"
        token = await self.identity.token(owner, target.get("installation"))
        response = await _send(self.http, method, url, token, body)
        if response.status_code == 401:  # noqa: PLR2004 - HTTP's own number
            self.identity.drop(token)
            token = await self.identity.token(owner, target.get("installation"))
            response = await _send(self.http, method, url, token, body)
        return _read(response, self.clock())

    async def read_tail(self, target: Json, path: str, limit: int) -> str:
        """The last `limit` bytes of a text, whatever its length. Raises as `call`."""
        owner, repo = str(target["owner"]), str(target["repo"])
        token = await self.identity.token(owner, target.get("installation"))
        url, tail = f"{self.base_url}/repos/{owner}/{repo}{path}", b""
        try:
            async with self.http.stream("GET", url, headers=_headers(token)) as response:
                if not response.is_success:
                    await response.aread()
                    _read(response, self.clock())
                async for piece in response.aiter_bytes():
                    tail = (tail + piece)[-limit:]
        except httpx2.HTTPError as error:
            raise TryLater(f"GitHub cannot be reached: {type(error).__name__}.") from None
        return tail.decode("utf-8", "replace")


def _headers(token: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": API_VERSION,
        "User-Agent": "dev-tools",
    }


async def _send(
    http: httpx2.AsyncClient, method: str, url: str, token: str, body: Json | None = None
) -> httpx2.Response:
    try:
        return await http.request(method, url, headers=_headers(token), json=body)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
        raise TryLater(f"GitHub cannot be reached: {type(error).__name__}.") from None
    except httpx2.HTTPError as error:
        raise TryLater(f"GitHub's answer was lost: {type(error).__name__}.", is_in_doubt=True) from None


def _read(response: httpx2.Response, now: float) -> Any:
    status = response.status_code
    if response.is_success:
        is_json = "json" in response.headers.get("content-type", "")
        return response.json() if is_json and response.content else response.text
    if status in {403, 429} and (wait := _limit(response, now)) is not None:
        raise TryLater(f"GitHub's rate limit; it said to wait {wait:.0f} s.", after_s=wait)
    if status >= 500:  # noqa: PLR2004 - HTTP's own number
        raise TryLater(f"GitHub answers {status}.", is_in_doubt=True)
    raise Answered(status, _words(response))


def _limit(response: httpx2.Response, now: float) -> float | None:
    """Seconds to wait; None when the answer is no rate limit."""
    after, left = response.headers.get("retry-after"), response.headers.get("x-ratelimit-remaining")
    if after is not None and after.isdigit():
        return float(after)
    reset = response.headers.get("x-ratelimit-reset", "")
    if left == "0" and reset.isdigit():
        return max(1.0, float(reset) - now)
    is_limit = response.status_code == 429 or "rate limit" in response.text.lower()  # noqa: PLR2004 - HTTP's own
    return SECONDARY_LIMIT_S if is_limit else None


def _words(response: httpx2.Response) -> str:
    try:
        return str(response.json().get("message", ""))[:500]
    except (ValueError, AttributeError):
        return response.text[:200]


class Pusher(Protocol):
    """Brings a branch of a repository here to one there."""

    async def __call__(self, repo: Path, branch: str, url: str, remote_branch: str, token: str) -> None: ...


@dataclass
class GitHubCourier:
    """See `interfaces.Courier`. Each kind of message looks first where a repetition could show twice."""

    github: GitHub
    remotes: Remotes
    push: Pusher
    git_url: str
    """Where branches are pushed to, with `{owner}` and `{repo}`."""

    async def send(self, parcel: Parcel) -> str | None:
        deliver: Mapping[str, Callable[[Parcel], Any]] = {
            "comment": self._comment,
            "pull": self._pull,
            "review": self._review,
            "check": self._check,
            "annotations": self._annotate,
        }
        try:
            return await deliver[parcel.message.kind](parcel)
        except (TryLater, Refused):
            raise
        except DevToolsError as error:  # git's, mostly
            raise TryLater(str(error), is_in_doubt=True) from error

    async def _comment(self, parcel: Parcel) -> str:
        body, place = parcel.message.body, str(parcel.message.place)
        text = str(body["text"])
        if (pull := await self._find(body.get("pull_place"))) is not None and pull != str(body["number"]):
            text += f"\n\nPull request: #{pull}"
        data = {"body": f"{text}\n\n{marker(place)}"}
        known = await self.remotes.find_remote(place)
        if known is None and parcel.is_in_doubt:
            known = await self._find_marked(body, f"/issues/{body['number']}/comments", place)
        if known is not None:
            await self.github.call(body, "PATCH", f"/issues/comments/{known}", data)
            return known
        made = await self.github.call(body, "POST", f"/issues/{body['number']}/comments", data)
        return str(made["id"])

    async def _pull(self, parcel: Parcel) -> str:
        body = parcel.message.body
        owner, branch = str(body["owner"]), str(body["remote_branch"])
        token = await self.github.identity.token(owner, body.get("installation"))
        url = self.git_url.format(owner=owner, repo=body["repo"])
        await self.push(Path(str(body["repo_path"])), str(body["branch"]), url, branch, token)
        text = f"{body['text']}\n\n{marker(str(parcel.message.place))}"
        known = await self.remotes.find_remote(str(parcel.message.place))
        if known is not None:  # a later attempt of the task: the branch has moved, and that is all
            return known
        found = await self.github.call(body, "GET", f"/pulls?state=all&head={owner}:{branch}&per_page=1")
        if found:
            return str(found[0]["number"])
        base = body.get("base") or (await self.github.call(body, "GET", ""))["default_branch"]
        data = {"title": body["title"], "head": branch, "base": base, "body": text}
        return str((await self.github.call(body, "POST", "/pulls", data))["number"])

    async def _review(self, parcel: Parcel) -> str | None:
        body, place = parcel.message.body, str(parcel.message.place)
        pull = await self._need(str(body["pull_place"]))
        path = f"/pulls/{pull}/reviews"
        if parcel.is_in_doubt and (known := await self._find_marked(body, path, place)) is not None:
            return known
        files = await self.github.call(body, "GET", f"/pulls/{pull}/files?per_page={FULL_PAGE}")
        lines = {str(file["filename"]): shown_lines(str(file.get("patch") or "")) for file in files}
        comments = [dict(comment) for comment in body["comments"]]
        inside = [comment for comment in comments if comment["line"] in lines.get(comment["path"], ())]
        # GitHub refuses the whole review for one comment outside of the change.
        outside = [f"`{c['path']}:{c['line']}`: {c['body']}" for c in comments if c not in inside]
        listed = "\n".join(f"- {remark}" for remark in [*outside, *body["loose"]])
        data = {
            "event": body["event"],
            "body": f"{body['text']}\n\n{listed}\n\n{marker(place)}",
            "comments": [{**comment, "side": "RIGHT"} for comment in inside],
        }
        return str((await self.github.call(body, "POST", path, data))["id"])

    async def _check(self, parcel: Parcel) -> str | None:
        body = parcel.message.body
        if not self.github.identity.is_app:
            return await self._status(body)
        if parcel.is_in_doubt and (known := await self._find_check(body)) is not None:
            return known
        data = {
            "name": body["name"],
            "head_sha": body["sha"],
            "external_id": body["external_id"],
            "status": "completed",
            "conclusion": body["conclusion"],
            "output": {**body["output"], "annotations": body["annotations"]},
        }
        return str((await self.github.call(body, "POST", "/check-runs", data))["id"])

    async def _find_check(self, body: Json) -> str | None:
        path = f"/commits/{body['sha']}/check-runs?check_name={body['name']}"
        runs = (await self.github.call(body, "GET", path))["check_runs"]
        return next((str(run["id"]) for run in runs if run["external_id"] == body["external_id"]), None)

    async def _status(self, body: Json) -> None:
        """What a token can do instead of a check run: one line, no annotations."""
        state = {"success": "success", "neutral": "failure"}[str(body["conclusion"])]
        data = {"state": state, "context": body["name"], "description": str(body["output"]["title"])[:140]}
        await self.github.call(body, "POST", f"/statuses/{body['sha']}", data)

    async def _annotate(self, parcel: Parcel) -> None:
        body = parcel.message.body
        if not self.github.identity.is_app:
            return  # the review has the same remarks
        run = await self._need(str(body["check_place"]))
        if parcel.is_in_doubt:
            there = await self.github.call(body, "GET", f"/check-runs/{run}")
            if int(there["output"]["annotations_count"]) > int(body["start"]):
                return
        output = {**body["output"], "annotations": body["annotations"]}
        await self.github.call(body, "PATCH", f"/check-runs/{run}", {"output": output})

    async def _find(self, place: object) -> str | None:
        return await self.remotes.find_remote(str(place)) if place else None

    async def _need(self, place: str) -> str:
        found = await self.remotes.find_remote(place)
        if found is None:
            raise Refused(f"What {place!r} stands for was never made.", hint="Its own message failed before this one.")
        return found

    async def _find_marked(self, body: Json, path: str, place: str) -> str | None:
        """Look through the newest pages for our marker: we wrote it moments ago, if at all."""
        page = 1
        while True:
            found = await self.github.call(body, "GET", f"{path}?per_page={FULL_PAGE}&page={page}")
            for thing in found:
                if marker(place) in str(thing.get("body") or ""):
                    return str(thing["id"])
            if len(found) < FULL_PAGE:
                return None
            page += 1


def shown_lines(patch: str) -> set[int]:
    """The new side's line numbers that a unified diff of one file shows: where a comment may stand."""
    lines: set[int] = set()
    number = 0
    for line in patch.splitlines():
        if line.startswith("@@"):
            number = int(line.split("+", 1)[1].split(" ", 1)[0].split(",", 1)[0])
        elif not line.startswith(("-", "\\")):
            lines.add(number)
            number += 1
    return lines


class Fetcher(Protocol):
    """`kit.git.fetch_ref`."""

    async def __call__(self, repo: Path, url: str, ref: str, kept_as: str, token: str) -> str: ...


@dataclass(frozen=True)
class GitHubHeads:
    """See `integrations.interfaces.Heads`."""

    github: GitHub
    fetch_ref: Fetcher
    git_url: str
    """Where repositories are fetched from, with `{owner}` and `{repo}`."""

    async def fetch(self, origin: Json, repo: str) -> tuple[str, str | None]:
        owner, name, number = str(origin["owner"]), str(origin["repo"]), int(str(origin["number"]))
        pull = await self.github.call(origin, "GET", f"/pulls/{number}")
        url = self.git_url.format(owner=owner, repo=name)
        token = await self.github.identity.token(owner, origin.get("installation"))
        # GitHub keeps every head here, those of forks as well.
        ref, kept_as = f"refs/pull/{number}/head", f"refs/dev-tools/pulls/{number}"
        commit = await self.fetch_ref(Path(repo), url, ref, kept_as, token)
        head: Json = pull["head"]
        home: Json = head.get("repo") or {}
        return commit, str(head["ref"]) if home.get("full_name") == f"{owner}/{name}" else None
