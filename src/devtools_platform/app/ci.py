"""CI as tools, wired: GitHub as the settings know it, for the repositories they name."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from devtools_platform.app.integrations import choose_identity
from devtools_platform.config import Settings
from devtools_platform.core.errors import BadInput
from devtools_platform.core.tasks import TaskRequest
from devtools_platform.core.tools import Caller
from devtools_platform.integrations.adapters.github import TIMEOUT_S, GitHub
from devtools_platform.integrations.adapters.github_actions import GitHubActions
from devtools_platform.integrations.tools import CiTools
from devtools_platform.integrations.types import Json
from devtools_platform.kit.tls import tls_context

GetRequest = Callable[[str], Awaitable[TaskRequest]]


def ci_tools(settings: Settings, get_request: GetRequest) -> tuple[list[CiTools], httpx2.AsyncClient]:
    """The tool server `ci`, and the client it speaks through, which is the caller's to close.

    No server where GitHub is not set up. Raises `BadInput` for half an App.
    """
    # Redirects are followed for job logs; a redirect to another host does not get our token.
    http = httpx2.AsyncClient(verify=tls_context(), timeout=TIMEOUT_S, trust_env=True, follow_redirects=True)
    identity = choose_identity(settings, http)
    if identity is None:
        return [], http
    names = {str(path.resolve()): name for name, path in settings.github_repositories.items()}

    async def find_target(caller: Caller) -> Json:
        repo = (await get_request(caller.task_id)).repo
        name = names.get(str(Path(repo).resolve()))  # noqa: ASYNC240 - one look at a local folder
        if name is None:
            raise BadInput(
                "This task's repository is none of those at GitHub that the stack serves.",
                hint="Name it in DEV_TOOLS_GITHUB_REPOSITORIES.",
            )
        owner, _, short = name.partition("/")
        return {"owner": owner, "repo": short}

    return [CiTools(GitHubActions(GitHub(settings.github_api_url, identity, http)), find_target)], http
