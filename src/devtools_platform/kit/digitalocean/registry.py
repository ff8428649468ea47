"""DigitalOcean's container registry. Deploy by digest: a tag is a label that anybody with access can move."""

from dataclasses import dataclass
from urllib.parse import quote

from devtools_platform.kit.digitalocean.transport import Transport
from devtools_platform.kit.digitalocean.types import (
    DockerCredentials,
    GarbageBody,
    GarbageCollection,
    Manifest,
    ManifestListing,
    Nothing,
    Tag,
    TagListing,
)

CREDENTIALS_LAST_S = 3600


@dataclass(frozen=True)
class Registry:
    transport: Transport

    async def list_tags(self, registry: str, repository: str) -> list[Tag]:
        path = f"{_repository(registry, repository)}/tags"
        return [tag async for page in self.transport.pages(path, TagListing) for tag in page.tags]

    async def list_manifests(self, registry: str, repository: str) -> list[Manifest]:
        """What is stored, by digest, tagged or not."""
        path = f"{_repository(registry, repository)}/digests"
        return [one async for page in self.transport.pages(path, ManifestListing) for one in page.manifests]

    async def delete_tag(self, registry: str, repository: str, tag: str) -> None:
        await self.transport.send("DELETE", f"{_repository(registry, repository)}/tags/{quote(tag, safe='')}", Nothing)

    async def delete_manifest(self, registry: str, repository: str, digest: str) -> None:
        """Delete an image by digest, with the tags that name it. Its blobs stay until garbage is collected."""
        await self.transport.send("DELETE", f"{_repository(registry, repository)}/digests/{digest}", Nothing)

    async def credentials(
        self, registry: str, *, is_writing: bool = False, last_s: int = CREDENTIALS_LAST_S
    ) -> DockerCredentials:
        """A `config.json` for Docker. Always with an end: DigitalOcean's own default is credentials without one."""
        if last_s <= 0:
            raise ValueError("credentials that never expire are not asked for")
        params = {"expiry_seconds": last_s, "read_write": "true" if is_writing else "false"}
        return await self.transport.read(DockerCredentials, f"/v2/registries/{registry}/docker-credentials", params)

    async def collect_garbage(self, registry: str) -> GarbageCollection:
        """Free what no tag and no manifest holds. The registry is read-only while it runs."""
        path = f"/v2/registries/{registry}/garbage-collection"
        return (await self.transport.send("POST", path, GarbageBody)).garbage_collection


def _repository(registry: str, repository: str) -> str:
    return f"/v2/registries/{registry}/repositories/{quote(repository, safe='')}"
