"""Must hold 3: the deployer dies after every single step of its plan, and the next command makes things right."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e_deploy.fleet import HERE
from e2e_deploy.shop import Shop

pytestmark = pytest.mark.timeout(300)
STEPS = "begin preflight verify pull start health probe smoke gate flip drain watch commit".split()  # noqa: SIM905 - read as a sentence
KILLED = {"web-1": STEPS[::2], "web-2": [*STEPS[1::2], "commit"]}
"""After which steps the deployer of each droplet dies; the two work side by side. Each ends by the last one."""


def test_a_deployer_killed_after_any_step_leaves_a_state_that_is_put_right(shop: Shop) -> None:
    assert {step for steps in KILLED.values() for step in steps} == set(STEPS)
    before, seq = shop.current(), shop.release("v7")["seq"]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(_kill_after_each, shop, host, before, seq) for host in KILLED]:
            done.result()

    assert shop.versions() == {"v7"}


def _kill_after_each(shop: Shop, host: str, before: int, seq: int) -> None:
    alone, version, checksum = shop.fleet.only(host), shop.version(host), shop.checksum(host)
    for step in KILLED[host]:
        number = str(STEPS.index(step) + 1)
        code, out, err = shop.fleet.call(str(seq), number, script=HERE / "killed.py", env=alone)
        assert (code, out) == (None, f"{step}@{host}"), err
        status = shop.fleet.cli("rollout", "status", env=alone)
        state = status["hosts"][host]
        is_last = step == "commit"
        assert (status["recovered"], state["current"]["seq"], state["journal"]) == (
            "nothing" if is_last else "reverted",
            seq if is_last else before,
            None,
        )
        assert shop.version(host) == ("v7" if is_last else version), step
        assert shop.checksum(host) == checksum


def test_the_control_that_the_checksum_sees_a_change(shop: Shop) -> None:
    droplet, before = shop.fleet.droplets["web-1"], shop.checksum()
    psql = ["exec", "shop-data-postgres-1", "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc"]
    droplet.docker(*psql, "UPDATE orders SET item = 'x' WHERE id = 17")

    assert shop.checksum() != before


def test_history_holds_and_old_images_can_be_pruned_while_data_stays(shop: Shop) -> None:
    history = shop.fleet.cli("rollout", "history")["web-1"]
    assert history["broken_at"] is None
    checksum = shop.checksum()
    for done in shop.fleet.cli("rollout", "prune", "--keep", "1").values():
        assert done["removed"]
        assert done["lost_volumes"] == []
    assert shop.checksum() == checksum
    assert shop.fleet.cli("rollout", "rollback")["status"] == "committed"
    audit = Path(shop.fleet.droplets["web-1"].state / "audit.jsonl")
    lines = audit.read_text().splitlines()
    audit.write_text("\n".join([lines[0], json.dumps({**json.loads(lines[1]), "actor": "mallory"}), *lines[2:]]) + "\n")
    assert shop.fleet.cli("rollout", "history", code=1)["web-1"]["broken_at"] == 2
    audit.write_text("\n".join(lines) + "\n")


def test_debug_shows_what_is_the_matter_with_a_service(shop: Shop) -> None:
    facts = shop.fleet.cli("debug", "worker")["web-1"]
    current = [one for one in facts["containers"] if one["is_current"]]

    assert current[0]["state"] == "healthy"
    assert facts["audit_broken_at"] is None
    assert shop.fleet.cli("debug", "nothing", code=3)["error"]["hint"].startswith("There are: postgres, web, worker")
