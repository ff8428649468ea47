"""Which servers of others this gateway has: the shipped catalogue, a team's own, and what the settings name."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from devtools_platform.core.errors import BadInput
from devtools_platform.gateway.upstreams.connect import names_in
from devtools_platform.gateway.upstreams.types import NAME, ServerSpec


class Catalog(BaseModel):
    """A catalogue file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: Mapping[str, ServerSpec]


def load_catalog(own: Path | None = None) -> dict[str, ServerSpec]:
    """The shipped catalogue, with the servers of a team's own file over it. Raises `BadInput`."""
    shipped = resources.files("devtools_platform.gateway").joinpath("catalog.yaml").read_text()
    servers = dict(_parse(shipped, "the shipped catalogue").servers)
    if own is not None:
        try:
            text = own.read_text()
        except OSError as error:
            raise BadInput(
                f"The catalogue {str(own)!r} cannot be read: {error.strerror}.", hint="See DEV_TOOLS_GATEWAY_CATALOG."
            ) from None
        servers |= _parse(text, repr(str(own))).servers
    return servers


def choose(servers: Mapping[str, ServerSpec], named: Iterable[str]) -> dict[str, ServerSpec]:
    """The servers that are to be started. Raises `BadInput` for a name nobody has."""
    chosen: dict[str, ServerSpec] = {}
    for name in named:
        if name not in servers:
            near = get_close_matches(name, servers, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise BadInput(f"No server is called {name!r}.{meant}", hint=f"There are {', '.join(sorted(servers))}.")
        chosen[name] = servers[name]
    return chosen


def secret_names(servers: Mapping[str, ServerSpec]) -> set[str]:
    """The variables these servers take secrets from."""
    found: set[str] = set()
    for spec in servers.values():
        ours = (spec.oauth.client_id or "", spec.oauth.client_secret or "")
        found |= names_in(*spec.env.values(), *spec.headers.values(), *ours)
    return found


def _parse(text: str, where: str) -> Catalog:
    try:
        content: Any = yaml.safe_load(text)
        catalog = Catalog.model_validate(content)
        for name in catalog.servers:
            if not re.fullmatch(NAME, name):
                raise BadInput(
                    f"{name!r} in {where} cannot be a server's name.",
                    hint="Lower-case letters, digits and dashes: SERVER_TOOL must come apart in one way.",
                )
    except yaml.YAMLError as error:
        raise BadInput(f"{where} is no YAML: {error}.", hint="Mend the file.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"{where}, {place}: {first['msg']}.", hint="See catalog.yaml in the package for examples."
        ) from None
    return catalog
