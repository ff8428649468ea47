"""Fresh databases for each module that asks, on both stores: a real PostgreSQL for the whole run, and SQLite.

A test that takes `database` or `database_url` runs on both. One that is about PostgreSQL takes `postgres_database`.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import Engine, make_url, text

from devtools_platform.kit.database import connect, migrate
from devtools_platform.state.adapters.embedded_postgres import EmbeddedPostgres

# A busy machine is no wrong answer: what an example may take is pytest's limit, not 200 ms.
hypothesis.settings.register_profile("dev-tools", deadline=None)
hypothesis.settings.load_profile("dev-tools")


@pytest.fixture(scope="session")
def service_root() -> Iterator[Path]:
    """Stands for /var/lib/dev-tools: pytest's own folders are closed to `nobody`, root's service user."""
    folder = Path(tempfile.mkdtemp(prefix="dev-tools-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory, service_root: Path) -> Iterator[str]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), service_root=service_root)
    url = asyncio.run(server.start(lambda _: None))
    yield url
    asyncio.run(server.stop())


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def store(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def empty_database_url(store: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if store == "sqlite":
        return sqlite_url(tmp_path_factory.mktemp("empty") / "store.db")
    return create_database(request.getfixturevalue("postgres_url"), template="template1")


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> str:
    url = create_database(postgres_url, template="template1")
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    return str(make_url(url).database)


@pytest.fixture(scope="module")
def postgres_database_url(postgres_url: str, migrated_template: str) -> str:
    """Of a migrated database that is this module's alone."""
    return create_database(postgres_url, template=migrated_template)


@pytest.fixture(scope="module")
def postgres_database(postgres_database_url: str) -> Iterator[Engine]:
    engine = connect(postgres_database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def sqlite_database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a migrated file that is this module's alone."""
    url = sqlite_url(tmp_path_factory.mktemp("sqlite") / "store.db")
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="module")
def sqlite_database(sqlite_database_url: str) -> Iterator[Engine]:
    engine = connect(sqlite_database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def database_url(store: str, request: pytest.FixtureRequest) -> str:
    """Of a migrated database that is this module's alone."""
    return request.getfixturevalue(f"{store}_database_url")


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


def sqlite_url(file: Path) -> str:
    return f"sqlite:///{file}"


def create_database(server_url: str, template: str) -> str:
    name = f"test_{secrets.token_hex(4)}"
    engine = connect(server_url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    engine.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


#: Skips that are no failure in CI, by a piece of their reason. Everything else CI must be able to run.
ALLOWED_SKIPS = (
    "the embedded model is not cached",
    "only root",
    "not as root",
    "needs root",
    "official contracts",
    "make eval-bfcl",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes first, or at the end all wait for the last of them."""
    items.sort(key=lambda item: item.path.parent.name not in {"browser", "e2e"})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skips are loud: a suite that skips proves less than one that passes."""
    if skipped := terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"\n!!! {len(skipped)} TESTS WERE SKIPPED, see their reasons above !!!", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skip that is not named as allowed fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None or exitstatus != pytest.ExitCode.OK:
        return
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    if any(not any(allowed in reason for allowed in ALLOWED_SKIPS) for reason in reasons):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
