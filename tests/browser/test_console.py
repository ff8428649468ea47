"""People at work in the console: real Chromium, a really running stack, a scripted model."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.conftest import PATIENCE_MS, SHOTS, People
from deploy.fleet import Fleet
from stacks import StackProcess, git, run_cli

expect.set_options(timeout=PATIENCE_MS)
pytestmark = pytest.mark.timeout(180)

PLAIN = "Fix the failing test: an order of exactly 100 must get the discount."
ASKING = "Fix the failing test, but ask me first."
VIEWS = {
    "home": "/",
    "tasks": "/tasks",
    "task": "/tasks/{task}",
    "approvals": "/approvals",
    "approval": "/approvals/{approval}",
    "agents": "/agents",
    "agent": "/agents/feature-dev",
    "gateway": "/gateway",
    "tool": "/gateway/tools/web_fetch",
    "knowledge": "/knowledge?q=order+discount",
    "releases": "/releases",
    "rollout-plan": "/rollouts/plan?kind=deploy&seq=2",
    "spend": "/spend",
    "health": "/checks",
    "audit": "/audit?verify=yes",
    "settings": "/settings",
    "nothing": "/nothing",
}


def start_task(page: Page, text: str, repo: Path) -> str:
    """Hand a task over in the box; returns its id, on its page."""
    page.goto("/tasks")
    page.get_by_label("What should be done?").fill(text)
    page.get_by_label("Repository").fill(str(repo))
    page.get_by_role("button", name="Start task").click()
    page.wait_for_url(re.compile(r"/tasks/[a-z0-9]{8}$"))
    return page.url.rpartition("/")[2]


def wait_for_status(page: Page, words: str) -> None:
    expect(page.locator("#outcome .pill").first).to_have_text(words)


def test_a_task_is_created_watched_live_and_ends_on_a_branch(people: People, shop: Path) -> None:
    page = people.sign_in()
    page.evaluate("window.isTheSamePage = true")
    task = start_task(page, PLAIN, shop)
    page.evaluate("window.isTheSamePage = true")
    expect(page.locator("#flow .node.busy, #flow .node.good").first).to_be_visible()
    wait_for_status(page, "Completed")
    assert page.evaluate("window.isTheSamePage"), "no reload was needed"
    expect(page.locator("#live")).to_have_text("Ended")
    expect(page.locator("#flow")).to_contain_text(f"task/{task}")
    expect(page.locator("#changes")).to_contain_text("if total >= DISCOUNT_FROM:")
    assert git(shop, "branch", "--list", f"task/{task}")


def test_an_edited_approval_is_what_runs_and_the_second_person_sees_who_decided(
    people: People, stack: StackProcess, shop: Path
) -> None:
    ann, ben = people.sign_in("ann", "operator"), people.sign_in("ben", "operator")
    task = start_task(ann, ASKING, shop)
    card = ann.locator("#asked article")
    expect(card).to_contain_text("Let feature-dev call workspace_run_command?")
    ben.goto("/approvals")
    theirs = ben.locator("article", has_text=task)
    expect(theirs).to_be_visible()

    edited = """{"command": ["python3", "-c", "open('edited.txt', 'w').write('by ann')"]}"""
    card.get_by_label(re.compile("Exact arguments")).fill(edited)
    card.get_by_role("button", name="Approve").click()
    wait_for_status(ann, "Completed")
    branch = f"task/{task}"
    assert git(shop, "show", f"{branch}:edited.txt") == "by ann"

    people.complaints.clear()
    ben.goto("/audit?subject=task:none")  # the inbox would have moved on by itself
    approval = stack.get(f"/approvals?task_id={task}")[0]
    refused = send_late(ben, approval["id"])
    assert refused.status == 409
    ben.goto(f"/approvals/{approval['id']}")
    expect(ben.locator("article")).to_contain_text("Approved by ann")


def send_late(page: Page, approval: str):
    """The form of an inbox that was open when somebody else decided."""
    csrf = page.locator('.who input[name="csrf"]').input_value()
    form = {"csrf": csrf, "version": "1", "decision": "deny", "back": "inbox"}
    return page.request.post(f"/approvals/{approval}/decision", form=form, headers={"Origin": origin(page)})


def origin(page: Page) -> str:
    return re.match(r"https?://[^/]+", page.url)[0]  # type: ignore[index]


def test_a_task_is_steered_paused_over_a_restart_resumed_stopped_and_retried(
    people: People, stack: StackProcess, shop: Path
) -> None:
    page = people.sign_in("ann", "operator")
    task = start_task(page, ASKING, shop)
    expect(page.locator("#asked article")).to_be_visible()
    page.get_by_label("Tell the agent at work").fill("Mind the refunds, too.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#timeline")).to_contain_text("ann: Mind the refunds, too.")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#outcome")).to_contain_text("Pauses before its next step")

    restart_on_the_same_ports(stack)
    expect(page.locator("#live")).to_have_text("Live")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#timeline")).to_contain_text("Resumed by ann")
    entries = page.locator("#timeline .entry").evaluate_all("all => all.map(entry => entry.id)")
    assert len(entries) == len(set(entries)) == len(stack.get(f"/tasks/{task}/events"))

    page.get_by_role("button", name="Stop task").click()
    wait_for_status(page, "Cancelled")
    page.get_by_label("From a step").select_option(index=1)
    page.get_by_role("button", name="Retry from here").click()
    expect(page.locator("#outcome")).to_contain_text("attempt 2")
    expect(page.locator("#asked article")).to_be_visible()
    page.locator("#asked article").get_by_role("button", name="Deny").click()
    wait_for_status(page, "Completed")
    people.complaints.clear()  # while the server was away, its stream could not be had


def restart_on_the_same_ports(stack: StackProcess) -> None:
    """`kill -9` of everything, then up again where it listened: the browser must find it by itself."""
    assert stack.facts is not None
    ports = {name: url.rpartition(":")[2] for name, url in stack.facts["urls"].items()}
    stack.kill_everything()
    stack.env = {**stack.env, **{f"DEV_TOOLS_{name.upper()}_PORT": port for name, port in ports.items()}}
    stack.has_own_ports = True
    stack.start()


def test_knowledge_tools_spend_and_audit_answer(people: People, stack: StackProcess, shop: Path) -> None:
    if not stack.get("/tasks")["items"]:
        stack.run_task(PLAIN, shop)
    page = people.sign_in("ann", "operator")
    page.goto("/knowledge")
    page.get_by_label("Question").fill("order discount total")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#found")).to_contain_text("shop/prices.py")
    expect(page.locator("#found")).to_contain_text("score")

    page.goto("/gateway")
    page.locator("#group-tasks summary").click()
    page.get_by_role("link", name=re.compile("tasks_list")).click()
    page.get_by_role("button", name="Call").click()
    expect(page.locator("#answer")).to_contain_text("Done")
    page.goto("/spend")
    expect(page.locator("main")).to_contain_text("feature-dev")
    expect(page.locator("main")).to_contain_text("the contract of May")
    page.goto("/audit?verify=yes")
    expect(page.locator("main")).to_contain_text("entries are there and as they were written")
    expect(page.locator("table")).to_contain_text("tool.call")


def test_a_release_is_deployed_and_gone_back_from_with_its_log_live(people: People, fleet: Fleet) -> None:
    page = people.sign_in("ann", "operator")
    page.goto("/releases")
    expect(page.locator("#releases")).to_contain_text("Refused")
    for seq in ("1", "2"):
        page.goto("/releases")
        page.get_by_role("link", name=f"Deploy… release {seq}").click()
        page.get_by_role("button", name=f"Deploy release {seq} on 1 host").click()
        expect(page.locator("#log")).to_contain_text("preflight")
        expect(page.locator("#state")).to_contain_text("Committed")
        assert fleet.droplets["web-1"].live_release() == seq
    page.goto("/releases")
    page.get_by_role("link", name="Roll back…", exact=True).click()
    page.get_by_role("button", name="Roll back to release 1").click()
    expect(page.locator("#state")).to_contain_text("Committed")
    assert fleet.droplets["web-1"].live_release() == "1"
    page.goto("/")
    expect(page.locator("#release")).to_contain_text("release 1, live")


def test_a_limit_is_raised_and_an_agent_is_asked_whether_it_answers(people: People, stack: StackProcess) -> None:
    page = people.sign_in("ann", "operator")
    page.goto("/spend")
    budget = page.locator("#budgets tr", has_text="everything in")
    budget.get_by_label("New limit").fill("75")
    budget.get_by_role("button", name="Set").click()
    expect(page.locator("#budgets")).to_contain_text("$75.00")
    page.goto("/agents/documentation")
    page.get_by_role("button", name="Test").click()
    expect(page.locator("#test .pill")).to_have_text(re.compile("Answers|Fails"))


def test_one_signs_in_at_the_provider_and_comes_back_to_the_page(people: People) -> None:
    page = people.sign_in("ann")
    page.get_by_role("button", name="Log out").first.click()
    page.goto("/spend?days=7")
    page.get_by_role("link", name="Sign in with 127.0.0.1").click()
    expect(page.locator("h1")).to_have_text("Spend")
    expect(page.locator(".who")).to_contain_text("ann@example.org operator")
    assert page.url.endswith("/spend?days=7")
    assert [url.split("?")[0].rpartition("/")[2] for url in people.foreign] == ["authorize"]
    people.foreign.clear()  # the provider's page, and nothing else
    people.complaints.clear()  # the browser logs the 401 of a page that asks to log in


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")], ids=str)
def test_every_view_fits_is_accessible_and_is_pictured(
    people: People, stack: StackProcess, shop: Path, width: int, scheme: str
) -> None:
    task = stack.create_task(ASKING, shop)["id"]
    stack.wait_for_event(task, "approval")
    approval = stack.get(f"/approvals?task_id={task}")[0]["id"]
    page = people.sign_in(viewport={"width": width, "height": 900}, color_scheme=scheme)
    SHOTS.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    for name, path in VIEWS.items():
        page.goto(path.format(task=task, approval=approval))
        page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow == 0, f"{name} is wider than the window"
        page.wait_for_load_state("load")
        found = Axe().run(page).response["violations"]
        faults += [f"{name}: {v['id']} {v['nodes'][0]['html'][:200]}" for v in found if is_serious(v["impact"])]
    page.goto("/")
    people.complaints[:] = [said for said in people.complaints if not re.search("404|409", said)]  # nothing, or no plan
    stack.post(f"/tasks/{task}/cancel")
    assert faults == []


def is_serious(impact: str) -> bool:
    return impact in {"serious", "critical"}


def test_without_javascript_one_creates_follows_and_approves(people: People, shop: Path) -> None:
    page = people.sign_in(java_script_enabled=False)
    task = start_task(page, ASKING, shop)
    for _ in range(30):
        if page.locator("#asked article").count():
            break
        page.wait_for_timeout(500)  # a person who reloads
        page.goto(f"/tasks/{task}")
    page.locator("#asked article").get_by_role("button", name="Approve").click()
    expect(page.locator("#timeline")).to_contain_text("Approved by ann")


def test_a_viewer_sees_everything_and_finds_no_button(people: People) -> None:
    page = people.sign_in("vic", "viewer")
    for path in ("/", "/tasks", "/approvals", "/gateway", "/knowledge"):
        page.goto(path)
        expect(page.locator("main form[method=post] button")).to_have_count(0)


def test_a_personal_token_made_by_command_signs_in_until_it_is_revoked(people: People, stack: StackProcess) -> None:
    where = ("--data-dir", str(stack.data_dir), "--json")
    made = json.loads(run_cli("console", "token", "vic", "--role", "viewer", *where, env=stack.env).stdout)
    page = people.sign_in("ann")
    page.get_by_role("button", name="Log out").first.click()
    page.get_by_label("Personal token").fill(made["token"])
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".who")).to_contain_text("vic viewer")

    listed = json.loads(run_cli("console", "tokens", *where, env=stack.env).stdout)
    assert [(one["id"], one["name"], one["is_valid"]) for one in listed] == [(made["id"], "vic", True)]
    assert run_cli("console", "revoke", made["id"], *where, env=stack.env).returncode == 0
    page.goto("/spend")
    expect(page.locator("h1")).to_have_text("Log in")
    people.complaints.clear()  # the browser logs the 401 of a page that asks to log in


def test_wrong_names_and_roles_are_refused_with_the_next_command(stack: StackProcess) -> None:
    where = ("--data-dir", str(stack.data_dir), "--json")
    king = run_cli("console", "link", "ann", "--role", "king", *where, env=stack.env)
    assert (king.returncode, json.loads(king.stdout)["error"]["code"]) == (2, "bad_input")
    gone = run_cli("console", "revoke", "none", *where, env=stack.env)
    assert (gone.returncode, json.loads(gone.stdout)["error"]["code"]) == (3, "not_found")
