"""The console in process, with a browser's manners: cookies, HTML, redirects only when followed."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from console.memory import MemoryApprovals, MemoryDelivery, MemoryDesks, MemoryStack, MemoryTasks
from devtools_platform.console.addresses import Addresses
from devtools_platform.console.api import build_api
from devtools_platform.console.interfaces import Stack

TOKEN = "stack-token"
SECRET = "stack-secret"
BASE = "http://127.0.0.1:8080"


@pytest.fixture
def tasks() -> MemoryTasks:
    return MemoryTasks()


@pytest.fixture
def stack() -> MemoryStack:
    return MemoryStack()


@pytest.fixture
def approvals() -> MemoryApprovals:
    return MemoryApprovals()


@pytest.fixture
def desks() -> MemoryDesks:
    return MemoryDesks()


@pytest.fixture
def delivery() -> MemoryDelivery:
    return MemoryDelivery()


@pytest.fixture
def addresses() -> Addresses:
    return Addresses(hosts=["console.example.org"])


@pytest.fixture
def app(
    tasks: MemoryTasks,
    stack: MemoryStack,
    approvals: MemoryApprovals,
    desks: MemoryDesks,
    delivery: MemoryDelivery,
    addresses: Addresses,
) -> FastAPI:
    view = Stack(
        tasks,
        tasks,
        approvals,
        stack,
        gateway=desks,
        knowledge=desks,
        delivery=delivery,
        ledger=desks,
        audit=desks,
        tokens=desks,
    )
    return build_api(view, token=TOKEN, secret=SECRET, addresses=addresses)


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """A browser without a session."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url=BASE, headers={"Accept": "text/html"}) as client:
        yield client


@pytest.fixture
async def browser(stranger: AsyncClient) -> AsyncClient:
    """The same, logged in."""
    await stranger.get(await new_link(stranger))
    return stranger


async def new_link(client: AsyncClient, name: str | None = None, role: str = "admin") -> str:
    person = {"name": name, "role": role} if name else None
    answer = await client.post("/login-links", headers={"Authorization": f"Bearer {TOKEN}"}, json=person)
    return answer.json()["url"]


@pytest.fixture
def console() -> SimpleNamespace:
    """What tests of access need to know."""
    return SimpleNamespace(token=TOKEN, secret=SECRET, base=BASE, new_link=new_link)
