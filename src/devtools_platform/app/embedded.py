"""The embedded model's file, for commands: they know `app`, not the parts."""

from devtools_platform.agents.adapters.embedded_model import CODER, fetch, find_cached

__all__ = ["CODER", "fetch", "find_cached"]
