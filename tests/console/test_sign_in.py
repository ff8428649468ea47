"""Signing in at an identity provider: the whole flow against a real small one, and everything that must not open."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from console.conftest import BASE, SECRET, TOKEN
from console.memory import MemoryApprovals, MemoryDelivery, MemoryDesks, MemoryStack, MemoryTasks
from devtools_platform.console.adapters.github_sign_in import GitHubSignIn
from devtools_platform.console.adapters.openid import OpenId, OpenIdClient
from devtools_platform.console.addresses import Addresses
from devtools_platform.console.api import build_api
from devtools_platform.console.interfaces import SignIn, Stack
from devtools_platform.console.roles import Identified, Roles, load_roles
from devtools_platform.core.errors import BadInput, Forbidden
from fakes.openid_login import CLIENT, LoginProvider
from fakes.openid_login import SECRET as CLIENT_SECRET

ISSUER = "https://id.example.org"
ROLES = Roles({"operator": ("group:dev",), "admin": ("email:root@example.org", "group:acme/platform")})


@pytest.fixture
def provider() -> LoginProvider:
    return LoginProvider(url=ISSUER)


@pytest.fixture
async def outside(provider: LoginProvider) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(provider.app())) as client:
        yield client


@pytest.fixture
def sign_in(outside: AsyncClient) -> SignIn:
    async def fetch(request: httpx2.Request) -> httpx2.Response:
        return await outside.send(request)

    return OpenId(OpenIdClient(ISSUER, CLIENT, CLIENT_SECRET), fetch)


@pytest.fixture
def app(sign_in: SignIn, desks: MemoryDesks) -> FastAPI:
    tasks = MemoryTasks()
    view = Stack(
        tasks, tasks, MemoryApprovals(), MemoryStack(), desks, desks, MemoryDelivery(), desks, desks, desks,
        sign_in, ROLES,
    )  # fmt: skip
    return build_api(view, token=TOKEN, secret=SECRET, addresses=Addresses())


async def visit(stranger: AsyncClient, outside: AsyncClient, path: str = "/sign-in") -> str:
    """To the provider and back, up to the address of our callback."""
    start = await stranger.get(path)
    assert start.status_code == 303, start.text
    return (await outside.get(start.headers["location"])).headers["location"]


async def test_one_signs_in_with_the_role_of_ones_group_and_comes_back_to_the_page(stranger, outside, desks):
    page = await stranger.get("/spend?days=7")
    assert "Sign in with id.example.org" in page.text
    back = await stranger.get(await visit(stranger, outside))
    assert back.status_code == 200
    assert 'content="0; url=/spend?days=7"' in back.text
    home = await stranger.get("/")
    assert "ann@example.org" in home.text
    assert "operator" in home.text
    assert ("ann@example.org", "console.login", "console") in desks.recorded
    cookies = [c for c in back.headers.get_list("set-cookie") if c.startswith("dev_tools_session")]
    assert "SameSite=strict" in cookies[0]
    assert "Max-Age=43200" in cookies[0]


async def test_a_callback_works_once_and_only_in_the_browser_that_began(stranger, outside, app):
    address = await visit(stranger, outside)
    async with AsyncClient(transport=ASGITransport(app), base_url=BASE) as other:
        assert (await other.get(address)).status_code == 403
    assert (await stranger.get(address)).status_code == 200
    assert (await stranger.get(address)).status_code == 403, "its cookie is gone"
    state = parse_qs(urlsplit(address).query)["state"][0]
    await stranger.get("/sign-in")
    assert (await stranger.get(f"/sign-in/callback?code=x&state={state}")).status_code == 403, "an older state"


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonce": "another"},
        {"aud": "another-client"},
        {"iss": "https://evil.example.org"},
        {"exp": 1_700_000_001},
        {"sub": None},
        {"aud": ["dev-tools", "another"], "azp": "another"},
    ],
    ids=str,
)
async def test_a_token_that_is_not_for_this_sign_in_opens_nothing(stranger, outside, provider, wrong):
    provider.spoil = wrong
    answer = await stranger.get(await visit(stranger, outside))
    assert answer.status_code == 403
    assert (await stranger.get("/")).status_code == 401


async def test_a_token_signed_with_a_key_the_provider_does_not_name_opens_nothing(stranger, outside, provider):
    provider.add("stolen", "RS256")
    provider.published.discard("stolen")
    provider.signs_with = "stolen"
    assert (await stranger.get(await visit(stranger, outside))).status_code == 403


async def test_a_token_without_a_signature_opens_nothing(stranger, outside, provider, monkeypatch):
    unsigned = jwt.encode(provider.claims(aud=CLIENT, nonce="n", iat=1), None, algorithm="none")
    monkeypatch.setattr(provider, "token", lambda *_, **__: unsigned)
    assert (await stranger.get(await visit(stranger, outside))).status_code == 403


@pytest.mark.parametrize(
    ("user", "status", "role"),
    [
        ({"email": "root@example.org"}, 200, "admin"),
        ({"email": "root@example.org", "email_verified": False}, 403, None),
        ({"email": "root@example.org", "email_verified": "true"}, 403, None),
        ({"groups": ["other"]}, 403, None),
        ({"groups": "dev"}, 403, None),
        ({"preferred_username": "root@example.org", "email": None}, 403, None),
    ],
    ids=str,
)
async def test_only_what_the_provider_vouches_for_gives_a_role(stranger, outside, provider, user, status, role):
    provider.user = {"sub": "u-2", "email_verified": True} | user
    assert (await stranger.get(await visit(stranger, outside))).status_code == status
    assert (await stranger.get("/")).status_code == (200 if role else 401)


async def test_a_provider_that_is_away_or_another_one_says_so(stranger, provider):
    provider.is_away = True
    assert (await stranger.get("/sign-in")).status_code == 503
    provider.is_away, provider.metadata_issuer = False, "https://other.example.org"
    answer = await stranger.get("/sign-in")
    assert answer.status_code == 503
    assert "DEV_TOOLS_CONSOLE_OIDC_ISSUER" in answer.text


async def test_a_person_who_says_no_at_the_provider_is_told(stranger):
    start = await stranger.get("/sign-in")
    state = parse_qs(urlsplit(start.headers["location"]).query)["state"][0]
    answer = await stranger.get(f"/sign-in/callback?error=access_denied&state={state}")
    assert answer.status_code == 403
    assert "access_denied" in answer.text


async def test_a_wrong_client_secret_is_told_as_such(stranger, outside, provider, app, sign_in, monkeypatch):
    monkeypatch.setattr("fakes.openid_login.CLIENT", "dev-tools")
    object.__setattr__(sign_in.client, "client_secret", "wrong")
    answer = await stranger.get(await visit(stranger, outside))
    assert answer.status_code == 403
    assert "invalid_client" in answer.text


class TestGitHub:
    @pytest.fixture
    def sign_in(self, outside: AsyncClient) -> SignIn:
        async def fetch(request: httpx2.Request) -> httpx2.Response:
            return await outside.send(request)

        return GitHubSignIn(CLIENT, CLIENT_SECRET, fetch, ISSUER, ISSUER)

    async def test_a_team_of_an_organisation_gives_a_role(self, stranger, outside):
        assert (await stranger.get(await visit(stranger, outside))).status_code == 200
        home = await stranger.get("/")
        assert "ann@github" in home.text
        assert "admin" in home.text

    async def test_a_code_that_github_does_not_know_opens_nothing(self, stranger, outside, provider):
        address = await visit(stranger, outside)
        provider.codes.clear()
        answer = await stranger.get(address)
        assert answer.status_code == 403
        assert "bad_verification_code" in answer.text


def test_the_highest_role_wins_and_patterns_are_of_verified_addresses() -> None:
    roles = Roles({"viewer": ("email:*@example.org",), "admin": ("group:root",)})
    assert roles.admit(Identified("1", "Ben@Example.org")).role == "viewer"
    assert roles.admit(Identified("1", "ben@example.org", ("root",))).role == "admin"
    with pytest.raises(Forbidden):
        roles.admit(Identified("ben@example.org"))


@pytest.mark.parametrize(
    "text", ["", "king: []", "admin: root", "admin: [ann]", "admin: ['name:ann']", "admin: ['group:']", "a: [", "[]"]
)
def test_a_file_of_roles_that_cannot_be_meant_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "roles.yaml"
    file.write_text(text)
    with pytest.raises(BadInput):
        load_roles(file)


async def test_without_a_provider_there_is_nothing_to_sign_in_at() -> None:
    tasks, desks = MemoryTasks(), MemoryDesks()
    view = Stack(tasks, tasks, MemoryApprovals(), MemoryStack(), desks, desks, MemoryDelivery(), desks, desks, desks)
    app = build_api(view, token=TOKEN, secret=SECRET, addresses=Addresses())
    async with AsyncClient(transport=ASGITransport(app), base_url=BASE) as client:
        assert (await client.get("/sign-in")).status_code == 404
        assert "Sign in with" not in (await client.get("/")).text
