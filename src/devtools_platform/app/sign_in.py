"""A person signs in at, or out of, a server of the catalogue. The gateway takes over what is kept here, by itself."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp.client.auth.utils import is_valid_client_metadata_url

from devtools_platform.app.home import Home
from devtools_platform.config import Settings, read_variables
from devtools_platform.core.errors import BadInput, PortInUse, Unavailable
from devtools_platform.gateway.adapters.sign_ins import SignInFiles
from devtools_platform.gateway.catalog import choose, load_catalog, secret_names
from devtools_platform.gateway.secrecy import Secrets
from devtools_platform.gateway.upstreams.connect import expand
from devtools_platform.gateway.upstreams.link import LinkDown
from devtools_platform.gateway.upstreams.oauth.account import Account, Learn
from devtools_platform.gateway.upstreams.oauth.accounts import Accounts
from devtools_platform.gateway.upstreams.oauth.callback import HOST, PATH, listening, read_answer
from devtools_platform.gateway.upstreams.oauth.login import Login, begin_login
from devtools_platform.gateway.upstreams.oauth.types import Credential
from devtools_platform.gateway.upstreams.types import ServerSpec
from devtools_platform.kit.tls import tls_context

PATIENCE_S = 600.0
Show = Callable[[str], None]
"""Called with the address to open in a browser."""
Paste = Callable[[], Awaitable[str]]
"""Asks for the address the browser ended up at, where it cannot reach us."""


def build_accounts(settings: Settings, home: Home, tls: ssl.SSLContext, learn: Learn) -> Accounts:
    """Raises `BadInput` for a metadata document that cannot be one."""
    url = settings.gateway_client_metadata_url
    if url is not None and not is_valid_client_metadata_url(url):
        raise BadInput(
            f"DEV_TOOLS_GATEWAY_CLIENT_METADATA_URL is {url!r}.", hint="It must be an https URL with a path."
        )
    return Accounts(SignInFiles(home.kept / "sign-ins"), tls, learn, url)


@dataclass(frozen=True)
class SignIns:
    """For the commands of a person."""

    spec: ServerSpec
    account: Account

    @classmethod
    def open(cls, settings: Settings, server: str) -> "SignIns":
        """Raises `BadInput` for a server nobody signs in at."""
        specs = choose(load_catalog(settings.gateway_catalog), [server])
        spec = specs[server]
        if spec.auth is None:
            raise BadInput(
                f"Nobody signs in at {server!r}.", hint="Its entry in the catalogue would have to say `auth: oauth`."
            )
        home = Home.of(settings)
        home.prepare()
        secrets = read_variables(secret_names(specs))
        accounts = build_accounts(settings, home, tls_context(), Secrets(()).learn)
        try:
            return cls(spec, accounts.of(server, spec, lambda text: expand(text, secrets)))
        except LinkDown as error:
            raise BadInput(error.reason) from None

    async def sign_in(
        self, *, scopes: tuple[str, ...], port: int, show: Show, paste: Paste | None = None
    ) -> Credential:
        """Raises `SignInFailed`, `Unavailable`, `PortInUse`."""
        account = self.account
        login = await begin_login(
            account.fetch,
            account.vault,
            account.server,
            account.url,
            account.known,
            redirect_uri=f"http://{HOST}:{port}{PATH}",
            issuer=self.spec.oauth.issuer,
            scopes=self.spec.oauth.scopes,
            more_scopes=scopes,
        )
        answer = await (_pasted(login, show, paste) if paste is not None else _answered(login, show, port))
        made = await login.finish(account.fetch, answer)
        account.vault.save(made)
        return made

    async def sign_out(self) -> list[tuple[Credential, bool]]:
        """What was forgotten, and of each whether its issuer was told so."""
        found = self.account.vault.forget(self.account.server)
        return [(credential, await self.account.revoke(credential)) for credential in found]


async def _answered(login: Login, show: Show, port: int) -> dict[str, str]:
    try:
        async with listening(port, login.is_ours) as answer, asyncio.timeout(PATIENCE_S):
            show(login.authorization_url)
            return dict(await answer)
    except TimeoutError:
        raise Unavailable(
            f"Nobody came back from the browser within {PATIENCE_S / 60:g} minutes.", hint="Begin anew."
        ) from None
    except OSError as error:
        raise PortInUse(f"Port {port} cannot be used: {error.strerror}.", hint="Choose one with --port.") from None


async def _pasted(login: Login, show: Show, paste: Paste) -> dict[str, str]:
    show(login.authorization_url)
    answer = read_answer((await paste()).strip())
    if answer is None:
        raise BadInput("That is not the address the browser ended up at.", hint="It begins with http://127.0.0.1.")
    return dict(answer)
