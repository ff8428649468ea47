"""GitHub and Linear wired to this stack, as its settings say."""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2
import sqlalchemy as sa
from pydantic import SecretStr

from devtools_platform.app.admission import Admission
from devtools_platform.app.client import Refused
from devtools_platform.app.context_client import ContextClient
from devtools_platform.app.home import Home
from devtools_platform.app.integration_tasks import StackTasks
from devtools_platform.app.linear_sign_in import LinearSignIn
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput, NotFound
from devtools_platform.integrations.adapters.github import (
    TIMEOUT_S,
    AppIdentity,
    GitHub,
    GitHubCourier,
    GitHubHeads,
    Identity,
    PersonalToken,
)
from devtools_platform.integrations.adapters.linear import ApiKey, Credential, Linear, LinearCourier, OAuthTokens
from devtools_platform.integrations.adapters.sql import SqlInbox, SqlOutbox, SqlTokens
from devtools_platform.integrations.api import Receiver
from devtools_platform.integrations.conversation import Conversation
from devtools_platform.integrations.github import GitHubEvents, GitHubVoice
from devtools_platform.integrations.inbox import Handler, Inbox, Intake
from devtools_platform.integrations.interfaces import Courier
from devtools_platform.integrations.linear import LinearEvents, LinearVoice
from devtools_platform.integrations.narration import Narrator, Voice
from devtools_platform.integrations.outbox import Outbox
from devtools_platform.integrations.service import Integrations
from devtools_platform.integrations.types import Json
from devtools_platform.kit.git import fetch_ref, push_branch
from devtools_platform.kit.tls import tls_context
from devtools_platform.state.parts import StateParts

log = logging.getLogger(__name__)

Progress = Callable[[str, str], None]


async def run_integrations(
    settings: Settings,
    home: Home,
    store: sa.Engine,
    parts: StateParts,
    admission: Admission,
    cleanup: AsyncExitStack,
    url: str | None,
    context: ContextClient,
    progress: Progress,
) -> Receiver:
    """Start working; returns the app that takes webhooks. Raises `BadInput` for settings that do not fit together."""
    # Redirects are followed for job logs; a redirect to another host does not get our token.
    http = httpx2.AsyncClient(verify=tls_context(), timeout=TIMEOUT_S, trust_env=True, follow_redirects=True)
    cleanup.push_async_callback(http.aclose)
    outbox_store = SqlOutbox(store, hashlib.sha256(str(home.path.resolve()).encode()).hexdigest()[:16])
    tasks = StackTasks(parts, admission, store, settings.integrations_ask_before)
    plan = _Wiring(settings, home, store, http, outbox_store, tasks, context, progress)
    handlers, voices, couriers, sign_in = plan.build()
    inbox_store = SqlInbox(store)
    inbox, outbox = Inbox(inbox_store, handlers), Outbox(outbox_store, couriers)
    narrator = Narrator(tasks, outbox_store, outbox_store, voices, outbox.wake)
    work = Integrations(inbox, outbox, narrator, (inbox_store.forget, outbox_store.forget))
    cleanup.push_async_callback(_stop, asyncio.create_task(work.run()))
    progress("webhooks", f"{url}/webhooks/ for {' and '.join(handlers)}")
    return Receiver(
        Intake(inbox_store),
        inbox.wake,
        github_secrets=_secrets(settings.github_webhook_secret),
        linear_secrets=_secrets(settings.linear_webhook_secret),
        on_linear_sign_in=sign_in.finish if sign_in else None,
    )


@dataclass
class _Wiring:
    settings: Settings
    home: Home
    store: sa.Engine
    http: httpx2.AsyncClient
    outbox: SqlOutbox
    tasks: StackTasks
    context: ContextClient
    progress: Progress

    def build(self) -> tuple[dict[str, Handler], dict[str, Voice], dict[str, Courier], LinearSignIn | None]:
        handlers: dict[str, Handler] = {}
        voices: dict[str, Voice] = {}
        couriers: dict[str, Courier] = {}
        sign_in: LinearSignIn | None = None
        identity = choose_identity(self.settings, self.http)
        github: GitHub | None = None
        if identity is not None:
            if not identity.is_app:
                self.progress("github", "with a token, not an App: commit statuses instead of check runs")
            github = GitHub(self.settings.github_api_url, identity, self.http)
            couriers["github"] = GitHubCourier(github, self.outbox, push_branch, self.settings.github_git_url)
        if self.settings.github_webhook_secret is not None:
            _require(identity is not None, "DEV_TOOLS_GITHUB_APP_ID or DEV_TOOLS_GITHUB_TOKEN")
            voices["github"] = voice = GitHubVoice(self.settings.github_mention, self._task_url())
            heads = GitHubHeads(github, fetch_ref, self.settings.github_git_url) if github else None
            talk = Conversation(self.tasks, self.outbox, self.outbox, voice, heads)
            paths = {name: str(path) for name, path in self.settings.github_repositories.items()}
            events = GitHubEvents(talk, self.tasks, self.outbox, paths, self.settings.github_mention, self.pushed)
            handlers["github"] = events.handle
        if self.settings.linear_webhook_secret is not None:
            voices["linear"] = spoken = LinearVoice(self._task_url())
            credential, sign_in = self._linear_credential()
            linear = Linear(self.settings.linear_api_url, credential, self.http)
            couriers["linear"] = LinearCourier(linear, self.outbox)
            talk = Conversation(self.tasks, self.outbox, self.outbox, spoken)
            teams = find_teams(self.settings, publishes=identity is not None)
            handlers["linear"] = LinearEvents(talk, teams).handle
        return handlers, voices, couriers, sign_in

    async def pushed(self, urls: Sequence[str]) -> bool:
        """See `GitHubEvents.pushed`."""
        try:
            await self.context.send("POST", "/remotes/refresh", json={"urls": urls})
        except Refused as error:
            if error.to_dict()["code"] == NotFound.code:
                return False
            raise
        return True

    def _linear_credential(self) -> tuple[Credential, LinearSignIn | None]:
        settings = self.settings
        if settings.linear_api_key is not None:
            self.progress("linear", "with a personal key, not as an agent: it acts in that person's name")
            return ApiKey(settings.linear_api_key.get_secret_value()), None
        id_, secret = settings.linear_client_id, settings.linear_client_secret
        if id_ is None or secret is None:
            raise _missing(
                "DEV_TOOLS_LINEAR_CLIENT_ID with DEV_TOOLS_LINEAR_CLIENT_SECRET, or DEV_TOOLS_LINEAR_API_KEY"
            )
        stack_secret = self.home.secret("secret")
        tokens = OAuthTokens(
            id_, secret.get_secret_value(), settings.linear_api_url, self.http, SqlTokens(self.store), stack_secret
        )
        return tokens, LinearSignIn(tokens.exchange, stack_secret, settings.public_webhook_url)

    def _task_url(self) -> str | None:
        public = self.settings.public_url
        return f"{public.rstrip('/')}/tasks/{{id}}" if public else None


def choose_identity(settings: Settings, http: httpx2.AsyncClient) -> Identity | None:
    """How we are known at GitHub; None when nothing is set. Raises `BadInput` for half an App."""
    if settings.github_app_id is not None:
        if settings.github_private_key_file is None:
            raise _missing("DEV_TOOLS_GITHUB_PRIVATE_KEY_FILE")
        try:
            key = settings.github_private_key_file.read_text()
        except OSError as error:
            raise BadInput(
                f"The App's key {str(settings.github_private_key_file)!r} cannot be read: {error.strerror}.",
                hint="Set DEV_TOOLS_GITHUB_PRIVATE_KEY_FILE to the PEM file GitHub made.",
            ) from None
        return AppIdentity(settings.github_app_id, key, settings.github_api_url, http)
    if settings.github_token is not None:
        return PersonalToken(settings.github_token.get_secret_value())
    return None


def find_teams(settings: Settings, *, publishes: bool) -> dict[str, tuple[str, Json]]:
    """Where each Linear team's work is done, and where its pull requests go. Raises `BadInput` for a lost name."""
    teams: dict[str, tuple[str, Json]] = {}
    for key, where in settings.linear_teams.items():
        if Path(where).is_absolute():
            teams[key] = (where, {})
            continue
        path = settings.github_repositories.get(where)
        if path is None:
            raise BadInput(
                f"Linear's team {key!r} works on {where!r}, which is neither a path nor a repository that is set.",
                hint="Add it to DEV_TOOLS_GITHUB_REPOSITORIES, or give an absolute path.",
            )
        owner, _, repo = where.partition("/")
        teams[key] = (str(path), {"owner": owner, "repo": repo} if publishes else {})
    return teams


def _secrets(given: SecretStr | None) -> tuple[str, ...]:
    if given is None:
        return ()
    return tuple(secret.strip() for secret in given.get_secret_value().split(",") if secret.strip())


def _require(is_there: bool, names: str) -> None:  # noqa: FBT001 - a condition, not a switch
    if not is_there:
        raise _missing(names)


def _missing(names: str) -> BadInput:
    return BadInput(f"Webhooks are to come in, and {names} is not set.", hint="See docs/how-to/ for GitHub and Linear.")


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
