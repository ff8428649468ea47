"""The analyzers we bring, in the order their findings are told."""

from devtools_platform.gateway.toolsets.analyzers.containers import (
    DEPLOYMENT,
    HADOLINT,
    MARKDOWN,
    SCHEMA,
    SHELLCHECK,
    YAMLLINT,
)
from devtools_platform.gateway.toolsets.analyzers.pipelines import ACTIONLINT, ZIZMOR
from devtools_platform.gateway.toolsets.analyzers.python import BANDIT, RUFF
from devtools_platform.gateway.toolsets.analyzers.secrets import DETECT_SECRETS
from devtools_platform.gateway.toolsets.analyzers.types import Analyzer

ANALYZERS: tuple[Analyzer, ...] = (
    DETECT_SECRETS,
    RUFF,
    BANDIT,
    HADOLINT,
    SHELLCHECK,
    YAMLLINT,
    SCHEMA,
    DEPLOYMENT,
    ACTIONLINT,
    ZIZMOR,
    MARKDOWN,
)
