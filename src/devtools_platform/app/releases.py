"""Releases and rollouts as commands see them: they know `app`, not the parts."""

from devtools_platform.deploy.host.store import check_chain
from devtools_platform.deploy.service import current_release
from devtools_platform.deploy.switch import SwitchOptions, SwitchOutcome, SwitchPlan
from devtools_platform.deploy.types import Options, Outcome, Plan, Release, Severity

__all__ = [
    "Options",
    "Outcome",
    "Plan",
    "Release",
    "Severity",
    "SwitchOptions",
    "SwitchOutcome",
    "SwitchPlan",
    "check_chain",
    "current_release",
]
