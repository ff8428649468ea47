"""A droplet without Docker: the real host program in a process of its own, over a `docker` that keeps its state."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.droplet import Droplet, make_droplet
from fakes.oci_registry import FakeRegistry


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def droplets(tmp_path: Path, registry: FakeRegistry) -> dict[str, Droplet]:
    return {name: make_droplet(tmp_path / name, registry) for name in ("web-1", "web-2")}
