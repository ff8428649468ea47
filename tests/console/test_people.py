"""Names and roles: who may do what, who is told to the audit, and how tokens let people in and out."""

import pytest

from console.memory import MemoryDesks
from console.test_pages import csrf_of, text_of
from devtools_platform.console.access import Person

OPERATOR_PATHS = [
    *("/rollouts", "/agents/cicd/test", "/spend/budgets"),
    *("/tasks", "/tasks/cancel", "/tasks/t1/cancel", "/tasks/t1/pause", "/tasks/t1/resume", "/tasks/t1/steer"),
    *("/tasks/t1/retry", "/tasks/t1/fork", "/approvals/t1-1/decision", "/gateway/tools/web_fetch/call", "/knowledge"),
]
ADMIN_PATHS = ["/gateway/quarantine/approve"]


async def sign_in(stranger, console, name, role):
    answer = await stranger.get(await console.new_link(stranger, name, role))
    assert answer.status_code == 303
    return stranger


def test_every_route_that_changes_something_is_in_the_lists_above(app):
    routes = {route.path for route in app.routes if "POST" in getattr(route, "methods", ())}
    own = {"/login", "/logout", "/login-links"}
    listed = {*OPERATOR_PATHS, *ADMIN_PATHS}
    listed = {path.replace("/t1-1/", "/{id_}/").replace("/t1/", "/{id_}/") for path in listed}
    assert routes - own == {path.replace("web_fetch", "{name}").replace("cicd", "{name}") for path in listed}


@pytest.mark.parametrize("path", [*OPERATOR_PATHS, *ADMIN_PATHS])
async def test_a_viewer_cannot_act(stranger, console, tasks, approvals, desks, path):
    tasks.add("t1")
    approvals.ask()
    viewer = await sign_in(stranger, console, "vic", "viewer")
    csrf = csrf_of((await viewer.get("/")).text)
    desks.recorded.clear()
    answer = await viewer.post(path, data={"csrf": csrf, "text": "x", "repo": "/srv/x", "decision": "approve"})
    assert answer.status_code == 403
    assert "vic is signed in as viewer" in answer.text
    assert (tasks.deeds, desks.recorded, approvals.approvals["t1-1"].status) == ([], [], "pending")


@pytest.mark.parametrize("path", ADMIN_PATHS)
async def test_an_operator_cannot_change_what_others_may_do(stranger, console, path):
    operator = await sign_in(stranger, console, "olga", "operator")
    answer = await operator.post(path, data={"csrf": csrf_of((await operator.get("/")).text)})
    assert (answer.status_code, "needs the role admin" in answer.text) == (403, True)


@pytest.mark.parametrize("path", [*OPERATOR_PATHS, *ADMIN_PATHS, "/logout"])
async def test_every_form_needs_its_sessions_csrf_token(browser, tasks, approvals, desks, path):
    tasks.add("t1")
    approvals.ask()
    desks.tool_list = []
    desks.recorded.clear()
    for form in ({}, {"csrf": "wrong"}):
        assert (await browser.post(path, data=form)).status_code == 403
    assert (tasks.deeds, desks.recorded) == ([], [])


@pytest.mark.parametrize("path", [*OPERATOR_PATHS, *ADMIN_PATHS, "/login", "/logout"])
async def test_a_foreign_origin_is_refused_everywhere(browser, path):
    csrf = csrf_of((await browser.get("/")).text)
    answer = await browser.post(path, data={"csrf": csrf}, headers={"Origin": "https://evil.example"})
    assert (answer.status_code, "Another site sent this form." in answer.text) == (403, True)


async def test_a_viewer_sees_no_form_that_they_may_not_send(stranger, console, tasks, approvals):
    tasks.add("t1")
    approvals.ask()
    viewer = await sign_in(stranger, console, "vic", "viewer")
    for path in ("/", "/tasks", "/tasks/t1", "/approvals", "/gateway", "/knowledge"):
        page = (await viewer.get(path)).text
        assert 'name="decision"' not in page
        assert "Start task" not in page
        assert "Stop task" not in page


async def test_what_people_do_carries_their_name(stranger, console, tasks):
    tasks.add("t1")
    ann = await sign_in(stranger, console, "ann", "operator")
    csrf = csrf_of((await ann.get("/tasks/t1")).text)
    for path, fields in (
        ("pause", {}),
        ("resume", {}),
        ("steer", {"text": " Mind the refunds. "}),
        ("fork", {"step": "3"}),
        ("cancel", {}),
        ("retry", {"step": ""}),
    ):
        answer = await ann.post(f"/tasks/t1/{path}", data={"csrf": csrf, **fields})
        assert answer.status_code == 303, path
    assert tasks.deeds == [
        ("ann", "pause", "t1", None),
        ("ann", "resume", "t1", None),
        ("ann", "steer", "t1", "Mind the refunds."),
        ("ann", "fork", "t1", 3),
        ("ann", "cancel", "t1", None),
        ("ann", "retry", "t1", None),
    ]


async def test_signing_in_and_out_stands_in_the_audit(stranger, console, desks):
    ann = await sign_in(stranger, console, "ann", "viewer")
    csrf = csrf_of((await ann.get("/")).text)
    assert (await ann.post("/logout", data={"csrf": csrf})).headers["location"] == "/login"
    assert (await ann.get("/")).status_code == 401
    assert desks.recorded == [("ann", "console.login", "console"), ("ann", "console.logout", "console")]


@pytest.mark.parametrize("body", [{"name": "", "role": "admin"}, {"name": "ann", "role": "king"}, {"role": "viewer"}])
async def test_a_link_is_not_made_for_a_name_or_a_role_that_is_none(stranger, console, body):
    answer = await stranger.post("/login-links", headers={"Authorization": f"Bearer {console.token}"}, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_input")


async def test_a_personal_token_opens_a_session_that_ends_with_it(stranger, desks: MemoryDesks):
    desks.tokens["dtc_good"] = Person("ann", "viewer", "id1")
    refused = await stranger.post("/login", data={"token": "dtc_bad"})
    assert (refused.status_code, "This token opens nothing." in refused.text) == (401, True)
    assert (await stranger.post("/login", data={"token": " dtc_good "})).status_code == 303
    assert "ann viewer" in text_of((await stranger.get("/")).text)
    desks.tokens.clear()
    assert (await stranger.get("/")).status_code == 401


async def test_an_expired_session_returns_to_where_one_was(stranger, console):
    await stranger.get("/audit?subject=task%3At1&before=7")
    answer = await stranger.get(await console.new_link(stranger))
    assert answer.headers["location"] == "/audit?subject=task%3At1&before=7"


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "/login", "/a\nb"])
async def test_returning_never_leaves_the_console(stranger, console, path):
    from urllib.parse import quote

    stranger.cookies.set("dev_tools_return", quote(path))
    answer = await stranger.get(await console.new_link(stranger))
    assert answer.headers["location"] == "/"
