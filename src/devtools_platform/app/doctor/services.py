"""What a stack needs beside itself: database, index, upstreams, the addresses its settings name, and the time."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from devtools_platform.app.client import Refused
from devtools_platform.app.delivery import Delivery
from devtools_platform.app.doctor.types import Check
from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.home import Home
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError
from devtools_platform.core.redact import redact_text
from devtools_platform.deploy.inventory import load_hosts
from devtools_platform.kit import database, schema
from devtools_platform.kit.tls import tls_context

ANSWER_S = 5.0
MAX_SKEW = timedelta(seconds=30)
"""Webhooks more than a minute off are refused, and so are signed tokens."""


async def check_database(settings: Settings) -> Check:
    """Whether it answers, and whether this release can use it."""
    url = find_database(settings)
    if url is None:
        return Check("database", is_ok=True, found="embedded, down: it starts with the stack")
    engine = database.connect(url)
    try:
        step = await database.read_in_thread(engine, database.read_step)
    finally:
        engine.dispose()
    if step is None:
        return Check("database", is_ok=True, found=f"{engine.dialect.name}, empty: the stack makes its tables")
    if not step.is_known:
        return Check("database", is_ok=False, found=str(step.refusal()), fix=step.refusal().hint)
    older = "" if step.is_current else f", {step.head} at the next start: take a backup before"
    fix = "" if step.is_current else "dev-tools backup create FILE"
    return Check("database", is_ok=True, found=f"{engine.dialect.name}, schema {step.stored}{older}", fix=fix)


def find_database(settings: Settings) -> str | None:
    """Of what answers now: a given server, or the running stack's."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    home = Home.of(settings)
    return home.find_secret("database_url") if home.is_locked() else None


async def check_old_releases(settings: Settings) -> Check:
    """Whether anybody removes them from the registry, and whether who does can."""
    if settings.registry is None:
        return Check("old releases", is_ok=True, found="no registry is set")
    kept = f"the newest {settings.keep_releases} and {settings.keep_releases_days:g} days are kept"
    if not settings.prune_releases:
        fix = "DEV_TOOLS_PRUNE_RELEASES=true, or `dev-tools release prune` from a timer"
        return Check("old releases", is_ok=True, found="the stack removes none", fix=fix)
    works = Delivery(settings, lambda _part, _text: None)
    works.public_key()
    hosts = load_hosts(settings.hosts_file)
    return Check("old releases", is_ok=True, found=f"removed once a day where {len(hosts)} hosts agree; {kept}")


async def check_clock(settings: Settings) -> Check:
    """Against the clocks of others: the newest thing in the database, and what servers say the time is."""
    skews = await _find_skews(settings)
    if not skews:
        return Check("clock", is_ok=True, found=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC; nobody to compare with")
    name, worst = max(skews.items(), key=lambda item: abs(item[1]))
    if abs(worst) <= MAX_SKEW:
        return Check("clock", is_ok=True, found=f"within {abs(worst).total_seconds():.0f} s of {', '.join(skews)}")
    way = "behind" if worst > timedelta() else "ahead of"
    fix = "Set it, and keep it set: `timedatectl set-ntp true`. Leases, tokens and webhooks go by it."
    return Check("clock", is_ok=False, found=f"{abs(worst).total_seconds():.0f} s {way} {name}", fix=fix)


async def _find_skews(settings: Settings) -> dict[str, timedelta]:
    """By whose clock, how far ours is behind it. What does not answer is another check's matter."""
    skews: dict[str, timedelta] = {}
    if (url := find_database(settings)) is not None:
        engine = database.connect(url)
        try:
            newest = await database.read_in_thread(engine, _newest_event)
            if newest is not None and newest > datetime.now(UTC):  # it says nothing of a clock that is ahead
                skews["the newest event in the database"] = newest - datetime.now(UTC)
        except (DevToolsError, SQLAlchemyError):
            pass
        finally:
            engine.dispose()
    answers = await asyncio.gather(*(_ask(url) for url in _addresses(settings).values()))
    for name, (_, date) in zip(_addresses(settings), answers, strict=True):
        if date is not None:
            skews[name] = date - datetime.now(UTC)
    return skews


def _newest_event(connection: sa.Connection) -> datetime | None:
    newest: datetime | None = connection.execute(sa.select(sa.func.max(schema.events.c.at))).scalar()
    return newest


async def check_index(settings: Settings) -> Check:
    """The Qdrant server, when there is one."""
    if settings.qdrant_url is None:
        return Check("index", is_ok=True, found="embedded: it starts with the stack")
    key = settings.qdrant_api_key
    headers = {"api-key": key.get_secret_value()} if key else {}
    fix = "See that QDRANT_URL and QDRANT_API_KEY are right, and that the server runs: `docker compose ps qdrant`."
    try:
        async with httpx2.AsyncClient(verify=tls_context(), timeout=ANSWER_S, trust_env=False, headers=headers) as http:
            about = await http.get(settings.qdrant_url)
            listed = await http.get(f"{settings.qdrant_url.rstrip('/')}/collections")
            version = str(about.json()["version"])
    except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
        words = redact_text(str(error) or type(error).__name__)
        return Check("index", is_ok=False, found=f"no Qdrant answers at {settings.qdrant_url}: {words}", fix=fix)
    if listed.is_error:
        found = f"Qdrant at {settings.qdrant_url} refuses the key: HTTP {listed.status_code}"
        return Check("index", is_ok=False, found=found, fix=fix)
    is_new = tuple(map(int, version.split(".")[:2])) >= (1, 20)
    fix = "" if is_new else "Upgrade the server to 1.20 or newer."
    return Check("index", is_new, f"Qdrant {version} at {settings.qdrant_url}", fix)


async def check_upstreams(settings: Settings) -> Check:
    """The servers behind the gateway, which only the running gateway knows."""
    home = Home.of(settings)
    if not home.is_locked():
        names = settings.gateway_servers or "none"
        return Check("upstreams", is_ok=True, found=f"{names}; they start with the stack")
    try:
        servers: list[Mapping[str, Any]] = await GatewayRest.of(home).send("GET", "/servers")
    except (Refused, DevToolsError) as error:
        return Check("upstreams", is_ok=False, found=str(error), fix="Look at logs/stack.log in the data directory.")
    bad = [
        f"{s['name']} is {s['state']}: {s.get('reason') or 'no reason given'}" for s in servers if s["state"] != "ready"
    ]
    held = [f"{s['quarantined']} tools of {s['name']}" for s in servers if s["quarantined"]]
    if bad:
        return Check("upstreams", is_ok=False, found="; ".join(bad), fix="dev-tools tools doctor")
    if held:
        name = next(s["name"] for s in servers if s["quarantined"])
        found = f"{', '.join(held)} wait for approval"
        return Check("upstreams", is_ok=True, found=found, fix=f"dev-tools tools approve {name}")
    return Check("upstreams", is_ok=True, found=f"{len(servers)} servers ready")


async def check_addresses(settings: Settings) -> Check:
    """Whether the addresses that the settings name can be reached at all; whether keys count is not asked."""
    addresses = _addresses(settings)
    if not addresses:
        return Check("addresses", is_ok=True, found="the settings name none outside")
    answers = await asyncio.gather(*(_ask(url) for url in addresses.values()))
    silent = [f"{name} ({url}): {why}" for (name, url), (why, _) in zip(addresses.items(), answers, strict=True) if why]
    if silent:
        fix = "See that the address is right and that this machine may reach it: `dev-tools config explain`."
        return Check("addresses", is_ok=False, found="; ".join(silent), fix=fix)
    return Check("addresses", is_ok=True, found=f"{', '.join(addresses)} can be reached")


def _addresses(settings: Settings) -> dict[str, str]:
    has_github = settings.github_app_id is not None or settings.github_token is not None
    has_linear = settings.linear_client_id is not None or settings.linear_api_key is not None
    named: dict[str, str | None] = {
        "the model": settings.model_base_url,
        "embeddings": settings.embedding_base_url if settings.embeddings == "endpoint" else None,
        "DigitalOcean": settings.digitalocean_url if settings.digitalocean_access_token else None,
        "GitHub": settings.github_api_url if has_github else None,
        "Linear": settings.linear_api_url if has_linear else None,
        "Langfuse": settings.langfuse_base_url if settings.langfuse_secret_key else None,
        "OTLP": settings.otlp_endpoint,
        "OpenID": settings.gateway_oidc_issuer,
    }
    return {name: url for name, url in named.items() if url is not None}


async def _ask(url: str) -> tuple[str | None, datetime | None]:
    """Why it does not answer, and what it says the time is. Any answer shows that it can be reached."""
    try:
        http = httpx2.AsyncClient(verify=tls_context(), timeout=ANSWER_S, trust_env=False)
        async with http, http.stream("GET", url) as response:
            stated = response.headers.get("date")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return redact_text(str(error) or type(error).__name__), None
    try:
        return None, parsedate_to_datetime(stated) if stated else None
    except ValueError:
        return None, None
