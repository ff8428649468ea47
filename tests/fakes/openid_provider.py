"""An OpenID provider as far as a resource server needs one: its metadata, its keys, and tokens it signs."""

import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AUDIENCE = "https://tools.example.org/mcp"


@dataclass
class Provider:
    """`url` is its issuer."""

    url: str = ""
    is_away: bool = False
    fetches: int = 0
    """Of its keys."""
    private: dict[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    """Key id -> algorithm and private key."""
    published: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.add("rsa-1", "RS256")
        self.add("ec-1", "ES256")
        self.add("ed-1", "EdDSA")

    def add(self, kid: str, algorithm: str, *, bits: int = 2048) -> None:
        kinds = {
            "RS256": lambda: rsa.generate_private_key(65537, bits),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }
        self.private[kid] = (algorithm, kinds[algorithm]())
        self.published.add(kid)

    def jwk(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.private[kid]
        kinds = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
        return {**kinds[algorithm].to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": algorithm, "use": "sig"}

    def claims(self, **more: Any) -> dict[str, Any]:
        now = time.time()
        fixed = {"iss": self.url, "aud": AUDIENCE, "sub": "ana", "exp": now + 300, "scope": "openid tools:one_*"}
        return {name: value for name, value in {**fixed, **more}.items() if value is not None}

    def token(self, kid: str = "rsa-1", *, header: dict[str, Any] | None = None, **more: Any) -> str:
        algorithm, key = self.private[kid]
        return jwt.encode(self.claims(**more), key, algorithm, {"kid": kid, **(header or {})})

    def app(self) -> Starlette:
        async def metadata(_: Request) -> Response:
            return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

        async def keys(_: Request) -> Response:
            self.fetches += 1
            if self.is_away:
                return Response(status_code=503)
            shared = {"kty": "oct", "kid": "shared", "k": "c2hhcmVkLXNlY3JldC1zaGFyZWQtc2VjcmV0LXNoYXJlZA"}
            return JSONResponse({"keys": [shared, *(self.jwk(kid) for kid in sorted(self.published))]})

        return Starlette(routes=[Route("/.well-known/openid-configuration", metadata), Route("/keys", keys)])
