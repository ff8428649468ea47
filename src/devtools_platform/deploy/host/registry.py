"""Reading signatures from a registry with the standard library: the OCI distribution API, read-only.

`cosign` keeps the signatures of an image in the same repository, as an image with the tag `sha256-HEX.sig`.
"""

import base64
import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from devtools_platform.deploy.host.store import Refused

MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
MAX_BYTES = 4_000_000
MAX_SIGNATURES = 20
TIMEOUT_S = 15


class Registry:
    """A registry as a droplet sees it. `login` maps its host name to user and password."""

    def __init__(self, plain: tuple[str, ...], login: Mapping[str, tuple[str, str]]) -> None:
        self.plain = plain
        self.login = login
        self._tokens: dict[str, str] = {}

    def fetch_signatures(self, repository: str, digest: str) -> list[tuple[bytes, bytes]]:
        """Payload and signature of each. Raises `Refused` where the registry does not answer."""
        host, _, name = repository.partition("/")
        raw = self._get(host, name, f"manifests/{digest.replace(':', '-')}.sig")
        if raw is None:
            return []
        layers: list[dict[str, Any]] = json.loads(raw).get("layers", [])[:MAX_SIGNATURES]
        found: list[tuple[bytes, bytes]] = []
        for layer in layers:
            payload = self._get(host, name, f"blobs/{layer['digest']}")
            annotations: dict[str, str] = layer.get("annotations") or {}
            encoded = annotations.get(SIGNATURE)
            if payload is None or encoded is None:
                continue
            if f"sha256:{hashlib.sha256(payload).hexdigest()}" == layer["digest"]:
                found.append((payload, base64.b64decode(encoded)))
        return found

    def _get(self, host: str, name: str, path: str) -> bytes | None:
        url = f"{'http' if host in self.plain else 'https'}://{host}/v2/{name}/{path}"
        try:
            return self._open(url, host)
        except urllib.error.HTTPError as error:
            if error.code == 404:  # noqa: PLR2004 - HTTP's own number
                return None
            raise _away(host, f"HTTP {error.code}") from None
        except OSError as error:
            raise _away(host, str(error)) from None

    def _open(self, url: str, host: str) -> bytes:
        headers = {"Accept": MANIFESTS}
        if token := self._tokens.get(host):
            headers["Authorization"] = token
        try:
            return _read(urllib.request.Request(url, headers=headers))  # noqa: S310 - the scheme is ours
        except urllib.error.HTTPError as error:
            challenge = error.headers.get("WWW-Authenticate", "")
            if error.code != 401 or not challenge:  # noqa: PLR2004 - HTTP's own number
                raise
            self._tokens[host] = self._answer(challenge, host)
            headers["Authorization"] = self._tokens[host]
            return _read(urllib.request.Request(url, headers=headers))  # noqa: S310 - the scheme is ours

    def _answer(self, challenge: str, host: str) -> str:
        login = self.login.get(host)
        basic = "Basic " + base64.b64encode(":".join(login).encode()).decode() if login else ""
        if not challenge.lower().startswith("bearer"):
            return basic
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = urllib.parse.urlencode({key: asked[key] for key in ("service", "scope") if key in asked})
        realm = asked.get("realm", "")
        if urllib.parse.urlsplit(realm).scheme not in ("https", "http" if host in self.plain else "https"):
            raise _away(host, f"it wants our password sent to {realm!r}")
        request = urllib.request.Request(f"{realm}?{query}", headers={"Authorization": basic} if basic else {})  # noqa: S310
        answer = json.loads(_read(request))
        return f"Bearer {answer.get('token') or answer['access_token']}"


class _StripAuthorization(urllib.request.HTTPRedirectHandler):
    """Blobs are often served from a bucket elsewhere; our credentials stay with the registry."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        fresh = super().redirect_request(req, fp, code, msg, headers, newurl)
        if fresh is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            fresh.remove_header("Authorization")
        return fresh


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _StripAuthorization)


def _read(request: urllib.request.Request) -> bytes:
    with _opener.open(request, timeout=TIMEOUT_S) as response:
        data: bytes = response.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Refused("tampered", f"{request.full_url} is larger than {MAX_BYTES} bytes.")
    return data


def _away(host: str, why: str) -> Refused:
    return Refused("registry_away", f"The registry {host!r} did not give us what we asked for: {why}.", "Try again.")
