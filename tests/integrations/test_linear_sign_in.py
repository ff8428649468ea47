"""A workspace's admin lets the agent in: the link they follow, and the page they come back to."""

from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.app import linear_sign_in
from devtools_platform.app.linear_sign_in import LinearSignIn, authorize_link
from devtools_platform.integrations.adapters.linear import OAuthTokens
from devtools_platform.integrations.adapters.sql import SqlInbox, SqlTokens
from devtools_platform.integrations.api import Receiver
from devtools_platform.integrations.inbox import Intake
from devtools_platform.integrations.interfaces import TryLater
from fakes.linear_server import CLIENT_ID, CLIENT_SECRET, FakeLinear

PUBLIC = "https://hooks.example.org"
SECRET = "stack-secret"


@pytest.fixture
def tokens(linear: FakeLinear, http: httpx2.AsyncClient, clean: sa.Engine) -> OAuthTokens:
    return OAuthTokens(CLIENT_ID, CLIENT_SECRET, linear.url, http, SqlTokens(clean), SECRET)


async def come_back(clean: sa.Engine, tokens: OAuthTokens, **query: str) -> httpx2.Response:
    sign_in = LinearSignIn(tokens.exchange, SECRET, PUBLIC)
    app = Receiver(Intake(SqlInbox(clean)), lambda: None, on_linear_sign_in=sign_in.finish)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=PUBLIC) as browser:
        return await browser.get("/oauth/linear", params=query)


def begin() -> str:
    """The `state` of the link a person is given."""
    query = parse_qs(urlsplit(authorize_link(CLIENT_ID, SECRET, PUBLIC)).query)
    assert (query["actor"], query["redirect_uri"]) == (["app"], [f"{PUBLIC}/oauth/linear"])
    return query["state"][0]


async def test_a_person_comes_back_with_a_code_and_the_agent_is_let_in(clean: sa.Engine, tokens: OAuthTokens):
    done = await come_back(clean, tokens, state=begin(), code="good-code")
    assert (done.status_code, done.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Linear is connected" in done.text
    assert (done.headers["referrer-policy"], done.headers["cache-control"]) == ("no-referrer", "no-store")
    assert (await tokens.header()).startswith("Bearer lin_oauth_")


async def test_a_sign_in_that_nobody_here_began_is_refused(
    clean: sa.Engine, tokens: OAuthTokens, linear: FakeLinear, monkeypatch: pytest.MonkeyPatch
):
    forged = f"{begin().partition('.')[0]}.{'0' * 64}"
    monkeypatch.setattr(linear_sign_in, "LIFETIME_S", -1)
    for state in (forged, begin(), "", "12345", "x.y"):
        refused = await come_back(clean, tokens, state=state, code="good-code")
        assert (refused.status_code, "not begun here, or too long ago" in refused.text) == (401, True)
    assert linear.requests == []
    with pytest.raises(TryLater):
        await tokens.header()


async def test_what_linear_says_instead_of_a_code_is_shown_as_text(clean: sa.Engine, tokens: OAuthTokens):
    page = await come_back(clean, tokens, state=begin(), error="<script>alert(1)</script>")
    assert page.status_code == 422
    assert "&lt;script&gt;" in page.text
    assert "<script>" not in page.text


async def test_a_code_works_once(clean: sa.Engine, tokens: OAuthTokens):
    state = begin()
    assert (await come_back(clean, tokens, state=state, code="good-code")).status_code == 200
    again = await come_back(clean, tokens, state=state, code="good-code")
    assert again.status_code >= 400
    assert (await tokens.header()).startswith("Bearer lin_oauth_"), "what was there stays"
