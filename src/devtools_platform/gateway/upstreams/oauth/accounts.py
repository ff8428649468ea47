"""The sign-ins of one gateway, or of one command: an account for each server that wants one."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from devtools_platform.gateway.upstreams.fetch import Fetch
from devtools_platform.gateway.upstreams.oauth.account import Account, Learn, SignedHeaders
from devtools_platform.gateway.upstreams.oauth.clients import KnownClient
from devtools_platform.gateway.upstreams.oauth.types import Vault
from devtools_platform.gateway.upstreams.types import ServerSpec


@dataclass
class Accounts:
    vault: Vault
    tls: ssl.SSLContext
    learn: Learn
    document_url: str | None = None
    _by_name: dict[str, Account] = field(default_factory=dict[str, Account])

    def of(self, name: str, spec: ServerSpec, expand: Callable[[str], str]) -> Account:
        """The same object every time. Raises what `expand` raises for a `${NAME}` that is not set."""
        if name not in self._by_name:
            known = KnownClient(
                expand(spec.oauth.client_id) if spec.oauth.client_id else None,
                expand(spec.oauth.client_secret) if spec.oauth.client_secret else None,
                self.document_url,
            )
            fetch = Fetch(self.tls, spec.allow_private)
            url = expand(spec.url or "")
            self._by_name[name] = Account(name, url, known, fetch, self.vault, self.learn)
        return self._by_name[name]

    async def headers(
        self,
        name: str,
        spec: ServerSpec,
        fixed: Mapping[str, str],
        expand: Callable[[str], str],
        lose: Callable[[str], None],
    ) -> SignedHeaders:
        """See `connect.SignIns`."""
        headers = SignedHeaders(fixed, self.of(name, spec, expand), lose)
        await headers.open()
        return headers
