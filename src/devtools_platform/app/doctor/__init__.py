"""The first answer to every trouble: what a stack needs, what is missing or will be, and the command that mends it."""

import asyncio
from collections.abc import Awaitable, Callable

from devtools_platform.app.doctor import credentials, machine, services
from devtools_platform.app.doctor.types import Check
from devtools_platform.config import Settings
from devtools_platform.core.errors import DevToolsError

__all__ = ["Check", "examine"]

LONGEST_S = 20.0
"""For one check. Those of addresses give up sooner, and say so in their own words."""

CHECKS: dict[str, Callable[[Settings], Awaitable[Check]]] = {
    "version": machine.check_version,
    "python": machine.check_python,
    "git": machine.check_git,
    "data directory": machine.check_data_dir,
    "disk": machine.check_disk,
    "sandbox": machine.check_sandbox,
    "ports": machine.check_ports,
    "database": services.check_database,
    "clock": services.check_clock,
    "index": services.check_index,
    "embedded model": machine.check_embedded_model,
    "model": machine.check_model,
    "runtimes": machine.check_runtimes,
    "upstreams": services.check_upstreams,
    "addresses": services.check_addresses,
    "tokens": credentials.check_tokens,
    "keys": credentials.check_keys,
    "backup": credentials.check_backup,
    "old releases": services.check_old_releases,
}


async def examine(settings: Settings) -> list[Check]:
    """Every check, in the order a person should mend them."""
    first = [await _bounded(name, settings) for name in ("version", "python", "git", "data directory")]
    return first + await asyncio.gather(*(_bounded(name, settings) for name in list(CHECKS)[len(first) :]))


async def _bounded(name: str, settings: Settings) -> Check:
    try:
        async with asyncio.timeout(LONGEST_S):
            return await CHECKS[name](settings)
    except DevToolsError as error:
        return Check(name, is_ok=False, found=str(error), fix=error.hint)
    except TimeoutError:
        fix = "Run `dev-tools doctor` again when this machine has less to do."
        return Check(name, is_ok=False, found=f"no answer within {LONGEST_S:g} s", fix=fix)
