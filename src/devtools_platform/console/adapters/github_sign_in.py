"""Signing in at GitHub, which is OAuth without OpenID: who somebody is, its API says, not a signed token.

Groups are `ORG` for each organisation and `ORG/TEAM` for each team that let our OAuth app see them (`read:org`).
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

import httpx2

from devtools_platform.console.oauth import MAX_GROUPS, MAX_TEXT, Fetch, challenge_of, read_json, refused
from devtools_platform.console.roles import Identified
from devtools_platform.core.errors import Unavailable


@dataclass(frozen=True)
class GitHubSignIn:
    """The console's `SignIn`."""

    client_id: str
    client_secret: str
    fetch: Fetch
    url: str = "https://github.com"
    api_url: str = "https://api.github.com"

    @property
    def label(self) -> str:
        return "GitHub"

    async def begin(self, redirect_uri: str) -> tuple[str, Mapping[str, str]]:
        kept = {"verifier": secrets.token_urlsafe(48)}
        query = {
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": "read:user read:org",
            "allow_signup": "false",
            "code_challenge": challenge_of(kept["verifier"]),
            "code_challenge_method": "S256",
        }
        return f"{self.url}/login/oauth/authorize?{urlencode(query)}", kept

    async def finish(self, redirect_uri: str, kept: Mapping[str, str], query: Mapping[str, str]) -> Identified:
        form = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "code": query["code"],
            "redirect_uri": redirect_uri,
            "code_verifier": kept["verifier"],
        }
        headers = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}
        body = urlencode(form).encode()
        place = f"{self.url}/login/oauth/access_token"
        answer = read_json(await self.fetch(httpx2.Request("POST", place, headers=headers, content=body)), self.label)
        token = answer.get("access_token")
        if not isinstance(token, str):  # GitHub says no with HTTP 200 and `error`
            raise refused(f"GitHub says {str(answer.get('error'))[:MAX_TEXT]!r}")
        user = read_json(await self._get("/user", token), self.label)
        orgs = [org["login"] for org in await self._list("/user/orgs?per_page=100", token)]
        teams = [
            f"{team['organization']['login']}/{team['slug']}"
            for team in await self._list("/user/teams?per_page=100", token)
        ]
        return Identified(str(user["id"]), None, (*orgs, *teams)[:MAX_GROUPS], f"{user['login']}@github")

    async def _list(self, path: str, token: str) -> list[dict[str, Any]]:
        answer = await self._get(path, token)
        if answer.status_code != 200:  # noqa: PLR2004 - HTTP's own number
            raise Unavailable(f"GitHub answered HTTP {answer.status_code} for {path}.", hint="Try again.")
        return cast("list[dict[str, Any]]", json.loads(answer.content))

    async def _get(self, path: str, token: str) -> httpx2.Response:
        headers = {"accept": "application/vnd.github+json", "authorization": f"Bearer {token}"}
        return await self.fetch(httpx2.Request("GET", f"{self.api_url}{path}", headers=headers))
