"""What stands at the gateway's doors: the servers of others that the settings name, tokens, trust, audit."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import sqlalchemy as sa

from devtools_platform.app.home import Home
from devtools_platform.config import Settings, program_environment, read_variables
from devtools_platform.gateway.adapters.audit_log import SqlAudit
from devtools_platform.gateway.audit import Audit
from devtools_platform.gateway.catalog import choose, load_catalog, secret_names
from devtools_platform.gateway.hub import Hub
from devtools_platform.gateway.identity import Identity
from devtools_platform.gateway.meaning import Embedder, Meanings
from devtools_platform.gateway.search import SearchMode
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.service import Gateway
from devtools_platform.gateway.trust import ToolLock
from devtools_platform.gateway.upstreams.connect import Connector, SignIns
from devtools_platform.gateway.upstreams.types import ServerSpec
from devtools_platform.gateway.upstreams.upstream import Upstream
from devtools_platform.kit.tls import tls_context


class Doors(TypedDict):
    hub: Hub
    identity: Identity
    hosts: frozenset[str]
    search: SearchMode


def open_doors(
    settings: Settings, home: Home, gateway: Gateway, embedder: Embedder | None, store: sa.Engine, identity: Identity
) -> Doors:
    """Raises `BadInput` for a catalogue, a lock or a name that cannot be used."""
    token, secret = home.secret("token"), home.secret("secret")
    specs = choose(load_catalog(settings.gateway_catalog), names(settings.gateway_servers))
    secrets = read_variables(secret_names(specs))
    secrecy = Secrets([token, secret, *secrets.values()])
    connector = Connector(
        home.logs,
        _with_our_programs(program_environment()),
        secrets,
        None,
        {"data_dir": str(home.path), "python": sys.executable},
        _open_accounts(settings, home, secrecy, specs.values()),
    )
    hub = Hub(
        gateway,
        [Upstream(name, spec, connector) for name, spec in specs.items()],
        lock=ToolLock.load(settings.gateway_lock or home.kept / "mcp.lock"),
        audit=Audit(SqlAudit(store)),
        secrecy=secrecy,
        key=secret,
    )
    hosts = frozenset({*names(settings.gateway_hosts), settings.host})
    search = SearchMode(meanings=Meanings(embedder) if embedder is not None else None)
    return {"hub": hub, "identity": identity, "hosts": hosts, "search": search}


def _open_accounts(settings: Settings, home: Home, secrecy: Secrets, specs: Iterable[ServerSpec]) -> SignIns | None:
    """OAuth's client and its models, 20 MB, only where somebody signs in somewhere."""
    if settings.gateway_client_metadata_url is None and all(spec.auth is None for spec in specs):
        return None
    from devtools_platform.app.sign_in import build_accounts

    return build_accounts(settings, home, tls_context(), secrecy.learn)


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _with_our_programs(environment: dict[str, str]) -> dict[str, str]:
    """Servers installed beside us are found first."""
    beside = str(Path(sys.executable).parent)
    return {**environment, "PATH": f"{beside}:{environment.get('PATH', '/usr/bin:/bin')}"}
