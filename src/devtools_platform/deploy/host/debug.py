"""What a person or an agent needs to see of a service that is in trouble. Reads, and changes nothing."""

import json
from typing import Any

from devtools_platform.deploy.host import commands, traffic
from devtools_platform.deploy.host.engine import Engine, agents_of, service_of
from devtools_platform.deploy.host.store import COLOURS, Refused, Store, check_chain

RECENT = 10


def debug(store: Store, engine: Engine, service: str, lines: int) -> dict[str, Any]:
    """Status, health log, last log lines, image against release, ports, disk and recent audit of one service.

    An agent's name stands for the service it runs in.
    """
    application = store.config.application
    found: list[dict[str, Any]] = []
    known: set[str] = set()
    for project in (*(f"{application}-{colour}" for colour in COLOURS), f"{application}-data"):
        containers = engine.containers(project)
        known |= {name for container in containers for name in (service_of(container), *agents_of(container))}
        found += [
            {
                "project": project,
                "service": service_of(container),
                **engine.describe(container, lines),
                **_compare(store, container),
            }
            for container in containers
            if service in (service_of(container), *agents_of(container))
        ]
    if not found:
        raise Refused(
            "not_found",
            f"No container of a service or agent {service!r} is here.",
            f"There are: {', '.join(sorted(known))}.",
        )
    return {"service": service, "live": store.live(), "containers": found, **overview(store, engine)}


def overview(store: Store, engine: Engine) -> dict[str, Any]:
    """The host itself: what is recorded, what goes on, and whether it has room."""
    facts = json.loads(engine.run(commands.info()))
    entries = store.audit()
    return {
        "current": store.current(),
        "live": store.live(),
        "journal": store.journal(),
        "engine": facts["ServerVersion"],
        "free_mb": engine.free_mb(),
        "volumes": engine.volumes(),
        "requests": {colour: traffic.requests_in_flight(store, colour) for colour in COLOURS},
        "audit": entries[-RECENT:],
        "audit_broken_at": check_chain(entries),
    }


def _compare(store: Store, container: dict[str, Any]) -> dict[str, Any]:
    current = store.current()
    release = container["Config"]["Labels"].get("dev-tools.release")
    return {"release": release, "is_current": None if current is None else release == str(current["seq"])}
