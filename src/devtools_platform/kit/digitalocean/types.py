"""What DigitalOcean answers, as far as we read it. Fields it leaves out are None: nothing is made up.

Named after its API description of 2026-08; what that does not hold (agent versions, listing of keys) after pydo 0.44.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Meta(Part):
    page: int | None = None
    pages: int | None = None
    total: int | None = None


class Pages(Part):
    next: str | None = None


class Links(Part):
    pages: Pages | None = None


class Listing(Part):
    """A page of a list; its items stand in the field of the subclass."""

    meta: Meta | None = None
    links: Links | None = None


class Nothing(Part):
    """An answer without a body."""


# -- managed agents ----------------------------------------------------------------------------------------------------


class McpServer(Part):
    """An MCP server that a managed agent reaches. `authorization` is sent as the header of that name."""

    server_label: str
    server_url: str
    authorization: SecretStr | None = None
    allowed_tools: tuple[str, ...] = ()


class Deployment(Part):
    status: str | None = None
    url: str | None = None
    visibility: str | None = None


class AgentModel(Part):
    uuid: str | None = None
    name: str | None = None
    inference_name: str | None = None


class KeyInfo(Part):
    """An endpoint access key. `secret_key` is there once, in the answer that made it."""

    uuid: str
    name: str | None = None
    secret_key: SecretStr | None = None
    created_at: datetime | None = None
    deleted_at: datetime | None = None


class Agent(Part):
    uuid: str
    name: str
    instruction: str | None = None
    region: str | None = None
    project_id: str | None = None
    tags: tuple[str, ...] = ()
    model: AgentModel | None = None
    deployment: Deployment | None = None
    mcp_servers: tuple[McpServer, ...] = ()
    api_key_infos: tuple[KeyInfo, ...] = ()
    version_hash: str | None = None
    updated_at: datetime | None = None

    @property
    def is_running(self) -> bool:
        return self.deployment is not None and self.deployment.status == "STATUS_RUNNING"


class AgentBody(Part):
    agent: Agent


class AgentListing(Listing):
    agents: tuple[Agent, ...] = ()


class KeyBody(Part):
    api_key_info: KeyInfo


class KeyListing(Listing):
    api_key_infos: tuple[KeyInfo, ...] = ()


class AgentVersion(Part):
    version_hash: str
    created_at: datetime | None = None
    currently_applied: bool = False
    can_rollback: bool = False
    trigger_action: str | None = None
    model_name: str | None = None


class VersionListing(Listing):
    agent_versions: tuple[AgentVersion, ...] = ()


class VersionBody(Part):
    version_hash: str | None = None


class Measurement(Part):
    usage_type: str | None = None
    tokens: int | None = None


class ResourceUsage(Part):
    start: datetime | None = None
    stop: datetime | None = None
    measurements: tuple[Measurement, ...] = ()


class UsageBody(Part):
    usage: ResourceUsage = ResourceUsage()


# -- models ------------------------------------------------------------------------------------------------------------


class Model(Part):
    """A model a managed agent can run on: `uuid` is what an agent is created with."""

    uuid: str | None = None
    id: str | None = None
    name: str | None = None
    lifecycle_status: str | None = None


class ModelListing(Listing):
    models: tuple[Model, ...] = ()


class Pricing(Part):
    """US dollars per million tokens."""

    input_price_per_million: Decimal | None = None
    output_price_per_million: Decimal | None = None


class CatalogueModel(Part):
    id: str | None = None
    model_id: str | None = None
    name: str | None = None
    availability: tuple[str, ...] = ()
    pricing: Pricing | None = None


class CatalogueListing(Listing):
    data: tuple[CatalogueModel, ...] = ()


class ServedModel(Part):
    """A model as serverless inference lists it."""

    id: str


class ServedListing(Part):
    data: tuple[ServedModel, ...] = ()


# -- registry ----------------------------------------------------------------------------------------------------------


class Tag(Part):
    tag: str
    manifest_digest: str | None = None
    updated_at: datetime | None = None
    compressed_size_bytes: int | None = None


class TagListing(Listing):
    tags: tuple[Tag, ...] = ()


class Manifest(Part):
    digest: str
    tags: tuple[str, ...] = ()
    updated_at: datetime | None = None
    compressed_size_bytes: int | None = None


class ManifestListing(Listing):
    manifests: tuple[Manifest, ...] = ()


class DockerAuth(Part):
    auth: SecretStr


class DockerCredentials(Part):
    """Docker's own `config.json`: registry -> base64 of `user:password`."""

    auths: dict[str, DockerAuth] = Field(default_factory=dict[str, DockerAuth])


class GarbageCollection(Part):
    uuid: str | None = None
    status: str | None = None
    blobs_deleted: int | None = None
    freed_bytes: int | None = None


class GarbageBody(Part):
    garbage_collection: GarbageCollection


# -- droplets and what stands before them ------------------------------------------------------------------------------


class Address(Part):
    ip_address: str | None = None
    type: str | None = None


class Networks(Part):
    v4: tuple[Address, ...] = ()


class Droplet(Part):
    id: int
    name: str
    status: str | None = None
    size_slug: str | None = None
    networks: Networks | None = None
    tags: tuple[str, ...] = ()
    snapshot_ids: tuple[int, ...] = ()


class DropletBody(Part):
    droplet: Droplet


class Action(Part):
    """Something DigitalOcean is doing, or has done: `in-progress`, `completed` or `errored`."""

    id: int
    status: str | None = None
    type: str | None = None


class ActionBody(Part):
    action: Action


class ReservedIp(Part):
    """An address that can be moved. `droplet` is None while it points at none."""

    ip: str
    droplet: Droplet | None = None


class ReservedIpBody(Part):
    reserved_ip: ReservedIp


class Snapshot(Part):
    id: str
    name: str
    created_at: datetime | None = None
    size_gigabytes: float | None = None
    resource_id: str | None = None

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class SnapshotListing(Listing):
    snapshots: tuple[Snapshot, ...] = ()


class LoadBalancer(Part):
    id: str
    name: str | None = None
    ip: str | None = None
    status: str | None = None
    droplet_ids: tuple[int, ...] = ()
    tag: str | None = None
    raw: dict[str, Any] = Field(default_factory=dict[str, Any], exclude=True)
    """The whole object as it came: an update must send all of it back."""


class LoadBalancerBody(Part):
    load_balancer: dict[str, Any]


class Balance(Part):
    """US dollars."""

    month_to_date_balance: Decimal | None = None
    account_balance: Decimal | None = None
    month_to_date_usage: Decimal | None = None
    generated_at: datetime | None = None
