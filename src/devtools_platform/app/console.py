"""The console wired: who answers what it asks. And how somebody is let in."""

import getpass
from typing import TYPE_CHECKING, Any

import httpx2
import sqlalchemy as sa

from devtools_platform.agents.carriers import Carriers
from devtools_platform.app.admission import Admission
from devtools_platform.app.client import Refused
from devtools_platform.app.console_data import ConsoleStack, ConsoleTasks
from devtools_platform.app.console_delivery import ConsoleDelivery
from devtools_platform.app.console_desks import (
    ConsoleAudit,
    ConsoleGateway,
    ConsoleKnowledge,
    ConsoleLedger,
    ConsoleSums,
)
from devtools_platform.app.console_sign_in import open_sign_in
from devtools_platform.app.delivery import Delivery
from devtools_platform.app.gateway_client import GatewayRest
from devtools_platform.app.gateway_doors import names
from devtools_platform.app.ledger import build_budgets
from devtools_platform.app.price_table import list_prices
from devtools_platform.app.provider_costs import stored_costs
from devtools_platform.app.remote_context import RemoteContext
from devtools_platform.app.site import Urls
from devtools_platform.app.task_links import TaskLinks
from devtools_platform.config import Settings
from devtools_platform.console.adapters.personal_tokens import SqlPersonalTokens
from devtools_platform.console.addresses import Addresses
from devtools_platform.console.interfaces import Stack
from devtools_platform.core.errors import Unavailable
from devtools_platform.gateway.adapters.audit_log import SqlAudit
from devtools_platform.gateway.types import Policy
from devtools_platform.kit.tls import tls_context
from devtools_platform.observability.adapters.sql import SqlLedger
from devtools_platform.state.parts import StateParts

if TYPE_CHECKING:
    from devtools_platform.context.service import ContextService


def build_stack_view(
    settings: Settings,
    store: sa.Engine,
    parts: StateParts,
    policy: Policy,
    context: "ContextService | RemoteContext",
    carriers: Carriers,
    urls: Urls,
    token: str,
    admission: Admission,
) -> Stack:
    tasks = ConsoleTasks(parts, admission, TaskLinks(settings, store))
    audit = ConsoleAudit(parts.audit)
    sign_in, roles = open_sign_in(settings)
    rest = GatewayRest(urls.of("gateway"), token)
    return Stack(
        tasks=tasks,
        actions=tasks,
        approvals=parts.approvals,
        stack=ConsoleStack(settings, parts, policy, carriers, urls.known),
        gateway=ConsoleGateway(rest, policy, SqlAudit(store), audit),
        knowledge=ConsoleKnowledge(context, audit),
        delivery=ConsoleDelivery(Delivery(settings, _quiet), settings.hosts_file.is_file, audit),
        ledger=ConsoleLedger(
            ConsoleSums(store),
            SqlLedger(store, build_budgets(settings)),
            lambda: list_prices(settings, carriers, stored_costs(store)),
            audit,
        ),
        audit=audit,
        tokens=SqlPersonalTokens(store),
        sign_in=sign_in,
        roles=roles,
    )


def _quiet(part: str, text: str) -> None:
    """The console's own pages tell what a rollout does."""


def addresses_of(settings: Settings) -> Addresses:
    """Under which names the console answers, beside loopback."""
    return Addresses(settings.public_url, [settings.host, *names(settings.console_hosts)])


async def invite(console: str, token: str, name: str | None = None, role: str = "admin") -> dict[str, Any]:
    """A link that signs somebody in once, within a quarter of an hour; by default whoever runs this.

    Raises `Unavailable`, and the console's own error for a name or a role it does not take.
    """
    person = {"name": name or _own_name(), "role": role}
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(verify=tls_context(), trust_env=False) as http:
        try:
            response = await http.post(f"{console}/login-links", headers=headers, json=person)
        except httpx2.HTTPError as error:
            raise Unavailable(f"The console at {console} does not answer: {error}.") from None
    if response.is_error:
        raise Refused(response.json(), response.status_code)
    return response.json()


def _own_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as containers have
        return "owner"
