"""Must hold 2: two deploys, a broken one, a rollback and forward again, and nobody notices."""

import pytest

from e2e_deploy.fleet import HOSTS
from e2e_deploy.shop import Shop

pytestmark = pytest.mark.timeout(240)


def test_no_request_is_lost_over_deploys_a_broken_one_and_a_rollback(shop: Shop) -> None:
    # An event stream never drains: what is waited for it is waited in vain, at every deploy.
    quick = ["--watch", "1", "--drain", "2"]
    with shop.load(*HOSTS) as seen:
        shop.release("v4")
        first = shop.start(*quick)
        shop.release("v5", "broken")
        broken = shop.start(*quick, code=21)
        shop.release("v6")
        second = shop.start(*quick)
        seen_before = shop.fleet.cli("rollout", "rollback", "--dry-run")
        back = shop.fleet.cli("rollout", "rollback", "--plan", seen_before["hash"])
        went_back_to = shop.versions()
        forward = shop.fleet.cli("rollout", "rollback", "--to", str(second["seq"]))

    print(f"\n  load: {seen}\n  rollback {back['seconds']:.2f} s, forward {forward['seconds']:.2f} s")
    assert [first["status"], broken["status"], second["status"]] == ["committed", "reverted", "committed"]
    assert (seen_before["kind"], seen_before["seq"], back["seq"]) == ("return", first["seq"], first["seq"])
    assert (back["status"], went_back_to) == ("committed", {"v4"})
    assert (forward["status"], shop.versions()) == ("committed", {"v6"})
    assert seen["failures"] == []
    assert set(seen["versions"]) == {"v3", "v4", "v6"}
    assert seen["requests"] > 1000
    assert seen["events"] > 50
    # Two switches of the same kind, of which one may have met what else the machine does.
    assert min(back["seconds"], forward["seconds"]) < 1


def test_the_clients_would_notice_a_service_that_is_replaced_in_place(shop: Shop) -> None:
    """The control: what others do. Without it the test above could be blind."""
    droplet = shop.fleet.droplets["web-1"]
    colour = shop.fleet.cli("rollout", "status")["hosts"]["web-1"]["live"]
    with shop.load("web-1") as seen:
        droplet.docker("restart", "-t", "2", f"shop-{colour}-web-1")

    assert len(seen["failures"]) > 5
