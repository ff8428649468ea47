"""The client against the fake; every request and answer is judged by DigitalOcean's own description."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from devtools_platform.kit.digitalocean import (
    DigitalOcean,
    DigitalOceanFailed,
    DigitalOceanRefused,
    NotThere,
    NotUnique,
    RateLimited,
    TokenRefused,
)
from devtools_platform.kit.digitalocean.agents import AgentSpec
from devtools_platform.kit.digitalocean.types import McpServer
from fakes.contracts import needs_digitalocean
from fakes.digitalocean_resources import PROJECT
from fakes.digitalocean_server import FakeDigitalOcean, Fault

GATEWAY_TOKEN = "dtg_" + "g" * 43
SERVER = McpServer(
    server_label="dev-tools",
    server_url="https://tools.example.org/mcp",
    authorization=SecretStr(f"Bearer {GATEWAY_TOKEN}"),
    allowed_tools=("web_fetch",),
)


@pytest.fixture
def fake() -> Iterator[FakeDigitalOcean]:
    with FakeDigitalOcean() as server:
        yield server
    server.check()


class Clock:
    """Waits without waiting, and knows how long."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def client(fake: FakeDigitalOcean, clock: Clock, **options: float) -> DigitalOcean:
    return DigitalOcean(SecretStr(fake.token), fake.url, sleep=clock, **options)


async def make_agent(do: DigitalOcean, name: str = "dev-tools-cicd", model: str = "openai-gpt-oss-20b") -> str:
    found = await do.models.find(model)
    spec = AgentSpec(name, "Agent: cicd", str(found.uuid), [SERVER], ["dev-tools"])
    return (await do.agents.create(spec, project_id=PROJECT, region="tor1")).uuid


async def use_every_operation(do: DigitalOcean, fake: FakeDigitalOcean) -> None:
    """The whole surface once, in an order that makes sense."""
    uuid = await make_agent(do)
    await do.agents.list_all()
    await do.agents.get(uuid)
    spec = AgentSpec("dev-tools-cicd", "Agent: cicd\n\nMore.", str((await do.models.find("qwen3-coder-flash")).uuid))
    await do.agents.update(uuid, spec)
    await do.agents.set_visibility(uuid, "private")
    first = (await do.agents.list_versions(uuid))[-1]
    await do.agents.roll_back(uuid, first.version_hash)
    key = await do.agents.create_key(uuid, "one")
    await do.agents.list_keys(uuid)
    await do.agents.delete_key(uuid, key.uuid)
    until = datetime.now(UTC)
    await do.agents.usage(uuid, until - timedelta(days=1), until)
    await do.agents.delete(uuid)
    await do.models.catalogue()
    await do.registry.list_tags("acme", "team/shop")
    await do.registry.list_manifests("acme", "shop")
    await do.registry.delete_tag("acme", "shop", "v1")
    await do.registry.credentials("acme", is_writing=True)
    await do.registry.delete_manifest("acme", "shop", (await do.registry.list_manifests("acme", "shop"))[0].digest)
    await do.registry.collect_garbage("acme")
    droplet = await do.droplets.create("web-1", region="nyc3", size="s-1vcpu-1gb", image="debian-12-x64", tags=["web"])
    await do.droplets.get(droplet.id)
    await do.droplets.act(droplet.id, "power_off")
    await do.droplets.take_snapshot(droplet.id, "before")
    await do.droplets.list_snapshots(droplet.id)
    for snapshot in await do.snapshots.list_all():
        await do.snapshots.delete(snapshot.id)
    moving = await do.reserved_ips.assign("203.0.113.7", droplet.id)
    await do.actions.get(moving.id)
    await do.reserved_ips.get("203.0.113.7")
    await do.reserved_ips.unassign("203.0.113.7")
    balancer = fake.resources.balancer["id"]
    await do.load_balancers.add_droplets(balancer, [droplet.id])
    await do.load_balancers.update(balancer, {"name": "web-blue"})
    await do.load_balancers.remove_droplets(balancer, [droplet.id])
    await do.load_balancers.get(balancer)
    await do.droplets.destroy(droplet.id)
    await do.balance()
    key_only = DigitalOcean(SecretStr(fake.inference_key), fake.url)
    assert "openai-gpt-oss-20b" in await key_only.models.list_served()
    await key_only.aclose()


#: Paths of ours that the pruned description does not hold; their shapes are pydo 0.44's.
BESIDE_THE_DESCRIPTION = (
    "/versions",
    "/digests/sha256:",
    "/api_keys",
    "/v2/snapshots/",
    "/v2/actions/",
    "GET /v2/reserved_ips/",
)


@needs_digitalocean
async def test_every_request_and_every_answer_is_as_the_official_description_says(fake, clock) -> None:
    async with client(fake, clock) as do:
        await use_every_operation(do, fake)

    assert fake.contract is not None
    assert fake.contract.violations == []
    assert len(fake.contract.judged) >= 28
    assert [what for what in fake.contract.undescribed if not any(p in what for p in BESIDE_THE_DESCRIPTION)] == []


@needs_digitalocean
async def test_the_judge_sees_a_request_that_the_description_does_not_allow(fake, clock) -> None:
    async with client(fake, clock) as do:
        uuid = await make_agent(do)
        await do.agents.set_visibility(uuid, "hidden")  # pyright: ignore[reportArgumentType]

    assert fake.contract is not None
    assert any("VISIBILITY_HIDDEN" in violation for violation in fake.contract.violations)
    fake.contract.violations.clear()


async def test_an_agent_is_made_changed_and_rolled_back(fake, clock) -> None:
    async with client(fake, clock) as do:
        uuid = await make_agent(do)
        before = await do.agents.get(uuid)
        other = await do.models.find("Qwen3-Coder-Flash")
        changed = await do.agents.update(uuid, AgentSpec("dev-tools-cicd", "Agent: cicd\n\nNew.", str(other.uuid)))
        assert changed.mcp_servers == (), "an empty list is said with the flag that clears"
        versions = await do.agents.list_versions(uuid)
        assert [version.currently_applied for version in versions] == [True, False]
        await do.agents.roll_back(uuid, versions[1].version_hash)
        after = await do.agents.get(uuid)

    assert before.is_running
    assert (before.instruction, before.version_hash) == (after.instruction, after.version_hash)
    assert [server.server_url for server in after.mcp_servers] == [SERVER.server_url]
    assert after.model is not None
    assert after.model.name == "openai-gpt-oss-20b"


async def test_lists_are_read_to_their_last_page(fake, clock) -> None:
    fake.contract = None  # a hundred creations, judged elsewhere
    async with client(fake, clock) as do:
        uuid = (await do.models.find("openai-gpt-oss-20b")).uuid
        for n in range(103):
            await do.agents.create(AgentSpec(f"a{n}", "Agent: x", str(uuid)), project_id=PROJECT, region="tor1")
        listed = await do.agents.list_all()

    assert len({agent.uuid for agent in listed}) == 103
    assert len(fake.sent("GET", "/v2/gen-ai/agents")) == 2


async def test_two_agents_of_one_name_are_not_taken_for_one(fake, clock) -> None:
    async with client(fake, clock) as do:
        await make_agent(do)
        await make_agent(do)
        with pytest.raises(NotUnique, match="2 managed agents"):
            await do.agents.find("dev-tools-cicd")


async def test_a_model_that_is_gone_is_named_with_the_nearest_there_are(fake, clock) -> None:
    async with client(fake, clock) as do:
        with pytest.raises(NotThere, match=r"no model 'llama-3.1-70b-instruct'.*llama3.3-70b-instruct"):
            await do.models.find("llama-3.1-70b-instruct")


async def test_a_rate_limit_is_waited_for_as_long_as_it_says(fake, clock) -> None:
    fake.inject(Fault("status", "/v2/customers", status=429, retry_after="7"))
    async with client(fake, clock) as do:
        balance = await do.balance()

    assert str(balance.month_to_date_usage) == "11.21"
    assert clock.waits == [7.0]
    assert do.rate_limit is not None
    assert 0 < do.rate_limit.remaining < do.rate_limit.limit == 5000


async def test_a_rate_limit_that_lasts_an_hour_is_an_error_that_says_so(fake, clock) -> None:
    fake.inject(Fault("status", "/v2/customers", status=429))
    async with client(fake, clock) as do:
        with pytest.raises(RateLimited) as caught:
            await do.balance()

    assert clock.waits == []
    assert caught.value.retry_after_s is not None
    assert 3500 < caught.value.retry_after_s <= 3600, "from ratelimit-reset, where Retry-After is missing"


async def test_reads_are_tried_again_after_a_server_error_and_creations_are_not(fake, clock) -> None:
    fake.inject(Fault("status", "/v2/gen-ai/models", status=503, times=2))
    fake.inject(Fault("status", "/v2/gen-ai/agents", method="POST", status=500))
    async with client(fake, clock) as do:
        with pytest.raises(DigitalOceanFailed, match="HTTP 500"):
            await make_agent(do)
        assert await do.agents.list_all() == []

    assert clock.waits == [0.5, 1.0]
    assert len(fake.sent("POST", "/v2/gen-ai/agents")) == 1


@pytest.mark.parametrize("kind", ["cut", "garbage"])
async def test_a_broken_answer_is_an_error_and_nothing_else(fake, clock, kind) -> None:
    fake.inject(Fault(kind, "/v2/customers", times=None))
    async with client(fake, clock) as do:
        with pytest.raises(DigitalOceanFailed, match=r"no usable answer|not what its API describes"):
            await do.balance()


async def test_an_answer_that_never_comes_ends_within_the_time_limit(fake, clock) -> None:
    fake.inject(Fault("hang", "/v2/customers", times=None))
    async with client(fake, clock, timeout_s=0.05) as do:
        with pytest.raises(DigitalOceanFailed, match=r"within 0\.05 s"):
            await do.balance()

    assert len(fake.sent("GET", "/v2/customers")) <= 4


@pytest.mark.parametrize(("status", "error"), [(401, TokenRefused), (403, TokenRefused), (422, DigitalOceanRefused)])
async def test_a_refusal_is_not_tried_again_and_says_what_to_do(fake, clock, status, error) -> None:
    fake.inject(Fault("status", "/v2/customers", status=status))
    async with client(fake, clock) as do:
        with pytest.raises(error) as caught:
            await do.balance()

    assert clock.waits == []
    assert caught.value.hint
    assert "request " in str(caught.value), "DigitalOcean's support asks for the request's id"


async def test_no_secret_stands_in_an_error_a_log_or_a_value_that_is_printed(fake, clock, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "dop_v1_" + "e" * 64
    do = DigitalOcean(SecretStr(wrong), fake.url, sleep=clock)
    with pytest.raises(TokenRefused) as refused:
        await do.balance()
    await do.aclose()
    async with client(fake, clock) as do:
        uuid = await make_agent(do)
        key = await do.agents.create_key(uuid, "one")
        printed = f"{key!r} {await do.agents.get(uuid)!r} {await do.registry.credentials('acme')!r} {SERVER!r}"

    assert key.secret_key is not None
    said = f"{refused.value} {refused.value.hint} {refused.value.__cause__!r} {printed} {caplog.text}"
    for secret in (wrong, fake.token, key.secret_key.get_secret_value(), GATEWAY_TOKEN, "dXNlcjpwYXNzd29yZA"):
        assert secret not in said


async def test_registry_credentials_always_end(fake, clock) -> None:
    async with client(fake, clock) as do:
        await do.registry.credentials("acme")

    assert fake.resources.credentials == [{"expiry_seconds": "3600", "read_write": "false"}]


async def test_a_load_balancer_keeps_what_an_update_does_not_name(fake, clock) -> None:
    id_ = fake.resources.balancer["id"]
    async with client(fake, clock) as do:
        await do.load_balancers.add_droplets(id_, [1, 2])
        updated = await do.load_balancers.update(id_, {"tag": "blue"})

    assert (updated.tag, updated.name) == ("blue", "web")
    assert updated.raw["health_check"] == {"protocol": "http", "port": 8080, "path": "/health"}
