"""Which release runs, for commands: they know `app`, not the parts."""

from devtools_platform.deploy.service import current_release
from devtools_platform.deploy.types import Release

__all__ = ["Release", "current_release"]
