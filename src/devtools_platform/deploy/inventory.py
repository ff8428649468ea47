"""The hosts of an application, from a file a team keeps under git: `deploy/hosts.yaml`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from devtools_platform.core.errors import BadInput
from devtools_platform.deploy.types import DEPLOYER, Host, Model

HINT = "An inventory is `hosts: {web-1: {address: 203.0.113.7}}`; see docs/how-to/deploy.md."
MAX_BYTES = 200_000
T = TypeVar("T")


class Network(Model):
    """What stands before a pair of droplets: one of the two, and what must answer through it."""

    reserved_ip: str | None = Field(default=None, pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$")
    load_balancer: str | None = Field(default=None, pattern=r"^[0-9a-f-]{8,40}$")
    """Its id, as `doctl compute load-balancer list` shows it."""
    check_urls: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.reserved_ip is None) == (self.load_balancer is None):
            raise ValueError("a network is either a reserved_ip or a load_balancer")
        return self


def load_hosts(file: Path, only: str | None = None) -> list[Host]:
    """The hosts in the file, or the one named. Raises `BadInput` naming the entry that is wrong."""
    hosts = _read(file, lambda parsed: [_read_host(name, entry) for name, entry in parsed["hosts"].items()])
    chosen = [host for host in hosts if only in {None, host.name}]
    if not chosen:
        known = ", ".join(host.name for host in hosts) or "none"
        raise BadInput(f"{file} names no host {only!r}; it has {known}.", hint=HINT)
    return chosen


def load_network(file: Path) -> Network:
    """What stands before the hosts. Raises `BadInput` where the inventory does not say."""
    network = _read(file, lambda parsed: Network.model_validate(parsed["network"]) if "network" in parsed else None)
    if network is None:
        raise BadInput(
            f"{file} says nothing of a network.",
            hint="Write `network: {reserved_ip: 203.0.113.9, check_urls: [https://app.example.org/health]}`.",
        )
    return network


def _read(file: Path, read: Callable[[dict[str, Any]], T]) -> T:
    try:
        text = file.read_text()
    except OSError as error:
        raise BadInput(f"The inventory {str(file)!r} cannot be read: {error.strerror}.", hint=HINT) from None
    if len(text) > MAX_BYTES:
        raise BadInput(f"The inventory {str(file)!r} is larger than {MAX_BYTES} bytes.", hint=HINT)
    try:
        parsed: dict[str, Any] = yaml.safe_load(text)
        return read(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{file}: {where} is {first.get('input')!r}: {first['msg']}.", hint=HINT) from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is no inventory: {error}.", hint=HINT) from None


def _read_host(name: str, entry: dict[str, Any] | None) -> Host:
    if name == DEPLOYER:
        raise KeyError(f"no host may be called {DEPLOYER!r}")
    return Host.model_validate({**(entry or {}), "name": name})
