"""The hosts of an application, from a file a team keeps under git: `deploy/hosts.yaml`."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from devtools_platform.core.errors import BadInput
from devtools_platform.deploy.types import Host

HINT = "An inventory is `hosts: {web-1: {address: 203.0.113.7}}`; see docs/how-to/deploy.md."
MAX_BYTES = 200_000


def load_hosts(file: Path, only: str | None = None) -> list[Host]:
    """The hosts in the file, or the one named. Raises `BadInput` naming the entry that is wrong."""
    try:
        text = file.read_text()
    except OSError as error:
        raise BadInput(f"The inventory {str(file)!r} cannot be read: {error.strerror}.", hint=HINT) from None
    if len(text) > MAX_BYTES:
        raise BadInput(f"The inventory {str(file)!r} is larger than {MAX_BYTES} bytes.", hint=HINT)
    try:
        entries: dict[str, Any] = yaml.safe_load(text)["hosts"]
        hosts = [_read_host(name, entry) for name, entry in entries.items()]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{file}: {where} is {first.get('input')!r}: {first['msg']}.", hint=HINT) from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is no inventory: {error}.", hint=HINT) from None
    chosen = [host for host in hosts if only in {None, host.name}]
    if not chosen:
        known = ", ".join(host.name for host in hosts) or "none"
        raise BadInput(f"{file} names no host {only!r}; it has {known}.", hint=HINT)
    return chosen


def _read_host(name: str, entry: dict[str, Any] | None) -> Host:
    return Host.model_validate({**(entry or {}), "name": name})
