"""These tests need root and a Docker engine: `make e2e-deploy` runs them, `make test` does not."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e_deploy.fleet import Fleet, open_fleet, why_not
from e2e_deploy.product import Prepared, prepare
from e2e_deploy.shop import Shop, import_base, open_shop

collect_ignore_glob = [] if os.environ.get("E2E_DEPLOY") else ["test_*.py"]


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    if (reason := why_not()) is not None:
        pytest.fail(f"The engine cannot run here: {reason}")
    # A time limit from outside must still leave no engine and no namespace behind.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("told to end", 143))
    folder = Path(tempfile.mkdtemp(prefix="dt-e2e-"))
    try:
        with open_fleet(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def prepared(fleet: Fleet) -> Iterator[Prepared]:
    import_base(fleet)
    with prepare(fleet) as started:
        yield started


@pytest.fixture(scope="session")
def shop(fleet: Fleet, prepared: Prepared) -> Iterator[Shop]:
    with open_shop(fleet) as opened:
        yield opened
