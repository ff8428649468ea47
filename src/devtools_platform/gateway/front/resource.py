"""How clients find out where to get a token for us: RFC 9728's metadata, and the challenge that points to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from devtools_platform.gateway.mcp.messages import encode

WELL_KNOWN = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True)
class Resource:
    """What the gateway is for an authorization server."""

    issuer: str
    audience: str
    """Where it is a URL, it is the one clients know us by; otherwise they know us by the name they call."""

    def document(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The same on every path: a token is for the gateway as a whole."""
        return encode(
            {
                "resource": self.audience if self._is_url() else f"{self._base(headers)}/mcp",
                "authorization_servers": [self.issuer],
                "scopes_supported": ["tools:*"],
                "bearer_methods_supported": ["header"],
                "resource_name": "Dev-Tools gateway",
            }
        )

    def challenge(self, headers: Mapping[bytes, bytes]) -> bytes:
        """For a 401."""
        error = ', error="invalid_token"' if headers.get(b"authorization") else ""
        return f'Bearer resource_metadata="{self._base(headers)}{WELL_KNOWN}/mcp"{error}'.encode()

    def _is_url(self) -> bool:
        return self.audience.startswith(("https://", "http://"))

    def _base(self, headers: Mapping[bytes, bytes]) -> str:
        if self._is_url():
            parts = urlsplit(self.audience)
            return f"{parts.scheme}://{parts.netloc}"
        return "http://" + headers.get(b"host", b"").decode("latin-1").replace('"', "")


def is_metadata(path: str) -> bool:
    """Whether the path is the metadata's, or its variant for a path of ours."""
    return path in {WELL_KNOWN, f"{WELL_KNOWN}/mcp"} or path.startswith(f"{WELL_KNOWN}/mcp/")
