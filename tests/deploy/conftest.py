"""A droplet without Docker: the real host program in a process of its own, over a `docker` that keeps its state."""

from collections.abc import Iterator

import pytest

from deploy.droplet import Droplet, make_droplet
from fakes.oci_registry import FakeRegistry


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def droplets(tmp_path: object, registry: FakeRegistry) -> Iterator[dict[str, Droplet]]:
    from pathlib import Path

    yield {name: make_droplet(Path(str(tmp_path)) / name, registry) for name in ("web-1", "web-2")}
