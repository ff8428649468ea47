"""Must hold 4: two hosts, and both end on the new release or neither."""

import json
import subprocess
import sys

import pytest

from e2e_deploy.fleet import HERE, HOSTS, run
from e2e_deploy.shop import Shop

pytestmark = pytest.mark.timeout(240)


def test_one_that_fails_to_stage_keeps_both_on_the_old_release(shop: Shop) -> None:
    before, version = shop.current(), shop.version()
    shop.release("v9")
    blocker = shop.fleet.droplets["web-2"]
    live = shop.fleet.cli("rollout", "status")["hosts"]["web-2"]["live"]
    idle, port = ("blue", "21000") if live == "green" else ("green", "21100")
    blocker.docker("rm", "-f", f"shop-{idle}-web-1")
    blocker.docker("run", "-d", "--name", "blocker", "-p", f"127.0.0.1:{port}:1", _image(shop), "sleep", "600")
    outcome = shop.start("--watch", "0", code=21)
    blocker.docker("rm", "-f", "blocker")

    assert outcome["failed_step"] == "start@web-2"
    assert (shop.current(), shop.versions()) == (before, {version})


def test_one_that_fails_after_its_flip_takes_both_back(shop: Shop) -> None:
    """Caddy of one host stops answering: the watch after the flip sees it."""
    version = shop.version()
    droplet = shop.fleet.droplets["web-2"]
    config = (droplet.folder / "host.json").read_text()
    (droplet.folder / "host.json").write_text(config.replace(f"http://{droplet.address}/health", "http://127.0.0.1:1/"))
    outcome = shop.start("--watch", "0", code=21)
    (droplet.folder / "host.json").write_text(config)

    assert outcome["failed_step"] == "watch@web-2"
    assert shop.versions() == {version}


def test_a_deployer_that_dies_between_two_commits_is_finished_on_both(shop: Shop) -> None:
    plan = shop.fleet.cli("rollout", "plan", "--watch", "0")
    seq = plan["seq"]
    number = [f"{step['action']}@{step['host']}" for step in plan["steps"]].index("commit@web-1") + 1
    code, out, err = shop.fleet.call(str(seq), str(number), script=HERE / "killed.py")
    assert (code, out) == (None, "commit@web-1"), err

    assert shop.fleet.cli("rollout", "status")["recovered"] == "finished"
    assert (shop.current(), shop.versions()) == (seq, {"v9"})


def test_requests_go_to_the_other_droplet_by_one_command_and_both_hosts_remember_it(shop: Shop) -> None:
    """The cloud is a fake, everything else is real."""
    fleet = shop.fleet
    path = {"PYTHONPATH": f"{fleet.env['PYTHONPATH']}:{HERE.parent}"}
    process = fleet.start(sys.executable, str(HERE / "cloud.py"), env=path, stdin=subprocess.PIPE)
    assert process.stdout is not None
    cloud = json.loads(process.stdout.readline())
    file = fleet.folder / "hosts.yaml"
    before = file.read_text()
    inventory = json.loads(before)
    for name, droplet in zip(("web-1", "web-2"), cloud["droplets"], strict=True):
        inventory["hosts"][name]["droplet"] = droplet
    inventory["network"] = {"reserved_ip": cloud["ip"], "check_urls": [f"http://{HOSTS['web-2']}/health"]}
    file.write_text(json.dumps(inventory))
    account = {"DIGITALOCEAN_ACCESS_TOKEN": cloud["token"], "DEV_TOOLS_DIGITALOCEAN_URL": cloud["url"]}

    plan = fleet.cli("rollout", "switch", "web-2", "--watch", "1", "--dry-run", env=account)
    outcome = fleet.cli("rollout", "switch", "web-2", "--watch", "1", "--plan", plan["hash"], env=account)
    file.write_text(before)
    out, err = process.communicate("", timeout=30)

    assert (outcome["status"], outcome["serving"]) == ("switched", "web-2"), outcome
    assert json.loads(out) == {"serving": cloud["droplets"][1], "snapshots": 1}, err
    last = {name: one["entries"][-1] for name, one in fleet.cli("rollout", "history").items()}
    assert {(one["action"], one["data"]["to"]) for one in last.values()} == {("switch", "web-2")}


def test_a_host_that_cannot_be_reached_stops_a_rollout_before_it_begins(shop: Shop) -> None:
    shop.release("v10")
    name = shop.fleet.droplets["web-2"].name
    run("ip", "-n", name, "link", "set", "eth0", "down")
    try:
        error = shop.start(code=10)["error"]
    finally:
        run("ip", "-n", name, "link", "set", "eth0", "up")

    assert error["code"] == "unavailable"
    assert shop.version("web-1") == "v9"


def _image(shop: Shop) -> str:
    images = shop.fleet.cli("release", "show", "latest")["images"]
    current = shop.fleet.droplets["web-2"].docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}")
    found = [line for line in current.splitlines() if line.split("@")[0] == images["web"].split("@")[0]]
    return found[0]
