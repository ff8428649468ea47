"""What runs out or should be replaced: tokens, keys, and the last backup. Reminders come before it is too late."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from devtools_platform.app.client import Refused
from devtools_platform.app.doctor.types import Check
from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.home import LAST_BACKUP, Home
from devtools_platform.app.managed import ManagedRecord
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError

REMIND_BEFORE = timedelta(days=14)
ROTATE_AFTER = timedelta(days=90)
"""Keys without an end of their own."""
BACK_UP_AFTER = timedelta(days=7)


async def check_tokens(settings: Settings) -> Check:
    """Gateway tokens, which only the running gateway knows."""
    home = Home.of(settings)
    if not home.is_locked():
        return Check("tokens", is_ok=True, found="known when the stack runs")
    try:
        listed: list[dict[str, Any]] = await GatewayRest.of(home).send("GET", "/tokens")
    except (Refused, DevToolsError) as error:
        return Check("tokens", is_ok=False, found=str(error), fix="Look at logs/stack.log in the data directory.")
    soon = time.time() + REMIND_BEFORE.total_seconds()
    valid = [token for token in listed if token["is_valid"]]
    ending = sorted((token for token in valid if token["expires_at"] < soon), key=lambda token: token["expires_at"])
    if not ending:
        return Check("tokens", is_ok=True, found=f"{len(valid)} valid, none ends within {REMIND_BEFORE.days} days")
    found = "; ".join(f"{t['name']!r} ends {_day(t['expires_at'])}" for t in ending[:5])
    return Check("tokens", is_ok=True, found=found, fix=f"dev-tools token rotate {ending[0]['id']} --overlap 24")


async def check_keys(settings: Settings) -> Check:
    """Of managed agents: they have no end of their own."""
    home = Home.of(settings)
    now, old = datetime.now(UTC), list[str]()
    fix = ""
    for environment, agents in ManagedRecord.load(home).agents.items():
        for name, agent in agents.items():
            if agent.key is not None and agent.key_made_at is not None:
                age = now - datetime.fromisoformat(agent.key_made_at)
                if age > ROTATE_AFTER:
                    old.append(f"the key of {name} is {age.days} days old")
                    fix = fix or f"dev-tools agents rotate-keys --env {environment}"
    if old:
        return Check("keys", is_ok=True, found="; ".join(old), fix=fix)
    return Check("keys", is_ok=True, found=f"none is older than {ROTATE_AFTER.days} days")


async def check_backup(settings: Settings) -> Check:
    """When the last one was made, where a stack works for others."""
    text = Home.of(settings).find_secret(LAST_BACKUP)
    made_at = datetime.fromisoformat(json.loads(text)["at"]) if text else None
    found = "never" if made_at is None else f"{made_at:%Y-%m-%d %H:%M} UTC"
    is_late = made_at is None or datetime.now(UTC) - made_at > BACK_UP_AFTER
    if settings.environment in {"production", "staging"} and is_late:
        fix = "dev-tools backup create FILE" if settings.backup_recipient else "dev-tools backup keygen FILE"
        return Check("backup", is_ok=True, found=found, fix=fix)
    return Check("backup", is_ok=True, found=found)


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d}"
