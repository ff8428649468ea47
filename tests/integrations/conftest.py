"""Both stores, a desk of tasks in memory, and the fakes of the services."""

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
import sqlalchemy as sa

from devtools_platform.integrations.adapters.sql import SqlInbox, SqlOutbox
from devtools_platform.kit import schema
from fakes.github_server import FakeGitHub
from fakes.linear_server import FakeLinear


@pytest.fixture
def clean(database: sa.Engine) -> sa.Engine:
    with database.begin() as connection:
        for table in (schema.inbox, schema.outbox, schema.remote_objects, schema.task_links, schema.service_tokens):
            connection.execute(table.delete())
        connection.execute(schema.tasks.delete())
    return database


@pytest.fixture
def inbox(clean: sa.Engine) -> SqlInbox:
    return SqlInbox(clean)


@pytest.fixture
def outbox(clean: sa.Engine) -> SqlOutbox:
    return SqlOutbox(clean, "us")


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with FakeGitHub() as fake:
        yield fake


@pytest.fixture
def linear() -> Iterator[FakeLinear]:
    with FakeLinear() as fake:
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=True, timeout=10) as client:
        yield client
