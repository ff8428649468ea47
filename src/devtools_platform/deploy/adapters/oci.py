"""An OCI registry over HTTP (distribution spec 1.1): digests, tags, blobs, manifests. Any registry, DOCR among them."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2

from devtools_platform.core.errors import BadInput, Conflict, NotFound, Unauthorized, Unavailable
from devtools_platform.deploy.interfaces import Registry
from devtools_platform.kit.tls import tls_context

ACCEPT = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json"
)
MAX_BYTES = 64_000_000
TIMEOUT_S = 60


@dataclass
class OciRegistry:
    """`Registry` by HTTP. `login` maps a registry's host to user and password; `plain` are those without TLS."""

    login: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    plain: tuple[str, ...] = ()
    http: httpx2.Client = field(
        default_factory=lambda: httpx2.Client(verify=tls_context(), trust_env=False, timeout=TIMEOUT_S)
    )
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def close(self) -> None:
        self.http.close()

    def digest_of(self, repository: str, tag: str) -> str | None:
        """The digest of what a tag names now; None when there is no such tag."""
        response = self._send("HEAD", repository, f"manifests/{tag}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        digest = self._checked(response, repository).headers.get("Docker-Content-Digest")
        if digest:
            return digest
        raw = self.fetch_manifest(repository, tag)
        return None if raw is None else digest_of(raw)

    def list_tags(self, repository: str) -> list[str]:
        """All tags, over all pages; empty for a repository that does not exist yet."""
        tags: list[str] = []
        path: str | None = "tags/list?n=1000"
        while path:
            response = self._send("GET", repository, path)
            if response.status_code == HTTPStatus.NOT_FOUND:
                return tags
            tags += self._checked(response, repository).json().get("tags") or []
            link = re.search(r"<[^>]*[?&](last=[^>&]+)[^>]*>", response.headers.get("Link", ""))
            path = f"tags/list?n=1000&{link[1]}" if link else None
        return tags

    def fetch_manifest(self, repository: str, reference: str) -> bytes | None:
        response = self._send("GET", repository, f"manifests/{reference}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        raw = self._checked(response, repository).content
        if reference.startswith("sha256:") and digest_of(raw) != reference:
            raise Unavailable(
                f"{repository}@{reference} came with another content.", hint="Do not trust this registry."
            )
        return raw

    def fetch_blob(self, repository: str, digest: str) -> bytes:
        """Raises `NotFound`, and `Unavailable` when what came is not what was asked for."""
        response = self._send("GET", repository, f"blobs/{digest}", follow=True)
        if response.status_code == HTTPStatus.NOT_FOUND:
            raise NotFound(f"{repository} has no blob {digest}.", hint="See `dev-tools release list`.")
        data = self._checked(response, repository).content
        if len(data) > MAX_BYTES or digest_of(data) != digest:
            raise Unavailable(f"The blob {digest} of {repository} came with another content.", hint="Try again.")
        return data

    def push_blob(self, repository: str, data: bytes) -> str:
        """Returns its digest; what is there already is not sent again."""
        digest = digest_of(data)
        if self._send("HEAD", repository, f"blobs/{digest}").status_code == HTTPStatus.OK:
            return digest
        started = self._checked(self._send("POST", repository, "blobs/uploads/"), repository)
        url = urljoin(str(started.request.url), started.headers["Location"])
        url += f"{'&' if urlsplit(url).query else '?'}digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        self._checked(self._request("PUT", url, repository, data, headers), repository)
        return digest

    def push_manifest(self, repository: str, reference: str, manifest: Mapping[str, Any]) -> str:
        data = json.dumps(manifest, separators=(",", ":")).encode()
        headers = {"Content-Type": manifest["mediaType"]}
        response = self._send("PUT", repository, f"manifests/{reference}", data=data, headers=headers)
        self._checked(response, repository)
        return digest_of(data)

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete by digest; what is gone already is no error. Raises `Conflict` where the registry does not delete."""
        response = self._send("DELETE", repository, f"manifests/{digest}")
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            host = repository.partition("/")[0]
            raise Conflict(
                f"The registry {host!r} does not delete: it answered 405 for {repository}@{digest}.",
                hint="Allow it there; Distribution's registry has `storage: {delete: {enabled: true}}`.",
            )
        if response.status_code != HTTPStatus.NOT_FOUND:
            self._checked(response, repository)

    def _send(
        self,
        method: str,
        repository: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        follow: bool = False,
    ) -> httpx2.Response:
        host, _, name = repository.partition("/")
        if not name:
            raise BadInput(
                f"{repository!r} is not a repository.", hint="Write HOST/NAME: registry.example.org/team/app."
            )
        url = f"{'http' if host in self.plain else 'https'}://{host}/v2/{name}/{path}"
        return self._request(method, url, repository, data, {"Accept": ACCEPT, **(headers or {})}, follow=follow)

    def _request(
        self,
        method: str,
        url: str,
        repository: str,
        data: bytes | None,
        headers: Mapping[str, str],
        *,
        follow: bool = False,
    ) -> httpx2.Response:
        host = repository.partition("/")[0]
        try:
            sent = dict(headers) | self._authorization(repository)
            response = self.http.request(method, url, content=data, headers=sent, follow_redirects=follow)
            if response.status_code == HTTPStatus.UNAUTHORIZED and self._answer(response, repository):
                sent = dict(headers) | self._authorization(repository)
                response = self.http.request(method, url, content=data, headers=sent, follow_redirects=follow)
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"The registry {host!r} does not answer: {error}.", hint="Check DEV_TOOLS_REGISTRY."
            ) from None
        return response

    def _authorization(self, repository: str) -> dict[str, str]:
        token = self._tokens.get((repository, "token"))
        return {"Authorization": token} if token else {}

    def _answer(self, response: httpx2.Response, repository: str) -> bool:
        """Get a token as the registry's challenge says. False when we have nothing to answer with."""
        host = repository.partition("/")[0]
        challenge, login = response.headers.get("WWW-Authenticate", ""), self.login.get(host)
        if challenge.lower().startswith("basic") and login:
            encoded = base64.b64encode(":".join(login).encode()).decode()
            self._tokens[repository, "token"] = f"Basic {encoded}"
            return True
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = asked.get("realm")
        if not realm or (urlsplit(realm).scheme != "https" and host not in self.plain):
            return False
        name = repository.partition("/")[2]
        actions = "pull,push,delete" if response.request.method == "DELETE" else "pull,push"
        params = {"service": asked.get("service", ""), "scope": f"repository:{name}:{actions}"}
        auth = httpx2.BasicAuth(*login) if login else None
        answer = self.http.get(realm, params=params, auth=auth)
        if not answer.is_success:
            return False
        body = answer.json()
        self._tokens[repository, "token"] = f"Bearer {body.get('token') or body.get('access_token')}"
        return True

    def _checked(self, response: httpx2.Response, repository: str) -> httpx2.Response:
        if response.is_success:
            return response
        host = repository.partition("/")[0]
        if response.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            hint = "Set DEV_TOOLS_REGISTRY_USER and DEV_TOOLS_REGISTRY_PASSWORD; DOCR gives short-lived ones."
            raise Unauthorized(f"The registry {host!r} does not let us at {repository!r}.", hint=hint)
        text = f"The registry {host!r} answered {response.status_code}: {response.text[:300]}"
        raise Unavailable(text, hint="Try again; look at the registry's own log.")


@dataclass(frozen=True)
class OciRemover:
    """`Remover` over the distribution API, which has no word for freeing room."""

    registry: Registry

    async def remove(self, repository: str, digest: str) -> None:
        await asyncio.to_thread(self.registry.delete_manifest, repository, digest)

    async def finish(self) -> str:
        return "The registry frees the room with its own garbage collection."


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
