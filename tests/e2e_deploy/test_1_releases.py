"""Must hold 1: what may run, what may not, and who may change it."""

import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from e2e_deploy.fleet import HERE, HOSTS, run
from e2e_deploy.shop import Shop

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def one_host(shop: Shop) -> Iterator[None]:
    """What concerns the lock and the signatures of one droplet: the other is left as it is."""
    shop.fleet.use_hosts("web-1")
    yield
    shop.fleet.use_hosts(*HOSTS)


def test_the_hosts_run_two_versions_of_the_engine_and_of_compose(shop: Shop) -> None:
    """Must hold 7: whatever is rolled out to both hosts below is rolled out on either."""
    facts = shop.fleet.cli("host", "check")
    first, second = ([facts[host][key].split("+")[0] for key in ("engine", "compose")] for host in HOSTS)

    print(f"\n  engine and compose: {first} and {second}")
    assert second == ["26.1.5", "2.40.3"]
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_the_first_release_serves(shop: Shop) -> None:
    manifest = shop.release("v1", is_inspected=True)
    outcome = shop.start("--watch", "1")

    assert outcome["status"] == "committed"
    assert shop.versions() == {"v1"}
    assert manifest["images"]["web"].startswith("10.98.0.1:5000/acme/shop-web@sha256:")


def test_a_broken_release_never_takes_traffic_and_shows_why(shop: Shop) -> None:
    shop.release("v2", "broken")
    with shop.load(*HOSTS) as seen:
        outcome = shop.start(code=21)

    assert (outcome["status"], outcome["failed_step"].split("@")[0]) == ("reverted", "health")
    for words in outcome["last_words"].values():
        assert "the payment service does not answer" in words["web"]["log"]
    assert outcome["last_words"].keys() == HOSTS.keys()
    assert (seen["versions"], seen["failures"]) == (["v1"], [])
    assert shop.current() == 1


@pytest.mark.usefixtures("one_host")
def test_what_is_not_signed_for_this_is_refused_before_anything_is_pulled(shop: Shop) -> None:
    shop.release("v3")
    before = shop.images()
    code, out, err = shop.fleet.call(script=HERE / "attacks.py")
    assert code == 0, err
    answers = json.loads(out)

    assert len(answers) == 13
    assert answers.pop("flip without verification").startswith("flip: web-1: Not done yet: health, probe, verify")
    assert {name: answer for name, answer in answers.items() if not answer.startswith("verify: web-1: ")} == {}
    assert shop.images() == before
    assert shop.version() == "v1"


@pytest.mark.usefixtures("one_host")
def test_a_second_deployer_meets_the_lock_and_a_killed_one_frees_it(shop: Shop) -> None:
    first = shop.fleet.start_cli("rollout", "start", "--watch", "60")
    assert first.stderr is not None
    _wait_for_phase(shop, "flipped")
    refused = shop.start(code=4)
    assert "A rollout is in progress, by ada@" in refused["error"]["message"]

    os.killpg(first.pid, signal.SIGKILL)
    began = time.monotonic()
    while _is_locked(shop.fleet.droplets["web-1"].state / "lock"):
        assert time.monotonic() - began < 8
        time.sleep(0.05)
    free_after = time.monotonic() - began
    first.communicate()

    print(f"\n  lock free {free_after:.2f} s after kill -9")
    assert free_after < 5
    assert shop.fleet.cli("rollout", "status")["recovered"] == "reverted"
    assert shop.version() == "v1"


@pytest.mark.usefixtures("one_host")
def test_a_cut_network_frees_the_lock_within_five_seconds(shop: Shop) -> None:
    droplet = shop.fleet.droplets["web-1"]
    first = shop.fleet.start_cli("rollout", "start", "--watch", "60")
    _wait_for_phase(shop, "flipped")
    run("ip", "-n", droplet.name, "link", "set", "eth0", "down")
    began = time.monotonic()
    while _is_locked(droplet.state / "lock"):
        assert time.monotonic() - began < 8
        time.sleep(0.05)
    free_after = time.monotonic() - began
    run("ip", "-n", droplet.name, "link", "set", "eth0", "up")
    out, _ = first.communicate(timeout=60)

    print(f"\n  lock free {free_after:.2f} s after the network was cut")
    assert free_after < 5
    assert json.loads(out)["unreachable"] == ["web-1"]
    assert shop.fleet.cli("rollout", "status")["recovered"] in {"reverted", "nothing"}
    assert shop.version() == "v1"


def test_what_was_approved_is_what_runs(shop: Shop) -> None:
    plan = shop.fleet.folder / "plan.json"
    made = shop.fleet.cli("rollout", "plan", "--watch", "0", "--out", plan)
    assert shop.start("--plan", "0" * 64, code=4)["error"]["code"] == "too_late"

    outcome = shop.start("--plan", str(plan))

    assert (outcome["status"], outcome["plan_hash"]) == ("committed", made["hash"])
    assert shop.versions() == {"v3"}
    assert shop.start("--plan", str(plan), code=4)["error"]["code"] == "conflict"


def _wait_for_phase(shop: Shop, phase: str) -> None:
    deadline = time.monotonic() + 40
    file = shop.fleet.droplets["web-1"].state / "rollout.json"
    while not file.exists() or json.loads(file.read_text())["phase"] != phase:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_locked(file: object) -> bool:
    import fcntl
    from pathlib import Path

    with Path(str(file)).open("a") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
