"""Releases and rollouts: what is shown, who may start what, and that exactly the plan that was seen is started."""

from datetime import timedelta
from typing import Any

import pytest

from console.memory import NOON
from console.test_pages import HOSTILE, csrf_of, text_of
from devtools_platform.console.delivery import (
    Colour,
    Delivered,
    Doing,
    Host,
    HostDeed,
    LogLine,
    PlannedStep,
    Release,
    Rollout,
    RolloutPlan,
)

SHA = "0123456789abcdef0123456789abcdef01234567"
PLAN = RolloutPlan(
    "rollback",
    1,
    SHA,
    "f" * 64,
    (("web-1", 2, "blue"),),
    (PlannedStep("flip", "flip", ("web-1",)), PlannedStep("commit", "commit", ("web-1",))),
)


def host(**more: Any) -> Host:
    colours = (Colour("blue", 1, is_live=False, is_up=True), Colour("green", 2, is_live=True, is_up=True))
    return Host(**({"name": "web-1", "git_sha": SHA, "colours": colours, "recorded": (1, 2)} | more))


def release(seq: int, **more: Any) -> Release:
    given = {"is_signed": True, "git_sha": SHA, "created_at": NOON, "services": ("web",), "probes": ("web:80/health",)}
    return Release(seq=seq, **(given | more))


def delivered(*hosts: Host, releases: tuple[Release, ...] = (), **more: Any) -> Delivered:
    return Delivered(NOON, hosts or (host(),), releases, **more)


async def test_without_hosts_the_page_names_the_commands_that_come_first(browser):
    words = text_of((await browser.get("/releases")).text)
    assert "dev-tools host bootstrap" in words
    assert "dev-tools release build" in words


async def test_colours_signatures_probes_and_the_hosts_own_audit_are_shown(browser, delivery):
    refused = Release(4, is_signed=False, problem="The signature does not belong to this key.")
    unknown = Release(3, is_signed=None, problem="No public key is set.")
    deed = HostDeed("web-1", NOON, "ann@console", "revert", 3, "health@web-1")
    found = (refused, unknown, release(2))
    delivery.delivered = delivered(releases=found, deeds=(deed,), broken_audits=("web-2",))
    words = text_of((await browser.get("/releases")).text)
    assert "blue release 1 still runs green release 2 gets the requests" in words
    assert "4 Refused The signature does not belong to this key. unknown unknown unknown unknown" in words
    assert "3 Not checked No public key is set." in words
    assert "2 green Holds 0123456789ab 2026-11-23 12:00 UTC web web:80/health" in words
    assert "web-1 ann@console revert 3 health@web-1" in words
    assert "The audit of web-2 does not hold." in words
    assert "green release 2, live" in text_of((await browser.get("/")).text)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (Host("web-1", error="Nobody answers."), "No answer Nobody answers."),
        (host(doing=Doing("held", "deploy", 3, ("begin", "start"))), "Held"),
        (Host("web-1"), "No release was recorded here yet."),
    ],
)
async def test_a_host_that_is_away_or_held_or_new_says_so(browser, delivery, one, said):
    delivery.delivered = delivered(one)
    assert said in text_of((await browser.get("/releases")).text)


async def test_only_what_a_host_would_take_is_offered(browser, delivery):
    delivery.delivered = delivered(releases=(release(3), release(2), release(1)))
    page = (await browser.get("/releases")).text
    assert "kind=deploy&amp;seq=3" in page
    assert "kind=deploy&amp;seq=2" not in page
    assert "kind=rollback&amp;seq=1" in page
    assert "kind=promote" not in page
    delivery.delivered = delivered(host(doing=Doing("held", "deploy", 3, ())), releases=(release(3),))
    page = (await browser.get("/releases")).text
    assert "kind=promote" in page
    assert "kind=deploy" not in page, "no other one can begin"


async def test_exactly_the_plan_that_was_seen_is_started_in_the_persons_name(browser, delivery):
    delivery.planned = PLAN
    page = (await browser.get("/rollouts/plan?kind=rollback")).text
    assert "web-1 from release 2 to release 1 in blue" in text_of(page)
    form = {"csrf": csrf_of(page), "kind": "rollback", "seq": "1", "plan": PLAN.hash}
    answer = await browser.post("/rollouts", data=form)
    assert answer.headers["location"] == "/rollouts/r1"
    assert delivery.started == [("rollback", 1, PLAN.hash, "owner")]


async def test_what_cannot_be_planned_offers_no_button(browser, delivery):
    answer = await browser.get("/rollouts/plan?kind=promote")
    assert answer.status_code == 409
    assert "No rollout is held on all hosts." in answer.text
    assert "<button class=" not in answer.text.partition("<main")[2]


@pytest.mark.parametrize("form", [{"kind": "deploy", "seq": "1"}, {"kind": "drop"}, {"kind": "deploy", "seq": "-1"}])
async def test_a_form_that_names_no_plan_or_nothing_known_starts_nothing(browser, delivery, form):
    delivery.planned = PLAN
    csrf = csrf_of((await browser.get("/rollouts/plan?kind=rollback")).text)
    answer = await browser.post("/rollouts", data=form | {"csrf": csrf})
    assert answer.status_code == 422
    assert delivery.started == []


async def test_a_viewer_sees_the_plan_and_starts_nothing(stranger, delivery, console):
    delivery.planned, delivery.delivered = PLAN, delivered()
    await stranger.get(await console.new_link(stranger, "vic", "viewer"))
    page = (await stranger.get("/rollouts/plan?kind=rollback")).text
    assert "an operator starts it" in page
    assert "/rollouts/plan" not in (await stranger.get("/releases")).text
    form = {"csrf": csrf_of(page), "kind": "rollback", "seq": "1", "plan": PLAN.hash}
    assert (await stranger.post("/rollouts", data=form)).status_code == 403
    assert delivery.started == []


async def test_a_rollout_shows_its_log_and_the_last_words_of_what_failed(browser, delivery):
    lines = (LogLine(NOON, "health", "web-1"), LogLine(NOON, "return", HOSTILE))
    delivery.begun = [
        Rollout(
            "r1", "deploy", 3, "ann", NOON, "reverted", NOON + timedelta(seconds=14), lines,
            why="web is unhealthy.", failed_step="health@web-1", last_words={"web on web-1": f"exit 1\n{HOSTILE}"},
        )
    ]  # fmt: skip
    page = (await browser.get("/rollouts/r1")).text
    words = text_of(page)
    assert "Every host is on the release it was on. health@web-1 web is unhealthy." in words
    assert "took 14 s" in words
    assert "Last words of web on web-1 exit 1" in words
    assert HOSTILE not in page
    assert (await browser.get("/rollouts/r2")).status_code == 404


async def test_before_the_first_answer_of_hosts_the_pages_say_that_they_are_asked(browser, delivery):
    delivery.has_hosts = True
    assert "The hosts are being asked." in text_of((await browser.get("/")).text)
    assert "Hosts and registry are being asked" in text_of((await browser.get("/releases")).text)
