"""A real Phoenix server, from an environment of its own: `make e2e-phoenix` runs these tests, `make test` does not."""

import os

from e2e.conftest import endpoint, endpoint_env, shop

collect_ignore_glob = [] if os.environ.get("E2E_PHOENIX_PYTHON") else ["test_*.py"]

__all__ = ["endpoint", "endpoint_env", "shop"]
