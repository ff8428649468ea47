"""Who gets in, who may act, and what every answer forbids a browser."""

import re

import jwt
import pytest

from devtools_platform.console.sessions import LoginLinks, Sessions


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
    assert found
    return found[1]


NEW = {"text": "Fix it", "repo": "/srv/shop", "agent": "", "key": "k1"}


@pytest.mark.parametrize("path", ["/", "/tasks", "/tasks/t1", "/tasks/t1/events", "/tasks/t1/panels", "/nothing"])
async def test_without_a_session_every_page_says_how_to_get_one(stranger, tasks, path):
    tasks.add("t1", text="A secret plan")
    answer = await stranger.get(path)
    assert answer.status_code == 401
    assert "<code>dev-tools up</code> prints the link" in answer.text
    assert "A secret plan" not in answer.text


async def test_without_a_session_nothing_can_be_done(stranger, tasks):
    assert (await stranger.post("/tasks", data=NEW)).status_code == 401
    assert tasks.tasks == {}


async def test_a_login_link_opens_a_session_once(stranger, console):
    link = await console.new_link(stranger)
    first = await stranger.get(link)
    assert (first.status_code, first.headers["location"]) == (303, "/")
    assert (await stranger.get("/")).status_code == 200
    stranger.cookies.clear()
    assert (await stranger.get(link)).status_code == 401
    assert (await stranger.get("/")).status_code == 401


async def test_the_session_cookie_is_out_of_reach_for_scripts_and_other_sites(stranger, console):
    answer = await stranger.get(await console.new_link(stranger))
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("dev_tools_session_"))
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert console.token not in cookie


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}])
async def test_a_login_link_is_made_only_for_the_stacks_token(stranger, header):
    answer = await stranger.post("/login-links", headers=header)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_the_stacks_token_itself_is_no_login_link(stranger, console):
    assert (await stranger.get(f"/login?token={console.token}")).status_code == 401


def test_a_login_link_grows_too_old():
    links = LoginLinks(lifetime_s=0)
    assert not links.redeem(links.issue())


@pytest.mark.parametrize(
    "cookie",
    [
        Sessions("stack-secret", lifetime_s=-1).start(),
        Sessions("another secret").start(),
        jwt.encode({"sid": "x", "exp": 4102444800}, None, algorithm="none"),
        "garbage",
    ],
    ids=["expired", "other secret", "unsigned", "garbage"],
)
async def test_a_session_cookie_that_does_not_hold_is_none(stranger, console, cookie):
    stranger.cookies.set(Sessions(console.secret).cookie_name, cookie)
    assert (await stranger.get("/")).status_code == 401


async def test_a_session_survives_a_restart_with_the_same_secret(stranger, console):
    stranger.cookies.set(Sessions(console.secret).cookie_name, Sessions(console.secret).start())
    assert (await stranger.get("/")).status_code == 200


async def test_logging_in_returns_to_where_one_was(stranger, console):
    await stranger.get("/tasks/t1")
    answer = await stranger.get(await console.new_link(stranger))
    assert answer.headers["location"] == "/tasks/t1"


async def test_logging_in_never_leads_to_another_site(stranger, console):
    stranger.cookies.set("dev_tools_return", "//evil.example/tasks")
    answer = await stranger.get(await console.new_link(stranger))
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("path", ["/tasks", "/tasks/t1/cancel"])
@pytest.mark.parametrize("token", [None, "wrong", "é"])
async def test_a_form_with_a_wrong_csrf_token_does_nothing(browser, tasks, path, token):
    tasks.add("t1")
    form = NEW if token is None else NEW | {"csrf": token}
    answer = await browser.post(path, data=form)
    assert answer.status_code == 403
    assert "nothing was done" in answer.text
    assert list(tasks.tasks) == ["t1"]
    assert tasks.tasks["t1"].status == "working"


async def test_a_csrf_token_of_another_session_is_wrong(browser, console, tasks):
    theirs = csrf_of((await browser.get("/")).text)
    await browser.get(await console.new_link(browser))
    assert (await browser.post("/tasks", data=NEW | {"csrf": theirs})).status_code == 403
    assert tasks.tasks == {}


@pytest.mark.parametrize(
    "header",
    [{"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"}, {"Sec-Fetch-Site": "same-site"}],
    ids=["other port", "opaque", "no origin but same site"],
)
async def test_a_form_another_origin_sent_does_nothing(browser, tasks, header):
    form = NEW | {"csrf": csrf_of((await browser.get("/")).text)}
    assert (await browser.post("/tasks", data=form, headers=header)).status_code == 403
    assert tasks.tasks == {}


async def test_a_form_of_the_console_itself_works(browser, console, tasks):
    form = NEW | {"csrf": csrf_of((await browser.get("/")).text)}
    answer = await browser.post("/tasks", data=form, headers={"Origin": console.base})
    assert (answer.status_code, answer.headers["location"]) == (303, "/tasks/t1")
    assert tasks.tasks["t1"].text == "Fix it"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::1"])
async def test_a_foreign_host_name_is_refused(browser, host):
    answer = await browser.get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "does not answer as" in answer.text


@pytest.mark.parametrize(
    "host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "console.example.org", "Console.Example.org:443"]
)
async def test_loopback_and_the_configured_host_are_answered(browser, host):
    header = {"Host": host, "Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    assert (await browser.get("/", headers=header)).status_code == 200


async def test_no_answer_lets_a_browser_run_or_load_anything_foreign(browser, tasks):
    tasks.add("t1")
    for path in ("/", "/tasks", "/tasks/t1", "/nothing", "/login"):
        answer = await browser.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=", answer.text)
        assert not re.search(r'(?:src|href|action)="(?!/|#)', answer.text)


async def test_static_files_are_kept_for_good_under_their_content(stranger):
    page = (await stranger.get("/")).text
    addresses = set(re.findall(r'"(/static/[^"]+)"', page))
    assert {address.rpartition(".")[2] for address in addresses} == {"css", "js", "svg"}
    for address in addresses:
        answer = await stranger.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert (await stranger.get("/static/console.css")).status_code == 404


async def test_health_and_metrics_answer_without_a_session(stranger):
    assert (await stranger.get("/health")).json()["service"] == "console"
    assert 'service="console"' in (await stranger.get("/metrics")).text


async def test_a_form_that_is_too_long_is_refused(browser, tasks):
    answer = await browser.post("/tasks", data=NEW | {"text": "x" * 1_000_001})
    assert answer.status_code == 422
    assert tasks.tasks == {}
