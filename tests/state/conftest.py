import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import create_database
from devtools_platform.state.adapters.dbos.control import DbosControl
from devtools_platform.state.adapters.dbos.engine import AgentLimits, DbosEngine


async def never(_id: str, _argument: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("nobody listens on the queue of this workflow")


@pytest.fixture(scope="module")
def control(database: sa.Engine, database_url: str) -> Iterator[DbosControl]:
    """A real engine's control; what is queued stays queued, since no worker listens."""
    made = DbosControl(database)
    engine = DbosEngine(database_url, made, worker_id="test", limits=AgentLimits(1), queues=())
    engine.register("task", never)
    asyncio.run(engine.launch())
    yield made
    asyncio.run(engine.close())


@pytest.fixture
def fresh_postgres_url(postgres_url: str) -> str:
    """Of an empty database that is this test's alone."""
    return create_database(postgres_url, template="template1")
