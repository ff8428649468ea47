"""The console behind a proxy: the name it answers to, whose forms it takes, its cookies and its links."""

import re

import pytest

from devtools_platform.config import load_settings
from devtools_platform.console.addresses import Addresses
from devtools_platform.core.errors import BadInput

PUBLIC = "https://dev.example.org"
OUTSIDE = {"Host": "dev.example.org"}


@pytest.fixture
def addresses() -> Addresses:
    return Addresses(PUBLIC, ["console"])


async def _sign_in(client, console):
    """As a browser behind the proxy does: the connection is http, the name is the public one."""
    link = await console.new_link(client)
    return await client.get(link.removeprefix(PUBLIC), headers=OUTSIDE)


def _cookies(answer):
    return "; ".join(c.partition(";")[0] for c in answer.headers.get_list("set-cookie"))


async def test_a_login_link_leads_to_the_public_url(stranger, console):
    assert (await console.new_link(stranger)).startswith(f"{PUBLIC}/login?token=")


async def test_cookies_go_out_by_https_only_for_who_came_from_outside(stranger, console):
    asked = await stranger.get("/tasks", headers=OUTSIDE)
    signed_in = await _sign_in(stranger, console)
    kept = [*asked.headers.get_list("set-cookie"), signed_in.headers.get_list("set-cookie")[-1]]
    assert [cookie.partition("=")[0][:12] for cookie in kept] == ["dev_tools_re", "dev_tools_se"]
    assert all("; Secure" in cookie for cookie in kept)
    inside = await stranger.get((await console.new_link(stranger)).removeprefix(PUBLIC))
    assert inside.status_code == 303
    assert "; Secure" not in inside.headers.get_list("set-cookie")[-1]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (PUBLIC, 303),
        (f"{PUBLIC}:443", 303),
        ("http://dev.example.org", 403),  # whoever can alter pages without TLS must not reach those with it
        (f"{PUBLIC}:8443", 403),
        ("https://evil.example.org", 403),
        ("null", 403),
        ("https://dev.example.org.evil.example", 403),
        ("https://[", 403),
    ],
)
async def test_a_form_from_outside_counts_only_under_the_public_url(stranger, console, tasks, origin, status):
    cookies = {"Cookie": _cookies(await _sign_in(stranger, console))}
    page = (await stranger.get("/", headers=OUTSIDE | cookies)).text
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert found
    form = {"text": "Fix it", "repo": "/srv/shop", "agent": "", "key": "k1", "csrf": found[1]}
    answer = await stranger.post("/tasks", data=form, headers=OUTSIDE | cookies | {"Origin": origin})
    assert answer.status_code == status
    assert len(tasks.tasks) == (1 if status == 303 else 0)


@pytest.mark.parametrize("host", ["dev.example.org", "dev.example.org:443", "console:8080", "localhost"])
async def test_public_name_and_named_hosts_are_answered(stranger, host):
    assert (await stranger.get("/health", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "Forwarded", "X-Original-Host"])
async def test_what_a_request_says_of_a_proxy_changes_nothing(stranger, name):
    answer = await stranger.get("/health", headers={"Host": "evil.example", name: "dev.example.org"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "url", ["dev.example.org", "https://dev.example.org/console", "ftp://x", "https://me@x.org", "https://x.org?a"]
)
def test_a_public_url_with_more_or_less_than_an_origin_is_refused(monkeypatch, url):
    monkeypatch.setenv("DEV_TOOLS_PUBLIC_URL", url)
    with pytest.raises(BadInput, match="public_url"):
        load_settings()
