"""People who come with a token of an OpenID provider: a real provider, real keys, requests on real sockets."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from devtools_platform.app.identity import _oidc
from devtools_platform.config import load_settings
from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.oidc import OidcCallers, Trust
from devtools_platform.gateway.upstreams.fetch import Fetch
from fakes.authorization_server import served
from fakes.openid_provider import AUDIENCE, Provider
from gateway_rig import Rig, misbehaving, running


def callers(provider: Provider, *, allow_private: bool = True, **trust: Any) -> OidcCallers:
    fetch = Fetch(ssl.create_default_context(), allow_private)
    return OidcCallers(Trust(provider.url, AUDIENCE, **trust), fetch, refetch_every_s=0.2)


@asynccontextmanager
async def opened(folder: Path, **trust: Any) -> AsyncIterator[tuple[Rig, Provider]]:
    """A gateway whose people come from a provider, with its keys there already."""
    provider = Provider()

    def make(url: str) -> Any:
        provider.url = url
        return provider.app()

    async with served(make):
        oidc = callers(provider, **trust)
        async with running({"one": misbehaving(), "two": misbehaving()}, folder, oidc=oidc) as rig:
            await until(lambda: oidc._keys)
            yield rig, provider


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - the other side is another server
            await asyncio.sleep(0.01)


async def status(rig: Rig, token: str) -> int:
    return (await rig.rpc("tools/list", {}, token=token)).status_code


async def test_tokens_of_the_provider_open_what_their_scopes_say(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        for kid in ("rsa-1", "ec-1", "ed-1"):
            token = provider.token(kid)
            assert await rig.text("one_echo", "hello", token=token) == "hello"
            names = await rig.names(token=token)
            assert names
            assert all(name.startswith("one_") for name in names)
        refused = await rig.call("two_echo", "x", token=provider.token())
        assert "lacks the scope 'tools:two_echo'" in refused["error"]["message"]
        await rig.hub.audit.flush()
        principal = rig.audit.lines[0].principal
        assert principal.startswith("oidc:")
        assert principal.endswith("/ana")
        assert rig.audit.lines[0].agent is None
        assert await status(rig, rig.token()) == 200, "run tokens of agents are as good as before"
        answer = await rig.rpc("tools/list", {}, token=provider.token(scope="openid"))
        assert "cover none of" in answer.text, "a token without our scopes sees nothing, and is told so"


async def test_another_claim_and_groups_can_say_it_too(tmp_path: Path) -> None:
    groups = {"platform": ("tools:two_echo",), "everybody": ("tools:one_echo",)}
    async with opened(tmp_path, claim="groups", scopes_of=groups) as (rig, provider):
        token = provider.token(groups=["platform", "everybody", "strangers", 7])
        assert sorted(await rig.names(token=token)) == ["one_echo", "two_echo"]
        assert await rig.names(token=provider.token(groups=["everybody"])) == ["one_echo"]


def _forged(provider: Provider) -> dict[str, str]:
    """Tokens that must not open anything, by what is wrong with them."""
    now = time.time()
    public = provider.private["rsa-1"][1].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = provider.claims()
    good = provider.token()
    head, body, signature = good.split(".")
    other = Provider(url=provider.url)
    wider = base64.urlsafe_b64encode(json.dumps({**claims, "scope": "tools:*"}).encode()).decode().rstrip("=")
    provider.add("weak", "RS256", bits=1024)
    return {
        "no signature": jwt.encode(claims, None, "none", {"kid": "rsa-1"}),
        "signature left out": f"{head}.{body}.",
        "public key as a shared secret": _hs256(claims, pem, "rsa-1"),
        "shared key of the key set": _hs256(claims, b"shared-secret-shared-secret-shared", "shared"),
        "another body": f"{head}.{wider}.{signature}",
        "another's key under the same id": other.token(),
        "another algorithm than the key's": _renamed(provider),
        "another issuer": provider.token(iss="https://evil.example"),
        "an issuer that only begins the same": provider.token(iss=provider.url + "/"),
        "another audience": provider.token(aud="https://other.example/mcp"),
        "no audience": provider.token(aud=None),
        "expired": provider.token(exp=now - 60),
        "no end": provider.token(exp=None),
        "not yet": provider.token(nbf=now + 120),
        "nobody": provider.token(sub=None),
        "an empty name": provider.token(sub=""),
        "a name with a line break": provider.token(sub="ana\nroot"),
        "a long name": provider.token(sub="a" * 300),
        "too large": provider.token(padding="x" * 10_000),
        "unknown critical extension": provider.token(header={"crit": ["exp-2"], "exp-2": True}),
        "unknown key": other_key(provider),
        "no JWT": "a.b.c",
    }


def other_key(provider: Provider) -> str:
    return provider.token(header={"kid": "never-seen"})


def _hs256(claims: dict[str, Any], key: bytes, kid: str) -> str:
    """By hand: the library refuses to make such a token."""
    import hashlib
    import hmac

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode())
    text = f"{head}.{part(json.dumps(claims).encode())}"
    return f"{text}.{part(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


def _renamed(provider: Provider) -> str:
    """Signed by the EC key, presented as one of the RSA key."""
    return provider.token("ec-1", header={"kid": "rsa-1"})


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_whatever_is_wrong_with_a_token_it_opens_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        for wrong, token in _forged(provider).items():
            assert await status(rig, token) == 401, wrong
        provider.published.add("weak")
        fetched = provider.fetches
        await status(rig, other_key(provider))
        await until(lambda: provider.fetches > fetched)
        assert await status(rig, provider.token("weak")) == 401, "a short key is no key"
        assert await status(rig, provider.token(exp=time.time() - 10)) == 200, "clocks may differ by half a minute"


async def test_a_token_ends_when_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devtools_platform.gateway.oidc.LEEWAY_S", 0.0)
    async with opened(tmp_path) as (rig, provider):
        token = provider.token(exp=time.time() + 1.5)
        assert await status(rig, token) == 200
        async with asyncio.timeout(10):
            while await status(rig, token) == 200:  # noqa: ASYNC110 - the other side is another server
                await asyncio.sleep(0.05)


async def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        token = provider.token(exp=time.time() + 1.5)
        async with asyncio.timeout(10):
            filters = {"notifications": {"toolsListChanged": True}}
            answer = await rig.rpc("subscriptions/listen", filters, token=token)
        assert answer.status_code == 200


def test_an_issuer_without_an_audience_is_refused() -> None:
    settings = load_settings({"gateway_oidc_issuer": "https://login.example.org"})
    with pytest.raises(BadInput, match="needs DEV_TOOLS_GATEWAY_OIDC_AUDIENCE"):
        _oidc(settings)


async def test_new_keys_are_found_and_old_ones_end_without_a_wait_on_the_call_path(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        old = provider.token()
        assert await status(rig, old) == 200
        provider.add("rsa-2", "RS256")
        provider.published.remove("rsa-1")
        new = provider.token("rsa-2")
        provider.is_away = True
        began = time.perf_counter()
        assert await status(rig, new) == 401, "refused, not waited for"
        assert time.perf_counter() - began < 1
        assert await status(rig, old) == 200, "keys stay while the provider is away"
        provider.is_away = False
        async with asyncio.timeout(10):
            while await status(rig, new) != 200:  # noqa: ASYNC110 - the other side is another server
                await asyncio.sleep(0.02)
        assert await status(rig, old) == 401, "also a token that was verified before its key was taken away"


async def test_a_flood_of_unknown_keys_asks_the_provider_now_and_then(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        before, began = provider.fetches, time.monotonic()
        tokens = [provider.token(header={"kid": f"guess-{n}"}) for n in range(100)]
        found = [await status(rig, token) for token in tokens]
        assert set(found) == {401}
        took = time.monotonic() - began
        assert provider.fetches - before <= took / 0.2 + 2
        assert await status(rig, provider.token()) == 200


async def test_without_keys_yet_the_answer_is_later_not_never(tmp_path: Path) -> None:
    provider = Provider(url="http://127.0.0.1:9")
    async with running({"one": misbehaving()}, tmp_path, oidc=callers(provider)) as rig:
        assert await status(rig, provider.token()) == 503
        assert await status(rig, rig.token()) == 200


async def test_an_issuer_at_a_private_address_is_not_asked_unless_allowed(tmp_path: Path) -> None:
    provider = Provider()

    def make(url: str) -> Any:
        provider.url = url
        return provider.app()

    async with served(make):
        oidc = callers(provider, allow_private=False)
        async with running({"one": misbehaving()}, tmp_path, oidc=oidc) as rig:
            assert await status(rig, provider.token()) == 503
            assert provider.fetches == 0


async def test_clients_are_told_where_to_get_a_token(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        place = "https://tools.example.org/.well-known/oauth-protected-resource/mcp"
        bare = await rig.http.post(f"{rig.url}/mcp", content="{}")
        assert bare.status_code == 401
        assert bare.headers["www-authenticate"] == f'Bearer resource_metadata="{place}"'
        wrong = await rig.rpc("tools/list", {}, token="dtg_wrong")
        assert wrong.headers["www-authenticate"] == f'Bearer resource_metadata="{place}", error="invalid_token"'
        for path in ("", "/mcp", "/mcp/one"):
            found = await rig.http.get(f"{rig.url}/.well-known/oauth-protected-resource{path}")
            assert found.status_code == 200
            assert found.json()["resource"] == AUDIENCE
            assert found.json()["authorization_servers"] == [provider.url]
        elsewhere = await rig.http.get(f"{rig.url}/.well-known/oauth-protected-resource/tokens")
        assert elsewhere.status_code == 401, "no other path is open"
    async with running({"one": misbehaving()}, tmp_path / "plain") as rig:
        assert (await rig.http.get(f"{rig.url}/.well-known/oauth-protected-resource")).status_code == 404
        assert (await rig.http.post(f"{rig.url}/mcp", content="{}")).headers["www-authenticate"] == "Bearer"


async def test_the_rest_side_takes_them_for_tools_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as (rig, provider):
        headers = {"Authorization": f"Bearer {provider.token()}"}
        called = await rig.http.post(f"{rig.url}/tools/one/echo", json={"arguments": {"text": "hi"}}, headers=headers)
        assert called.json()["text"] == "hi"
        assert (await rig.http.get(f"{rig.url}/tokens", headers=headers)).status_code == 403
        forged = {"Authorization": f"Bearer {provider.token(aud='other')}"}
        assert (await rig.http.get(f"{rig.url}/tools", headers=forged)).status_code == 401
        agent = {"Authorization": f"Bearer {rig.token()}"}
        assert (await rig.http.get(f"{rig.url}/tools", headers=agent)).status_code == 401
