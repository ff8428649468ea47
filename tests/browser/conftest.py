"""A really running stack with a scripted model, and people with real browsers in front of it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from deploy.fleet import Fleet, make_fleet
from devtools_platform.agents.adapters.scripted import Script
from devtools_platform.app.demo import FILES
from devtools_platform.deploy import signing
from e2e import scenarios
from fakes.oci_registry import FakeRegistry
from fakes.openai_server import FakeOpenAI
from fakes.openid_login import CLIENT, SECRET, LoginService
from stacks import StackProcess, clean_env, make_repo, running_stack

RULES = "rules:\n- {name: commands, kind: tool, tools: [workspace_run_command], min_risk: low}\n"
PRICES = """
prices:
- {model: "*", input_usd: 2, output_usd: 8, source: the contract of May}
"""
ROLES = 'operator: ["group:dev"]\n'
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """For this module and no longer: while it is there, its event loop runs, and no other test can have one."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: `apt-get install chromium`")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A droplet on release 1; release 2 waits in the registry, 3 is signed by somebody else."""
    with FakeRegistry() as registry:
        made = make_fleet(tmp_path_factory.mktemp("fleet"), registry, "web-1")
        made.publish(1)
        made.publish(2)
        made.publish(3, signer=signing.make_key())
        yield made


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet) -> Iterator[StackProcess]:
    """Its agents ask before they run a command; a month has a budget; people sign in at a provider, too."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "rules.yaml").write_text(RULES)
    (folder / "prices.yaml").write_text(PRICES)
    (folder / "roles.yaml").write_text(ROLES)
    with FakeOpenAI(Script.parse(scenarios.RULES)) as endpoint, LoginService() as provider:
        env = clean_env(
            **fleet.settings,
            PATH=f"{fleet.program_folder}:{os.environ['PATH']}",
            DEV_TOOLS_PRICES=str(folder / "prices.yaml"),
            DEV_TOOLS_BUDGET_MONTH_USD="50",
            DEV_TOOLS_CONSOLE_OIDC_ISSUER=provider.url,
            DEV_TOOLS_CONSOLE_OIDC_CLIENT_ID=CLIENT,
            DEV_TOOLS_CONSOLE_OIDC_CLIENT_SECRET=SECRET,
            DEV_TOOLS_CONSOLE_OIDC_ALLOW_PRIVATE="true",
            DEV_TOOLS_CONSOLE_ROLES=str(folder / "roles.yaml"),
            DEV_TOOLS_MODEL_BASE_URL=endpoint.base_url,
            DEV_TOOLS_MODEL_API_KEY=str(endpoint.api_key),
            DEV_TOOLS_MODEL=endpoint.models[0],
            DEV_TOOLS_APPROVAL_RULES=str(folder / "rules.yaml"),
        )
        with running_stack(folder / "data", env) as running:
            yield running


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's repository: one failing test."""
    return make_repo(tmp_path_factory.mktemp("repo") / "shop", FILES)


class People:
    """Signs people in, each in a browser of their own, and watches what their browsers complain about or ask for."""

    def __init__(self, browser: Browser, stack: StackProcess) -> None:
        self.browser = browser
        self.stack = stack
        self.contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.foreign: list[str] = []

    @property
    def console(self) -> str:
        assert self.stack.facts is not None
        return self.stack.facts["urls"]["console"]

    def link(self, name: str, role: str) -> str:
        token = (self.stack.data_dir / "token").read_text()
        headers, person = {"Authorization": f"Bearer {token}"}, {"name": name, "role": role}
        made = httpx2.post(f"{self.console}/login-links", headers=headers, json=person, trust_env=False)
        return made.json()["url"]

    def sign_in(self, name: str = "ann", role: str = "admin", **options: Any) -> Page:
        context = self.browser.new_context(base_url=self.console, **options)
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.goto(self.link(name, role))
        return page

    def _note(self, url: str) -> None:
        if not url.startswith((f"{self.console}/", "data:")):
            self.foreign.append(url)

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def people(chromium: Browser, stack: StackProcess) -> Iterator[People]:
    crowd = People(chromium, stack)
    yield crowd
    crowd.close()
    assert crowd.foreign == [], "no page asks anybody else for anything"
    assert crowd.complaints == [], "no page makes the browser complain"
