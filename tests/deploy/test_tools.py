import pytest

from deploy.droplet import QUICK, Droplet, make_release, rollouts
from devtools_platform.core.tools import Caller
from devtools_platform.deploy.tools import DeployTools
from devtools_platform.deploy.types import Bundle, Plan, ReleaseManifest
from fakes.oci_registry import FakeRegistry

CALLER = Caller("t1", "infrastructure")


@pytest.fixture
def releases(registry: FakeRegistry) -> dict[str, tuple[ReleaseManifest, Bundle]]:
    return {"2": make_release(registry, 2)}


@pytest.fixture
def tools(droplets: dict[str, Droplet], releases: dict[str, tuple[ReleaseManifest, Bundle]]) -> DeployTools:
    async def make_plan(release: str) -> Plan:
        return await rollouts(droplets["web-1"]).plan(*releases[release], QUICK)

    return DeployTools(lambda: rollouts(droplets["web-1"]), make_plan)


async def test_an_agent_sees_what_is_wrong_and_proposes_a_plan_that_a_person_can_start(
    tools: DeployTools,
    droplets: dict[str, Droplet],
    registry: FakeRegistry,
    releases: dict[str, tuple[ReleaseManifest, Bundle]],
) -> None:
    works = rollouts(droplets["web-1"])
    await works.deploy(*make_release(registry, 1), QUICK)
    before = droplets["web-1"].docker()["containers"]

    status = await tools.call("status", {}, CALLER)
    debug = await tools.call("debug", {"service": "web"}, CALLER)
    plan = await tools.call("plan", {"release": "2"}, CALLER)

    assert status.text.startswith("web-1: release 1 (0000000000")
    assert "## web on web-1 (shop-blue): healthy, release 1" in debug.text
    assert plan.text.endswith(f"dev-tools rollout start 2 --plan {plan.data['hash']}")
    assert droplets["web-1"].docker()["containers"] == before
    outcome = await works.deploy(*releases["2"], QUICK, plan.data["hash"])
    assert outcome.status == "committed"


async def test_secrets_in_logs_are_masked(
    tools: DeployTools, droplets: dict[str, Droplet], registry: FakeRegistry
) -> None:
    await rollouts(droplets["web-1"]).deploy(*make_release(registry, 1), QUICK)
    droplets["web-1"].set_docker(log="Authorization: Bearer abcdefghijklmnopqrstuvwxyz")

    result = await tools.call("debug", {"service": "web"}, CALLER)

    assert "Bearer ***" in result.text
    assert "abcdefghijkl" not in result.text + str(result.data)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("start", {}), ("debug", {}), ("debug", {"service": "../x"}), ("debug", {"service": "web", "lines": 10**6})],
)
async def test_nothing_else_can_be_asked(tools: DeployTools, name: str, arguments: dict[str, object]) -> None:
    result = await tools.call(name, arguments, CALLER)

    assert result.is_error
    assert all(tool.is_read_only for tool in tools.list_tools())
